"""Media that mean harm, for tests: small valid files, mutations of them, lies in headers, bombs, files about files.

Everything is drawn from a seed, so that what once went wrong can be made again.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image

FPS, RATE, SIDE = 8, 16_000, 48
EXACT = {"fflags": "bitexact"}  # no random ids, no dates
ODD = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)  # of integers
TAGS = re.compile(  # behind which stand sizes, counts, durations, places
    rb"mvhd|tkhd|mdhd|stsd|stts|stss|stsc|stsz|stco|co64|ctts|elst|dref|avc1|mp4a|esds|avcC|trun|tfhd|moov|trak|mdat|"
    rb"avih|strh|strf|idx1|LIST|RIFF|fmt |data|VP8X|ANMF|IHDR|acTL|fcTL|IDAT|OggS|fLaC|GIF8|OpusHead|vorbis|"
    rb"\xff\xc0|\xff\xc2|\xff\xc4|\xff\xda|\x1a\x45\xdf\xa3|\x16\x54\xae\x6b|\x15\x49\xa9\x66|\x44\x89|\xb0|\xba"
)


@dataclass(frozen=True)
class Bait:
    """What hostile files ask for. files, port: opened and called by nobody else. marker: made by code that runs."""

    files: tuple[Path, ...]
    port: int
    marker: Path

    @property
    def urls(self) -> tuple[str, ...]:
        paths = [str(path) for path in self.files]
        return (
            *paths, *(f"file://{path}" for path in paths), *(f"file:{path}" for path in paths), "file:///etc/passwd",
            f"http://127.0.0.1:{self.port}/a.ts", f"tcp://127.0.0.1:{self.port}", f"concat:{paths[0]}|{paths[0]}",
            f"subfile,,start,0,end,99,,:{paths[0]}", "/etc/passwd",
            "../../../../etc/passwd", "data:text/plain;base64,QUJD",
        )  # fmt: skip


# --- valid files ----------------------------------------------------------------------------------------------------
def valid() -> dict[str, bytes]:
    """Small files that are accepted, by kind."""
    found = {kind: _film(kind, codec, sound) for kind, codec, sound in _FILMS}
    found |= {kind: _sound(kind, codec) for kind, codec in _SOUNDS}
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        file = io.BytesIO()
        pictures = [Image.fromarray(frame) for frame in _frames(1 if kind != "GIF" else 4)]
        pictures[0].save(file, kind, **({"save_all": True, "append_images": pictures[1:]} if kind == "GIF" else {}))
        found[kind.lower()] = file.getvalue()
    return found


_FILMS = (
    ("mp4", "libx264", "aac"), ("mov", "mpeg4", "pcm_s16le"), ("webm", "libvpx-vp9", "libopus"),
    ("matroska", "libx264", "flac"), ("avi", "mpeg4", "mp3"),
)  # fmt: skip
_SOUNDS = (("wav", "pcm_s16le"), ("flac", "flac"), ("mp3", "mp3"), ("adts", "aac"), ("ogg", "libopus"))


def _frames(count: int = 6) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8) // (k + 1) for k in range(count)]


def _film(kind: str, codec: str, sound: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=kind, options=EXACT) as container:
        video = container.add_stream(codec, FPS, options={"g": "3", "bf": "0"})
        video.width = video.height = SIDE
        video.pix_fmt = "yuv420p"
        audio = _audio_stream(container, sound)
        for frame in _frames():
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
        _write_sound(container, audio)
    return file.getvalue()


def _sound(kind: str, codec: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=kind, options=EXACT) as container:
        _write_sound(container, _audio_stream(container, codec))
    return file.getvalue()


def _audio_stream(container: av.container.OutputContainer, codec: str) -> av.audio.stream.AudioStream:
    return container.add_stream(codec, 48_000 if "opus" in codec else RATE, layout="mono")


def _write_sound(container: av.container.OutputContainer, stream: av.audio.stream.AudioStream) -> None:
    rate = stream.rate
    wave = (8000 * np.sin(np.arange(rate // 2) / 9)).astype(np.int16)[None]
    frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
    frame.sample_rate, frame.pts = rate, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


# --- mutations ------------------------------------------------------------------------------------------------------
def mutated(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """A file with one to six faults."""
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        data = draw.choice(_FAULTS)(data, others, draw) or b"\0"
    return data


def _flip(data: bytes, _: list[bytes], draw: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(draw.choice((1, 2, 8, 64))):
        out[draw.randrange(len(out))] ^= 1 << draw.randrange(8)
    return bytes(out)


def _lie(data: bytes, _: list[bytes], draw: random.Random) -> bytes:
    """An odd integer in one of the places where a size, count, rate or time may stand."""
    out, places = bytearray(data), [found.end() for found in TAGS.finditer(data)]
    if not places:
        return _number(data, [], draw)
    for _ in range(draw.choice((1, 1, 2, 4))):
        width = draw.choice((1, 2, 4, 4, 8))
        at = draw.choice(places) + draw.choice((-8, -4, 0, 2, 4, 8, 12, 16, 20, 24, 28, 32))
        value = draw.choice((*ODD, draw.getrandbits(32))) % (1 << 8 * width)
        at = max(0, min(len(out) - width, at))
        out[at : at + width] = value.to_bytes(width, draw.choice(("big", "little")))
    return bytes(out)


def _number(data: bytes, _: list[bytes], draw: random.Random) -> bytes:
    width = draw.choice((2, 4))
    at = draw.randrange(max(1, min(len(data), draw.choice((64, 512, 1 << 30))) - width))
    value = draw.choice(ODD) % (1 << 8 * width)
    return data[:at] + value.to_bytes(width, draw.choice(("big", "little"))) + data[at + width :]


def _cut(data: bytes, _: list[bytes], draw: random.Random) -> bytes:
    return data[: draw.randrange(1, len(data) + 1)]


def _drop(data: bytes, _: list[bytes], draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + data[at + draw.randrange(1, 1 + max(1, len(data) // 4)) :]


def _double(data: bytes, _: list[bytes], draw: random.Random) -> bytes:
    at, size = draw.randrange(len(data)), draw.randrange(1, 1 + min(4096, len(data)))
    return data[: at + size] + data[at : at + size] * draw.choice((1, 1, 2, 30)) + data[at + size :]


def _insert(data: bytes, _: list[bytes], draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + draw.randbytes(draw.choice((1, 3, 64, 2048))) + data[at:]


def _splice(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
    other = draw.choice(others) if others else data
    return data[: draw.randrange(1, len(data) + 1)] + other[draw.randrange(len(other)) :]


def _head(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """The head of one kind before the body of another."""
    size = draw.choice((4, 12, 16, 64))
    return (draw.choice(others) if others else data)[:size] + data[size:]


def _blank(data: bytes, _: list[bytes], draw: random.Random) -> bytes:
    at, size = draw.randrange(len(data)), draw.choice((4, 64, 1024))
    return data[:at] + bytes([draw.choice((0, 0xFF))]) * min(size, len(data) - at) + data[at + size :]


_FAULTS = (_flip, _flip, _lie, _lie, _lie, _number, _cut, _drop, _double, _insert, _splice, _head, _blank)


# --- made by hand ---------------------------------------------------------------------------------------------------
def hostile(bait: Bait, made: dict[str, bytes]) -> dict[str, bytes]:
    """Files that unpack to too much, run, or refer to others, by what they are."""
    found = dict(_texts(bait))
    found |= _bombs()
    found |= {f"drefs {k}": data for k, data in enumerate(_references(bait, made["mov"]))}
    for (kind, data), (name, text) in itertools.product(
        ((k, made[k]) for k in ("mp4", "gif", "png", "jpeg", "wav", "mp3")), list(_texts(bait))[:12]
    ):
        found[f"{kind} and {name}"] = data + text
        found[f"{kind} head of {name}"] = data[:16] + b"\n" + text
    return {name: data for name, data in found.items() if data}


def _texts(bait: Bait) -> Iterator[tuple[str, bytes]]:
    """Scripts, playlists, documents and archives."""
    for k, url in enumerate(bait.urls):
        yield f"HLS {k}", (
            f"#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:1\n#EXT-X-MAP:URI=\"{url}\"\n"
            f"#EXT-X-KEY:METHOD=AES-128,URI=\"{url}\"\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n"
        ).encode()  # fmt: skip
        yield f"concat {k}", f"ffconcat version 1.0\nfile '{url}'\nduration 1\n".encode()
        yield f"SVG {k}", (
            f'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "{url}">]>\n'
            '<svg xmlns="http://www.w3.org/2000/svg" '
            f'xmlns:xlink="http://www.w3.org/1999/xlink"><image xlink:href="{url}"/><text>&x;</text></svg>'
        ).encode()  # fmt: skip
        yield f"DASH {k}", (
            f'<MPD type="static"><Period><BaseURL>{url}</BaseURL><AdaptationSet mimeType="video/mp4"><Representation '
            f'id="1"><SegmentList><SegmentURL media="{url}"/></SegmentList></Representation></AdaptationSet></Period>'
            "</MPD>"
        ).encode()  # fmt: skip
        yield f"ASX {k}", f'<asx version="3.0"><entry><ref href="{url}"/></entry></asx>'.encode()
        yield f"MVG {k}", f"push graphic-context\nviewbox 0 0 9 9\nimage over 0,0 0,0 '{url}'\n".encode()
        yield f"SDP {k}", f"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video {bait.port} RTP/AVP 96\na=control:{url}\n".encode()
        yield f"EPS {k}", f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({url}) (r) file\n".encode()
        yield f"AviSynth {k}", f'FFVideoSource("{url}")\n'.encode()
        yield f"PLS {k}", f"[playlist]\nFile1={url}\nNumberOfEntries=1\n".encode()
        yield f"quoted {k}", url.encode()
        yield f"in RIFF {k}", _riff(b"WAVE", b"#EXTM3U\n" + url.encode())
        yield f"in ftyp {k}", b"\0\0\0\x14ftypmp42\0\0\0\0mp42" + f"\n#EXTM3U\n#EXTINF:1,\n{url}\n".encode()
        yield f"in ID3 {k}", b"ID3\x04\0\0\0\0\0\x40" + f"#EXTM3U\n{url}\n".encode()
    billion = '<!DOCTYPE l [<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {chr(98 + k)} "{f"&{chr(97 + k)};" * 10}">' for k in range(9)
    )
    yield "XML bomb", f"<?xml version='1.0'?>{billion}]><l>&j;</l>".encode()
    for protocol in range(6):
        yield f"pickle {protocol}", pickle.dumps(_Runs(str(bait.marker)), protocol=protocol)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in (("../../evil", b"x"), ("zeros", bytes(1 << 22))):
            file.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    yield "zip", archive.getvalue()
    yield "torch", b"PK\x03\x04" + pickle.dumps(_Runs(str(bait.marker)))
    yield "ELF", b"\x7fELF\x02\x01\x01" + bytes(64)
    yield "PDF", b"%PDF-1.7\n1 0 obj<</Type/Catalog/OpenAction<</S/Launch/F(/bin/sh)>>>>endobj\n"
    yield "shell", f"#!/bin/sh\ntouch {bait.marker}\n".encode()
    yield "JSON", json.dumps({"path": str(bait.files[0])}).encode()
    yield "HTML", b"<html><script>fetch('/v1/videos')</script>"
    yield "GIF script", b"GIF89a/*" + bytes(8) + b"*/=1;alert(1)"
    yield "tar", b"../../etc/cron.d/x".ljust(257, b"\0") + b"ustar\x0000" + bytes(248)
    yield "NUL", bytes(4096)
    yield "one byte", b"\x89"
    yield "gzip", zlib.compress(bytes(1 << 20), 9)


class _Runs:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


def _riff(kind: bytes, body: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(body) + 4) + kind + body


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *more: bytes, rows: int | None = None) -> bytes:
    """A grey PNG that says so; rows: that it holds, all black."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = zlib.compress(bytes((width + 1) * (height if rows is None else rows)), 9)
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _gif(width: int, height: int, frames: int, delay: int = 1) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    one = b"\x21\xf9\x04\0" + struct.pack("<H", delay) + b"\0\0\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0)
    return head + (one + b"\x02\x02\x44\x01\0") * frames + b"\x3b"


