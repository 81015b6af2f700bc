"""Plays a scene out: closed-form motion of every actor at any frame rate, and everything that is heard.

Motion is a function of time alone, so the same scene can be filmed at any rate, and its events fall at the
instants at which the picture shows them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from phonofilm.playhouse import speech
from phonofilm.playhouse.scene import FACES, Actor, Event, Performance, Scene, Sustain, Track

Array = NDArray[np.float64]

RADIUS = {
    "ball": 0.25, "box": 0.24, "bell": 0.30, "drum": 0.28, "metronome": 0.36, "car": 0.25, "bird": 0.24,
    "rain": 0.22, "woman": 0.60, "man": 0.60, "robot": 0.60,
}  # fmt: skip
"""Half of the nominal height of each kind at medium size, world units."""
SCALE = {"small": 0.72, "medium": 1.0, "large": 1.38}
FACE_SCALE = {"small": 0.78, "medium": 1.0, "large": 1.28}
PAIR_SCALE = 0.82  # two actors side by side are drawn smaller, so that both fit
SPEED = {"slow": 0.55, "fast": 1.5}  # of moving actors, world units per second
RESTITUTION = {"rubber": 0.85, "wood": 0.7, "metal": 0.6}
TICK = {"slow": 0.72, "fast": 0.36}  # seconds between the ticks of a metronome
ZOOM = 1.18  # the scale at the end of a zoom
PAN = 0.24  # world units that a panning camera travels to either side
ENVELOPE_RATE = 50.0  # Hz at which the levels of sustained sounds are given


def extent(size: tuple[int, int]) -> tuple[float, float]:
    """Half width and half height of a picture of `size` (W, H) pixels, in world units."""
    short = min(size)
    return size[0] / short, size[1] / short


def floor_height(half_height: float) -> float:
    """World y of the line on which actors stand."""
    return -0.56 * half_height


def radius(scene: Scene, actor: Actor) -> float:
    """Half of the nominal height of an actor in this scene, world units."""
    side_by_side = len(scene.actors) == 2 and actor.act != "collide"
    scale = FACE_SCALE if actor.kind in FACES else SCALE
    r = RADIUS[actor.kind] * scale[actor.size] * (PAIR_SCALE if side_by_side else 1.0)
    if actor.act in ("collide", "behind"):
        r *= 0.85
    return r


def perform(
    scene: Scene, size: tuple[int, int] = (128, 128), fps: float = 16.0, frames: int | None = None
) -> Performance:
    """Play `scene` for a picture of `size` (W, H) at `fps`; frame i shows the instant (i + 0.5) / fps.

    Raises ValueError for an unknown act.
    """
    count = round(scene.seconds * fps) if frames is None else frames
    times = np.asarray((np.arange(count) + 0.5) / fps, np.float64)
    rng = np.random.default_rng(scene.seed)
    extras = {name: float(rng.random()) for name in ("pitch", "cloud", "sun", "skin", "hair", "blink", "tone", "drift")}
    extras["tempo"] = float(rng.uniform(0.92, 1.12))
    extras["pan"] = float(rng.choice([-1.0, 1.0]))
    play = _Play(scene, size, rng, extras)
    acts: dict[str, Callable[[int, Actor], Callable[[Array], Track]]] = {
        "bounce": play.bounce, "roll": play.roll, "behind": play.behind, "collide": play.collide, "slide": play.slide,
        "fall": play.fall, "ring": play.ring, "strike": play.strike, "tick": play.tick, "drive": play.drive,
        "fly": play.fly, "rain": play.rain, "say": play.say,
    }  # fmt: skip
    tracks = []
    for index, actor in enumerate(scene.actors):
        if actor.act not in acts:
            raise ValueError(f"unknown act {actor.act!r}; allowed: {', '.join(acts)}")
        tracks.append(acts[actor.act](index, actor)(times))
    events = tuple(sorted((e for e in play.events if e.time < scene.seconds), key=lambda e: e.time))
    return Performance(scene, tuple(tracks), events, tuple(play.sustains), extras)


def camera(performance: Performance, times: Array) -> tuple[Array, Array]:
    """Pan (world units to the right) and zoom (scale about the middle) of the camera at `times` (T,) seconds."""
    scene = performance.scene
    u = np.clip(times / scene.seconds, 0.0, 1.0)
    zero, one = np.zeros_like(u), np.ones_like(u)
    if scene.camera == "pan":
        return performance.extras["pan"] * PAN * (2 * u - 1), one
    if scene.camera == "zoom":
        return zero, 1.0 + (ZOOM - 1.0) * u
    return zero, one


def travel(distance: float, speed: float, t: Array) -> Array:
    """Way covered at `t` seconds: constant speed, then an even slowing down over the last 30 % of the way."""
    cruise, brake = 0.7 * distance / speed, 0.6 * distance / speed
    s = np.clip((t - cruise) / brake, 0.0, 1.0)
    way: Array = np.where(t < cruise, speed * np.maximum(t, 0.0), 0.7 * distance + speed * brake * (s - 0.5 * s * s))
    return way


class _Play:
    """Builds the tracks and gathers the events of one scene. Each act returns a function times -> Track."""

    def __init__(self, scene: Scene, size: tuple[int, int], rng: np.random.Generator, extras: dict[str, float]):
        self.scene, self.rng, self.extras = scene, rng, extras
        self.half_width, self.half_height = extent(size)
        self.floor = floor_height(self.half_height)
        self.events: list[Event] = []
        self.sustains: list[Sustain] = []

    def _track(self, t: Array, x: object, y: object, r: float, angle: object = 0.0, pose: object = 0.0,
               round_: object = 0.0) -> Track:  # fmt: skip
        full = [np.broadcast_to(np.asarray(v, float), t.shape).copy() for v in (x, y, r, angle, pose, round_)]
        return Track(*full)

    def _stand_x(self, index: int) -> float:
        if len(self.scene.actors) == 2:
            return (-0.5 if index == 0 else 0.5) * self.half_width
        return float(self.rng.uniform(-0.18, 0.18))

    def _sustain(self, kind: str, index: int, level: Callable[[Array], Array]) -> None:
        t = np.arange(0.0, self.scene.seconds + 1 / ENVELOPE_RATE, 1 / ENVELOPE_RATE)
        value = np.clip(level(t), 0.0, 1.0)
        self.sustains.append(Sustain(kind, index, t, value, value))

    def _across(self, actor: Actor, r: float) -> tuple[Callable[[Array], Array], float]:
        """Position along the width for an actor that crosses the stage, and the sign of its direction."""
        sign = 1.0 if actor.direction == "left" else -1.0
        start = -(self.half_width - 0.55 * r) + self.rng.uniform(0, 0.08)
        speed = SPEED[actor.speed or "slow"] * self.rng.uniform(0.92, 1.08)
        distance = min(speed * (self.scene.seconds + 0.6), self.half_width - 1.15 * r - start)
        return lambda t: sign * (start + travel(distance, speed, t)), sign

    @staticmethod
    def _speed_of(x: Callable[[Array], Array]) -> Callable[[Array], Array]:
        return lambda t: np.abs(x(t + 0.01) - x(t - 0.01)) / 0.02 / SPEED["fast"]

    # --- acts -----------------------------------------------------------------------------------------------------
    def bounce(self, index: int, actor: Actor) -> Callable[[Array], Track]:
        """Falls, hits the floor `count` times with hops between (height x e^2 each), then rests."""
        r, x, e, n = (
            radius(self.scene, actor),
            self._stand_x(index),
            RESTITUTION[actor.material or "rubber"],
            actor.count or 1,
        )
        start = float(self.rng.uniform(0.05, 0.3))
        unit = 1.0 + 2.0 * sum(e**k for k in range(1, n))
        fall = min(float(self.rng.uniform(0.36, 0.46)), (self.scene.seconds - 0.3 - start) / unit)
        height = float(self.rng.uniform(0.85, 1.0)) * min(1.0, 1.16 * self.half_height - 2 * r + 0.3)
        hits = [start + fall]
        for k in range(1, n):
            hits.append(hits[-1] + 2 * fall * e**k)
        self.events += [Event("impact", index, t, e**k) for k, t in enumerate(hits)]
        soft = {"rubber": 1.0, "wood": 0.15, "metal": 0.1}[actor.material or "rubber"]

        def track(t: Array) -> Track:
            h = np.where(t < start, 1.0, np.maximum(0.0, 1.0 - ((t - start) / fall) ** 2))
            squash = np.zeros_like(t)
            for k, hit in enumerate(hits):
                u = (t - hit) / (fall * e ** (k + 1))
                last = k == n - 1
                arc = np.zeros_like(t) if last else e ** (2 * (k + 1)) * np.maximum(0.0, 1 - (u - 1) ** 2)
                h = np.where(t >= hit, arc, h)
                since = t - hit
                squash = np.where(
                    since >= -0.02, soft * e**k * np.exp(-np.maximum(since, 0) / 0.07) * np.cos(since * 22), squash
                )
            return self._track(t, x, self.floor + r + height * h, r, round_=squash)

        return track

    def roll(self, index: int, actor: Actor) -> Callable[[Array], Track]:
        r = radius(self.scene, actor)
        x, _ = self._across(actor, r)
        self._sustain("roll", index, self._speed_of(x))
        return lambda t: self._track(t, x(t), self.floor + r, r, angle=-x(t) / r)

    def behind(self, index: int, actor: Actor) -> Callable[[Array], Track]:
        """Rolls behind the wall in the middle and comes out again on the other side, whatever the length."""
        r = radius(self.scene, actor)
        sign = 1.0 if actor.direction == "left" else -1.0
        wall = r + float(self.rng.uniform(0.1, 0.16))
        self.extras["wall"] = wall
        self.extras["wall_height"] = 2 * r + float(self.rng.uniform(0.25, 0.4))
        start = -(self.half_width - 0.9 * r)
        speed = max(SPEED[actor.speed or "slow"], (wall + 1.5 * r - start) / (self.scene.seconds - 0.25))
        distance = min(speed * (self.scene.seconds + 0.6), self.half_width - r - start)

        def x(t: Array) -> Array:
            return sign * (start + travel(distance, speed, t))

        self._sustain("roll", index, self._speed_of(x))
        return lambda t: self._track(t, x(t), self.floor + r, r, angle=-x(t) / r)

    def collide(self, index: int, actor: Actor) -> Callable[[Array], Track]:
        """Two balls roll towards each other, knock in the middle and roll back more slowly."""
        first = index == 0
        r = radius(self.scene, actor)
        if first:
            other = radius(self.scene, self.scene.actors[1])
            gap = float(np.sqrt((r + other) ** 2 - (r - other) ** 2))
            way = self.half_width - 0.3 * (r + other) - gap / 2
            fair = way / SPEED[actor.speed or "slow"] * float(self.rng.uniform(0.92, 1.08))
            self.extras["meet"] = min(fair, 0.6 * self.scene.seconds)
            self.extras["gap"] = gap
            self.events.append(Event("knock", 0, self.extras["meet"], 1.0))
        meet, gap = self.extras["meet"], self.extras["gap"]
        sign = -1.0 if first else 1.0
        rest = sign * gap / 2
        start = sign * (self.half_width - 0.6 * r)
        back = 0.6 * (abs(start) - abs(rest))

        def x(t: Array) -> Array:
            away = travel(back, 0.55 * (abs(start) - abs(rest)) / meet, np.maximum(t - meet, 0.0))
            return np.where(t < meet, start + (rest - start) * t / meet, rest + sign * away)

        self._sustain("roll", index, lambda t: 0.6 * self._speed_of(x)(t))
        return lambda t: self._track(t, x(t), self.floor + r, r, angle=-x(t) / r)

    def slide(self, index: int, actor: Actor) -> Callable[[Array], Track]:
        r = radius(self.scene, actor)
        x, _ = self._across(actor, r)
        self._sustain("scrape", index, self._speed_of(x))
        return lambda t: self._track(t, x(t), self.floor + r, r)

    def fall(self, index: int, actor: Actor) -> Callable[[Array], Track]:
        r, x = radius(self.scene, actor), self._stand_x(index)
        start = float(self.rng.uniform(0.2, 0.45)) * self.scene.seconds
        duration = float(self.rng.uniform(0.36, 0.44))
        height = min(1.0, 1.5 * self.half_height - 2 * r)
        tilt = float(self.rng.uniform(-0.35, 0.35))
        self.events.append(Event("impact", index, start + duration, 1.0))

        def track(t: Array) -> Track:
            u = np.clip((t - start) / duration, 0.0, 1.0)
            since = np.maximum(t - start - duration, 0.0)
            hop = 0.045 * np.abs(np.sin(since / 0.09)) * np.exp(-since / 0.08)
            return self._track(t, x, self.floor + r + height * (1 - u * u) + hop, r, angle=tilt * (1 - u**4))

        return track

    def _beats(self, n: int, period: float, lead: float) -> list[float]:
        """n instants `period` apart (closer if need be), the first after `lead`, with a free start."""
        room = self.scene.seconds - 0.3 - lead
        period = min(period, room / max(n - 1, 1)) if n > 1 else period
        first = lead + float(self.rng.random()) * max(0.0, min(0.6, room - (n - 1) * period))
        return [first + k * period for k in range(n)]

    def ring(self, index: int, actor: Actor) -> Callable[[Array], Track]:
        """Swings; the clapper strikes at each turning point."""
        r, x, n = radius(self.scene, actor), self._stand_x(index), actor.count or 1
        period = min(float(self.rng.uniform(0.5, 0.62)), (self.scene.seconds - 0.5) / (n + 0.5))
        beats = self._beats(n, period, 0.5 * period + 0.05)
        side = float(self.rng.choice([-1.0, 1.0]))
        self.events += [Event("ring", index, t, 1.0) for t in beats]
        y = 0.32 * self.half_height - 0.2 * r

        def track(t: Array) -> Track:
            on = (t > beats[0] - period / 2) & (t < beats[-1] + period / 2)
            angle = side * 0.5 * np.cos(np.pi * (t - beats[0]) / period) * on
            return self._track(t, x, y, r, angle=angle)

        return track

    def strike(self, index: int, actor: Actor) -> Callable[[Array], Track]:
        """The stick falls on the drum `count` times; pose 1 = raised, 0 = on the skin."""
        r, x, n = radius(self.scene, actor), self._stand_x(index), actor.count or 1
        beats = self._beats(n, float(self.rng.uniform(0.45, 0.6)), 0.3)
        self.events += [Event("strike", index, t, 1.0) for t in beats]

        def track(t: Array) -> Track:
            pose = np.ones_like(t)
            shake = np.zeros_like(t)
            for beat in beats:
                since = t - beat
                pose = np.minimum(
                    pose, np.where(since < 0, np.clip(-since / 0.14, 0, 1) ** 0.7, np.clip(since / 0.2, 0, 1))
                )
                shake = np.where(since >= 0, np.exp(-np.maximum(since, 0) / 0.06) * np.cos(since * 40), shake)
            return self._track(t, x, self.floor + r, r, pose=pose, round_=0.35 * shake)

        return track

    def tick(self, index: int, actor: Actor) -> Callable[[Array], Track]:
        r, x = radius(self.scene, actor), self._stand_x(index)
        period = TICK[actor.speed or "slow"] * float(self.rng.uniform(0.94, 1.06))
        first = float(self.rng.uniform(0.1, 0.9)) * period
        side = float(self.rng.choice([-1.0, 1.0]))
        count = int((self.scene.seconds - first) / period) + 1
        self.events += [Event("tick", index, first + k * period, 1.0 if k % 2 == 0 else 0.8) for k in range(count)]
        return lambda t: self._track(t, x, self.floor + r, r, angle=side * 0.45 * np.cos(np.pi * (t - first) / period))

    def drive(self, index: int, actor: Actor) -> Callable[[Array], Track]:
        r = radius(self.scene, actor)
        x, sign = self._across(actor, 1.9 * r)
        self._sustain("engine", index, lambda t: 0.25 + 0.75 * self._speed_of(x)(t))
        bob = float(self.rng.uniform(0, 6.28))
        return lambda t: self._track(
            t, x(t), self.floor + r + 0.006 * np.sin(19 * t + bob), r, angle=-x(t) / (0.4 * r), pose=0.5 + 0.5 * sign
        )

    def fly(self, index: int, actor: Actor) -> Callable[[Array], Track]:
        r, n = radius(self.scene, actor), actor.count or 1
        x, sign = self._across(actor, 1.4 * r)
        y = float(self.rng.uniform(0.12, 0.3)) * self.half_height
        flap = {"slow": 2.6, "fast": 4.2}[actor.speed or "slow"] * float(self.rng.uniform(0.92, 1.08))
        phase = float(self.rng.random())
        length = 0.2
        beats = self._beats(n, float(self.rng.uniform(0.5, 0.62)), 0.2)
        self.events += [Event("chirp", index, t, 1.0, length) for t in beats]

        def track(t: Array) -> Track:
            beak = np.zeros_like(t)
            for beat in beats:
                u = (t - beat) / length
                beak = np.maximum(beak, np.clip(np.sin(np.pi * np.clip(u, 0, 1)), 0, 1))
            wave = np.sin(2 * np.pi * (flap * t + phase))
            # the angle's sign carries the direction of flight; its size is the beak
            return self._track(t, x(t), y + 0.06 * wave, r, angle=sign, pose=0.5 + 0.5 * wave, round_=beak)

        return track

    def rain(self, index: int, actor: Actor) -> Callable[[Array], Track]:
        heavy = actor.speed == "fast"
        level = 1.0 if heavy else 0.4
        self._sustain("rain", index, lambda t: np.full_like(t, level))
        r = RADIUS["rain"] * SCALE[actor.size]
        drift = 0.1 * (self.extras["drift"] - 0.5)
        return lambda t: self._track(t, drift * t, 0.95 * self.half_height - 0.9 * r, r, pose=level)

    def say(self, index: int, actor: Actor) -> Callable[[Array], Track]:
        assert actor.kind in FACES and actor.word is not None
        word, tempo = actor.word, self.extras["tempo"]
        r, x = radius(self.scene, actor), self._stand_x(index)
        length = speech.duration(word, tempo)
        start = 0.2 + float(self.rng.random()) * max(0.05, min(1.2, self.scene.seconds - length - 0.5))
        self.events.append(Event("word", index, start, 1.0, length))
        y = max(self.floor + r - 0.42, -self.half_height + 0.9 * r)

        def track(t: Array) -> Track:
            opening, rounding = speech.mouth(word, tempo, t - start)
            nod = 0.012 * np.sin(2.1 * t + 6.28 * self.extras["drift"])
            return self._track(t, x, y + nod, r, angle=0.03 * np.sin(1.7 * t), pose=opening, round_=rounding)

        return track
