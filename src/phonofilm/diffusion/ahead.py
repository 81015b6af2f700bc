"""The storyboard ahead of picture and sound: what is given in sight, noise where the rest will be.

Semantics first, then texture beneath them (2512.04926). Tracks of which nothing is given are left out of the strip:
the storyboard alone is a tenth of the work.

Shapes: B strips, N tokens, D = 128 width of a token, T tokens of the storyboard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from phonofilm.diffusion.sampler import Denoise, Progress, Sampler
from phonofilm.latents import Geometry
from phonofilm.storyboard import speaks, steady, with_lips


def draw_board(
    bind: Callable[[Geometry], Denoise],
    x_BND: Tensor,
    mask_BN: Tensor,
    geometry: Geometry,
    noise_BTD: Tensor,
    sampler: Sampler,
    times: Tensor,
    callback: Callable[[Progress], None] | None = None,
    *,
    draft_BTD: Tensor | None = None,
    free: float = 1.0,
) -> Tensor:
    """Denoise a storyboard (B, T, D); in each step nobody in it changes who he is (`storyboard.steady`).

    Args:
        bind: the denoiser for a geometry.
        x_BND, mask_BN, geometry: a strip without storyboard as a sampler starts with it, see `Sampler`.
        noise_BTD: what the storyboard starts with.
        sampler, times, callback: see `Sampler`.
        draft_BTD, free: a storyboard that is gone over again from noise level `free` on, in (0, 1].
    """
    B, T = noise_BTD.shape[:2]
    unseen = bool((mask_BN[:, geometry.video] == 1).all())
    given = slice(0, None)
    if unseen and not geometry.images and bool((mask_BN == 1).all()):
        given, geometry = slice(0, 0), Geometry(0, geometry.height, geometry.width)
    elif unseen:
        given, geometry = slice(geometry.n_video, None), replace(geometry, latents=0)
    geometry = replace(geometry, boards=T)
    bound, x_BND, mask_BN = bind(geometry), x_BND[:, given], mask_BN[:, given]

    def denoise(x_BTD: Tensor, t_BT: Tensor) -> Tensor:
        answer_BND = bound(torch.cat([x_BND, x_BTD], dim=1), torch.cat([mask_BN, t_BT], dim=1))
        return steady(answer_BND[:, geometry.board])

    begin_BTD = noise_BTD if draft_BTD is None else torch.lerp(draft_BTD, noise_BTD, free)
    return sampler(denoise, begin_BTD, noise_BTD.new_full((B, T), free), times, callback)


def lip_sync(
    board_BTD: Tensor,
    x_BND: Tensor,
    mask_BN: Tensor,
    geometry: Geometry,
    sound: Callable[[Tensor, Tensor, Geometry], Tensor],
    draw: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The storyboard (B, T, D) with mouths that fit the sound.

    Which mouth goes with a word is far easier to hear than to read: a first sound is made beneath the storyboard,
    which tells when somebody speaks; then the storyboard that this sound asks for is drawn, and its mouths are taken
    over. Picture and sound are made from the same noise afterwards. Nothing is done where nobody speaks, where the
    sound is given (the storyboard was drawn from it), and where the picture is (its mouths are what they are).

    Args:
        x_BND, mask_BN, geometry: a strip without storyboard as a sampler starts with it, see `Sampler`.
        sound: denoises a strip without the picture, (x_BND, mask_BN, geometry) → strip.
        draw: draws a storyboard (B, T, D), (x_BND, mask_BN) → storyboard; see `draw_board`.
    """
    g = geometry
    made = g.columns and bool(mask_BN[:, g.audio].any()) and bool(mask_BN[:, g.video].any())
    if not made or not bool(speaks(board_BTD).any()):
        return board_BTD
    short = replace(g, latents=0, boards=board_BTD.shape[1])
    strip_BND = torch.cat([x_BND[:, g.n_video :], board_BTD], dim=1)
    free_BN = torch.cat([mask_BN[:, g.n_video :], torch.zeros_like(board_BTD[..., 0])], dim=1)
    x_BND, mask_BN = x_BND.clone(), mask_BN.clone()
    x_BND[:, g.audio], mask_BN[:, g.audio] = sound(strip_BND, free_BN, short)[:, short.audio], 0
    return with_lips(board_BTD, draw(x_BND, mask_BN))
