"""Written files play together with their sound, come back as they were, and no file does harm."""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import FPS, RATE, flash_clip, onsets
from PIL import Image

from phonofilm.clip import Audio, Clip
from phonofilm.errors import InputError, MediaError, OutputError, PhonofilmError
from phonofilm.media import Limits, Writer, read, read_audio, read_mask, write

FILMS = ["a.mp4", "a.mov", "a.webm", "a.mkv"]


def psnr(a, b):
    return 10 * np.log10(255**2 / (np.mean((a.astype(float) - b) ** 2) + 1e-9))


@pytest.mark.parametrize("name", [*FILMS, "a.gif", "folder", "seq/f-%03d.png"])
def test_what_is_written_comes_back(tmp_path, clip, name):
    write(clip, tmp_path / name)
    back = read(tmp_path / name, trusted=True)
    assert back.frames.shape == clip.frames.shape
    assert back.fps == clip.fps
    lossless = name in ("folder", "seq/f-%03d.png")
    assert (back.frames == clip.frames).all() if lossless else psnr(back.frames, clip.frames) > 36
    # flat colours survive: matrix, range and palette are told and kept
    for y, x in ((20, 20), (20, 100), (100, 20), (100, 100)):
        assert np.abs(back.frames[3, y, x].astype(int) - clip.frames[3, y, x]).max() <= 4
    if name != "a.gif":
        assert abs(back.audio.seconds - back.seconds) <= 0.02
        seen, heard = onsets(back)
        assert seen == 12 / FPS
        assert abs(heard - seen) < 0.005


@pytest.mark.parametrize("name", FILMS)
@pytest.mark.parametrize(("fps", "channels", "rate"), [(24000 / 1001, 2, 44100), (50, 6, 48000), (10, 1, 11025)])
def test_other_rates_and_channels(tmp_path, name, fps, channels, rate):
    frames = flash_clip(20).frames
    time = np.arange(round(20 / fps * rate)) / rate
    pitches = 200.0 * np.arange(1, channels + 1)
    sound = 0.3 * np.sin(2 * np.pi * pitches[:, None] * time)
    if channels == 6:
        sound[3] *= 0
    clip = Clip(frames, fps, Audio(sound.astype(np.float32), rate))
    write(clip, tmp_path / name)
    back = read(tmp_path / name, trusted=True)
    assert back.fps == pytest.approx(fps)
    assert len(back.frames) == 20
    assert back.audio.channels == channels
    assert abs(back.audio.seconds - clip.seconds) < 0.02
    for k, pitch in enumerate(pitches):
        if channels == 6 and k == 3:
            continue
        spectrum = np.abs(np.fft.rfft(back.audio.samples[k] * np.hanning(back.audio.samples.shape[1])))
        assert np.argmax(spectrum) / back.audio.seconds == pytest.approx(pitch, abs=4)


@pytest.mark.parametrize("name", FILMS)
@pytest.mark.parametrize("seconds", [0.5, 3.0])
def test_sound_is_cut_or_filled_to_the_picture(tmp_path, clip, name, seconds):
    sound = np.full((1, round(seconds * RATE)), 0.25, np.float32)
    write(replace(clip, audio=Audio(sound, RATE)), tmp_path / name)
    back = read(tmp_path / name, trusted=True)
    assert abs(back.audio.seconds - clip.seconds) < 0.02
    quarter = RATE // 4 * back.audio.sample_rate // RATE
    assert (np.abs(back.audio.samples[0, -quarter:]).max() < 0.05) == (seconds < clip.seconds)


def test_mp4_plays_in_a_browser(tmp_path):
    write(flash_clip(width=101, height=77), tmp_path / "a.mp4")
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "a.mp4")) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert (video.codec_context.name, video.pix_fmt) == ("h264", "yuv420p")
        assert (video.width, video.height) == (102, 78)
        assert (video.colorspace, video.color_primaries, video.color_trc, video.color_range) == (1, 1, 1, 1)
        assert audio.codec_context.name == "aac"
        lengths = [float(s.duration * s.time_base) for s in (video, audio)]
        assert lengths == pytest.approx([2.0, 2.0], abs=1024 / RATE)


def test_wav_keeps_16_bits(tmp_path, clip):
    write(clip, tmp_path / "a.wav")
    back = read_audio(tmp_path / "a.wav", trusted=True)
    assert back.sample_rate == RATE
    assert np.abs(back.samples - clip.audio.samples).max() <= 0.51 / 32768
    with pytest.raises(MediaError, match="sound alone"):
        read(tmp_path / "a.wav", trusted=True)