def _bombs() -> dict[str, bytes]:
    """Little that becomes much."""
    text = zlib.compress(bytes(8 << 20), 9)
    found = {
        "PNG 4095²": _png(4095, 4095), "PNG 5000²": _png(5000, 5000), "PNG 8000x8000": _png(8000, 8000),
        "PNG wide": _png(2**24, 1), "PNG tall": _png(1, 2**24, rows=2**20),
        "PNG 2³¹": _png(2**31 - 1, 2**31 - 1, rows=0),
        "PNG zTXt": _png(8, 8, *[_chunk(b"zTXt", b"a\0\0" + text)] * 40),
        "PNG iCCP": _png(8, 8, _chunk(b"iCCP", b"a\0\0" + text)),
        "PNG rows": _png(8, 8, rows=1 << 20),
        "APNG frames": _png(8, 8, _chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
        "GIF frames": _gif(16, 16, 20_000), "GIF vast": _gif(65535, 65535, 3), "GIF long": _gif(16, 16, 50, 65535),
        "GIF large": _gif(4000, 4000, 700),
        "JPEG 65500²": (
            b"\xff\xd8\xff\xc0\0\x11\x08\xff\xdc\xff\xdc\x03\x01\x22\0\x02\x11\x01\x03\x11\x01"
            b"\xff\xda\0\x0c\x03\x01\0\x02\x11\x03\x11\0\x3f\0" + bytes(5000)
        ),
        "WebP 16383²": _riff(
            b"WEBP", b"VP8X\x0a\0\0\0\x02\0\0\0\xfe\x3f\0\xfe\x3f\0ANIM\x06\0\0\0" + bytes(6)
        ),
        "WebP lossless": _riff(b"WEBP", b"VP8L\x0a\0\0\0\x2f\xff\xff\xff\x0f" + bytes(6)),
    }  # fmt: skip
    for rate, channels, bits, size in (
        (0, 1, 16, 99), (2**32 - 1, 1, 16, 2**31), (1, 2, 16, 2**32 - 1), (16_000, 65535, 16, 9999),
        (16_000, 0, 16, 99), (16_000, 1, 0, 99), (16_000, 1, 65535, 99), (8000, 1, 8, 8_000_000),
    ):  # fmt: skip
        head = struct.pack("<HHIIHH", 1, channels, rate, 2**31, 4, bits)
        body = b"fmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", size)
        found[f"WAV {rate} {channels} {bits}"] = _riff(b"WAVE", body + bytes(min(size, 1 << 20)))
    samples = io.BytesIO()
    with av.open(samples, "w", format="flac", options=EXACT) as container:  # an hour of silence
        stream = container.add_stream("flac", 8000, layout="mono")
        for k in range(60):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 480_000), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 8000, k * 480_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    found["FLAC hour"] = samples.getvalue()
    return found


