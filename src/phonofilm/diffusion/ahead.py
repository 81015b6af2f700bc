"""The storyboard ahead of picture and sound: what is given in sight, noise where the rest will be.

Semantics first, then texture beneath them (2512.04926). Tracks of which nothing is given are left out of the strip:
the storyboard alone is a tenth of the work.

Shapes: B strips, N tokens, D = 128 width of a token, T tokens of the storyboard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from phonofilm.diffusion.sampler import Denoise, Progress, Sampler, toward
from phonofilm.latents import Geometry
from phonofilm.storyboard import measured, speaks, steady, under_skies, with_lips

VAGUE: Final = 0.95  # noise level above which storyboards that are read off a picture are not yet compared
CLEAR: Final = 0.6  # and below which their sky is settled
SKIES: Final = 16  # that are tried
NUDGES: Final = 2  # steps down the gradient at each noise level
LAST_NUDGES: Final = 12  # and at the end
NUDGE: Final = 0.1  # the longest of them, in units of the strip
SOFT: Final = 0.3  # of the usual gradient: from which on a step is no longer proportional to it


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
    held_BTD: Tensor | None = None,
    held_T: Tensor | None = None,
) -> Tensor:
    """Denoise a storyboard (B, T, D); in each step nobody in it changes who he is (`storyboard.steady`).

    Args:
        bind: the denoiser for a geometry.
        x_BND, mask_BN, geometry: a strip without storyboard as a sampler starts with it, see `Sampler`.
        noise_BTD: what the storyboard starts with.
        sampler, times, callback: see `Sampler`.
        draft_BTD, free: a storyboard that is gone over again from noise level `free` on, in (0, 1].
        held_BTD, held_T: a storyboard that is known, and of which tokens (bool); they are kept, and the others follow
            (replacement, 2011.13456).
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
        if held_BTD is None or held_T is None:
            return steady(answer_BND[:, geometry.board])
        return steady(torch.where(held_T[:, None], held_BTD, answer_BND[:, geometry.board]), held_T)

    begin_BTD = noise_BTD if draft_BTD is None else torch.lerp(draft_BTD, noise_BTD, free)
    return sampler(denoise, begin_BTD, noise_BTD.new_full((B, T), free), times, callback)


def best_board(
    draw: Callable[[Tensor, Tensor], Tensor],
    doubts: Callable[[Tensor, Tensor], Tensor],
    noise_BRKTD: Tensor,
    content: float,
) -> Tensor:
    """Of several storyboards for each prompt the one with the least doubts: (B, T, D).

    K drafts are drawn at once. Where even the best of them leaves doubts, K more are, in R rounds at most: most prompts
    need one, and the hard ones are worth the work (best of n with a verifier, cf. 2110.14168 and 2501.09732, drawn
    until it is content).

    Args:
        draw: rows of the batch (N,) and their noise (N, K, T, D) → storyboards (N, K, T, D).
        doubts: rows (N,) and storyboards (N, K, T, D) → doubts (N, K), see `Reader.doubts`.
        noise_BRKTD: what the drafts of each round start with.
        content: doubts with which no more are drawn.
    """
    B, R = noise_BRKTD.shape[:2]
    rows = torch.arange(B, device=noise_BRKTD.device)
    best_BTD, least_B = torch.zeros_like(noise_BRKTD[:, 0, 0]), noise_BRKTD.new_full((B,), torch.inf)
    for turn in range(R):
        drawn_NKTD = draw(rows, noise_BRKTD[rows, turn])
        doubt_N, k_N = doubts(rows, drawn_NKTD).min(1)
        better_N = doubt_N < least_B[rows]
        best_BTD[rows[better_N]] = drawn_NKTD[better_N, k_N[better_N]]
        least_B[rows[better_N]] = doubt_N[better_N]
        rows = rows[least_B[rows] > content]
        if not len(rows):
            break
    return best_BTD


