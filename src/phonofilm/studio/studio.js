// What Python cannot do: draw and steer a film's sound, take files in, scroll.
window.studio = {
  heard: new Map(),

  // --- the stage: a waveform under each film, with a place that can be clicked, dragged, and moved by keys ---
  stage(element) {
    const look = () => element.querySelectorAll("video[data-film]").forEach((video) => this.wave(video));
    new MutationObserver(look).observe(element, { childList: true, subtree: true, attributes: true, attributeFilter: ["src"] });
    const canvas = (e) => e.target.closest && e.target.closest("canvas.wave");
    const seek = (c, e) => {
      const video = c.parentElement.querySelector("video"), box = c.getBoundingClientRect();
      if (video.duration) video.currentTime = Math.min(0.999, Math.max(0, (e.clientX - box.left) / box.width)) * video.duration;
    };
    element.addEventListener("pointerdown", (e) => canvas(e) && (canvas(e).setPointerCapture(e.pointerId), seek(canvas(e), e)));
    element.addEventListener("pointermove", (e) => canvas(e) && e.buttons && seek(canvas(e), e));
    element.addEventListener("keydown", (e) => {
      const video = canvas(e) && canvas(e).parentElement.querySelector("video");
      const step = { ArrowRight: 0.1, ArrowLeft: -0.1, Home: -1e9, End: 1e9 }[e.key];
      if (!video || !video.duration || !(step || e.key === " ")) return;
      e.preventDefault();
      if (step) video.currentTime = Math.min(video.duration - 0.01, Math.max(0, video.currentTime + step));
      else video.paused ? video.play() : video.pause();
    });
    look();
  },

  async wave(video) {
    const canvas = video.parentElement.querySelector("canvas.wave"), source = video.getAttribute("src");
    if (!canvas || canvas.film === source) return;
    canvas.film = source;
    if (!this.heard.has(source)) this.heard.set(source, this.peaks(source));
    const peaks = await this.heard.get(source);
    if (canvas.film !== source) return;
    canvas.hidden = !peaks;
    const draw = () => {
      if (canvas.film !== source || !canvas.isConnected || !peaks) return;
      const pen = canvas.getContext("2d"), { width, height } = canvas, at = video.duration ? video.currentTime / video.duration : 0;
      pen.clearRect(0, 0, width, height);
      peaks.forEach((peak, k) => {
        pen.fillStyle = k / peaks.length < at ? "#f0b25c" : "#7a6a4d";
        const tall = Math.max(2, peak * (height - 12));
        pen.fillRect((k * width) / peaks.length, (height - tall) / 2, width / peaks.length - 2, tall);
      });
      pen.fillStyle = "#fff";
      pen.fillRect(at * width - 1, 0, 2, height);
      const now = video.currentTime.toFixed(1), all = (video.duration || 0).toFixed(1);
      canvas.ariaValueMin = 0; canvas.ariaValueMax = all; canvas.ariaValueNow = now; canvas.ariaValueText = `${now} of ${all} s`;
      if (!video.paused) requestAnimationFrame(draw);
    };
    for (const event of ["play", "seeked", "timeupdate", "loadedmetadata"]) video.addEventListener(event, draw);
    draw();
  },

  async peaks(source, count = 240) {
    try {
      const bytes = await (await fetch(source)).arrayBuffer();
      const sound = (await new OfflineAudioContext(1, 1, 16000).decodeAudioData(bytes)).getChannelData(0);
      const step = sound.length / count, found = [];
      for (let k = 0; k < count; k++) found.push(sound.subarray(k * step, (k + 1) * step).reduce((m, x) => Math.max(m, Math.abs(x)), 0));
      const most = Math.max(...found, 0.01);
      return found.map((peak) => Math.sqrt(peak / most));
    } catch { return null; } // a film without sound
  },

  // --- media that are given: sent at once, known by their digest ---
  media(element, props, watch) {
    const value = () => JSON.parse(props.value || "{}"), error = element.querySelector("[role=alert]");
    const use = element.querySelector(".use"), choice = use.querySelector("select");
    const set = (change) => { props.value = JSON.stringify({ ...value(), use: choice.value, ...change }); };
    choice.addEventListener("change", () => set({}));
    element.querySelectorAll(".tile").forEach((tile) => {
      const place = tile.dataset.place, input = tile.querySelector("input"), label = tile.querySelector("label");
      const text = tile.querySelector("span"), name = text.textContent, remove = tile.querySelector("button");
      const clear = () => {
        input.value = ""; text.textContent = name; label.style.backgroundImage = ""; tile.classList.remove("full"); remove.hidden = true;
        if (place === "media") use.hidden = true;
        set({ [place]: undefined });
      };
      const take = async (file) => {
        if (!file) return;
        error.textContent = ""; text.textContent = "…";
        try {
          const answer = await fetch(`/studio/media?place=${place}`, { method: "POST", body: file });
          const told = await answer.json();
          if (!answer.ok) throw new Error(told.error.message);
          text.textContent = file.name; tile.classList.add("full"); remove.hidden = false;
          if (told.kind === "image") label.style.backgroundImage = `url("${URL.createObjectURL(file)}")`;
          if (place === "media") { use.hidden = told.kind === "audio"; choice.selectedIndex = told.kind === "audio" ? 0 : Math.min(1, choice.length - 1); }
          set({ [place]: told.digest });
        } catch (problem) { clear(); error.textContent = problem.message; }
      };
      input.addEventListener("change", () => take(input.files[0]));
      remove.addEventListener("click", clear);
      for (const event of ["dragover", "dragleave", "drop"]) tile.addEventListener(event, (e) => {
        e.preventDefault(); tile.classList.toggle("over", event === "dragover");
        if (event === "drop") take(e.dataTransfer.files[0]);
      });
    });
  },

  // one stop of the Tab key for all examples; arrows move between them
  chips(element) {
    element.addEventListener("keydown", (e) => {
      const next = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[e.key];
      if (next && e.target[next]) e.target[next].focus();
    });
  },

  reveal() {
    const stage = document.querySelector("#stage");
    if (stage.getBoundingClientRect().top > innerHeight / 2) stage.scrollIntoView({ behavior: "smooth" });
  },
};
