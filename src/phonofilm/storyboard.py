"""The storyboard: who is where and what sounds when, as one token of plain numbers for each video latent in time.

It is a third track of the strip. The denoiser draws it first, from the sentence and whatever is given, and then
denoises picture and sound beneath it: low-dimensional meaning ahead of high-dimensional texture (cf. ReDi 2504.16064,
semantic-first diffusion 2512.04926), here with numbers that can be read instead of a network's features.

Shapes: B strips, T video latents in time (0.25 s: 4 frames, 2 columns of sound), D = 128 width of a token, H x W
latents of the picture, K = SPLAT channels of what is drawn on it.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from phonofilm.latents import BOARD_CHANNELS, COLUMNS_PER_LATENT, FPS, FRAMES_PER_LATENT, PATCH, TOKEN_WIDTH

SLOTS: Final = 2  # actors at most; one that is missing is 0 everywhere
ON: Final = 2.0  # value of what is so, among choices, and of a hit at the instant of a frame
ZOOM_UNIT: Final = 0.25  # change of scale that counts as 1
SCALE: Final[dict[str, float | tuple[float, ...]]] = {
    "x": (3, 6, 12, 24),
    "y": (3, 6, 12, 24),
    "seen": (2, 4, 8, 12),
    "pose": (2, 4, 6, 8),
    "turn": (2, 4, 8, 16),
    "round": (3, 4, 4, 5),
    "radius": 3,
    "hit": 3,
    "level": 2,
    "pan": 9,
    "zoom": 2,
    "sky": 2,
    "looks": 2,
}
"""What the strip multiplies values by; others by 1. What must be exact stands further out of the noise.

Four numbers: the four frames of a token stand there as their cosine transform (DCT-II, orthonormal), each coefficient
brought to a deviation of about a half or more; so that what moves evenly needs no agreement between noisy numbers."""
WORTH: Final[dict[str, float]] = {
    "pose": 6, "turn": 1.5, "round": 6, "hit": 2, "radius": 10, "pan": 2, "zoom": 10, "floor": 0.5, "light": 0.5,
    "sky": 0.1, "looks": 0.3,
}  # fmt: skip
"""How much an error on the strip counts in training; others 1. A mouth, a size, a camera are few numbers among many,
and the phases of clouds, which nobody can foretell, made a third of the plain error."""
WALL: Final = 0.3  # half width, in tokens, from which on a wall stands: that of a real one is at least 0.38 (portrait)
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
OF_SCENE: Final = {"pan": 1, "zoom": 1, "wall": 2, "floor": 3, "light": 4, "sky": 4, "looks": 3}
"""Channels of all. Camera: tokens to the right, scale less 1 in `ZOOM_UNIT`. Wall: half width, height in tokens.
Sky: sine and cosine of what clouds and hills, and sun and window, depend on. Looks: skin, hair, streaks of rain."""
FACES: Final = (8, 9, 10)  # numbers of the kinds that speak
FALLING: Final = (0, 1)  # those of balls and boxes, which fall, bounce and collide
RAIN: Final = 7  # number of the kind that is rain
METRONOME: Final = 4  # and of the one that keeps time
SWING: Final = 0.45  # radians to either side, of its rod
PERIODS: Final = ((0.335, 0.385), (0.67, 0.77))  # seconds from side to side, of fast and of slow ones
TRIES: Final = 64  # of each of them
HELD: Final = 10.0  # how much frames that are given weigh beside others, where a swing is fitted to both
CLAIMS: Final = {
    **{
        f"{slot}.{name}": count
        for slot in range(SLOTS)
        for name, count in {
            "kind": 11, "act": 13, "colour": 10, "size": 3, "material": 3, "direction": 2, "speed": 2, "count": 3,
            "word": 28,
        }.items()
    },
    "floor": 3, "light": 4, "camera": 3,
}  # fmt: skip
"""What a prompt may claim of a scene, and how many values each attribute has; their order is the playhouse's."""
WAVES: Final = (1.2, 2.4, 4.8)  # radians a token, of the set's places
SPLAT: Final = 6 * FRAMES_PER_LATENT + 24 + 1 + 9 + 4 + 7 + 4 * len(WAVES)
"""Place and pose in each frame, who; wall; camera, floor, light; where on the picture; sky, looks; where in the set."""
FINE: Final = 4  # places a side of a latent where the outlines are looked at
OUTLINE: Final = 3 * FRAMES_PER_LATENT * FINE**2
POSES: Final = 3 * FRAMES_PER_LATENT
AROUND: Final = 0.03  # nearness of what is nobody's place, in `poses`

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


