"""Which files are read and written, and how much of a stranger's file is ever decoded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from phonofilm.errors import InputError, MediaError

SOUND_FILE: Final = "sound.wav"
"""The name of the sound that lies beside a PNG sequence."""


@dataclass(frozen=True)
class Limits:
    """What a file may hold at most; a file that holds more is refused, before it is decoded where its header tells.

    file_bytes: size of the file. pixels: of one frame. frames, seconds: of the clip, after resampling to an even rate.
    decoded_bytes: of all frames together, as they are returned. memory_bytes, cpu_seconds: of the decoding process.
    """

    file_bytes: int = 1 << 30
    pixels: int = 4096 * 4096
    frames: int = 7200
    seconds: float = 300.0
    decoded_bytes: int = 2 << 30
    memory_bytes: int = 4 << 30
    cpu_seconds: int = 120


IMAGES: Final = ("PNG", "JPEG", "WEBP")  # read with Pillow; all else with FFmpeg's demuxer of that name
SOUND_ONLY: Final = ("wav", "mp3", "flac", "aac")

CODECS: Final = frozenset(
    "h264 hevc av1 vp8 vp9 mpeg4 mpeg2video mpeg1video h263 theora mjpeg png gif prores dnxhd ffv1 rawvideo "
    "aac mp3 mp2 opus vorbis flac alac ac3 eac3 pcm_s16le pcm_s16be pcm_s24le pcm_s24be pcm_s32le pcm_s32be "
    "pcm_f32le pcm_f32be pcm_f64le pcm_u8 pcm_s8 pcm_alaw pcm_mulaw".split()
)
"""Codecs that are decoded, by FFmpeg's canonical names."""


def sniff(path: Path) -> str:
    """The kind of a file by its first bytes: one of IMAGES, or the name of the demuxer that must read it.

    The name of the file is not looked at, and FFmpeg is not asked to guess: its guesses include playlists
    that open other files. Raises MediaError for anything unknown.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise MediaError(f"{path}: cannot be opened ({error.strerror or error})") from error
    if not head:
        raise MediaError(f"{path}: is empty")
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if head[:4] == b"RIFF":
        kind = {b"WAVE": "wav", b"AVI ": "avi", b"WEBP": "WEBP"}.get(head[8:12])
        if kind:
            return kind
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[0] == 0xFF and head[1:2] and head[1] & 0xE0 == 0xE0:
        return "aac" if head[1] & 0xF6 == 0xF0 else "mp3"
    raise MediaError(
        f"{path}: is none of the media that are read (MP4, MOV, MKV, WebM, AVI, Ogg, GIF, WAV, MP3, FLAC, AAC, "
        "PNG, JPEG, WebP)"
    )


_MAGIC: Final = (
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"GIF8", "gif"),
    (b"OggS", "ogg"),
    (b"fLaC", "flac"),
    (b"ID3", "mp3"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
)


_NUMBER: Final = re.compile(r"%0?\d*d")
_WRITTEN: Final = re.compile(r"[^%]*%0*[0-9]?d[^%]*")  # `sequence` finds numbers of up to 9 digits


def is_pattern(path: Path) -> bool:
    """True for a sequence such as out/%04d.png."""
    return _NUMBER.search(path.name) is not None


def check_pattern(path: Path) -> None:
    """Raise InputError unless the pattern `path` can be written: one number of at most 9 digits, and no other %."""
    if not _WRITTEN.fullmatch(path.name):
        raise InputError(
            f"{path}: a sequence is named by exactly one %d, or one from %01d to %09d, and no other %, such as "
            "frames/%04d.png"
        )


def numbered(pattern: Path, number: int) -> Path:
    """The picture `number` of a sequence, filled up with zeros (%4d as %04d is, as FFmpeg does it)."""
    before, after = _NUMBER.split(pattern.name, maxsplit=1)
    width = int(pattern.name[len(before) + 1 : len(pattern.name) - len(after) - 1] or 0)
    return pattern.parent / f"{before}{number:0{width}d}{after}"


def sequence(path: Path) -> list[Path]:
    """The pictures of a PNG sequence in order: `path` is a folder, or a pattern such as out/%04d.png."""
    name = path.name if is_pattern(path) else "%d.png"
    folder = path.parent if is_pattern(path) else path
    before, after = _NUMBER.split(name, maxsplit=1)
    shape = re.compile(re.escape(before) + r"([0-9]{1,9})" + re.escape(after))
    found = [(int(match[1]), item) for item in folder.glob("*") if (match := shape.fullmatch(item.name))]
    return [item for _, item in sorted(found)]
