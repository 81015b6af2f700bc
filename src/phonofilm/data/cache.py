"""Latents on disk: shards that can be added to at any time, valid for one codec."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from phonofilm.checkpoint import load_state, save_state
from phonofilm.errors import CheckpointError
from phonofilm.files import replacing

if TYPE_CHECKING:
    import torch

_FORMAT: Final = "phonofilm.latents/1"


@dataclass(frozen=True)
class Shard:
    """Tensors as they were appended, and plain JSON values about each of their rows (captions, truth, …)."""

    tensors: dict[str, torch.Tensor]
    metadata: list[Any]


class LatentCache:
    """A directory of shards that belong to the codec with the hash `codec_hash`.

    Opening makes the directory when it is missing. Raises CheckpointError when it belongs to another codec or is no
    cache. A shard is whole or not there, so an interrupted `append` leaves the cache as it was.
    """

    def __init__(self, directory: str | Path, codec_hash: str) -> None:
        self.directory, self.codec_hash = Path(directory), codec_hash
        card = self.directory / "cache.json"
        if not card.exists():
            if self._paths():
                raise CheckpointError(f"{directory}: holds latents of an unknown codec, cache.json is missing")
            with replacing(card) as beside:
                beside.write_text(json.dumps({"format": _FORMAT, "codec_hash": codec_hash}) + "\n", encoding="utf-8")
            return
        try:
            told = json.loads(card.read_text(encoding="utf-8"))
            form, found = told["format"], told["codec_hash"]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise CheckpointError(f"{card}: is damaged ({error}); delete {directory} to make them anew") from error
        if form != _FORMAT:
            raise CheckpointError(f"{card}: is {form}, needed is {_FORMAT}")
        if found != codec_hash:
            raise CheckpointError(
                f"{directory}: its latents were made by codec {found[:12]}…, needed is {codec_hash[:12]}…; "
                "name another directory, or delete this one to make them anew"
            )

    def append(self, tensors: Mapping[str, torch.Tensor], metadata: Sequence[Any] = ()) -> Path:
        """Add a shard. metadata: plain JSON values, as many as the tensors have rows, or none. Returns its path."""
        rows = {name: len(tensor) for name, tensor in tensors.items()}
        if len(set(rows.values())) > 1 or (metadata and len(metadata) != next(iter(rows.values()), 0)):
            raise ValueError(f"a shard's tensors and metadata must have equal rows, got {rows}, {len(metadata)}")
        paths = self._paths()
        number = int(paths[-1].stem) + 1 if paths else 0
        path = self.directory / f"{number:06d}.safetensors"
        save_state(path, {"tensors": dict(tensors), "metadata": list(metadata)})
        return path

    def __len__(self) -> int:
        """How many shards."""
        return len(self._paths())

    def __iter__(self) -> Iterator[Shard]:
        """The shards in the order in which they were appended, read one by one."""
        for path in self._paths():
            tree = load_state(path)
            yield Shard(tree["tensors"], tree["metadata"])

    def load(self) -> list[Shard]:
        """All shards."""
        return list(self)

    def _paths(self) -> list[Path]:
        return sorted(p for p in self.directory.glob("*.safetensors") if re.fullmatch(r"[0-9]{6}", p.stem))
