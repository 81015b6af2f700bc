"""Written files play together with their sound, come back as they were, and no file does harm."""

from __future__ import annotations

import os
import struct
import wave
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
from phonofilm.media import Limits, Writer, check_ending, read, read_audio, read_mask, write
from phonofilm.media.decode import Job, _Taker
from phonofilm.provenance import Identity, sign

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


def tones(channels, rate=48_000, seconds=0.5):
    """Each channel has a pitch of its own, all low enough for a channel of low tones (LFE)."""
    time = np.arange(round(seconds * rate)) / rate
    pitches = 20.0 * np.arange(1, channels + 1)
    return Audio((0.3 * np.sin(2 * np.pi * pitches[:, None] * time)).astype(np.float32), rate)


def pitches(audio):
    heard = np.abs(np.fft.rfft(audio.samples * np.hanning(audio.samples.shape[1]), 48_000))  # in Hz
    return np.argmax(heard, axis=1)


@pytest.mark.parametrize("name", [*FILMS, "a.wav", "s"])
@pytest.mark.parametrize("channels", [3, 4, 5, 7, 8])
def test_channels_keep_their_places_or_are_refused(tmp_path, name, channels):
    clip = Clip(flash_clip(8, at=1).frames, FPS, tones(channels))
    if channels == 7 or (channels == 5 and name in ("a.webm", "a.mkv")):
        allowed = "1, 2, 3, 4, 6, 8" if name in ("a.webm", "a.mkv") else "1, 2, 3, 4, 5, 6, 8"
        with pytest.raises(InputError, match=f"must have {allowed} channels to be written so, got {channels}"):
            write(clip, tmp_path / name)
        assert not list(tmp_path.iterdir())
        return
    write(clip, tmp_path / name)
    back = read_audio(tmp_path / name, trusted=True)
    assert back.channels == channels
    assert np.abs(pitches(back) - 20 * np.arange(1, channels + 1)).max() <= 2


@pytest.mark.parametrize("channels", [8, 16])
@pytest.mark.parametrize("trusted", [True, False])
def test_sound_of_many_channels_is_read(tmp_path, channels, trusted):
    samples = np.arange(480 * channels, dtype="<i2").reshape(480, channels)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(samples.tobytes())
    assert (read_audio(tmp_path / "a.wav", trusted=trusted).samples * 32768 == samples.T).all()


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("counts", [(1, 2), (2, 8)])
def test_channels_that_change_are_told(tmp_path, counts, trusted):
    for channels in counts:
        with av.open(str(tmp_path / f"{channels}.aac"), "w", format="adts") as file:
            sound = file.add_stream("aac", 48_000)
            sound.codec_context.layout = {1: "mono", 2: "stereo", 8: "7.1"}[channels]
            for k in range(10):
                packed = np.full((1, 1024 * channels), 0.1, np.float32)
                block = av.AudioFrame.from_ndarray(packed, "flt", sound.codec_context.layout)
                block.sample_rate, block.pts, block.time_base = 48_000, 1024 * k, Fraction(1, 48_000)
                file.mux(sound.encode(block))
            file.mux(sound.encode(None))
    (tmp_path / "a.aac").write_bytes(b"".join((tmp_path / f"{channels}.aac").read_bytes() for channels in counts))
    with pytest.raises(MediaError, match=f"its sound changes from {counts[0]} to {counts[1]} channels"):
        read_audio(tmp_path / "a.aac", trusted=trusted)


@pytest.mark.parametrize("name", FILMS)
@pytest.mark.parametrize("seconds", [0.5, 3.0])
def test_sound_is_cut_or_filled_to_the_picture(tmp_path, clip, name, seconds):
    sound = np.full((1, round(seconds * RATE)), 0.25, np.float32)
    write(replace(clip, audio=Audio(sound, RATE)), tmp_path / name)
    back = read(tmp_path / name, trusted=True)
    assert abs(back.audio.seconds - clip.seconds) < 0.02
    quarter = RATE // 4 * back.audio.sample_rate // RATE
    assert (np.abs(back.audio.samples[0, -quarter:]).max() < 0.05) == (seconds < clip.seconds)


