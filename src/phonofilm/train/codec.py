"""Training of the two codecs: what they share, and the picture's. Resume is the same call again; what step n draws
depends on the seed and on n alone.

Shapes: B clips, T frames, H height, W width, N samples, K actors, C channels.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from phonofilm import checkpoint
from phonofilm.codec.audio import AudioCodec
from phonofilm.codec.codec import VIDEO_FILE, VIDEO_KIND
from phonofilm.codec.video import VideoCodec, VideoCodecConfig, half_whitened, video_loss
from phonofilm.errors import CheckpointError
from phonofilm.files import replacing
from phonofilm.playhouse.scene import Scene
from phonofilm.precision import mixed
from phonofilm.train.optim import Muon

SIZES = ((128, 128), (96, 160), (160, 96))
PAUSE = 2.0  # seconds: a longer step was a pause of the machine, and is not counted as more


@dataclass(frozen=True)
class Footage:
    """One clip to learn from."""

    frames: Tensor  # (T, H, W, 3) uint8
    boxes: Tensor | None = None  # (T, K, 4) left, top, right, bottom of the actors in pixels; NaN if not to be seen
    painted: Tensor | None = None  # (T/4, H/16, W/16, C) its raw latents as a denoiser makes them


Films = Callable[[Sequence[int]], list[Footage]]
"""`films(indices)`: the clips of these numbers, each the same however often it is asked for; one size for each call."""

Paint = Callable[[Sequence[Scene], Sequence[int], tuple[int, int]], Sequence[Tensor]]
"""`paint(scenes, seeds, (width, height))`: of each film its `Footage.painted`."""

Sounds = Callable[[Sequence[int]], Tensor]
"""`sounds(indices)`: (B, N) samples in [-1, 1] at 16 kHz, of clips that are numbered likewise."""


@dataclass(frozen=True)
class CodecTraining:
    """How a codec is trained: the numbers that both codecs share."""

    seconds: float | None = 1200.0  # of wall-clock in all; the learning rate follows the share that is spent
    steps: int | None = None  # instead of `seconds`: so many steps, which makes a run exactly repeatable
    batch: int = 8
    lr: float = 3e-3  # of the matrices (Muon); of all the rest (Adam) the same
    warmup: int = 20  # steps
    hold: float = 0.15  # share of the run after which the learning rate begins to fall, linearly to 0
    ema: float = 0.995  # decay of the averaged weights, which are what is kept
    noise: float = 0.2  # latent noise is drawn from U(0, noise) times the standard deviation of the channel
    latent_l2: float = 1e-4  # weight of the mean square of the latents
    clip: float = 1.0  # largest norm of the gradient
    seed: int = 0
    bf16: bool | None = None  # autocast, None: where it is faster; weights and optimiser stay float32
    save_seconds: float = 200.0  # between saved states
    sheet_steps: int = 400  # between sample sheets
    log_steps: int = 20  # between points of the curves


@dataclass(frozen=True)
class VideoTraining(CodecTraining):
    """How the video codec is trained: on crops, then on whole frames."""

    crop: int = 64  # pixels
    frames: int = 16
    whole: float = 0.88  # share of the run after which whole frames are seen, batch / 4 of them
    pool: int = 192  # clips at hand, of which crops are drawn
    fresh: float = 0.5  # new clips for each step
    actors: float = 0.6  # share of the crops that show an actor
    stills: float = 0.05  # share of the crops that stand still, as pictures do
    box_weight: float = 4.0  # of the error inside the box of an actor that fills a tenth of the picture, less 1
    painted: float = 0.5  # share of the crops that are decoded from painted latents, where there are some


@dataclass(frozen=True)
class AudioTraining(CodecTraining):
    """How the audio codec is trained: on stretches of fresh sound."""

    batch: int = 12
    stretch: int = 16  # latents: two seconds
    bf16: bool = False
    onset_weight: float = 0.1  # of the error of the level where the true sound begins, see `audio_loss`


Model = TypeVar("Model", VideoCodec, AudioCodec)


class CodecRun(Generic[Model]):
    """The loop that both codecs share: budget, learning rate, averaged weights, saved states, curves and sheets."""

    def __init__(self, name: str, model: Model, recipe: CodecTraining, out: Path, device: torch.device) -> None:
        self.name, self.recipe, self.out, self.device = name, recipe, out, device
        self.model: Model = model
        self.step, self.spent = 0, 0.0
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for key, p in model.named_parameters():
            if not p.requires_grad:
                continue
            plain = p.ndim > 1 and p.flatten(1).shape[1] > 16 and "base" not in key and "decoder.leave" not in key
            (matrices if plain else rest).append(p)
        exact = torch.float32 if device.type == "cpu" else torch.bfloat16
        self.optimizers = [
            Muon(matrices, recipe.lr, like_adam=True, compute=exact),
            torch.optim.AdamW(rest, recipe.lr, (0.9, 0.99), weight_decay=0.0, fused=device.type != "cpu"),
        ]
        self.average = {key: value.detach().clone() for key, value in model.state_dict().items()}
        self.state_path = out / f"{name}.state"
        if self.state_path.exists():
            self._resume()

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0 to 1."""
        if self.recipe.steps is not None:
            return min(1.0, self.step / self.recipe.steps)
        assert self.recipe.seconds is not None
        return min(1.0, self.spent / self.recipe.seconds)

    def generator(self, salt: int = 0) -> torch.Generator:
        """What this step draws from."""
        return torch.Generator().manual_seed((self.recipe.seed * 7 + salt) * 10_000_019 + self.step)

    def go(
        self,
        loss: Callable[[CodecRun[Model]], tuple[Tensor, Mapping[str, Tensor]]],
        sheet: Callable[[Model], np.ndarray[Any, Any]] | None,
    ) -> None:
        """Train until the budget is spent; afterwards the model holds the averaged weights."""
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm

        recipe, parameters = self.recipe, [p for p in self.model.parameters() if p.requires_grad]
        curves = SummaryWriter(str(self.out / "curves" / self.name))
        bar = tqdm(total=1000, initial=round(1000 * self.progress), desc=self.name, unit="‰", mininterval=5)
        saved = last = time.monotonic()
        while self.progress < 1.0:
            rate = recipe.lr * min(1.0, (self.step + 1) / recipe.warmup)
            rate *= min(1.0, max(0.02, (1 - self.progress) / (1 - recipe.hold)))
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
            value, parts = loss(self)
            value.backward()
            norm = nn.utils.clip_grad_norm_(parameters, recipe.clip)
            if bool(torch.isfinite(norm)):
                for optimizer in self.optimizers:
                    optimizer.step()
            self.model.zero_grad(set_to_none=True)
            decay = min(recipe.ema, (self.step + 1) / (self.step + 10))
            current = self.model.state_dict()
            torch._foreach_lerp_(list(self.average.values()), [current[k] for k in self.average], 1 - decay)
            self.step += 1
            now = time.monotonic()
            self.spent, last = self.spent + min(now - last, PAUSE), now
            bar.update(round(1000 * self.progress) - bar.n)
            if self.step % recipe.log_steps == 0:
                bar.set_postfix(step=self.step, loss=f"{value.item():.4f}", refresh=False)
                for key, part in {"loss": value, "gradient": norm, **parts}.items():
                    curves.add_scalar(key, float(part.detach()), self.step)
                curves.add_scalar("lr", rate, self.step)
            if sheet is not None and self.step % recipe.sheet_steps == 0:
                self._averaged(lambda: self._sheet(sheet))
            if now - saved > recipe.save_seconds:
                self._save()
                saved = now
        bar.close()
        curves.close()
        self._save()
        self.model.load_state_dict(self.average)
        if sheet is not None:
            self._sheet(sheet)

    def _sheet(self, sheet: Callable[[Model], np.ndarray[Any, Any]]) -> None:
        from PIL import Image

        with replacing(self.out / f"{self.name}.png") as beside:
            Image.fromarray(sheet(self.model)).save(beside, "PNG")

    def _averaged(self, work: Callable[[], None]) -> None:
        """Do `work` while the model holds its averaged weights."""
        kept = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        work()
        self.model.load_state_dict(kept)

    def _save(self) -> None:
        checkpoint.save_state(
            self.state_path,
            {
                "recipe": asdict(self.recipe),
                "config": asdict(self.model.config),
                "step": self.step,
                "spent": self.spent,
                "model": dict(self.model.state_dict()),
                "average": self.average,
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            },
        )

    def _resume(self) -> None:
        state = checkpoint.load_state(self.state_path)
        config = asdict(self.model.config)
        if state["config"] != config:
            raise CheckpointError(f"{self.state_path} was trained as {state['config']}, asked for is {config}")
        self.step, self.spent = state["step"], state["spent"]
        self.model.load_state_dict(state["model"])
        self.average = {key: value.to(self.device) for key, value in state["average"].items()}
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)


