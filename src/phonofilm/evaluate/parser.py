"""Reads a clip: who is there, in which colour and size, how he moves, when he strikes, and what goes wrong.

A classical parser, without a trained network and without a look at what was asked for. It knows the playhouse's
conventions: its palette, its sizes, that the camera pans or zooms evenly, that a wall stands in the middle.
Letters: T frames, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from phonofilm.evaluate import motion
from phonofilm.evaluate.background import Frames, Mask, View, find_backdrop, find_camera, foreground
from phonofilm.evaluate.bank import NONE, Guess, recognise
from phonofilm.evaluate.blobs import Blobs, find_blobs, palette_classes, whole
from phonofilm.playhouse.scene import COLOURS, FACES, KINDS, SIZES
from phonofilm.playhouse.stage import FACE_SCALE, PAIR_SCALE, RADIUS, SCALE, SPEED, floor_height

Floats = NDArray[np.float64]


CLEAR: Final = 0.8  # share of votes above which a blob is clearly something
SURE: Final = 0.45  # share of votes below which a blob is nothing
LASTING: Final = 3  # frames that something must be there to count
RAIN_THIN: Final = 0.006  # share of thin foreground pixels above which it may rain
RAIN_PIECES: Final = 8  # and the number of separate ones in a frame
HEAVY: Final = 112.0  # brightness of the cloud below which it rains heavily
MOVED: Final = 0.3  # world units from the start to the end of whoever crosses the stage
FELL: Final = 0.17  # world units of height of whoever falls or bounces
LEAP: Final = 0.5  # world units a frame that no actor covers
SIDEWAYS_LEAP: Final = 0.3  # the same to the side
LEFT_OVER: Final = 0.25  # share of an actor's usual pixels below which he is gone
OFF_PATH: Final = 0.25  # world units beside its path at which a blob counts half
BEARD: Final = 0.55  # how far towards the hair the colour of a chin must lie to be a beard
BEHIND_SCALE: Final = 0.85  # balls that collide or pass behind the wall are smaller


def _radii(kind: str) -> tuple[float, float]:
    """The smallest and the largest radius of a kind, world units."""
    scales = (FACE_SCALE if kind in FACES else SCALE).values()
    return RADIUS[kind] * min(scales) * PAIR_SCALE, RADIUS[kind] * max(scales)


@dataclass(frozen=True)
class Wall:
    """The wall in the middle, world units."""

    left: float
    right: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Seen:
    """One actor, as seen. Arrays (T,) are nan where he is not seen."""

    kind: str
    colour: str | None
    size: str
    motion: str  # "static", "left" or "right" (where he comes from), "falls", "bounces"
    speed: str | None  # of those who cross the stage, of a metronome, of rain
    x: Floats  # world units; of the middle of what bears his colour
    y: Floats
    radius: Floats  # world units
    box: NDArray[np.float32]  # (T, 4) left, top, right, bottom in pixels, of what bears his colour
    visible: Mask  # (T,)
    strikes: tuple[float, ...] = ()  # seconds: contacts, strokes, swings, ticks
    opening: Floats | None = None  # (T,) of a mouth, 0..1
    sure: float = 1.0  # share of the votes for his kind


@dataclass(frozen=True)
class Parsed:
    """What a clip shows."""

    actors: tuple[Seen, ...]  # from left to right
    light: str
    floor: str
    view: View
    fps: float
    wall: Wall | None
    vanishes: bool
    appears: bool
    swaps: bool
    teleports: bool

    @property
    def lasting(self) -> bool:
        """Nothing vanishes, appears, swaps or teleports."""
        return not (self.vanishes or self.appears or self.swaps or self.teleports)


@dataclass(frozen=True)
class _Track:
    """Blobs of one colour that are one thing. Arrays (T,), nan where it is not seen."""

    colour: int
    kind: int
    votes: NDArray[np.float64]  # (kinds,)
    x: Floats
    y: Floats
    r: Floats
    cx: Floats  # of the actor's own middle
    cy: Floats
    area: Floats
    box: NDArray[np.float32]
    kinds: NDArray[np.intp]  # (T,) kind in each frame, NONE where that is not clear
    doubles: int  # frames in which a second one is there

    @property
    def seen(self) -> Mask:
        ok: Mask = np.isfinite(self.x)
        return ok

    @property
    def weight(self) -> float:
        return float(np.nansum(self.area))


def parse(frames: Frames, fps: float) -> Parsed:
    """Parse frames (T, H, W, 3) uint8, at least 8 of them. Raises ValueError for fewer."""
    if len(frames) < 8:
        raise ValueError(f"{len(frames)} frames: at least 8 are needed to see what happens")
    view = find_camera(frames)
    light, floor = find_backdrop(frames, view)
    front = foreground(frames, view)
    cloud = _rain(frames, front, view)
    if cloud is not None:
        return Parsed((cloud,), light, floor, view, fps, None, False, False, False, False)
    wall = _find_wall(frames, view)
    front = whole(front)
    if wall is not None:  # it stands in front of everybody, its outline too
        (left, top), (right, bottom) = view.pixel(0, wall.left, wall.top), view.pixel(0, wall.right, wall.bottom)
        front[:, max(0, round(top) - 2) : round(bottom) + 1, max(0, round(left) - 2) : round(right) + 2] = False
    blobs = find_blobs(frames, front)
    tracks = _tracks(blobs, recognise(blobs), view, len(frames), wall)
    main, swaps, extra = _cast(tracks, view)
    classes = palette_classes(frames)
    gone, leaps = False, False
    for track in main:
        if not np.isfinite(track.r).any():  # never whole, so that its size was never measured: as large as its patch
            track.r[track.seen] = float(np.sqrt(np.nanmedian(track.area) / np.pi))
        gone |= _visible(track, classes, front, view, wall) is None
        leaps |= _teleports(track, view)
    seen = sorted((_describe(t, main, frames, view, fps, wall) for t in main), key=lambda s: float(np.nanmean(s.x)))
    return Parsed(tuple(seen), light, floor, view, fps, wall, gone, extra, swaps, leaps)


# --- rain and the wall ----------------------------------------------------------------------------------------------
_FRAME_CROSS: Final = np.zeros((3, 3, 3), bool)
_FRAME_CROSS[1] = True


def _rain(frames: Frames, front: Mask, view: View) -> Seen | None:
    """The cloud and how heavily it rains, if it does: many thin streaks in every frame, under a dull cloud."""
    part = front[:: max(1, len(front) // 8)]
    thin = part & ~ndimage.binary_opening(part, _FRAME_CROSS)
    _, pieces = ndimage.label(thin, _FRAME_CROSS)
    if thin.mean() < RAIN_THIN or pieces < RAIN_PIECES * len(part):
        return None
    count, height, width = frames.shape[:3]
    middle = width / 2 - view.pan * view.zoom * view.scale
    greys, spots = [], []
    for t in range(0, count, 4):
        left, right = (int(np.clip(middle[t] + side * 0.2 * view.scale, 0, width)) for side in (-1, 1))
        rows = slice(0, max(2, int(0.16 * view.scale)))
        spot = frames[t, rows, left:right].mean(-1)
        pixels = frames[t, rows, left:right].astype(np.int16)
        dull = front[t, rows, left:right] & (pixels.max(-1) - pixels.min(-1) < 40) & (spot > 55) & (spot < 190)
        spots.append(spot.size)
        greys.append(spot[dull])
    cloud = np.concatenate(greys)
    if len(cloud) < 0.5 * sum(spots):
        return None
    speed = "fast" if len(cloud) and np.median(cloud) < HEAVY else "slow"
    flat, radius = np.zeros(count), np.full(count, RADIUS["rain"])
    box = np.tile(np.asarray([0, 0, width, height], np.float32), (count, 1))
    return Seen(
        "rain",
        None,
        "medium",
        "static",
        speed,
        flat,
        flat + height / min(height, width),
        radius,
        box,
        np.ones(count, bool),
    )


def _find_wall(frames: Frames, view: View) -> Wall | None:
    """A brick wall with a dark outline that stands in the middle of a still picture."""
    if view.zoom[-1] != 1 or view.pan[-1] != 0:
        return None
    still = np.median(frames[:: max(1, len(frames) // 9)], 0)
    height, width = still.shape[:2]
    scale, half_h = view.scale, height / min(width, height)
    base = floor_height(half_h) - 0.05
    bottom = round(height / 2 - base * scale)
    dark = still.max(-1) < 128
    near_col = dark | np.roll(dark, 1, 1) | np.roll(dark, -1, 1)
    near_row = dark | np.roll(dark, 1, 0) | np.roll(dark, -1, 0)
    best: tuple[float, int, int, int] = (0.0, 0, 0, 0)
    middle = width // 2
    for tall in range(round(0.45 * scale), round(1.25 * scale)):
        top = bottom - tall
        if top < 1:
            break
        sides = near_col[top + 2 : bottom - 2].mean(0)
        line = np.concatenate([[0], np.cumsum(near_row[top])])
        for half in range(round(0.2 * scale), round(0.56 * scale)):
            for shift in (0, -1, 1, -2, 2):
                left, right = middle - half + shift, middle + half + shift
                if left < 0 or right > width:
                    continue
                score = min(sides[left], sides[right - 1], (line[right] - line[left]) / (right - left))
                if score > best[0] + 1e-6:
                    best = (float(score), left, right, top)
    score, left, right, top = best
    if score < 0.75:
        return None
    inside = still[top + 3 : bottom - 3, left + 3 : right - 3].reshape(-1, 3)
    grey, warm = inside.mean(-1), inside[:, 0] - inside[:, 2]
    brick = (grey > 108) & (grey < 205) & (warm > 8) & (warm < 58)
    if brick.mean() < 0.7:
        return None
    return Wall((left - width / 2) / scale, (right - width / 2) / scale, (height / 2 - top) / scale, base)


# --- tracks ---------------------------------------------------------------------------------------------------------
def _tracks(blobs: Blobs, guess: Guess, view: View, count: int, wall: Wall | None) -> list[_Track]:
    """One track for each colour of which something is recognised."""
    hidden = np.zeros(len(blobs), bool)
    if wall is not None:  # its own dark lines
        x, y = view.world(blobs.frame, blobs.centre[:, 0], blobs.centre[:, 1])
        hidden = (x > wall.left - 0.04) & (x < wall.right + 0.04) & (y < wall.top + 0.04)
    zoom = view.zoom * view.scale
    tracks = []
    for colour in range(len(COLOURS)):
        (own,) = np.nonzero((blobs.colour == colour) & (guess.kind != NONE) & (guess.sure > SURE) & ~hidden)
        if len(np.unique(blobs.frame[own])) < LASTING:
            continue
        ballot = np.bincount(guess.kind[own], guess.sure[own] * blobs.area[own], minlength=len(KINDS))
        votes = np.asarray(ballot, np.float64)
        kind = int(votes.argmax())
        radii = guess.radius[own] / zoom[blobs.frame[own]]
        radii = radii[(guess.kind[own] == kind) & np.isfinite(radii)]
        least, most = _radii(KINDS[kind])
        if len(radii) and not 0.7 * least < float(np.median(radii)) < 1.4 * most:
            continue
        values = {name: np.full(count, np.nan) for name in ("x", "y", "r", "cx", "cy", "area")}
        box = np.full((count, 4), np.nan, np.float32)
        kinds = np.full(count, NONE, np.intp)
        doubles = 0
        usual = float(np.median(blobs.area[own]))
        path_x, path_y = (_steady(v) for v in _rough_path(blobs, guess, own, kind, view, count))
        for t in np.unique(blobs.frame[own]):
            here = own[blobs.frame[own] == t]
            x, y = view.world(int(t), blobs.centre[here, 0], blobs.centre[here, 1])
            off = np.hypot(x - path_x[t], y - path_y[t])
            score = (
                guess.sure[here]
                * blobs.area[here]
                * np.where(guess.kind[here] == kind, 2.0, 1.0)
                / (1 + (off / OFF_PATH) ** 2)
            )
            k = here[int(score.argmax())]
            if blobs.area[k] < 0.12 * usual:
                continue
            doubles += int(_double(blobs, guess, here, k, usual))
            values["x"][t], values["y"][t] = view.world(int(t), blobs.centre[k, 0], blobs.centre[k, 1])
            values["cx"][t], values["cy"][t] = view.world(int(t), guess.centre[k, 0], guess.centre[k, 1])
            values["r"][t] = guess.radius[k] / zoom[t]
            values["area"][t] = blobs.area[k] / zoom[t] ** 2
            box[t] = blobs.box[k]
            kinds[t] = guess.kind[k] if guess.sure[k] > CLEAR else NONE
        tracks.append(_Track(colour, kind, votes, box=box, kinds=kinds, doubles=doubles, **values))
    return tracks


def _rough_path(
    blobs: Blobs, guess: Guess, own: NDArray[np.intp], kind: int, view: View, count: int
) -> tuple[Floats, Floats]:
    """Where the most convincing blob of a kind is in each frame."""
    path = np.full((2, count), np.nan)
    for t in np.unique(blobs.frame[own]):
        here = own[(blobs.frame[own] == t) & (guess.kind[own] == kind)]
        if len(here):
            k = here[int((guess.sure[here] * blobs.area[here]).argmax())]
            path[:, t] = view.world(int(t), blobs.centre[k, 0], blobs.centre[k, 1])
    return path[0], path[1]


def _steady(values: Floats) -> Floats:
    """A path without gaps and without single frames that leave it: the median of five."""
    return np.asarray(ndimage.median_filter(motion.fill_gaps(values), 5, mode="nearest"), np.float64)


def _double(blobs: Blobs, guess: Guess, here: NDArray[np.intp], main: int, usual: float) -> bool:
    """Whether a second actor of the same kind and colour stands in the same frame."""
    for k in here:
        if k == main or guess.sure[k] < 0.75 or guess.kind[k] != guess.kind[main] or blobs.area[k] < 0.45 * usual:
            continue
        apart = np.hypot(*(blobs.centre[k] - blobs.centre[main]))
        if apart > 1.6 * guess.radius[main]:
            return True
    return False


def _cast(tracks: list[_Track], view: View) -> tuple[list[_Track], bool, bool]:
    """The actors among the tracks; whether one takes the place of another, and whether more come than stay."""
    kept: list[_Track] = []
    for track in sorted(tracks, key=lambda t: -t.weight):
        if not any(_part_of(track, other) for other in kept):
            kept.append(track)
    longest = max((int(t.seen.sum()) for t in kept), default=0)
    main = [t for t in kept if t.seen.sum() >= 0.3 * longest][:2]
    swaps, extra = False, any(t.doubles >= LASTING for t in main)
    for track in kept:
        if any(track is m for m in main):
            continue
        if track.seen.sum() < LASTING or track.votes.max() / track.votes.sum() < 0.6:
            continue
        first, last = np.nonzero(track.seen)[0][[0, -1]]
        fills = any(not m.seen[first : last + 1].any() for m in main)
        swaps |= fills
        extra |= not fills
    if len(main) == 2:  # one that takes over where the other ends
        a, b = sorted(main, key=lambda t: int(np.nonzero(t.seen)[0][0]))
        if np.nonzero(a.seen)[0][-1] < np.nonzero(b.seen)[0][0] + 2:
            swaps = True
    for track in main:
        swaps |= _changes_kind(track, view)
    return main, swaps, extra


def _part_of(track: _Track, other: _Track) -> bool:
    """Whether a track is a part of an actor that is already there: it moves inside him."""
    both = track.seen & other.seen
    if both.sum() < 0.5 * track.seen.sum():
        return False
    both &= np.isfinite(other.cx) & np.isfinite(other.r)
    if not both.any():
        return False
    apart = np.hypot(track.x - other.cx, track.y - other.cy)[both]
    reach = {"bird": 1.9, "car": 1.9, "drum": 1.6}.get(KINDS[other.kind], 1.15)
    passing = track.seen.sum() < 0.5 * len(track.x)
    if passing and np.nanmedian(track.area) < 0.4 * np.nanmedian(other.area):  # a smear at his side
        reach = max(reach, 1.7)
    return bool(np.nanmedian(apart / np.maximum(other.r[both], 1e-3)) < reach)


def _changes_kind(track: _Track, view: View) -> bool:
    """Whether the track is another kind for several frames on end, after or before the one that it mostly is."""
    people = [KINDS.index(k) for k in ("woman", "man")]  # alike; see `_by_beard`
    alike = [NONE, *(people if track.kind in people else [track.kind])]
    other = ~np.isin(track.kinds[_inside(track, view)], alike)
    run = best = 0
    for value in other:
        run = run + 1 if value else 0
        best = max(best, run)
    return best >= max(6, 0.25 * int(track.seen.sum()))


def _expected(values: Floats) -> Floats:
    """A track without gaps: straight lines between, the last value held beyond."""
    return motion.fill_gaps(values)


def _visible(track: _Track, classes: NDArray[np.uint8], front: Mask, view: View, wall: Wall | None) -> Mask | None:
    """Where the track is to be seen; None if it is gone where it should be."""
    x, y = _expected(track.x), _expected(track.y)
    usual = float(np.nanmedian(track.area))
    r = float(np.nanmedian(track.r))
    half_w = view.size[0] / 2 / view.scale
    seen = track.seen.copy()
    gone = 0
    first, last = np.nonzero(seen)[0][[0, -1]]
    for t in np.nonzero(~seen)[0]:
        zoom = float(view.zoom[t])
        edge = half_w / zoom - abs(x[t] - float(view.pan[t]))
        at_edge = edge < 1.1 * r
        if t < first or t > last:  # where it was going
            step = np.nanmedian(np.diff(x[first : last + 1])) if last > first + 1 else 0.0
            away = x[t] + step * (t - (first if t < first else last))
            at_edge |= bool(half_w / zoom - abs(away - float(view.pan[t])) < 1.1 * r)
            x_t = away if abs(step) > 0.01 else x[t]
        else:
            x_t = x[t]
        if at_edge or (wall is not None and wall.left - 1.15 * r < x_t < wall.right + 1.15 * r and y[t] < wall.top):
            continue
        col, row = view.pixel(int(t), float(x_t), float(y[t]))
        reach = 1.2 * r * zoom * view.scale
        top, bottom = max(0, int(row - reach)), max(0, int(row + reach) + 1)
        left, right = max(0, int(col - reach)), max(0, int(col + reach) + 1)
        own = (classes[t, top:bottom, left:right] == track.colour) & front[t, top:bottom, left:right]
        if own.sum() < LEFT_OVER * usual * (zoom * view.scale) ** 2:
            gone += 1
    return None if gone >= 1 else seen


def _inside(track: _Track, view: View) -> Mask:
    """Frames in which the track is seen and not cut by the edge of the picture."""
    box = np.nan_to_num(track.box)
    width, height = view.size
    inside = (box[:, 0] > 1) & (box[:, 1] > 1) & (box[:, 2] < width - 1) & (box[:, 3] < height - 1)
    ok: Mask = track.seen & inside
    return ok


def _teleports(track: _Track, view: View) -> bool:
    (at,) = np.nonzero(_inside(track, view))
    steps = np.diff(at)
    dx, dy = np.abs(np.diff(track.x[at])) / steps, np.abs(np.diff(track.y[at])) / steps
    return bool((dx > SIDEWAYS_LEAP).any() or (dy > LEAP).any())


# --- what an actor does ---------------------------------------------------------------------------------------------
def _describe(track: _Track, cast: list[_Track], frames: Frames, view: View, fps: float, wall: Wall | None) -> Seen:
    kind = KINDS[track.kind]
    if kind in ("woman", "man"):
        kind = _by_beard(kind, track, frames, view)
    x, y = track.x, track.y
    (at,) = np.nonzero(track.seen)
    few = min(3, len(at))
    went = float(np.mean(x[at[-few:]]) - np.mean(x[at[:few]]))
    far = max(abs(went), float(np.ptp(x[at])))
    height = float(np.percentile(y[at], 97) - np.percentile(y[at], 3))
    meets = len(cast) == 2 and all(KINDS[t.kind] == "ball" for t in cast) and far > MOVED
    direction = "left" if (x[at[min(6, len(at) - 1)]] > x[at[0]] if meets else went > 0) else "right"
    if meets:
        direction = "left" if x[at[0]] < 0 else "right"
    if kind in ("ball", "box") and height > FELL and height > 0.5 * far:
        doing = "bounces" if kind == "ball" else "falls"
    elif far > MOVED and kind not in (*FACES, "bell", "drum", "metronome"):
        doing = direction
    else:
        doing = "static"
    scale = 1.0
    if len(cast) == 2 and not meets:
        scale = PAIR_SCALE
    if meets or (wall is not None and kind == "ball"):
        scale = BEHIND_SCALE
    size = _size(track, kind, scale)
    seen = Seen(
        kind, COLOURS[track.colour], size, doing, None, x, y, track.r, track.box, track.seen,
        sure=float(track.votes.max() / track.votes.sum()),
    )  # fmt: skip
    seconds = len(frames) / fps
    if doing in ("left", "right"):
        slowest = SPEED["slow"]
        r = float(np.nanmedian(track.r))
        half_w = view.size[0] / 2 / view.scale
        if wall is not None:
            slowest = max(slowest, (wall.right + 0.5 * r + half_w) / (seconds - 0.25))
        if meets:
            slowest = max(slowest, (half_w - 1.6 * r) / (0.6 * seconds))
        limit = np.sqrt(min(slowest, 1.3) * SPEED["fast"])
        turn = motion.meeting(*_pair_x(cast), fps) if meets else None
        way = x if turn is None else x[: max(3, int(turn * fps) + 1)]
        seen = replace(seen, speed="fast" if _cruise(way, fps) > limit else "slow")
    return _act(seen, track, cast, meets, frames, view, fps)


def _by_beard(kind: str, track: _Track, frames: Frames, view: View) -> str:
    """Man or woman: is the chin like the hair or like the cheeks, and is there hair beside the cheeks?

    `kind` stays where that is not clear.
    """
    few = slice(None, None, 3)
    x, y = motion.fill_gaps(track.cx)[few], motion.fill_gaps(track.cy)[few]
    r = np.full(len(x), float(np.nanmedian(track.r)))
    part = replace(view, pan=view.pan[few], zoom=view.zoom[few])

    def patch(u: tuple[float, float], v: tuple[float, float]) -> Floats:
        crop = motion.window(frames[few], part, x, y, r, np.linspace(*u, 7), np.linspace(*v, 5))
        return np.asarray(np.median(crop, (0, 1, 2)), np.float64)

    chin, hair = patch((-0.15, 0.15), (-0.31, -0.39)), patch((-0.15, 0.15), (0.8, 0.68))
    cheek = (patch((-0.34, -0.24), (0.1, 0.0)) + patch((0.24, 0.34), (0.1, 0.0))) / 2
    way = hair - cheek
    far = float(np.linalg.norm(way))
    share = float((chin - cheek) @ way) / max(far * far, 1.0)
    beard = float(np.clip((share - BEARD) / 0.3, -1, 1)) * min(1.0, far / 30)
    beside = min(float(np.linalg.norm(patch(u, (0.0, -0.2)) - hair)) for u in ((-0.6, -0.56), (0.56, 0.6)))
    man = beard + 0.8 * float(np.clip((beside - 22) / 12, -1, 1))
    if abs(man) < 0.15:
        return kind
    return "man" if man > 0 else "woman"


def _pair_x(cast: list[_Track]) -> tuple[Floats, Floats]:
    """Tracks of the left and of the right one of two."""
    a, b = sorted(cast, key=lambda t: float(np.nanmean(t.x)))
    return a.x, b.x


def _size(track: _Track, kind: str, scale: float) -> str:
    """The nearest size, by the radius in the frames in which it is whole."""
    r = track.r[np.isfinite(track.r)]
    if len(r) == 0:
        return "medium"
    table = FACE_SCALE if kind in FACES else SCALE
    off = [abs(np.log(float(np.median(r)) / (RADIUS[kind] * table[s] * scale))) for s in SIZES]
    return SIZES[int(np.argmin(off))]


def _cruise(x: Floats, fps: float) -> float:
    """The speed between 10 and 60 % of a way, before whoever crosses the stage slows down. World units a second."""
    (at,) = np.nonzero(np.isfinite(x))
    if len(at) < 3:
        return 0.0
    way = np.maximum.accumulate(np.abs(x[at] - x[at[0]]))
    if way[-1] < 1e-3:
        return 0.0
    times = [float(np.interp(share * way[-1], way + 1e-9 * np.arange(len(way)), at)) for share in (0.1, 0.6)]
    return float(0.5 * way[-1] / max(times[1] - times[0], 0.5) * fps)


def _act(seen: Seen, track: _Track, cast: list[_Track], meets: bool, frames: Frames, view: View, fps: float) -> Seen:
    """Add what depends on the kind: strikes, ticking speed, mouth."""
    cx, cy = motion.fill_gaps(track.cx), motion.fill_gaps(track.cy)
    r = np.full(len(frames), float(np.nanmedian(track.r)) if np.isfinite(track.r).any() else 0.25)
    steady_x, steady_y = np.full_like(cx, np.median(cx)), np.full_like(cy, np.median(cy))
    if meets:
        at = motion.meeting(*_pair_x(cast), fps)
        return replace(seen, strikes=() if at is None else (at,))
    if seen.motion in ("bounces", "falls"):
        found = motion.contacts(track.y, fps)
        return replace(seen, strikes=tuple(found[:1] if seen.kind == "box" else found))
    if seen.kind == "bell":
        x = motion.fill_gaps(track.x)
        return replace(seen, strikes=tuple(motion.swings(x - np.median(x), motion.SWING * motion.LEVER * r[0], fps)))
    if seen.kind == "metronome":
        rod = motion.rod_swing(frames, view, steady_x, steady_y, r)
        ticks = motion.swings(rod, 0.2, fps)
        period = float(np.median(np.diff(ticks))) if len(ticks) > 1 else 0.72
        return replace(seen, strikes=tuple(ticks), speed="fast" if period < 0.51 else "slow")
    if seen.kind == "drum":
        pose = motion.stick_pose(frames, view, steady_x, steady_y, r)
        return replace(seen, strikes=tuple(motion.strokes(pose, fps)))
    if seen.kind in FACES:
        return replace(seen, opening=motion.mouth_opening(frames, view, steady_x, cy, r, seen.kind))
    return seen