def a_beep(samples):
    """What is heard at these times (in samples of 48 kHz): a hum, and a beep from 2.5 s to 2.6 s."""
    time = samples / 48_000
    return 0.05 * np.sin(2 * np.pi * 100 * time) + 0.6 * np.sin(2 * np.pi * 1000 * time) * (abs(time - 2.55) < 0.05)


def stamped(path, codec, starts, *, length=960, off=0):
    """A film of 3 s, and `a_beep` in blocks of 48 kHz that begin at `starts`; every second is stamped `off` late."""
    with av.open(str(path), "w") as file:
        video = file.add_stream("libvpx-vp9" if path.suffix == ".webm" else "libx264", rate=Fraction(16))
        video.width = video.height = 64
        sound = file.add_stream(codec, 48_000)
        sound.codec_context.layout = "mono"
        for k in range(48):
            frame = av.VideoFrame(64, 64, "yuv420p")
            frame.pts, frame.time_base = k, Fraction(1, 16)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        for k, start in enumerate(starts):
            samples = a_beep(start + np.arange(length))[None].astype(np.float32)
            block = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
            block.sample_rate, block.pts, block.time_base = 48_000, start + k % 2 * off, Fraction(1, 48_000)
            file.mux(sound.encode(block))
        file.mux(sound.encode(None))


@pytest.mark.parametrize(
    ("name", "codec", "length"),
    [("a.mkv", "pcm_s16le", 960), ("a.mkv", "flac", 4608), ("a.mkv", "libopus", 960), ("a.mp4", "aac", 1024),
     ("a.mov", "aac", 1024), ("a.webm", "libopus", 960)],
)  # fmt: skip
@pytest.mark.parametrize("trusted", [True, False])
def test_a_gap_in_the_sound_is_silence(tmp_path, name, codec, length, trusted):
    starts = [s for s in range(0, 3 * 48_000 - length, length) if not 47_000 < s < 96_000]
    stamped(tmp_path / name, codec, starts, length=length)
    audio = read(tmp_path / name, trusted=trusted).audio
    loud = np.abs(audio.samples[0]) > 0.3
    assert loud.argmax() / 48_000 == pytest.approx(2.5, abs=0.005)
    assert audio.seconds == pytest.approx((starts[-1] + length) / 48_000, abs=0.03)
    assert np.abs(audio.samples[0, 60_000:90_000]).max() < 1e-4 < np.abs(audio.samples[0, 30_000:40_000]).max()


def test_sound_that_is_told_twice_is_heard_once(tmp_path):
    stamped(tmp_path / "a.mkv", "pcm_s16le", range(0, 120_000, 12_000), length=24_000)
    samples = read(tmp_path / "a.mkv", trusted=True).audio.samples
    assert samples.shape == (1, 132_000)
    assert np.abs(samples[0] - a_beep(np.arange(132_000))).max() < 1e-4


def test_stamps_that_tremble_change_nothing(tmp_path):
    stamped(tmp_path / "a.mkv", "pcm_s16le", range(0, 144_000, 960), off=0)
    stamped(tmp_path / "b.mkv", "pcm_s16le", range(0, 144_000, 960), off=720)
    a, b = (read(tmp_path / name, trusted=True).audio.samples for name in ("a.mkv", "b.mkv"))
    assert a.shape == (1, 144_000) and (a == b).all()


def test_sound_without_stamps_follows_on():
    heard = []
    taker = _Taker(Job("a"), heard.append, heard.append)
    for time in (None, 7.1, None, 7.3, None, 8.0):  # blocks of 0.1 s; 0.3 s are missing before the last
        taker.sound(np.ones((2, 100), np.float32), 1000, time)
    whole = np.concatenate(heard, axis=1)
    assert whole.shape == (2, 1100)
    assert whole[0].tolist() == [1] * 500 + [0] * 500 + [1] * 100


