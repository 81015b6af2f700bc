"""How each kind of file takes its frames and its sound, one after another.

H rows, W columns, C channels, N samples.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import wave
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from phonofilm.clip import Audio, Frames, Samples, exact_rate, resample
from phonofilm.errors import InputError
from phonofilm.files import replacing
from phonofilm.media.formats import SOUND_FILE, check_pattern, is_pattern, numbered, sequence

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.video.stream import VideoStream

SUFFIXES: Final = (".mp4", ".mov", ".webm", ".mkv", ".gif", ".wav", ".png")
_AAC_LAYOUTS: Final = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
_OPUS_LAYOUTS: Final = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 6: "5.1", 8: "7.1"}  # FFmpeg swaps those of 5.0
_OPUS_RATES: Final = (8000, 12000, 16000, 24000, 48000)
_AAC_RATES: Final = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_BT709: Final = 1  # ITU-T H.273: primaries, transfer and matrix of ITU-R BT.709 all have the number 1
_LIMITED_RANGE: Final = 1


Seal = Callable[[Mapping[Path, Path]], None]
"""The last step of writing: gets each finished file with the place that it will take, before any of them takes it."""


class Sink(Protocol):
    """Takes frames and sound; `finish` completes the file, `abandon` lets go of it."""

    def picture(self, frame: Frames) -> None:
        """One frame (H, W, 3)."""

    def sound(self, samples: Samples) -> None:
        """Samples (C, N)."""

    def finish(self) -> None: ...

    def abandon(self) -> None: ...


def check_ending(path: Path, *, picture: bool, sound: bool) -> None:
    """Raise InputError where what is to be made, one picture or a film, with or without sound, cannot become `path`.

    Also where a sequence would take the place of files that are none of its own, see `_older`.
    """
    suffix = path.suffix.lower()
    if is_pattern(path) and suffix != ".png":
        raise InputError(f"{path}: a sequence of pictures is written as .png, such as frames/%04d.png")
    if pattern := _pattern(path):
        _older(pattern)
    if suffix == ".png" and not is_pattern(path) and not picture:
        raise InputError(f"{path}: a film is no single .png; for its frames name a pattern such as frames/%04d.png")
    if suffix == ".wav" and (picture or not sound):
        raise InputError(f"{path}: a clip without sound cannot become a WAV")


def check_channels(path: Path, channels: int) -> None:
    """Raise InputError where sound of so many channels cannot become `path`."""
    layouts = _layouts(path.suffix.lower())
    if channels not in layouts:
        counts = ", ".join(map(str, layouts))
        raise InputError(f"{path}: sound must have {counts} channels to be written so, got {channels}")


def _layouts(suffix: str) -> dict[int, str]:
    return _OPUS_LAYOUTS if suffix in (".webm", ".mkv") else _AAC_LAYOUTS


def _pattern(path: Path) -> Path | None:
    """The pattern of the sequence that `path` names, None for a single file; InputError for what is neither."""
    suffix = path.suffix.lower()
    if suffix == ".png" and is_pattern(path):
        check_pattern(path)
        return path
    if suffix == "" and path.name and not is_pattern(path):
        return path / "%04d.png"
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: the suffix must be one of {', '.join(SUFFIXES)}, or none for a folder of PNGs")
    return None


def _older(pattern: Path) -> list[Path]:
    """The files of an older sequence of that name, which a new one replaces; none if there is none.

    Raises InputError where the pictures or the sound there were not written by `_Sequence`.
    """
    old = sequence(pattern)
    sound = [file for file in [pattern.parent / SOUND_FILE] if os.path.lexists(file)]
    foreign = [file for file in old if not _knows_its_rate(file)] or (sound if not old else [])
    if foreign:
        raise InputError(
            f"{pattern}: {foreign[0]} is there and is of no sequence that was written here; name another folder, "
            "or move it away"
        )
    return old + sound


def _knows_its_rate(path: Path) -> bool:
    """Whether it is a PNG with the text "fps" before its pixels, as `_Sequence` writes them."""
    with contextlib.suppress(OSError):
        if not path.is_file():  # to open a pipe would wait
            return False
        with path.open("rb") as file:
            if file.read(8) != b"\x89PNG\r\n\x1a\n":
                return False
            chunk = 8  # where it begins: 4 bytes of length, 4 of kind, what it holds, 4 of checksum
            while len(head := file.read(12)) == 12 and head[4:8] != b"IDAT":
                if head[4:] == b"tEXtfps\0":
                    return True
                chunk = file.seek(chunk + 12 + int.from_bytes(head[:4], "big"))
    return False


@contextlib.contextmanager
def opened(path: Path, fps: float, sample_rate: int | None, channels: int, seal: Seal | None = None) -> Iterator[Sink]:
    """A sink for `path`; the file takes its place when the block and `seal` end well, else nothing is left of it."""
    suffix = path.suffix.lower()
    if pattern := _pattern(path):
        manager = _sequence(pattern, fps, sample_rate, channels, seal)
    elif suffix == ".wav" and sample_rate is None:
        raise InputError(f"{path}: a clip without sound cannot become a WAV")
    else:
        manager = _file(path, suffix, fps, sample_rate, channels, seal)
    with manager as sink:
        yield sink


@contextlib.contextmanager
def _file(
    path: Path, suffix: str, fps: float, sample_rate: int | None, channels: int, seal: Seal | None
) -> Iterator[Sink]:
    with replacing(path) as beside:
        sink: Sink
        match suffix:
            case ".wav":
                sink = _Wav(beside, sample_rate or 0, channels)
            case ".png":
                sink = _Png(beside)
            case ".gif":
                sink = _Gif(beside, fps)
            case _:
                sink = _Film(beside, suffix, fps, sample_rate, channels)
        try:
            yield sink
            sink.finish()
            if seal:
                seal({beside: path})
        except BaseException:
            sink.abandon()
            raise


@contextlib.contextmanager
def _sequence(pattern: Path, fps: float, sample_rate: int | None, channels: int, seal: Seal | None) -> Iterator[Sink]:
    """Made in a folder of its own, then moved; replaces an older sequence of that name, and no other files."""
    _older(pattern)
    new_folder = not pattern.parent.exists()
    pattern.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".sequence.", dir=pattern.parent))
    try:
        sink = _Sequence(beside / pattern.name, fps, sample_rate, channels)
        try:
            yield sink
            sink.finish()
        except BaseException:
            sink.abandon()
            raise
        made = [*sequence(beside / pattern.name), *beside.glob(SOUND_FILE)]
        if seal:
            seal({file: pattern.parent / file.name for file in made})
        old = _older(pattern)  # again: others may have come since
        for new in made:
            os.replace(new, pattern.parent / new.name)
        for file in {*old} - {pattern.parent / new.name for new in made}:
            file.unlink(missing_ok=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if new_folder:
            with contextlib.suppress(OSError):  # it is not empty: all went well
                pattern.parent.rmdir()


class _Film:
    """Picture and sound in one container, through FFmpeg."""

    def __init__(self, path: Path, suffix: str, fps: float, sample_rate: int | None, channels: int) -> None:
        self.path, self.suffix, self.rate = path, suffix, exact_rate(fps)
        self.sample_rate, self.channels = sample_rate, channels
        self.count = self.samples = 0
        self.container: OutputContainer | None = None
        self.video: VideoStream
        self.audio: AudioStream | None = None
        legal = _OPUS_RATES if suffix in (".webm", ".mkv") else _AAC_RATES
        self.layout = _layouts(suffix)[channels] if sample_rate else ""
        self.coded_rate = sample_rate and min((r for r in legal if r >= sample_rate), default=max(legal))
        self.waiting: list[Samples] = []

    def open(self, width: int, height: int) -> OutputContainer:
        import av

        h264 = self.suffix in (".mp4", ".mov")
        names = {".mp4": "mp4", ".mov": "mov", ".webm": "webm", ".mkv": "matroska"}
        options = {"movflags": "+faststart"} if h264 else {}
        container = av.open(str(self.path), "w", format=names[self.suffix], options=options)
        self.container = container
        if h264:
            coding = {"preset": "veryfast", "crf": "18"}
        else:
            coding = {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "8", "row-mt": "1"}
        video: VideoStream = container.add_stream("libx264" if h264 else "libvpx-vp9", self.rate, coding)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.color_primaries = video.color_trc = video.colorspace = _BT709
        video.color_range = _LIMITED_RANGE
        self.video = video
        if self.coded_rate is not None:
            audio: AudioStream = container.add_stream("aac" if h264 else "libopus", self.coded_rate)
            audio.codec_context.layout = self.layout
            audio.bit_rate = 64_000 * self.channels
            self.audio = audio
        return container

    def picture(self, frame: Frames) -> None:
        import av

        height, width = frame.shape[:2]
        even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        container = self.container or self.open(even.shape[1], even.shape[0])
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        yuv = rgb.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED_RANGE)
        yuv.pts, yuv.time_base, yuv.duration = self.count, 1 / self.rate, 1
        self.count += 1
        container.mux(self.video.encode(yuv))
        if self.coded_rate == self.sample_rate:
            for samples in self.waiting:
                self._code(samples)
            self.waiting.clear()

    def sound(self, samples: Samples) -> None:
        # the header needs the size of the picture first, and a change of rate needs all of the sound
        if self.container is None or self.coded_rate != self.sample_rate:
            self.waiting.append(samples)
        else:
            self._code(samples)

    def _code(self, samples: Samples) -> None:
        import av

        assert self.container is not None and self.audio is not None and self.coded_rate is not None
        # packed: PyAV does not find the end of a list of 8 planes
        packed = np.ascontiguousarray(samples.T).reshape(1, -1)
        sound = av.AudioFrame.from_ndarray(packed, "flt", self.layout)
        sound.sample_rate, sound.pts, sound.time_base = self.coded_rate, self.samples, Fraction(1, self.coded_rate)
        self.samples += samples.shape[1]
        self.container.mux(self.audio.encode(sound))

    def finish(self) -> None:
        if self.container is None:
            raise InputError("a film needs at least one frame")
        if self.waiting and self.sample_rate and self.coded_rate:
            whole = Audio(np.clip(np.concatenate(self.waiting, axis=1), -1, 1), self.sample_rate)
            self._code(resample(whole, self.coded_rate).samples)
        self.container.mux(self.video.encode(None))
        if self.audio is not None:
            self.container.mux(self.audio.encode(None))
        self.container.close()

    def abandon(self) -> None:
        if self.container is not None:
            with contextlib.suppress(Exception):  # the file goes anyway, and the first error is the one to tell
                self.container.close()


class _Gif:
    """An animated GIF: 256 colours for each frame, times in hundredths of a second, no sound."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self.count, self.last = 0, -100
        self.container: OutputContainer | None = None
        self.video: VideoStream

    def picture(self, frame: Frames) -> None:
        import av
        from PIL import Image

        if self.container is None:
            self.container = av.open(str(self.path), "w", format="gif")
            # no cropping to what changed: FFmpeg compares numbers of colours, whose tables differ from frame to frame
            self.video = self.container.add_stream("gif", rate=100, options={"gifflags": "0"})
            self.video.width, self.video.height, self.video.pix_fmt = frame.shape[1], frame.shape[0], "pal8"
            self.video.codec_context.time_base = Fraction(1, 100)
        time = round(100 * self.count / self.fps)
        self.count += 1
        if time - self.last < 2:  # browsers slow down anything faster
            return
        self.last = time
        flat = Image.fromarray(frame).quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
        colours = np.asarray(flat.getpalette(), np.uint8).reshape(-1, 3)
        table = np.full((256, 4), 255, np.uint8)  # alpha, red, green, blue
        table[: len(colours), 1:] = colours
        packed = av.VideoFrame.from_ndarray((np.asarray(flat), table), format="pal8")  # type: ignore[arg-type]
        packed.pts, packed.time_base = time, Fraction(1, 100)
        self.container.mux(self.video.encode(packed))

    def sound(self, samples: Samples) -> None:
        """A GIF is silent."""

    def finish(self) -> None:
        if self.container is None:
            raise InputError("a GIF needs at least one frame")
        self.container.mux(self.video.encode(None))
        self.container.close()

    def abandon(self) -> None:
        if self.container is not None:
            with contextlib.suppress(Exception):
                self.container.close()


