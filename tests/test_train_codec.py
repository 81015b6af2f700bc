"""Training of the codecs: it learns, it resumes exactly, and what a step sees depends on the step alone."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from phonofilm import checkpoint
from phonofilm.codec.audio import AudioCodec, AudioCodecConfig, audio_loss, onset_error
from phonofilm.codec.codec import AUDIO_FILE, VIDEO_FILE, latents_hash
from phonofilm.codec.video import VideoCodec, VideoCodecConfig
from phonofilm.errors import CheckpointError
from phonofilm.train.codec import (
    AudioTraining,
    FilmPool,
    Footage,
    VideoTraining,
    actor_weights,
    draw_crops,
    grow,
    train_decoder,
    train_video,
)
from phonofilm.train.optim import orthogonal
from phonofilm.train.sound import train_audio, train_audio_decoder

VIDEO = VideoCodecConfig(encoder_widths=(16, 16, 24), decoder_widths=(16, 24, 24))
AUDIO = AudioCodecConfig(encoder_widths=(16, 24, 32), decoder_widths=(24, 32, 32))
SHORT = VideoTraining(
    seconds=None, steps=6, batch=2, crop=32, frames=8, pool=8, save_seconds=0, log_steps=2, bf16=False
)
SHORT_AUDIO = AudioTraining(seconds=None, steps=4, batch=2, stretch=4, save_seconds=0, log_steps=2)


def discs(indices: Sequence[int]) -> list[Footage]:
    """A disc that moves to the right over a slanted ground; its colours, place and speed come from the number."""
    footage = []
    for i in indices:
        generator = torch.Generator().manual_seed(i)
        ground, colour = torch.rand(2, 3, generator=generator)
        x0, y0, speed = (torch.rand(3, generator=generator) * torch.tensor([20.0, 20.0, 2.0])).tolist()
        x = x0 + 10 + speed * torch.arange(12.0)
        y = torch.full((12,), y0 + 14)
        rows, columns = torch.arange(48.0)[:, None], torch.arange(48.0)
        inside = torch.sigmoid(2 * (8 - ((rows - y[:, None, None]) ** 2 + (columns - x[:, None, None]) ** 2).sqrt()))
        back = ground * (0.6 + 0.4 * rows / 48)[..., None]
        frames = back * (1 - inside[..., None]) + colour * inside[..., None]
        boxes = torch.stack([x - 8, y - 8, x + 8, y + 8], -1)[:, None]
        footage.append(Footage((frames * 255).to(torch.uint8), boxes))
    return footage


def tones(indices: Sequence[int]) -> Tensor:
    seconds = torch.arange(8000) / 16000
    return torch.stack([0.4 * torch.sin(2 * math.pi * (200 + 90 * (i % 7)) * seconds) for i in indices])


def clicks(indices: Sequence[int]) -> Tensor:
    """A note that begins suddenly somewhere and fades."""
    sounds = torch.zeros(len(indices), 8000)
    for sound, i in zip(sounds, indices, strict=True):
        start = 1000 + 613 * (i % 11)
        seconds = torch.arange(8000 - start) / 16000
        sound[start:] = 0.5 * torch.cos(2 * math.pi * (300 + 90 * (i % 7)) * seconds) * torch.exp(-8 * seconds)
    return sounds


@pytest.mark.parametrize(("compute", "stray"), [(torch.float32, 1e-3), (torch.bfloat16, 2e-2)])
def test_orthogonal_keeps_directions_and_levels_singular_values(compute: torch.dtype, stray: float) -> None:
    for shape in ((2, 24, 60), (2, 60, 24)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        u, _, v = torch.linalg.svd(x, full_matrices=False)
        levelled = u.mT @ orthogonal(x, compute) @ v.mT
        values = levelled.diagonal(dim1=-2, dim2=-1)
        assert values.min() > 0.6 and values.max() < 1.3
        assert (levelled - torch.diag_embed(values)).abs().max() < stray


def test_the_pool_depends_on_the_step_alone() -> None:
    asked: list[int] = []

    def films(indices: Sequence[int]) -> list[Footage]:
        asked.extend(indices)
        return discs(indices)

    pool = FilmPool(films, 16, 0.5, torch.device("cpu"))
    assert pool.window(0) == range(16)
    assert pool.window(40) == range(16, 32)
    assert sorted(pool.clips) == list(range(16, 32)) and asked == list(range(32))
    fresh = FilmPool(discs, 16, 0.5, torch.device("cpu"))
    for whole in (False, True):
        crops = [draw_crops(p, 40, SHORT, torch.Generator().manual_seed(5), whole) for p in (pool, fresh)]
        assert torch.equal(crops[0][0], crops[1][0]) and torch.equal(crops[0][1], crops[1][1])


def test_weights_lie_on_the_actor_and_small_actors_weigh_more() -> None:
    frames = torch.zeros(1, 40, 40, 3, dtype=torch.uint8)
    boxes = torch.tensor([[[2.0, 3.0, 6.0, 9.0], [10.0, 10.0, 40.0, 40.0], [math.nan] * 4]])
    weight = actor_weights(Footage(frames, boxes), slice(0, 1), 4.0)[0]
    assert weight[0, 0] == 1
    assert (weight[3:9, 2:6] > weight[20, 20]).all() and weight[20, 20] > 1
    assert (weight > 1).sum() == 24 + 900


def test_video_training_learns(tmp_path: Path) -> None:
    recipe = replace(SHORT, steps=120, batch=4, save_seconds=1e9, sheet_steps=100, noise=0.0)
    (scene,) = discs([1000])
    x = (scene.frames[None, :8, :32, :32].float() / 127.5 - 1).permute(0, 1, 4, 2, 3)
    errors = []
    for steps in (1, 120):
        model = train_video(discs, tmp_path / str(steps), replace(recipe, steps=steps), VIDEO)
        with torch.no_grad():
            errors.append(float((model.decode(model.encode(x)) - x).square().mean()))
    assert errors[1] < 0.7 * errors[0]
    assert (tmp_path / "120" / "video-codec.safetensors").exists()
    assert (tmp_path / "120" / "video-codec.png").exists()


class Interrupted(Exception):
    pass


def test_video_training_resumes_exactly(tmp_path: Path) -> None:
    def interrupt(progress: float) -> None:
        if progress >= 0.5:
            raise Interrupted

    straight = train_video(discs, tmp_path / "a", SHORT, VIDEO)
    with pytest.raises(Interrupted):
        train_video(discs, tmp_path / "b", SHORT, VIDEO, progress=interrupt)
    resumed = train_video(discs, tmp_path / "b", SHORT, VIDEO)
    for key, value in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value, atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="asked for"):
        train_video(discs, tmp_path / "b", SHORT, VideoCodecConfig())


def test_audio_training_learns_and_resumes_exactly(tmp_path: Path) -> None:
    def failing(indices: Sequence[int]) -> Tensor:
        if indices[0] >= 4:
            raise Interrupted
        return tones(indices)

    straight = train_audio(tones, tmp_path / "a", SHORT_AUDIO, AUDIO)
    with pytest.raises(Interrupted):
        train_audio(failing, tmp_path / "b", SHORT_AUDIO, AUDIO)
    resumed = train_audio(tones, tmp_path / "b", SHORT_AUDIO, AUDIO)
    for key, value in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value, atol=1e-6, rtol=1e-5)
    longer = train_audio(tones, tmp_path / "c", replace(SHORT_AUDIO, steps=60, save_seconds=1e9), AUDIO)
    x = tones([3, 4])
    with torch.no_grad():
        losses = [float(audio_loss(m.decode(m.encode(x)), x, m.encoder.filters)[0]) for m in (straight, longer)]
    assert losses[1] < 0.8 * losses[0]


def test_more_of_the_decoder_leaves_latents_as_they_were_and_may_grow(tmp_path: Path) -> None:
    """The encoder and its hash stay bitwise; new blocks begin as nothing, so the first picture is the old one."""
    small = replace(VIDEO, decoder_blocks=(1, 1, 1))
    large = replace(small, decoder_blocks=(2, 1, 2))
    before = train_video(discs, tmp_path, SHORT, small)
    grown = VideoCodec(large)
    grow(grown, before.state_dict())
    z = torch.randn(1, 32, 2, 2, 2)
    with torch.no_grad():
        torch.testing.assert_close(grown.decode(z), before.decode(z))
    old = checkpoint.load(tmp_path / VIDEO_FILE).tensors
    train_decoder(discs, tmp_path, SHORT, large)
    new = checkpoint.load(tmp_path / VIDEO_FILE).tensors
    assert latents_hash(new) == latents_hash(old)
    changed = [name for name in old if not torch.equal(old[name], new[name])]
    assert changed and all(name.startswith("decoder.") for name in changed)
    with pytest.raises(CheckpointError, match=r"decoder\.high\.1.* has no place"):
        grow(VideoCodec(small), new)
    (tmp_path / "video-decoder.state").unlink()
    assert train_decoder(discs, tmp_path, SHORT).config == large  # as large as what is there, if nothing else is asked


def test_more_of_the_sound_s_decoder_learns_gains_and_leaves_latents_as_they_were(tmp_path: Path) -> None:
    """The first sound is the old one; with gains a click's onset is learnt, where the latents are the same."""
    recipe = replace(SHORT_AUDIO, steps=40, batch=4, save_seconds=1e9, noise=0.0, onset_weight=1.0)
    before = train_audio(clicks, tmp_path, recipe, AUDIO)
    grown = AudioCodec(replace(AUDIO, gains=True)).eval()
    grown.load_state_dict(before.state_dict(), strict=False)
    x = clicks(range(900, 908))
    with torch.no_grad():
        torch.testing.assert_close(grown.decode(before.encode(x)), before.decode(before.encode(x)))
    old = checkpoint.load(tmp_path / AUDIO_FILE).tensors
    after = train_audio_decoder(clicks, tmp_path, replace(recipe, steps=100))
    stored = checkpoint.load(tmp_path / AUDIO_FILE)
    assert latents_hash(stored.tensors) == latents_hash(old) and stored.config["gains"]
    assert bool(stored.tensors["decoder.gain.weight"].any())
    with torch.no_grad():
        z = before.encode(x)
        assert float(onset_error(after.decode(z), x)) < 0.9 * float(onset_error(before.decode(z), x))
        streamed = torch.cat(list(after.decode_stream(z, 1)), 1)
    torch.testing.assert_close(streamed, after.decode(z), atol=1e-5, rtol=1e-4)
    stored.tensors.pop("decoder.head.bias")
    checkpoint.save(tmp_path / AUDIO_FILE, stored.tensors, kind="audio-codec", config=stored.config)
    with pytest.raises(CheckpointError, match=r"decoder\.head\.bias is missing"):
        train_audio_decoder(clicks, tmp_path, recipe)
    for name, wrong in (("decoder.gain.bias", "is missing"), ("decoder.horn.bias", "has no place")):
        tensors = checkpoint.load(tmp_path / AUDIO_FILE).tensors | {"decoder.head.bias": old["decoder.head.bias"]}
        if tensors.pop(name, None) is None:
            tensors |= {name: torch.zeros(1), "decoder.gain.bias": torch.zeros(5)}
        checkpoint.save(tmp_path / AUDIO_FILE, tensors, kind="audio-codec", config=stored.config)
        with pytest.raises(CheckpointError, match=f"{re.escape(name)} {wrong}"):
            train_audio_decoder(clicks, tmp_path, recipe)


