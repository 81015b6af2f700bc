"""The storyboard: who is where and what sounds when, as one token of plain numbers for each video latent in time.

It is a third track of the strip. The denoiser draws it first, from the sentence and whatever is given, and then
denoises picture and sound beneath it: low-dimensional meaning ahead of high-dimensional texture (cf. ReDi 2504.16064,
semantic-first diffusion 2512.04926), here with numbers that can be read instead of a network's features.

Shapes: B strips, T video latents in time (0.25 s: 4 frames, 2 columns of sound), D = 128 width of a token, H x W
latents of the picture, K = SPLAT channels of what is drawn on it.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from phonofilm.latents import BOARD_CHANNELS, COLUMNS_PER_LATENT, FRAMES_PER_LATENT, PATCH

SLOTS: Final = 2  # actors at most; one that is missing is 0 everywhere
ON: Final = 2.0  # value of what is so, among choices, and of a hit at the instant of a frame
ZOOM_UNIT: Final = 0.25  # change of scale that counts as 1
UNREADABLE: Final = 0.25  # noise level from which on nothing is drawn

OF_ACTOR: Final = {
    "x": FRAMES_PER_LATENT, "y": FRAMES_PER_LATENT,  # middle on the picture, in tokens (32 px) from its middle, y down
    "seen": FRAMES_PER_LATENT,  # 0..1: share of the width that is in the picture and not behind the wall
    "pose": FRAMES_PER_LATENT,  # 0..1: mouth of a face, stick of a drum, wing of a bird
    "turn": FRAMES_PER_LATENT,  # sine of the rotation or swing
    "round": FRAMES_PER_LATENT,  # rounding of lips, squash of a ball
    "hit": FRAMES_PER_LATENT,  # an event between two frames is shared out between them, so that its instant is exact
    "level": COLUMNS_PER_LATENT,  # 0..1: loudness of what lasts (rolling, engine, rain, ...)
    "radius": 1,  # half height, in tokens
    "kind": 11, "colour": 10, "material": 3,  # ON where it is so; the order is that of the playhouse's vocabulary
}  # fmt: skip
"""Channels of each slot."""
OF_SCENE: Final = {"pan": 1, "zoom": 1, "wall": 2, "floor": 3, "light": 4}
"""Channels of all. Camera: tokens to the right, scale less 1 in `ZOOM_UNIT`. Wall: half width, height in tokens."""
SPLAT: Final = 5 * FRAMES_PER_LATENT + 24 + 3  # by slot: place and pose in each frame, who; wall, camera

assert BOARD_CHANNELS == SLOTS * sum(OF_ACTOR.values()) + sum(OF_SCENE.values())


def channels(name: str, slot: int | None = None) -> slice:
    """Where a value stands in a token: of an actor with its slot, of the scene without."""
    start, table = (SLOTS * sum(OF_ACTOR.values()), OF_SCENE) if slot is None else (slot * _ACTOR, OF_ACTOR)
    for other, width in table.items():
        if other == name:
            return slice(start, start + width)
        start += width
    raise KeyError(name)


_ACTOR: Final = sum(OF_ACTOR.values())


def hold(board_BTD: Tensor, frame: int) -> Tensor:
    """The storyboard of the clip's first (0) or last (-1) frame as a picture that stands still: (B, 1, 128)."""
    token = board_BTD[:, frame : frame + 1 or None].clone()
    for slot in range(SLOTS):
        for name, width in OF_ACTOR.items():
            if width == FRAMES_PER_LATENT:
                span = channels(name, slot)
                token[..., span] = token[..., span][..., frame, None]
    return token


def splat(board_BTD: Tensor, height: int, width: int) -> Tensor:
    """What a storyboard says of each latent of a picture of `height` x `width` tokens: (B, T, H, W, K) float32.

    Each actor is a soft disk of its radius, for each of the four frames: how near, in which direction, in which pose;
    times their mean, who it is. The sums over the actors; then the wall and the camera.
    """
    board = board_BTD.float()
    device = board.device
    rows = (torch.arange(height * PATCH, device=device) + 0.5) / PATCH - height / 2
    columns = (torch.arange(width * PATCH, device=device) + 0.5) / PATCH - width / 2
    y, x = rows[:, None, None], columns[None, :, None]  # (H, 1, 1), (1, W, 1)
    drawn: Tensor | None = None
    for slot in range(SLOTS):

        def of(name: str, slot: int = slot) -> Tensor:  # (B, T, 1, 1, channels)
            return board[:, :, None, None, channels(name, slot)]

        radius = of("radius").clamp(min=0.1)
        dx, dy = (x - of("x")) / radius, (y - of("y")) / radius
        near = of("seen").clamp(0, 1) * torch.exp(-0.5 * (dx * dx + dy * dy))
        who = torch.cat([of("kind"), of("colour"), of("material")], dim=-1)
        parts = (near, near * dx, near * dy, near * of("pose"), near * of("turn"), near.mean(-1, keepdim=True) * who)
        mine = torch.cat(parts, dim=-1)
        drawn = mine if drawn is None else drawn + mine
    assert drawn is not None
    half, high = board[:, :, None, None, channels("wall")].split(1, dim=-1)
    standing = torch.sigmoid(8 * (half - x.abs())) * torch.sigmoid(8 * (y - (height / 2 - high))) * (half > 0.1)
    camera = torch.cat([board[..., channels("pan")], board[..., channels("zoom")]], dim=-1)
    camera = camera[:, :, None, None].expand(*drawn.shape[:-1], -1)
    return torch.cat([drawn, standing.expand(*drawn.shape[:-1], -1), camera], dim=-1)
