"""What has been measured, clip by clip, in a file: an evaluation that is cut off goes on where it was.

One JSON object a line: first what is measured (weights, settings), then one for each clip.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from phonofilm.errors import InputError, OutputError
from phonofilm.evaluate.score import Verdict
from phonofilm.files import replacing

if TYPE_CHECKING:
    from phonofilm.evaluate.run import Case

ENTRY: Final = {"split", "seed", "failed", "verdicts", "fidelity", "kind_psnr", "shifts_ms"}


class Ledger:
    """What was measured already, as JSON objects, and what is added."""

    def __init__(self, path: Path, about: Mapping[str, Any], fields: AbstractSet[str]) -> None:
        """Read a file, or begin one. about: what is measured, as JSON. fields: what each entry has.

        A last line that was cut off is left out, and written over. Raises InputError where the file is of something
        else, OutputError where it cannot be written.
        """
        self.path = path
        self.entries: list[dict[str, Any]] = []
        wanted = json.loads(json.dumps(about))
        whole, cut = _whole_lines(path) if path.exists() else ([], False)
        if whole:
            stored = _read(path, whole[0])
            if stored != wanted:
                other = differences(stored, wanted)
                raise InputError(
                    f"{path} holds an evaluation with another {', '.join(other)}: choose another folder, or "
                    "remove that file to begin anew"
                )
            self.entries += _entries(path, whole[1:], fields)
        if cut or not whole:
            with replacing(path) as beside:
                beside.write_text("".join(whole) or json.dumps(wanted) + "\n", encoding="utf-8")

    def add(self, entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Add entries at the end of the file; returns them as they will be read. Raises OutputError."""
        new = [_plain(entry) for entry in entries]
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(entry, allow_nan=False) + "\n" for entry in new)
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error
        self.entries += new
        return new


class CaseLedger(Ledger):
    """That of cases: an entry is one clip, with all that was measured of its columns."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        super().__init__(path, about, ENTRY)
        self._found = {(entry["split"], entry["seed"]): entry for entry in self.entries}

    def recall(self, case: Case) -> bool:
        """Fill in what was measured of a case before; whether anything was."""
        entry = self._found.get((case.split, case.seed))
        if entry is not None:
            fill(case, entry)
        return entry is not None

    def keep(self, cases: Sequence[Case]) -> None:
        """Add cases at the end of the file. Raises OutputError."""
        self.add(
            {
                "split": case.split, "seed": case.seed, "failed": case.failed,
                "verdicts": {column: asdict(verdict) for column, verdict in case.verdicts.items()},
                "fidelity": case.fidelity, "kind_psnr": case.kind_psnr, "shifts_ms": case.shifts_ms,
            }
            for case in cases
        )  # fmt: skip


def fill(case: Case, entry: Mapping[str, Any]) -> None:
    """Fill in what an entry says was measured of a case."""
    for column, stored in entry["verdicts"].items():
        case.verdicts[column] = Verdict(
            [(row, kind, right) for row, kind, right in stored["rows"]],
            [(act, _number(lag)) for act, lag in stored["blow_lags"]],
            [_number(lag) for lag in stored["lip_lags"]],
            _number(stored["rms_dbfs"]),
            _number(stored["peak_dbfs"]),
        )
    case.fidelity = {name: _number(value) for name, value in entry["fidelity"].items()}
    case.kind_psnr = [(kind, _number(value)) for kind, value in entry["kind_psnr"]]
    case.shifts_ms = entry["shifts_ms"]
    case.failed = entry["failed"]


def read_cases(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What an evaluation in `folder` measured (settings, weights), and its clips. Raises InputError without one."""
    path = folder / "clips.jsonl"
    if not path.is_file():
        raise InputError(f"{folder} holds no evaluation (no {path.name} in it)")
    whole, _ = _whole_lines(path)
    if not whole:
        raise InputError(f"{path} is empty")
    return _read(path, whole[0]), _entries(path, whole[1:], ENTRY)


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Names under which two records say another thing, sorted."""
    return sorted(k for k in {**a, **b} if a.get(k) != b.get(k))


def _whole_lines(path: Path) -> tuple[list[str], bool]:
    """The lines of a file that were not cut off, and whether one was."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    return whole, len(whole) < len(lines)


def _entries(path: Path, lines: Iterable[str], fields: AbstractSet[str]) -> list[dict[str, Any]]:
    entries = [_read(path, line) for line in lines]
    for entry in entries:
        if not entry.keys() >= fields:
            raise InputError(f"{path} is not the record of an evaluation (a line lacks {fields - entry.keys()})")
    return entries


def _read(path: Path, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise InputError(f"{path} is not the record of an evaluation ({error})") from error
    return found


def _plain(value: Any) -> Any:
    """Plain JSON: null in place of what is not finite, 4 digits behind the point."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value


def _number(value: float | None) -> float:
    return math.nan if value is None else value
