"""Make a folder of 40 captioned clips that are odd in codec, rate, size, rotation, sound or health.

    python scripts/make_odd_clips.py DIR

Each clip shows, upright, a red square in the upper left corner, and flashes white while it beeps, so that a reader
can be checked: the red is where it belongs, and the flash is seen when the beep is heard.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FLASH = (0.5, 0.625)  # seconds, of flash and beep
NTSC_FILM, NTSC = Fraction(24000, 1001), Fraction(30000, 1001)


QUICK = {
    "libx264": {"preset": "ultrafast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    "libsvtav1": {"preset": "12"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "b": "1M"},
    "libvpx": {"deadline": "realtime", "b": "1M"},
}


@dataclass(frozen=True)
class Odd:
    """How one clip is odd. size: as it is shown; rotation: degrees counterclockwise that the player must turn it."""

    name: str
    codec: str = "libx264"
    sound: str | None = "aac"
    fps: Fraction = Fraction(30)
    size: tuple[int, int] = (160, 120)
    seconds: float = 1.5
    rate: int = 44100
    layout: str = "mono"
    rotation: int = 0
    pixels: str = "yuv420p"
    uneven: bool = False  # frames come on an uneven clock
    late: float = 0.0  # seconds by which the sound starts after the picture
    aspect: Fraction = Fraction(1)  # of a pixel
    fault: str = ""  # "truncated", "text", "empty", "no caption", "empty caption"

    @property
    def readable(self) -> bool:
        return not self.fault


ODD: tuple[Odd, ...] = (
    Odd("plain.mp4"),
    Odd("film.mp4", fps=NTSC_FILM, rate=48000, layout="stereo"),
    Odd("ntsc.mp4", fps=NTSC, size=(176, 144)),
    Odd("fifty.mp4", fps=Fraction(50), rate=48000),
    Odd("sixty.mkv", fps=Fraction(60), sound="libopus", rate=48000),
    Odd("slow.mp4", fps=Fraction(10), rate=22050),
    Odd("eight.mkv", codec="mpeg4", sound="libmp3lame", fps=Fraction(8)),
    Odd("uneven.mp4", uneven=True),
    Odd("uneven.mkv", uneven=True, sound="flac", rate=48000),
    Odd("uneven.webm", codec="libvpx-vp9", sound="libopus", rate=48000, uneven=True),
    Odd("odd-size.mkv", codec="ffv1", sound="flac", size=(161, 95), pixels="yuv444p", rate=32000),
    Odd("tiny.mp4", size=(34, 18)),
    Odd("tall.mp4", size=(98, 302), layout="stereo"),
    Odd("wide.mp4", size=(400, 90)),
    Odd("large.mp4", codec="mpeg4", size=(1280, 720), seconds=1.0, fps=Fraction(24)),
    Odd("quarter-turn.mp4", rotation=90, size=(120, 160)),
    Odd("half-turn.mp4", rotation=180),
    Odd("three-quarters.mov", rotation=270, size=(120, 160), layout="stereo", rate=48000),
    Odd("stereo.mov", layout="stereo", rate=48000, sound="pcm_s16le"),
    Odd("surround.mp4", layout="5.1", rate=48000),
    Odd("surround.mkv", layout="5.1", rate=48000, sound="ac3"),
    Odd("surround.webm", codec="libvpx", layout="5.1", rate=48000, sound="libopus"),
    Odd("telephone.mov", sound="pcm_mulaw", rate=8000),
    Odd("hifi.mkv", sound="flac", rate=96000, layout="stereo"),
    Odd("silent.mp4", sound=None),
    Odd("silent.webm", codec="libvpx-vp9", sound=None),
    Odd("silent.gif", codec="gif", sound=None, fps=Fraction(20), pixels="rgb8"),
    Odd("late.mkv", late=0.25, sound="pcm_s16le"),
    Odd("anamorphic.mp4", size=(120, 120), aspect=Fraction(4, 3)),
    Odd("h265.mp4", codec="libx265", seconds=1.0),
    Odd("av1.webm", codec="libsvtav1", sound="libopus", rate=48000, seconds=1.0),
    Odd("prores.mov", codec="prores_ks", sound="pcm_s16le", pixels="yuv422p10le", seconds=1.0),
    Odd("mjpeg.avi", codec="mjpeg", sound="pcm_s16le", pixels="yuvj420p"),
    Odd("ten-bit.mkv", pixels="yuv420p10le", sound="aac"),
    Odd("mpeg2.mkv", codec="mpeg2video", sound="mp2", fps=Fraction(25), rate=48000),
    Odd("truncated.mp4", fault="truncated"),
    Odd("text.mp4", fault="text"),
    Odd("empty.mp4", fault="empty"),
    Odd("uncaptioned.mp4", fault="no caption"),
    Odd("blank-caption.mp4", fault="empty caption"),
)


def make_odd_clips(folder: Path, odds: Sequence[Odd] = ODD) -> None:
    """Write each clip, and its caption beside it as .txt with the clip's own name, dots as dashes."""
    folder.mkdir(parents=True, exist_ok=True)
    for odd in odds:
        stem, suffix = odd.name.rsplit(".", 1)
        path = folder / f"{stem}-{suffix}.{suffix}"
        if odd.fault == "text":
            path.write_text("ffconcat version 1.0\nfile plain-mp4.mp4\n", encoding="utf-8")
        elif odd.fault == "empty":
            path.write_bytes(b"")
        else:
            encode(path, odd)
        if odd.fault == "truncated":
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
        if odd.fault != "no caption":
            text = "" if odd.fault == "empty caption" else f"a red square and a flash that beeps, {odd.name}"
            path.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")


