"""Blobs of one palette colour, frame by frame, and how each looks: what the recognition of actors starts from.

Letters: T frames, H rows, W columns, N blobs, S side of a normalised crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from phonofilm.playhouse.actors import PALETTE
from phonofilm.playhouse.scene import COLOURS

Frames = NDArray[np.uint8]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

NOTHING: Final = 255  # class of a pixel without a palette colour
HUED: Final = tuple(c for c in COLOURS if c not in ("white", "black"))
WHITE, BLACK = COLOURS.index("white"), COLOURS.index("black")
NEAR: Final = 0.26  # largest distance of a hue from the palette, in ratios to the largest channel
SATURATED: Final = 0.6  # least saturation, beside that of the palette
DARKEST: Final = 0.33  # least brightness of a hued pixel, beside the palette
BLACKEST: Final = 74  # brightest channel of black
GREYEST: Final = 0.17  # largest saturation of white
PALEST: Final = 98  # brightest channel of the darkest white
SMALLEST: Final = 14  # pixels of a blob
CROP: Final = 20  # S
REACH: Final = 1.8  # side of a crop, beside the longer side of the blob
MOST: Final = 8  # blobs of one colour in one frame, the largest


@lru_cache(maxsize=1)
def _table() -> NDArray[np.uint8]:
    """Class of each colour, 6 bits a channel."""
    v = np.arange(64, dtype=np.float32) * 4 + 2
    c = np.stack(np.meshgrid(v, v, v, indexing="ij"), -1)
    top = c.max(-1)
    saturation = 1 - c.min(-1) / top
    ratio = c / top[..., None]
    out = np.full(c.shape[:3], NOTHING, np.uint8)
    nearest = np.full(c.shape[:3], NEAR, np.float32)
    for name in HUED:
        own = np.asarray(PALETTE[name], np.float32) * 255
        own_ratio, own_saturation = own / own.max(), 1 - own.min() / own.max()
        distance = np.sqrt(((ratio - own_ratio) ** 2).sum(-1))
        fits = (distance < nearest) & (saturation > SATURATED * own_saturation) & (top > DARKEST * own.max())
        out[fits] = COLOURS.index(name)
        nearest = np.where(fits, distance, nearest)
    out[(saturation < GREYEST) & (top >= PALEST)] = WHITE
    out[(top < BLACKEST) & (c.max(-1) - c.min(-1) < 20)] = BLACK
    return out


def palette_classes(frames: Frames) -> NDArray[np.uint8]:
    """The palette colour of each pixel, as an index into COLOURS, or NOTHING. frames (..., 3)."""
    q = frames >> 2
    index = (q[..., 0].astype(np.int32) << 12) | (q[..., 1].astype(np.int32) << 6) | q[..., 2]
    classes: NDArray[np.uint8] = _table().reshape(-1)[index]
    return classes


def filled(mask: Mask) -> Mask:
    """Each frame of a mask (T, H, W) with its holes filled: what cannot be reached from the edge of the picture."""
    outside = np.pad(~mask, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    labels, _ = ndimage.label(outside, _IN_FRAME4)
    edge = labels[:, :1, :1]
    result: Mask = (labels != edge)[:, 1:-1, 1:-1]
    return result


_IN_FRAME4: Final = np.zeros((3, 3, 3), bool)
_IN_FRAME4[1] = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
_IN_FRAME8: Final = np.zeros((3, 3, 3), bool)
_IN_FRAME8[1] = True


@dataclass(frozen=True)
class Blobs:
    """N blobs. Pixel coordinates with the origin at the upper left corner."""

    frame: NDArray[np.intp]  # (N,)
    colour: NDArray[np.uint8]  # (N,) index into COLOURS
    area: Floats  # (N,) pixels, holes included
    centre: Floats  # (N, 2) x, y of the filled shape
    box: Floats  # (N, 4) left, top, right, bottom
    looks: Floats  # (N, 3 * S * S)

    def __len__(self) -> int:
        return len(self.frame)


def whole(front: Mask) -> Mask:
    """A foreground (T, H, W) with its small gaps closed and its holes filled."""
    return filled(ndimage.binary_closing(front, _IN_FRAME4) | front)


def find_blobs(frames: Frames, solid: Mask) -> Blobs:
    """All blobs of palette colours in the foreground `solid` (T, H, W; see `whole`) of frames (T, H, W, 3)."""
    classes = palette_classes(frames)
    classes[~solid] = NOTHING
    counts = np.bincount(classes.reshape(-1), minlength=256)
    found: list[tuple[float, ...]] = []
    for colour in range(len(COLOURS)):
        if counts[colour] < SMALLEST:
            continue
        mask = classes == colour
        labels, n = ndimage.label(mask, _IN_FRAME8)
        if n == 0:
            continue
        sizes = np.bincount(labels.reshape(-1), minlength=n + 1)
        slices = ndimage.find_objects(labels)
        per_frame: dict[int, list[int]] = {}
        for big in np.nonzero(sizes[1:] >= SMALLEST)[0]:
            per_frame.setdefault(slices[big][0].start, []).append(int(big) + 1)
        for t, ks in per_frame.items():
            for k in sorted(ks, key=lambda k: -sizes[k])[:MOST]:
                _, rows, cols = slices[k - 1]
                own = ndimage.binary_fill_holes(labels[t, rows, cols] == k)
                area = own.sum()
                y, x = np.nonzero(own)
                found.append((t, colour, area, x.mean() + 0.5 + cols.start, y.mean() + 0.5 + rows.start,
                              cols.start, rows.start, cols.stop, rows.stop))  # fmt: skip
    table = np.asarray(found, np.float32).reshape(-1, 9)
    frame, colour_N, box = table[:, 0].astype(np.intp), table[:, 1].astype(np.uint8), table[:, 5:9]
    looks = _looks(frames, classes, solid, frame, colour_N, box)
    return Blobs(frame, colour_N, table[:, 2], table[:, 3:5], box, looks)


def sides(box: Floats) -> Floats:
    """Side of the crop about each box, pixels."""
    side: Floats = REACH * np.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1])
    return side


def _looks(frames: Frames, classes: NDArray[np.uint8], solid: Mask, frame: NDArray[np.intp],
           colour: NDArray[np.uint8], box: Floats) -> Floats:  # fmt: skip
    """Crops about each blob: where its colour is, and how bright and how warm all else of the foreground is."""
    height, width = classes.shape[1:]
    side = sides(box)
    step = (np.arange(2 * CROP, dtype=np.float32) + 0.5) / (2 * CROP) - 0.5
    x = ((box[:, 0] + box[:, 2])[:, None] / 2 + side[:, None] * step).astype(np.intp)
    y = ((box[:, 1] + box[:, 3])[:, None] / 2 + side[:, None] * step).astype(np.intp)
    inside = ((x >= 0) & (x < width))[:, None, :] & ((y >= 0) & (y < height))[:, :, None]
    at = (frame[:, None, None], np.clip(y, 0, height - 1)[:, :, None], np.clip(x, 0, width - 1)[:, None, :])
    body = (classes[at] == colour[:, None, None]) & inside
    other = solid[at] & inside & ~body
    pixels = frames[at].astype(np.float32) / 255
    grey, warm = pixels.mean(-1), np.clip(pixels[..., 0] - pixels[..., 2], 0, 0.4)
    planes = np.stack(
        [body.astype(np.float32), np.where(other, 0.35 + 0.65 * grey, 0.0), np.where(other, 1.5 * warm, 0.0)], 1
    )
    n = len(frame)
    planes = planes.reshape(n, 3, CROP, 2, CROP, 2).mean((3, 5))
    out: Floats = planes.reshape(n, 3 * CROP * CROP).astype(np.float32)
    return out
