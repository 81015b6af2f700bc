"""Speech out of nothing: a source-filter synthesiser of a small vocabulary, and the lips that go with it.

Why not a bank of recordings: here the lips are exact (the voice's level is *made from* the opening of the mouth),
the words are nobody's property, and a bare machine needs no files. The model is Klatt's cascade/parallel formant
synthesiser (JASA 67:971, 1980), evaluated in the frequency domain: a band-limited pulse train and breath go through a
cascade of resonators, the noise of narrowings and releases through a parallel band; 20 ms frames overlap and add.

Letters: N samples, K frames, F frequency bins, S segments, R resonators.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phonofilm.playhouse.phonemes import PHONES, SPELLING, Segment

Floats = NDArray[np.floating[Any]]

WORDS: Final = tuple(SPELLING)
VOICES: Final = ("woman", "man", "robot")
PEAK: Final = 0.5
"""The largest absolute sample of every spoken word."""
TEMPO_RANGE: Final = (0.7, 1.4)
TEMPO_STEP: Final = 0.05
PITCH_STEP: Final = 0.25
"""Tempo and pitch are rounded to these steps, so that a cache holds every way in which a word is said."""

_SLOW: Final = 1.1  # how long everything lasts, beside the table: clear speech
_WEAK: Final = 0.62  # how long an unstressed vowel lasts, beside a stressed one
_FINAL: Final = 1.3  # the last vowel of a word is drawn out
_FORMANT_BLEND: Final = 0.07  # seconds that the vocal tract takes from one target to the next
_MOUTH_BLEND: Final = 0.09
_LEVEL_BLEND: Final = 0.024
_BURST_BLEND: Final = 0.006
_BANDWIDTHS: Final = (70.0, 95.0, 140.0, 220.0, 280.0, 360.0, 450.0)  # Hz; of formants 1..7
_HIGH_FORMANTS: Final = (3500.0, 4500.0, 5500.0, 6500.0)  # formants 4..7 of a man: they do not move
_SHUT_LEVEL: Final = 0.13  # level of the voice while the mouth is shut; 1 when it is wide open


@dataclass(frozen=True)
class _Speaker:
    pitch: float  # Hz, in the middle of the range
    tract: float  # formants, beside those of a man
    breath: float  # noise in the voice
    fall: float  # share of the pitch that is lost from the start of a word to its end


_SPEAKERS: Final[dict[str, _Speaker]] = {
    "woman": _Speaker(200.0, 1.15, 0.06, 0.20),
    "man": _Speaker(110.0, 1.0, 0.03, 0.20),
    "robot": _Speaker(140.0, 1.07, 0.0, 0.0),
}


def _check(word: str, tempo: float) -> float:
    if word not in SPELLING:
        raise ValueError(f"cannot say the word {word!r}; the vocabulary is: {', '.join(WORDS)}")
    low, high = TEMPO_RANGE
    if not low <= tempo <= high:
        raise ValueError(f"tempo must be within {low}..{high}, not {tempo}")
    return round(round(tempo / TEMPO_STEP) * TEMPO_STEP, 6)


@dataclass(frozen=True)
class _Score:
    """The segments of a word, one after the other. Every track is piecewise smooth, and can be asked at any time."""

    segments: tuple[Segment, ...]
    ends_S: Floats  # seconds

    @property
    def seconds(self) -> float:
        return float(self.ends_S[-1])

    def track(self, targets_S: ArrayLike, times: Floats, blend: float, outside: float | None = None) -> Floats:
        """Targets, held and joined by smooth steps that last `blend` seconds or as long as the segments allow.

        `outside` is the value before and after the word; without it the first and last target hold.
        """
        values = np.asarray(targets_S, np.float64)
        starts_S = np.concatenate([[0.0], self.ends_S[:-1]])
        half = np.minimum(blend, np.minimum(np.diff(starts_S), np.diff(self.ends_S))) / 2
        knots = np.stack([starts_S[1:] - half, starts_S[1:] + half], 1).reshape(-1)
        heights = np.stack([values[:-1], values[1:]], 1).reshape(-1)
        if outside is None:
            knots = np.concatenate([[0.0], knots, [self.seconds]])
            heights = np.concatenate([values[:1], heights, values[-1:]])
        else:
            first, last = np.minimum(blend, np.array([self.ends_S[0], self.seconds - starts_S[-1]]) / 2)
            knots = np.concatenate([[0.0, first], knots, [self.seconds - last, self.seconds]])
            heights = np.concatenate([[outside], values[:1], heights, values[-1:], [outside]])
        knots = np.maximum.accumulate(knots)
        k = np.clip(np.searchsorted(knots, times, side="right") - 1, 0, len(knots) - 2)
        u = np.clip((times - knots[k]) / np.maximum(knots[k + 1] - knots[k], 1e-9), 0.0, 1.0)
        smooth: Floats = heights[k] + (heights[k + 1] - heights[k]) * u * u * (3 - 2 * u)
        return smooth


@lru_cache(maxsize=512)
def _score(word: str, tempo: float) -> _Score:
    phones = SPELLING[word].split()
    last_vowel = max(i for i, phone in enumerate(phones) if phone[-1].isdigit())
    segments: list[Segment] = []
    seconds: list[float] = []
    for i, phone in enumerate(phones):
        stretch = _SLOW * (_WEAK if phone[-1] == "0" else 1.0)
        stretch *= _FINAL if i == last_vowel else 1.0
        for segment in PHONES[phone.rstrip("01")]:
            segments.append(segment)
            seconds.append(segment.seconds * stretch / tempo)
    return _Score(tuple(segments), np.cumsum(seconds))


def duration(word: str, tempo: float = 1.0) -> float:
    """Seconds that `word` lasts at `tempo` (1 = normal, larger = faster; rounded to `TEMPO_STEP`).

    Raises ValueError for a word that is not in `WORDS` and a tempo outside `TEMPO_RANGE`.
    """
    return _score(word, _check(word, tempo)).seconds


def mouth(word: str, tempo: float, times: ArrayLike) -> tuple[Floats, Floats]:
    """The lips at `times` (any shape), in seconds from the start of the word: (opening, rounding), each in [0, 1].

    Both are 0 outside the word. The opening is 0 in the middle of m, b and p, and it is what sets the level
    of the voice: lips and loudness agree within a few milliseconds. Errors as `duration`.
    """
    score = _score(word, _check(word, tempo))
    at = np.asarray(times, np.float64)
    opening = score.track([s.opening for s in score.segments], at, _MOUTH_BLEND, outside=0.0)
    rounding = score.track([s.rounding for s in score.segments], at, _MOUTH_BLEND, outside=0.0)
    inside = (at > 0) & (at < score.seconds)
    return np.where(inside, opening, 0.0), np.where(inside, rounding, 0.0)


def say(
    word: str, voice: str = "woman", pitch: float = 0.5, tempo: float = 1.0, sample_rate: int = 16000
) -> NDArray[np.float32]:
    """`word` as sound: float32 (N,), N = round(duration * sample_rate), peak `PEAK`; read-only, as it is cached.

    `pitch` 0..1 is three semitones below to three above the voice's middle (woman 200 Hz, man 110 Hz, robot 140 Hz);
    it is rounded to `PITCH_STEP`. The same arguments give the same samples. Errors as `duration`, and ValueError for an
    unknown voice, a pitch outside 0..1 and a sample rate below 8000 Hz.
    """
    if voice not in _SPEAKERS:
        raise ValueError(f"voice must be one of {', '.join(VOICES)}, not {voice!r}")
    if not 0 <= pitch <= 1:
        raise ValueError(f"pitch must be within 0..1, not {pitch}")
    if sample_rate < 8000:
        raise ValueError(f"sample_rate must be at least 8000 Hz, not {sample_rate}")
    return _say(word, voice, round(pitch / PITCH_STEP) * PITCH_STEP, _check(word, tempo), sample_rate)


@dataclass(frozen=True)
class _Way:
    """All of a word that does not depend on the pitch. N samples, K frames of two hops, F frequencies."""

    seconds: float
    times_N: Floats
    hop: int
    bins: int
    level_N: Floats  # of the voice
    breath_N: Floats  # noise that goes through the throat
    tract_KF: NDArray[np.complex128]  # the throat
    hiss_KF: NDArray[np.complex128]  # noise that arises at the lips and teeth


@lru_cache(maxsize=8)
def _way(word: str, voice: str, tempo: float, sample_rate: int) -> _Way:
    speaker, score = _SPEAKERS[voice], _score(word, tempo)
    segments = score.segments
    count = round(score.seconds * sample_rate)
    times_N = (np.arange(count) + 0.5) / sample_rate
    opening_N, _ = mouth(word, tempo, times_N)
    gate_N = score.track([s.voice for s in segments], times_N, _LEVEL_BLEND, outside=0.0)
    level_N = gate_N * (_SHUT_LEVEL + (1 - _SHUT_LEVEL) * opening_N)
    breath_N = score.track([s.breath for s in segments], times_N, _LEVEL_BLEND, outside=0.0) + speaker.breath * level_N
    hiss_N = score.track([s.hiss for s in segments], times_N, _BURST_BLEND, outside=0.0)
    noise_N = np.random.default_rng(crc32(word.encode())).standard_normal(count)

    hop = sample_rate // 100
    centres_K = (np.arange(-(-count // hop) + 1) * hop) / sample_rate
    if voice == "robot":  # its mouth has few positions
        centres_K = np.round(centres_K / 0.05) * 0.05
    bins = 1 << (6 * hop - 1).bit_length()
    tract_KF, narrow_KF = _filters(score, centres_K, speaker.tract, np.fft.rfftfreq(bins, 1 / sample_rate), sample_rate)
    hiss_KF = _frames(noise_N * hiss_N, hop, bins) * narrow_KF
    return _Way(score.seconds, times_N, hop, bins, level_N, noise_N * breath_N, tract_KF, hiss_KF)


@lru_cache(maxsize=4096)
def _say(word: str, voice: str, pitch: float, tempo: float, sample_rate: int) -> NDArray[np.float32]:
    speaker, way = _SPEAKERS[voice], _way(word, voice, tempo, sample_rate)
    times_N, hop, bins, count = way.times_N, way.hop, way.bins, len(way.times_N)
    middle = speaker.pitch * 2 ** ((pitch - 0.5) / 2)
    hertz_N = middle * (1 + speaker.fall * (0.5 - times_N / way.seconds))
    voiced_N = _pulses(2 * np.pi * np.cumsum(hertz_N) / sample_rate, int(0.48 * sample_rate / hertz_N.max()))
    spectrum_KF = _frames(voiced_N * way.level_N + way.breath_N, hop, bins) * way.tract_KF
    spectrum_KF += way.hiss_KF
    sound_N = _overlap(np.fft.irfft(spectrum_KF, bins), hop, count)

    if voice == "robot":
        sound_N *= 1 + 0.8 * np.cos(np.pi * middle * times_N)  # ring modulation an octave below the voice
        delay = round(0.004 * sample_rate)
        sound_N[delay:] += 0.5 * sound_N[:-delay]  # and a metal throat
    edge = round(0.004 * sample_rate)
    sound_N[-edge:] *= np.linspace(1, 0, edge)
    sound: NDArray[np.float32] = (sound_N * (PEAK / np.abs(sound_N).max())).astype(np.float32)
    sound.flags.writeable = False
    return sound


def _pulses(phase_N: Floats, harmonics: int) -> Floats:
    """All harmonics 1..`harmonics` of a phase in radians, equally loud and with unit power: a band-limited pulse train.

    The sum of cosines in closed form (Dirichlet's kernel).
    """
    half_N = np.sin(phase_N / 2)
    near_N = np.abs(half_N) < 1e-7
    kernel_N = np.where(near_N, 2 * harmonics + 1, np.sin((harmonics + 0.5) * phase_N) / np.where(near_N, 1, half_N))
    train_N: Floats = (kernel_N - 1) / 2 / np.sqrt(harmonics / 2)
    return train_N


def _filters(
    score: _Score, centres_K: Floats, tract: float, hertz_F: Floats, sample_rate: int
) -> tuple[NDArray[np.complex128], Floats]:
    """Transfer functions of each frame: vocal tract with glottal slope and radiation, and the band of its noise.

    Both have unit power gain for white input, so that the levels alone say how loud the voice is.
    """
    segments = score.segments
    formants = [s.formants or segments[i + 1].formants or (500.0, 1500.0, 2500.0) for i, s in enumerate(segments)]
    nasal_K1 = score.track([s.nasal for s in segments], centres_K, _LEVEL_BLEND)[:, None]
    delay_F = np.exp(-2j * np.pi * hertz_F / sample_rate)

    def denominator(hertz: Floats | float, bandwidth: Floats | float) -> NDArray[np.complex128]:
        radius = np.exp(-np.pi * np.asarray(bandwidth) / sample_rate)
        linear = -2 * radius * np.cos(2 * np.pi * np.asarray(hertz) / sample_rate)
        gain = 1 + linear + radius**2  # 1 at 0 Hz
        polynomial: NDArray[np.complex128] = (1 + (linear + radius**2 * delay_F) * delay_F) / gain
        return polynomial

    tract_KF = np.ones((len(centres_K), len(hertz_F)), np.complex128)
    for r, bandwidth in enumerate(_BANDWIDTHS):
        if r < 3:
            hertz = tract * score.track([f[r] for f in formants], centres_K, _FORMANT_BLEND)[:, None]
            tract_KF /= denominator(hertz, bandwidth * (1 + nasal_K1))
        elif (fixed := tract * _HIGH_FORMANTS[r - 3]) < 0.48 * sample_rate:
            tract_KF /= denominator(fixed, bandwidth)
    tract_KF *= denominator(270 + 230 * nasal_K1, 100.0) / denominator(270.0, 100.0)  # the nose: a zero leaves its pole
    tract_KF *= hertz_F / (1 + 1j * hertz_F / 160.0) ** 2  # glottal slope, and radiation from the lips
    tract_KF /= np.sqrt((np.abs(tract_KF) ** 2).mean(1, keepdims=True))

    centre_K1 = score.track([s.band[0] for s in segments], centres_K, _BURST_BLEND)[:, None]
    width_K1 = score.track([s.band[1] for s in segments], centres_K, _BURST_BLEND)[:, None]
    narrow_KF = np.exp(-0.5 * ((hertz_F - np.minimum(centre_K1, 0.44 * sample_rate)) / width_K1) ** 2)
    narrow_KF /= np.sqrt((narrow_KF**2).mean(1, keepdims=True))
    return tract_KF, narrow_KF


def _frames(sound_N: Floats, hop: int, bins: int) -> NDArray[np.complex128]:
    """Spectra of frames of two hops under a Hann window; frame k is centred on sample k * hop."""
    padded = np.zeros((-(-len(sound_N) // hop) + 2) * hop)
    padded[hop : hop + len(sound_N)] = sound_N
    blocks = padded.reshape(-1, hop)
    window = np.sin(np.pi * (np.arange(2 * hop) + 0.5) / (2 * hop)) ** 2
    spectra: NDArray[np.complex128] = np.fft.rfft(np.concatenate([blocks[:-1], blocks[1:]], 1) * window, bins)
    return spectra


def _overlap(frames: Floats, hop: int, count: int) -> Floats:
    """Sum of frames that start one hop apart, the first one hop before the sound."""
    parts = -(-frames.shape[1] // hop)
    padded = np.zeros((len(frames), parts * hop))
    padded[:, : frames.shape[1]] = frames
    total = np.zeros((len(frames) + parts, hop))
    for part in range(parts):
        total[part : part + len(frames)] += padded[:, part * hop : (part + 1) * hop]
    return total.reshape(-1)[hop : hop + count]