def _lies(made: dict[str, bytes]) -> dict[str, bytes]:
    """Each integer behind each tag of the containers, set to each of a few odd values."""
    found = {}
    for kind in ("mp4", "avi", "wav", "png", "webm"):
        data = made[kind]
        for place in {match.end() for match in TAGS.finditer(data)}:
            for offset, value in itertools.product((-8, 0, 4, 8, 12, 16), (0, 0x7FFFFFFF, 0xFFFFFFFF)):
                at = max(0, place + offset)
                order = "<I" if kind in ("avi", "wav") else ">I"
                found[f"{kind} {place}{offset:+d}={value:x}"] = data[:at] + struct.pack(order, value) + data[at + 4 :]
    return found


def _references(bait: Bait, movie: bytes) -> Iterator[bytes]:
    """QuickTime whose samples lie in another file, by alias or URL, and movies that refer to movies."""
    at = movie.find(b"dref")
    size = struct.unpack(">I", movie[at - 4 : at])[0]
    for url in bait.urls:
        path = url.encode()
        alias = bytes(4) + struct.pack(">HH", 150, 2) + bytes(142) + struct.pack(">hH", 2, len(path)) + path
        alias += struct.pack(">hH", 18, len(path)) + path + struct.pack(">hH", -1, 0)
        for entry in (b"alis" + bytes(4) + alias, b"url " + bytes(4) + path + b"\0", b"urn " + bytes(4) + path + b"\0"):
            body = b"dref" + struct.pack(">II", 0, 1) + struct.pack(">I", len(entry) + 4) + entry
            box = struct.pack(">I", len(body) + 4) + body
            yield _regrown(movie, at - 4, size, box)
        rdrf = b"rdrf" + bytes(4) + b"url " + struct.pack(">I", len(path) + 1) + path + b"\0"
        rmda = b"rmda" + struct.pack(">I", len(rdrf) + 4) + rdrf
        rmra = b"rmra" + struct.pack(">I", len(rmda) + 4) + rmda
        moov = b"moov" + struct.pack(">I", len(rmra) + 4) + rmra
        yield b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + struct.pack(">I", len(moov) + 4) + moov


