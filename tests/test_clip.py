"""Clips: what is refused, and that every conversion keeps time, place and level."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from conftest import FPS, flash_clip, onsets
from hypothesis import given, settings
from hypothesis import strategies as st

from phonofilm.clip import (
    FORMATS,
    Audio,
    Clip,
    best_format,
    exact_rate,
    fit,
    frame_at,
    frames_in,
    join,
    lasting,
    mono,
    resample,
    retime,
    samples_in,
    to_native,
)
from phonofilm.errors import InputError


def sine(hertz: float, rate: int, seconds: float = 1.0, channels: int = 1) -> Audio:
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)
    return Audio(np.repeat(wave[None].astype(np.float32), channels, 0), rate)


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: Clip(np.zeros((2, 4, 4, 3), np.float32), 16), "uint8.*float32 of shape"),
        (lambda: Clip(np.zeros((0, 4, 4, 3), np.uint8), 16), r"shape \(0, 4, 4, 3\)"),
        (lambda: Clip(np.zeros((1, 4, 4, 4), np.uint8), 16), "uint8 array"),
        (lambda: Clip(np.zeros((1, 4, 4, 3), np.uint8), 0), "fps.*got 0"),
        (lambda: Clip(np.zeros((1, 4, 4, 3), np.uint8), float("nan")), "fps.*nan"),
        (lambda: Audio(np.zeros(5, np.float32), 16000), "channels, samples"),
        (lambda: Audio(np.zeros((1, 5), np.float64), 16000), "float64"),
        (lambda: Audio(np.full((1, 5), 1.5, np.float32), 16000), "largest is 1.5"),
        (lambda: Audio(np.full((1, 5), np.nan, np.float32), 16000), "nan"),
        (lambda: Audio(np.zeros((1, 5), np.float32), 0), "sample_rate"),
    ],
)
def test_impossible_clips_are_refused_with_the_value(build, told):
    with pytest.raises(InputError, match=told):
        build()


def test_a_clip_knows_its_length():
    clip = flash_clip(frames=24)
    assert clip.seconds == 1.5
    assert clip.audio.seconds == 1.5
    assert not clip.picture
    assert Clip(clip.frames[:1], 16).picture


@given(st.integers(1, 10_000), st.sampled_from([8.0, 16.0, 24000 / 1001, 25.0, 29.97, 59.94]))
def test_frame_numbers_survive_seconds(index, fps):
    assert frame_at(index / fps, fps) == index
    assert frames_in(index / fps, fps) == index


def test_rates_are_the_fractions_that_are_meant():
    assert exact_rate(23.976) == Fraction(24000, 1001)
    assert exact_rate(30000 / 1001) == Fraction(30000, 1001)
    assert exact_rate(12.5) == Fraction(25, 2)
    assert exact_rate(16) == 16


@pytest.mark.parametrize("method", ["nearest", "box"])
@given(count=st.integers(1, 40), fps=st.integers(5, 60), to_fps=st.integers(5, 60))
@settings(deadline=None, max_examples=30)
def test_retiming_keeps_the_length_and_the_order(method, count, fps, to_fps):
    frames = np.linspace(0, 250, count).astype(np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    out = retime(frames, fps, to_fps, method)
    assert abs(len(out) / to_fps - count / fps) <= (0.5 if len(out) > 1 else 1) / to_fps + 1e-9
    assert (np.diff(out[:, 0, 0, 0].astype(int)) >= 0).all()
    # what is shown at the middle of a new frame is what was shown then, up to one old or new frame
    slope = 250 / max(1, count - 1) * fps  # levels a second
    middles = (np.arange(len(out)) + 0.5) / to_fps
    meant = np.interp(middles, (np.arange(count) + 0.5) / fps, frames[:, 0, 0, 0])
    assert np.abs(out[:, 0, 0, 0] - meant).max() <= slope * (0.5 / fps + 0.5 / to_fps) + 1


def test_box_retiming_conserves_light():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (60, 4, 4, 3)).astype(np.uint8)
    out = retime(frames, 60, 16, "box")
    assert abs(out.mean() - frames.mean()) < 0.5


def test_fit_averages_areas_exactly():
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (2, 64, 96, 3)).astype(np.uint8)
    means = frames.reshape(2, 16, 4, 24, 4, 3).mean((2, 4))
    assert np.abs(fit(frames, 24, 16) - means).max() <= 0.51


def test_fit_crops_about_the_middle():
    frames = np.zeros((1, 10, 30, 3), np.uint8)
    frames[:, :, 10:20] = 255
    assert (fit(frames, 10, 10) == 255).all()
    assert fit(frames, 30, 10) is frames


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(0, 255))
@settings(deadline=None, max_examples=40)
def test_fit_keeps_a_flat_colour(w, h, width, height, level):
    frames = np.full((1, h, w, 3), level, np.uint8)
    out = fit(frames, width, height)
    assert out.shape == (1, height, width, 3)
    assert (out == level).all()


def test_fit_of_a_mirrored_picture_is_the_mirrored_fit():
    """Halves went up or down by the order of the sum."""
    frames = np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3)).astype(np.uint8)
    fitted = fit(frames, 160, 96)
    assert np.array_equal(fit(frames[:, :, ::-1], 160, 96)[:, :, ::-1], fitted)
    assert np.array_equal(fit(frames[:, ::-1], 160, 96)[:, ::-1], fitted)


def test_fit_does_not_move_the_picture():
    x = np.arange(200)
    ramp = np.repeat(np.repeat(x[None, None, :, None], 100, 1), 3, 3).astype(np.uint8)
    for width in (50, 130, 400):
        out = fit(ramp, width, width // 2).astype(float)[0, 0, :, 0]
        meant = np.clip((np.arange(width) + 0.5) * 200 / width - 0.5, 0, 199)
        assert np.abs(out - meant).max() <= 1.01


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampled_sines_stay_sines(rate):
    out = resample(sine(440, rate), 16000)
    meant = sine(440, 16000)
    assert out.samples.shape == meant.samples.shape
    middle = slice(1000, -1000)
    assert np.abs(out.samples[:, middle] - meant.samples[:, middle]).max() < 0.005


def test_resampling_does_not_fold_what_is_too_high():
    out = resample(sine(12_000, 48_000), 16_000)
    assert np.abs(out.samples[:, 1000:-1000]).max() < 0.01


def test_mono_mixes():
    assert np.allclose(mono(sine(440, 16000, channels=2)).samples, sine(440, 16000).samples, atol=1e-6)
    surround = np.zeros((6, 4), np.float32)
    surround[3] = 1  # the bass channel
    assert not mono(Audio(surround, 16000)).samples.any()
    surround[:] = 1
    assert np.abs(mono(Audio(surround, 16000)).samples).max() <= 1


@given(st.integers(0, 300), st.floats(0, 0.03))
def test_lasting_is_exact(count, seconds):
    audio = Audio(np.full((2, count), 0.5, np.float32), 8000)
    out = lasting(audio, seconds)
    assert out.samples.shape == (2, samples_in(seconds, 8000))
    kept = min(count, out.samples.shape[1])
    assert (out.samples[:, :kept] == 0.5).all()
    assert not out.samples[:, kept:].any()


def test_to_native_keeps_picture_and_sound_together():
    clip = flash_clip(frames=32, width=320, height=180, at=12, channels=2, rate=48_000)
    fast = Clip(clip.frames.repeat(3, 0), FPS * 3, clip.audio)
    native = to_native(fast)
    assert (native.width, native.height, native.fps) == (160, 96, 16)
    assert native.audio.samples.shape == (1, 32_000)
    seen, heard = onsets(native)
    assert seen == 12 / FPS
    assert abs(heard - 12 / FPS) < 0.002


def test_best_format():
    assert best_format(1920, 1080) == FORMATS["landscape"]
    assert best_format(1080, 1920) == FORMATS["portrait"]
    assert best_format(500, 480) == FORMATS["square"]


def test_join():
    a, b = flash_clip(8, at=2), flash_clip(4, at=1)
    both = join([a, b])
    assert both.seconds == 0.75
    assert (both.frames[8:] == b.frames).all()
    assert (both.audio.samples[:, 8000:] == b.audio.samples).all()
    with pytest.raises(InputError, match="differ"):
        join([a, flash_clip(4, width=64, at=1)])