@cache
def _whitening() -> Tensor:
    """(128, 128): plain numbers (columns) → numbers on the strip (rows)."""
    k = torch.arange(FRAMES_PER_LATENT, dtype=torch.float64)
    cosines = torch.cos(torch.pi * (k + 0.5) * k[:, None] / FRAMES_PER_LATENT)
    cosines /= cosines.norm(dim=1, keepdim=True)
    matrix = torch.eye(TOKEN_WIDTH, dtype=torch.float64)
    for name, scale in SCALE.items():
        for slot in range(SLOTS) if name in OF_ACTOR else (None,):
            span = channels(name, slot)
            if isinstance(scale, tuple):
                matrix[span, span] = torch.tensor(scale, dtype=torch.float64)[:, None] * cosines
            else:
                matrix[span, span] *= scale
    return matrix


@cache
def _colouring() -> Tensor:
    inverse: Tensor = torch.linalg.inv(_whitening())
    return inverse


def to_tokens(board_BTD: Tensor) -> Tensor:
    """Plain numbers as they stand on the strip; both (..., 128)."""
    return board_BTD @ _whitening().T.to(board_BTD)


def from_tokens(tokens_BTD: Tensor) -> Tensor:
    """Inverse of `to_tokens`."""
    return tokens_BTD @ _colouring().T.to(tokens_BTD)


@cache
def worth() -> Tensor:
    """(128,): `WORTH` of each number on the strip, 1 in the mean."""
    weights = torch.ones(TOKEN_WIDTH)
    for name, weight in WORTH.items():
        for slot in range(SLOTS) if name in OF_ACTOR else (None,):
            weights[channels(name, slot)] = weight
    return weights / weights.mean()


@cache
def _of_actors(*names: str) -> Tensor:
    found = torch.zeros(TOKEN_WIDTH, dtype=torch.bool)
    for slot in range(SLOTS):
        for name in names:
            found[channels(name, slot)] = True
    return found


def heard() -> Tensor:
    """(128,) bool: the numbers that tell what is heard, not seen."""
    return _of_actors("hit", "level").clone()


def measured() -> Tensor:
    """(128,) bool: the numbers that a picture tells exactly, but not who is there.

    Where actors are, how they hold themselves, what the camera does, and how the set is dressed.
    """
    found = _of_actors("x", "y", "seen", "pose", "turn", "round", "radius").clone()
    for name in ("pan", "zoom", "sky", "looks"):
        found[channels(name)] = True
    return found


def hold(board_BTD: Tensor, frame: int) -> Tensor:
    """The storyboard of the clip's first (0) or last (-1) frame as a picture that stands still; both as on the strip:
    (B, T, 128) → (B, 1, 128)."""
    token = from_tokens(board_BTD[:, frame : frame + 1 or None])
    for slot in range(SLOTS):
        for name, width in OF_ACTOR.items():
            if width == FRAMES_PER_LATENT:
                span = channels(name, slot)
                token[..., span] = token[..., span][..., frame, None]
    return to_tokens(token)