# --- picture --------------------------------------------------------------------------------------------------------


class Pool(Protocol):
    """Clips to learn from."""

    device: torch.device

    def draw(
        self, step: int, recipe: VideoTraining, generator: torch.Generator, whole: bool
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """See `draw_crops`."""
        ...

    def samples(self, count: int) -> list[Tensor]:
        """Frames (T, H, W, 3) uint8 of a few clips of one size."""
        ...


class FilmPool:
    """Clips at hand. Which ones they are depends on the step alone: a window over all clips that moves on slowly."""

    def __init__(self, films: Films, capacity: int, fresh: float, device: torch.device) -> None:
        self.films, self.capacity, self.fresh, self.device = films, capacity, fresh, device
        self.clips: dict[int, Footage] = {}

    def window(self, step: int) -> range:
        """Numbers of the clips that are at hand at a step; renders those that are missing, in groups of 8."""
        end = self.capacity + math.floor(step * self.fresh / 8) * 8
        wanted = range(end - self.capacity, end)
        for gone in [i for i in self.clips if i not in wanted]:
            del self.clips[gone]
        for group in range(wanted.start, wanted.stop, 8):
            missing = [i for i in range(group, min(group + 8, wanted.stop)) if i not in self.clips]
            if missing:
                self.clips.update(zip(missing, self.films(missing), strict=True))
        return wanted

    def draw(
        self, step: int, recipe: VideoTraining, generator: torch.Generator, whole: bool
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        return draw_crops(self, step, recipe, generator, whole)

    def samples(self, count: int) -> list[Tensor]:
        if not self.clips:
            self.window(0)
        first = next(iter(self.clips.values())).frames.shape
        return [footage.frames for footage in self.clips.values() if footage.frames.shape == first][:count]


def actor_weights(footage: Footage, frames: slice, box_weight: float) -> Tensor:
    """Weights of errors (T, H, W): 1 outside of the actors' boxes, more inside, the more the smaller the box."""
    t, h, w, _ = footage.frames[frames].shape
    weight = torch.ones(t, h, w)
    if footage.boxes is None:
        return weight
    for k, boxes in enumerate(footage.boxes[frames].nan_to_num(-1).tolist()):
        for left, top, right, bottom in boxes:
            x0, y0, x1, y1 = max(0, int(left)), max(0, int(top)), math.ceil(right), math.ceil(bottom)
            if x1 > x0 and y1 > y0:
                small = math.sqrt(0.1 * h * w / ((x1 - x0) * (y1 - y0)))
                weight[k, y0:y1, x0:x1].clamp_(min=1 + box_weight * min(2.0, max(0.5, small)))
    return weight


def draw_crops(
    pool: FilmPool, step: int, recipe: VideoTraining, generator: torch.Generator, whole: bool
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Crops (B, T, h, w, 3) in [-1, 1] and weights (B, T, 1, h, w) of a step; `whole`: full frames of one size. And of
    each crop the painted latents (T/4, h/16, w/16, C), if it is to be decoded from them."""

    def pick(bound: int) -> int:
        return int(torch.randint(max(1, bound), (1,), generator=generator))

    window = pool.window(step)
    crops: list[Tensor] = []
    weights: list[Tensor] = []
    latents: list[Tensor | None] = []
    size: tuple[int, ...] | None = None
    while len(crops) < (max(1, recipe.batch // 4) if whole else recipe.batch):
        footage = pool.clips[window[pick(len(window))]]
        t, h, w, _ = footage.frames.shape
        if whole and size not in (None, (h, w)):
            continue
        size = (h, w)
        painted = None
        if footage.painted is not None and torch.rand((), generator=generator) < recipe.painted:
            painted = footage.painted
        start = pick(t - recipe.frames + 1)
        if painted is not None:
            start -= start % 4
        frames = slice(start, start + recipe.frames)
        weight = actor_weights(footage, frames, recipe.box_weight)
        rows, columns = slice(0, h), slice(0, w)
        if not whole:
            y, x = pick(h - recipe.crop + 1), pick(w - recipe.crop + 1)
            if footage.boxes is not None and torch.rand((), generator=generator) < recipe.actors:
                boxes = footage.boxes[start + pick(recipe.frames)]
                left, top, right, bottom = boxes[pick(len(boxes))].nan_to_num(0).tolist()
                if right > left:
                    y = round((top + bottom) / 2) - recipe.crop // 4 - pick(recipe.crop // 2)
                    x = round((left + right) / 2) - recipe.crop // 4 - pick(recipe.crop // 2)
                    y, x = min(max(y, 0), h - recipe.crop), min(max(x, 0), w - recipe.crop)
            if painted is not None:
                y, x = y - y % 16, x - x % 16
            rows, columns = slice(y, y + recipe.crop), slice(x, x + recipe.crop)
        still = painted is None and bool(torch.rand((), generator=generator) < recipe.stills)
        crop, weight = footage.frames[frames, rows, columns], weight[:, rows, columns]
        crops.append(crop[:1].expand_as(crop) if still else crop)
        weights.append(weight[:1].expand_as(weight) if still else weight)
        cells = (slice(s.start // n, s.stop // n) for s, n in ((frames, 4), (rows, 16), (columns, 16)))
        latents.append(None if painted is None else painted[tuple(cells)].to(pool.device))
    frames_BTHWC = torch.stack(crops).to(pool.device).float() / 127.5 - 1
    return frames_BTHWC, torch.stack(weights)[:, :, None].to(pool.device), latents


def noised(raw: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Latents (B, .., C) with noise of a random strength for each clip, relative to the deviation of each channel."""
    deviation = raw.detach().flatten(0, -2).std(0)
    strength = torch.rand(len(raw), *[1] * (raw.ndim - 1), generator=generator) * most
    noise = torch.randn(raw.shape, generator=generator) * strength
    return raw + noise.to(raw.device) * deviation


def train_video(
    films: Films | Pool,
    out: str | Path,
    recipe: VideoTraining | None = None,
    config: VideoCodecConfig | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[float], None] | None = None,
    start: Mapping[str, Tensor] | None = None,
) -> VideoCodec:
    """Train a video codec, or go on with it; writes `out`/video-codec.safetensors and returns the trained codec.

    films: or a pool of clips of its own. start: weights to begin with, of a codec with fewer blocks or as many; latents
    are then normalised as they were, so that what knows them need not begin anew.
    """
    recipe, out, device = recipe or VideoTraining(), Path(out), torch.device(device)
    torch.manual_seed(recipe.seed)
    model = VideoCodec(config).to(device)
    if start is not None:
        grow(model, start)
    pool = FilmPool(films, recipe.pool, recipe.fresh, device) if callable(films) else films
    run = CodecRun("video-codec", model, recipe, out, device)
    if run.progress >= 1 and (out / VIDEO_FILE).exists():  # others may depend on it, or have gone on with its decoder
        return stored_video(out).to(device)
    _train_pictures(run, pool, progress)
    if start is not None:
        save_codec(model, out / VIDEO_FILE, VIDEO_KIND)
        return model
    raws = []
    with torch.no_grad(), mixed(device, recipe.bf16):
        for k in range(24):
            generator = torch.Generator().manual_seed(k)
            true, _, _ = pool.draw(run.step, replace(recipe, batch=16), generator, True)
            raws.append(model.encoder(true).float().flatten(0, -2))
    mean, basis = half_whitened(torch.cat(raws))
    model.mean.copy_(mean)
    model.basis.copy_(basis)
    save_codec(model, out / VIDEO_FILE, VIDEO_KIND)
    return model


def train_decoder(
    films: Films,
    out: str | Path,
    recipe: VideoTraining | None = None,
    config: VideoCodecConfig | None = None,
    device: str | torch.device = "cpu",
) -> VideoCodec:
    """Go on with the decoder of `out`/video-codec.safetensors alone, so that latents made by it stay valid.

    films: where they hold painted latents, it learns to show those as the film that was meant, too.

    config: its decoder may have more blocks than the one that is there, which begin as identities; by default it is as
    large as that. What is found in `out`/video-decoder.state is gone on with. Raises CheckpointError if the decoder
    there does not fit into the wanted one.
    """
    recipe, out, device = recipe or VideoTraining(), Path(out), torch.device(device)
    torch.manual_seed(recipe.seed)
    model = stored_video(out, config).to(device)
    for parameter in model.encoder.parameters():
        parameter.requires_grad_(False)
    pool = FilmPool(films, recipe.pool, recipe.fresh, device)
    _train_pictures(CodecRun("video-decoder", model, recipe, out, device), pool, None)
    save_codec(model, out / VIDEO_FILE, VIDEO_KIND)
    return model


def sizes_of(stored: checkpoint.Checkpoint) -> dict[str, Any]:
    """The sizes of a stored codec, as its configuration takes them."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in stored.config.items()}


def stored_video(out: Path, config: VideoCodecConfig | None = None) -> VideoCodec:
    """The video codec in `out`, as large as it is there, or grown. Raises CheckpointError if it does not fit."""
    stored = checkpoint.load(out / VIDEO_FILE, kind=VIDEO_KIND)
    model = VideoCodec(config or VideoCodecConfig(**sizes_of(stored)))
    grow(model, stored.tensors)
    return model


@torch.no_grad()
def grow(model: VideoCodec, weights: Mapping[str, Tensor]) -> None:
    """Fill a codec with the weights of one with fewer blocks; its further blocks do nothing yet.

    Raises CheckpointError naming a weight that fits nowhere.
    """
    own = model.state_dict()
    for name, value in weights.items():
        if name not in own or own[name].shape != value.shape:
            raise CheckpointError(f"{name} {tuple(value.shape)} has no place in {model.config}")
        own[name].copy_(value)
    for name in own.keys() - weights.keys():
        if name.endswith(("second.weight", "second.bias")):
            own[name].zero_()
        elif not re.search(r"\.(low|middle|high)\.\d+\.", name):
            raise CheckpointError(f"{name} of {model.config} is in no block, and has no weights to begin with")


def _train_pictures(run: CodecRun[VideoCodec], pool: Pool, progress: Callable[[float], None] | None) -> None:
    model, recipe, device = run.model, run.recipe, run.device
    assert isinstance(recipe, VideoTraining)

    def loss(run: CodecRun[VideoCodec]) -> tuple[Tensor, Mapping[str, Tensor]]:
        generator = run.generator()
        true, weight, painted = pool.draw(run.step, recipe, generator, run.progress >= recipe.whole)
        with mixed(device, recipe.bf16):
            raw = model.encoder(true).float()
            shown = list(noised(raw, recipe.noise, generator))
            made, _ = model.decoder(torch.stack([s if p is None else p for s, p in zip(shown, painted, strict=True)]))
        value, parts = video_loss(made.permute(0, 1, 4, 2, 3), true.permute(0, 1, 4, 2, 3), weight)
        psnr = -10 * torch.log10((made.detach().float() - true).square().mean() / 4)
        if progress is not None:
            progress(run.progress)
        return value + recipe.latent_l2 * raw.square().mean(), {**parts, "psnr": psnr, "latent_std": raw.std()}

    run.go(loss, lambda model: video_sheet(model, pool, recipe))


def save_codec(model: VideoCodec | AudioCodec, path: Path, kind: str) -> str:
    """Write a codec as bf16 weights; returns their hash."""
    return checkpoint.save(path, model.state_dict(), kind=kind, config=asdict(model.config), storage="bf16")


@torch.no_grad()
def video_sheet(model: VideoCodec, pool: Pool, recipe: VideoTraining) -> np.ndarray[Any, Any]:
    """Six clips, truth over reconstruction, five frames each: a picture (rows, columns, 3) uint8."""
    alike = pool.samples(6)
    true = torch.stack([frames[: recipe.frames] for frames in alike]).to(pool.device).float() / 127.5 - 1
    with mixed(pool.device, recipe.bf16):
        made, _ = model.decoder(model.encoder(true))
    rows = []
    for clip in range(len(alike)):
        for frames in (true[clip], made[clip].float()):
            rows.append(torch.cat(list(frames[:: max(1, recipe.frames // 5)]), 1))
    sheet = (torch.cat(rows, 0).clamp(-1, 1) + 1) * 127.5
    return sheet.round().to(torch.uint8).cpu().numpy()


def playhouse_films(
    seed: int = 0, seconds: float = 2.0, device: str | torch.device = "cpu", paint: Paint | None = None
) -> Films:
    """Clips of the playhouse's training split; groups of 8 neighbours take turns in the three formats, the square
    one twice. paint: makes their painted latents."""
    from phonofilm.playhouse.casting import draw_scene
    from phonofilm.playhouse.playhouse import take

    def films(indices: Sequence[int]) -> list[Footage]:
        size = (SIZES[0], *SIZES)[indices[0] // 8 % 4]
        seeds = [seed + i for i in indices]
        shot = take(seeds, "train", seconds, size, device)
        scenes = [draw_scene(s, "train", seconds=seconds) for s in seeds]
        painted = [None] * len(seeds) if paint is None else paint(scenes, seeds, size)
        footage = []
        for k, sights in enumerate(shot.sights):
            boxes = torch.from_numpy(np.stack([sight.box for sight in sights], 1)) if sights else None
            footage.append(Footage(shot.frames[k], boxes, painted[k]))
        return footage

    return films
