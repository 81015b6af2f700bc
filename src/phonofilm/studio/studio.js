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
    const say = (problem) => { error.textContent = problem ? problem.message : ""; };
    const send = async (place, file) => {
      const answer = await fetch(`/studio/media?place=${place}`, { method: "POST", body: file });
      const told = await answer.json();
      if (!answer.ok) throw new Error(told.error.message);
      return told;
    };
    const easel = this.easel(element.querySelector(".paint"), send, say, () => set({}));
    const set = (change) => {
      const mask = easel.offer(!use.hidden && choice.value === "its picture");
      props.value = JSON.stringify({ ...value(), use: choice.value, ...change, mask });
    };
    choice.addEventListener("change", () => set({}));
    element.querySelectorAll(".tile").forEach((tile) => {
      const place = tile.dataset.place, input = tile.querySelector("input"), label = tile.querySelector("label");
      const text = tile.querySelector("span"), name = text.textContent, remove = tile.querySelector("button");
      const clear = () => {
        input.value = ""; text.textContent = name; label.style.backgroundImage = ""; tile.classList.remove("full"); remove.hidden = true;
        if (place === "media") { use.hidden = true; easel.begin(null); }
        set({ [place]: undefined });
      };
      const take = async (file) => {
        if (!file) return;
        say(null); text.textContent = "…";
        try {
          const told = await send(place, file);
          text.textContent = file.name; tile.classList.add("full"); remove.hidden = false;
          if (told.kind === "image") label.style.backgroundImage = `url("${URL.createObjectURL(file)}")`;
          if (place === "media") { easel.begin(file); use.hidden = told.kind === "audio"; choice.selectedIndex = told.kind === "audio" ? 0 : Math.min(1, choice.length - 1); }
          set({ [place]: told.digest });
        } catch (problem) { clear(); say(problem); }
      };
      input.addEventListener("change", () => take(input.files[0]));
      remove.addEventListener("click", clear);
      for (const event of ["dragover", "dragleave", "drop"]) tile.addEventListener(event, (e) => {
        e.preventDefault(); tile.classList.toggle("over", event === "dragover");
        if (event === "drop") take(e.dataTransfer.files[0]);
      });
    });
  },

  // --- the part of a clip that is made anew: painted on its first frame, kept as a picture like all that is given ---
  easel(element, send, say, changed) {
    if (!element) return { begin() {}, offer() {} };
    const dialog = element.querySelector("dialog"), [frame, board] = dialog.querySelectorAll("canvas"), ring = dialog.querySelector("i");
    const brush = dialog.querySelector("input"), now = dialog.querySelector("[role=status]"), state = element.querySelector("[role=status]");
    const button = (name) => element.querySelector(`[data-do=${name}]`), pen = board.getContext("2d", { willReadFrequently: true });
    let clip = null, ready = null, digest, before = null, at = [0, 0];

    const share = () => {
      const pixels = pen.getImageData(0, 0, board.width, board.height).data;
      let count = 0;
      for (let k = 3; k < pixels.length; k += 4) count += pixels[k] >= 128;
      return (100 * count) / (board.width * board.height);
    };
    const percent = (x) => `${x && x < 1 ? "less than 1" : Math.round(x)} %`;
    const tell = () => { now.textContent = `Brush at ${percent((100 * at[0]) / board.width)} from the left, ${percent((100 * at[1]) / board.height)} from the top. Painted: ${percent(share())}`; };
    const place = () => {
      const scale = board.clientWidth / board.width, wide = brush.value * scale;
      Object.assign(ring.style, { width: `${wide}px`, height: `${wide}px`, left: `${board.offsetLeft + at[0] * scale - wide / 2}px`, top: `${board.offsetTop + at[1] * scale - wide / 2}px` });
    };
    const stroke = (from, to) => {
      pen.globalCompositeOperation = button("erase").ariaPressed === "true" ? "destination-out" : "source-over";
      Object.assign(pen, { lineWidth: brush.value, lineCap: "round", strokeStyle: "#f0b25c" });
      pen.beginPath(); pen.moveTo(...from); pen.lineTo(to[0] + 0.01, to[1]); pen.stroke();
    };
    const follow = (e) => {
      const box = board.getBoundingClientRect();
      at = [((e.clientX - box.left) * board.width) / box.width, ((e.clientY - box.top) * board.height) / box.height];
      place();
    };
    board.addEventListener("pointerdown", (e) => { board.setPointerCapture(e.pointerId); follow(e); stroke(at, at); });
    board.addEventListener("pointermove", (e) => { const from = at; follow(e); if (e.buttons) stroke(from, at); });
    board.addEventListener("pointerup", tell);
    board.addEventListener("keydown", (e) => {
      const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[e.key], far = e.shiftKey ? 8 : 32;
      if (!step && e.key !== " " && e.key !== "Enter") return;
      e.preventDefault();
      if (step) at = [Math.min(board.width, Math.max(0, at[0] + far * step[0])), Math.min(board.height, Math.max(0, at[1] + far * step[1]))];
      else stroke(at, at);
      place(); tell();
    });
    brush.addEventListener("input", place);

    const show = async () => {
      if (!ready) {
        const image = await this.firstFrame(clip), scale = 512 / Math.max(image.width, image.height);
        for (const canvas of [frame, board]) { canvas.width = Math.max(1, Math.round(image.width * scale)); canvas.height = Math.max(1, Math.round(image.height * scale)); }
        frame.getContext("2d").drawImage(image, 0, 0, frame.width, frame.height);
        ready = true; at = [board.width / 2, board.height / 2];
      }
      before = pen.getImageData(0, 0, board.width, board.height);
      dialog.showModal(); place(); tell();
    };
    const use = async () => {
      const part = share(), mine = clip;
      if (part) {
        const told = await send("mask", await new Promise((done) => board.toBlob(done, "image/png")));
        if (mine !== clip) return;
        digest = told.digest;
      } else digest = undefined;
      state.textContent = part ? `${percent(part)} of the picture painted` : "All of the picture stays";
      before = null; dialog.close(); changed();
    };
    const failing = (act) => async () => { say(null); try { await act(); } catch (problem) { before = null; dialog.close(); say(problem); } };
    button("open").addEventListener("click", failing(show));
    button("use").addEventListener("click", failing(use));
    button("cancel").addEventListener("click", () => dialog.close());
    button("clear").addEventListener("click", () => { pen.clearRect(0, 0, board.width, board.height); tell(); });
    button("erase").addEventListener("click", (e) => { e.target.ariaPressed = e.target.ariaPressed !== "true"; });
    dialog.addEventListener("close", () => before && pen.putImageData(before, 0, 0));
    return {
      begin(file) { clip = file; ready = digest = undefined; state.textContent = "All of the picture stays"; },
      offer(there) { element.hidden = !there; return there ? digest : undefined; },
    };
  },

  async firstFrame(file) {
    const url = URL.createObjectURL(file), video = document.createElement("video");
    try {
      Object.assign(video, { muted: true, playsInline: true, preload: "auto", src: url });
      await new Promise((good, bad) => {
        video.addEventListener("loadeddata", good); video.addEventListener("error", bad); setTimeout(bad, 60000); // a busy machine
        video.load();
      });
      return await createImageBitmap(video);
    } catch {
      try { return await createImageBitmap(file); } // a GIF
      catch { throw new Error("This browser cannot show the clip, so that nothing can be painted on it"); }
    } finally { URL.revokeObjectURL(url); }
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