def steady(tokens_BTD: Tensor, of_T: Tensor | None = None) -> Tensor:
    """The nearest storyboard in which nobody changes: who is there, how large, wall, floor, light and set are the mean
    of all its tokens, or of those alone where `of_T` (bool) is true; the size as the camera sees it. Tokens as on the
    strip, (B, T, 128); one that is true stays as it is."""
    board = from_tokens(tokens_BTD)

    def mean(values_BTX: Tensor) -> Tensor:
        return (values_BTX if of_T is None else values_BTX[..., of_T, :]).mean(-2, keepdim=True)

    closer = 1 + ZOOM_UNIT * board[..., channels("zoom")].clamp(min=-0.5)
    for slot in range(SLOTS):
        size = channels("radius", slot)
        board[..., size] = mean(board[..., size] / closer) * closer
    wall = board[..., channels("wall")]
    stands = mean(wall)[..., :1] > WALL  # no camera moves where one does
    board[..., channels("wall")] = torch.where(stands, mean(wall), wall)
    lasting = [channels(name, slot) for slot in range(SLOTS) for name in ("kind", "colour", "material")]
    for span in (*lasting, *(channels(name) for name in ("floor", "light", "sky", "looks"))):
        board[..., span] = mean(board[..., span])
    return to_tokens(board)


def in_time(board_BTD: Tensor, held_T: Tensor | None = None) -> Tensor:
    """The nearest storyboard whose metronomes keep time: the rod swings evenly, as far as rods do, with the period and
    the phase that fit best (least squares over `PERIODS`). Tokens as on the strip; those where `held_T` (bool) is true
    stay as they are, and count `HELD` times as much."""
    keeps_BK = _are(board_BTD, (METRONOME,))
    if not bool(keeps_BK.any()):
        return board_BTD
    plain, (B, T, _) = from_tokens(board_BTD), board_BTD.shape
    weight_N = torch.ones(T * FRAMES_PER_LATENT)
    if held_T is not None:
        weight_N[held_T.cpu().repeat_interleave(FRAMES_PER_LATENT)] = HELD
    waves_PNW = _swings(T)
    heavy_PNW = waves_PNW * weight_N[:, None]
    solve_PWN = torch.linalg.solve(heavy_PNW.mT @ waves_PNW, heavy_PNW.mT)
    moved_BTD = torch.zeros_like(board_BTD, dtype=torch.bool)
    for slot in range(SLOTS):
        span = channels("turn", slot)
        turn_BN = plain[..., span].flatten(-2).cpu().float().clamp(-1, 1).asin()
        fit_PBW = turn_BN @ solve_PWN.mT
        off_PB = ((fit_PBW @ waves_PNW.mT - turn_BN).square() * weight_N).sum(-1)
        best_B = off_PB.argmin(0)
        fit_BW = F.normalize(fit_PBW[best_B, torch.arange(B)], dim=-1)
        swing_BN = SWING * (waves_PNW[best_B] @ fit_BW[..., None])[..., 0]
        plain[..., span] = swing_BN.sin().to(plain).view(B, T, -1)
        moved_BTD[..., span] = keeps_BK[:, slot, None, None]
    if held_T is not None:
        moved_BTD &= ~held_T[:, None]
    return torch.where(moved_BTD, to_tokens(plain), board_BTD)  # all else bitwise as it was


@cache
def _swings(T: int) -> Tensor:
    """(P, N, 2): cosine and sine of each period, of `PERIODS`, at the frames of T tokens."""
    periods = torch.cat([torch.linspace(low, high, TRIES, dtype=torch.float64) for low, high in PERIODS])
    phase = torch.pi * (torch.arange(T * FRAMES_PER_LATENT) + 0.5) / FPS / periods[:, None]
    return torch.stack([torch.cos(phase), torch.sin(phase)], dim=-1).float()


