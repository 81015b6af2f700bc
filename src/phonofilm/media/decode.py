"""Decoding a file within limits, frame by frame, into whatever takes the frames.

This is what runs in the sandbox. H rows, W columns, C channels, N samples.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from phonofilm.clip import Frames, Samples, best_format, fit
from phonofilm.errors import MediaError
from phonofilm.media.formats import CODECS, IMAGES, SOUND_FILE, SOUND_ONLY, Limits, sequence, sniff

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from PIL.Image import Image as Picture

_MAX_BAD_PACKETS: Final = 10
_JITTER: Final = 0.02
"""Seconds by which the stamps of sound may differ from its count of samples without meaning anything."""


@dataclass(frozen=True)
class Job:
    """What to decode.

    size: None (as it is), (width, height), or "native" (the native format of the nearest shape).
    seconds: stop there, None for all. picture, sound: which of the two. mask: what is read is one picture, of which
    only white and black are left, see `_painted`.
    """

    path: str
    limits: Limits = field(default_factory=Limits)
    size: tuple[int, int] | str | None = None
    seconds: float | None = None
    picture: bool = True
    sound: bool = True
    mask: bool = False


@dataclass
class Report:
    """What was decoded. times: of the frames in seconds from the first; end: when the last one goes."""

    width: int = 0
    height: int = 0
    times: list[float] = field(default_factory=list)
    end: float = 0.0
    rate: tuple[int, int] | None = None  # frames per second as the file declares them
    sample_rate: int | None = None
    channels: int = 0
    sound_start: float = 0.0  # seconds after the first frame
    sound_seconds: float | None = None  # as the file declares it


def decode(job: Job, picture: Callable[[Frames], object], sound: Callable[[Samples], object]) -> Report:
    """Hand each frame (H, W, 3) to `picture` and each block of samples (C, n) to `sound`.

    Raises MediaError when the file is not what is read here, holds more than the limits, or is damaged.
    """
    path = Path(job.path)
    taker = _Taker(job, picture, sound)
    if job.mask and path.is_dir():
        raise MediaError(f"{path}: is a folder, a mask is one picture")
    if path.is_dir() or not path.exists():
        _decode_sequence(path, taker)
        return taker.report
    if not path.is_file():
        raise MediaError(f"{path}: is not a regular file")
    kind = _check_file(path, job.limits)
    if kind in IMAGES:
        if not job.picture:
            raise MediaError(f"{path}: is a picture, it has no sound")
        taker.picture(_open_image(path, kind, job.limits, job.mask)[0], 0.0)
        taker.report.end = 0.0
    elif job.mask:
        raise MediaError(f"{path}: is no picture, and a mask is one (PNG, JPEG, WebP)")
    elif kind in SOUND_ONLY and job.picture:
        raise MediaError(f"{path}: holds sound alone, a clip needs a picture")
    else:
        _decode_film(path, kind, taker)
    return taker.report


def _check_file(path: Path, limits: Limits) -> str:
    size = path.stat().st_size
    if size > limits.file_bytes:
        raise MediaError(f"{path}: has {size} bytes, allowed are {limits.file_bytes}")
    return sniff(path)


class _Taker:
    """Counts what is taken against the limits, and brings frames to the wished size."""

    def __init__(self, job: Job, picture: Callable[[Frames], object], sound: Callable[[Samples], object]) -> None:
        self.job, self.report = job, Report()
        self._picture, self._sound = picture, sound
        self._bytes = self._samples = 0
        self._clock: float | None = None  # the stamp of the first sample, seconds
        self.size: tuple[int, int] | None = None

    def wish(self, width: int, height: int) -> tuple[int, int]:
        """The (width, height) that a frame of that size is brought to."""
        if self.size is None:
            match self.job.size:
                case None:
                    self.size = width, height
                case (int(w), int(h)):
                    self.size = w, h
                case _:
                    self.size = best_format(width, height)
        return self.size

    def picture(self, frame: Frames, time: float) -> None:
        limits, report = self.job.limits, self.report
        width, height = self.wish(frame.shape[1], frame.shape[0])
        self._bytes += width * height * 3
        if len(report.times) >= limits.frames:
            raise MediaError(f"{self.job.path}: has more than {limits.frames} frames")
        if self._bytes > limits.decoded_bytes:
            raise MediaError(f"{self.job.path}: has more than {limits.decoded_bytes} bytes of frames")
        if time > limits.seconds:
            raise MediaError(f"{self.job.path}: lasts longer than {limits.seconds:g} s")
        if report.times and time <= report.times[-1]:
            time = report.times[-1] + 1e-6  # a damaged clock
        report.width, report.height = width, height
        report.times.append(time)
        self._picture(fit(frame[None], width, height)[0])

    def sound(self, samples: Samples, sample_rate: int, time: float | None) -> None:
        """Samples (C, n) stamped `time` (seconds; None: they follow the last): a gap before them becomes silence, and
        what they repeat is dropped."""
        if time is not None:
            if self._clock is None:
                self._clock = time - self._samples / sample_rate
            gap = round((time - self._clock) * sample_rate) - self._samples
            if gap < -_JITTER * sample_rate:
                samples = samples[:, -gap:]
            elif gap > _JITTER * sample_rate:
                self._count(gap, sample_rate)
                for start in range(0, gap, sample_rate):
                    self._sound(np.zeros((len(samples), min(sample_rate, gap - start)), np.float32))
        self._count(samples.shape[1], sample_rate)
        self.report.sample_rate, self.report.channels = sample_rate, len(samples)
        self._sound(samples)

    def _count(self, samples: int, sample_rate: int) -> None:
        """Before they are made, so that no stamp can ask for more than the limit."""
        self._samples += samples
        if self._samples > (self.job.limits.seconds + 1) * sample_rate:
            raise MediaError(f"{self.job.path}: its sound lasts longer than {self.job.limits.seconds:g} s")


# --- films and sounds -----------------------------------------------------------------------------------------------


def _decode_film(path: Path, kind: str, taker: _Taker) -> None:
    import av

    limits = taker.job.limits
    try:
        # an absolute path in the protocol "file", one demuxer, and no other file or host
        alone = {"protocol_whitelist": "file"}
        with av.open(f"file:{path.resolve()}", "r", kind, options=alone, metadata_errors="replace") as container:
            _decode_container(container, path, taker)
    except av.FFmpegError as error:
        raise MediaError(f"{path}: cannot be decoded ({error.strerror or error})") from error
    report = taker.report
    if taker.job.picture and not report.times:
        raise MediaError(f"{path}: holds no frame that can be decoded")
    if not taker.job.picture and report.sample_rate is None:
        raise MediaError(f"{path}: holds no sound")
    if report.end > limits.seconds + 1:
        raise MediaError(f"{path}: lasts {report.end:.1f} s, allowed are {limits.seconds:g} s")


def _decode_container(container: InputContainer, path: Path, taker: _Taker) -> None:
    import av

    job, limits, report = taker.job, taker.job.limits, taker.report
    video = next(iter(container.streams.video), None) if job.picture else None
    audio = next(iter(container.streams.audio), None) if job.sound else None
    streams = [stream for stream in (video, audio) if stream is not None]
    if job.picture and video is None:
        raise MediaError(f"{path}: holds no picture")
    if not streams:
        raise MediaError(f"{path}: holds no sound")
    for stream in streams:
        if stream.codec_context is None:
            raise MediaError(f"{path}: has a codec that is not known")
        codec = stream.codec_context.codec.canonical_name
        if codec not in CODECS:
            raise MediaError(f"{path}: the codec {codec} is not read here")
        stream.codec_context.thread_count = 2
        if job.seconds is None and stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
            if seconds > limits.seconds:
                raise MediaError(f"{path}: lasts {seconds:.1f} s, allowed are {limits.seconds:g} s")
    if video is not None:
        if video.width * video.height > limits.pixels:
            raise MediaError(f"{path}: has {video.width}x{video.height} pixels, allowed are {limits.pixels}")
        if job.seconds is None and video.frames > limits.frames:
            raise MediaError(f"{path}: has {video.frames} frames, allowed are {limits.frames}")
        video.codec_context.options = {"max_pixels": str(limits.pixels)}
        rate = video.average_rate
        if rate and container.format.name != "gif":  # where it is FFmpeg's guess
            report.rate = rate.numerator, rate.denominator
    if audio is not None and audio.duration and audio.time_base:
        report.sound_seconds = float(audio.duration * audio.time_base)
    shape = (video.sample_aspect_ratio if video else None) or Fraction(1)
    resampler: av.AudioResampler | None = None
    first: float | None = None
    sound_first: float | None = None
    done: set[int] = set()

    for item in _frames(container, streams):
        if isinstance(item, av.VideoFrame):
            time = item.time if item.time is not None else (first or 0.0) + report.end
            first = time if first is None else first
            if job.seconds is not None and time - first >= job.seconds - 1e-6:
                done.add(0)
            else:
                taker.picture(_to_rgb(item, shape, taker), time - first)
                step = float(item.duration * item.time_base) if item.duration and item.time_base else 0.0
                report.end = time - first + step
        else:
            assert isinstance(item, av.AudioFrame)
            if sound_first is None:
                sound_first = item.time or 0.0
            late = item.time is not None and item.time - (first if first is not None else sound_first)
            if job.seconds is not None and late is not False and late >= job.seconds + 1:
                done.add(1)
                continue
            channels = item.layout.nb_channels
            if resampler is None:  # PyAV counts planes by the zero that ends their list: from 8 on there is none
                resampler = av.AudioResampler(format="fltp" if channels < 8 else "flt")
            elif channels != report.channels:
                raise MediaError(f"{path}: its sound changes from {report.channels} to {channels} channels")
            stamp = item.time
            for block in resampler.resample(item):
                array = np.asarray(block.to_ndarray(), np.float32)
                if block.format.is_packed:
                    array = array.reshape(-1, channels).T
                samples = np.nan_to_num(array, posinf=1, neginf=-1)
                taker.sound(np.clip(samples, -1, 1), block.sample_rate, stamp)
                stamp = None
        if len(done) == len(streams) or (0 in done and audio is None):
            break
    if sound_first is not None and first is not None:
        report.sound_start = sound_first - first
    if abs(report.sound_start) > limits.seconds:
        raise MediaError(f"{path}: its sound starts {report.sound_start:g} s after its picture")


def _frames(container: InputContainer, streams: list[Any]) -> Iterator[Any]:
    """All frames of the streams in the order of the file; a few damaged packets are passed over."""
    import av

    bad = 0
    for packet in container.demux(*streams):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            bad += 1
            if bad > _MAX_BAD_PACKETS:
                raise


def _to_rgb(frame: VideoFrame, shape: Fraction, taker: _Taker) -> Frames:
    """(H, W, 3) sRGB, upright, with square pixels, not much larger than wished."""
    limits = taker.job.limits
    if frame.width * frame.height > limits.pixels:
        raise MediaError(f"{taker.job.path}: has {frame.width}x{frame.height} pixels, allowed are {limits.pixels}")
    width, height = frame.width, frame.height
    if shape != 1 and Fraction(1, 16) < shape < 16:
        width = max(1, round(width * shape))
    turns = round(frame.rotation / 90) % 4
    upright = (width, height) if turns % 2 == 0 else (height, width)
    wish = taker.wish(*upright)
    if turns % 2:
        wish = wish[1], wish[0]
    scale = max(wish[0] / width, wish[1] / height)
    if scale < 1:
        width, height = math.ceil(width * scale - 1e-6), math.ceil(height * scale - 1e-6)
    if width * height > limits.pixels:
        raise MediaError(f"{taker.job.path}: has {width}x{height} pixels, allowed are {limits.pixels}")
    matrix = frame.colorspace
    if matrix == 2:  # not declared: large pictures are BT.709, small ones BT.601, as players assume
        matrix = 1 if frame.height >= 720 else 5
    rgb = frame.reformat(width, height, "rgb24", src_colorspace=matrix, interpolation="AREA" if scale < 1 else None)
    array = np.asarray(rgb.to_ndarray(), np.uint8)
    return np.ascontiguousarray(np.rot90(array, turns))


# --- pictures and sequences -----------------------------------------------------------------------------------------


def _open_image(path: Path, kind: str, limits: Limits, mask: bool = False) -> tuple[Frames, float | None]:
    """The picture (H, W, 3), upright, on white where it is transparent; and its "fps" text, if it has one.

    mask: white where it is painted, else black.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=[kind]) as image:
                if image.width * image.height > limits.pixels:
                    raise MediaError(f"{path}: has {image.width}x{image.height} pixels, allowed are {limits.pixels}")
                text = image.info.get("fps")
                upright = ImageOps.exif_transpose(image)
                if upright.mode.startswith("I"):  # 16 bits a pixel
                    upright = Image.fromarray((np.asarray(upright, np.float64) / 257).clip(0, 255).astype(np.uint8))
                if mask:
                    upright = _painted(upright)
                elif upright.has_transparency_data:
                    whole = upright.convert("RGBA")
                    upright = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)
                array = np.array(upright.convert("RGB"))
    except MediaError:
        raise
    except Exception as error:  # Pillow's plugins raise all kinds of errors on damaged files
        raise MediaError(f"{path}: cannot be decoded ({error})") from error
    try:
        fps = float(text) if isinstance(text, str) else None
    except ValueError:
        fps = None
    return array, fps if fps and 0 < fps <= 1000 else None


