"""What is on stage: the vocabulary of the playhouse, a `Scene` to be played, and the exact truth of a play.

World coordinates: x to the right, y up, origin in the middle of the picture, and the shorter side of
the picture spans [-1, 1]. Times are in seconds from the start of the clip.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

KINDS: Final = ("ball", "box", "bell", "drum", "metronome", "car", "bird", "rain", "woman", "man", "robot")
FACES: Final = ("woman", "man", "robot")
COLOURS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "cyan", "white", "black")
SIZES: Final = ("small", "medium", "large")
MATERIALS: Final = ("rubber", "wood", "metal")  # of a ball
FLOORS: Final = ("wooden", "stone", "grass")
LIGHTS: Final = ("day", "sunset", "night", "indoors")
CAMERAS: Final = ("still", "pan", "zoom")
DIRECTIONS: Final = ("left", "right")  # where the actor comes FROM
SPEEDS: Final = ("slow", "fast")
MAX_COUNT: Final = 3

ACTS: Final[dict[str, tuple[str, ...]]] = {
    "ball": ("bounce", "roll", "behind", "collide"),
    "box": ("slide", "fall"),
    "bell": ("ring",),
    "drum": ("strike",),
    "metronome": ("tick",),
    "car": ("drive",),
    "bird": ("fly",),
    "rain": ("rain",),
    "woman": ("say",),
    "man": ("say",),
    "robot": ("say",),
}
"""What each kind can do. `behind`: rolls behind a wall and comes out again. `collide`: two balls meet."""

MOVING: Final = ("roll", "behind", "collide", "slide", "drive", "fly")  # acts that have a direction and a speed
COUNTED: Final = ("bounce", "ring", "strike", "fly")  # acts that have a count (fly: of chirps)


@dataclass(frozen=True)
class Actor:
    """One performer. Attributes that its act does not use are None."""

    kind: str
    act: str
    colour: str | None = None  # rain has none
    size: str = "medium"
    material: str | None = None  # ball: rubber, wood, metal
    direction: str | None = None  # acts in MOVING: comes from the left or the right
    speed: str | None = None  # acts in MOVING, tick; rain: slow = light rain, fast = heavy rain
    count: int | None = None  # acts in COUNTED: 1..MAX_COUNT
    word: str | None = None  # faces: what is said


@dataclass(frozen=True)
class Scene:
    """A play to be performed. Two actors: the first stands on the left, or (collide) comes from the left."""

    actors: tuple[Actor, ...]
    floor: str = "wooden"
    light: str = "day"
    camera: str = "still"
    seconds: float = 3.0
    seed: int = 0  # everything that the attributes leave open (positions, phases, pitch, clouds, ...)


@dataclass(frozen=True)
class Event:
    """Something that is heard at an instant.

    kind: "impact" (ball or box on the floor), "knock" (two balls), "strike" (drum), "ring" (bell),
    "tick" (metronome), "chirp" (bird), "word" (a face starts to speak; `seconds` is its length).
    """

    kind: str
    actor: int
    time: float  # seconds; of the instant of contact, or of the start of a chirp or word
    strength: float = 1.0  # 0..1
    seconds: float = 0.0  # of chirp and word


@dataclass(frozen=True)
class Sustain:
    """Something that is heard for a while: "roll", "scrape", "engine", "rain". `level` 0..1 at `times`."""

    kind: str
    actor: int
    times: NDArray[np.float64]  # (K,) seconds, ascending
    level: NDArray[np.float64]  # (K,) 0..1: loudness, follows speed and visibility in the picture
    rate: NDArray[np.float64]  # (K,) 0..1: pitch, follows speed


@dataclass(frozen=True)
class Track:
    """Where one actor is, for each frame: all arrays (T,), world units and radians."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    radius: NDArray[np.float64]  # half of the actor's nominal height
    angle: NDArray[np.float64]  # rotation or swing
    pose: NDArray[np.float64]  # stick of the drum, wing of the bird, mouth opening of a face: 0..1
    round: NDArray[np.float64]  # lip rounding of a face 0..1; squash of a ball


@dataclass(frozen=True)
class Performance:
    """A scene played out: what every actor does at every frame, and everything that is heard."""

    scene: Scene
    tracks: tuple[Track, ...]
    events: tuple[Event, ...] = ()
    sustains: tuple[Sustain, ...] = ()
    extras: dict[str, float] = field(default_factory=dict)  # drawn from the seed: wall, camera, clouds