def decided(tokens_BTD: Tensor) -> Tensor:
    """The nearest storyboard in which every choice is made: of the kinds, colours and materials of an actor, of floors
    and of lights one is so, or none; and the sky's sines and cosines are those of two angles.

    What a prompt leaves open is drawn as a bit of all that may be: an actor of ten colours is painted brown and
    shimmers, and a set between two skies has two suns. Tokens as on the strip, (B, T, 128), in which nobody changes
    (`steady`); those that are true stay bitwise as they are.
    """
    drawn = from_tokens(tokens_BTD)
    board = drawn.clone()
    of_actors = (channels(name, slot) for slot in range(SLOTS) for name in ("kind", "colour", "material"))
    for span in (*of_actors, channels("floor"), channels("light")):
        values = drawn[..., span].mean(-2, keepdim=True)
        one = ON * F.one_hot(values.argmax(-1), values.shape[-1]).to(values)
        some = values.clamp(min=0).sum(-1, keepdim=True) > ON / 2
        board[..., span] = torch.where(some, one, 0.0)
    span = channels("sky")
    turns = drawn[..., span].mean(-2, keepdim=True).unflatten(-1, (2, 2))  # sines, cosines
    board[..., span] = F.normalize(turns, dim=-2).flatten(-2)
    moved_BTD = (board - drawn).abs() > 1e-4  # none of these numbers is mixed with others on the strip
    return torch.where(moved_BTD, to_tokens(board), tokens_BTD)


def under_skies(board_BTD: Tensor, which: int, count: int) -> Tensor:
    """A storyboard beneath `count` skies, evenly spaced: (B, T, 128) → (B, count, T, 128), both as on the strip.

    which: of the two angles of the sky, 0 that of clouds and hills, 1 that of sun and window.
    """
    board = from_tokens(board_BTD)[:, None].repeat(1, count, 1, 1)
    angles = torch.arange(count, device=board.device)[:, None] * (2 * torch.pi / count)
    start = channels("sky").start + which
    board[..., start], board[..., start + 2] = torch.sin(angles).to(board), torch.cos(angles).to(board)
    return to_tokens(board)


def speaks(board_BTD: Tensor) -> Tensor:
    """(B, SLOTS) bool: which actors of storyboards on the strip are faces."""
    return _are(board_BTD, FACES)


def rains(board_BTD: Tensor) -> Tensor:
    """(B,) bool: in which storyboards on the strip it rains."""
    return _are(board_BTD, (RAIN,)).any(-1)


def _are(board_BTD: Tensor, wanted: tuple[int, ...]) -> Tensor:
    """(B, SLOTS) bool: which actors of storyboards on the strip are of one of these kinds."""
    board = from_tokens(board_BTD)
    kinds = torch.stack([board[..., channels("kind", slot)].mean(-2) for slot in range(SLOTS)], dim=-2)
    best, number = kinds.max(-1)
    return (best > ON / 2) & torch.isin(number, torch.tensor(wanted, device=board.device))


def blows(board_BTD: Tensor) -> Tensor:
    """(B, SLOTS): how often something strikes, rings, ticks or chirps on storyboards on the strip; with fractions where
    they are not sure of it."""
    board = from_tokens(board_BTD)
    return torch.stack([board[..., channels("hit", k)].clamp(min=0).sum((-2, -1)) / ON for k in range(SLOTS)], dim=-1)


def at_instants(board_BTD: Tensor, later: float = 0.0) -> Tensor:
    """The nearest storyboards on the strip in which every hit is an instant: what is smeared over three frames is
    shared out between two again, what is more than half a hit is a whole one, and less is none.

    later: seconds, from 0 to a frame (1/16 s), by which hits of what falls (`FALLING`) come later. What would come
    after the end is gone. Raises ValueError for other seconds."""
    if not 0 <= later * FPS <= 1:
        raise ValueError(f"later must be from 0 to {1 / FPS:g} seconds, got {later:g}")
    plain, falls_BK = from_tokens(board_BTD), _are(board_BTD, FALLING)
    moved_BTD = torch.zeros_like(board_BTD, dtype=torch.bool)
    for slot in range(SLOTS):
        span = channels("hit", slot)
        hits_BN = plain[..., span].flatten(-2)
        sharp_BN = _instants(hits_BN, later * FPS * falls_BK[..., slot, None])
        plain[..., span] = sharp_BN.view_as(plain[..., span])
        moved_BTD[..., span] = ((sharp_BN - hits_BN).abs().amax(-1) > 1e-4)[..., None, None]
    return torch.where(moved_BTD, to_tokens(plain), board_BTD)  # all else bitwise as it was


