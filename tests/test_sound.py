"""The sound of a performance: on time, the same again, and different for what is different."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from phonofilm.playhouse import sound, speech
from phonofilm.playhouse.scene import FLOORS, KINDS, MATERIALS, SIZES, Actor, Event, Performance, Scene, Sustain

RATE = 16000


def play(
    actors: Actor | Sequence[Actor],
    events: Sequence[Event] = (),
    sustains: Sequence[Sustain] = (),
    floor: str = "wooden",
    seed: int = 0,
    seconds: float = 3.0,
) -> Performance:
    cast = (actors,) if isinstance(actors, Actor) else tuple(actors)
    extras = {"pitch": 0.5, "tempo": 1.0}
    return Performance(Scene(cast, floor, seed=seed, seconds=seconds), (), tuple(events), tuple(sustains), extras)


def ball(material: str = "rubber", size: str = "medium") -> Actor:
    return Actor("ball", "bounce", "red", size, material, count=1)


def lasting(kind: str, rate: float, level: float = 0.7, start: float = 0.0, end: float = 3.0) -> Sustain:
    times = np.arange(start, end + 0.01, 0.02)
    return Sustain(kind, 0, times, np.full_like(times, level), np.full_like(times, rate))


STRUCK = {
    **{m: (ball(m), Event("impact", 0, 0.7312)) for m in MATERIALS},
    "box": (Actor("box", "fall", "red"), Event("impact", 0, 0.7312)),
    "bell": (Actor("bell", "ring", "red"), Event("ring", 0, 0.7312)),
    "drum": (Actor("drum", "strike", "red"), Event("strike", 0, 0.7312)),
    "metronome": (Actor("metronome", "tick", "red"), Event("tick", 0, 0.7312)),
    "bird": (Actor("bird", "fly", "red"), Event("chirp", 0, 0.7312, 1.0, 0.2)),
}
LASTING = {
    "roll": ball("wood"),
    "scrape": Actor("box", "slide", "red"),
    "engine": Actor("car", "drive", "red"),
    "rain": Actor("rain", "rain"),
}


def everything() -> list[Performance]:
    plays = [play(actor, [event], seed=i) for i, (actor, event) in enumerate(STRUCK.values())]
    plays += [play(actor, [], [lasting(kind, 0.5)], seed=40 + i) for i, (kind, actor) in enumerate(LASTING.items())]
    plays.append(play([ball("wood"), ball("metal")], [Event("knock", 0, 1.0)], [lasting("roll", 0.3)], seed=7))
    plays.append(play(Actor("robot", "say", "red", word="music"), [Event("word", 0, 0.7, 1.0, 0.9)], seed=8))
    return plays


def spectrum(samples: Tensor) -> tuple[np.ndarray, np.ndarray]:
    power = np.abs(np.fft.rfft(samples.double().numpy())) ** 2
    return np.fft.rfftfreq(len(samples), 1 / RATE), power / power.sum()


def centroid(samples: Tensor) -> float:
    """The middle of the spectrum on a logarithmic axis, in Hz."""
    hertz, power = spectrum(samples)
    return float(np.exp(np.sum(power[1:] * np.log(hertz[1:])) / power[1:].sum()))


def test_alone_and_in_a_batch_bit_by_bit() -> None:
    plays = everything()
    batch = sound.synthesize(plays)
    assert batch.dtype == torch.float32 and batch.shape == (len(plays), 3 * RATE)
    assert batch.abs().max() <= sound.LIMIT
    assert torch.equal(batch, sound.synthesize(plays))
    assert torch.equal(batch.flip(0), sound.synthesize(plays[::-1]))
    for one, samples in zip(plays, batch, strict=True):
        assert torch.equal(sound.synthesize([one])[0], samples)


def test_seeds_differ() -> None:
    for actor, sustain in ((ball(), lasting("roll", 0.5)), (Actor("rain", "rain"), lasting("rain", 0.5))):
        one, two = sound.synthesize([play(actor, [], [sustain], seed=s) for s in (1, 2)])
        assert torch.corrcoef(torch.stack([one, two]))[0, 1].abs() < 0.2


@pytest.mark.parametrize("name", STRUCK)
@pytest.mark.parametrize("floor", FLOORS)
def test_events_start_on_time_after_silence(name: str, floor: str) -> None:
    actor, event = STRUCK[name]
    samples = sound.synthesize([play(actor, [event], floor=floor)])[0].numpy()
    start = round(event.time * RATE)
    assert not samples[:start].any()
    assert samples[start : start + 2].any()
    loud = np.flatnonzero(np.abs(samples) > 0.25 * np.abs(samples).max())[0]
    assert 0 <= loud - start <= (0.005 if name == "bird" else 0.002) * RATE


def test_words_are_where_and_as_they_are_said() -> None:
    actor = Actor("woman", "say", "red", word="tomorrow")
    samples = sound.synthesize([play(actor, [Event("word", 0, 0.5, 1.0, speech.duration("tomorrow"))])])[0].numpy()
    said = speech.say("tomorrow", "woman")
    assert np.array_equal(samples[8000 : 8000 + len(said)], said)
    assert not samples[:8000].any() and not samples[8000 + len(said) :].any()
    late = sound.synthesize([play(actor, [Event("word", 0, 2.8, 1.0, 0.9)])])[0]  # cut by the end of the clip
    assert late[-1600:].any()


def test_an_event_outside_the_clip_is_not_heard() -> None:
    events = [Event("impact", 0, -0.1), Event("impact", 0, 3.0), Event("impact", 0, 9.0)]
    assert not sound.synthesize([play(ball(), events)]).any()


def test_materials_sound_different() -> None:
    rubber, wood, metal = (sound.synthesize([play(ball(m), [Event("impact", 0, 0.2)])])[0] for m in MATERIALS)
    assert 2 * centroid(rubber) < centroid(wood) and 1.3 * centroid(wood) < centroid(metal)

    def ring(samples: Tensor) -> float:  # seconds from the blow until 95 % of the energy is out
        done = torch.cumsum(samples.square(), 0) / samples.square().sum()
        return int((done < 0.95).sum()) / RATE - 0.2

    assert ring(rubber) < 0.15 and ring(wood) < 0.15 and ring(metal) > 0.3
    rolls = [sound.synthesize([play(ball(m), [], [lasting("roll", 0.5)])])[0] for m in MATERIALS]
    assert 1.5 * centroid(rolls[0]) < centroid(rolls[1]) and 1.5 * centroid(rolls[1]) < centroid(rolls[2])


@pytest.mark.parametrize("name", STRUCK)
def test_larger_is_lower(name: str) -> None:
    actor, event = STRUCK[name]
    pitches = []
    for size in SIZES:
        sized = Actor(actor.kind, actor.act, actor.colour, size, actor.material)
        samples = sound.synthesize([play(sized, [event], floor="stone")])[0]
        pitches.append(centroid(samples))
    assert pitches[0] > 1.08 * pitches[1] > 1.08**2 * pitches[2]


def test_floors_and_strength_are_heard() -> None:
    hits = [Event("impact", 0, 0.2, strength) for strength in (1.0, 0.5)]
    wooden, stone, grass = (sound.synthesize([play(ball("wood"), hits[:1], floor=f)])[0] for f in FLOORS)
    assert centroid(grass) < 0.8 * centroid(wooden) < 0.8 * centroid(stone)
    soft = sound.synthesize([play(ball("wood"), hits[1:])])[0]
    assert 0.4 < soft.square().sum().sqrt() / wooden.square().sum().sqrt() < 0.6
    assert centroid(soft) < centroid(wooden)


def test_a_knock_has_both_balls_and_a_metronome_two_sounds() -> None:
    def knock(first: str, second: str) -> float:
        return centroid(sound.synthesize([play([ball(first), ball(second)], [Event("knock", 0, 1.0)])])[0])

    assert knock("rubber", "rubber") < knock("rubber", "wood") < knock("metal", "metal")
    ticks = [Event("tick", 0, 0.5 * k + 0.1) for k in range(4)]
    samples = sound.synthesize([play(Actor("metronome", "tick", "red"), ticks)])[0]
    tick, tock, again, _ = (centroid(samples[int(8000 * k + 1600) : 8000 * k + 3200]) for k in range(4))
    assert tick == pytest.approx(again, rel=0.01) and tick > 1.25 * tock


@pytest.mark.parametrize("kind", LASTING)
def test_what_lasts_follows_its_level_and_its_time(kind: str) -> None:
    times = np.arange(0, 3.02, 0.02)
    level = 0.5 - 0.5 * np.cos(2 * np.pi * times / 3)
    samples = sound.synthesize([play(LASTING[kind], [], [Sustain(kind, 0, times, level, np.full_like(times, 0.5))])])[0]
    heard = samples.square().reshape(30, 1600).mean(1).sqrt().numpy()
    assert np.corrcoef(heard, np.interp(np.arange(30) / 10 + 0.05, times, level))[0, 1] > 0.95
    part = sound.synthesize([play(LASTING[kind], [], [lasting(kind, 0.5, start=1.0, end=2.0)])])[0]
    assert not part[:RATE].any() and not part[2 * RATE + 1 :].any() and part[RATE : 2 * RATE].square().mean() > 1e-5


def test_the_engine_runs_at_the_pitch_of_its_rate() -> None:
    for rate, hertz in ((0.0, 40), (1.0, 110)):
        samples = sound.synthesize([play(Actor("car", "drive", "red"), [], [lasting("engine", rate)])])[0]
        axis, power = spectrum(samples)
        comb = {f: sum(power[np.abs(axis - f * k) < 1.0].sum() for k in (1, 2, 3, 4)) for f in np.arange(38, 116, 0.25)}
        assert max(comb, key=lambda f: comb[f]) == pytest.approx(hertz, rel=0.04)


def test_clips_never_clip() -> None:
    loud = [Event("impact", 0, 0.5 + 0.0001 * k) for k in range(12)]
    samples = sound.synthesize([play(ball(), loud, [lasting("roll", 1.0, level=1.0)])])[0]
    assert 0.85 < samples.abs().max() <= sound.LIMIT


def test_classes_and_refusals() -> None:
    assert {sound.sound_class(kind) for kind in KINDS} | {sound.sound_class("ball", m) for m in MATERIALS} == set(
        sound.SOUND_CLASSES
    )
    with pytest.raises(ValueError, match="'dog'"):
        sound.sound_class("dog")
    with pytest.raises(ValueError, match=r"\[2.0, 3.0\]"):
        sound.synthesize([play(ball(), seconds=2.0), play(ball())])
    with pytest.raises(ValueError, match=r"\[\]"):
        sound.synthesize([])
