"""Files into clips: video with sound, pictures, sequences, and sound alone."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from phonofilm.clip import Audio, Clip, Frames, Samples, exact_rate
from phonofilm.errors import MediaError
from phonofilm.media.decode import Job, Report, decode
from phonofilm.media.formats import Limits
from phonofilm.media.sandbox import decode_apart

_FASTEST: Final = 240.0  # frames per second; more is a clock that means something else


def read(
    path: str | Path,
    *,
    limits: Limits | None = None,
    trusted: bool = False,
    size: tuple[int, int] | Literal["native"] | None = None,
    seconds: float | None = None,
) -> Clip:
    """Read MP4, MOV, MKV, WebM, AVI, Ogg, GIF, PNG, JPEG, WebP, or a PNG sequence (a folder or out/%04d.png).

    The kind is told by the content, never by the name. Rotation and pixel shape are applied; frames on an uneven
    clock are put on an even one; sound keeps its rate and channels and begins with the picture, and gaps in its time
    stamps become silence.

    limits: what the file may hold at most. trusted: decode in this process, quickly; else in a confined one.
    size: crop and scale to (width, height) while reading; "native": to the native format of the nearest shape.
    seconds: read no more than that from the start, however long the file is.
    Raises MediaError with one line that says what is wrong.
    """
    limits = limits or Limits()
    report, frames, samples = _decode(Job(str(path), limits, size, seconds), trusted)
    frames, fps = _on_even_clock(report, frames, limits, str(path))
    audio = _sound(report, samples)
    if audio is not None and seconds is not None:
        audio = Audio(audio.samples[:, : round(seconds * audio.sample_rate)], audio.sample_rate)
    return Clip(frames, fps, audio)


def read_audio(
    path: str | Path, *, limits: Limits | None = None, trusted: bool = False, seconds: float | None = None
) -> Audio:
    """The sound of WAV, MP3, FLAC, AAC, Ogg, or of any film. Arguments and errors as in `read`."""
    job = Job(str(path), limits or Limits(), None, seconds, picture=False)
    report, _, samples = _decode(job, trusted)
    audio = _sound(report, samples)
    assert audio is not None
    if seconds is not None:
        audio = Audio(audio.samples[:, : round(seconds * audio.sample_rate)], audio.sample_rate)
    return audio


def read_mask(path: str | Path, *, limits: Limits | None = None, trusted: bool = False) -> Clip:
    """A picture that is a mask, as one frame: white where it is opaque or, if all of it is, bright; else black.

    The border is 50 % of opacity or luma. Arguments and errors as in `read`.
    """
    _, frames, _ = _decode(Job(str(path), limits or Limits(), sound=False, mask=True), trusted)
    return Clip(frames, 16.0)


def _decode(job: Job, trusted: bool) -> tuple[Report, Frames, Samples]:
    if not trusted:
        return decode_apart(job)
    frames: list[Frames] = []
    sound: list[Samples] = []
    report = decode(job, frames.append, sound.append)
    samples = np.concatenate(sound, axis=1) if sound else np.empty((1, 0), np.float32)
    return report, np.stack(frames) if frames else np.empty((0, 1, 1, 3), np.uint8), samples


def _sound(report: Report, samples: Samples) -> Audio | None:
    """Sound that begins with the picture: its start is cut off or filled with silence."""
    if report.sample_rate is None:
        return None
    if report.sound_seconds is not None:  # what follows is the filling of the last coded block
        length = round(report.sound_seconds * report.sample_rate)
        if 0 <= samples.shape[1] - length <= 4096:
            samples = samples[:, :length]
    shift = round(report.sound_start * report.sample_rate)
    samples = np.pad(samples, ((0, 0), (shift, 0))) if shift > 0 else samples[:, -shift:]
    return Audio(np.ascontiguousarray(samples), report.sample_rate)


def _on_even_clock(report: Report, frames: Frames, limits: Limits, path: str) -> tuple[Frames, float]:
    """Frames at a steady rate, and the rate."""
    times = np.asarray(report.times)
    count = len(times)
    if count == 1:
        return frames, min(_FASTEST, 1 / report.end) if report.end > 0.001 else 16.0
    fps = _rate(report, times)
    if np.all(np.abs(times * fps - np.arange(count)) < 0.5):
        return frames, fps
    end = max(report.end, times[-1] + float(np.median(np.diff(times))))
    new = max(1, round(end * fps))
    if new > limits.frames or new * frames[0].nbytes > limits.decoded_bytes:
        raise MediaError(f"{path}: lasts {end:.1f} s at {fps:g} frames a second, which is more than is read")
    middles = (np.arange(new) + 0.5) / fps  # each new frame is what is shown at its middle
    return frames[np.searchsorted(times, middles, side="right") - 1], fps


def _rate(report: Report, times: NDArray[np.float64]) -> float:
    """The rate that the file declares; else the mean, or the whole number that clocks of 1/100 s round to it."""
    if report.rate:
        declared = report.rate[0] / report.rate[1]
        if 1 <= declared <= _FASTEST:
            return float(exact_rate(declared))
    span = float(times[-1])
    mean = (len(times) - 1) / span
    whole = round(mean)
    if abs(whole - mean) / mean < 0.011 / span:
        mean = float(whole)
    return min(_FASTEST, max(1.0, mean))
