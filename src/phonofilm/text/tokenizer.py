"""Sentence → token ids: a small byte-level BPE for the prose, plain bytes for what is said between quotes.

Every string can be encoded (bytes are the fallback), and decoding gives `normalise(text)` back exactly. What a face
says is spelled byte by byte between an `OPEN` and a `CLOSE` token, so that an unseen word is only a new spelling.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from phonofilm.errors import CheckpointError
from phonofilm.files import replacing
from phonofilm.text.words import WORD, join, pieces, unknown_words

PAD: Final = 0
START: Final = 1  # opens every sequence, so that the empty prompt is a sequence too
OPEN: Final = 2
CLOSE: Final = 3
SPECIAL: Final = 4  # ids below are ours, ids from here on are the BPE's
MAX_LENGTH: Final = 48


def _byte_alphabet() -> list[str]:
    """The printable character by which a byte-level BPE stands for each of the 256 bytes (Radford et al. 2019)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(shifted)) for b in range(256)]


class Tokenizer:
    """Text ⇄ ids. `state` is what `save` writes: the BPE as the `tokenizers` library spells it, and the known words.

    `words` and `sayings` are the prose words and the quoted speech of the captions on which it was trained; they serve
    only to tell a user which words the model never saw.
    """

    def __init__(self, bpe: dict[str, Any], words: Iterable[str], sayings: Iterable[str]) -> None:
        from tokenizers import Tokenizer as BPE

        self._state = bpe
        self._bpe: Any = BPE.from_str(json.dumps(bpe))
        ids: list[int | None] = [self._bpe.token_to_id(char) for char in _byte_alphabet()]
        if None in ids:
            raise ValueError(f"tokenizer has no token for byte {ids.index(None)}; all 256 bytes are needed")
        self._byte_ids = [SPECIAL + i for i in ids if i is not None]
        self.words = frozenset(words)
        self.sayings = frozenset(sayings)

    @property
    def size(self) -> int:
        """Number of ids, the special ones included: the `vocab` of a `TextEncoderConfig`."""
        return SPECIAL + int(self._bpe.get_vocab_size())

    def ids(self, text: str) -> list[int]:
        """All ids of `text`, neither cut nor padded; the first is `START`. `len(ids) > MAX_LENGTH` tells of a cut."""
        ids = [START]
        for i, (spoken, piece) in enumerate(pieces(text)):
            if spoken:
                ids += [OPEN, *(self._byte_ids[b] for b in piece.encode()), CLOSE]
            else:
                prose = piece if i else f" {piece}"  # the first word is the same token as in mid-sentence
                ids += [SPECIAL + int(t) for t in self._bpe.encode(prose).ids]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The normalised text of `ids`; padding and `START` are skipped, an unclosed quote is closed."""
        tokens: list[str] = [""]
        for i in ids:
            if i in (OPEN, CLOSE):
                tokens.append("")
            elif i >= SPECIAL:
                tokens[-1] += self._bpe.id_to_token(i - SPECIAL)
        byte_of = {char: b for b, char in enumerate(_byte_alphabet())}
        texts = [bytes(byte_of[char] for char in token).decode("utf-8", "replace") for token in tokens]
        return join((k % 2 == 1, text) for k, text in enumerate(texts) if k % 2 == 1 or text)

    def encode(self, texts: Sequence[str], max_length: int = MAX_LENGTH) -> tuple[Tensor, Tensor]:
        """(ids_BL int64, mask_BL bool, true where there is text), L = `max_length`; what is longer is cut at its end.

        The empty prompt is `START` and padding: the unconditional input of guidance.
        """
        if max_length < 1:
            raise ValueError(f"max_length is {max_length}; it must be at least 1")
        ids_BL = torch.full((len(texts), max_length), PAD, dtype=torch.int64)
        for row, text in zip(ids_BL, texts, strict=True):
            ids = self.ids(text)[:max_length]
            row[: len(ids)] = torch.tensor(ids)
        return ids_BL, ids_BL != PAD

    def unknown_words(self, text: str) -> list[str]:
        """Words of `text` that no training caption had, each once, in order; unheard speech is given with quotes."""
        return unknown_words(text, self.words, self.sayings)

    def unread(self, text: str) -> str:
        """The end of `text` that does not fit into `MAX_LENGTH` tokens, and is not read; empty if all is."""
        ids = self.ids(text)
        spoken = [i for i in ids[:MAX_LENGTH] if i in (OPEN, CLOSE)][-1:] == [OPEN]  # the cut is within quotes
        return self.decode([*([OPEN] if spoken else []), *ids[MAX_LENGTH:]])

    def save(self, path: str | Path) -> None:
        """Write JSON; the file appears whole or not at all."""
        state = {"bpe": self._state, "words": sorted(self.words), "sayings": sorted(self.sayings)}
        with replacing(Path(path)) as beside:
            beside.write_text(json.dumps(state, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read what `save` wrote. CheckpointError if the file is not one."""
        try:
            state = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(state["bpe"], state["words"], state["sayings"])
        except FileNotFoundError:
            raise
        except Exception as error:  # the tokenizers library raises bare Exception on a malformed model
            raise CheckpointError(f"{path} is not a tokenizer of this package: {error}") from error


def train_tokenizer(
    captions: Iterable[str], size: int = 1024, progress: Callable[[Iterable[str]], Iterable[str]] = iter
) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) of at most `size` ids on the prose of `captions`.

    `size`: with the 4 special ids and the 256 bytes; fewer come out when the captions have too few words. `progress`
    may wrap the captions in a bar.
    """
    from tokenizers import Tokenizer as BPE
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if size < SPECIAL + 256:
        raise ValueError(f"size is {size}; it must be at least {SPECIAL + 256} (special ids and bytes)")
    prose: list[str] = []
    words: set[str] = set()
    sayings: set[str] = set()
    for caption in progress(captions):
        for i, (spoken, piece) in enumerate(pieces(caption)):
            if spoken:
                sayings.add(piece)
            else:
                prose.append(piece if i else f" {piece}")
                words.update(WORD.findall(piece))
    bpe: Any = BPE(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment, unused-ignore]
    bpe.decoder = decoders.ByteLevel()  # type: ignore[assignment, unused-ignore]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size - SPECIAL, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(prose, trainer)
    return Tokenizer(json.loads(bpe.to_str()), words, sayings)
