"""Everything that is heard on stage, made from the same events as the picture.

What is struck rings in damped modes (modal synthesis: van den Doel & Pai, Presence 7:382, 1998), whose frequencies,
decays and levels come from the material, the size, the floor and the strength of the blow. What lasts (rolling,
scraping, an engine, rain) is shaped noise or a pulse train under the curves of a `Sustain`. Faces speak (`speech.py`).
Chance comes from one generator for each scene, so a scene sounds the same alone and in any batch, bit by bit.

Letters: B scenes, N samples, M modes, R rows and C columns of a block of samples, K knots, F frequency bins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp, log2, pi
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phonofilm.playhouse import speech
from phonofilm.playhouse.scene import FACES, MATERIALS, Actor, Event, Performance, Sustain

Floats = NDArray[np.float64]

SOUND_CLASSES: Final = (
    *(f"{material} ball" for material in MATERIALS),
    *("box", "bell", "drum", "metronome", "car", "bird", "rain"),
    *(f"voice of a {face}" for face in FACES),
)
"""What a listener can tell apart: one class for each kind of actor, and one for each material of a ball."""

LIMIT: Final = 0.9
"""No sample is louder. Sounds below `KNEE` pass unchanged; what is above is bent softly."""
KNEE: Final = 0.6

_PITCH: Final = {"small": 1.45, "medium": 1.0, "large": 0.68}  # of what is struck, by size
_RING: Final = {"small": 0.8, "medium": 1.0, "large": 1.25}  # its decay
_WEIGHT: Final = {"small": 0.85, "medium": 1.0, "large": 1.1}  # its level
_TUNING: Final = 0.03  # actors of a kind differ by up to this share of their pitch
_SILENT: Final = 7.0  # decays after which a mode is cut (-61 dB)
_DENSITY: Final = (12.0, 90.0)  # drops a second of the lightest and the heaviest rain


@dataclass(frozen=True)
class _Body:
    """Modes of something that is struck: frequency in Hz, decay to 1/e in seconds, and level, loudest sum = 1."""

    hertz: tuple[float, ...]
    decays: tuple[float, ...]
    levels: tuple[float, ...]
    glide: float = 0.0  # the pitch starts this share higher (a skin is tighter while it is pressed)


_BODIES: Final = {
    "rubber": _Body((175, 310, 590, 1300), (0.045, 0.026, 0.012, 0.002), (0.75, 0.3, 0.12, 0.1)),
    "wood": _Body((520, 1130, 1790, 2650, 4100), (0.034, 0.022, 0.014, 0.008, 0.002), (0.5, 0.32, 0.18, 0.12, 0.12)),
    "metal": _Body(
        (910, 1490, 2330, 3170, 4460, 5880), (0.42, 0.36, 0.27, 0.2, 0.13, 0.07), (0.3, 0.26, 0.2, 0.15, 0.12, 0.1)
    ),
    "box": _Body(
        (92, 178, 295, 470, 820, 2100), (0.07, 0.06, 0.045, 0.03, 0.018, 0.003), (0.55, 0.4, 0.3, 0.2, 0.14, 0.1)
    ),
    "drum": _Body(  # a circular membrane: zeros of Bessel functions; the stick
        (112, 178.5, 239.2, 257.2, 297.1, 326.8, 1500),
        (0.19, 0.12, 0.09, 0.075, 0.06, 0.05, 0.003),
        (0.62, 0.3, 0.16, 0.13, 0.1, 0.08, 0.14),
        glide=0.22,
    ),
    "bell": _Body(  # hum, prime (a doublet that beats), tierce, quint, nominal, and above; the clapper
        (320, 640, 642.2, 768, 962, 1285, 1680, 1930, 2660, 3500, 5200),
        (1.3, 0.85, 0.85, 0.65, 0.4, 0.5, 0.28, 0.25, 0.16, 0.1, 0.004),
        (0.16, 0.16, 0.12, 0.14, 0.07, 0.2, 0.08, 0.09, 0.07, 0.05, 0.08),
    ),
    "tick": _Body((2450, 3650, 5200), (0.007, 0.005, 0.003), (0.5, 0.4, 0.25)),
    "tock": _Body((1700, 2600, 3900), (0.009, 0.006, 0.003), (0.5, 0.35, 0.2)),
}
_FLOOR_BODIES: Final = {  # what the floor adds to an impact
    "wooden": _Body((128, 215), (0.045, 0.03), (0.16, 0.1)),
    "stone": _Body((2900, 4700), (0.004, 0.003), (0.12, 0.1)),
    "grass": _Body((70, 105), (0.03, 0.02), (0.2, 0.1)),
}
_FLOOR_DAMPING: Final = {"wooden": 1.0, "stone": 1.1, "grass": 0.5}  # of decays
_FLOOR_BRIGHTNESS: Final = {"wooden": 0.92, "stone": 1.12, "grass": 0.68}  # of levels, for each octave up
_ROLLS: Final = {"rubber": (95.0, 260.0), "wood": (330.0, 1000.0), "metal": (1300.0, 3800.0)}  # Hz: slow, fast
_FLOOR_ROLLS: Final = {"wooden": 1.0, "stone": 1.2, "grass": 0.75}

_LEVELS: Final = {
    "impact": 0.62,
    "knock": 0.6,
    "strike": 0.66,
    "ring": 0.5,
    "tick": 0.5,
    "chirp": 0.4,
    "word": 1.0,
    "roll": 0.11,
    "scrape": 0.1,
    "engine": 0.26,
    "rain": 0.055,
}


def sound_class(kind: str, material: str | None = None) -> str:
    """Which of `SOUND_CLASSES` an actor belongs to; `material` counts for a ball only (None: rubber).

    Raises ValueError for a kind or material that makes no sound known here.
    """
    name = f"{material or 'rubber'} ball" if kind == "ball" else f"voice of a {kind}" if kind in FACES else kind
    if name not in SOUND_CLASSES:
        raise ValueError(f"no sound for kind {kind!r} of material {material!r}; there are: {', '.join(SOUND_CLASSES)}")
    return name


def synthesize(
    performances: Sequence[Performance], sample_rate: int = 16000, device: torch.device | str = "cpu"
) -> Tensor:
    """The sound of each performance: float32 (B, N) on `device`, within ±`LIMIT`, N = round(seconds * sample_rate).

    An event starts within one sample of its time; before it, and between sounds that have died, there is silence.
    On one machine a scene gives the same samples again, bit by bit, alone or in any batch. Raises ValueError
    if there are no performances or they differ in length.
    """
    lengths = sorted({performance.scene.seconds for performance in performances})
    if len(lengths) != 1:
        raise ValueError(f"performances of one length are needed, not lengths of {lengths} seconds")
    return torch.stack([_Stage(performance, sample_rate, torch.device(device)).play() for performance in performances])


class _Stage:
    """The sound of one performance, while it is being made."""

    def __init__(self, performance: Performance, sample_rate: int, device: torch.device) -> None:
        self.performance, self.scene = performance, performance.scene
        self.rate, self.device = sample_rate, device
        self.count = round(self.scene.seconds * sample_rate)
        self.generator = torch.Generator().manual_seed(self.scene.seed % 2**63)
        tuning = torch.rand(max(2, len(self.scene.actors)), generator=self.generator).tolist()
        self.tuning = [1 + _TUNING * (2 * u - 1) for u in tuning]

    def play(self) -> Tensor:
        sound_N = torch.zeros(self.count, device=self.device)
        turns: dict[int, int] = {}
        for event in sorted(self.performance.events, key=lambda e: e.time):
            turn = turns[event.actor] = turns.get(event.actor, -1) + 1
            start = round(event.time * self.rate)
            if not 0 <= start < self.count:
                continue
            part_N = self._event(event, turn, self.count - start)
            sound_N[start : start + len(part_N)] += _LEVELS[event.kind] * event.strength * part_N
        for sustain in self.performance.sustains:
            sound_N += _LEVELS[sustain.kind] * self._sustain(sustain)
        over_N = sound_N.abs() - KNEE
        bent_N = KNEE + (LIMIT - KNEE) * torch.tanh(over_N / (LIMIT - KNEE))
        return torch.where(over_N > 0, bent_N * sound_N.sign(), sound_N).clamp(-LIMIT, LIMIT)

    # What happens at an instant: each returns samples from the event's time on, at most `room` of them.

    def _event(self, event: Event, turn: int, room: int) -> Tensor:
        actor = self.scene.actors[event.actor]
        if event.kind == "word":
            extras = self.performance.extras
            assert actor.word is not None, "a face that speaks has a word"
            pitch, tempo = extras.get("pitch", 0.5), extras.get("tempo", 1.0)
            said_N = speech.say(actor.word, actor.kind, pitch, tempo, self.rate)
            return torch.tensor(said_N[:room], device=self.device)
        if event.kind == "chirp":
            return self._chirp(event, actor, room)
        parts: list[tuple[_Body, float, float, float, float]]  # body, pitch, ring, brightness, level
        tuning, size = self.tuning[event.actor], actor.size
        pitch, ring, weight = tuning * _PITCH[size], _RING[size], _WEIGHT[size]
        if event.kind == "impact":
            floor = self.scene.floor
            body = _BODIES[actor.material or "rubber" if actor.kind == "ball" else "box"]
            damping, brightness = ring * _FLOOR_DAMPING[floor], _FLOOR_BRIGHTNESS[floor]
            parts = [(body, pitch, damping, brightness, weight), (_FLOOR_BODIES[floor], 1.0, 1.0, 1.0, weight)]
        elif event.kind == "knock":  # both balls are heard, an octave above what the floor makes of them
            parts = []
            for index, ball in enumerate(self.scene.actors[:2]):
                pitch = 2.0 * self.tuning[index] * _PITCH[ball.size]
                parts.append((_BODIES[ball.material or "rubber"], pitch, 0.7 * _RING[ball.size], 1.0, 0.6))
        else:
            name = {"strike": "drum", "ring": "bell", "tick": ("tick", "tock")[turn % 2]}[event.kind]
            parts = [(_BODIES[name], pitch, ring, 1.0, weight)]
        hertz: list[float] = []
        decays: list[float] = []
        levels: list[float] = []
        for body, pitch, ring, brightness, level in parts:
            brightness *= 1 - 0.35 * (1 - event.strength)  # a soft blow is dull
            hertz += [pitch * f for f in body.hertz]
            decays += [ring * d for d in body.decays]
            levels += [
                level * g * brightness ** log2(f / body.hertz[0]) for f, g in zip(body.hertz, body.levels, strict=True)
            ]
        return self._modes(hertz, decays, levels, parts[0][0].glide, room)

    def _modes(self, hertz: list[float], decays: list[float], levels: list[float], glide: float, room: int) -> Tensor:
        """Sum of sine waves that start at 0 and die: float32 (n,), n as long as it sounds, at most `room`.

        Without a glide, sample r * C + c of a mode is the product of its r-th coarse and its c-th fine power,
        so that a matrix product sums all modes of all samples.
        """
        heard = [(f, d, g) for f, d, g in zip(hertz, decays, levels, strict=True) if f < 0.47 * self.rate]
        hertz_M, decay_M, level_M = torch.tensor(heard, dtype=torch.float64).T
        count = min(room, int(_SILENT * max(decays) * self.rate) + 1)
        if glide:
            t_N1 = torch.arange(count, device=self.device, dtype=torch.float64)[:, None] / self.rate
            warped_N1 = t_N1 + glide * 0.05 * (1 - torch.exp(-t_N1 / 0.05))
            phase_NM = (2 * pi * hertz_M.to(self.device) * warped_N1).float()
            fall_NM = torch.exp((-t_N1 / decay_M.to(self.device)).float())
            sum_N: Tensor = (phase_NM.sin() * fall_NM * level_M.to(self.device).float()).sum(1)
            return sum_N
        columns = 128
        rate_M = torch.complex(-1 / decay_M, 2 * pi * hertz_M) / self.rate
        coarse_RM = torch.exp(torch.arange(0, count, columns)[:, None] * rate_M) * level_M
        fine_MC = torch.exp(rate_M[:, None] * torch.arange(columns))
        left = torch.cat([coarse_RM.real, coarse_RM.imag], 1).float().to(self.device)
        right = torch.cat([fine_MC.imag, fine_MC.real], 0).float().to(self.device)
        sum_RC: Tensor = left @ right
        return sum_RC.reshape(-1)[:count]

    def _chirp(self, event: Event, actor: Actor, room: int) -> Tensor:
        """A whistle that rises, falls and trills, 2.5 to 5 kHz."""
        count = min(room, max(1, round(event.seconds * self.rate)))
        t_N = torch.arange(count, device=self.device, dtype=torch.float64) / self.rate
        u_N = t_N / max(event.seconds, 1e-3)
        top = 3300.0 * self.tuning[event.actor] * _PITCH[actor.size] ** 0.4
        # frequency top * (1 + 0.2 sin(1.5 pi u) + 0.04 cos(2 pi 28 t)), integrated
        phase_N = t_N - 0.2 * event.seconds * (torch.cos(1.5 * pi * u_N) - 1) / (1.5 * pi)
        phase_N = phase_N + 0.04 * torch.sin(2 * pi * 28 * t_N) / (2 * pi * 28)
        tone_N = torch.sin(2 * pi * top * phase_N).float()
        u_N, t_N = u_N.float(), t_N.float()
        swell_N = (t_N / 0.003).clamp(max=1) * ((1 - u_N) / 0.2).clamp(0, 1)
        return tone_N * swell_N * (0.72 + 0.28 * torch.cos(2 * pi * 28 * t_N))

    # What lasts: each returns (N,).

    def _sustain(self, sustain: Sustain) -> Tensor:
        actor = self.scene.actors[sustain.actor]
        make: dict[str, Callable[[Sustain, Actor, _Clock], Tensor]] = {
            "roll": self._roll,
            "scrape": self._scrape,
            "engine": self._engine,
            "rain": self._rain,
        }
        clock = _Clock(sustain.times, self.count, self.rate, self.device)
        return make[sustain.kind](sustain, actor, clock) * clock.curve(sustain.level) * clock.within_N

    def _noise(self) -> Tensor:
        return torch.randn(self.count, generator=self.generator)

    def _band(self, noise_N: Tensor, centre: float, octaves: float, *peaks: float) -> Tensor:
        """Noise in a band, `octaves` to each side (Gaussian on a logarithmic axis), and sharp peaks; unit power."""
        gain_F = _band_gain(self.count, self.rate, centre, octaves, peaks).to(self.device)
        band_N: Tensor = torch.fft.irfft(torch.fft.rfft(noise_N.to(self.device)) * gain_F, self.count)
        return band_N

    def _roll(self, sustain: Sustain, actor: Actor, clock: _Clock) -> Tensor:
        """Unevenness of the floor: faster is brighter, and the ball's own unevenness beats once a turn."""
        material = actor.material or "rubber"
        shift = _FLOOR_ROLLS[self.scene.floor] * _PITCH[actor.size] ** 0.5
        low, high = _ROLLS[material]
        own = [pitch * _PITCH[actor.size] for pitch in _BODIES["metal"].hertz[:3]] if material == "metal" else []
        noise_N = self._noise()
        slow_N = self._band(noise_N, low * shift, 0.7, *own)
        fast_N = self._band(noise_N, high * shift, 0.8, *own)
        turns_N = clock.turns((2 + 9 * np.asarray(sustain.rate)) * _PITCH[actor.size])
        beat_N = 1 + 0.45 * torch.sin(2 * pi * turns_N)
        rate_N = clock.curve(sustain.rate)
        return ((1 - rate_N) * slow_N + rate_N * fast_N) * beat_N

    def _scrape(self, sustain: Sustain, actor: Actor, clock: _Clock) -> Tensor:
        """Stick and slip: bursts of noise, with the box as a dull resonator."""
        shift = _PITCH[actor.size] ** 0.5 * _FLOOR_ROLLS[self.scene.floor]
        body_N = self._band(self._noise(), 420.0 * shift, 0.9)
        grit_N = self._band(self._noise(), 1900.0 * shift, 0.7)
        slips_N = clock.turns(14 + 34 * np.asarray(sustain.rate))
        burst_N = torch.exp(-3.5 * slips_N)
        return (body_N + (0.4 + 0.8 * clock.curve(sustain.rate)) * grit_N) * (0.15 + 1.5 * burst_N)

    def _engine(self, sustain: Sustain, actor: Actor, clock: _Clock) -> Tensor:
        """A train of pulses, 40 to 110 Hz by the rate, every second one weaker, and the noise of the exhaust."""
        scale = self.tuning[sustain.actor] * _PITCH[actor.size] ** 0.5
        phase_N = 4 * pi * clock.turns(scale * (20 + 35 * np.asarray(sustain.rate)))
        pulse_N = torch.exp(14 * (torch.cos(phase_N) - 1))
        noise_N = self._band(self._noise(), 700.0, 0.9)
        fired_N = (1 + 0.35 * torch.cos(phase_N / 2)) * (0.6 + 0.4 * clock.curve(sustain.rate))
        return fired_N * (4.2 * torch.sin(phase_N) * pulse_N + 0.6 * noise_N * pulse_N)

    def _rain(self, sustain: Sustain, actor: Actor, clock: _Clock) -> Tensor:
        """The hiss of many far drops, and the pings of near ones, more of them at a higher rate."""
        hiss_N = self._band(self._noise(), 3200.0, 0.9)
        most = int(_DENSITY[1] * self.scene.seconds)
        at_K, chance_K, size_K, pitch_K = torch.rand(4, most, generator=self.generator)
        rate_K = torch.from_numpy(np.interp(at_K.numpy() * self.scene.seconds, sustain.times, sustain.rate))
        falls_K = chance_K * _DENSITY[1] < _DENSITY[0] + (_DENSITY[1] - _DENSITY[0]) * rate_K
        length = round(0.03 * self.rate)
        t_N = torch.arange(length) / self.rate
        wave_KN = torch.exp(-t_N / 0.005) * torch.sin(2 * pi * 1500 * 2 ** (1.6 * pitch_K[:, None]) * t_N)
        wave_KN = wave_KN * ((0.5 + 6 * size_K**4) * falls_K)[:, None]
        near_N = torch.zeros(self.count + length)
        for sample, drop_N in zip((at_K * self.count).long().tolist(), wave_KN, strict=True):
            near_N[sample : sample + length] += drop_N
        rain_N: Tensor = hiss_N + near_N[: self.count].to(self.device)
        return rain_N


