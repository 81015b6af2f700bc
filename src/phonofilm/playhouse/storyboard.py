"""The storyboard of a performance: its truth as the numbers of `phonofilm.storyboard`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phonofilm.latents import (
    FPS,
    FRAMES_PER_LATENT,
    PIXELS_PER_TOKEN,
    SECONDS_PER_COLUMN,
    TOKEN_WIDTH,
    latents_from_frames,
)
from phonofilm.playhouse.scene import COLOURS, FACES, FLOORS, KINDS, LIGHTS, MATERIALS, Performance
from phonofilm.playhouse.stage import camera, extent, floor_height
from phonofilm.storyboard import FACES as SPEAKING
from phonofilm.storyboard import FALLING, METRONOME, OF_ACTOR, OF_SCENE, ON, RAIN, ZOOM_UNIT, channels

Array = NDArray[Any]

WIDTH = {"car": 1.9, "drum": 1.2, "bird": 1.4}
"""Half widths of kinds that are wider than high, in radii."""
DRESSED = {"woman", "man"}  # whose skin and hair are drawn

for _name, _values in (("kind", KINDS), ("colour", COLOURS), ("material", MATERIALS)):
    assert OF_ACTOR[_name] == len(_values), _name
assert tuple(KINDS[k] for k in SPEAKING) == FACES and KINDS[RAIN] == "rain"
assert tuple(KINDS[k] for k in FALLING) == ("ball", "box") and KINDS[METRONOME] == "metronome"
assert OF_SCENE["floor"] == len(FLOORS) and OF_SCENE["light"] == len(LIGHTS)


def storyboard(play: Performance, size: tuple[int, int] = (128, 128)) -> Tensor:
    """(T, 128) float32, of a performance that was played at 16 frames a second for a picture of `size` (W, H)."""
    scale = min(size) / 2 / PIXELS_PER_TOKEN  # tokens per world unit
    frames = len(play.tracks[0].x)
    T = latents_from_frames(frames)
    board = np.zeros((T, TOKEN_WIDTH), np.float32)
    times = np.asarray((np.arange(frames) + 0.5) / FPS)
    pan, zoom = camera(play, times)
    half_width = size[0] / 2 / PIXELS_PER_TOKEN
    walled = "wall" in play.extras and any(actor.act == "behind" for actor in play.scene.actors)
    wall = play.extras["wall"] * scale if walled else 0.0

    for slot, (actor, track) in enumerate(zip(play.scene.actors, play.tracks, strict=True)):

        def put(name: str, values: Array, slot: int = slot) -> None:
            board[:, channels(name, slot)] = values.reshape(T, -1)

        x, y = (track.x - pan) * zoom * scale, -track.y * zoom * scale
        radius = track.radius * zoom * scale
        reach = radius * WIDTH.get(actor.kind, 1.0)
        inside = np.clip(np.minimum(x + reach, half_width) - np.maximum(x - reach, -half_width), 0, None)
        if actor.act == "behind":
            low, high = (np.array([-1.0, 1.0])[:, None] * wall - pan * scale) * zoom
            inside = inside - np.clip(np.minimum(x + reach, high) - np.maximum(x - reach, low), 0, None)
        put("x", x)
        put("y", y)
        put("seen", np.clip(inside / (2 * reach), 0, 1))
        put("pose", track.pose)
        put("turn", np.sin(track.angle))
        put("round", track.round)
        put("hit", _hits([e.time for e in play.events if e.actor == slot], frames))
        put("radius", radius.reshape(T, -1).mean(1))
        middles = (np.arange(T * OF_ACTOR["level"]) + 0.5) * SECONDS_PER_COLUMN
        levels = [np.interp(middles, s.times, s.level) for s in play.sustains if s.actor == slot]
        put("level", np.sum(levels, axis=0) if levels else np.zeros_like(middles))
        for name, values, value in (
            ("kind", KINDS, actor.kind), ("colour", COLOURS, actor.colour), ("material", MATERIALS, actor.material)
        ):  # fmt: skip
            if value in values:
                board[:, channels(name, slot).start + values.index(value)] = ON

    of_latent = pan.reshape(T, FRAMES_PER_LATENT).mean(1) * scale, zoom.reshape(T, FRAMES_PER_LATENT).mean(1)
    board[:, channels("pan")], board[:, channels("zoom")] = (
        of_latent[0][:, None],
        (of_latent[1][:, None] - 1) / ZOOM_UNIT,
    )
    if walled:
        foot = extent(size)[1] + floor_height(extent(size)[1]) - 0.05  # of the wall over the picture's lower edge
        top = extent(size)[1] - (extent(size)[1] - foot - play.extras["wall_height"]) * of_latent[1]
        board[:, channels("wall")] = np.stack([wall * of_latent[1], top * scale], 1)
    board[:, channels("floor").start + FLOORS.index(play.scene.floor)] = ON
    board[:, channels("light").start + LIGHTS.index(play.scene.light)] = ON
    turns = 2 * np.pi * np.array([play.extras["cloud"], play.extras["sun"]])
    board[:, channels("sky")] = np.concatenate([np.sin(turns), np.cos(turns)])
    kinds = {actor.kind for actor in play.scene.actors}
    for k, (name, shown) in enumerate((("skin", DRESSED), ("hair", DRESSED), ("tone", {"rain"}))):
        if kinds & shown:
            board[:, channels("looks").start + k] = 2 * play.extras[name] - 1
    return torch.from_numpy(board)


def _hits(times: list[float], frames: int) -> Array:
    """(frames,): each instant shared out between the two frames around it."""
    hits = np.zeros(frames + 2)
    for time in times:
        place = max(time * FPS - 0.5, 0.0)
        first = min(int(place), frames)
        hits[first] += ON * (1 - (place - first))
        hits[first + 1] += ON * (place - first)
    return np.clip(hits[:frames], 0, ON)
