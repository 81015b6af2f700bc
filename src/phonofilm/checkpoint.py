"""Weights and training states as safetensors with JSON in the header; never pickle.

A file is written beside its target and renamed, so that it is whole or it is not there.
`save` / `load` hold one model's weights; `save_state` / `load_state` hold any tree of tensors and plain values.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from phonofilm.errors import CheckpointError, OutputError
from phonofilm.files import replacing

if TYPE_CHECKING:
    import torch

WEIGHTS_FORMAT = "phonofilm.weights/1"
STATE_FORMAT = "phonofilm.state/1"
SCALE = ":scale"  # behind the name of a matrix that is stored as int8: what its rows are multiplied by


@dataclass(frozen=True)
class Checkpoint:
    """Weights as they were stored (those in 8 bits as float32), their configuration, and the hash of what is stored."""

    tensors: dict[str, torch.Tensor]
    kind: str
    config: dict[str, Any] = field(default_factory=dict)
    hash: str = ""


def weights_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256, 64 hex digits, of names, dtypes, shapes and values; the order of the mapping does not matter."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{list(tensor.shape)}\0".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save(
    path: str | Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    kind: str,
    config: Mapping[str, Any] | None = None,
    storage: Literal["bf16"] | None = None,
    int8: str | None = None,
) -> str:
    """Write weights, and their metadata once more as `<path>.json` for people to read. Returns the hash.

    kind: what model this is ("video-codec", "denoiser", …); `load` can insist on it.
    config: plain JSON values that rebuild the model.
    storage: "bf16" stores floating-point tensors as bfloat16, half of the space. The hash is of what is stored.
    int8: a regular expression; matrices whose whole name it matches are stored as 8-bit numbers and a scale for each
    row (symmetric, the largest is 127), half of bfloat16's space at an error of about 0.7 % of a weight's deviation.
    Raises OutputError when the file cannot be written.
    """
    import torch

    stored = {}
    for name, tensor in tensors.items():
        kept = tensor.detach().cpu()
        if int8 is not None and kept.ndim == 2 and re.fullmatch(int8, name):
            scale = (kept.float().abs().amax(1) / 127).clamp(min=1e-12)
            stored[name] = (kept.float() / scale[:, None]).round().to(torch.int8)
            stored[name + SCALE] = scale
            continue
        if storage == "bf16" and kept.is_floating_point():
            kept = kept.to(torch.bfloat16)
        stored[name] = kept
    described = {"kind": kind, "config": dict(config or {}), "hash": weights_hash(stored)}
    text = json.dumps(described, allow_nan=False)
    path = Path(path)
    _write(path, stored, {"format": WEIGHTS_FORMAT, "json": text})
    parameters = sum(t.numel() for name, t in stored.items() if not name.endswith(SCALE))
    with replacing(path.with_suffix(".json")) as beside:
        beside.write_text(json.dumps({**described, "parameters": parameters}, indent=1) + "\n", encoding="utf-8")
    return str(described["hash"])


def load(path: str | Path, *, kind: str | None = None, device: str | torch.device = "cpu") -> Checkpoint:
    """Read weights and check that they are whole, unaltered and, if `kind` is given, of that kind.

    Raises CheckpointError with one line that says what is wrong.
    """
    tensors, metadata = _read(Path(path), WEIGHTS_FORMAT)
    if not isinstance(metadata, dict) or not isinstance(metadata.get("config"), dict):
        raise CheckpointError(f"{path}: the description of the weights is damaged")
    if kind is not None and metadata.get("kind") != kind:
        raise CheckpointError(f"{path}: holds weights of kind {metadata.get('kind')!r}, needed is {kind!r}")
    found = weights_hash(tensors)
    if found != metadata.get("hash"):
        raise CheckpointError(f"{path}: the weights were altered or damaged (hash {found[:12]}… does not match)")
    for name in [name for name in tensors if name.endswith(SCALE)]:
        whole = name.removesuffix(SCALE)
        tensors[whole] = tensors[whole].float() * tensors.pop(name)[:, None]
    placed = {name: tensor.to(device) for name, tensor in tensors.items()}
    return Checkpoint(placed, str(metadata.get("kind")), metadata["config"], found)


def save_state(path: str | Path, tree: Any) -> None:
    """Write a tree of dicts, lists and tuples over tensors, numpy arrays, numbers, strings, booleans and None.

    Dict keys may be strings or integers (as in an optimizer's state). Tensors are stored from the CPU.
    Raises OutputError when the file cannot be written, TypeError for a value of another type.
    """
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_encode(tree, tensors), allow_nan=False)
    _write(Path(path), tensors, {"format": STATE_FORMAT, "json": text})


def load_state(path: str | Path) -> Any:
    """The tree that `save_state` wrote, value for value and dtype for dtype, tensors on the CPU.

    Raises CheckpointError with one line that says what is wrong.
    """
    tensors, tree = _read(Path(path), STATE_FORMAT)
    try:
        return _decode(tree, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the training state is damaged ({error})") from error


# A tree becomes JSON; what JSON lacks becomes an object with one key that starts with "$".


def _encode(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    import torch

    if node is None or isinstance(node, bool | str) or type(node) is int:
        return node
    if type(node) is float:
        return node if math.isfinite(node) else {"$float": repr(node)}
    name = str(len(tensors))
    if isinstance(node, torch.Tensor):
        tensors[name] = node.detach().cpu()
        return {"$tensor": name}
    if isinstance(node, np.ndarray):
        tensors[name] = torch.from_numpy(np.array(node))
        return {"$array": name}
    if isinstance(node, list):
        return [_encode(item, tensors) for item in node]
    if isinstance(node, tuple):
        return {"$tuple": [_encode(item, tensors) for item in node]}
    if isinstance(node, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in node):
            return {key: _encode(value, tensors) for key, value in node.items()}
        for key in node:
            if not isinstance(key, str) and type(key) is not int:
                raise TypeError(f"a key of a training state must be a string or an integer, got {key!r}")
        return {"$dict": [[key, _encode(value, tensors)] for key, value in node.items()]}
    raise TypeError(f"a training state holds tensors and plain values, got {type(node).__name__}: {node!r}")


def _decode(node: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(node, list):
        return [_decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    if len(node) == 1:
        ((key, value),) = node.items()
        match key:
            case "$tensor":
                return tensors[value]
            case "$array":
                return tensors[value].numpy()
            case "$float":
                return float(value)
            case "$tuple":
                return tuple(_decode(item, tensors) for item in value)
            case "$dict":
                return {name: _decode(item, tensors) for name, item in value}
    return {key: _decode(value, tensors) for key, value in node.items()}


# --- files ----------------------------------------------------------------------------------------------------------


def _write(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # copies, because safetensors refuses tensors that share memory
    owned = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as beside:
        try:
            save_file(owned, beside, metadata=metadata)
        except SafetensorError as error:  # its way to report an OSError
            raise OutputError(f"cannot write {path}: {error}") from error


def _read(path: Path, expected: str) -> tuple[dict[str, torch.Tensor], Any]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != expected:
                found = metadata.get("format", "another program's safetensors")
                raise CheckpointError(f"{path}: is {found}, needed is {expected}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return tensors, json.loads(metadata["json"])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: is truncated or not a safetensors file ({error})") from error
