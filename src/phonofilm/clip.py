"""`Clip`, what people see and hear, and every conversion between seconds, frames and samples.

Shapes: T frames, H rows, W columns, C channels of sound, N samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from phonofilm.errors import InputError

Frames = NDArray[np.uint8]
Samples = NDArray[np.float32]

NATIVE_FPS: Final = 16  # frames per second of the built-in model
NATIVE_RATE: Final = 16_000  # Hz, mono: 1000 samples a frame
FORMATS: Final[dict[str, tuple[int, int]]] = {"square": (128, 128), "portrait": (96, 160), "landscape": (160, 96)}
"""The native sizes, (width, height) in pixels."""


@dataclass(frozen=True, eq=False)
class Audio:
    """Sound: `samples` float32 (C, N) in [-1, 1], `sample_rate` in Hz."""

    samples: Samples
    sample_rate: int

    def __post_init__(self) -> None:
        s = self.samples
        if not isinstance(s, np.ndarray) or s.dtype != np.float32 or s.ndim != 2 or s.shape[0] < 1:
            raise InputError(f"audio samples must be a float32 array (channels, samples), got {_describe(s)}")
        if isinstance(self.sample_rate, bool) or not isinstance(self.sample_rate, int) or self.sample_rate < 1:
            raise InputError(f"sample_rate must be a whole number of Hz above 0, got {self.sample_rate!r}")
        peak = float(np.abs(s).max(initial=0.0))
        if not peak <= 1.0:  # also catches NaN
            raise InputError(f"audio samples must lie in [-1, 1], the largest is {peak:g}")

    @property
    def channels(self) -> int:
        return int(self.samples.shape[0])

    @property
    def seconds(self) -> float:
        return float(self.samples.shape[1] / self.sample_rate)


@dataclass(frozen=True, eq=False)
class Clip:
    """`frames` uint8 (T, H, W, 3) sRGB shown at `fps`, and its sound, or None. A picture is a clip of one frame."""

    frames: Frames
    fps: float
    audio: Audio | None = None

    def __post_init__(self) -> None:
        f = self.frames
        if not isinstance(f, np.ndarray) or f.dtype != np.uint8 or f.ndim != 4 or f.shape[3] != 3 or 0 in f.shape:
            raise InputError(f"frames must be a uint8 array (T, H, W, 3) of at least one pixel, got {_describe(f)}")
        if isinstance(self.fps, bool) or not isinstance(self.fps, int | float) or not 0 < self.fps < math.inf:
            raise InputError(f"fps must be a number above 0, got {self.fps!r}")
        if self.audio is not None and not isinstance(self.audio, Audio):
            raise InputError(f"audio must be an Audio or None, got {_describe(self.audio)}")

    @property
    def seconds(self) -> float:
        """Length of the picture: each frame is shown for 1 / fps."""
        return len(self.frames) / self.fps

    @property
    def picture(self) -> bool:
        """True for a still: a clip of one frame."""
        return len(self.frames) == 1

    @property
    def width(self) -> int:
        return int(self.frames.shape[2])

    @property
    def height(self) -> int:
        return int(self.frames.shape[1])


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return type(value).__name__


# --- seconds, frames, samples ---------------------------------------------------------------------------------------


def frames_in(seconds: float, fps: float) -> int:
    """How many frames fill `seconds`, at least 1."""
    return max(1, round(seconds * fps))


def samples_in(seconds: float, sample_rate: int) -> int:
    """How many samples fill `seconds`."""
    return round(seconds * sample_rate)


def frame_at(time: float, fps: float) -> int:
    """The index of the frame that is shown at `time` seconds: frame k covers [k / fps, (k + 1) / fps)."""
    return math.floor(time * fps + 1e-9)


def exact_rate(fps: float) -> Fraction:
    """The rate as the fraction that is meant: 23.976 → 24000/1001."""
    for numerator, denominator in ((round(fps), 1), (round(fps) * 1000, 1001)):
        if numerator and abs(numerator / denominator - fps) < 1e-3:
            return Fraction(numerator, denominator)
    return Fraction(fps).limit_denominator(1001)


# --- picture --------------------------------------------------------------------------------------------------------


def retime(frames: Frames, fps: float, to_fps: float, method: Literal["nearest", "box"] = "nearest") -> Frames:
    """Change the frame rate of `frames` (T, H, W, 3) and keep its length in seconds, to the nearest frame.

    "nearest": each new frame is the old one that is shown at its middle. "box": the mean of all that is shown
    during it, as a shutter that is open all the time would see it.
    """
    if fps == to_fps:
        return frames
    old, new = len(frames), frames_in(len(frames) / fps, to_fps)
    ratio = fps / to_fps
    if method == "nearest":
        index = np.floor((np.arange(new) + 0.5) * ratio + 1e-9).astype(np.int64)
        picked: Frames = frames[np.minimum(index, old - 1)]
        return picked
    weights = _coverage(np.arange(new + 1) * ratio, old)
    out = np.empty((new, *frames.shape[1:]), np.uint8)
    for k, row in enumerate(weights):
        (used,) = np.nonzero(row)
        mean = np.tensordot(row[used], frames[used].astype(np.float32), axes=1)
        out[k] = (mean + 0.5).astype(np.uint8)
    return out


def _coverage(edges: NDArray[np.floating[Any]], cells: int) -> NDArray[np.float32]:
    """Row k: what share of [edges[k], edges[k + 1]) lies in each unit cell; rows sum to 1, past the ends is the end."""
    left = np.clip(edges[:-1, None], 0, cells)
    right = np.clip(edges[1:, None], 0, cells)
    cell = np.arange(cells)
    overlap = np.maximum(0.0, np.minimum(right, cell + 1) - np.maximum(left, cell))
    empty = overlap.sum(1) == 0
    overlap[empty, -1] = 1.0
    weights: NDArray[np.float32] = (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)
    return weights


def _resize_weights(old: int, new: int, start: float, span: float) -> NDArray[np.float32]:
    """(new, old) matrix that scales old[start : start + span] to `new` values: area when shrinking, else linear."""
    scale = span / new
    if scale >= 1:
        return _coverage(start + np.arange(new + 1) * scale, old)
    centre = np.clip(start + (np.arange(new) + 0.5) * scale - 0.5, 0, old - 1)
    weights: NDArray[np.float32] = np.maximum(0.0, 1.0 - np.abs(centre[:, None] - np.arange(old))).astype(np.float32)
    return weights


HALF: Final = 0.5 + 2**-10  # is added before rounding down: halves go up in whatever order a processor adds


def fit(frames: Frames, width: int, height: int) -> Frames:
    """Crop `frames` (T, H, W, 3) about the middle to the shape of width × height, then scale by area."""
    if width < 1 or height < 1:
        raise InputError(f"size must be at least 1x1, got {width}x{height}")
    h, w = frames.shape[1:3]
    if (w, h) == (width, height):
        return frames
    scale = min(w / width, h / height)
    span_w, span_h = width * scale, height * scale
    down = _resize_weights(h, height, (h - span_h) / 2, span_h)
    across = _resize_weights(w, width, (w - span_w) / 2, span_w)
    out = np.empty((len(frames), height, width, 3), np.uint8)
    for k, frame in enumerate(frames):
        rows = down @ frame.reshape(h, w * 3).astype(np.float32)  # (height, w·3)
        out[k] = (across @ rows.reshape(height, w, 3) + HALF).astype(np.uint8)
    return out


def best_format(width: int, height: int) -> tuple[int, int]:
    """The native (width, height) whose shape is nearest, by the ratio of aspects."""
    return min(FORMATS.values(), key=lambda s: abs(math.log(width / height * s[1] / s[0])))


# --- sound ----------------------------------------------------------------------------------------------------------


def resample(audio: Audio, sample_rate: int) -> Audio:
    """Band-limited change of rate; the length is round(N · new / old) samples."""
    old = audio.sample_rate
    if old == sample_rate:
        return audio
    from scipy.signal import resample_poly

    ratio = Fraction(sample_rate, old)
    count = round(audio.samples.shape[1] * ratio)
    out = resample_poly(audio.samples.astype(np.float64), ratio.numerator, ratio.denominator, axis=1)
    return Audio(_exactly(np.clip(out, -1, 1).astype(np.float32), count), sample_rate)


def mono(audio: Audio) -> Audio:
    """One channel. Stereo: the mean. 5.1 (L R C LFE Ls Rs): ITU-R BS.775 weights without LFE, scaled not to clip."""
    if audio.channels == 1:
        return audio
    weights = np.ones(audio.channels, np.float32)
    if audio.channels == 6:
        weights[:] = (1, 1, math.sqrt(2), 0, math.sqrt(0.5), math.sqrt(0.5))
    mixed = (weights / weights.sum()) @ audio.samples
    return Audio(np.clip(mixed, -1, 1)[None], audio.sample_rate)


def lasting(audio: Audio, seconds: float) -> Audio:
    """Cut, or filled up with silence, to exactly `samples_in(seconds)`."""
    return replace(audio, samples=_exactly(audio.samples, samples_in(seconds, audio.sample_rate)))


def _exactly(samples: Samples, count: int) -> Samples:
    if samples.shape[1] >= count:
        return samples[:, :count]
    return np.pad(samples, ((0, 0), (0, count - samples.shape[1])))


# --- both -----------------------------------------------------------------------------------------------------------


def to_native(clip: Clip, size: tuple[int, int] | None = None, fps: float = NATIVE_FPS) -> Clip:
    """The clip at `fps`, at `size` (width, height; None: the best native format), its sound mono at 16 kHz.

    The sound is made exactly as long as the picture. A clip without sound stays without.
    """
    width, height = size or best_format(clip.width, clip.height)
    frames = fit(retime(clip.frames, clip.fps, fps), width, height)
    audio = clip.audio and lasting(resample(mono(clip.audio), NATIVE_RATE), len(frames) / fps)
    return Clip(frames, fps, audio)


def join(clips: Sequence[Clip]) -> Clip:
    """The clips one after another. They must agree in size, rate and sound format."""
    if not clips:
        raise InputError("there is nothing to join: got no clips")
    first = clips[0]
    for clip in clips:
        if _signature(clip) != _signature(first):
            raise InputError(f"clips to be joined differ: {_signature(clip)} and {_signature(first)}")
    audio = None
    if first.audio is not None:
        parts = [lasting(c.audio, c.seconds).samples for c in clips if c.audio]
        audio = Audio(np.concatenate(parts, axis=1), first.audio.sample_rate)
    return Clip(np.concatenate([c.frames for c in clips]), first.fps, audio)


def _signature(clip: Clip) -> tuple[int, int, float, tuple[int, int] | None]:
    sound = (clip.audio.channels, clip.audio.sample_rate) if clip.audio else None
    return clip.width, clip.height, clip.fps, sound