def test_the_error_of_onsets_grows_with_what_is_heard_too_early_and_is_nothing_where_nothing_begins() -> None:
    x = clicks(range(4))
    errors = [float(onset_error(torch.roll(x, -k, 1), x)) for k in (0, 50, 100, 200)]
    assert errors[0] == 0 and errors == sorted(errors) and errors[1] > 0.1
    assert float(onset_error(tones([1]), 0.5 * tones([1]))) == 0


@pytest.mark.parametrize("whole", [False, True])
def test_painted_latents_are_those_of_their_crop(whole: bool) -> None:
    """Every block of the film, and its latent, holds its own number."""
    blocks = torch.arange(3 * 3 * 3).view(3, 3, 3)
    frames = blocks.repeat_interleave(4, 0).repeat_interleave(16, 1).repeat_interleave(16, 2)
    boxes = torch.tensor([10.0, 10, 40, 40]).expand(12, 1, 4)
    painted = blocks[..., None].float().expand(-1, -1, -1, 2)
    film = Footage(frames[..., None].expand(-1, -1, -1, 3).to(torch.uint8), boxes, painted)
    pool = FilmPool(lambda indices: [film] * len(indices), 8, 0.0, torch.device("cpu"))
    seen = 0
    for seed in range(12):
        recipe = replace(SHORT, batch=4, painted=0.6, stills=0.5)
        crops, _, latents = draw_crops(pool, 0, recipe, torch.Generator().manual_seed(seed), whole)
        for crop, latent in zip((crops + 1) * 127.5, latents, strict=True):
            if latent is not None:
                seen += 1
                shown = crop[::4, ::16, ::16, 0]
                torch.testing.assert_close(shown.round(), latent[..., 0])
                assert torch.equal(crop[3::4, 15::16, 15::16], crop[::4, ::16, ::16])
    assert 0.3 < seen / (12 * (1 if whole else 4)) < 0.9


def test_the_decoder_learns_to_show_what_was_meant(tmp_path: Path) -> None:
    """Painted latents that are all wrong by the same amount are shown better than before; the encoder's as well."""
    model = train_video(discs, tmp_path, replace(SHORT, steps=40, batch=4, save_seconds=1e9), VIDEO)
    with torch.no_grad():
        model.eval()

        def painted(indices: Sequence[int]) -> list[Footage]:
            films = discs(indices)
            raw = [model.encoder(f.frames[None].float() / 127.5 - 1)[0] * 0.5 for f in films]
            return [replace(f, painted=r.detach()) for f, r in zip(films, raw, strict=True)]

        def fault(decoder: VideoCodec) -> float:
            films = painted(range(100, 104))
            made = torch.stack([decoder.decoder(f.painted[None])[0][0] for f in films if f.painted is not None])
            return float((made - torch.stack([f.frames for f in films]).float() / 127.5 + 1).square().mean())

        before = fault(model)
    recipe = replace(SHORT, steps=60, batch=4, save_seconds=1e9, painted=0.5)
    after = train_decoder(painted, tmp_path, recipe, model.config)
    with torch.no_grad():
        assert fault(after) < 0.7 * before
