"""The strip: exact round trips, and one clock for picture and sound."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phonofilm import latents as strip
from phonofilm.latents import Geometry, Latents, pack, unpack


def video(T: int = 3, H: int = 8, W: int = 10, B: int = 2) -> torch.Tensor:
    return torch.randn(B, 32, T, H, W)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), st.booleans(), st.integers(0, 2))
def test_pack_and_unpack_are_exact_inverses(T: int, h: int, w: int, sound: bool, images: int) -> None:
    z = video(T, 2 * h, 2 * w)
    audio = torch.randn(2, 64, 2 * T) if sound else None
    pictures = [(video(1, 2 * h, 2 * w), 0.5 * i) for i in range(images)]
    packed = pack(z, audio, pictures)
    video_back, audio_back, images_back = unpack(packed)
    assert video_back is not None and torch.equal(video_back, z)
    assert (audio is None) == (audio_back is None)
    if audio is not None and audio_back is not None:
        assert torch.equal(audio_back, audio)
    assert len(images_back) == images
    for (there, t0), (back, t1) in zip(pictures, images_back, strict=True):
        assert torch.equal(there, back) and t0 == t1
    assert packed.values_BND.shape[1] == packed.geometry.n == len(packed.positions) == len(packed.modality)


def test_sound_alone_makes_the_round_trip() -> None:
    audio = torch.randn(2, 64, 6)
    packed = pack(None, audio, height=4, width=4)
    back = unpack(packed)
    assert back[0] is None and back[1] is not None and torch.equal(back[1], audio)


def test_a_token_is_a_patch_of_32_by_32_pixels_in_raster_order() -> None:
    z = torch.zeros(1, 32, 2, 4, 6)
    z[:, :, 1, 2:4, 4:6] = 1  # second latent frame, second row of tokens, third column
    packed = pack(z)
    g = packed.geometry
    (index,) = packed.values_BND[0].sum(-1).nonzero().flatten().tolist()
    assert index == 1 * g.n_picture + 1 * g.width + 2
    assert (packed.values_BND[0, index] == 1).all()
    assert packed.positions[index].tolist() == [0.375, 0.5, 1.0]


def test_picture_and_sound_of_an_instant_stand_at_one_time() -> None:
    g = Geometry.of_clip(128, 96, 3.0)
    assert (g.latents, g.height, g.width, g.columns) == (12, 3, 4, 24)
    seconds = g.positions()[:, 0]
    for i in range(g.latents):
        assert (seconds[g.video_span(i, i + 1)] == (i + 0.5) * 0.25).all()
        assert seconds[g.audio_span(i, i + 1)].tolist() == [i * 0.25 + 0.0625, i * 0.25 + 0.1875]
        assert seconds[g.audio_span(i, i + 1)].mean() == seconds[g.video_span(i, i + 1)].mean()
    assert seconds[g.video_span(0, 12)].numel() == g.n_video == 144


def test_the_picture_is_centred_and_the_sound_stands_in_its_middle() -> None:
    for width, height in ((128, 128), (96, 160), (160, 96)):
        g = Geometry.of_clip(width, height, 2.0, images=(0.0, 2.0))
        place = g.positions()
        torch.testing.assert_close(place[g.video, 1:].mean(0), torch.zeros(2))
        assert (place[g.audio, 1:] == 0).all()
        first, last = place[g.extra].chunk(2)
        assert (first[:, 0] == 0).all() and (last[:, 0] == 2).all()
        assert torch.equal(first[:, 1:], place[g.video_span(0, 1), 1:])


def test_appended_images_are_given_and_marked() -> None:
    packed = pack(video(), torch.randn(2, 64, 6), [(video(1), 0.0)])
    g = packed.geometry
    assert (packed.mask_BN[:, g.extra] == 0).all() and (packed.mask_BN[:, : g.n_video + g.n_audio] == 1).all()
    assert (packed.role[g.extra] == strip.REFERENCE).all() and packed.role.sum() == g.n_extra
    assert packed.modality.tolist() == [0] * g.n_video + [1] * g.n_audio + [0] * g.n_extra


def test_the_unused_channels_of_the_sound_are_masked() -> None:
    packed = pack(video(), torch.randn(2, 64, 6))
    kept = packed.values_BND * packed.geometry.channel_mask()
    assert torch.equal(kept, packed.values_BND)
    assert packed.geometry.channel_mask().sum() == packed.geometry.n_video * 128 + packed.geometry.n_audio * 64


@given(st.integers(1, 64))
def test_all_clocks_agree(latents: int) -> None:
    frames = strip.frames_from_latents(latents)
    seconds = strip.seconds_from_latents(latents)
    assert strip.frames_from_seconds(seconds) == frames and strip.latents_from_frames(frames) == latents
    samples = strip.samples_from_frames(frames)
    assert samples == seconds * strip.SAMPLE_RATE
    assert strip.columns_from_samples(samples) == strip.columns_from_latents(latents)
    assert strip.samples_from_columns(strip.columns_from_latents(latents)) == samples


def test_impossible_lengths_and_sizes_are_named() -> None:
    for seconds in (0.0, 0.3, -1.0):
        with pytest.raises(ValueError, match=str(seconds)):
            strip.frames_from_seconds(seconds)
    with pytest.raises(ValueError, match="100 pixels"):
        strip.tokens_from_pixels(100)


def test_a_strip_whose_picture_and_sound_differ_in_length_is_no_strip() -> None:
    with pytest.raises(AssertionError, match="differ in length"):
        Geometry(3, 4, 4, 5)
    with pytest.raises(AssertionError):
        Latents(torch.zeros(1, 3, 128), Geometry(1, 2, 2), torch.ones(1, 3))
