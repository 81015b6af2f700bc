"""Films performances: batched torch, the same on CPU and GPU, any size and frame rate.

Each actor is painted in a window around it (exact distances, no supersampling) and laid over the backdrop.
Shape legend: B scenes, n scenes of one kind, T frames, H x W picture, K x L window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from phonofilm.playhouse import backdrop
from phonofilm.playhouse.actors import EXTENT, HAIRS, PAINTERS, PALETTE, SKINS, Look
from phonofilm.playhouse.scene import MATERIALS, Performance
from phonofilm.playhouse.shapes import Layer, box, ellipse, mix, rgb, shade
from phonofilm.playhouse.stage import PAN, camera, extent, floor_height

ROOM_X = PAN + 0.06  # how much more than the picture the backdrop covers
SHADED = ("ball", "box", "drum", "metronome", "car")  # kinds that stand on the floor


@dataclass(frozen=True)
class Sight:
    """What is to be seen of one actor, for each frame; pixel coordinates with the origin at the upper left corner."""

    centre: NDArray[np.float32]  # (T, 2) x, y of the actor's middle
    box: NDArray[np.float32]  # (T, 4) left, top, right, bottom of what is to be seen inside the picture; nan if nothing
    visible: NDArray[np.float32]  # (T,) 0..1: share of the whole actor that is inside the picture and not hidden
    radius: NDArray[np.float32]  # (T,) half of the nominal height, pixels
    mouth: NDArray[np.float32]  # (T,) 0..1 mouth opening of faces (0 for others)


class _Film:
    """Frames under work, with a margin so that windows never leave the array."""

    def __init__(self, performances: Sequence[Performance], size: tuple[int, int], fps: float, device: torch.device):
        self.performances, self.size, self.device = performances, size, device
        width, height = size
        self.scale = min(size) / 2  # pixels per world unit
        count = (
            performances[0].tracks[0].x.shape[0]
            if performances[0].tracks
            else round(performances[0].scene.seconds * fps)
        )
        self.times = np.asarray((np.arange(count) + 0.5) / fps, np.float64)
        views = [camera(p, self.times) for p in performances]
        self.pan = self._tensor(np.stack([v[0] for v in views]))
        self.zoom = self._tensor(np.stack([v[1] for v in views]))
        self.frames = self._backdrops(width, height)  # (B, T, H, W, 3)
        self.ids = torch.full((*self.frames.shape[:2], height, width), -1, dtype=torch.int8, device=device)

    def _tensor(self, values: object) -> Tensor:
        return torch.as_tensor(np.asarray(values), dtype=torch.float32).to(self.device)

    def _backdrops(self, width: int, height: int) -> Tensor:
        half_w, half_h = extent(self.size)
        fine = 1.25 * self.scale
        cols, rows = round(2 * (half_w + ROOM_X) * fine), round(2 * half_h * fine)
        xs = ((torch.arange(cols, device=self.device) + 0.5) / cols * 2 - 1) * (half_w + ROOM_X)
        ys = (1 - (torch.arange(rows, device=self.device) + 0.5) / rows * 2) * half_h
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        canvas = backdrop.draw(self.performances, x, y, floor_height(half_h), half_h, 1 / fine)
        px = ((torch.arange(width, device=self.device) + 0.5) / width * 2 - 1) * half_w
        py = ((torch.arange(height, device=self.device) + 0.5) / height * 2 - 1) * half_h
        frames = torch.empty(len(self.performances), len(self.times), height, width, 3, device=self.device)
        for moving in (False, True):
            chosen = [i for i, p in enumerate(self.performances) if (p.scene.camera != "still") == moving]
            if not chosen:
                continue
            pan, zoom = self.pan[chosen], self.zoom[chosen]
            if not moving:
                pan, zoom = pan[:, :1], zoom[:, :1]
            gx = (px / zoom[..., None] + pan[..., None]) / (half_w + ROOM_X)  # (n, T, W)
            gy = py / zoom[..., None] / half_h  # (n, T, H)
            shape = (*pan.shape, height, width)
            grid = torch.stack([gx[:, :, None, :].expand(shape), gy[..., None].expand(shape)], -1)
            views = grid.shape[1]
            source = canvas[chosen].repeat_interleave(views, 0)
            view = F.grid_sample(source, grid.flatten(0, 1), "bilinear", "border", align_corners=False)
            frames[chosen] = (
                view.unflatten(0, (-1, views)).permute(0, 1, 3, 4, 2).expand(-1, len(self.times), -1, -1, -1)
            )
        return frames

    def window(self, rows: list[int], x: Tensor, y: Tensor, half_k: float, half_l: float) -> tuple[Tensor, ...]:
        """Indices and world coordinates of windows about world points x, y (n, T); half sizes in world units.

        Returns four index tensors into `frames`, and the world coordinates (n, T, K, L). Windows lie in the picture.
        """
        width, height = self.size
        pan, zoom = self.pan[rows], self.zoom[rows]
        most = float(zoom.max())
        K = min(height, int(2 * half_k * self.scale * most) + 4)
        L = min(width, int(2 * half_l * self.scale * most) + 4)
        col = width / 2 + (x - pan) * zoom * self.scale
        row = height / 2 - y * zoom * self.scale
        left = (col - L / 2).round().long().clamp(0, width - L)
        top = (row - K / 2).round().long().clamp(0, height - K)
        ix = left[..., None, None] + torch.arange(L, device=self.device)
        iy = top[..., None, None] + torch.arange(K, device=self.device)[:, None]
        wx = (ix + 0.5 - width / 2) / self.scale / zoom[..., None, None] + pan[..., None, None]
        wy = (height / 2 - iy - 0.5) / self.scale / zoom[..., None, None]
        b = torch.tensor(rows, device=self.device)[:, None, None, None]
        t = torch.arange(len(self.times), device=self.device)[None, :, None, None]
        shape = (*x.shape, K, L)
        return b, t, iy, ix, wx.expand(shape), wy.expand(shape)

    def lay(self, where: tuple[Tensor, ...], layer: Layer, identity: int | None) -> None:
        """Put a painted layer over the frames; pixels that it mostly covers belong to `identity` (None: leave)."""
        b, t, iy, ix = where[:4]
        colour = torch.stack(layer.planes, -1)
        self.frames[b, t, iy, ix] = self.frames[b, t, iy, ix] * (1 - layer.alpha[..., None]) + colour
        if identity is not None:
            old = self.ids[b, t, iy, ix]
            self.ids[b, t, iy, ix] = torch.where(layer.alpha > 0.5, torch.full_like(old, identity), old)

    def shadows(self, rows: list[int], slot: int) -> None:
        floor = floor_height(extent(self.size)[1])
        tracks = [self.performances[i].tracks[slot] for i in rows]
        x, y, r = (self._tensor(np.stack([getattr(k, name) for k in tracks])) for name in ("x", "y", "radius"))
        wide = 1.9 if self.performances[rows[0]].scene.actors[slot].kind == "car" else 1.0
        most = float(r.max())
        where = self.window(rows, x, torch.full_like(x, floor - 0.02), 0.3 * most + 0.05, 1.5 * wide * most)
        wx, wy = where[4:]
        lift = ((y - r - floor) / 1.0).clamp(0, 1)[..., None, None]
        rr = r[..., None, None] * wide
        d = ellipse(wx, wy, x[..., None, None], floor - 0.02, rr * 1.05, 0.24 * r[..., None, None] + 0.02)
        layer = Layer(wx, 0.0)
        soft = (0.5 - d / (0.08 + 0.2 * lift)).clamp(0, 1) * (0.34 - 0.22 * lift)
        layer.put(soft, rgb(34, 30, 34))
        self.lay(where, layer, None)

    def actor(self, rows: list[int], slot: int) -> tuple[Tensor, Tensor]:
        """Paint the actors in `slot` of scenes `rows` (all of one kind).

        Returns their areas inside the picture if nothing hid them (pixels), and their radii (world units), (n, T).
        """
        plays = [self.performances[i] for i in rows]
        kind = plays[0].scene.actors[slot].kind
        values = {
            name: self._tensor(np.stack([getattr(p.tracks[slot], name) for p in plays]))
            for name in ("x", "y", "radius", "angle", "pose", "round")
        }
        r = values["radius"]
        wide, high = EXTENT[kind]
        where = self.window(rows, values["x"], values["y"], high * float(r.max()), wide * float(r.max()))
        wx, wy = where[4:]
        rr = r[..., None, None]
        u, v = (wx - values["x"][..., None, None]) / rr, (wy - values["y"][..., None, None]) / rr

        def column(rows_of: list[float]) -> Tensor:
            return self._tensor(rows_of)[:, None, None, None]

        colours = [PALETTE[p.scene.actors[slot].colour or "white"] for p in plays]
        skins = [SKINS[min(3, int(4 * p.extras["skin"]))] for p in plays]
        hairs = [HAIRS[min(3, int(4 * p.extras["hair"]))] for p in plays]
        materials = [p.scene.actors[slot].material or "rubber" for p in plays]
        blink = [[float(abs(t - (0.4 + 2.2 * p.extras["blink"])) < 0.08) for t in self.times] for p in plays]
        look = Look(
            colour=tuple(column([float(c[i]) for c in colours]) for i in range(3)),  # type: ignore[arg-type]
            angle=values["angle"][..., None, None], pose=values["pose"][..., None, None],
            round=values["round"][..., None, None],
            material=tuple(column([float(m == name) for m in materials]) for name in MATERIALS),  # type: ignore[arg-type]
            skin=tuple(column([float(c[i]) for c in skins]) for i in range(3)),  # type: ignore[arg-type]
            hair=tuple(column([float(c[i]) for c in hairs]) for i in range(3)),  # type: ignore[arg-type]
            blink=self._tensor(blink)[..., None, None], seconds=self._tensor(self.times)[None, :, None, None],
            tone=column([p.extras["tone"] for p in plays]),
        )  # fmt: skip
        layer = Layer(u, 1 / self.scale / self.zoom[rows][..., None, None] / rr)
        PAINTERS[kind](layer, u, v, look)
        self.lay(where, layer, slot)
        return layer.alpha.gt(0.5).sum((2, 3)).float(), r

    def wall(self, rows: list[int]) -> None:
        """A brick wall in the middle, in front of the ball."""
        floor = floor_height(extent(self.size)[1]) - 0.05
        half = self._tensor([self.performances[i].extras["wall"] for i in rows])[:, None, None, None]
        high = self._tensor([self.performances[i].extras["wall_height"] for i in rows])[:, None, None, None]
        zero = torch.zeros(len(rows), len(self.times), device=self.device)
        where = self.window(
            rows, zero, zero + floor + 0.5 * float(high.max()), 0.5 * float(high.max()) + 0.1, float(half.max()) + 0.1
        )
        wx, wy = where[4:]
        layer = Layer(wx, 1 / self.scale)
        d = box(wx, wy, 0.0, floor + high / 2, half, high / 2, 0.01)
        layer.fill(d, rgb(70, 62, 60))
        line = (wy - floor) / 0.125
        brick = (torch.frac(wx / 0.26 + 0.5 * (torch.floor(line) % 2) + 64) - 0.5).abs()
        joint = torch.maximum(0.5 - (torch.frac(line) - 0.5).abs() < 0.1, 0.5 - brick < 0.06).float()
        tone = mix(rgb(150, 128, 116), rgb(186, 174, 162), joint)
        layer.fill(d + 0.025, shade(tone, 0.94 + 0.1 * (wy - floor)))
        self.lay(where, layer, 100)


@torch.no_grad()
def render(performances: Sequence[Performance], size: tuple[int, int] = (128, 128), fps: float = 16.0,
           device: torch.device | str = "cpu", truth: bool = True) -> tuple[Tensor, list[list[Sight]]]:  # fmt: skip
    """Film performances of equal length that were played for the same size and rate.

    Returns frames (B, T, H, W, 3) uint8 sRGB and, if `truth`, for each scene and actor a `Sight`.
    Raises ValueError if lengths differ.
    """
    lengths = {p.tracks[0].x.shape[0] for p in performances}
    if len(lengths) != 1:
        raise ValueError(f"performances of one batch must have equal length; got frame counts {sorted(lengths)}")
    film = _Film(performances, size, fps, torch.device(device))
    groups: dict[tuple[int, str, str], list[int]] = {}
    for i, p in enumerate(performances):
        for slot, actor in enumerate(p.scene.actors):
            groups.setdefault((slot, actor.kind, actor.size), []).append(i)
    for (slot, kind, _), rows in groups.items():
        if kind in SHADED:
            film.shadows(rows, slot)
    areas: dict[tuple[int, int], NDArray[np.float32]] = {}
    for (slot, _, _), rows in groups.items():
        area, _ = film.actor(rows, slot)
        areas |= {(i, slot): mine for i, mine in zip(rows, area.cpu().numpy(), strict=True)}
    walls = [i for i, p in enumerate(performances) if any(a.act == "behind" for a in p.scene.actors)]
    if walls:
        film.wall(walls)
    frames = (film.frames.clamp(0, 1) * 255 + 0.5).to(torch.uint8)
    return frames, _sights(film, areas) if truth else []


def _sights(film: _Film, areas: dict[tuple[int, int], NDArray[np.float32]]) -> list[list[Sight]]:
    """Of each scene and actor; what is to be seen is counted for all scenes at once, where they were filmed."""
    sights: list[list[Sight]] = [[] for _ in film.performances]
    pan, zoom = film.pan.cpu().numpy(), film.zoom.cpu().numpy()
    width, height = film.size
    for slot in range(max(len(p.tracks) for p in film.performances)):
        rows = [i for i, p in enumerate(film.performances) if len(p.tracks) > slot]
        mine = film.ids[rows] == slot  # (n, T, H, W)
        edges: list[Tensor] = []
        for inside, side in ((mine.any(2), width), (mine.any(3), height)):
            place = torch.arange(side, device=film.device)
            edges += [torch.where(inside, place, side).amin(-1), torch.where(inside, place, -1).amax(-1) + 1]
        boxes = torch.stack([edges[0], edges[2], edges[1], edges[3]], -1).float().cpu().numpy()
        counts = mine.flatten(2).sum(-1).float().cpu().numpy()
        for k, i in enumerate(rows):
            play, seen = film.performances[i], counts[k]
            track = play.tracks[slot]
            boxes[k][seen == 0] = np.nan
            col = width / 2 + (track.x - pan[i]) * zoom[i] * film.scale
            row = height / 2 - track.y * zoom[i] * film.scale
            radius = track.radius * zoom[i] * film.scale
            # a window is cut at the edge of the picture
            full = np.maximum(areas[i, slot], np.max(seen) * (radius / radius.max()) ** 2)
            mouth = track.pose if play.scene.actors[slot].word else np.zeros_like(track.pose)
            visible = np.clip(seen / np.maximum(full, 1), 0, 1)
            sights[i].append(Sight(np.stack([col, row], 1).astype(np.float32), boxes[k], visible,
                                   radius.astype(np.float32), mouth.astype(np.float32)))  # fmt: skip
    return sights
