"""What a soundtrack holds: onsets, counts, classes of sound, the spoken word, and where speech is loud.

Everything is told by the nearest template, made from the playhouse's own sounds (see `shelf`). Sound is 16 kHz mono.
Letters: N samples, F spectra in time, B bands, M templates, K length of a template in spectra.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from phonofilm.evaluate import shelf
from phonofilm.playhouse import speech
from phonofilm.playhouse.scene import (
    ACTS,
    COUNTED,
    FACES,
    FLOORS,
    KINDS,
    MATERIALS,
    MOVING,
    SIZES,
    SPEEDS,
    Actor,
    Scene,
)
from phonofilm.playhouse.sound import SOUND_CLASSES, sound_class, synthesize
from phonofilm.playhouse.stage import perform

Floats = NDArray[np.float32]

RATE: Final = 16_000
BANDS: Final = 36  # B
HOP: Final = 160  # samples: 100 Hz
WINDOW: Final = 400
LOW, HIGH = 70.0, 7600.0  # Hz
FLOOR: Final = 3e-2  # power below which all is silence: 55 dB below the loudest possible tone
DEPTH: Final = 3e-4  # the same, beside the loudest of what is looked at
FINE_HOP, FINE_WINDOW = 32, 128  # of onsets: 2 ms, 8 ms
ONSET_SHARE: Final = 0.09  # rise of an onset, beside the largest of the clip
CLEAR_SHARE: Final = 0.22  # the same, of what is counted
ONSET_LEAST: Final = 6.0
END: Final = 240  # samples at the end in which nothing is taken for an onset
ONSET_GAP: Final = 0.06  # seconds between two onsets
NEAREST: Final = 5
SCENES: Final = 26  # for each kind, act and material
SEED: Final = 78_000_000
SPEECH_FIT: Final = 0.5  # correlation below which no word is heard
CLEAR_FIT: Final = 0.85  # and above which there is no doubt that one is
LENGTH_POWER: Final = 0.4  # how much more a long template that fits is worth than a short one
CANDIDATES: Final = 40  # templates that are looked at again where somebody else sounds too
BEYOND: Final = 0.2  # how much sound beyond a word counts, beside sound that is missing
OVER: Final = 2.0  # how much more than the template of a word is taken away
TEMPOS: Final = (0.9, 0.95, 1.0, 1.05, 1.1)
PITCHES: Final = (0.25, 0.75)
FINE_PITCHES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
STRUCK: Final = (*(c for c in SOUND_CLASSES if c.endswith("ball")), "box", "bell", "drum", "metronome")


def _edges() -> NDArray[np.float64]:
    """Edges and centres of the bands, Hz, evenly spaced on the mel scale: (B + 2,)."""
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (LOW, HIGH))
    return np.asarray(700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1), np.float64)


def _filters(window: int) -> Floats:
    """Triangles on the mel scale (window // 2 + 1, B)."""
    edges = _edges()
    hertz = np.fft.rfftfreq(window, 1 / RATE)[:, None]
    low, mid, high = edges[:-2], edges[1:-1], edges[2:]
    up, down = (hertz - low) / (mid - low), (high - hertz) / (high - mid)
    triangles = np.maximum(0, np.minimum(up, down))
    return np.asarray(triangles / np.maximum(triangles.sum(0), 1e-9), np.float32)


@lru_cache(maxsize=4)
def _kernel(window: int, bins: int) -> tuple[Floats, Floats]:
    return np.hanning(window + 1)[:window].astype(np.float32), _filters(bins)


def _framed(samples: Floats, window: int, hop: int) -> Floats:
    """Overlapping pieces, the k-th centred on sample k * hop: (F, window)."""
    padded = np.pad(samples, window // 2)
    count = 1 + len(samples) // hop
    padded = np.pad(padded, (0, max(0, (count - 1) * hop + window - len(padded))))
    return np.lib.stride_tricks.sliding_window_view(padded, window)[::hop][:count]


def mel_power(samples: Floats, hop: int = HOP, window: int = WINDOW) -> Floats:
    """Power in mel bands at sample k * hop: (F, B)."""
    bins = 512 if window > 256 else 256
    shape, filters = _kernel(window, bins)
    spectrum = np.fft.rfft(_framed(samples, window, hop) * shape, bins)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    return power @ filters


def _log(power: Floats, top: float) -> Floats:
    """Logarithm above a floor that lies `DEPTH` below `top`: what is fainter is nothing."""
    return np.asarray(np.log(power + max(FLOOR, DEPTH * top)), np.float32)


# --- onsets ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Onsets:
    """Where something starts to sound."""

    times: NDArray[np.float64]  # seconds, ascending
    rise: NDArray[np.float64]  # how sudden, over all bands

    @property
    def clear(self) -> int:
        """How many stand out."""
        return int((self.rise >= CLEAR_SHARE * self.rise.max(initial=0.0)).sum())


def find_onsets(samples: Floats, spoken: Spoken | None = None) -> Onsets:
    """Sudden rises of power in many bands, timed to a millisecond by the rise of the waveform's power.

    spoken: a word that is heard too; what its template explains is no rise.
    """
    power = mel_power(samples, FINE_HOP, FINE_WINDOW)
    if spoken is not None:
        power = np.maximum(power - OVER * _voice(power, spoken, FINE_HOP, FINE_WINDOW), 0)
    level = np.log(power + 1e-3)
    lag = 5
    flux = np.zeros(len(level))
    flux[lag:] = np.maximum(level[lag:] - np.maximum(level[:-lag], np.roll(level, 1, 0)[:-lag]), 0).sum(1)
    threshold = max(ONSET_LEAST, ONSET_SHARE * float(flux.max(initial=0.0)))
    times: list[float] = []
    rises: list[float] = []
    gap = round(ONSET_GAP * RATE / FINE_HOP)
    for k in np.nonzero(flux >= threshold)[0]:
        around = flux[max(0, k - gap) : k + gap + 1]
        if k * FINE_HOP > len(samples) - END:
            break  # where the sound is cut off
        if flux[k] < around.max() or (times and k * FINE_HOP / RATE - times[-1] < ONSET_GAP / 2):
            continue
        times.append(_instant(samples, int(k) * FINE_HOP))
        rises.append(float(flux[k]))
    return Onsets(np.asarray(times, np.float64), np.asarray(rises, np.float64))


def _instant(samples: Floats, near: int) -> float:
    """Seconds at which the power rises most within 16 ms of a sample."""
    start = max(0, near - 320)
    part = samples[start : near + 256].astype(np.float64)
    sharp = np.diff(part, prepend=part[:1])  # high notes rise first
    power = np.convolve(part**2 + 4 * sharp**2, np.ones(16) / 16, "same")
    level = np.log(power + 1e-6)
    reach = 48
    if len(level) < 3 * reach:
        return near / RATE
    smooth = np.concatenate([[0], np.cumsum(level)])
    k = np.arange(reach, len(level) - reach)
    rise = smooth[k + reach] - 2 * smooth[k] + smooth[k - reach]
    return float(start + k[int(rise.argmax())]) / RATE


def count_chirps(samples: Floats) -> int:
    """How many separate stretches of whistling there are, 2 to 6 kHz."""
    power = mel_power(samples)
    centre = _edges()[1:-1]
    level = np.sqrt(power[:, (centre > 2000) & (centre < 6000)].sum(1))
    top = float(np.percentile(level, 99.5))
    if top < 0.05:
        return 0
    loud = np.convolve(level > 0.25 * top, np.ones(5), "same") > 0
    starts = np.diff(loud.astype(int), prepend=0) == 1
    ends = np.diff(loud.astype(int), append=0) == -1
    return int(((np.nonzero(ends)[0] - np.nonzero(starts)[0]) > 8).sum())


# --- classes of sound -----------------------------------------------------------------------------------------------
def _whole(samples: Floats) -> Floats:
    """What a clip sounds like while it sounds: level, spread and movement of each band, (3 B,)."""
    power = mel_power(samples)
    level = _log(power, float(power.max()))
    total = level.max(1)
    loud = level[total > max(float(total.max()) - 6.0, np.log(FLOOR) + 1.0)]
    if len(loud) < 3:
        loud = level
    shape = loud - loud.mean()
    steps = np.abs(np.diff(level, axis=0))[total[1:] > total.max() - 6.0] if len(level) > 2 else np.zeros((1, BANDS))
    steps = steps if len(steps) else np.zeros((1, BANDS), np.float32)
    return np.concatenate([shape.mean(0), 0.5 * loud.std(0), 0.6 * steps.mean(0)]).astype(np.float32)


def _struck(power: Floats, at: float, all_power: Floats | None = None) -> tuple[Floats, Floats]:
    """What a blow at `at` seconds adds to what was heard before it, and how much of what is heard that is.

    Just after it and later: (3 B,) logarithms, and (3 B,) weights 0..1. all_power: what is heard, with what `power`
    (F, B) leaves out.
    """
    every = power if all_power is None else all_power
    k = round(at * RATE / HOP)
    before = power[max(0, k - 6) : max(1, k - 1)].max(0)
    added, sure = [], []
    top = 0.0
    for first, last in ((0, 4), (4, 10), (10, 20)):
        part = power[min(k + first, len(power) - 1) : k + last]
        heard = part.mean(0) if len(part) else power[-1]
        more = np.maximum(heard - before, 0)
        top = max(top, float(more.max()))
        added.append(_log(more, top))
        total = every[min(k + first, len(power) - 1) : k + last]
        sure.append((more + FLOOR) / ((total.mean(0) if len(total) else every[-1]) + before + FLOOR))
    return np.concatenate(added), np.concatenate(sure).astype(np.float32)


def _scenes() -> Iterator[Scene]:
    rng = np.random.default_rng(SEED)
    for kind in KINDS:
        for act in ACTS[kind]:
            for material in MATERIALS if kind == "ball" else (None,):
                for index in range(2 * SCENES if kind in FACES else SCENES):
                    actor = Actor(
                        kind, act, None if kind == "rain" else "red", "medium" if kind == "rain" else SIZES[index % 3],
                        material,
                        str(rng.choice(["left", "right"])) if act in MOVING else None, str(rng.choice(SPEEDS)),
                        int(rng.integers(1, 4)) if act in COUNTED else None,
                        str(rng.choice(speech.WORDS)) if kind in FACES else None,
                    )  # fmt: skip
                    mate = {
                        "size": str(rng.choice(SIZES)),
                        "direction": "right",
                        "material": str(rng.choice(MATERIALS)),
                    }
                    other = (Actor(**{**vars(actor), **mate}),) if act == "collide" else ()
                    yield Scene((actor, *other), str(rng.choice(FLOORS)), "day", "still", 2.5, int(rng.integers(2**31)))


@dataclass(frozen=True)
class _Shelf:
    looks_MD: Floats
    names: NDArray[np.int16]  # (M,) index into SOUND_CLASSES

    def nearest(self, look: Floats, sure: Floats | None = None, without: str | None = None) -> dict[str, float]:
        """Votes of the nearest templates for each class, adding to 1.

        sure (D,): weights of what is compared; then the level does not count. without: a class that is left out.
        """
        if sure is None:
            distance = ((self.looks_MD - look) ** 2).sum(1)
        else:
            weight = sure / sure.sum()
            off = self.looks_MD - look
            distance = len(look) * ((off**2 @ weight) - (off @ weight) ** 2)
        if without is not None:
            distance = np.where(self.names == SOUND_CLASSES.index(without), np.inf, distance)
        near = np.argpartition(distance, NEAREST)[:NEAREST]
        weight = 1 / (distance[near] + 1.0)
        votes: dict[str, float] = {}
        for k, w in zip(near, weight / weight.sum(), strict=True):
            name = SOUND_CLASSES[self.names[k]]
            votes[name] = votes.get(name, 0.0) + float(w)
        return votes


@lru_cache(maxsize=1)
def _shelves() -> tuple[_Shelf, _Shelf]:
    """Templates of whole clips, and of single blows."""
    whole, whole_names, blows, blow_names = shelf.read("whole", "whole_names", "blows", "blow_names")
    return _Shelf(whole.astype(np.float32), whole_names), _Shelf(blows.astype(np.float32), blow_names)


def build() -> dict[str, NDArray[np.generic]]:
    """The arrays of the templates of sound, for `shelf.write`. Takes seconds."""
    whole: list[tuple[Floats, int]] = []
    blows: list[tuple[Floats, int]] = []
    for scene in _scenes():
        play = perform(scene)
        samples = synthesize([play], RATE)[0].numpy()
        actor = scene.actors[0]
        name = SOUND_CLASSES.index(sound_class(actor.kind, actor.material))
        whole.append((_whole(samples), name))
        if actor.act in ("bounce", "fall", "ring", "strike", "tick"):
            power = mel_power(samples)
            blows += [(_struck(power, e.time)[0], name) for e in play.events[:3] if e.time < scene.seconds - 0.15]
    return {
        "whole": np.stack([look for look, _ in whole]).astype(np.float16),
        "whole_names": np.array([name for _, name in whole], np.int16),
        "blows": np.stack([look for look, _ in blows]).astype(np.float16),
        "blow_names": np.array([name for _, name in blows], np.int16),
    }


def class_of_clip(samples: Floats) -> dict[str, float]:
    """Which class of sound a clip with one actor holds: votes that add to 1."""
    return _shelves()[0].nearest(_whole(samples))


def class_of_blows(
    samples: Floats, times: Sequence[float], without: str | None = None, spoken: Spoken | None = None
) -> list[dict[str, float]]:
    """Which class of struck thing, but for `without`, sounds from each instant on: votes that add to 1.

    spoken: a word that is heard too, and is taken away first.
    """
    power = mel_power(samples)
    rest = power if spoken is None else np.maximum(power - OVER * _voice(power, spoken), 0)
    return [_shelves()[1].nearest(*_struck(rest, t, power), without) for t in times]


# --- words ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Spoken:
    """The word that fits best."""

    word: str
    voice: str
    tempo: float
    start: float  # seconds
    seconds: float
    fit: float  # correlation with the template, -1..1
    sound: Floats  # (N,) the template


@lru_cache(maxsize=1)
def _words() -> dict[int, tuple[Floats, list[tuple[str, str, float, float]]]]:
    """Templates by their length K: (M, K * B) of zero mean and unit norm, and what each says."""
    rows: dict[int, list[tuple[Floats, tuple[str, str, float, float]]]] = {}
    for voice in speech.VOICES:
        for word in speech.WORDS:
            for tempo in TEMPOS:
                for pitch in PITCHES:
                    look = _speech_look(mel_power(speech.say(word, voice, pitch, tempo)))
                    flat = (look - look.mean()).reshape(-1)
                    rows.setdefault(len(look), []).append((flat / np.linalg.norm(flat), (word, voice, tempo, pitch)))
    return {k: (np.stack([r[0] for r in v]), [r[1] for r in v]) for k, v in rows.items()}


def _speech_look(power: Floats) -> Floats:
    """Power in decades above a floor that lies 45 dB below the loudest band."""
    top = float(power.max())
    return np.asarray(np.log10(power + 10**-4.5 * top + 1e-9) - np.log10(10**-4.5 * top + 1e-9), np.float32)


def find_word(samples: Floats, alone: bool = True) -> Spoken:
    """The word and voice, of all that the playhouse can say, whose sound fits best at any start.

    alone: nothing else sounds; otherwise what is heard beyond the word counts for little.
    Raises ValueError for sound that is shorter than any word.
    """
    power = mel_power(samples)
    look = _speech_look(power)
    found: list[tuple[float, int, tuple[str, str, float, float], float]] = []
    for length, (templates, said) in _words().items():
        if length > len(look):
            continue
        windows = np.lib.stride_tricks.sliding_window_view(look, length, 0)  # (F - K + 1, B, K)
        flat = windows.transpose(0, 2, 1).reshape(len(windows), -1)
        flat = flat - flat.mean(1, keepdims=True)
        norm = np.linalg.norm(flat, axis=1) + 1e-3
        fits = (flat @ templates.T) / norm[:, None]
        starts = fits.argmax(0)
        tops = fits[starts, np.arange(len(said))]
        worth = np.arctanh(np.clip(tops, -0.9, 0.999)) * length**LENGTH_POWER
        found += [(float(w), int(k), s, float(f)) for w, k, s, f in zip(worth, starts, said, tops, strict=True)]
    if not found:
        raise ValueError(f"{len(samples)} samples: too short for any word")
    found.sort(key=lambda c: -c[0])
    if not alone:
        near = [c for c in found[:CANDIDATES] if c[0] > 0.8 * found[0][0]]
        found = sorted(near, key=lambda c: _misfit(power, c[1], c[2]))
    _, start, (word, _, tempo, _), fit = found[0]
    ways = [(word, voice, tempo, pitch) for voice in speech.VOICES for pitch in FINE_PITCHES]
    _, voice, _, pitch = min(ways, key=lambda said: _misfit(power, start, said))
    sound = speech.say(word, voice, pitch, tempo)
    return Spoken(word, voice, tempo, start * HOP / RATE, len(sound) / RATE, fit, sound)


def _misfit(power: Floats, start: int, said: tuple[str, str, float, float]) -> float:
    """How much of a word is missing in what is heard, and (for little) how much is heard beyond it."""
    word, voice, tempo, pitch = said
    own = mel_power(speech.say(word, voice, pitch, tempo))
    own = own[: len(power) - start]
    level, heard = np.log(own + 1e-4 * own.max()), np.log(power[start : start + len(own)] + 1e-4 * own.max())
    loud = level > level.max() - 6.0
    off = level - heard
    off = off - np.percentile(off[loud], 60)
    return float((np.clip(off, 0, 4) ** 2).mean() + BEYOND * (np.clip(-off, 0, 4) ** 2).mean())


def _voice(power: Floats, spoken: Spoken, hop: int = HOP, window: int = WINDOW) -> Floats:
    """How much of what is heard (F, B) the word's template explains."""
    first = round(spoken.start * RATE / hop)
    own = mel_power(spoken.sound, hop, window)[: max(0, len(power) - first)]
    share = np.zeros_like(power)
    loud = own > 0.05 * own.max(initial=0.0)
    if loud.any():
        share[first : first + len(own)] = float(np.median(power[first : first + len(own)][loud] / own[loud])) * own
    return share


def speech_envelope(samples: Floats, spoken: Spoken, alone: bool) -> NDArray[np.float64]:
    """Loudness of the voice at 100 Hz: (F,). Beside another actor, what the word's template allows."""
    power = mel_power(samples)
    if not alone:
        power = np.minimum(power, 1.6 * _voice(power, spoken))
    return np.asarray(np.sqrt(power[:, 2:].sum(1)), np.float64)
