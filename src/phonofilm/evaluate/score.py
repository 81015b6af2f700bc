"""Right or wrong: what a clip shows and sounds, beside the scene that was asked for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import permutations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from phonofilm.clip import Clip, mono, resample
from phonofilm.evaluate import hearing, sync
from phonofilm.evaluate.parser import Parsed, Seen, parse
from phonofilm.playhouse.scene import FACES, Actor, Scene
from phonofilm.playhouse.sound import sound_class

ROWS: Final[dict[str, str]] = {
    "actor": "actor right", "colour": "colour right", "size": "size right", "motion": "motion right (way and speed)",
    "way": "way right", "speed": "speed right", "count": "count right, seen (chirps: heard)",
    "heard": "count right, heard (one actor)",
    "sound": "sound class right", "word": "spoken word right", "reappears": "comes out behind the wall",
    "lasting": "nothing vanishes, appears, swaps or teleports", "vanishes": "something vanishes",
    "appears": "something appears",
    "swaps": "something swaps identity", "teleports": "something teleports", "cast": "number of actors right",
    "side": "who is left and who is right",
    "place": "floor and light right", "camera": "camera right", "unclipped": "sound does not clip",
}  # fmt: skip
"""Every row of the report. Rows of `FAULTS` are better when they are low."""
FAULTS: Final = ("vanishes", "appears", "swaps", "teleports")
BLOWS: Final = ("bounce", "fall", "collide", "ring", "strike", "tick")
COUNTED_BLOWS: Final = ("bounce", "ring", "strike")
CLIPPED: Final = 0.999  # of full scale


@dataclass
class Verdict:
    """What was measured on one clip."""

    rows: list[tuple[str, str, bool]] = field(default_factory=list)  # (row, kind of actor, right)
    blow_lags: list[tuple[str, float]] = field(default_factory=list)  # (act, ms); nan: seen but not heard
    lip_lags: list[float] = field(default_factory=list)  # ms
    rms_dbfs: float = float("nan")
    peak_dbfs: float = float("nan")

    @property
    def wrong(self) -> list[str]:
        """What is not as asked, in words."""
        names = [f"{kind}: {row}" for row, kind, right in self.rows if right == (row in FAULTS)]
        return list(dict.fromkeys(names))


def judge(clip: Clip, scene: Scene, claims: Collection[str] | None = None) -> Verdict:
    """Measure a clip against the scene that was asked for; of its attributes only those in `claims` count (None: all).

    Raises ValueError for a clip of fewer than 8 frames.
    """
    parsed = parse(clip.frames, clip.fps)
    verdict = Verdict()
    samples = None
    if clip.audio is not None:
        samples = resample(mono(clip.audio), hearing.RATE).samples[0]
    matched = match(parsed, scene)

    def claimed(i: int, name: str) -> bool:
        return claims is None or f"{i}.{name}" in claims

    for i, (actor, seen) in enumerate(zip(scene.actors, matched, strict=True)):
        _judge_looks(verdict, i, actor, seen, claimed)
    lead = scene.actors[0].kind
    verdict.rows.append(("cast", lead, len(parsed.actors) == len(scene.actors)))
    verdict.rows.append(("lasting", lead, parsed.lasting))
    for name in FAULTS:
        verdict.rows.append((name, lead, bool(getattr(parsed, name))))
    if len(scene.actors) == 2 and (claims is None or "side" in claims):
        verdict.rows.append(("side", lead, _beside(*matched)))
    if claims is None or {"floor", "light"} <= set(claims):
        verdict.rows.append(("place", lead, (parsed.light, parsed.floor) == (scene.light, scene.floor)))
    if claims is None or "camera" in claims:
        verdict.rows.append(("camera", lead, _camera(parsed) == scene.camera))
    if scene.actors[0].act == "behind":
        verdict.rows.append(("reappears", lead, reappears(parsed, matched[0], scene.actors[0])))
    if samples is not None and len(samples) > hearing.RATE // 2:
        _judge_sound(verdict, scene, matched, samples, clip.fps, claimed)
    return verdict


def match(parsed: Parsed, scene: Scene) -> list[Seen | None]:
    """For each actor of the scene the one that was seen in his place; None where there is nobody left.

    Of all assignments the one with most kinds and colours right; in doubt from left to right.
    """
    wanted = scene.actors
    there: list[Seen | None] = [*parsed.actors, *[None] * len(wanted)]
    best = max(
        permutations(range(max(len(parsed.actors), len(wanted))), len(wanted)),
        key=lambda p: (
            sum(
                2 * (s.kind == a.kind) + (s.colour == a.colour)
                for a, k in zip(wanted, p, strict=True)
                if (s := there[k])
            ),
            -sum(abs(k - i) for i, k in enumerate(p)),
        ),
    )
    return [there[k] for k in best]


def _beside(left: Seen | None, right: Seen | None) -> bool:
    """Whether the one is first seen to the left of the other."""
    if left is None or right is None:
        return False
    return float(left.x[left.visible][0]) < float(right.x[right.visible][0])


def _camera(parsed: Parsed) -> str:
    if abs(float(parsed.view.pan[-1])) > 0.05:
        return "pan"
    return "zoom" if parsed.view.zoom[-1] > 1.04 else "still"


def _judge_looks(verdict: Verdict, i: int, actor: Actor, seen: Seen | None, claimed: object) -> None:
    asks = claimed if callable(claimed) else lambda _i, _n: True
    kind = actor.kind

    def row(name: str, right: bool) -> None:
        verdict.rows.append((name, kind, bool(right)))

    row("actor", seen is not None and seen.kind == kind)
    if actor.colour is not None and asks(i, "colour"):
        row("colour", seen is not None and seen.colour == actor.colour)
    if kind != "rain" and asks(i, "size"):
        row("size", seen is not None and seen.size == actor.size)
    way = seen is not None and seen.motion == _way(actor)
    row("way", way)
    has_speed = actor.speed is not None and asks(i, "speed")
    if has_speed:
        row("speed", seen is not None and seen.speed == actor.speed)
    row("motion", way and (not has_speed or (seen is not None and seen.speed == actor.speed)))
    if actor.act in COUNTED_BLOWS and asks(i, "count"):
        row("count", seen is not None and len(seen.strikes) == actor.count)


def _way(actor: Actor) -> str:
    """The motion that an act shows."""
    if actor.act in ("bounce", "fall"):
        return "bounces" if actor.act == "bounce" else "falls"
    return actor.direction or "static"


def reappears(parsed: Parsed, seen: Seen | None, actor: Actor) -> bool:
    """Whether the same ball (kind, colour, size within a sixth) is seen on both sides of the wall, first on its own."""
    if seen is None or parsed.wall is None or seen.kind != actor.kind or seen.colour != actor.colour:
        return False
    middle = (parsed.wall.left + parsed.wall.right) / 2
    (at,) = np.nonzero(seen.visible)
    sign = np.sign(seen.x[at] - middle)
    first, last = sign[0], sign[-1]
    if first == last:
        return False
    tall = seen.box[at, 3] - seen.box[at, 1]  # where the wall or the edge of the picture cuts less than half of it
    sizes = [float(np.quantile(tall[sign == side], 0.9)) for side in (first, last)]
    return bool(abs(np.log(sizes[1] / sizes[0])) < 0.18)


# --- sound ----------------------------------------------------------------------------------------------------------
def _judge_sound(verdict: Verdict, scene: Scene, matched: list[Seen | None], samples: NDArray[np.float32], fps: float,
                 claimed: object) -> None:  # fmt: skip
    asks = claimed if callable(claimed) else lambda _i, _n: True
    peak, rms = float(np.abs(samples).max()), float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))
    verdict.rms_dbfs, verdict.peak_dbfs = (float(20 * np.log10(max(v, 1e-6))) for v in (rms, peak))
    verdict.rows.append(("unclipped", scene.actors[0].kind, peak < CLIPPED))
    alone = len(scene.actors) == 1
    together = scene.actors[0].act == "collide"
    spoken = hearing.find_word(samples, alone) if any(a.kind in FACES for a in scene.actors) else None
    onsets = hearing.find_onsets(samples, spoken)
    whole = hearing.class_of_clip(samples)
    for i, (actor, seen) in enumerate(zip(scene.actors, matched, strict=True)):
        wanted = sound_class(actor.kind, actor.material)
        own: NDArray[np.float64] | None = None
        others: tuple[float, ...] = ()
        if actor.act in BLOWS and not alone:
            mate, other = scene.actors[1 - i], matched[1 - i]
            others = other.strikes if other is not None and not together else ()
            theirs = sound_class(mate.kind, mate.material)
            votes = hearing.class_of_blows(
                samples, onsets.times.tolist(), None if mate.kind in FACES or theirs == wanted else theirs, spoken
            )
            own = np.array([v.get(wanted, 0.0) for v in votes])
        lags: list[float] = []
        if actor.act in BLOWS and seen is not None:
            lags = sync.blow_lags(seen.strikes, onsets, actor.act, None if together else own, others)
            if not (together and i):
                late = len(samples) / hearing.RATE - 0.05
                pairs = zip(lags, seen.strikes, strict=True)
                verdict.blow_lags += [(actor.act, lag) for lag, at in pairs if 0.05 < at < late]
        if own is not None and not together:
            right = _heard_at(own, onsets.times, seen, lags, actor.act)
        else:
            right = _sounds(actor, wanted, alone, whole, own, spoken)
        verdict.rows.append(("sound", actor.kind, right))
        if actor.act in COUNTED_BLOWS and alone and asks(i, "count"):
            verdict.rows.append(("heard", actor.kind, onsets.clear == actor.count))
        if actor.act == "fly" and asks(i, "count"):
            right = hearing.count_chirps(samples) == actor.count
            verdict.rows += [("count", actor.kind, right), ("heard", actor.kind, right)]
        if actor.word is not None and spoken is not None:
            verdict.rows.append(("word", actor.kind, spoken.word == actor.word))
            if seen is not None and seen.opening is not None:
                envelope = hearing.speech_envelope(samples, spoken, alone)
                verdict.lip_lags.append(sync.lip_lag(seen.opening, envelope, fps))


def _heard_at(
    own: NDArray[np.float64], times: NDArray[np.float64], seen: Seen | None, lags: list[float], act: str
) -> bool:
    """Whether what is heard at an actor's blows, or anywhere if he was not seen, is mostly his class."""
    if seen is None or not np.isfinite(lags).any():
        return bool((own > 0.5).any())
    at = np.asarray(seen.strikes) + (np.asarray(lags) + sync.BIAS_MS[act]) / 1000
    near = [int(np.abs(times - t).argmin()) for t in at[np.isfinite(at)]]
    return bool(own[near].mean() > 0.45)


def _sounds(actor: Actor, wanted: str, alone: bool, whole: dict[str, float], own: NDArray[np.float64] | None,
            spoken: hearing.Spoken | None) -> bool:  # fmt: skip
    """Whether an actor's class of sound is heard."""
    if actor.kind in FACES:
        clear = spoken is not None and spoken.fit > hearing.CLEAR_FIT
        voiced = not alone or clear or any(name.startswith("voice") and votes > 0.3 for name, votes in whole.items())
        return voiced and spoken is not None and spoken.voice == actor.kind and spoken.fit > hearing.SPEECH_FIT
    if actor.act == "collide":
        return whole.get(wanted, 0.0) > 0.12 or (own is not None and bool((own > 0.3).any()))
    return max(whole, key=lambda k: whole[k]) == wanted
