"""Every export goes through here: label, write, sign; or nothing is left behind."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from phonofilm.clip import Clip
from phonofilm.energy import Receipt
from phonofilm.engines.engine import Chunk
from phonofilm.errors import InputError
from phonofilm.export.label import labelled
from phonofilm.media import Writer, write
from phonofilm.provenance import Claim, Identity, Part, Signed, sidecar, sign
from phonofilm.provenance.signing import COMPOSED, GENERATED

SETTINGS: Final = (
    "seconds", "size", "picture", "fps", "steps", "guidance", "sampler", "best_of", "match_guidance",
    "quality",
)  # fmt: skip
"""What of a request is told: nothing that people wrote, and no names of their files."""

PASSED_ON: Final = ("continue", "audio", "video")
"""Conditions whose picture or sound is in the result as it was given."""


@dataclass(frozen=True)
class Exported:
    """A file, or a sequence, that was written. signed: how each of its files was signed; empty if it was not."""

    path: Path
    signed: tuple[Signed, ...] = ()

    @property
    def line(self) -> str:
        """By whom it was signed, for people."""
        if not self.signed:
            return "not signed"
        first = self.signed[0]
        if first.where == "embedded":
            return f"signed by {first.by}"
        kind = self.path.suffix.removeprefix(".")
        return f"signed by {first.by} in {first.path}, which must stay beside the film: {kind} cannot hold a signature"


def export(
    source: Clip | Iterable[Chunk],
    path: str | Path,
    receipt: Receipt | None = None,
    *,
    identity: Identity | None = None,
    label: bool = False,
) -> Exported:
    """Write a clip, or the chunks of an engine while they are made, as `media.write` does; sign last.

    receipt: how it was made; that of the last chunk if not given. identity: who signs, None for nobody. label: draw a
    small visible label on all frames. Raises InputError, MediaError or OutputError as writing and signing do; then no
    file appears, and an older one of that name stays.
    """
    path = Path(path)
    signed: list[Signed] = []

    def seal(files: Mapping[Path, Path]) -> None:
        if identity is None:
            return
        claim, film = statement(receipt), str(uuid.uuid4())
        for number, (file, place) in enumerate(files.items(), 1):
            part = Part(film, number, len(files)) if len(files) > 1 else None
            signed.append(sign(file, identity, replace(claim, part=part), place=place))

    if isinstance(source, Clip):
        write(replace(source, frames=labelled(source.frames)) if label else source, path, seal=seal)
    else:
        chunks = iter(source)
        first = next(chunks, None)
        if first is None:
            raise InputError("there is nothing to export: got no chunks")
        rate, channels = (None, 1) if first.samples is None else (first.sample_rate, len(first.samples))
        with Writer(path, first.fps, sample_rate=rate, channels=channels, seal=seal) as writer:
            for chunk in itertools.chain((first,), chunks):
                writer.add(labelled(chunk.frames) if label else chunk.frames, chunk.samples)
                receipt = receipt or chunk.receipt
    if not any(one.where == "sidecar" for one in signed):
        sidecar(path).unlink(missing_ok=True)  # of an older film of that name
    return Exported(path, tuple(signed))


def statement(receipt: Receipt | None) -> Claim:
    """What is signed: the receipt without anything that people wrote, and which kind of source that makes it."""
    if receipt is None:
        return Claim()
    told: dict[str, Any] = asdict(receipt)
    request = told.pop("request")
    given = [condition["role"] for condition in request.get("conditions", ())]
    told["model"] = request.get("model")
    told["settings"] = {name: request[name] for name in SETTINGS if request.get(name) is not None}
    told["given"] = given
    return Claim(told, COMPOSED if any(role in PASSED_ON for role in given) else GENERATED)