def test_a_clock_of_sound_that_leaps_does_not_fill_the_memory(tmp_path):
    stamped(tmp_path / "a.mkv", "pcm_s16le", [0, 960, 30 * 86_400 * 48_000])
    with pytest.raises(MediaError, match="its sound lasts longer than 300 s"):
        read(tmp_path / "a.mkv", trusted=True)
    assert read(tmp_path / "a.mkv", trusted=True, seconds=2.0).audio.samples.shape == (1, 1920)


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


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["s", "s/%04d.png"])
@pytest.mark.parametrize("there", ["0003.png", "99.png", "sound.wav", "0001.png"])
def test_a_sequence_replaces_nothing_but_a_sequence(tmp_path, clip, name, there):
    foreign = tmp_path / "s" / there
    foreign.parent.mkdir()
    if there == "sound.wav":
        write(clip, foreign)
    elif there == "0001.png":  # by its name alone
        foreign.write_text("notes")
    else:
        Image.new("RGB", (8, 8)).save(foreign)
    before = contents(tmp_path)
    for attempt in (
        lambda: check_ending(tmp_path / name, picture=False, sound=True),
        lambda: Writer(tmp_path / name, FPS),  # before any frame is there
        lambda: write(clip, tmp_path / name),
    ):
        with pytest.raises(InputError, match=rf"{there} is there .* name another folder"):
            attempt()
    assert contents(tmp_path) == before


def test_what_comes_while_a_sequence_is_made_stays(tmp_path, clip):
    write(clip, tmp_path / "s")
    writer = Writer(tmp_path / "s", FPS)
    writer.add(clip.frames[:3])
    Image.new("RGB", (8, 8)).save(tmp_path / "s" / "0002.png")
    before = {path: data for path, data in contents(tmp_path / "s").items() if not path.parent.name.startswith(".")}
    with pytest.raises(InputError, match=r"0002\.png is there"):
        writer.close()
    assert contents(tmp_path / "s") == before


def test_a_signed_sequence_is_replaced_and_what_lies_beside_it_stays(tmp_path, clip):
    identity = Identity.default()

    def seal(files):
        for number, (file, place) in enumerate(files.items()):
            if number < 5 or place.suffix == ".wav":
                sign(file, identity, place=place)

    write(Clip(clip.frames[:8], FPS, clip.audio), tmp_path / "s", seal=seal)
    (tmp_path / "s" / "8.png").write_bytes((tmp_path / "s" / "0007.png").read_bytes())  # a longer one of another width
    Image.new("RGB", (8, 8)).save(tmp_path / "s" / "poster.png")
    check_ending(tmp_path / "s" / "%04d.png", picture=False, sound=False)
    write(Clip(clip.frames[:3], FPS), tmp_path / "s" / "%04d.png", seal=seal)
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["0000.png", "0001.png", "0002.png", "poster.png"]


@pytest.mark.parametrize("name", ["50%_%04d.png", "%d_%d.png", "%%04d.png", "%04d%.png", "%010d.png", "%99d.png"])
def test_patterns_that_cannot_be_written_are_told_ahead(tmp_path, clip, name):
    for attempt in (
        lambda: check_ending(tmp_path / name, picture=False, sound=True),
        lambda: write(clip, tmp_path / name),
    ):
        with pytest.raises(InputError, match=r"exactly one %d.* no other %") as caught:
            attempt()
        assert name in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["100%.txt", "a.txt", "%d", "%04d.mp4"])
def test_endings_are_told_ahead(tmp_path, name):
    with pytest.raises(InputError, match=r"the suffix must be one of \.mp4|is written as \.png"):
        check_ending(tmp_path / name, picture=False, sound=True)


@pytest.mark.parametrize("name", ["100%.mp4", "100%", "50%/%d.png", "%4d.png", "f%03d-x.png"])
def test_other_names_with_percent_are_written(tmp_path, clip, name):
    check_ending(tmp_path / name, picture=False, sound=True)
    write(Clip(clip.frames[:4], FPS), tmp_path / name)
    assert len(read(tmp_path / name, trusted=True).frames) == 4
    assert (tmp_path / name).exists() == name.startswith("100")
    if name == "%4d.png":
        assert (tmp_path / "0003.png").exists()


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
    with pytest.raises(PhonofilmError, match="at least one frame"), Writer(tmp_path / "a.mp4", FPS, channels=7):
        pass
    assert not list(Path(tmp_path).iterdir())
