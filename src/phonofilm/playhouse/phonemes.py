"""The sounds of speech as numbers: what the vocal tract and the lips do in each phone, and how the words are spelt.

Formants are those of a man: vowels after Peterson & Barney (JASA 24, 1952, table II), consonants after
Klatt (JASA 67, 1980, table III). Phone names are those of ARPAbet, with 1 for a stressed vowel and 0 for a weak one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

HISS_S: Final = (6200.0, 1200.0)  # centre and half width, Hz, of the noise made at a narrowing
HISS_SH: Final = (3100.0, 900.0)
HISS_F: Final = (4600.0, 3000.0)
HISS_TH: Final = (6000.0, 2200.0)
BURST_P: Final = (900.0, 600.0)
BURST_T: Final = (4400.0, 1300.0)
BURST_K: Final = (1900.0, 500.0)


@dataclass(frozen=True)
class Segment:
    """A stretch of speech with one target of the vocal tract. Levels are 0..1."""

    seconds: float
    formants: tuple[float, float, float] | None  # Hz; None: those of the next segment
    opening: float  # of the mouth
    rounding: float = 0.0  # of the lips
    voice: float = 1.0  # the vocal folds: gates the level that the opening sets
    breath: float = 0.0  # noise at the vocal folds
    nasal: float = 0.0
    hiss: float = 0.0  # noise at a narrowing or a release
    band: tuple[float, float] = HISS_F


def _vowel(seconds: float, f1: float, f2: float, f3: float, opening: float, rounding: float = 0.0) -> Segment:
    return Segment(seconds, (f1, f2, f3), opening, rounding)


def _fricative(f1: float, f2: float, f3: float, opening: float, hiss: float, band: tuple[float, float]) -> Segment:
    return Segment(0.11, (f1, f2, f3), opening, voice=0.0, hiss=hiss, band=band)


def _stop(
    formants: tuple[float, float, float], opening: float, burst: tuple[float, float], voiced: bool
) -> tuple[Segment, ...]:
    closure = Segment(0.075, formants, opening, voice=0.35 if voiced else 0.0)
    if voiced:
        return closure, Segment(0.015, formants, opening + 0.1, hiss=0.16, band=burst)
    return closure, Segment(0.035, formants, opening + 0.15, voice=0.0, breath=0.16, hiss=0.24, band=burst)


_P: Final = (400.0, 1100.0, 2150.0)
_T: Final = (400.0, 1600.0, 2600.0)
_K: Final = (300.0, 1800.0, 2600.0)

PHONES: Final[dict[str, tuple[Segment, ...]]] = {
    # vowels
    "IY": (_vowel(0.20, 270, 2290, 3010, 0.38),),
    "IH": (_vowel(0.15, 390, 1990, 2550, 0.45),),
    "EH": (_vowel(0.19, 530, 1840, 2480, 0.68),),
    "AE": (_vowel(0.21, 660, 1720, 2410, 0.85),),
    "AA": (_vowel(0.23, 730, 1090, 2440, 1.0),),
    "AO": (_vowel(0.22, 570, 840, 2410, 0.85, 0.5),),
    "UH": (_vowel(0.15, 440, 1020, 2240, 0.45, 0.6),),
    "UW": (_vowel(0.24, 300, 870, 2240, 0.34, 1.0),),
    "AH": (_vowel(0.18, 640, 1190, 2390, 0.8),),
    "AX": (_vowel(0.13, 500, 1400, 2400, 0.5),),
    "ER": (_vowel(0.19, 490, 1350, 1690, 0.5, 0.35),),
    "OW": (_vowel(0.16, 560, 920, 2350, 0.72, 0.6), _vowel(0.12, 400, 800, 2280, 0.4, 1.0)),
    "AY": (_vowel(0.17, 730, 1200, 2440, 0.95), _vowel(0.11, 360, 2050, 2650, 0.42)),
    "EY": (_vowel(0.15, 490, 1900, 2500, 0.62), _vowel(0.12, 330, 2200, 2850, 0.4)),
    "AW": (_vowel(0.17, 730, 1200, 2440, 0.95), _vowel(0.12, 400, 900, 2300, 0.42, 0.9)),
    # glides and liquids
    "W": (Segment(0.09, (290, 610, 2150), 0.14, 1.0, voice=0.85),),
    "Y": (Segment(0.08, (260, 2200, 3020), 0.22, voice=0.85),),
    "R": (Segment(0.09, (320, 1060, 1400), 0.25, 0.45, voice=0.85),),
    "L": (Segment(0.09, (320, 1050, 2880), 0.28, voice=0.75),),
    # nasals: sound while the mouth is shut
    "M": (Segment(0.10, (350, 1100, 2130), 0.0, nasal=1.0),),
    "N": (Segment(0.09, (350, 1600, 2500), 0.12, nasal=1.0, voice=0.75),),
    # fricatives
    "F": (_fricative(340, 1100, 2080, 0.06, 0.11, HISS_F),),
    "V": (Segment(0.08, (240, 1100, 2080), 0.06, voice=0.9, hiss=0.05, band=HISS_F),),
    "TH": (_fricative(320, 1290, 2540, 0.16, 0.09, HISS_TH),),
    "S": (_fricative(320, 1390, 2530, 0.12, 0.22, HISS_S),),
    "Z": (Segment(0.10, (260, 1390, 2530), 0.12, voice=0.8, hiss=0.13, band=HISS_S),),
    "HH": (Segment(0.08, None, 0.3, voice=0.0, breath=0.14),),
    # stops: a closure, then a release
    "P": _stop(_P, 0.0, BURST_P, voiced=False),
    "T": _stop(_T, 0.12, BURST_T, voiced=False),
    "K": _stop(_K, 0.2, BURST_K, voiced=False),
    "B": _stop(_P, 0.0, BURST_P, voiced=True),
    "D": _stop(_T, 0.12, BURST_T, voiced=True),
    "G": _stop(_K, 0.2, BURST_K, voiced=True),
    "CH": (
        Segment(0.06, (350, 1800, 2820), 0.1, 0.4, voice=0.0),
        Segment(0.09, (350, 1800, 2820), 0.16, 0.5, voice=0.0, hiss=0.24, band=HISS_SH),
    ),
}

SPELLING: Final[dict[str, str]] = {
    "hello": "HH AX0 L OW1",
    "yes": "Y EH1 S",
    "no": "N OW1",
    "mama": "M AA1 M AA0",
    "picture": "P IH1 K CH ER0",
    "moon": "M UW1 N",
    "water": "W AO1 T ER0",
    "fire": "F AY1 ER0",
    "music": "M Y UW1 Z IH0 K",
    "banana": "B AX0 N AE1 N AX0",
    "apple": "AE1 P AX0 L",
    "tomorrow": "T AX0 M AO1 R OW0",
    "zero": "Z IH1 R OW0",
    "three": "TH R IY1",
    "seven": "S EH1 V AX0 N",
    "cinema": "S IH1 N AX0 M AX0",
    "robot": "R OW1 B AA0 T",
    "stop": "S T AA1 P",
    "open": "OW1 P AX0 N",
    "coffee": "K AO1 F IY0",
    "chocolate": "CH AO1 K L AX0 T",
    "window": "W IH1 N D OW0",
    "garden": "G AA1 R D AX0 N",
    "elephant": "EH1 L AX0 F AX0 N T",
    "potato": "P AX0 T EY1 T OW0",
    "goodbye": "G UH0 D B AY1",
    "happy": "HH AE1 P IY0",
    "house": "HH AW1 S",
}
