"""Tells a scene in words: a grammar with many wordings, which knows what each sentence fixes and what it leaves open.

A caption is built from the inside out: noun phrase ("a crimson rubber ball"), verb phrase ("hops twice"), core
("there is {np} that {vp}"), and around it where, when and how it is filmed. Held-out wordings take their cores and
frames from reserved tables and prefer reserved pairs of colour name and noun; every single word is met in training.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Final, TypeVar

from numpy.random import PCG64, Generator

from phonofilm.playhouse.grammar import (
    CAMERA_FRAMES,
    CAMERA_HEADS,
    CAMERA_NAMES,
    CLOTHES,
    COLLISIONS,
    COLOUR_NAMES,
    CORES,
    COUNT_NAMES,
    COUNT_NUMBERS,
    DIRECTION_NAMES,
    FACE_CORES,
    FLOOR_NAMES,
    FRAMES,
    KIND_NAMES,
    LIGHT_NAMES,
    LOOSE_PAIR_CORES,
    MADE_OF,
    MATERIAL_NAMES,
    MATERIAL_NOUNS,
    MEET,
    PAIR_CORES,
    PEOPLE,
    PHRASES,
    PRONOUNS,
    RAIN_ADJECTIVES,
    RAIN_ADVERBS,
    RAINS,
    ROBOTS,
    SIZE_NAMES,
    SPEED_ADVERBS,
    SPEED_NAMES,
    THINGS,
    VERBS,
    VOCABULARY,
    WORD,
    Wordings,
)
from phonofilm.playhouse.scene import Actor, Scene

__all__ = [
    "EXAMPLES", "VOCABULARY", "attributes", "describe", "describe_with_claims", "unknown_words",
]  # fmt: skip

T = TypeVar("T")

MAX_WORDS: Final = 40
MAX_SYMBOLS: Final = 44  # words, punctuation and the letters of what is said: fits the text encoder with room to spare
DENSE_SHARE: Final = 0.55  # of the captions in style "mixed"
PLAIN_SHARE: Final = 0.5  # how often the plainest name is taken; the synonyms share the rest
PLAIN_KIND_SHARE: Final = 0.7  # the same, for the name of the actor

SHORT_SHARES: Final = {
    "colour": 0.85, "size": 0.25, "material": 0.25, "direction": 0.5, "speed": 0.5, "count": 0.5, "side": 0.5,
    "floor": 0.2, "light": 0.2, "camera": 0.2,
}  # fmt: skip
"""How often a short caption names what it may leave out. It always names kinds, acts and what is said."""
STILL_SHARE: Final = 0.4  # of the dense captions that say that the camera stays still (a quarter of that in short ones)

EXAMPLES: Final[tuple[str, ...]] = (
    "a red ball bounces on a wooden floor",
    "a large blue metal ball bounces three times on a stone floor in a room",
    "a small yellow rubber ball rolls slowly from the left on grass, the camera pans",
    "an orange ball rolls from the right behind a wall and comes out again",
    "a green ball from the left and a purple ball from the right collide",
    "a big cyan box slides fast from the right on parquet",
    "a crimson crate falls on paving stones at sunset",
    "a golden bell rings twice at dusk",
    "a white drum is struck three times by day",
    "a black metronome ticks fast in a living room",
    "a pink car drives quickly from left to right at night",
    "a turquoise bird flies in from the left and chirps twice, as the camera zooms in",
    "heavy rain falls on a stone floor at night",
    'a woman in a blue shirt says "hello"',
    'a large orange robot says "music" under the stars',
    'on the left a red drum is struck once, on the right a man in a green sweater says "yes"',
)
"""Prompts worth trying."""


def attributes(scene: Scene) -> frozenset[str]:
    """The names of everything that a caption of `scene` can fix.

    "0.colour", "1.count", ... for actors; "side" (who stands left, who right), "floor", "light", "camera".
    """
    found = {"floor", "light", "camera"}
    for i, actor in enumerate(scene.actors):
        found |= {f"{i}.kind", f"{i}.act"}
        for name in ("colour", "size", "material", "direction", "speed", "count", "word"):
            if getattr(actor, name) is not None and not (actor.kind == "rain" and name == "size"):
                found.add(f"{i}.{name}")
    if len(scene.actors) == 2 and scene.actors[0].act != "collide":
        found.add("side")
    return frozenset(found)


def describe(scene: Scene, seed: int, style: str = "mixed", wording: str = "train") -> str:
    """A caption of `scene`: see `describe_with_claims`."""
    return describe_with_claims(scene, seed, style, wording)[0]


def describe_with_claims(
    scene: Scene, seed: int, style: str = "mixed", wording: str = "train"
) -> tuple[str, frozenset[str]]:
    """A caption of `scene` (at most 40 words), and the `attributes` that it names. All others it leaves open.

    The same scene, seed (>= 0), style and wording give the same caption.
    style: "dense" names every attribute (of a camera that stands still it may say nothing), "short" a few, "mixed" is
    one of the two by chance. wording: "train", or "held_out" for sentences that "train" never forms, of the same words.
    Raises ValueError for an unknown style or wording and for a negative seed.
    """
    if style not in ("dense", "short", "mixed"):
        raise ValueError(f"unknown style {style!r}; allowed: dense, short, mixed")
    if wording not in ("train", "held_out"):
        raise ValueError(f"unknown wording {wording!r}; allowed: train, held_out")
    if seed < 0:
        raise ValueError(f"seed {seed}: must not be negative")
    rng = Generator(PCG64([seed, scene.seed, zlib.crc32(b"captions")]))
    dense = style == "dense" or (rng.random() < DENSE_SHARE and style == "mixed")
    named = _named(rng, scene, dense)
    teller = _Teller(rng, named, held_out=wording == "held_out")
    while True:
        text = teller.tell(scene)
        if len(text.split()) <= MAX_WORDS and len(_symbols(text)) <= MAX_SYMBOLS:
            return text, named


def unknown_words(prompt: str) -> list[str]:
    """The words of a prompt that no caption uses, and those between quotes that no face can say; each once."""
    from phonofilm.playhouse.speech import WORDS

    found: list[str] = []
    for match in _QUOTED_OR_WORD.finditer(prompt.lower()):
        said = next((part for part in match.groups() if part is not None), None)
        if said is None:
            found += [match[0]] if match[0] not in VOCABULARY else []
        elif said.strip() not in WORDS:
            found += [word for word in WORD.findall(said) if word not in WORDS]
    return list(dict.fromkeys(found))


_DOUBLE: Final = r"\"\u201c\u201d\u201e\u00ab\u00bb"  # straight, curly, low and angle
_QUOTED_OR_WORD: Final = re.compile(
    rf"[{_DOUBLE}]([^{_DOUBLE}]*)[{_DOUBLE}]|(?<!\w)['\u2018]([^'{_DOUBLE}\u2018\u2019]*)['\u2019](?!\w)|{WORD.pattern}"
)


def _symbols(text: str) -> list[str]:
    """Words, punctuation marks and, of what is said, letters: about the tokens of a caption."""
    head, *rest = text.split('"')
    return [
        s for i, part in enumerate((head, *rest)) for s in (list(part) if i % 2 else re.findall(r"\w+|[^\w\s]", part))
    ]


def _named(rng: Generator, scene: Scene, dense: bool) -> frozenset[str]:
    """Choose what a caption names."""
    still = scene.camera == "still"
    named: set[str] = set()
    for key in sorted(attributes(scene)):
        name = key.rpartition(".")[2]
        share = 1.0 if dense else SHORT_SHARES.get(name, 1.0)
        if name == "camera" and still:
            share = STILL_SHARE if dense else STILL_SHARE / 4
        if rng.random() < share:
            named.add(key)
    if scene.actors[0].act == "collide":  # one phrase speaks of both
        for name in ("direction", "speed"):
            named = named | {f"1.{name}"} if f"0.{name}" in named else named - {f"1.{name}"}
    return frozenset(named)


def _reserved(colour: str, noun: str) -> bool:
    """Whether this colour name is never put to this noun in training."""
    return zlib.crc32(f"{colour} {noun}".encode()) % 7 == 0


class _Teller:
    """Draws the words for one caption."""

    def __init__(self, rng: Generator, named: frozenset[str], held_out: bool) -> None:
        self.rng = rng
        self.named = named
        self.held_out = held_out

    def tell(self, scene: Scene) -> str:
        text = self._core(scene)
        floor = self._name(FLOOR_NAMES[scene.floor]) if "floor" in self.named else ""
        light = self._name(LIGHT_NAMES[scene.light]) if "light" in self.named else ""
        if floor or light:
            text = _fill(self._any(self._pool(FRAMES)), s=text, floor=floor, light=light)
        if "camera" in self.named:
            camera, head = self._name(CAMERA_NAMES[scene.camera]), self._any(CAMERA_HEADS[scene.camera])
            text = _fill(self._any(self._pool(CAMERA_FRAMES)), s=text, camera=camera, head=head)
        text = re.sub(r"\ba (?=[aeiou])", "an ", text)
        draw = self.rng.random()
        if draw < 0.25:
            return f"{text[0].upper()}{text[1:]}."
        return f"{text}." if draw < 0.35 else text

    def _core(self, scene: Scene) -> str:
        first = scene.actors[0]
        if first.kind == "rain":
            speed = first.speed if "0.speed" in self.named else None
            adjective = self._any(RAIN_ADJECTIVES[speed]) if speed else ""
            adverb = self._any(RAIN_ADVERBS[speed]) if speed else ""
            return _fill(self._any(self._pool(RAINS)), adj=adjective, adv=adverb)
        if first.act == "collide":
            return self._collision(scene)
        if len(scene.actors) == 2:
            pool = PAIR_CORES if "side" in self.named else LOOSE_PAIR_CORES
            phrases = [
                (self._noun_phrase(actor, i), self._verb_phrase(actor, i)) for i, actor in enumerate(scene.actors)
            ]
            a, b = (f"{np} {vp}" for np, vp in phrases)
            return _fill(self._any(self._pool(pool)), a=a, b=b, np=phrases[1][0], vp=phrases[1][1])
        return _fill(
            self._any(self._pool(FACE_CORES if first.word is not None else CORES)),
            np=self._noun_phrase(first, 0),
            vp=self._verb_phrase(first, 0),
            it=PRONOUNS.get(first.kind, "it"),
            word=f'"{first.word}"',
        )

    def _collision(self, scene: Scene) -> str:
        meet, meets = self._name(MEET)
        turned = "0.direction" in self.named
        speed = scene.actors[0].speed if "0.speed" in self.named else None
        return _fill(
            self._any(self._pool(COLLISIONS)),
            a=self._noun_phrase(scene.actors[0], 0),
            b=self._noun_phrase(scene.actors[1], 1),
            l="from the left" if turned else "",
            r="from the right" if turned else "",
            speed=self._name(SPEED_NAMES[speed]) if speed else "",
            meet=meet,
            meets=meets,
        )

    def _noun_phrase(self, actor: Actor, i: int) -> str:
        person = actor.kind in PRONOUNS
        noun = self._name(KIND_NAMES[actor.kind], PLAIN_KIND_SHARE)
        clothes = self._any(CLOTHES)
        size = self._name(SIZE_NAMES[actor.size]) if f"{i}.size" in self.named else ""
        material = actor.material if f"{i}.material" in self.named else None
        slots = {
            "noun": noun,
            "clothes": clothes,
            "size": size,
            "material": self._name(MATERIAL_NAMES[material]) if material else "",
            "matter": self._any(MATERIAL_NOUNS[material]) if material else "",
            "colour": "",
        }
        if actor.colour is None or f"{i}.colour" not in self.named:
            return _fill("a {size} {material} {noun}", **slots)
        slots["colour"] = self._colour(actor.colour, clothes if person else noun)
        if material and not self.held_out and self.rng.random() < 0.15:
            return _fill(MADE_OF, **slots)
        pool = PEOPLE if person else ROBOTS if actor.kind == "robot" else THINGS
        choices = self._pool(pool, share=0.5)
        if not size or "size" in size or " " in size:
            choices = [choice for choice in choices if "{size} size" not in choice]
        return _fill(self._any(choices), **slots)

    def _verb_phrase(self, actor: Actor, i: int) -> str:
        counted = actor.count is not None and f"{i}.count" in self.named
        speed = actor.speed if f"{i}.speed" in self.named else None
        direction = actor.direction if f"{i}.direction" in self.named else None
        verb = self._name(VERBS[actor.act]) if actor.act in VERBS else VERBS["roll"][0]
        sound = self._name(VERBS["chirp"]) if actor.act == "fly" else verb
        phrases = PHRASES[actor.act]
        choices = [t for t in self._pool(phrases, share=0.5) if counted or "{n}" not in t]
        choices = choices or [t for t in phrases.train if "{n}" not in t]
        once = actor.count == 1
        return _fill(
            self._any(choices),
            v=verb.third,
            ing=verb.ing,
            noun=verb.noun if once else verb.nouns,
            chirps=sound.third,
            chirping=sound.ing,
            chirp=sound.noun if once else sound.nouns,
            count=self._name(COUNT_NAMES[str(actor.count)]) if counted else "",
            n=self._any(COUNT_NUMBERS[str(actor.count)]) if counted else "",
            speed=self._name(SPEED_NAMES[speed]) if speed else "",
            adverb=self._any(SPEED_ADVERBS[speed]) if speed else "",
            dir=self._name(DIRECTION_NAMES[direction]) if direction else "",
            word=f'"{actor.word}"',
        )

    def _colour(self, colour: str, noun: str) -> str:
        """A name of the colour; pairs of synonym and noun that training avoids are for held-out wordings."""
        plain, *others = COLOUR_NAMES[colour]
        kept = [name for name in others if _reserved(name, noun)]
        if self.held_out and kept:
            return self._any(kept)
        return self._name((plain, *(name for name in others if name not in kept)))

    def _pool(self, wordings: Wordings, share: float = 1.0) -> Sequence[str]:
        """The templates to choose from; held-out wordings use theirs with probability `share`."""
        return (
            wordings.held_out if self.held_out and wordings.held_out and self.rng.random() < share else wordings.train
        )

    def _any(self, options: Sequence[T]) -> T:
        return options[int(self.rng.integers(len(options)))]

    def _name(self, options: Sequence[T], plain_share: float = PLAIN_SHARE) -> T:
        """The first option as often as `plain_share` says, else any of the others."""
        plain = len(options) == 1 or self.rng.random() < plain_share
        return options[0] if plain else self._any(options[1:])


def _fill(template: str, **slots: str) -> str:
    """Fill a template; blanks and punctuation around empty slots close up."""
    text = " ".join(template.format(**slots).split())
    return re.sub(r"( ?,)+|( ?:)+", lambda mark: mark[0].strip()[-1], text).strip(" ,:")
