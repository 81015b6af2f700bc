"""Tuning of open models: the pipeline's own conventions, a loss that falls, an exact resume, a cache that is used."""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_open import shelf

from phonofilm import checkpoint as checkpoints
from phonofilm import media
from phonofilm.cli import main
from phonofilm.clip import Audio, Clip
from phonofilm.engines.open import OpenEngine
from phonofilm.engines.open.source import find
from phonofilm.errors import CheckpointError, InputError
from phonofilm.request import Adapter, Request
from phonofilm.train import tune as tuning
from phonofilm.train.tune import CURVE, LORA, STATE, Tuned, Tuning, tune
from phonofilm.train.tuners import FAINT, Tuner, level, log_mel, tuner

pytestmark = [  # what the libraries say of each other
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
Checkpoint = Callable[[str], Path]
SIZES = {"wan": ("32x32", 5 / 16), "wan2.2": ("32x32", 5 / 16), "ltx2": ("64x64", 9 / 24)}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Tiny checkpoints whose latents have means and spreads, as those of published ones."""
    return shelf(tmp_path_factory.mktemp, lambda key, folder: spread(folder) if key == "ltx2" else None)


def spread(folder: Path) -> None:
    from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video

    draw = torch.Generator().manual_seed(1)
    for name, cls in (("vae", AutoencoderKLLTX2Video), ("audio_vae", AutoencoderKLLTX2Audio)):
        part = cls.from_pretrained(str(folder / name))
        part.latents_mean.copy_(torch.rand(part.latents_mean.shape, generator=draw))
        part.latents_std.copy_(0.5 + torch.rand(part.latents_std.shape, generator=draw))
        part.save_pretrained(str(folder / name))


def film(k: int, frames: int = 12, fps: float = 24.0, sound: bool = True) -> Clip:
    draw = np.random.default_rng(k)
    picture = np.broadcast_to(draw.integers(0, 255, (1, 64, 64, 3), np.uint8), (frames, 64, 64, 3))
    tone = 0.3 * np.sin(np.arange(round(frames / fps * 16_000)) / (4 + k)).astype(np.float32)[None]
    return Clip(np.ascontiguousarray(picture), fps, Audio(tone, 16_000) if sound else None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips, one of them silent, and one file that is none."""
    folder = tmp_path_factory.mktemp("clips")
    for k in range(8):
        media.write(film(k, sound=k != 3), folder / f"{k}.mp4")
        (folder / f"{k}.txt").write_text(f"clip number {k}")
    (folder / "broken.mp4").write_bytes((folder / "0.mp4").read_bytes()[:200])
    (folder / "broken.txt").write_text("nothing")
    return folder


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("caches")


def settings(key: str, **options: Any) -> Tuning:
    size, seconds = SIZES[key]
    return Tuning(**{"size": size, "seconds": seconds, "rate": 1e-2, "steps": 24, "check_steps": 12, **options})


@pytest.fixture(scope="module")
def tuned(
    checkpoint: Checkpoint, data: Path, caches: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Tuned, Path]]:
    """What came of tuning a tiny checkpoint on the eight clips, and the folder; made once."""
    made: dict[str, tuple[Tuned, Path]] = {}

    def make(key: str) -> tuple[Tuned, Path]:
        if key not in made:
            out = tmp_path_factory.mktemp("tuned")
            made[key] = run(checkpoint(key), data, out, settings(key), caches / key), out
        return made[key]

    return make


def run(folder: Path, data: Path, out: Path, config: Tuning, cache: Path | None = None) -> Tuned:
    return tune(str(folder), data, out, config, cache=cache, device="cpu", trusted=True, progress=False)


def opened(folder: Path, dtype: torch.dtype = torch.float32) -> Tuner:
    made = tuner(find(str(folder)), CPU, dtype)
    made.open_encoders()
    made.open_transformer(4, 0)
    return made


# --- conventions ------------------------------------------------------------------------------------------------------


def listen(model: Any, answer: Callable[[dict[str, Any]], tuple[torch.Tensor, ...]]) -> list[dict[str, Any]]:
    """Have a transformer answer so; returns the arguments of its calls, as they come."""
    calls: list[dict[str, Any]] = []

    def forward(**arguments: Any) -> tuple[torch.Tensor, ...]:
        calls.append(arguments)
        return answer(arguments)

    model.forward = forward
    return calls


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert ours[name].dtype == value.dtype and torch.equal(ours[name], value), name
        else:
            assert ours[name] == value, name


