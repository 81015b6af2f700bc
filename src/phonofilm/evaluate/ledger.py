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
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        if whole:
            stored = _read(path, whole[0])
            if stored != wanted:
                other = [k for k in {**stored, **wanted} if stored.get(k) != wanted.get(k)]
                raise InputError(
                    f"{path} holds an evaluation with another {', '.join(sorted(other))}: choose another folder, or "
                    "remove that file to begin anew"
                )
            for line in whole[1:]:
                entry = _read(path, line)
                if not entry.keys() >= fields:
                    raise InputError(
                        f"{path} is not the record of an evaluation (a line lacks {fields - entry.keys()})"
                    )
                self.entries.append(entry)
        if len(whole) < max(len(lines), 1):
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
        if entry is None:
            return False
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
        return True

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
