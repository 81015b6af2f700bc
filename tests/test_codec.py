"""The codecs: exact framing, streaming that equals decoding at once, and what the metrics measure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phonofilm import checkpoint
from phonofilm.clip import Audio, Clip, join
from phonofilm.codec import audio as sound
from phonofilm.codec import metrics, video
from phonofilm.codec.anchor import anchor
from phonofilm.codec.codec import AUDIO_FILE, COMPRESSION, VIDEO_FILE, Codec
from phonofilm.errors import CheckpointError


def small_video() -> video.VideoCodec:
    torch.manual_seed(1)
    return video.VideoCodec(video.VideoCodecConfig(encoder_widths=(16, 16, 24), decoder_widths=(16, 24, 24))).eval()


def small_audio() -> sound.AudioCodec:
    torch.manual_seed(2)
    return sound.AudioCodec(sound.AudioCodecConfig(encoder_widths=(16, 24, 24), decoder_widths=(24, 24, 24))).eval()


def small_codec() -> Codec:
    return Codec(small_video(), small_audio())


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@given(time=st.sampled_from([1, 2, 4]), space=st.sampled_from([1, 2, 4]), channels=st.integers(1, 3))
@settings(max_examples=10, deadline=None)
def test_unfold_is_the_inverse_of_fold(time: int, space: int, channels: int) -> None:
    x = noise(2, 2 * time, 3 * space, space, channels)
    assert torch.equal(video.unfold(video.fold(x, time, space), time, space), x)


def test_parameters_and_compression_stay_within_the_budget() -> None:
    assert sum(p.numel() for p in video.VideoCodec().parameters()) <= 3_800_000
    assert sum(p.numel() for p in sound.AudioCodec().parameters()) <= 2_000_000
    assert COMPRESSION >= 96


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_video_streaming_equals_decoding_at_once(chunk: int) -> None:
    codec = small_video()
    z = 2 * noise(2, 32, 5, 2, 3)
    with torch.no_grad():
        whole = codec.decode(z)
        state, pieces = None, []
        for start in range(0, 5, chunk):
            frames, state = codec.decode_step(z[:, :, start : start + chunk], state)
            pieces.append(frames)
    assert whole.shape == (2, 20, 3, 32, 48)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=2e-5, rtol=0)


def test_the_decoder_is_causal_and_remembers() -> None:
    codec = small_video()
    z = 2 * noise(1, 32, 4, 2, 2)
    changed = z.clone()
    changed[:, :, 2] += 1
    with torch.no_grad():
        difference = (codec.decode(z) - codec.decode(changed)).abs().amax((0, 2, 3, 4))
    assert difference[:8].max() < 1e-6
    assert difference[8:12].min() > 1e-3
    assert difference[12:].max() > 1e-4


def test_a_latent_frame_does_not_depend_on_its_place() -> None:
    codec = small_video()
    x = noise(1, 12, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(codec.encode(x)[:, :, 1:2], codec.encode(x[:, 4:8]), atol=2e-5, rtol=0)


def test_short_clips_are_filled_up_with_their_last_frame() -> None:
    codec = small_video()
    x = noise(1, 6, 3, 16, 32)
    longer = torch.cat([x, x[:, 5:], x[:, 5:]], 1)
    with torch.no_grad():
        torch.testing.assert_close(codec.encode(x), codec.encode(longer))
        torch.testing.assert_close(codec.encode(x[:, :1]), codec.encode(x[:, :1].expand(-1, 4, -1, -1, -1)))


@pytest.mark.parametrize("shape", [(1, 4, 3, 30, 32), (1, 4, 3, 32, 8), (1, 0, 3, 32, 32)])
def test_impossible_frames_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"{shape[1]} frames of {shape[4]}x{shape[3]}.*16"):
        small_video().encode(torch.zeros(shape))


def test_latents_are_normalised_by_the_stored_statistics() -> None:
    """Half whitened: uncorrelated, of variance 1 in the mean, each variance the root of a principal component's."""
    codec = small_video()
    x = noise(4, 8, 3, 32, 32)
    with torch.no_grad():
        raw = codec.encode_raw(x)
        mean, basis = video.half_whitened(raw.flatten(0, -2))
        codec.mean.copy_(mean)
        codec.basis.copy_(basis)
        z = codec.encode(x).movedim(1, -1).flatten(0, -2)
        assert raw.abs().max() < video.BOUND
        variances = z.var(0)
        torch.testing.assert_close(z.T.cov(), variances.diag(), atol=1e-3, rtol=0)
        assert float(variances.mean()) == pytest.approx(1, abs=0.05)  # 1 before tiny components are lifted
        spectrum = torch.linalg.eigvalsh(raw.flatten(0, -2).T.corrcoef()).clamp(min=1e-4).flip(0)
        torch.testing.assert_close(
            variances / variances.mean(), spectrum.sqrt() / spectrum.sqrt().mean(), atol=0.02, rtol=0.02
        )
        torch.testing.assert_close(codec.decode(codec.encode(x)), codec.decode_raw(raw).clamp(-1, 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("end", ["first", "last"])
def test_an_anchor_brings_one_end_to_an_image_and_leaves_the_rest(end: Literal["first", "last"]) -> None:
    """The image is one that the decoder can show: a frame of other latents, from which it is half way off."""
    codec = small_video().eval()
    z = torch.randn(1, 32, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    at = 0 if end == "first" else 11
    with torch.no_grad():
        wanted = codec.decode(z)[:, at]
        off = z + 0.7 * torch.randn(z.shape, generator=torch.Generator().manual_seed(2))
        image = ((wanted + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        before = (codec.decode(off)[:, at] - wanted).square().mean()
        held = anchor(codec, off, image, end)
        after = (codec.decode(held)[:, at] - wanted).square().mean()
    assert after < 0.3 * before
    moved = (held != off).flatten(3).any(3)[0].any(0)
    assert moved.tolist() == [end == "first", False, end == "last"]
    assert not held.requires_grad and all(p.grad is None for p in codec.parameters())


# --- sound ----------------------------------------------------------------------------------------------------------


@given(frames=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_n_samples_are_n_over_125_frames_and_come_back(frames: int, seed: int) -> None:
    x = noise(1, 125 * frames, seed=seed)
    spectra = sound.spectrum(x)
    assert spectra.shape == (1, 257, frames)
    torch.testing.assert_close(sound.inverse_spectrum(spectra), x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("where", [62, 1000 + 62, 1187, 1999 - 62])
def test_a_click_is_where_it_was(where: int) -> None:
    x = torch.zeros(1, 2000)
    x[0, where] = 1
    assert int(sound.spectrum(x).abs().sum(1).argmax()) == where // 125
    assert int(sound.inverse_spectrum(sound.spectrum(x)).argmax()) == where


def test_windows_reach_equally_far_over_both_ends() -> None:
    mean = sound.spectrum(torch.ones(1, 4000))[0, 0].abs()  # of a constant: how much of each window is inside
    assert float(mean[0]) == pytest.approx(float(mean[-1]), rel=0.01)
    assert float(mean[0]) < 0.8 * float(mean[16])


def test_every_mel_band_hears_something() -> None:
    assert sound.mel_filters().sum(0).min() > 0.3


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_audio_streaming_equals_decoding_at_once(chunk: int) -> None:
    codec, z = small_audio(), noise(2, 64, 13)
    with torch.no_grad():
        whole = codec.decode(z)
        pieces = list(codec.decode_stream(z, chunk))
    assert whole.shape == (2, 26000)
    assert whole.std() > 1e-3
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=0)


def test_context_is_all_that_a_latent_reaches() -> None:
    codec, z = small_audio(), noise(1, 64, 14)
    changed = z.clone()
    changed[..., 6] += 2
    with torch.no_grad():
        latents = (codec.decode(z) - codec.decode(changed)).abs()[0].unflatten(0, (14, -1)).amax(1)
    assert latents[6] > 1e-4
    assert latents[: 6 - sound.CONTEXT].max() < 1e-6
    assert latents[6 + sound.CONTEXT + 1 :].max() < 1e-6


def test_the_loss_of_equal_sounds_is_nothing_and_grows_with_delay() -> None:
    filters = sound.mel_filters()
    x = torch.zeros(1, 4000)
    x[0, 1000:1400] = noise(400) * 0.5
    losses = [float(sound.audio_loss(torch.roll(x, k, 1), x, filters)[0]) for k in (0, 30, 120)]
    assert losses[0] == 0
    assert losses[0] < losses[1] < losses[2]


# --- metrics --------------------------------------------------------------------------------------------------------


def test_psnr_knows_a_known_error() -> None:
    true = np.full((2, 16, 16, 3), 100, np.uint8)
    assert metrics.psnr(true, true) == math.inf
    assert metrics.psnr(true + 10, true) == pytest.approx(20 * math.log10(25.5))
    made = true.copy()
    made[:, 4:8, 4:8] += 20
    inside = np.tile([4.0, 4.0, 8.0, 8.0], (2, 1))
    assert metrics.psnr_in_boxes(made, true, inside) == pytest.approx(20 * math.log10(255 / 20))
    assert metrics.psnr_in_boxes(made, true, inside + 8) == math.inf
    assert math.isnan(metrics.psnr_in_boxes(made, true, inside * math.nan))


def test_ssim_is_one_for_equals_and_falls_with_noise() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(60, 200, (1, 32, 32, 3), dtype=np.uint8)
    little, much = (np.clip(true + rng.normal(0, s, true.shape), 0, 255).astype(np.uint8) for s in (5, 40))
    assert metrics.ssim(true, true) == pytest.approx(1, abs=1e-4)
    assert 1 > metrics.ssim(little, true) > metrics.ssim(much, true)


def test_log_spectral_distance_of_half_the_amplitude_is_6_db() -> None:
    x = noise(8000).numpy()
    assert metrics.log_spectral_distance(x, x) == 0
    assert metrics.log_spectral_distance(x / 2, x) == pytest.approx(20 * math.log10(2), abs=0.05)


@pytest.mark.parametrize("shift", [-12, 0, 3, 20])
def test_onset_shift_measures_a_delay(shift: int) -> None:
    x = np.zeros(16000, np.float32)
    times = np.array([0.25, 0.6])
    ring = np.exp(-np.arange(2000) / 300) * np.sin(np.arange(2000) * 0.3)
    for time in times:
        x[round(time * 16000) :][:2000] += 0.5 * ring.astype(np.float32)
    measured = metrics.onset_shift_ms(np.roll(x, 16 * shift), x, times)
    assert measured == pytest.approx([shift, shift], abs=0.5)


# --- both -----------------------------------------------------------------------------------------------------------


def some_clip(frames: int = 8) -> Clip:
    pixels = ((noise(frames, 32, 48, 3) + 1) * 127).to(torch.uint8).numpy()
    return Clip(pixels, 16.0, Audio(0.3 * noise(1, 1000 * frames).numpy(), 16_000))


def test_a_clip_keeps_its_length_and_streams_alike() -> None:
    codec, clip = small_codec(), some_clip(12)
    video_z, audio_z = codec.encode(clip)
    assert video_z.shape == (1, 32, 3, 2, 3)
    assert audio_z is not None and audio_z.shape == (1, 64, 6)
    whole, streamed = codec.decode(video_z, audio_z), join(list(codec.decode_stream(video_z, audio_z)))
    assert whole.frames.shape == clip.frames.shape
    assert whole.audio is not None and streamed.audio is not None and clip.audio is not None
    assert whole.audio.samples.shape == clip.audio.samples.shape
    assert np.abs(whole.frames.astype(int) - streamed.frames).max() <= 1
    np.testing.assert_allclose(whole.audio.samples, streamed.audio.samples, atol=1e-5)


def test_a_picture_is_a_clip_of_one_frame() -> None:
    codec = small_codec()
    z, audio_z = codec.encode(Clip(some_clip().frames[:1], 16.0))
    assert audio_z is None and z.shape[2] == 1
    assert codec.decode(z, picture=True).picture


def test_other_rates_are_refused() -> None:
    with pytest.raises(ValueError, match=r"16 frames a second.*25"):
        small_codec().encode(Clip(some_clip().frames, 25.0))


def test_weights_survive_a_file_and_damage_is_noticed(tmp_path: Path) -> None:
    codec, clip = small_codec(), some_clip()
    before = codec.hash
    codec.save(tmp_path)
    kept = Codec.load(tmp_path, dtype=torch.float32)
    assert kept.hash == codec.hash != before
    kept.save(tmp_path / "again")
    assert Codec.load(tmp_path / "again").hash == kept.hash
    (z, _), (z_kept, _) = codec.encode(clip), kept.encode(clip)
    assert 1 - torch.cosine_similarity(z.flatten(), z_kept.flatten(), dim=0) < 1e-3  # bf16
    stored = checkpoint.load(tmp_path / VIDEO_FILE)
    del stored.tensors["mean"]
    checkpoint.save(tmp_path / VIDEO_FILE, stored.tensors, kind=stored.kind, config=stored.config)
    with pytest.raises(CheckpointError, match="do not fit"):
        Codec.load(tmp_path)
    (tmp_path / AUDIO_FILE).unlink()
    checkpoint.save(tmp_path / VIDEO_FILE, codec.video.state_dict(), kind="video-codec", config=stored.config)
    with pytest.raises(CheckpointError, match="no such file"):
        Codec.load(tmp_path)