class _Wav:
    """16-bit PCM."""

    def __init__(self, path: Path, sample_rate: int, channels: int) -> None:
        self.file = wave.open(str(path), "wb")  # noqa: SIM115 (closed in finish or abandon)
        self.file.setnchannels(channels)
        self.file.setsampwidth(2)
        self.file.setframerate(sample_rate)

    def picture(self, frame: Frames) -> None:
        """A WAV has no picture."""

    def sound(self, samples: Samples) -> None:
        whole = np.clip(np.rint(samples.T * 32768.0), -32768, 32767).astype("<i2")
        self.file.writeframesraw(whole.tobytes())

    def finish(self) -> None:
        self.file.close()

    def abandon(self) -> None:
        with contextlib.suppress(Exception):
            self.file.close()


class _Png:
    """One picture."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0

    def picture(self, frame: Frames) -> None:
        self.count += 1
        if self.count > 1:
            raise InputError("a PNG holds one picture; write a film to a pattern such as out/%04d.png")
        _save_png(frame, self.path, None)

    def sound(self, samples: Samples) -> None:
        """A PNG is silent."""

    def finish(self) -> None:
        if self.count == 0:
            raise InputError("a PNG needs a frame")

    def abandon(self) -> None:
        """The file beside the target goes with the block around it."""


def _save_png(frame: Frames, path: Path, fps: float | None) -> None:
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    if fps is not None:
        info.add_text("fps", repr(float(fps)))
    Image.fromarray(frame).save(path, format="PNG", pnginfo=info, compress_level=4)


class _Sequence:
    """Numbered PNGs that know their rate, and sound.wav beside."""

    def __init__(self, pattern: Path, fps: float, sample_rate: int | None, channels: int) -> None:
        self.pattern, self.fps, self.count = pattern, fps, 0
        self.wav = _Wav(pattern.parent / SOUND_FILE, sample_rate, channels) if sample_rate else None

    def picture(self, frame: Frames) -> None:
        _save_png(frame, numbered(self.pattern, self.count), self.fps)
        self.count += 1

    def sound(self, samples: Samples) -> None:
        if self.wav:
            self.wav.sound(samples)

    def finish(self) -> None:
        if self.count == 0:
            raise InputError("a sequence needs at least one frame")
        if self.wav:
            self.wav.finish()

    def abandon(self) -> None:
        if self.wav:
            self.wav.abandon()
