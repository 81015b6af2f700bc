"""Sentences as the model reads them: spelling, what is said between quotes, and words that it never saw.

Nothing here needs torch, so that a form can say at once which words are unknown.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path
from typing import Final

_QUOTES: Final = {ord(c): '"' for c in "“”„‟«»"} | {ord(c): "'" for c in "‘’‚‛"}
_SPOKEN: Final = re.compile(r"\"([^\"]*)\"|(?<!\w)'([^'\"]*)'(?!\w)")
WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def pieces(text: str) -> list[tuple[bool, str]]:
    """Split into (is spoken, text) pieces whose spelling is canonical; prose keeps its leading space, if it had one."""
    text = text.encode("utf-8", "replace").decode("utf-8").translate(_QUOTES)  # lone surrogates become "?"
    text = unicodedata.normalize("NFKC", text).lower()
    text = " ".join(unicodedata.normalize("NFKC", text).translate(_QUOTES).split())
    if text.count('"') % 2:  # the last one opens nothing
        head, _, tail = text.rpartition('"')
        text = " ".join(f"{head} {tail}".split())
    found: list[tuple[bool, str]] = []
    end = 0
    for match in _SPOKEN.finditer(text):
        prose = text[end : match.start()].rstrip()
        if prose:
            found.append((False, prose))
        found.append((True, (match[1] if match[1] is not None else match[2]).strip()))
        end = match.end()
    if text[end:].rstrip():
        found.append((False, text[end:].rstrip()))
    return found


def join(parts: Iterable[tuple[bool, str]]) -> str:
    return "".join(f' "{text}"' if spoken else text for spoken, text in parts).strip()


def normalise(text: str) -> str:
    """The spelling that the model sees: NFKC, lower case, single spaces, speech between straight double quotes.

    Curly, angle and single quotes around words count as speech; an apostrophe inside a word and an unpaired quote
    do not.
    """
    return join(pieces(text))


def spoken_words(text: str) -> list[str]:
    """What is said between quotes in `text`, in order, normalised."""
    return [said for spoken, said in pieces(text) if spoken]


def unknown_words(text: str, words: Collection[str], sayings: Collection[str]) -> list[str]:
    """Words of `text` that are not among `words`, each once, in order; speech not among `sayings`, with its quotes."""
    unknown: dict[str, None] = {}
    for spoken, piece in pieces(text):
        if spoken:
            unknown |= {f'"{piece}"': None} if piece and piece not in sayings else {}
        else:
            unknown |= {word: None for word in WORD.findall(piece) if word not in words}
    return list(unknown)


@cache
def known_words(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """(words, sayings) of the captions on which a tokenizer was trained, from the file that it wrote."""
    state = json.loads(path.read_text(encoding="utf-8"))
    return frozenset(state["words"]), frozenset(state["sayings"])