def draw(size: tuple[int, int], time: float) -> np.ndarray:
    """The picture (H, W, 3) at `time`."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    frame = np.stack([40 + 20 * x / width, 60 + 40 * y / height, 90 + 20 * x / width], axis=-1)
    if FLASH[0] - 1e-6 <= time < FLASH[1] - 1e-6:
        frame[:] = 255
    side = max(4, min(size) // 3)
    frame[:side, :side] = (220, 30, 30)
    return frame.astype(np.uint8)


def tone(odd: Odd) -> np.ndarray:
    """The sound (C, N) of the clip: noise that is hardly heard, and a beep of 1 kHz, in all channels but the bass."""
    time = np.arange(round((odd.seconds - odd.late) * odd.rate)) / odd.rate + odd.late
    beep = np.where((time >= FLASH[0]) & (time < FLASH[1]), 0.5 * np.sin(2 * np.pi * 1000 * time), 0)
    noise = np.random.default_rng(0).normal(0, 1e-3, len(time))
    channels = len(av.AudioLayout(odd.layout).channels)
    sound = np.repeat((beep + noise)[None], channels, axis=0)
    if channels == 6:
        sound[3] = 0
    return sound.astype(np.float32)


def frame_times(odd: Odd) -> list[Fraction]:
    """When each frame is shown."""
    steps = range(round(odd.seconds * odd.fps))
    if odd.uneven:  # two of three frames stay, in an irregular pattern
        steps = [k for k in steps if (k * k + k // 3) % 3 != 1]
    return [k / odd.fps for k in steps]


def encode(path: Path, odd: Odd) -> None:
    """Write one whole clip."""
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder talks
    coded = odd.size[::-1] if odd.rotation % 180 else odd.size
    with av.open(str(path), "w") as container:
        rate = Fraction(100) if odd.codec == "gif" else odd.fps
        video = container.add_stream(odd.codec, rate=rate, options=QUICK.get(odd.codec, {}))
        video.width, video.height, video.pix_fmt = *coded, odd.pixels
        if odd.codec in ("mpeg4", "mpeg2video", "mjpeg"):
            video.bit_rate = 4_000_000
        if odd.aspect != 1:
            video.codec_context.sample_aspect_ratio = odd.aspect
        if odd.rotation:
            video.set_display_rotation(odd.rotation)
        audio = None
        if odd.sound:
            audio = container.add_stream(odd.sound, rate=odd.rate)
            audio.codec_context.layout = odd.layout
        for time in frame_times(odd):
            upright = draw(odd.size, float(time))
            picture = np.ascontiguousarray(np.rot90(upright, -odd.rotation // 90))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(time * rate), 1 / rate
            matrix = "ITU709" if coded[1] >= 720 else "ITU601"  # as players take files that do not say
            container.mux(video.encode(frame.reformat(format=odd.pixels, dst_colorspace=matrix)))
        container.mux(video.encode(None))
        if audio is not None:
            sound = tone(odd)
            for start in range(0, sound.shape[1], 1024):
                part = np.ascontiguousarray(sound[:, start : start + 1024])
                block = av.AudioFrame.from_ndarray(part, format="fltp", layout=odd.layout)
                block.sample_rate, block.time_base = odd.rate, Fraction(1, odd.rate)
                block.pts = start + round(odd.late * odd.rate)
                container.mux(audio.encode(block))
            container.mux(audio.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    folder = parser.parse_args().folder
    make_odd_clips(folder)
    print(f"{len(ODD)} clips in {folder}")


if __name__ == "__main__":
    main()