def _instants(hits_BN: Tensor, later_B1: Tensor) -> Tensor:
    """Hits of N frames, each about the frame where it is strongest, shared out between the two frames around its
    instant, which comes `later` frames later. One that the last frame cuts off is only put off."""
    hits_BN = hits_BN.clamp(min=0)
    before_BN, after_BN = F.pad(hits_BN, (1, -1)), F.pad(hits_BN, (-1, 1))
    mass_BN = before_BN + hits_BN + after_BN
    strong_BN = 2 * hits_BN + mass_BN  # of a smeared one its middle
    there_BN = (strong_BN >= F.pad(strong_BN, (1, -1))) & (strong_BN > F.pad(strong_BN, (-1, 1))) & (mass_BN > ON / 2)
    place_BN = (after_BN - before_BN) / mass_BN.clamp(min=ON / 2) + later_B1  # frames behind the strongest one
    whole_BN = torch.full_like(hits_BN, ON)
    whole_BN[..., -1] = mass_BN[..., -1].clamp(max=ON)
    total_BN = torch.zeros_like(hits_BN)
    for frame in (-1, 0, 1, 2):
        share_BN = there_BN * whole_BN * (1 - (place_BN - frame).abs()).clamp(min=0)
        total_BN = total_BN + F.pad(share_BN, (frame, -frame))
    return total_BN


def with_lips(board_BTD: Tensor, other_BTD: Tensor) -> Tensor:
    """A storyboard whose faces move their mouths as in the `other`, where both show a face; tokens as on the strip."""
    board_BTD = board_BTD.clone()
    both = speaks(board_BTD) & speaks(other_BTD)
    for slot in range(SLOTS):
        for name in ("pose", "round"):
            span = channels(name, slot)
            board_BTD[..., span] = torch.where(both[:, slot, None, None], other_BTD[..., span], board_BTD[..., span])
    return board_BTD


def splat(board_BTD: Tensor, height: int, width: int) -> Tensor:
    """What a storyboard on the strip says of each latent of a picture of `height` x `width` tokens: (B, T, H, W, K).

    Each actor is a soft disk of its radius, for each of the four frames: how near, in which direction, in which pose;
    times their mean, who it is. The sums over the actors; then wall, camera, floor, light, the latent's place on
    the picture; sky and looks; and the place in the set that the camera shows there, as waves, so that the backdrop
    moves with it.
    """
    board = from_tokens(board_BTD.float())
    device = board.device
    y, x = _middles(height, device)[:, None, None], _middles(width, device)[None, :, None]  # (H, 1, 1), (1, W, 1)
    drawn: Tensor | None = None
    for slot in range(SLOTS):

        def of(name: str, slot: int = slot) -> Tensor:  # (B, T, 1, 1, channels)
            return board[:, :, None, None, channels(name, slot)]

        radius = of("radius").clamp(min=0.1)
        dx, dy = (x - of("x")) / radius, (y - of("y")) / radius
        near = of("seen").clamp(0, 1) * torch.exp(-0.5 * (dx * dx + dy * dy))
        who = torch.cat([of("kind"), of("colour"), of("material")], dim=-1)
        poses = [near * of(name) for name in ("pose", "turn", "round")]
        mine = torch.cat([near, near * dx, near * dy, *poses, near.mean(-1, keepdim=True) * who], dim=-1)
        drawn = mine if drawn is None else drawn + mine
    assert drawn is not None
    half, high = board[:, :, None, None, channels("wall")].split(1, dim=-1)
    standing = torch.sigmoid(8 * (half - x.abs())) * torch.sigmoid(8 * (y - (height / 2 - high))) * (half > 0.1)
    scene = torch.cat([board[..., channels(name)] for name in ("pan", "zoom", "floor", "light")], dim=-1)
    up, across = torch.broadcast_tensors(2 * y / height, 2 * x / width)
    where = torch.cat([up, across, torch.sin(3 * up), torch.cos(3 * up)], dim=-1)
    dressing = torch.cat([board[..., channels(name)] for name in ("sky", "looks")], dim=-1)
    closer = 1 + ZOOM_UNIT * board[:, :, None, None, channels("zoom")].clamp(min=-1)
    places = x / closer + board[:, :, None, None, channels("pan")], y / closer
    speeds = torch.tensor(WAVES, device=device)
    shape = drawn.shape[:-1]
    waves = [wave(place * speeds).expand(*shape, -1) for place in places for wave in (torch.sin, torch.cos)]
    rest = [standing.expand(*shape, 1), scene[:, :, None, None].expand(*shape, -1), where.expand(*shape, -1)]
    return torch.cat([drawn, *rest, dressing[:, :, None, None].expand(*shape, -1), *waves], dim=-1)


