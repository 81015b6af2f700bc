"""Where a model's files lie, whether they are all there and safe, and how they are fetched. No torch, no diffusers.

Only safetensors are read: a pickle can run code. A folder is looked through before anything is loaded, so that a half
download or a file that is missing is one clear line.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from phonofilm.engines.open.families import FAMILIES, Family, family_of
from phonofilm.errors import CheckpointError, InputError, PhonofilmError

INDEXES: Final = ("model_index.json", "modular_model_index.json")
PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
WANTED: Final = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "LICENSE*", "README.md")
"""Patterns of the files that are fetched; no pickles, no programs."""
BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2}  # of a value; all others: 1
SAMPLED: Final = 2**20  # bytes at either end of a file of weights that tell it from others
MOST_HEADER: Final = 256 * 2**20  # bytes of a safetensors header
INSTALL: Final = 'pip install "phonofilm[open]"'


@dataclass(frozen=True)
class Part:
    """A component with weights."""

    name: str
    values: int  # parameters
    size: int  # bytes on disk


@dataclass(frozen=True)
class Source:
    """A checkpoint on this machine, looked through. name: as it was asked for; folder: where it lies."""

    name: str
    folder: Path

    @cached_property
    def index(self) -> dict[str, Any]:
        for name in INDEXES:
            path = self.folder / name
            if path.exists():
                try:
                    found = json.loads(path.read_text(encoding="utf-8"))
                except ValueError as error:
                    raise CheckpointError(f"{path}: is not JSON: {error}") from error
                if not isinstance(found, dict) or not isinstance(found.get("_class_name"), str):
                    raise CheckpointError(f"{path}: does not name its pipeline ('_class_name')")
                return found
        raise CheckpointError(f"{self.folder}: is no model of diffusers: neither {' nor '.join(INDEXES)} is there")

    @property
    def pipeline(self) -> str:
        """The name of its pipeline class."""
        return str(self.index["_class_name"])

    @property
    def family(self) -> Family | None:
        return family_of(self.pipeline)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The components with weights. Raises CheckpointError when a file is missing, cut off, or a pickle."""
        if self.index.get("auto_map") or any(self.folder.glob("*.py")):
            raise CheckpointError(f"{self.folder}: brings programs of its own, which are not run")
        parts = []
        for name, value in self.index.items():
            if name.startswith("_") or not isinstance(value, list) or not value or value[0] is None:
                continue
            folder = self.folder / name
            if not folder.is_dir():
                raise CheckpointError(f"{folder}: is missing; the download of {self.name} is not whole")
            if files := _weights(folder, self.name):
                headers = [header(file) for file in files]
                values = sum(count for header in headers for count, _ in header)
                parts.append(Part(name, values, sum(count * width for header in headers for count, width in header)))
        if not parts:
            raise CheckpointError(f"{self.folder}: has no weights in safetensors")
        return tuple(parts)

    @cached_property
    def digest(self) -> str:
        """SHA-256 that names the weights: of the index, and of each file's name, size, beginning and end."""
        found = hashlib.sha256(json.dumps(self.index, sort_keys=True).encode())
        for path in sorted([*self.folder.rglob("*.safetensors"), *self.folder.rglob("*config.json")]):
            size = path.stat().st_size
            found.update(f"{path.relative_to(self.folder)} {size}\n".encode())
            with path.open("rb") as file:
                found.update(file.read(SAMPLED))
                file.seek(max(0, size - SAMPLED))
                found.update(file.read(SAMPLED))
        return found.hexdigest()

    @property
    def values(self) -> int:
        """Parameters in all."""
        return sum(part.values for part in self.parts)


def find(name: str) -> Source:
    """A model by folder, or by ORG/NAME where it was fetched before. Raises InputError that says what to do."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Source(name, folder)
    check_name(name)
    _, hub = _hub()
    try:
        return Source(name, Path(hub.snapshot_download(name, local_files_only=True)))
    except (hub.errors.LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"the model {name} is not on this machine: fetch it with `phonofilm models pull {name}`", "model"
        ) from error


def check_name(name: str) -> None:
    """Raises InputError if this is neither a folder nor ORG/NAME."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", name):
        known = ", ".join(repo for family in FAMILIES for repo in family.repositories)
        raise InputError(
            f"model must be native, a folder that exists, or ORG/NAME such as {known}, got {name!r}", "model"
        )