def test_png_is_a_clip_of_one_frame(tmp_path, clip):
    picture = Clip(clip.frames[:1], FPS)
    write(picture, tmp_path / "a.png")
    back = read(tmp_path / "a.png")
    assert back.picture
    assert (back.frames == picture.frames).all()
    with pytest.raises(InputError, match="one picture"):
        write(clip, tmp_path / "b.png")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_sequence_replaces_a_longer_one(tmp_path, clip):
    write(clip, tmp_path / "s")
    shorter = Clip(clip.frames[10:15], FPS)
    write(shorter, tmp_path / "s")
    assert (read(tmp_path / "s", trusted=True).frames == shorter.frames).all()
    assert len(list((tmp_path / "s").iterdir())) == 5


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.png", "s"])
def test_the_sandbox_reads_the_same(tmp_path, clip, name):
    write(clip if name != "a.png" else Clip(clip.frames[:1], FPS), tmp_path / name)
    inside, apart = read(tmp_path / name, trusted=True), read(tmp_path / name)
    assert (inside.frames == apart.frames).all()
    assert inside.fps == apart.fps
    assert (inside.audio is None) == (apart.audio is None)
    if inside.audio is not None:
        assert (inside.audio.samples == apart.audio.samples).all()


def test_reading_can_stop_and_scale(tmp_path):
    write(flash_clip(64, 160, 120), tmp_path / "a.mp4")
    back = read(tmp_path / "a.mp4", trusted=True, seconds=1.0, size="native")
    assert back.frames.shape == (16, 96, 160, 3)
    assert back.audio.seconds == 1.0


def test_a_name_does_not_tell_the_kind(tmp_path, clip):
    write(clip, tmp_path / "a.mp4")
    os.rename(tmp_path / "a.mp4", tmp_path / "a.gif")
    assert len(read(tmp_path / "a.gif", trusted=True).frames) == len(clip.frames)


def png_header(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"ffconcat version 1.0\nfile secret.mp4\n", "none of the media"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://localhost/a.ts\n", "none of the media"),
        (b"\x00\x00\x00\x18ftypmp42" + b"\0" * 500, "cannot be decoded|no picture"),
        (b"\x1a\x45\xdf\xa3" + bytes(range(256)) * 8, "cannot be decoded|no picture"),
        (b"GIF89a" + b"\xff" * 300, "cannot be decoded|pixels|no frame"),
        (b"\xff\xd8\xff" + b"\0" * 100, "cannot be decoded"),
        (png_header(60_000, 60_000), "pixels"),
        (png_header(10_000, 10_000), "10000x10000 pixels, allowed are"),
        (png_header(64, 64), "cannot be decoded"),
    ],
    ids=["empty", "ffconcat", "playlist", "mp4", "mkv", "gif", "jpeg", "vast png", "large png", "hollow png"],
)
def test_hostile_files_are_refused_in_one_line(tmp_path, content, told, trusted):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=told) as caught:
        read(path, trusted=trusted)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("trusted", [True, False])
def test_words_in_another_encoding_do_not_keep_a_file_from_being_read(tmp_path, clip, trusted):
    path = tmp_path / "a.wav"
    write(clip, path)
    data = path.read_bytes()
    info = b"INFOINAM" + struct.pack("<I", 4) + "café".encode("latin-1")
    data += b"LIST" + struct.pack("<I", len(info)) + info
    path.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    assert read_audio(path, trusted=trusted).seconds == pytest.approx(clip.seconds)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_codec_that_is_not_known_is_named_as_that(tmp_path, clip, trusted):
    path = tmp_path / "a.mp4"
    write(clip, path)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zz99"))
    with pytest.raises(MediaError, match="has a codec that is not known"):
        read(path, trusted=trusted)