class _Clock:
    """Where each sample lies between knots: the curves of a sustained sound, and what they add up to."""

    def __init__(self, times_K: Floats, count: int, rate: int, device: torch.device) -> None:
        assert len(times_K) > 1, "a curve has at least two knots"
        self.device = device
        self.width_K = torch.from_numpy(np.maximum(np.diff(times_K), 1e-9))
        knots_K = torch.tensor(times_K, dtype=torch.float64, device=device)
        t_N = torch.arange(count, device=device, dtype=torch.float64) / rate
        self.k_N = (torch.searchsorted(knots_K, t_N, right=True) - 1).clamp(0, len(times_K) - 2)
        self.within_N = (t_N >= knots_K[0]) & (t_N <= knots_K[-1])
        self.since_N = (t_N.clamp(knots_K[0], knots_K[-1]) - knots_K[self.k_N]).float()

    def _slopes(self, values_K: Floats) -> tuple[Tensor, Tensor]:
        start_K = torch.tensor(values_K, dtype=torch.float64)
        return start_K, torch.diff(start_K) / self.width_K

    def curve(self, values_K: Floats) -> Tensor:
        """Straight lines between the knots, the nearest value outside: (N,)."""
        start_K, slope_K = self._slopes(values_K)
        start_K, slope_K = start_K.float().to(self.device), slope_K.float().to(self.device)
        return start_K[self.k_N] + slope_K[self.k_N] * self.since_N

    def turns(self, hertz_K: Floats) -> Tensor:
        """The phase of an oscillator of frequency `curve(hertz_K)`, which stands still outside: (N,), in [0, 1)."""
        start_K, slope_K = self._slopes(hertz_K)
        steps_K = (start_K[:-1] + start_K[1:]) / 2 * self.width_K
        phase_K = ((torch.cumsum(steps_K, 0) - steps_K) % 1).float().to(self.device)
        start_K, slope_K = start_K.float().to(self.device), slope_K.float().to(self.device)
        k_N, since_N = self.k_N, self.since_N
        return (phase_K[k_N] + since_N * (start_K[k_N] + slope_K[k_N] * since_N / 2)) % 1


@lru_cache(maxsize=256)
def _band_gain(count: int, rate: int, centre: float, octaves: float, peaks: tuple[float, ...]) -> Tensor:
    hertz_F = torch.fft.rfftfreq(count, 1 / rate)
    height_F = torch.log2(hertz_F.clamp(min=1.0) / centre) / octaves
    gain_F = torch.exp(-0.5 * height_F**2)
    for peak in peaks:
        gain_F = gain_F * (0.5 + 3 * torch.exp(-0.5 * ((hertz_F - peak) / (0.02 * peak)) ** 2))
    gain_F[0] = 0
    return gain_F / exp(float((gain_F**2).mean().log()) / 2)
