"""Holds the first or the last frame of a decoded clip to an image that was given.

The denoiser is told the image and makes latents that show it, but a few latents of four frames cannot be told which
frame exactly is meant. Here the latent at that end is moved, by gradient through the decoder, until its frame is as
near to the image as the codec can show it; the frames beside it take over less and less of the correction.
"""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor

from phonofilm.codec.video import FRAMES_PER_LATENT, VideoCodec

End = Literal["first", "last"]
ENDS: Final[tuple[End, ...]] = ("first", "last")
FADE: Final = 0.5  # share of the correction that the next frame takes over; the one after it the square of it, ...
OTHERS: Final = 0.3  # weight of the error of the other frames
REMAIN: Final = 2e-4  # weight of the squared distance from the denoiser's latent
RATE: Final = 0.1  # of Adam, in units of a latent's deviation


def anchor(video: VideoCodec, z_BCTHW: Tensor, image_BHWC: Tensor, end: End, steps: int = 24) -> Tensor:
    """Latents whose first or last frame shows `image_BHWC` (uint8), float32; all but those of that end stay.

    z_BCTHW: normalised latents. steps: of the descent, each about three times the cost of decoding one latent.
    """
    at = 0 if end == "first" else FRAMES_PER_LATENT - 1
    place = slice(0, 1) if end == "first" else slice(z_BCTHW.shape[2] - 1, None)
    wanted = image_BHWC.to(z_BCTHW.device).float().permute(0, 3, 1, 2) / 127.5 - 1
    distance = (torch.arange(FRAMES_PER_LATENT, device=z_BCTHW.device) - at).abs()
    with torch.no_grad():
        state = None if end == "first" else video.decode_step(z_BCTHW[:, :, :-1])[1] if z_BCTHW.shape[2] > 1 else None
        made = video.decode_step(z_BCTHW[:, :, place], state)[0]
        target = made + (FADE**distance)[None, :, None, None, None] * (wanted - made[:, at])[:, None]
    weight = torch.where(distance == 0, 1.0, OTHERS)[None, :, None, None, None]
    with torch.enable_grad():
        start = z_BCTHW[:, :, place].detach().clone().float()
        z = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([z], lr=RATE, betas=(0.8, 0.95))
        for k in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * min(1.0, 2 * (1 - k / steps))
            frames = video.decode_step(z, state)[0]
            loss = (weight * (frames - target).square()).mean() + REMAIN * (z - start).square().mean()
            (z.grad,) = torch.autograd.grad(loss, z)
            optimizer.step()
    result = z_BCTHW.float().clone()
    result[:, :, place] = z.detach()
    return result
