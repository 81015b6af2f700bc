"""Training of the sound's codec, and of its decoder alone; see `train/codec.py` for the loop.

Shapes: B clips, N samples, T latents, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from phonofilm import checkpoint
from phonofilm.codec.audio import SAMPLES_PER_LATENT, AudioCodec, AudioCodecConfig, audio_loss, spectrum
from phonofilm.codec.codec import AUDIO_FILE, AUDIO_KIND
from phonofilm.errors import CheckpointError
from phonofilm.precision import mixed
from phonofilm.train.codec import SIZES, AudioTraining, CodecRun, Sounds, noised, save_codec, sizes_of


def playhouse_sounds(seed: int = 0, seconds: float = 2.0, device: str | torch.device = "cpu") -> Sounds:
    """Sound of the playhouse's training split, without the picture."""
    from phonofilm.playhouse.casting import draw_scene
    from phonofilm.playhouse.sound import synthesize
    from phonofilm.playhouse.stage import perform

    def sounds(indices: Sequence[int]) -> Tensor:
        scenes = [draw_scene(seed + i, "train", seconds=seconds) for i in indices]
        return synthesize([perform(scene, SIZES[0], 16.0) for scene in scenes], 16_000, device)

    return sounds


def train_audio(
    sounds: Sounds,
    out: str | Path,
    recipe: AudioTraining | None = None,
    config: AudioCodecConfig | None = None,
    device: str | torch.device = "cpu",
    start: Mapping[str, Tensor] | None = None,
) -> AudioCodec:
    """Train an audio codec, or go on with it; writes `out`/audio-codec.safetensors and returns the trained codec.

    start: weights to begin with; latents are then normalised as they were.
    """
    recipe, out, device = recipe or AudioTraining(), Path(out), torch.device(device)
    torch.manual_seed(recipe.seed)
    model = AudioCodec(config).to(device)
    if start is not None:
        model.load_state_dict({name: value.float() for name, value in start.items()}, strict=False)
    run = CodecRun("audio-codec", model, recipe, out, device)
    if run.progress >= 1 and (out / AUDIO_FILE).exists():  # others may depend on it, or have gone on with its decoder
        return stored_audio(out).to(device)
    _train_sounds(run, sounds)
    if start is None:
        with torch.no_grad():
            heard = [_stretches(sounds, k, recipe, run.generator(salt=3), device) for k in range(16)]
            raw_MC = torch.cat([model.encode_raw(x).flatten(0, 1) for x in heard])
        model.mean.copy_(raw_MC.mean(0))
        model.std.copy_(raw_MC.std(0).clamp(min=1e-3))
    save_codec(model, out / AUDIO_FILE, AUDIO_KIND)
    return model


def train_audio_decoder(
    sounds: Sounds,
    out: str | Path,
    recipe: AudioTraining | None = None,
    device: str | torch.device = "cpu",
) -> AudioCodec:
    """Go on with the decoder of `out`/audio-codec.safetensors alone, so that latents made by it stay valid.

    It learns gains, too, if it had none (they begin as 1). What is found in `out`/audio-decoder.state is gone on with.
    """
    recipe, out, device = recipe or AudioTraining(), Path(out), torch.device(device)
    torch.manual_seed(recipe.seed)
    model = stored_audio(out, gains=True).to(device)
    for parameter in model.encoder.parameters():
        parameter.requires_grad_(False)
    _train_sounds(CodecRun("audio-decoder", model, recipe, out, device), sounds)
    save_codec(model, out / AUDIO_FILE, AUDIO_KIND)
    return model


def stored_audio(out: Path, gains: bool | None = None) -> AudioCodec:
    """The audio codec in `out`; gains: whether its decoder is to have them, None: as is there. Raises CheckpointError
    where weights are missing, or have no place."""
    stored = checkpoint.load(out / AUDIO_FILE, kind=AUDIO_KIND)
    config = AudioCodecConfig(**sizes_of(stored))
    model = AudioCodec(config if gains is None else replace(config, gains=gains))
    weights = {name: value.float() for name, value in stored.tensors.items()}
    missing, surplus = model.load_state_dict(weights, strict=False)
    lost = [name for name in missing if config.gains or not name.startswith("decoder.gain.")]
    if lost or surplus:
        raise CheckpointError(
            f"{out / AUDIO_FILE}: {f'{lost[0]} is missing' if lost else f'{surplus[0]} has no place'}"
        )
    return model


def _stretches(
    sounds: Sounds, step: int, recipe: AudioTraining, generator: torch.Generator, device: torch.device
) -> Tensor:
    """What a step hears: (B, N), of each sound a part, up to 10 dB softer."""
    whole = sounds(range(step * recipe.batch, (step + 1) * recipe.batch)).to(device)
    length = recipe.stretch * SAMPLES_PER_LATENT
    starts = torch.randint(max(1, whole.shape[1] - length + 1), (len(whole),), generator=generator).tolist()
    gains = 10 ** (torch.rand(len(whole), 1, generator=generator) * -0.5)
    return torch.stack([x[s : s + length] for x, s in zip(whole, starts, strict=True)]) * gains.to(device)


def _train_sounds(run: CodecRun[AudioCodec], sounds: Sounds) -> None:
    model, recipe, device = run.model, run.recipe, run.device
    assert isinstance(recipe, AudioTraining)

    def loss(run: CodecRun[AudioCodec]) -> tuple[Tensor, Mapping[str, Tensor]]:
        generator = run.generator()
        true = _stretches(sounds, run.step, recipe, generator, device)
        with mixed(device, recipe.bf16):
            raw = model.encode_raw(true).float()
            made = model.decode_raw(noised(raw, recipe.noise, generator)).float()
        value, parts = audio_loss(made, true, model.encoder.filters, recipe.onset_weight)
        return value + recipe.latent_l2 * raw.square().mean(), {**parts, "latent_std": raw.std()}

    @torch.no_grad()
    def sheet(model: AudioCodec) -> np.ndarray[Any, Any]:
        return audio_sheet(model, _stretches(sounds, 0, recipe, torch.Generator().manual_seed(0), device)[:6])

    run.go(loss, sheet)


@torch.no_grad()
def audio_sheet(model: AudioCodec, true_BN: Tensor) -> np.ndarray[Any, Any]:
    """Spectrograms up to 8 kHz, -80 to 0 dB, truth over reconstruction: a picture (rows, columns, 3) uint8."""
    rows = []
    for pair in zip(true_BN, model.decode_raw(model.encode_raw(true_BN)), strict=True):
        for samples in pair:
            level = 20 * torch.log10(spectrum(samples[None])[0].abs() / 128 + 1e-4)  # dB re full scale
            rows.append(F.avg_pool2d((level.flip(0)[None] + 80) / 80, (2, 1))[0])
    sheet = (torch.cat(rows, 0).clamp(0, 1) * 255).to(torch.uint8)
    return sheet[..., None].expand(-1, -1, 3).contiguous().cpu().numpy()