def _painted(image: Picture) -> Picture:
    """White where a picture is opaque or, if all of it is, bright, from 50 % on; else black."""
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    shade = image.convert("L") if alpha is None or alpha.getextrema()[0] == 255 else alpha
    return shade.point(lambda value: 255 if value >= 128 else 0)


def _decode_sequence(path: Path, taker: _Taker) -> None:
    files = sequence(path) if path.is_dir() or path.parent.is_dir() else []
    if not files:
        raise MediaError(f"{path}: there is no such file" if not path.is_dir() else f"{path}: holds no numbered PNGs")
    job = taker.job
    fps = 16.0
    for k, file in enumerate(files if job.picture else ()):
        kind = _check_file(file, job.limits)
        if kind not in IMAGES:
            raise MediaError(f"{file}: is not a picture")
        frame, declared = _open_image(file, kind, job.limits)
        if k == 0:
            fps, shape = declared or fps, frame.shape
        if frame.shape != shape:
            raise MediaError(f"{file}: has another size than the first of its sequence")
        if job.seconds is not None and k / fps >= job.seconds - 1e-6:
            break
        taker.picture(frame, k / fps)
        taker.report.end = (k + 1) / fps
    exact = Fraction(fps).limit_denominator(1001)
    taker.report.rate = exact.numerator, exact.denominator
    wav = files[0].parent / SOUND_FILE
    if job.sound and wav.is_file():
        inner = _Taker(Job(str(wav), job.limits, seconds=job.seconds, picture=False), taker._picture, taker._sound)
        _decode_film(wav, _check_file(wav, job.limits), inner)
        for name in ("sample_rate", "channels", "sound_seconds"):
            setattr(taker.report, name, getattr(inner.report, name))
    elif not job.picture:
        raise MediaError(f"{path}: holds no sound")