def outline(board_BTD: Tensor, height: int, width: int) -> Tensor:
    """The same, finer: (B, T, H, W, OUTLINE) float32.

    At `FINE` x `FINE` places of each latent, in each frame: whether it lies in an actor's disk, and where in it (x, y
    in radii). A convolution reads edges from places more easily than from distances.
    """
    board = from_tokens(board_BTD.float())
    B, T, _ = board.shape
    device, sides = board.device, (height * PATCH, width * PATCH)
    rows, columns = (
        (torch.arange(FINE * side, device=device) + 0.5) / (FINE * PATCH) - side / (2 * PATCH) for side in sides
    )
    y, x = rows[:, None, None], columns[None, :, None]
    total: Tensor | None = None
    for slot in range(SLOTS):
        radius, left, top, seen = (board[:, :, None, None, channels(n, slot)] for n in ("radius", "x", "y", "seen"))
        radius = radius.clamp(min=0.1)
        dx, dy = (x - left) / radius, (y - top) / radius
        inside = torch.sigmoid(20 * radius * (1 - (dx * dx + dy * dy).sqrt())) * (seen > 0.02)
        mine = torch.cat([inside, inside * dx.clamp(-2, 2), inside * dy.clamp(-2, 2)], dim=-1)
        total = mine if total is None else total + mine
    assert total is not None
    x = total.view(B, T, sides[0], FINE, sides[1], FINE, -1).transpose(3, 4)
    return x.reshape(B, T, *sides, OUTLINE)


def poses(board_BTD: Tensor, height: int, width: int) -> Tensor:
    """How whoever is nearest holds himself, plain: (B, T, H, W, POSES).

    In each frame his pose, turn and roundness, the actors' shared out by nearness, and 0 where nobody is near (beyond
    about 2.5 radii). `splat` shows them times the nearness: to draw a mouth, its place and its shape would first have
    to be told apart.
    """
    board = from_tokens(board_BTD.float())
    y, x = _middles(height, board.device)[:, None, None], _middles(width, board.device)[None, :, None]
    total, sums = torch.full((), AROUND, device=board.device), [torch.zeros((), device=board.device)] * 3
    for slot in range(SLOTS):

        def of(name: str, slot: int = slot) -> Tensor:  # (B, T, 1, 1, channels)
            return board[:, :, None, None, channels(name, slot)]

        radius = of("radius").clamp(min=0.1)
        away = ((x - of("x")) / radius).square() + ((y - of("y")) / radius).square()
        near = of("seen").clamp(0, 1) * torch.exp(-0.5 * away)
        total = total + near
        sums = [s + near * of(name) for s, name in zip(sums, ("pose", "turn", "round"), strict=True)]
    return torch.cat([s / total for s in sums], dim=-1)


def _middles(side: int, device: torch.device) -> Tensor:
    """Middles of the latents along a side of so many tokens, in tokens from the picture's middle."""
    return (torch.arange(side * PATCH, device=device) + 0.5) / PATCH - side / 2
