"""Masks: which tokens of a picture are made anew, and the film that is put together of what stays and what is new.

Shapes: H rows and W columns of the mask's picture, h rows and w columns of tokens, T frames.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phonofilm.clip import Clip, Frames
from phonofilm.errors import InputError
from phonofilm.latents import PIXELS_PER_TOKEN


def free_tokens(mask: Clip, width: int, height: int) -> NDArray[np.bool_]:
    """(h, w): True for the tokens of a picture of `width` x `height` pixels into which a white pixel falls.

    The mask may have any size; it is cropped about the middle as the clip is, see `clip.fit`. Raises InputError if
    nothing is white.
    """
    H, W = mask.frames.shape[1:3]
    side = min(W / width, H / height) * PIXELS_PER_TOKEN  # of a token, in pixels of the mask
    h, w = height // PIXELS_PER_TOKEN, width // PIXELS_PER_TOKEN
    white = mask.frames[0, :, :, 0] >= 128
    row = np.floor((np.arange(H) + 0.5 - (H - h * side) / 2) / side)
    column = np.floor((np.arange(W) + 0.5 - (W - w * side) / 2) / side)
    free = np.array([[white[row == i][:, column == j].any() for j in range(w)] for i in range(h)])
    if not free.any():
        raise InputError("mask covers nothing of the picture: what is made anew must be white or opaque in it", "mask")
    return free


def composed(given: Frames, made: Frames, free: NDArray[np.bool_]) -> Frames:
    """The frames (T, H, W, 3) that were given, with those that were made where tokens (h, w) are free."""
    pixels = free.repeat(PIXELS_PER_TOKEN, 0).repeat(PIXELS_PER_TOKEN, 1)
    return np.where(pixels[None, :, :, None], made, given)