def read_board(
    bind: Callable[[Geometry], Denoise],
    x_BND: Tensor,
    mask_BN: Tensor,
    geometry: Geometry,
    noise_BSKTD: Tensor,
    explain: Callable[[Tensor], Tensor],
    known_T: Tensor,
    times: Tensor,
    callback: Callable[[Progress], None] | None = None,
) -> Tensor:
    """The storyboard (B, T, D) of a picture that is given, as far as it is given.

    Who paints knows best what a storyboard looks like: K of them are denoised at once, and of each token the one is
    kept beneath which the given picture is least surprising; a few steps down the gradient of that surprise put it
    right; then it is noised anew, K times, and so on to the end. Particles with the likelihood of what is given (cf.
    2206.04119), chosen token by token as far as a picture shows one instant, with a gradient on the predicted clean
    storyboard alone (2311.16424).

    Args:
        bind, x_BND, mask_BN, geometry, times, callback: see `draw_board`; B K strips are denoised at once.
        noise_BSKTD: what the storyboards start with, and what they are noised with after each step; S times in all.
        explain: storyboards (N, T, D) with N a multiple of B → the surprise of each of their tokens (N, T), which can
            be differentiated; only that of known tokens is looked at.
        known_T: bool, which tokens' picture is given. What follows goes on from who explains the last known one best.
    """
    B, _, K, T, _ = noise_BSKTD.shape
    geometry = replace(geometry, boards=T)
    bound = bind(geometry)
    x_BND, mask_BN = (v.repeat_interleave(K, 0) for v in (x_BND, mask_BN))
    x_NTD, kept_BTD = noise_BSKTD[:, 0].flatten(0, 1), None
    (known,) = torch.nonzero(known_T, as_tuple=True)
    nearest_T = known[(torch.arange(T, device=known.device)[:, None] - known).abs().argmin(1)]
    grid, dressed = [float(t) for t in times], False
    for step, (t, s) in enumerate(pairwise(grid)):
        levels_NT = mask_BN.new_full((B * K, T), t)
        answer_NMD = bound(torch.cat([x_BND, x_NTD], dim=1), torch.cat([mask_BN, levels_NT], dim=1))
        clean_BKTD = steady(answer_NMD[:, geometry.board]).view(B, K, T, -1)
        if t > VAGUE:
            x_NTD = toward(x_NTD, clean_BKTD.flatten(0, 1), t, s)
        else:
            if kept_BTD is not None:
                clean_BKTD = torch.cat([clean_BKTD, kept_BTD[:, None]], dim=1)
            kept_BTD = _most_likely(clean_BKTD, explain, nearest_T)
            if not dressed:  # as much of the picture as the actors, and no draft hits upon it by chance
                for angle in (0, 1):
                    skies_BKTD = torch.cat([kept_BTD[:, None], under_skies(kept_BTD, angle, SKIES)], dim=1)
                    kept_BTD = _most_likely(skies_BKTD, explain, nearest_T, whole=True)
                dressed = t < CLEAR
            kept_BTD = _nudged(kept_BTD, explain, known_T, LAST_NUDGES if s == 0 else NUDGES)
            fresh_BKTD = noise_BSKTD[:, step + 1]
            x_NTD = torch.lerp(kept_BTD[:, None].expand_as(fresh_BKTD), fresh_BKTD, s).flatten(0, 1)
        if callback is not None:
            callback(Progress(step + 1, len(grid) - 1, s, x_NTD))
    assert kept_BTD is not None, "the grid of times does not end below VAGUE"
    return kept_BTD


def _most_likely(
    some_BKTD: Tensor, explain: Callable[[Tensor], Tensor], nearest_T: Tensor, *, whole: bool = False
) -> Tensor:
    """Of each token the one that explains the picture best, with its neighbours'; or a whole storyboard, if better.

    whole: only whole ones are compared.
    """
    B, _, T, D = some_BKTD.shape

    def surprise(some_BKTD: Tensor) -> Tensor:
        found: Tensor = explain(some_BKTD.transpose(0, 1).flatten(0, 1)).view(-1, B, T).transpose(0, 1)[..., nearest_T]
        return found

    found_BKT = surprise(some_BKTD)
    least_B, best_B = found_BKT.mean(2).min(1)
    whole_BTD = some_BKTD[torch.arange(B, device=best_B.device), best_B]
    if whole:
        return whole_BTD
    ends = [found_BKT[..., :1], found_BKT, found_BKT[..., -1:]]
    wide_BKX = torch.cat(ends, dim=-1)
    smooth_BKT = wide_BKX[..., :-2] / 4 + wide_BKX[..., 1:-1] / 2 + wide_BKX[..., 2:] / 4
    pick_BT = smooth_BKT.argmin(1)
    mixed_BTD = steady(some_BKTD.gather(1, pick_BT[:, None, :, None].expand(-1, 1, -1, D))[:, 0])
    better_B = least_B < surprise(mixed_BTD[:, None]).mean((1, 2))
    return torch.where(better_B[:, None, None], whole_BTD, mixed_BTD)


def _nudged(board_BTD: Tensor, explain: Callable[[Tensor], Tensor], known_T: Tensor, steps: int) -> Tensor:
    """Some steps down the gradient of the surprise, of what moves. Where the gradient is large a step is `NUDGE`; where
    it is small, in what the picture tells little of, it is proportional to it."""
    free_D = measured().to(board_BTD.device)
    with torch.inference_mode(False), torch.enable_grad():
        board_BTD = board_BTD.detach().clone()
        for k in range(steps):
            leaf_BTD = board_BTD.requires_grad_()
            (slope_BTD,) = torch.autograd.grad((explain(leaf_BTD) * known_T).sum(), leaf_BTD)
            slope_BTD = slope_BTD * free_D
            usual_B11 = slope_BTD.square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-12)
            share_BTD = slope_BTD / (slope_BTD.abs() + SOFT * usual_B11)
            board_BTD = (board_BTD - NUDGE * (1 - k / steps) * share_BTD).detach()
    return steady(board_BTD)


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
