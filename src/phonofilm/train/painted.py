"""Films as the denoiser paints them: what the picture's decoder learns to show as the films that were meant.

A decoder that only ever saw latents of the encoder shows every fault of painted ones. It is a larger network than the
one that paints, and sees further.

Shapes: B films, T, H, W latents in time, rows, columns; C channels of a latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from phonofilm import checkpoint
from phonofilm.codec.codec import Codec
from phonofilm.diffusion.euler import Euler
from phonofilm.diffusion.guidance import TrackGuidance, storyboard_guidance
from phonofilm.diffusion.noise import strip_noise
from phonofilm.diffusion.schedule import shifted_times
from phonofilm.engines.making import Defaults
from phonofilm.errors import CheckpointError
from phonofilm.latents import (
    PATCH,
    PIXELS_PER_LATENT,
    Geometry,
    Latents,
    patchify,
    tokens_from_pixels,
    unpack,
    with_board,
)
from phonofilm.model.denoiser import Denoiser, DenoiserConfig
from phonofilm.playhouse.casting import draw_scene
from phonofilm.playhouse.scene import Scene
from phonofilm.playhouse.stage import perform
from phonofilm.playhouse.storyboard import storyboard
from phonofilm.storyboard import to_tokens
from phonofilm.train.codec import Paint
from phonofilm.train.footage import Footage

LEVELS = (1.0, 0.93, 0.8, 0.5)  # of noise, at which `painting_error` looks


@torch.no_grad()
def channel_weights(codec: Codec, footage: Footage, power: float = 0.6) -> Tensor:
    """(128,), of the channels of a picture token, 1 in the mean: how much an error there is seen in the picture.

    A latent's channels are of equal deviation, yet the first moves pixels a hundred times as much (squared) as the
    last; a small network should learn first what is seen. Measured with the decoder on a few latents; `power` below 1
    softens.
    """
    bucket = footage.buckets[0].tensors["video_z"][: len(footage.buckets[0])]  # a reel may still grow
    z = bucket[:: max(1, len(bucket) // 4)][:4, :, :3].float().to(codec.device)
    base = codec.decode_frames(z).float()
    draw = torch.Generator().manual_seed(0)
    seen = []
    for channel in range(z.shape[1]):
        moved = z.clone()
        moved[:, channel] += 0.5 * torch.randn(z[:, 0].shape, generator=draw).to(z.device)
        seen.append(float((codec.decode_frames(moved).float() - base).square().mean()))
    weights = torch.tensor(seen).clamp(min=1e-6) ** power
    return (weights / weights.mean()).repeat_interleave(PATCH**2)


@torch.no_grad()
def painting_error(denoiser: Denoiser, footage: Footage, channel_weights_D: Tensor, device: str) -> float:
    """Mean square error of the clean picture that is painted beneath true storyboards, in units of the latents'
    variance, over four noise levels and at most 32 clips of each shape in `footage`; the same noise each time."""
    errors = []
    for bucket in footage.buckets:
        rows = bucket.about[:32]
        z = bucket.tensors["video_z"][: len(rows)].to(device).float()
        size = (z.shape[4] * PIXELS_PER_LATENT, z.shape[3] * PIXELS_PER_LATENT)
        scenes = [draw_scene(row["seed"], "train", seconds=row["seconds"]) for row in rows]
        boards = torch.stack([to_tokens(storyboard(perform(scene, size), size)) for scene in scenes]).to(device)
        clean, T = patchify(z), z.shape[2]
        g = Geometry(T, z.shape[3] // PATCH, z.shape[4] // PATCH, boards=T)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(device)
        for t in LEVELS:
            x_BND = torch.cat([torch.lerp(clean, noise, t), boards], dim=1)
            t_BN = torch.cat([clean.new_full(clean.shape[:2], t), clean.new_zeros(len(clean), T)], dim=1)
            wrong = denoiser.paint(x_BND, t_BN, g).float() - clean
            errors.append((wrong.square() * channel_weights_D.to(device)).mean(dim=(1, 2)))
    return float(torch.cat(errors).mean())


def load_denoiser(weights: str | Path, device: str | torch.device) -> Denoiser:
    """The denoiser in a file, ready to paint. Raises CheckpointError for weights that are damaged, or know no
    storyboard."""
    stored = checkpoint.load(weights, kind="denoiser")
    config = DenoiserConfig.stored(stored.config["denoiser"])
    if not config.storyboard or not config.detail_blocks:
        raise CheckpointError(f"{weights}: knows no storyboard, so that nothing can be painted beneath one")
    denoiser = Denoiser(config)
    own = {name.removeprefix("denoiser."): w for name, w in stored.tensors.items() if name.startswith("denoiser.")}
    denoiser.load_state_dict(own)
    return denoiser.to(device, denoiser.compute).eval()


def painter(codec: Codec, weights: str | Path) -> Paint:
    """Paints scenes beneath their true storyboards, by the denoiser in `weights`, as the engine does.

    Raises CheckpointError for weights that are damaged, or know no storyboard.
    """
    denoiser = load_denoiser(weights, codec.device)
    mean, basis, settings = codec.video.mean.float(), codec.video.basis.float(), Defaults()

    @torch.no_grad()
    def paint(scenes: Sequence[Scene], seeds: Sequence[int], size: tuple[int, int]) -> list[Tensor]:
        """Raw latents of each film, (T, H, W, C) float32."""
        boards = torch.stack([to_tokens(storyboard(perform(scene, size), size)) for scene in scenes]).to(codec.device)
        bare = Geometry(boards.shape[1], tokens_from_pixels(size[1]), tokens_from_pixels(size[0]))
        noise = strip_noise(seeds, bare, codec.device)
        strip = with_board(Latents(noise, bare, torch.ones_like(noise[..., 0])), boards, free=0)
        g = strip.geometry

        def led(x_BND: Tensor, t_BN: Tensor) -> Tensor:
            return torch.cat([denoiser.paint(x_BND, t_BN, g), x_BND[:, g.video.stop :]], dim=1)

        def unled(x_BND: Tensor, t_BN: Tensor) -> Tensor:
            return denoiser.paint(x_BND, t_BN.index_fill(1, torch.arange(g.n)[g.board].to(t_BN.device), 1.0), g)

        scale = storyboard_guidance(boards, settings.picture_guidance, settings.rain_guidance)
        denoise = TrackGuidance(led, unled, g.video, scale, (0.0, 1.0))
        made = Euler()(denoise, strip.values_BND, strip.mask_BN, shifted_times(settings.steps, settings.shift))
        video_z = unpack(Latents(made, g, strip.mask_BN))[0]
        assert video_z is not None
        return list(video_z.permute(0, 2, 3, 4, 1).float() @ basis.T + mean)

    return paint