def loss_of(made: Tuner, sample: tuning.Sample, sigma: float) -> float:
    """The loss of whatever the transformer answers."""
    run: Any = SimpleNamespace(tuner=made, config=Tuning())
    return float(tuning._Run._loss(run, sample, sigma, torch.Generator().manual_seed(1))[0])


def test_ltx2_learns_what_its_pipeline_asks_and_true_answers_give_the_film_back(checkpoint: Checkpoint) -> None:
    """Both transformers are replaced by the true velocity n − x = (x_σ − x) / σ, and listened to."""
    from diffusers import LTX2Pipeline

    made, caption, sigma = opened(checkpoint("ltx2")), "a fox runs over snow", 0.7
    clip = film(1, frames=9)
    sample = made.encode(clip, caption)
    pipe = LTX2Pipeline.from_pretrained(str(checkpoint("ltx2")))
    x, a = pipe._pack_latents(sample.latents["video"]), pipe._pack_audio_latents(sample.latents["audio"])

    def truth(call: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        s = float(call["timestep"]) / 1000
        return (call["hidden_states"] - x) / s, (call["audio_hidden_states"] - a) / s

    theirs, ours = listen(pipe.transformer, truth), listen(made.transformer, truth)
    pixels = torch.from_numpy(clip.frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
    seen = pipe.vae.encode(pixels).latent_dist.mode().detach()
    heard = pipe._denormalize_audio_latents(a, pipe.audio_vae.latents_mean, pipe.audio_vae.latents_std)
    heard = pipe._unpack_audio_latents(heard, sample.latents["audio"].shape[2], 4)
    out = pipe(
        prompt=caption, width=64, height=64, num_frames=9, frame_rate=24.0, sigmas=[sigma], num_inference_steps=1,
        latents=seen, audio_latents=heard, noise_scale=sigma, generator=torch.Generator().manual_seed(0),
        guidance_scale=1.0, audio_guidance_scale=1.0, stg_scale=0.0, audio_stg_scale=0.0, modality_scale=1.0,
        audio_modality_scale=1.0, output_type="latent",
    )  # fmt: skip
    assert torch.allclose(out.frames, seen, atol=1e-4) and torch.allclose(out.audio, heard, atol=1e-4)
    t, h, w = sample.latents["video"].shape[2:]
    noisy = {"video": pipe._unpack_latents(theirs[0]["hidden_states"], t, h, w),
             "audio": pipe._unpack_audio_latents(theirs[0]["audio_hidden_states"], a.shape[1], 4)}  # fmt: skip
    answer = made.predict(sample.text, noisy, sigma)
    same(ours[0], theirs[0])
    for name, value in answer.items():  # x_σ − σ v is the clean strip, in the layout of the latents
        assert torch.allclose(noisy[name] - sigma * value, sample.latents[name], atol=1e-5)
    assert loss_of(made, sample, 0.3) < 1e-9


@pytest.mark.parametrize("tokens", [False, True])
def test_wan_learns_what_its_pipeline_asks_and_true_answers_give_the_film_back(
    checkpoint: Checkpoint, tokens: bool, tmp_path: Path
) -> None:
    from diffusers import WanPipeline

    folder = checkpoint("wan")
    if tokens:  # as Wan 2.2 TI2V 5B: a level of noise for each token
        folder = Path(shutil.copytree(folder, tmp_path / "wan"))
        index = json.loads((folder / "model_index.json").read_text()) | {"expand_timesteps": True}
        (folder / "model_index.json").write_text(json.dumps(index))
    made, caption = opened(folder), "a fox runs over snow"
    clip = Clip(film(1, frames=5).frames[:, :32, :32], 16.0)
    sample = made.encode(clip, caption)
    x = sample.latents["video"]
    pipe = WanPipeline.from_pretrained(str(folder))

    def truth(call: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        return ((call["hidden_states"] - x) / pipe.scheduler.sigmas[len(theirs) - 1],)

    theirs = listen(pipe.transformer, truth)
    decoded: list[torch.Tensor] = []
    decode = pipe.vae.decode
    pipe.vae.decode = lambda z, **options: decoded.append(z) or decode(z, **options)
    pipe(
        prompt=caption, width=32, height=32, num_frames=5, num_inference_steps=3, guidance_scale=1.0,
        latents=torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), output_type="np",
    )  # fmt: skip
    pixels = torch.from_numpy(np.ascontiguousarray(clip.frames)).permute(3, 0, 1, 2)[None] / 127.5 - 1
    assert torch.allclose(decoded[0], pipe.vae.encode(pixels).latent_dist.mode(), atol=1e-3)
    for k, their in enumerate(theirs):  # the pipeline cuts its times to whole numbers
        sigma = float(pipe.scheduler.sigmas[k])
        ours = listen(made.transformer, lambda call, s=sigma: ((call["hidden_states"] - x) / s,))
        answer = made.predict(sample.text, {"video": their["hidden_states"]}, sigma)["video"]
        assert ours[0]["timestep"].shape == their["timestep"].shape
        assert float((ours[0].pop("timestep") - their.pop("timestep")).abs().max()) < 1
        same(ours[0], their)
        assert torch.allclose(their["hidden_states"] - sigma * answer, x, atol=1e-4)
        assert loss_of(made, sample, sigma) < 1e-9


def test_levels_of_noise_are_shifted_as_the_schedulers_shift_them(checkpoint: Checkpoint) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    for q in (0.1, 0.5, 0.9):
        assert level(q, math.exp(2.05)) == pytest.approx(scheduler.time_shift(2.05, 1.0, level(q, 1.0)))
        assert 0.875 < level(q, 3.0, 0.875) < 1
    assert level(0.5, 1.0) == pytest.approx(0.5) and level(0.0, 3.0, 0.875) == pytest.approx(0.875)
    assert 0 < level(0.0, 1.0) < level(1.0, 9.0) <= 1
    made = tuner(find(str(checkpoint("ltx2"))), CPU, torch.float32)
    made.scheduler = dict(scheduler.config) | {"base_shift": 0.95, "max_shift": 2.05, "base_image_seq_len": 1024}
    shifts = []
    for tokens in (1024, 4096, 40_000):
        sample = tuning.Sample({"video": torch.empty(1, 8, 1, 1, tokens, device="meta")}, {})
        shifts.append(math.log(made.shift(sample)))
    assert shifts == pytest.approx([0.95, 2.05, 2.05])
    assert tuner(find(str(checkpoint("wan"))), CPU, torch.float32).shift(sample) == 3.0
    assert tuner(find(str(checkpoint("wan2.2"))), CPU, torch.float32).least == 0.875


def test_the_spectrogram_knows_how_high_and_how_loud() -> None:
    time = torch.arange(16_000) / 16_000
    mel = log_mel(torch.stack([0.5 * torch.sin(2 * torch.pi * 1000 * time), 0 * time]), 16_000, 160, 64)
    assert mel.shape == (2, 101, 64) and torch.allclose(mel[1], torch.tensor(FAINT).log())
    # Slaney's scale: 15 mels at 1 kHz, 15 + 27 ln(8) / ln(6.4) at 8 kHz, 64 bands between
    expected = 15 / (15 + 27 * math.log(8) / math.log(6.4)) * 65 - 1
    assert abs(int(mel[0, 50].argmax()) - expected) <= 1
    twice = log_mel(torch.sin(2 * torch.pi * 1000 * time)[None], 16_000, 160, 64)
    assert float((twice[0, 50] - mel[0, 50]).max()) == pytest.approx(math.log(2), abs=1e-3)


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["wan", "ltx2"])
def test_the_loss_falls_and_the_lora_changes_the_film(
    key: str, tuned: Callable[[str], tuple[Tuned, Path]], checkpoint: Checkpoint
) -> None:
    done, out = tuned(key)
    before, after = done.losses
    assert after < 0.85 * before
    assert done.clips == 8 and len(done.skipped) == 1 and "broken.mp4" in done.skipped[0]
    points = [json.loads(line) for line in (out / CURVE).read_text().splitlines()]
    assert [p["step"] for p in points] == list(range(1, 25)) and points[-1]["check"] == pytest.approx(after, abs=1e-6)
    assert sum("audio" in p for p in points) == (21 if key == "ltx2" else 0)  # three rounds, one clip is silent
    weights = load_file(done.lora)
    assert all(name.startswith("transformer.") and ".lora_" in name for name in weights)
    maker = OpenEngine(str(checkpoint(key)), "cpu", precision="fp32")
    size, seconds = SIZES[key]

    def made(*adapters: Adapter) -> Any:
        wish = Request("clip number 1", size=size, seconds=seconds, steps=2, seed=3, adapters=adapters)
        return {name: np.asarray(value) for name, value in maker.raw(wish).items() if name in ("frames", "audio")}

    plain, changed, weak = made(), made(Adapter(str(done.lora))), made(Adapter(str(done.lora), strength=0.1))
    assert not any(np.array_equal(plain[name], changed[name]) for name in plain)
    far, near = (np.abs(film["frames"] - plain["frames"]).mean() for film in (changed, weak))
    assert 0 < near < far


def equal(a: Any, b: Any) -> None:
    """Two states are the same, bit by bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            equal(a[name], b[name])
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            equal(x, y)
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("key", ["wan", "ltx2"])
def test_resume_is_exact_and_encodes_nothing_again(
    key: str, tuned: Callable[[str], tuple[Tuned, Path]], checkpoint: Checkpoint, data: Path, caches: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tuned(key)  # fills the cache

    def no(*_: Any) -> None:
        raise AssertionError("it encodes again")

    monkeypatch.setattr(Tuner, "open_encoders", no)
    monkeypatch.setattr(Tuner, "encode", no)
    monkeypatch.setattr(tuning, "CHECKED", 2)
    config = settings(key, steps=4, batch=2, save_seconds=0.0, check_steps=2)
    whole = run(checkpoint(key), data, tmp_path / "whole", config, caches / key)
    real = tuning._Run.advance

    def stopped(self: Any) -> dict[str, float]:
        if self.step == 2:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(tuning._Run, "advance", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint(key), data, tmp_path / "parts", config, caches / key)
    monkeypatch.setattr(tuning._Run, "advance", real)
    assert checkpoints.load_state(tmp_path / "parts" / STATE)["step"] == 2
    parts = run(checkpoint(key), data, tmp_path / "parts", config, caches / key)
    assert parts.losses == whole.losses
    equal(*(checkpoints.load_state(tmp_path / name / STATE) for name in ("parts", "whole")))  # weights and moments
    for name in (LORA, CURVE):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    if key == "wan":  # more steps go on as if they had been asked for
        run(checkpoint(key), data, tmp_path / "longer", settings(key, steps=2, batch=2), caches / key)
        run(checkpoint(key), data, tmp_path / "longer", settings(key, steps=4, batch=2), caches / key)
        assert (tmp_path / "longer" / LORA).read_bytes() == (tmp_path / "whole" / LORA).read_bytes()
        with pytest.raises(CheckpointError, match=r"begun with other rank, rate"):
            run(checkpoint(key), data, tmp_path / "whole", settings(key, rank=8, rate=1e-3, batch=2), caches / key)
        assert not list(tmp_path.rglob("*.part"))


def test_a_clip_without_sound_teaches_nothing_of_sound(checkpoint: Checkpoint, tmp_path: Path) -> None:
    made = opened(checkpoint("ltx2"))
    state = tmp_path / "clip.safetensors"
    for sounding in (True, False):
        sample = made.encode(film(1, frames=9, sound=sounding), "a fox")
        assert ("audio" in sample.latents) == sounding and sample.latents["video"].dtype == torch.float32
        checkpoints.save_state(state, {"latents": sample.latents, "text": sample.text})
        loop = tuning._Run(tmp_path, settings("ltx2", rank=4), made, [state], "")
        loss, parts = loop._loss(loop._sample(0), 0.6, torch.Generator().manual_seed(0))
        assert set(parts) == {"loss", "video", *(["audio"] if sounding else [])}
        assert parts["loss"] == pytest.approx(parts["video"] + parts.get("audio", 0.0), rel=1e-5)
        loss.backward()
        taught = {name for name, w in loop.weights.items() if w.grad is not None and bool(w.grad.any())}
        assert any(".attn1." in name for name in taught) and all(
            w.dtype == torch.float32 for w in loop.weights.values()
        )
        assert any("audio" in name for name in taught) == sounding


@pytest.mark.parametrize("key", ["wan", "ltx2"])
def test_it_learns_in_the_precision_of_a_gpu(key: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """bfloat16 weights, float32 adapters, activations computed again: the same gradients, nearly those of float32."""
    found: list[torch.Tensor] = []
    for dtype, again in ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)):
        made = tuner(find(str(checkpoint(key))), CPU, dtype)
        made.open_encoders()
        side = int(SIZES[key][0].split("x")[0])
        clip = Clip(np.ascontiguousarray(film(1, frames=9).frames[:, :side, :side]), 24.0, film(1, frames=9).audio)
        sample = made.encode(clip, "a fox")
        checkpoints.save_state(tmp_path / "clip.safetensors", {"latents": sample.latents, "text": sample.text})
        loop = tuning._Run(tmp_path, settings(key, rank=4), made, [tmp_path / "clip.safetensors"], "")
        if again:
            loop.transformer.enable_gradient_checkpointing()
        assert {value.dtype for value in loop.weights.values()} == {torch.float32}
        assert loop.transformer.proj_out.weight.dtype == dtype
        loop._loss(loop._sample(0), 0.6, torch.Generator().manual_seed(0))[0].backward()
        found.append(torch.cat([w.grad.flatten() for w in loop.weights.values() if w.grad is not None]))
    exact, half, recomputed = found
    assert torch.equal(half, recomputed)
    assert float((half - exact).norm() / exact.norm()) < 0.1


def test_one_of_two_transformers_is_tuned_for_its_levels_of_noise(
    checkpoint: Checkpoint,
    data: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    levels: list[float] = []
    real = tuning._Run._loss

    def note(self: Any, sample: Any, sigma: float, draw: Any) -> Any:
        levels.append(sigma)
        return real(self, sample, sigma, draw)

    monkeypatch.setattr(tuning._Run, "_loss", note)
    done = run(checkpoint("wan2.2"), data, tmp_path, settings("wan2.2", steps=3))
    assert min(levels) >= 0.875 and "transformer_2" in done.notes[0] and "transformer_2" in caplog.text
    assert not any("transformer_2" in name for name in load_file(done.lora))


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_command_tunes_and_its_file_serves_generate(
    checkpoint: Checkpoint, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, clips = str(checkpoint("wan")), tmp_path / "clips"
    clips.mkdir()
    for name in ("0.mp4", "3.mp4", "broken.mp4"):
        shutil.copy(data / name, clips / name)
    lines = [{"video": name, "caption": f"see {name}"} for name in ("0.mp4", "3.mp4", "broken.mp4", "none.mp4")]
    (clips / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    out = tmp_path / "out"
    command = ["tune", "--model", model, "--data", str(clips), "--out", str(out), "--size", "32x32", "--seconds", "0.3"]
    assert main([*command, "--steps", "2", "--rank", "2", "--lr", "0.001", "--device", "cpu", "--seed", "5"]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(out / LORA) and "learnt from 2 clips, 2 skipped" in said.err
    assert len(list((out / "cache").glob("*.safetensors"))) == 2 and load_file(out / LORA)
    made = ["generate", "see 0", "--model", model, "--size", "32x32", "--seconds", "0.3", "--steps", "1", "--no-sign"]
    assert main([*made, "--lora", f"{out / LORA}:0.5", "-o", str(tmp_path / "film.mp4")]) == 0


def test_what_cannot_be_done_is_one_line(
    checkpoint: Checkpoint, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    wan, other, nothing = str(checkpoint("wan")), tmp_path / "other", tmp_path / "nothing"
    other.mkdir()
    nothing.mkdir()
    (other / "model_index.json").write_text('{"_class_name": "LTXPipeline"}')
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("broken.mp4", "broken.txt"):
        shutil.copy(data / name, broken / name)
    half = Path(shutil.copytree(wan, tmp_path / "half"))
    shutil.rmtree(half / "vae")
    capsys.readouterr()
    caplog.set_level(logging.CRITICAL)
    cases: list[tuple[list[str], str]] = [
        (["--model", str(other), "--data", str(data)], "families that can: ltx-2 (LTX2Pipeline) and wan (WanPipeline)"),
        (["--model", wan, "--data", str(tmp_path / "none")], "there is no such folder"),
        (["--model", wan, "--data", str(nothing)], "holds no clip with a caption"),
        (["--model", wan, "--data", str(broken), "--size", "32x32"], "none of its 1 clips can be read"),
        (["--model", "native", "--data", str(data)], "phonofilm train"),
        (["--model", wan, "--data", str(data), "--size", "33x32"], "multiples of 16"),
        (["--model", wan, "--data", str(data), "--seconds", "99"], "up to 7.6 seconds"),
        (["--model", wan, "--data", str(data), "--lr", "0"], "rate must be above 0"),
        (["--model", wan, "--data", str(data), "--rank", "0"], "rank must be at least 1"),
        (["--model", str(half), "--data", str(data)], "the download of"),
    ]
    for arguments, said in cases:
        assert main(["tune", "-q", *arguments, "--device", "cpu", "--out", str(tmp_path / "out")]) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1 and said in told[0], told
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert main(["tune", "--model", wan, "--data", str(data), "--out", str(tmp_path / "out")]) == 2
    assert 'pip install "phonofilm[open]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="seed must be in"):
        Tuning(seed=-1)
