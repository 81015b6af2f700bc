"""What lies behind the actors: how the camera moves, which light and floor, and which pixels are not backdrop.

Nothing here knows what was asked for. Letters: T frames, H rows, W columns, R rows of the stage, C kinds of backdrop,
A = 3 axes of colour: mean of r, g, b; r - g; g - b.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from phonofilm.playhouse import backdrop
from phonofilm.playhouse.scene import FLOORS, LIGHTS, Performance, Scene
from phonofilm.playhouse.stage import extent, floor_height

Frames = NDArray[np.uint8]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

PANS: Final = tuple(round(0.03 * k, 2) for k in range(-10, 11))  # world units from the middle to the end of a pan
ZOOMS: Final = tuple(round(1.0 + 0.03 * k, 2) for k in range(1, 10))  # scale at the end of a zoom
STILL_MARGIN: Final = 0.92  # a moving camera must explain the clip better than a still one by this factor
DRAWS: Final = 14  # backdrops of each kind that are looked at
CELL: Final = (8, 5, 5)  # 8-bit steps of a cell of the table of colours, for each axis
CELLS: Final = (32, 24, 24)
ZERO: Final = (0, 60, 60)  # 8-bit steps that are added before a colour is looked up
SPREAD: Final = (2, 1, 1)  # cells around a colour of the backdrop that count as backdrop too
RAREST: Final = 0.0012  # share of a row below which a colour of the backdrop is left out
CAST_REACH, CAST_LEAST = 14.0, 1.5  # 8-bit steps: how far a cast of the whole picture can be off, and what is none
NIGHT_TOP: Final = 128.0  # brighter at night is no backdrop (the moon is told from actors by its looks)
SHADOWS: Final = (0.0, 0.12, 0.23, 0.34)  # how much of a shadow may lie on the floor beneath an actor
SHADOW: Final = (34.0, 30.0, 34.0)


@dataclass(frozen=True)
class View:
    """How the camera moved: for each frame the pan (world units) and the zoom (scale)."""

    pan: Floats  # (T,)
    zoom: Floats  # (T,)
    size: tuple[int, int]  # W, H

    @property
    def scale(self) -> float:
        """Pixels per world unit at zoom 1."""
        return min(self.size) / 2

    def world(self, frame: NDArray[np.intp] | int, col: Floats | float, row: Floats | float) -> tuple[Floats, Floats]:
        """World x, y of pixel coordinates (the origin is the upper left corner, pixel centres lie at halves)."""
        zoom = self.zoom[frame] * self.scale
        x = (np.asarray(col) - self.size[0] / 2) / zoom + self.pan[frame]
        return np.asarray(x, np.float32), np.asarray((self.size[1] / 2 - np.asarray(row)) / zoom, np.float32)

    def pixel(self, frame: int, x: float, y: float) -> tuple[float, float]:
        """Column and row of a world point."""
        zoom = float(self.zoom[frame]) * self.scale
        return self.size[0] / 2 + (x - float(self.pan[frame])) * zoom, self.size[1] / 2 - y * zoom


def axes(frames: NDArray[np.uint8] | Floats) -> Floats:
    """Colours (..., 3) in 8-bit steps on the three axes of this module."""
    f = frames.astype(np.float32)
    r, g, b = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([(r + g + b) / 3, r - g, g - b], -1)


def find_camera(frames: Frames, probes: int = 5) -> View:
    """The even pan or zoom that lets the backdrop stand still. frames (T, H, W, 3)."""
    count, height, width = frames.shape[:3]
    scale = min(width, height) / 2
    chosen = np.unique(np.linspace(0, count - 1, probes).round().astype(int))
    grey = frames[chosen].mean(-1).astype(np.float32)
    u = (chosen + 0.5) / count
    # a grid of world points that every view shows
    half_x, half_y = width / 2 / scale, height / 2 / scale
    x = np.linspace(-0.98 * half_x, 0.98 * half_x, width // 2, dtype=np.float32)
    y = np.linspace(-0.84 * half_y, 0.84 * half_y, height // 2, dtype=np.float32)

    def cost(pan: float, zoom: float) -> float:
        views, valid = [], np.ones(len(x), bool)
        for frame, at in zip(grey, u, strict=True):
            z = 1 + (zoom - 1) * at
            col = width / 2 + (x - pan * (2 * at - 1)) * z * scale - 0.5
            row = height / 2 + y * z * scale - 0.5
            valid &= (col >= 0) & (col <= width - 1)
            views.append(_sample(frame, row, col))
        stack = np.stack(views)[:, :, valid]
        off = np.abs(stack - np.median(stack, 0))
        return float(np.minimum(off, 12.0).mean())

    still = cost(0.0, 1.0)
    best = min(((cost(p, 1.0), p, 1.0) for p in PANS if p), default=(np.inf, 0.0, 1.0))
    best = min(best, min((cost(0.0, z), 0.0, z) for z in ZOOMS))
    pan, zoom = (best[1], best[2]) if best[0] < STILL_MARGIN * still - 0.05 else (0.0, 1.0)
    t = (np.arange(count, dtype=np.float32) + 0.5) / count
    return View(pan * (2 * t - 1), 1 + (zoom - 1) * t, (width, height))


def _sample(plane: Floats, row: Floats, col: Floats) -> Floats:
    """Bilinear values of a plane at rows x cols."""
    row, col = np.clip(row, 0, plane.shape[0] - 1.001), np.clip(col, 0, plane.shape[1] - 1.001)
    i, j = row.astype(int), col.astype(int)
    a, b = (row - i)[:, None], col - j
    upper = plane[i] * (1 - a) + plane[i + 1] * a
    out: Floats = upper[:, j] * (1 - b) + upper[:, j + 1] * b
    return out


@dataclass(frozen=True)
class _Known:
    """The colours of each kind of backdrop, row by row (of the stage, from the top)."""

    names: tuple[tuple[str, str], ...]  # C of (light, floor)
    middle_CRA: Floats
    tables: tuple[Mask, ...]  # C of (R, cells): which colours the backdrop shows


@lru_cache(maxsize=8)
def _known(width: int, height: int) -> _Known:
    half_w, half_h = extent((width, height))
    rng = np.random.default_rng(0)
    names = tuple((light, floor) for light in LIGHTS for floor in FLOORS if (light, floor) != ("indoors", "grass"))
    xs = torch.linspace(-half_w - 0.3, half_w + 0.3, width)
    ys = (1 - (torch.arange(height) + 0.5) / height * 2) * half_h
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    floor_y = floor_height(half_h)
    shadowed = np.abs(ys.numpy() - floor_y + 0.02) < 0.16
    middle, tables = [], []
    for light, floor in names:
        plays = [
            Performance(Scene((), floor, light), (), extras={"cloud": float(c), "sun": float(s)})
            for c, s in rng.random((DRAWS, 2))
        ]
        planes = backdrop.draw(plays, x, y, floor_y, half_h, 2 / min(width, height)).permute(0, 2, 3, 1).numpy()
        colours = (planes * 255).clip(0, 255).astype(np.float32)  # (n, H, W, 3)
        middle.append(np.median(axes(colours), (0, 2)))
        counts = np.zeros((height, int(np.prod(CELLS))), np.int32)
        for dark in SHADOWS:
            rows = np.nonzero(shadowed | (dark == 0))[0]
            some = colours[:, rows] * (1 - dark) + np.asarray(SHADOW, np.float32) * dark
            cells = _cells(some).transpose(1, 0, 2).reshape(len(rows), -1)
            if light == "night":
                bright = some.mean(-1).transpose(1, 0, 2).reshape(len(rows), -1) > NIGHT_TOP
                cells = np.where(bright, cells[:, :1], cells)
            np.add.at(counts, (rows[:, None], cells), 1)
        counts = ndimage.uniform_filter1d(counts.astype(np.float32), 3, axis=0) / (DRAWS * width)
        table = (counts > RAREST).reshape(height, *CELLS)
        near = (1, *(2 * k + 1 for k in SPREAD))
        tables.append(
            ndimage.maximum_filter(table.view(np.uint8), near, mode="constant").view(bool).reshape(height, -1)
        )
    return _Known(names, np.stack(middle).astype(np.float32), tuple(tables))


def _cells(colours: NDArray[np.uint8] | Floats) -> NDArray[np.int32]:
    """Index into the table of colours for (..., 3)."""
    f = colours.astype(np.int16)
    r, g, b = f[..., 0], f[..., 1], f[..., 2]
    index = np.zeros(f.shape[:-1], np.int32)
    for plane, step, count, zero in zip(((r + g + b) // 3, r - g, g - b), CELL, CELLS, ZERO, strict=True):
        index = index * count + np.clip((plane + zero) // step, 0, count - 1)
    return index


def find_backdrop(frames: Frames, view: View) -> tuple[str, str]:
    """Light and floor, the nearest of the known backdrops."""
    known = _known(*view.size)
    return known.names[_nearest(known, frames, view)]


def _nearest(known: _Known, frames: Frames, view: View) -> int:
    off = np.zeros(len(known.names))
    for k in np.unique(np.linspace(0, len(frames) - 1, 3).round().astype(int)):
        rows = _stage_rows(view, int(k))
        seen = axes(frames[k, :, ::4])  # (H, W / 4, A)
        distance = np.abs(seen[None] - known.middle_CRA[:, rows, None]).sum(-1)
        off += np.minimum(distance, 60.0).mean((1, 2))
    return int(off.argmin())


def _stage_rows(view: View, frame: int) -> NDArray[np.intp]:
    """For each row of the picture, the row of the stage."""
    height = view.size[1]
    at = (np.arange(height) + 0.5 - height / 2) / float(view.zoom[frame]) + height / 2
    return np.clip(at.astype(np.intp), 0, height - 1)


def foreground(frames: Frames, view: View) -> Mask:
    """Pixels that no backdrop of this light and floor shows in their row: (T, H, W).

    A slight cast of the whole picture is taken away first, and the noise of hues is smoothed.
    """
    known = _known(*view.size)
    chosen = _nearest(known, frames, view)
    rows = np.stack([_stage_rows(view, k) for k in range(len(frames))])  # (T, H)
    cast = _cast(known.middle_CRA[chosen], frames, view)
    f = frames.astype(np.int16)
    r, g, b = f[..., 0], f[..., 1], f[..., 2]
    planes = [(r + g + b) // 3, _smooth(r - g), _smooth(g - b)]
    index = np.zeros(frames.shape[:3], np.int32)
    for plane, step, count, zero, off in zip(planes, CELL, CELLS, ZERO, cast, strict=True):
        index = index * count + np.clip((plane + np.int16(zero - round(float(off)))) // step, 0, count - 1)
    out: Mask = ~known.tables[chosen][rows[..., None], index]
    return out


def _smooth(plane: NDArray[np.int16]) -> NDArray[np.int16]:
    """The mean of each pixel and its neighbours in a cross, in each frame."""
    out = 2 * plane
    out[:, 1:-1] += plane[:, :-2] + plane[:, 2:]
    out[:, :, 1:-1] += plane[:, :, :-2] + plane[:, :, 2:]
    out[:, :: out.shape[1] - 1] += 2 * plane[:, :: plane.shape[1] - 1]
    out[:, :, :: out.shape[2] - 1] += 2 * plane[:, :, :: plane.shape[2] - 1]
    return out // 6


def _cast(middle_RA: Floats, frames: Frames, view: View) -> Floats:
    """By how much the colours of the whole picture are off, (A,): the median of what is near the usual colours."""
    parts = []
    for k in np.unique(np.linspace(0, len(frames) - 1, 3).round().astype(int)):
        parts.append((axes(frames[k, :, ::4]) - middle_RA[_stage_rows(view, int(k))][:, None]).reshape(-1, 3))
    off = np.concatenate(parts)
    near = off[(np.abs(off) < CAST_REACH).all(1)]
    if len(near) < 0.15 * len(off):
        return np.zeros(3, np.float32)
    middle = np.median(near, 0)
    return np.asarray(np.where(np.abs(middle) < CAST_LEAST, 0, middle), np.float32)
