"""Clips into files: MP4, MOV, WebM, MKV, GIF, WAV, PNG and PNG sequences, frame by frame as they are made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np

from phonofilm.clip import Clip, Frames, Samples, samples_in
from phonofilm.errors import InputError, OutputError, PhonofilmError
from phonofilm.media.sinks import Seal, check_channels, opened


def write(clip: Clip, path: str | Path, *, seal: Seal | None = None) -> None:
    """Write `clip`; the suffix of `path` says how.

    .mp4 and .mov (H.264 + AAC), .webm and .mkv (VP9 + Opus), .gif, .wav (sound alone, 16 bit), .png (a clip of one
    frame), a pattern such as out/%04d.png or a name without suffix (a folder of PNGs, sound.wav beside).
    Odd sizes gain a row or column at the edge where the codec needs it; sound is cut or filled up to the picture's
    length. A sequence takes the place of an older one, never of files that `Writer` did not write.
    Raises InputError for a name or a clip that does not fit it, OutputError when writing fails; then nothing is left
    behind and an older file of that name stays.
    seal: the last step, on the finished files before they take their places (see `sinks.Seal`).
    """
    audio = clip.audio
    rate, channels = (audio.sample_rate, audio.channels) if audio else (None, 1)
    with Writer(path, clip.fps, sample_rate=rate, channels=channels, seal=seal) as writer:
        block = max(1, round(clip.fps / 4))  # a quarter of a second at a time, so that the streams interleave
        done = 0
        for start in range(0, len(clip.frames), block):
            frames = clip.frames[start : start + block]
            if audio is None:
                writer.add(frames)
            else:
                end = samples_in((start + len(frames)) / clip.fps, audio.sample_rate)
                writer.add(frames, audio.samples[:, done:end])
                done = end


class Writer:
    """Writes a file while its frames are being made.

    >>> with Writer("ball.mp4", 16, sample_rate=16000) as writer:
    ...     writer.add(frames, samples)  # uint8 (T, H, W, 3), float32 (C, N); again and again

    The file appears when the block ends well; else nothing is left of it. Arguments as in `write`.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float,
        *,
        sample_rate: int | None = None,
        channels: int = 1,
        seal: Seal | None = None,
    ) -> None:
        self.path, self.fps, self.sample_rate, self.channels = Path(path), float(fps), sample_rate, channels
        self.frames = 0  # written so far
        self._shape: tuple[int, ...] = ()
        self._samples = 0  # written so far
        self._waiting: list[Samples] = []  # sound whose frames are still to come
        if not 0 < self.fps <= 1000:
            raise InputError(f"fps must be above 0 and at most 1000 to be written, got {fps:g}")
        if sample_rate is not None:
            check_channels(self.path, channels)
        self._stack = contextlib.ExitStack()
        with _clear_errors(self.path):
            self._sink = self._stack.enter_context(opened(self.path, self.fps, sample_rate, channels, seal))

    def add(self, frames: Frames, samples: Samples | None = None) -> None:
        """Append `frames` uint8 (T, H, W, 3) and the sound that goes with them, float32 (C, N) in [-1, 1].

        Sound may come earlier or later than its frames.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            raise InputError(f"frames must be uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
        if samples is not None:
            if self.sample_rate is None:
                raise InputError("sound needs a Writer that was given a sample_rate")
            if samples.ndim != 2 or len(samples) != self.channels:
                raise InputError(f"sound must be (C, N) with C = {self.channels}, got {samples.shape}")
        with _clear_errors(self.path):
            for frame in frames:
                self._shape = self._shape or frame.shape
                if frame.shape != self._shape:
                    raise InputError(f"all frames must have one size, got {frame.shape} after {self._shape}")
                self._sink.picture(frame)
                self.frames += 1
            if samples is not None and samples.shape[1]:
                self._waiting.append(np.asarray(samples, np.float32))
            self._emit(last=False)

    def _emit(self, *, last: bool) -> None:
        """Hand on the sound that belongs to the frames so far."""
        if self.sample_rate is None:
            return
        due = samples_in(self.frames / self.fps, self.sample_rate)
        if self.frames == 0:  # sound alone
            due = self._samples + sum(part.shape[1] for part in self._waiting)
        while self._waiting and self._samples < due:
            part = self._waiting.pop(0)
            now, later = np.split(part, [due - self._samples], axis=1)
            if later.shape[1]:
                self._waiting.insert(0, later)
            self._samples += now.shape[1]
            self._sink.sound(now)
        if last and self._samples < due:
            self._sink.sound(np.zeros((self.channels, due - self._samples), np.float32))
            self._samples = due

    def close(self) -> None:
        """Finish the file and put it in its place."""
        with _clear_errors(self.path), self._stack.pop_all():
            self._emit(last=True)

    def abandon(self) -> None:
        """Leave nothing of the file."""
        with contextlib.suppress(_Abandoned), self._stack.pop_all():
            raise _Abandoned

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


class _Abandoned(Exception):
    """Tells the sink to let go; never leaves this file."""


@contextlib.contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """FFmpeg's errors and the system's become one clear line."""
    try:
        yield
    except PhonofilmError:
        raise
    except Exception as error:
        import av

        if isinstance(error, OSError | av.FFmpegError):
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
        raise
