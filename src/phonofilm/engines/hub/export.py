"""Writes the folder: weights as safetensors, configurations, a model card, and copies of our own modules as its code.

The copies are the only other version of the model there is, and no hand touches them: each file lies flat beside
`pipeline.py`, with its imports made relative, since that is what diffusers fetches and copies.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch

from phonofilm import __version__, checkpoint
from phonofilm.codec.codec import AUDIO_FILE, VIDEO_FILE
from phonofilm.engines.hub.card import card
from phonofilm.engines.hub.layout import CONFIG, PARTS, PIPELINE, POINTER, PREFIX, WEIGHTS, pointer, write_index
from phonofilm.engines.native import NativeEngine
from phonofilm.errors import InputError, OutputError
from phonofilm.files import replacing

ROOT: Final = Path(__file__).resolve().parents[2]  # of the package
HUB: Final = "phonofilm.engines.hub"


def export_pipeline(folder: str | Path, weights: str | Path | None = None) -> Path:
    """Write our model as a pipeline of diffusers into `folder`, which must be empty or not exist. Returns the folder.

    weights: another folder of weights than the shipped one. Raises InputError if something is there already,
    CheckpointError for damaged weights, OutputError when it cannot be written; then nothing is left behind.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty: name a new folder")
    engine = NativeEngine(weights, device="cpu")
    parts = _parts(engine)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _fill(beside, engine, parts)
            beside.chmod(0o755)
            if folder.exists():
                folder.rmdir()
            os.replace(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


def _parts(engine: NativeEngine) -> dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]]:
    """Configuration and tensors, as they are stored, of each part."""
    denoiser, text, _ = engine._model
    timer = engine.timer
    if timer is None:
        raise InputError(f"{engine.folder} has no timer: run `phonofilm train timer --out {engine.folder}` first")
    stored = checkpoint.load(engine.folder / "denoiser.safetensors").tensors
    words = json.loads((engine.folder / "tokenizer.json").read_text(encoding="utf-8"))

    def under(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}

    return {
        "transformer": ({"sizes": asdict(denoiser.config)}, under("denoiser.")),
        "text_encoder": ({"sizes": asdict(text.config), "tokenizer": words}, under("text.")),
        "vae": ({"sizes": asdict(engine.codec.video.config)}, checkpoint.load(engine.folder / VIDEO_FILE).tensors),
        "audio_vae": (
            {"sizes": asdict(engine.codec.audio.config)},
            checkpoint.load(engine.folder / AUDIO_FILE).tensors,
        ),
        "timer": ({"sizes": asdict(timer.config)}, timer.state_dict()),
    }


def _fill(
    folder: Path, engine: NativeEngine, parts: Mapping[str, tuple[dict[str, Any], dict[str, torch.Tensor]]]
) -> None:
    from safetensors.torch import save_file

    version = {"_diffusers_version": _diffusers()}
    for name, (config, tensors) in parts.items():
        place = folder / name
        place.mkdir()
        with replacing(place / WEIGHTS) as beside:
            save_file({f"net.{k}": v.contiguous() for k, v in tensors.items()}, beside, metadata={"format": "pt"})
        text = json.dumps({"_class_name": PARTS[name], **version, **config}, indent=2, ensure_ascii=False)
        (place / CONFIG).write_text(text + "\n", encoding="utf-8")
        (place / f"{POINTER}.py").write_text(pointer(name, flat(f"{HUB}.parts")), encoding="utf-8")
    able = engine.capabilities
    limits = {"seconds": able.seconds, "seconds_step": able.seconds_step, "sizes": able.sizes}
    write_index(folder, {**version, "limits": limits, "sampling": asdict(engine.defaults)})
    for file, text in code().items():
        (folder / file).write_text(text, encoding="utf-8")
    values = sum(tensor.numel() for _, tensors in parts.values() for tensor in tensors.values())
    (folder / "README.md").write_text(card(able, values), encoding="utf-8")


def _diffusers() -> str:
    """The version of diffusers here, or else the one that our extra asks for."""
    try:
        return importlib.metadata.version("diffusers")
    except importlib.metadata.PackageNotFoundError:
        return "0.42.1"


# --- code -------------------------------------------------------------------------------------------------------------


def flat(module: str) -> str:
    """The name of a module of ours beside pipeline.py."""
    return PREFIX + module.removeprefix("phonofilm.").replace(".", "_")


def code() -> dict[str, str]:
    """File name → text: pipeline.py and copies of all modules that it needs, wherever they import each other."""
    start = f"{HUB}.pipeline"
    found: dict[str, list[_Import]] = {}
    todo = [start]
    while todo:
        module = todo.pop()
        if module not in found:
            found[module] = list(_imports(module))
            todo += [other for one in found[module] for other in one.modules]
    texts = {f"{flat(module)}.py": _copied(module, imports) for module, imports in found.items() if module != start}
    direct = {other for one in found[start] for other in one.froms}
    rest = sorted(flat(module) for module in found if module not in direct and module != start)
    lines = [f"from .{name} import __doc__ as _{name.removeprefix(PREFIX)}  # noqa: F401\n" for name in rest]
    also = "\n\n# diffusers copies the files that this one imports, so it imports what the others need, too\n"
    return {f"{PIPELINE[0]}.py": _copied(start, found[start]) + also + "".join(lines), **texts}


class _Import:
    """A `from phonofilm… import …` in a file: lines [first, last], and what stands for them."""

    def __init__(self, node: ast.ImportFrom) -> None:
        self.first, self.last, indent = node.lineno, node.end_lineno or node.lineno, " " * node.col_offset
        package = node.module or ""
        self.froms: list[str] = []  # modules that a line of the form "from .x import" names
        self.modules: list[str] = []
        lines, names = [], []
        for alias in node.names:
            named = alias.name + (f" as {alias.asname}" if alias.asname else "")
            if _path(f"{package}.{alias.name}") is not None:
                self.modules.append(f"{package}.{alias.name}")
                lines.append(f"{indent}from . import {flat(self.modules[-1])} as {alias.asname or alias.name}\n")
            else:
                names.append(named)
        if names:
            self.froms.append(package)
            self.modules.append(package)
            lines.append(f"{indent}from .{flat(package)} import {', '.join(names)}\n")
        self.text = "".join(lines)


def _imports(module: str) -> Iterator[_Import]:
    path = _path(module)
    assert path is not None, f"{module} is no file of the package"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "phonofilm":
            yield _Import(node)
        elif isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == "phonofilm" for alias in node.names), (module, node.lineno)


def _copied(module: str, imports: list[_Import]) -> str:
    """The text of a module, its imports made relative."""
    path = _path(module)
    assert path is not None
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for one in sorted(imports, key=lambda one: one.first, reverse=True):
        lines[one.first - 1 : one.last] = [one.text]
    origin = path.relative_to(ROOT.parent).as_posix()
    return f"# Copied from phonofilm {__version__} (Apache-2.0), {origin}: change it there.\n{''.join(lines)}"


def _path(module: str) -> Path | None:
    """The file of a module of ours; None for what is none, such as a name in a module."""
    path = ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return path if module != "phonofilm" and path.is_file() else None
