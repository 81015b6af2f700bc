"""Fine-tuning of open models: LoRA (2106.09685) on the transformer's attention, learnt from a folder of clips.

Clips and captions are encoded once and kept on disk; while the transformer learns no encoder is in memory. Resume is
the same call again, and exact: what step n sees depends on the seed, the clips and n alone, and more steps go on as if
they had been asked for at the beginning. The result is a LoRA in the layout of diffusers.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from phonofilm import checkpoint
from phonofilm import clip as clips
from phonofilm.clip import Clip
from phonofilm.data import Folder
from phonofilm.data.folder import Entry
from phonofilm.engines.open import OpenEngine
from phonofilm.engines.open.source import find
from phonofilm.errors import CheckpointError, InputError, MediaError, PhonofilmError
from phonofilm.files import replacing
from phonofilm.media import read, read_audio
from phonofilm.request import Request
from phonofilm.train.tuners import Sample, Tuner, level, tuner

log = logging.getLogger(__name__)

STATE: Final = "tune.state"  # where the training stands
LORA: Final = "lora.safetensors"
CURVE: Final = "tune.jsonl"
CACHE: Final = "cache"
FORMAT: Final = "phonofilm.tune/1"  # of what is kept of a clip
LEVELS: Final = (0.25, 0.75)  # quantiles of the noise levels at which the training is checked
CHECKED: Final = 8  # clips on which it is, the first ones
SILENCE: Final = 1e-4  # a track that never gets louder (-80 dB) is no sound to learn from


@dataclass(frozen=True)
class Tuning:
    """How an open model is tuned."""

    steps: int = 1000  # optimizer steps in all
    rank: int = 16  # of the adapter's matrices: more holds more, and takes more memory
    rate: float = 1e-4  # learning rate of AdamW, constant after the warm-up so that more steps can follow
    batch: int = 1  # clips a step, one after another
    size: str = "landscape"  # square, portrait, landscape (of the model's own area) or WIDTHxHEIGHT, for all clips
    seconds: float = 3.0  # clips are cut there
    audio_weight: float = 1.0  # of the sound's error beside the picture's
    uniform: float = 0.1  # share of steps whose noise level is drawn uniformly, so that none is forgotten
    warmup: int = 10  # steps over which the rate rises from 0
    decay: float = 0.01  # weight decay
    clip: float = 1.0  # largest norm of the gradient
    seed: int = 0
    save_seconds: float = 300.0  # between saved states
    check_steps: int = 100  # between checks of the loss with noise that is always the same

    def __post_init__(self) -> None:
        for name in ("steps", "rank", "batch", "check_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}", name)
        for name in ("rate", "seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be above 0, got {value}", name)
        if not 0 <= self.seed < 2**31:
            raise InputError(f"seed must be in 0..{2**31 - 1}, got {self.seed}", "seed")


@dataclass(frozen=True)
class Tuned:
    """What came of it. lora: the file; clips: learnt from; skipped: a line for each that could not be;
    notes: what the user should know; losses: (before, after), with noise that is always the same."""

    lora: Path
    clips: int
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    losses: tuple[float, float]


def tune(
    model: str,
    data: str | Path,
    out: str | Path,
    config: Tuning | None = None,
    *,
    cache: str | Path | None = None,
    device: str | None = None,
    trusted: bool = False,
    progress: bool = True,
) -> Tuned:
    """Tune an open model on a folder of captioned clips, see `phonofilm.data.Folder`.

    Args:
        model: a folder in the layout of diffusers, or ORG/NAME that was fetched; LTX-2.x or Wan, text to video.
        out: for `lora.safetensors`, the state and the curve `tune.jsonl`. What is there is gone on with.
        config: more steps than those of the state are an extension; all else must be as it was.
        cache: for latents and text, by default `cache` in `out`; several trainings may share it.
        device: "cpu" (float32) or "cuda" (bfloat16), by default the best there is.
        trusted: decode the clips in this process (see `media.read`).

    Raises InputError for what cannot be done, CheckpointError if the model or the state is damaged or of another
    training, PhonofilmError if memory runs out or the loss is not finite.
    """
    config, out = config or Tuning(), Path(out)
    if model == "native":
        raise InputError("the native model is trained with `phonofilm train`; tuning takes open models", "model")
    folder = Folder(data)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but torch sees no GPU here", "device")
    made = tuner(find(model), place, torch.float32 if place.type == "cpu" else torch.bfloat16)
    if made.note:
        log.warning("%s", made.note)
    try:
        kept = Kept(made, folder, config, Path(cache) if cache else out / CACHE, trusted)
        paths = kept.fill(progress)
        run = _Run(out, config, made, paths, kept.digest)
        losses = run.train(progress)
    except torch.OutOfMemoryError as error:
        raise PhonofilmError("out of memory: ask for a smaller size, fewer seconds or a lower rank") from error
    return Tuned(out / LORA, len(paths), tuple(kept.skipped), (made.note,) if made.note else (), losses)


# --- latents and text on disk -----------------------------------------------------------------------------------------


class Kept:
    """The clips of a folder, encoded, one file each.

    A file's name tells the model, the settings, the clip's file and its caption: what has changed is made anew.
    """

    def __init__(self, made: Tuner, folder: Folder, config: Tuning, directory: Path, trusted: bool) -> None:
        self.tuner, self.folder, self.directory, self.trusted = made, folder, directory, trusted
        self.skipped: list[str] = list(folder.skipped)
        family = made.family
        self.size = pixels(made, config.size)
        self.most = family.made(round(config.seconds * family.fps))
        if self.most > family.longest:
            longest = family.longest / family.fps
            raise InputError(f"{family.title} makes up to {longest:.1f} seconds, got {config.seconds:g}", "seconds")
        self.digest = made.source.digest

    def fill(self, progress: bool) -> list[Path]:
        """Encode what is not there yet; the files of all clips that can be used, in the folder's order."""
        paths: list[Path] = []
        bar = tqdm(self.folder.entries, desc="encode", unit="clip", disable=not progress, leave=False)
        try:
            for entry in bar:
                try:
                    path = self.directory / f"{self._key(entry)}.safetensors"
                    if not path.exists():
                        clip = self._read(entry)
                        if self.tuner.pipe is None:
                            self.tuner.open_encoders()
                        sample = self.tuner.encode(clip, entry.caption)
                        told = {"latents": sample.latents, "text": sample.text, "video": entry.video.name}
                        checkpoint.save_state(path, {**told, "caption": entry.caption})
                    paths.append(path)
                except (MediaError, FileNotFoundError, PermissionError) as error:
                    line = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
                    self.skipped.append(line)
                    log.warning("skipped: %s", line)
        finally:
            bar.close()
            self.tuner.close_encoders()
        if not paths:
            raise InputError(f"{self.folder.root}: none of its {len(self.folder)} clips can be read", "data")
        return paths

    def _key(self, entry: Entry) -> str:
        files = [path for path in (entry.video, entry.audio) if path is not None]
        told = {
            "format": FORMAT, "model": self.digest, "size": self.size, "frames": self.most,
            "fps": self.tuner.family.fps, "type": str(self.tuner.dtype), "caption": entry.caption,
            "files": [(str(p.relative_to(self.folder.root)), p.stat().st_size, p.stat().st_mtime_ns) for p in files],
        }  # fmt: skip
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]

    def _read(self, entry: Entry) -> Clip:
        """A clip at the model's rate and size, of the most frames that it makes and the file has; None for silence."""
        family = self.tuner.family
        seconds = self.most / family.fps
        clip = read(entry.video, size=self.size, seconds=seconds, trusted=self.trusted)
        sound = clip.audio
        if entry.audio is not None:
            sound = read_audio(entry.audio, seconds=seconds, trusted=self.trusted)
        stride, offset = family.frames
        frames = clip.frames if clip.picture else clips.retime(clip.frames, clip.fps, family.fps)
        count = max(offset, (min(len(frames), self.most) - offset) // stride * stride + offset)
        if len(frames) < count:
            frames = np.pad(frames, ((0, count - len(frames)), (0, 0), (0, 0), (0, 0)), mode="edge")
        if sound is not None and (clip.picture or float(np.abs(sound.samples).max(initial=0)) <= SILENCE):
            sound = None
        return Clip(frames[:count], family.fps, sound and clips.lasting(sound, count / family.fps))


def pixels(made: Tuner, size: str) -> tuple[int, int]:
    """(width, height) of a size. Raises InputError where the model cannot have it."""
    found = OpenEngine(made.source.name, "cpu", source=made.source).capabilities.pixels(Request("a clip", size=size))
    if any(side % made.multiple for side in found):
        raise InputError(
            f"sides must be multiples of {made.multiple} for {made.source.name}, got {found[0]}x{found[1]}", "size"
        )
    return found


# --- the loop ---------------------------------------------------------------------------------------------------------


class _Run:
    """A training under way."""

    def __init__(self, out: Path, config: Tuning, made: Tuner, paths: list[Path], model: str) -> None:
        self.out, self.config, self.tuner, self.paths, self.model = out, config, made, paths, model
        self.step, self.before = 0, math.nan
        state = self._state()  # a state of another training is told before the transformer is loaded
        self.transformer = made.open_transformer(config.rank, config.seed)
        self.weights: dict[str, nn.Parameter] = {
            name: value for name, value in self.transformer.named_parameters() if value.requires_grad
        }
        self.optimizer = torch.optim.AdamW(self.weights.values(), lr=config.rate, weight_decay=config.decay)
        if state is not None:
            self._resume(state)

    # --- states -------------------------------------------------------------------------------------------------------
    def _described(self) -> dict[str, Any]:
        """All that decides what a step does."""
        told = asdict(self.config)
        for name in ("steps", "save_seconds", "check_steps"):
            del told[name]
        names = " ".join(path.stem for path in self.paths)
        return {**told, "model": self.model, "clips": hashlib.sha256(names.encode()).hexdigest()}

    def _state(self) -> Any:
        """The state in the folder, if there is one and it is of this training."""
        path = self.out / STATE
        if not path.exists():
            return None
        state, told = checkpoint.load_state(path), self._described()
        was = state.get("training") if isinstance(state, dict) else None
        if not isinstance(was, dict):
            raise CheckpointError(f"{path}: is the state of something else")
        if differ := sorted(name for name in told if was.get(name) != told[name]):
            raise CheckpointError(
                f"{path}: was begun with other {', '.join(differ)}: go on as it was, or name another folder to begin in"
            )
        return state

    def _resume(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.before = int(state["step"]), float(state["before"])
        path = self.out / CURVE
        if path.exists():  # points of steps that are made once more
            lines = [line for line in path.read_text(encoding="utf-8").splitlines(True) if self._is_past(line)]
            with replacing(path) as beside:
                beside.write_text("".join(lines), encoding="utf-8")

    def _is_past(self, line: str) -> bool:
        try:
            return int(json.loads(line)["step"]) <= self.step
        except (ValueError, KeyError, TypeError):
            return False

    def save(self) -> None:
        """Write the state, and the LoRA."""
        state = {
            "training": self._described(), "step": self.step, "before": self.before,
            "weights": {name: weight.detach() for name, weight in self.weights.items()},
            "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip
        checkpoint.save_state(self.out / STATE, state)
        layers = {name: value.to(self.tuner.dtype).contiguous() for name, value in self.tuner.adapter().items()}
        with replacing(self.out / LORA) as beside:
            self.tuner.cls.save_lora_weights(
                str(beside.parent), transformer_lora_layers=layers, weight_name=beside.name
            )

    # --- steps --------------------------------------------------------------------------------------------------------
    def train(self, progress: bool) -> tuple[float, float]:
        """Train until all steps are made; the loss before and after, see `check`."""
        config = self.config
        self.out.mkdir(parents=True, exist_ok=True)
        if self.step == 0:
            self.before = self.check()
        last, saved = math.nan, time.monotonic()
        bar = tqdm(total=config.steps, initial=self.step, desc="tune", unit="step", disable=not progress)
        try:
            while self.step < config.steps:
                points = self.advance()
                self.step += 1
                if self.step % config.check_steps == 0 or self.step == config.steps:
                    points["check"] = last = self.check()
                self._write(points)
                bar.update()
                bar.set_postfix_str(f"loss {points['loss']:.4f}, fixed noise {self.before:.4f} -> {last:.4f}")
                if time.monotonic() - saved >= config.save_seconds and self.step < config.steps:
                    self.save()
                    saved = time.monotonic()
        finally:
            bar.close()
        if math.isnan(last):  # nothing was left to do
            last = self.check()
        self.save()
        return self.before, last

    def advance(self) -> dict[str, float]:
        """One step of the optimizer; returns points for the curve."""
        config = self.config
        points: dict[str, list[float]] = {}
        for i in range(config.batch):
            number = self.step * config.batch + i
            draw = torch.Generator().manual_seed((config.seed << 32) + number)
            sample = self._sample(self._order(number))
            uniform, q = torch.rand(2, generator=draw, dtype=torch.float64).tolist()
            least = self.tuner.least
            sigma = level(q, self.tuner.shift(sample), least)
            if uniform < config.uniform:
                sigma = max(1e-3, least + (1 - least) * q)
            loss, parts = self._loss(sample, sigma, draw)
            if not math.isfinite(float(loss.detach())):
                raise PhonofilmError(f"the loss is {float(loss.detach())} at step {self.step}: lower the learning rate")
            (loss / config.batch).backward()
            for name, value in parts.items():
                points.setdefault(name, []).append(value)
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), config.clip)
        rate = config.rate * min(1.0, (self.step + 1) / (config.warmup + 1))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        means = {name: sum(values) / len(values) for name, values in points.items()}
        return {**means, "gradient": float(norm), "rate": rate}

    @torch.no_grad()
    def check(self) -> float:
        """The mean loss on the first clips with noise that is always the same, to see through the noise of steps."""
        found = []
        for k in range(min(CHECKED, len(self.paths))):
            sample = self._sample(k)
            for j, q in enumerate(LEVELS):
                draw = torch.Generator().manual_seed((self.config.seed << 32) + 2**31 + len(LEVELS) * k + j)
                sigma = level(q, self.tuner.shift(sample), self.tuner.least)
                found.append(float(self._loss(sample, sigma, draw)[0]))
        return sum(found) / len(found)

    def _order(self, number: int) -> int:
        """The clip of a draw: each once in every round through all, in an order of the round's own."""
        total = len(self.paths)
        draw = torch.Generator().manual_seed((self.config.seed << 32) + 2**30 * 3 + number // total)
        return int(torch.randperm(total, generator=draw)[number % total])

    def _sample(self, index: int) -> Sample:
        state = checkpoint.load_state(self.paths[index])
        return Sample(state["latents"], state["text"]).to(self.tuner.device)

    def _loss(self, sample: Sample, sigma: float, draw: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The error of the velocity, and by modality. What a clip does not have, such as sound, does not count."""
        noise = {
            name: torch.randn(clean.shape, generator=draw).to(clean.device) for name, clean in sample.latents.items()
        }
        noisy = {name: (1 - sigma) * clean + sigma * noise[name] for name, clean in sample.latents.items()}
        answer = self.tuner.predict(sample.text, noisy, sigma)
        parts = {
            name: nn.functional.mse_loss(answer[name], noise[name] - clean) for name, clean in sample.latents.items()
        }
        weights = {"audio": self.config.audio_weight}
        loss = torch.stack([weights.get(name, 1.0) * part for name, part in parts.items()]).sum()
        return loss, {"loss": float(loss.detach()), **{name: float(part.detach()) for name, part in parts.items()}}

    def _write(self, points: dict[str, float]) -> None:
        """A line of the curve."""
        told = {"step": self.step, **{name: round(value, 8) for name, value in points.items()}}
        with (self.out / CURVE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")
