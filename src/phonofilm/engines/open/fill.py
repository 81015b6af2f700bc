"""How what is given is passed to a pipeline: one small function for each form that the pipelines have.

Each gets the call (keyword arguments under work), the given clips by role at the film's size and rate, the strengths,
and the module that the pipeline class comes from, for the types that it defines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np
from PIL import Image

from phonofilm.clip import Clip


@dataclass(frozen=True)
class Given:
    """What is given. clips: by role; strengths: by role, 0..1; frames: of the film to be made."""

    clips: Mapping[str, Clip]
    strengths: Mapping[str, float]
    frames: int


Call = dict[str, Any]
Fill = Callable[[Call, Given, str, ModuleType], None]


def picture(clip: Clip, last: bool = False) -> Image.Image:
    """The first or last frame."""
    return Image.fromarray(clip.frames[-1 if last else 0])


def pictures(clip: Clip) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in clip.frames]


def _image(call: Call, given: Given, role: str, _: ModuleType) -> None:
    call["image"] = picture(given.clips[role])


def _last_image(call: Call, given: Given, role: str, _: ModuleType) -> None:
    call["last_image"] = picture(given.clips[role], last=True)


def _video(call: Call, given: Given, role: str, _: ModuleType) -> None:
    """A film as frames; what is not to be kept is how much it may change."""
    call["video"] = pictures(given.clips[role])
    if role == "video" and given.strengths.get(role, 1.0) < 1:
        call["strength"] = 1 - given.strengths[role]


def _kept(call: Call, given: Given, role: str, module: ModuleType) -> None:
    """A film that stays, so that its sound is made: Cosmos, whose latents span 4 frames, keeps but two by itself."""
    _video(call, given, role, module)
    call["condition_frame_indexes_vision"] = list(range((given.frames - 1) // 4 + 1))


def _keyframe(call: Call, given: Given, role: str, module: ModuleType) -> None:
    """An image at one instant of LTX's list of conditions: LTX-2 counts latents there, LTX-Video frames."""
    at = 0 if role == "first" else -1 if hasattr(module, "LTX2VideoCondition") else given.frames - 1
    _condition(call, module, [picture(given.clips[role], role == "last")], at, given.strengths.get(role, 1.0))


def _keyframes(call: Call, given: Given, role: str, module: ModuleType) -> None:
    """Frames from the beginning on, in LTX's list of conditions."""
    _condition(call, module, pictures(given.clips[role]), 0, given.strengths.get(role, 1.0))


def _condition(call: Call, module: ModuleType, images: list[Image.Image], at: int, strength: float) -> None:
    two = getattr(module, "LTX2VideoCondition", None)
    if two is not None:
        condition = two(frames=images if len(images) > 1 else images[0], index=at, strength=strength)
    else:
        one = module.LTXVideoCondition
        kind = {"video": images} if len(images) > 1 else {"image": images[0]}
        condition = one(**kind, frame_index=at, strength=strength)
    call.setdefault("conditions", []).append(condition)


def _vace(call: Call, given: Given, role: str, _: ModuleType) -> None:
    """Wan VACE: a film whose free frames and places are grey, and a mask that is white there."""
    if "mask" in call:
        return  # one call serves all roles
    clip = given.clips[role]
    shape = (given.frames, clip.height, clip.width, 3)
    film, free = np.full(shape, 127, np.uint8), np.full(shape, 255, np.uint8)
    if "video" in given.clips:
        known = min(given.frames, len(given.clips["video"].frames))
        film[:known], free[:known] = given.clips["video"].frames[:known], 0
        if "mask" in given.clips:
            anew = given.clips["mask"].frames[0] > 127
            film[:known, anew], free[:known, anew] = 127, 255
    for end, place in (("first", 0), ("last", -1)):
        if end in given.clips:
            film[place], free[place] = given.clips[end].frames[place], 0
    call["video"] = [Image.fromarray(frame) for frame in film]
    call["mask"] = [Image.fromarray(frame) for frame in free]


def _references(call: Call, given: Given, role: str, _: ModuleType) -> None:
    """Images of who or what is to be seen."""
    call["reference_images"] = pictures(given.clips[role])


FILLS: Final[Mapping[str, Fill]] = {
    "image": _image, "last_image": _last_image, "video": _video, "kept": _kept, "keyframe": _keyframe,
    "keyframes": _keyframes, "vace": _vace, "references": _references,
}  # fmt: skip