def test_missing_and_odd_paths(tmp_path):
    with pytest.raises(MediaError, match="no such file"):
        read(tmp_path / "missing.mp4")
    with pytest.raises(MediaError, match="no numbered PNGs"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(MediaError, match="not a regular file"):
        read(tmp_path / "pipe.mp4")


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (Limits(file_bytes=1000), "bytes, allowed are 1000"),
        (Limits(pixels=1000), "128x128 pixels, allowed are 1000"),
        (Limits(frames=20), "frames"),
        (Limits(seconds=1.0), "allowed are 1 s|longer than 1 s"),
        (Limits(decoded_bytes=100_000), "100000 bytes"),
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif"])
def test_limits_hold(tmp_path, clip, limits, told, name):
    write(clip, tmp_path / name)
    with pytest.raises(MediaError, match=told):
        read(tmp_path / name, limits=limits, trusted=True)


def test_the_sandbox_bounds_memory(tmp_path, clip):
    write(clip, tmp_path / "a.mp4")
    with pytest.raises(MediaError, match=r"damaged or exceeds|cannot be decoded|memory"):
        read(tmp_path / "a.mp4", limits=Limits(memory_bytes=64 << 20))


def test_a_clock_that_leaps_does_not_fill_the_memory(tmp_path):
    """Two frames, a month apart."""
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        video = file.add_stream("libx264", rate=Fraction(25))
        video.width = video.height = 64
        for time in (0, 30 * 86400):
            frame = av.VideoFrame(64, 64, "yuv420p")
            frame.pts, frame.time_base = time, Fraction(1)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
    with pytest.raises(MediaError, match=r"allowed are|longer than|more than is read"):
        read(tmp_path / "a.mkv", trusted=True)


def test_transparent_pictures_stand_on_white_and_exif_turns(tmp_path):
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png", trusted=True).frames == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert read(tmp_path / "a.jpg", trusted=True).frames.shape == (1, 40, 20, 3)


def test_a_mask_is_what_is_opaque_or_else_bright(tmp_path):
    shades = np.array([[0, 127, 128, 255]], np.uint8)
    Image.fromarray(shades).save(tmp_path / "grey.png")
    Image.fromarray(shades.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    opaque = Image.merge("RGBA", [Image.fromarray(shades)] * 3 + [Image.new("L", (4, 1), 255)])
    opaque.save(tmp_path / "opaque.png")
    Image.merge("RGBA", [Image.new("L", (4, 1))] * 3 + [Image.fromarray(shades)]).save(tmp_path / "layer.png")
    for name in ("grey", "deep", "opaque", "layer"):
        mask = read_mask(tmp_path / f"{name}.png", trusted=True)
        assert mask.picture and mask.frames[0, 0, :, 0].tolist() == [0, 0, 255, 255], name
        assert (mask.frames == mask.frames[..., :1]).all()
    assert np.array_equal(read_mask(tmp_path / "layer.png").frames, mask.frames)  # in the sandbox
    with pytest.raises(MediaError, match="allowed are 2"):
        read_mask(tmp_path / "grey.png", limits=Limits(pixels=2), trusted=True)


def test_the_writer_takes_frames_as_they_come(tmp_path, clip):
    with Writer(tmp_path / "a.mp4", FPS, sample_rate=RATE) as writer:
        writer.add(clip.frames[:5])
        writer.add(clip.frames[5:20], clip.audio.samples[:, :15_000])
        writer.add(clip.frames[20:], clip.audio.samples[:, 15_000:])
        assert not (tmp_path / "a.mp4").exists()
    write(clip, tmp_path / "b.mp4")
    a, b = (read(tmp_path / n, trusted=True) for n in ("a.mp4", "b.mp4"))
    assert (a.frames == b.frames).all()
    assert np.abs(a.audio.samples - b.audio.samples).max() < 1e-4


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.wav", "s"])
def test_an_interrupted_writer_leaves_the_old_file(tmp_path, clip, name):
    write(clip, tmp_path / name)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def lost():
        with Writer(tmp_path / name, FPS, sample_rate=RATE) as writer:
            writer.add(clip.frames[:8], clip.audio.samples[:, :4000])
            raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        lost()
    writer = Writer(tmp_path / name, FPS, sample_rate=RATE)
    writer.add(clip.frames[:8])
    writer.abandon()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "a.wav", "s", "a.png"])
def test_a_full_disk_is_one_clear_line(tmp_path, python, name):
    code = """
import resource, numpy as np
from phonofilm.clip import Audio, Clip
from phonofilm.errors import OutputError
from phonofilm.media import write
rng = np.random.default_rng(0)
one = sys.argv[1].endswith(".png")
frames = rng.integers(0, 256, (1 if one else 24, 128, 128, 3)).astype(np.uint8)
clip = Clip(frames, 16, Audio(rng.uniform(-1, 1, (1, 24000)).astype(np.float32), 16000))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    write(clip, sys.argv[1])
except OutputError as error:
    print(error)
"""
    done = python(code, str(tmp_path / name))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"cannot write {tmp_path / name}: File too large\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a", "b.mp4"])
def test_a_place_that_cannot_be_written(tmp_path, clip, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*Not a directory|cannot write .*File exists"):
        write(clip, tmp_path / "file" / name)


def test_wrong_calls_are_explained(tmp_path, clip):
    for name, told in (("a.txt", r"\.mp4, \.mov"), ("a.wav", "without sound"), ("%d.jpg", "suffix")):
        with pytest.raises(InputError, match=told):
            write(Clip(clip.frames, FPS), tmp_path / name)
    with pytest.raises(InputError, match="sample_rate"), Writer(tmp_path / "a.mp4", FPS) as writer:
        writer.add(clip.frames, clip.audio.samples)
    with Writer(tmp_path / "a.gif", FPS) as writer:
        writer.add(clip.frames[:1])
        with pytest.raises(InputError, match="one size"):
            writer.add(clip.frames[:, :64])
        writer.abandon()
    with pytest.raises(PhonofilmError, match="at least one frame"), Writer(tmp_path / "a.mp4", FPS):
        pass
    assert not list(Path(tmp_path).iterdir())
