"""The tables of the grammar: names of values, verbs, and templates of phrases and sentences.

Of the ways to say something the first is its plain name. Templates come as those of training and those kept for the
evaluation ("held out"): other cores, frames and word orders, made of words that training uses too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

WORD: Final = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_SLOT: Final = re.compile(r"\{\w+\}")

COLOUR_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "red": ("red", "crimson", "scarlet", "ruby", "vermilion", "cherry"),
    "orange": ("orange", "tangerine", "apricot", "pumpkin", "carrot"),
    "yellow": ("yellow", "lemon", "golden", "mustard", "canary"),
    "green": ("green", "emerald", "lime", "olive", "jade"),
    "blue": ("blue", "cobalt", "navy", "sapphire", "ultramarine"),
    "purple": ("purple", "violet", "plum", "amethyst", "aubergine"),
    "pink": ("pink", "rose", "fuchsia", "salmon", "bubblegum"),
    "cyan": ("cyan", "turquoise", "teal", "aqua", "aquamarine"),
    "white": ("white", "snowy", "ivory", "milky", "chalky"),
    "black": ("black", "ebony", "jet black", "inky", "sooty"),
}
SIZE_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "small": ("small", "tiny", "little", "miniature"),
    "medium": ("medium", "medium-sized", "middle-sized", "medium size", "average"),
    "large": ("large", "big", "huge", "giant", "enormous"),
}
MATERIAL_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "rubber": ("rubber", "rubbery", "elastic"),
    "wood": ("wooden", "wood", "timber"),
    "metal": ("metal", "steel", "iron", "metallic"),
}
MATERIAL_NOUNS: Final[dict[str, tuple[str, ...]]] = {
    "rubber": ("rubber",),
    "wood": ("wood", "timber"),
    "metal": ("metal", "steel", "iron"),
}
KIND_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "ball": ("ball", "sphere"),
    "box": ("box", "crate", "chest"),
    "bell": ("bell", "church bell"),
    "drum": ("drum", "tom drum"),
    "metronome": ("metronome",),
    "car": ("car", "automobile", "motor car"),
    "bird": ("bird", "songbird", "sparrow"),
    "rain": ("rain",),
    "woman": ("woman", "lady"),
    "man": ("man", "gentleman"),
    "robot": ("robot", "android"),
}
FLOOR_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "wooden": ("on a wooden floor", "on wooden boards", "on a floor of wood", "on wooden planks", "on parquet"),
    "stone": ("on a stone floor", "on stone", "on stone slabs", "on a floor of stone", "on paving stones"),
    "grass": ("on grass", "on the grass", "on a lawn", "in a meadow", "on turf"),
}
LIGHT_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "day": ("by day", "in daylight", "during the day", "in the daytime", "in broad daylight"),
    "sunset": ("at sunset", "under a sunset sky", "at dusk", "in the evening", "as the sun sets"),
    "night": ("at night", "by night", "under the stars", "in the moonlight", "after dark"),
    "indoors": ("indoors", "in a room", "inside", "inside a house", "in a living room"),
}
CAMERA_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "still": ("the camera stays still", "still camera", "static shot"),
    "pan": ("the camera pans", "slow pan", "panning shot", "as the camera pans", "the camera moves sideways"),
    "zoom": ("the camera zooms in", "slow zoom in", "zooming in", "as the camera zooms in", "the camera moves closer"),
}
CAMERA_HEADS: Final[dict[str, tuple[str, ...]]] = {  # can open a sentence: "slow pan: a ball ..."
    "still": ("still camera", "static shot"),
    "pan": ("slow pan", "panning shot"),
    "zoom": ("slow zoom in", "zooming in"),
}
COUNT_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "1": ("once", "one time", "a single time", "1 time"),
    "2": ("twice", "two times", "2 times"),
    "3": ("three times", "thrice", "3 times"),
}
COUNT_NUMBERS: Final[dict[str, tuple[str, ...]]] = {
    "1": ("one", "a single", "1"),
    "2": ("two", "2"),
    "3": ("three", "3"),
}
DIRECTION_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "left": (
        "from the left", "from left to right", "in from the left", "from the left side", "from the left to the right"
    ),
    "right": (
        "from the right", "from right to left", "in from the right", "from the right side", "from the right to the left"
    ),
}  # fmt: skip
SPEED_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "slow": ("slowly", "at a slow pace", "at low speed", "unhurriedly"),
    "fast": ("fast", "quickly", "rapidly", "swiftly", "at high speed"),
}
SPEED_ADVERBS: Final[dict[str, tuple[str, ...]]] = {  # can stand before the verb
    "slow": ("slowly", "unhurriedly"),
    "fast": ("quickly", "rapidly", "swiftly"),
}
RAIN_ADJECTIVES: Final[dict[str, tuple[str, ...]]] = {
    "slow": ("light", "gentle", "soft"),
    "fast": ("heavy", "hard", "strong"),
}
RAIN_ADVERBS: Final[dict[str, tuple[str, ...]]] = {
    "slow": ("lightly", "gently", "softly"),
    "fast": ("heavily", "hard", "strongly"),
}
CLOTHES: Final = ("shirt", "sweater", "top")


class Verb(NamedTuple):
    """ "bounces", "bouncing", "bounce" (one of them), "bounces" (several)."""

    third: str
    ing: str
    noun: str = ""
    nouns: str = ""


VERBS: Final[dict[str, tuple[Verb, ...]]] = {
    "bounce": (
        Verb("bounces", "bouncing", "bounce", "bounces"),
        Verb("hops", "hopping", "hop", "hops"),
        Verb("springs", "springing", "leap", "leaps"),
        Verb("jumps", "jumping", "jump", "jumps"),
    ),
    "roll": (Verb("rolls", "rolling"), Verb("trundles", "trundling"), Verb("travels", "travelling")),
    "slide": (
        Verb("slides", "sliding"),
        Verb("skids", "skidding"),
        Verb("glides", "gliding"),
        Verb("slips", "slipping"),
    ),
    "fall": (
        Verb("falls", "falling"),
        Verb("drops", "dropping"),
        Verb("tumbles down", "tumbling down"),
        Verb("falls down", "falling down"),
    ),
    "ring": (
        Verb("rings", "ringing", "ring", "rings"),
        Verb("chimes", "chiming", "chime", "chimes"),
        Verb("tolls", "tolling", "toll", "tolls"),
        Verb("swings and rings", "swinging and ringing", "peal", "peals"),
    ),
    "strike": (
        Verb("is struck", "being struck", "strike", "strikes"),
        Verb("is hit", "being hit", "hit", "hits"),
        Verb("is beaten", "being beaten", "beat", "beats"),
        Verb("is played", "being played", "blow", "blows"),
    ),
    "tick": (Verb("ticks", "ticking"), Verb("clicks", "clicking"), Verb("swings and ticks", "swinging and ticking")),
    "drive": (
        Verb("drives", "driving"),
        Verb("passes", "passing"),
        Verb("travels", "travelling"),
        Verb("drives by", "driving by"),
    ),
    "fly": (Verb("flies", "flying"), Verb("flaps", "flapping"), Verb("flutters", "fluttering")),
    "chirp": (Verb("chirps", "chirping", "chirp", "chirps"), Verb("tweets", "tweeting", "tweet", "tweets")),
}
MEET: Final = (  # of two balls: "they ...", "the one ... the other"
    ("collide", "collides with"),
    ("crash into each other", "crashes into"),
    ("bump into each other", "bumps into"),
    ("hit each other", "hits"),
    ("knock together", "knocks against"),
)


class Wordings(NamedTuple):
    """Templates, those of training and those kept for the evaluation."""

    train: tuple[str, ...]
    held_out: tuple[str, ...] = ()


# Slots that the caption leaves out are empty, and the blanks close up. {n} and {noun} need a count.
MOVES: Final = Wordings(
    (
        "{v} {speed} {dir}",
        "{v} {dir} {speed}",
        "is {ing} {speed} {dir}",
        "{adverb} {v} {dir}",
        "comes {ing} {speed} {dir}",
        "comes {dir} and {v} {speed}",
        "comes {dir}, {ing} {speed}",
    ),
    ("is {ing} {dir} {speed}", "comes {ing} {dir} {speed}"),
)
BOUNCES: Final = Wordings(
    ("{v} {count}", "{v} {count}", "is {ing} {count}", "makes {n} {noun}", "{v} with {n} {noun}"),
    ("is {ing} and makes {n} {noun}",),
)
RINGS: Final = Wordings(
    ("{v} {count}", "{v} {count}", "is {ing} {count}", "gives {n} {noun}", "{v} with {n} {noun}"),
    ("is {ing} and gives {n} {noun}",),
)
STRIKES: Final = Wordings(
    ("{v} {count}", "is {ing} {count}", "{v} {count}", "gets {n} {noun}", "{v} with {n} {noun}", "sounds {count}"),
    ("is {ing} and gets {n} {noun}", "gets {n} {noun} and sounds"),
)
PHRASES: Final[dict[str, Wordings]] = {
    "bounce": BOUNCES,
    "ring": RINGS,
    "strike": STRIKES,
    "roll": MOVES,
    "slide": MOVES,
    "drive": MOVES,
    "fall": Wordings(("{v}", "is {ing}", "comes {ing}")),
    "tick": Wordings(("{v} {speed}", "is {ing} {speed}", "{adverb} {v}", "keeps {ing} {speed}")),
    "behind": Wordings(
        (
            "rolls {speed} {dir} behind a wall and comes out again",
            "rolls {dir} {speed}, disappears behind a wall and reappears on the other side",
            "{adverb} passes behind a wall {dir} and comes out on the other side",
            "goes {speed} {dir} behind a wall and comes out again",
            "rolls {speed} {dir}, hides behind a wall and reappears",
            "comes {dir}, {ing} {speed}, passes behind a wall and reappears",
        ),
        (
            "passes behind a wall and comes out again, rolling {speed} {dir}",
            "disappears behind a wall, rolling {dir} {speed}, and comes out on the other side",
        ),
    ),
    "fly": Wordings(
        (
            "{v} {speed} {dir} and {chirps} {count}",
            "{v} {dir} {speed} and {chirps} {count}",
            "is {ing} {speed} {dir}, {chirping} {count}",
            "{v} {speed} {dir} with {n} {chirp}",
            "{adverb} {v} {dir}, {chirping} {count}",
            "is {chirping} {count} and {ing} {speed} {dir}",
        ),
        ("{chirps} {count} and {v} {speed} {dir}", "gives {n} {chirp} and {v} {dir} {speed}"),
    ),
    "say": Wordings(
        (
            "says {word}",
            "says {word}",
            "is saying {word}",
            "says the word {word}",
            "speaks the word {word}",
            "speaks: {word}",
        ),
        ("is saying the word {word}", "speaks and says {word}"),
    ),
}
COLLISIONS: Final = Wordings(
    (
        "{a} {l} and {b} {r} roll {speed} and {meet}",
        "{a} rolls {speed} {l} and {meets} {b} {r}",
        "{a} coming {speed} {l} {meets} {b} coming {r}",
        "{a} {l} and {b} {r} {meet} {speed}",
        "two balls {meet} {speed}: {a} {l} and {b} {r}",
        "{a} rolls {speed} {l} and {b} {r}: they {meet}",
    ),
    (
        "rolling balls {meet} {speed}: {a} {l} and {b} {r}",
        "rolling {speed}, {a} {l} {meets} {b} {r}",
        "two balls, {a} {l} and {b} {r}, {meet} {speed}",
    ),
)
RAINS: Final = Wordings(
    (
        "{adj} rain falls",
        "{adj} rain is falling",
        "it rains {adv}",
        "it is raining {adv}",
        "a shower of {adj} rain",
        "rain falls {adv}",
        "{adj} rain comes down",
    ),
    ("there is {adj} rain", "{adj} rain is coming down", "there is a shower of {adj} rain"),
)
CORES: Final = Wordings(
    ("{np} {vp}",) * 6
    + ("there is {np} that {vp}", "here is {np}: {it} {vp}", "look at {np}: {it} {vp}")
    + ("there is {np} and {it} {vp}", "here is {np} that {vp}", "{np}: {it} {vp}", "look at {np} that {vp}"),
    ("{np}, and {it} {vp}", "look: {np} {vp}", "here {np} {vp}", "{np} is here and {vp}"),
)
FACE_CORES: Final = Wordings(
    (*CORES.train, "{word} is the word that {np} says"), (*CORES.held_out, "{word}, says {np}")
)
PAIR_CORES: Final = Wordings(
    (
        "on the left {a}, on the right {b}",
        "{a} on the left and {b} on the right",
        "on the left {a} and on the right {b}",
        "{a} on the left, {b} on the right",
        "to the left {a}, to the right {b}",
        "{a} to the left, {b} to the right",
        "{b} to the right and {a} to the left",
        "to the right {b} and to the left {a}",
        "{b} on the right side, {a} on the left side",
    ),
    ("on the right {b}, on the left {a}", "{b} on the right while {a} on the left", "left: {a}, right: {b}"),
)
LOOSE_PAIR_CORES: Final = Wordings(
    (
        "{a} and {b}",
        "{a} beside {np} that {vp}",
        "{a} next to {np} that {vp}",
        "{a} while {b}",
        "here {a} and there {b}",
    ),
    ("beside {np} that {vp}, {a}", "{a}, and next to it {b}"),
)
THINGS: Final = Wordings(
    ("a {size} {colour} {material} {noun}",) * 5
    + ("a {colour} {size} {material} {noun}", "a {size} {material} {noun} of {colour} colour"),
    ("a {size} {material} {noun} that is {colour}", "a {colour} {material} {noun} of {size} size"),
)
MADE_OF: Final = "a {size} {noun} of {colour} {matter}"
PEOPLE: Final = Wordings(
    ("a {size} {noun} in a {colour} {clothes}",) * 2
    + ("a {size} {noun} wearing a {colour} {clothes}", "a {size} {noun} with a {colour} {clothes}"),
    ("a {size} {noun} in a {clothes} that is {colour}", "a {size} {noun} wearing a {clothes} of {colour} colour"),
)
ROBOTS: Final = Wordings(
    ("a {size} {colour} {noun}",) * 2 + ("a {size} {noun} with a {colour} head",),
    ("a {size} {noun} with a head that is {colour}", "a {size} {noun} with a head of {colour} colour"),
)
PRONOUNS: Final = {"woman": "she", "man": "he"}
FRAMES: Final = Wordings(
    ("{s} {floor} {light}",) * 4
    + ("{s} {light} {floor}", "{light}, {s} {floor}", "{floor}, {s} {light}", "{light} {floor}, {s}")
    + ("{light}: {s} {floor}", "{s}, {floor} {light}"),
    ("{floor} {light}, {s}", "{floor}, {light}, {s}", "{light}, {s}, {floor}"),
)
CAMERA_FRAMES: Final = Wordings(
    ("{s}, {camera}", "{s}, {camera}", "{s}, {camera}", "{head}: {s}"),
    ("{camera}, {s}",),
)


def _words(table: object) -> Iterable[str]:
    """All words of a table of names or templates."""
    if isinstance(table, str):
        yield from WORD.findall(_SLOT.sub(" ", table))
    elif isinstance(table, Mapping):
        for entry in table.values():
            yield from _words(entry)
    elif isinstance(table, tuple):
        for entry in table:
            yield from _words(entry)


VOCABULARY: Final[frozenset[str]] = frozenset(
    _words((
        COLOUR_NAMES, SIZE_NAMES, MATERIAL_NAMES, MATERIAL_NOUNS, KIND_NAMES, FLOOR_NAMES, LIGHT_NAMES, CAMERA_NAMES,
        CAMERA_HEADS, COUNT_NAMES, COUNT_NUMBERS, DIRECTION_NAMES, SPEED_NAMES, SPEED_ADVERBS, RAIN_ADJECTIVES,
        RAIN_ADVERBS, CLOTHES, VERBS, MEET, PHRASES, COLLISIONS, RAINS, CORES, FACE_CORES, PAIR_CORES, LOOSE_PAIR_CORES,
        FRAMES, CAMERA_FRAMES, THINGS, MADE_OF, PEOPLE, ROBOTS, PRONOUNS, "an", "it",
    ))
)  # fmt: skip
"""All words of the grammar, lower case; what faces say is in `speech.WORDS`."""