def pull(name: str, say: Callable[[str], None] = lambda _: None) -> Source:
    """Fetch a model's configuration, tokenizers and safetensors; goes on where it was cut off.

    Raises PhonofilmError with one line when the repository does not exist, is gated, or cannot be reached.
    """
    check_name(name)
    requests, hub = _hub()
    e = hub.errors
    try:
        files = hub.HfApi().list_repo_files(name)
        if not set(INDEXES) & set(files):
            raise InputError(f"{name} is no model of diffusers: neither {' nor '.join(INDEXES)} is there", "model")
        if not any(file.endswith(".safetensors") for file in files):
            raise CheckpointError(f"{name}: has its weights as pickles only, which can run code: they are not fetched")
        say(f"fetching {name}")
        source = Source(name, Path(hub.snapshot_download(name, allow_patterns=list(WANTED))))
    except e.GatedRepoError as error:
        raise PhonofilmError(
            f"{name} is gated: accept its licence on its page, then log in with `hf auth login` and pull again"
        ) from error
    except e.RepositoryNotFoundError as error:
        raise InputError(f"there is no model {name} (or it is private, and you are not logged in)", "model") from error
    except (e.HfHubHTTPError, e.LocalEntryNotFoundError, e.OfflineModeIsEnabled, requests, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PhonofilmError(f"{name} cannot be fetched: {reason}") from error
    source.parts  # noqa: B018 (looks through it)
    return source


def _hub() -> tuple[type[Exception], Any]:
    """The errors of a connection, and the hub's client."""
    try:
        import httpx
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise InputError(f"open models need more packages: {INSTALL}", "model") from error
    return httpx.HTTPError, huggingface_hub


def _weights(folder: Path, name: str) -> list[Path]:
    """The safetensors of a component; all of its shards, or an error."""
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    plain = [index for index in indexes if "." not in index.name.removesuffix(".safetensors.index.json")]
    for index in plain[:1] or indexes[:1]:
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{index}: is not an index of shards") from error
        for shard in shards:
            if Path(shard).name != shard:
                raise CheckpointError(f"{index}: names a file outside of its folder, {shard!r}")
            if not (folder / shard).exists():
                raise CheckpointError(f"{folder / shard}: is missing; the download of {name} is not whole")
        return [folder / shard for shard in shards]
    files = sorted(folder.glob("*.safetensors"))
    whole = [file for file in files if "." not in file.stem]  # "model.fp16.safetensors" is a variant
    if files:
        return whole[:1] or files[:1]
    if (folder / "config.json").exists() or any(folder.glob("*.index.json")):
        pickles = [file for file in folder.iterdir() if file.suffix in PICKLES]
        if pickles:
            raise CheckpointError(
                f"{pickles[0]}: is a pickle, which can run code when it is read; only safetensors are accepted"
            )
        if _has_weights(folder / "config.json"):
            raise CheckpointError(f"{folder}: its weights are missing; the download of {name} is not whole")
    return []


def _has_weights(config: Path) -> bool:
    """Whether a configuration is that of a network; tokenizers, schedulers and processors have others."""
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return "architectures" in found or str(found.get("_class_name", "")).endswith(
        ("Model", "Transformer3DModel", "VAE")
    )


def header(path: Path) -> list[tuple[int, int]]:
    """(values, bytes of each) of every tensor; checks that the file is as long as its header says."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(MOST_HEADER, size):
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
        counted = []
        for entry in tensors.values():
            count = 1
            for side in entry["shape"]:
                count *= int(side)
            counted.append((count, BYTES.get(entry["dtype"], 1)))
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path}: is not a safetensors file ({error})") from error
    if size != 8 + length + end:
        raise CheckpointError(f"{path}: is cut off: {size} bytes where its header says {8 + length + end}")
    return counted