def _regrown(movie: bytes, at: int, size: int, box: bytes) -> bytes:
    """The movie with a box in place of another, and the boxes around it as much larger."""
    out, grown = bytearray(movie[:at] + box + movie[at + size :]), len(box) - size
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        place = movie.rfind(name, 0, at)
        old = struct.unpack(">I", movie[place - 4 : place])[0]
        out[place - 4 : place] = struct.pack(">I", old + grown)
    return bytes(out)


def corpus(bait: Bait, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Files without end, each with a name that says what it is: valid ones, hostile ones, then mutations of both."""
    made = valid()
    yield from made.items()
    bad, lies = hostile(bait, made), _lies(made)
    draw = random.Random(seed)
    parts = list(bad), list(lies)
    for part in parts:
        draw.shuffle(part)
    bad |= lies
    others, pool = [*made.values()], [(name, bad[name]) for name in parts[0] if len(bad[name]) < 1 << 16]
    waiting = itertools.chain(*parts)  # each third file, until all were there
    for number in itertools.count():
        if number % 3 == 0 and (name := next(waiting, None)) is not None:
            yield name, bad[name]
        kind, data = draw.choice([*made.items()]) if draw.random() < 0.85 else draw.choice(pool)
        yield f"{kind}, mutation {number} of seed {seed}", mutated(data, others, draw)
