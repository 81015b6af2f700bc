"""The layers hold: a file imports only from below, and asking for help loads no torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import phonofilm

ROOT = Path(phonofilm.__file__).parent
# each may use those before it
GROUND = (
    "errors", "files", "processes", "clip", "latents", "storyboard", "request", "precision", "checkpoint", "media",
)  # fmt: skip
PARTS = ("codec", "text", "model", "diffusion", "playhouse", "data", "provenance", "energy")
WORK = ("jobs", "export", "train", "evaluate")
FACES = ("cli", "serve", "studio", "__main__")
ALLOWED: dict[str, set[str]] = {name: set(GROUND[:k]) for k, name in enumerate(GROUND)}
ALLOWED |= {name: set(GROUND) for name in PARTS}
ALLOWED["data"] |= {"codec", "text"}  # to cache latents
ALLOWED["engines"] = {*GROUND, *PARTS}
ALLOWED |= {name: {*GROUND, *PARTS, "engines"} for name in WORK}
ALLOWED |= {name: {*GROUND, *PARTS, "engines", *WORK, *FACES} for name in FACES}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, top-level name below phonofilm) of every import of ours, wherever in the file it stands."""
    package = ["phonofilm", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "phonofilm":
                yield node.lineno, parts[1] if len(parts) > 1 else ""


def test_every_file_imports_only_from_below():
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if own == "__init__":
            continue  # the package's own face
        if own not in ALLOWED:
            wrong.append(f"{path}: {own} has no layer")
            continue
        for line, name in imports(path):
            if name not in ALLOWED[own] | {own} and name != "__version__":
                wrong.append(f"{path}:{line}: {own} imports {name or 'the whole package'}")
    assert not wrong, "\n".join(wrong)


def test_the_walk_sees_imports(tmp_path):
    """The test above cannot pass by seeing nothing."""
    seen = {name for path in ROOT.rglob("*.py") for _, name in imports(path)}
    assert {"errors", "clip", "media"} <= seen
    sample = ROOT / "media" / "__init__.py"
    assert ("media" in {name for _, name in imports(sample)}) or ("formats" in sample.read_text())


def test_help_loads_no_torch(python):
    code = """
import phonofilm, phonofilm.cli
loaded = {"torch", "av", "scipy", "PIL", "c2pa", "cryptography"} & set(sys.modules)
assert not loaded, loaded
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_making_a_film_loads_no_compiler(python):
    """It would take a second, which whoever waits for a film would wait for, too."""
    code = """
import phonofilm.engines.native, phonofilm.media, phonofilm.export
assert "torch" in sys.modules
loaded = {"torch._dynamo", "torch._inductor", "sympy"} & set(sys.modules)
assert not loaded, loaded
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_no_file_is_long():
    long = {p.name: n for p in ROOT.rglob("*.py") if (n := len(p.read_text(encoding="utf-8").splitlines())) > 600}
    assert not long


def test_only_the_command_line_prints():
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0].removesuffix(".py") in ("cli", "__main__") or path.name == "command.py":
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        printing = [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
        assert not printing, f"{path} prints in lines {printing}"
