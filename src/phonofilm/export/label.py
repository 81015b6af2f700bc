"""A small visible label in the bottom right corner of every frame."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from phonofilm.clip import Frames
from phonofilm.errors import InputError

TEXTS: Final = ("made by AI · phonofilm", "AI · phonofilm", "AI")
"""What the label says: the longest that takes at most three quarters of the width."""

_SMALLEST: Final = 9  # pixels; below, the letters of Pillow's font run into each other
_SHARE: Final = 1 / 24  # of the frame's shorter side
_PLATE: Final = 0.6  # how dark the ground of the letters is


def labelled(frames: Frames) -> Frames:
    """A copy of `frames` (T, H, W, 3) with the label. InputError if they are too small for any."""
    height, width = frames.shape[1:3]
    mask = _label(width, height)
    rows, columns = mask.shape
    out = frames.copy()
    corner = out[:, height - rows :, width - columns :]
    white = mask[..., None]
    corner[:] = np.rint(corner * ((1 - _PLATE) * (1 - white)) + 255 * white).astype(np.uint8)
    return out


@lru_cache(maxsize=8)
def _label(width: int, height: int) -> NDArray[np.float32]:
    """How white each pixel of the label is, (rows, columns) in 0..1."""
    from PIL import Image, ImageDraw, ImageFont

    size = max(_SMALLEST, round(min(width, height) * _SHARE))
    font = ImageFont.load_default(size)
    pad = max(2, size // 4)
    for text in TEXTS:
        left, top, right, bottom = font.getbbox(text)
        columns, rows = round(right - left) + 2 * pad, round(bottom - top) + 2 * pad
        if columns <= width * 3 / 4 and rows <= height / 2:
            mask = Image.new("L", (columns, rows))
            ImageDraw.Draw(mask).text((pad - left, pad - top), text, 255, font)
            return np.asarray(mask, np.float32) / np.float32(255)
    raise InputError(f"frames of {width}x{height} pixels are too small for a label")
