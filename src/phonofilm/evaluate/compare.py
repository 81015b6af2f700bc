"""Evaluations beside each other, on the prompts that all have: what a setting gives and takes, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phonofilm.errors import InputError
from phonofilm.evaluate.ledger import differences, read_cases
from phonofilm.evaluate.score import FAULTS, ROWS
from phonofilm.evaluate.sync import lag_summary

Trials = dict[str, list[bool]]


def compare(folders: Sequence[Path]) -> str:
    """A Markdown table, a column for each folder of `phonofilm evaluate`, of the generated clips that all of them have.

    Shares in percent of all splits together (trials). Behind the first column also how many of the same trials turned
    out better and worse than there, with the two-sided p of the sign test, but for clips of another length. Raises
    InputError where a folder holds no evaluation, or none of a clip that the others have.
    """
    read = [read_cases(folder) for folder in folders]
    made = [{_key(e): e["verdicts"]["generated"] for e in entries if _made(e)} for _, entries in read]
    shared = [key for key in made[0] if all(key in other for other in made)]
    if not shared:
        raise InputError(f"{', '.join(map(str, folders))} have no generated clip in common")
    first = read[0][0]
    lines = [
        f"{len(shared)} clips that all have, of {', '.join(dict.fromkeys(split for split, _ in shared))}.",
        *(f"{folder}: {_about(about, first)}" for folder, (about, _) in zip(folders, read, strict=True)),
        "",
        "| | " + " | ".join(folder.name for folder in folders) + " |",
        "|---" * (len(folders) + 1) + "|",
    ]
    trials = [_trials([verdicts[key] for key in shared]) for verdicts in made]
    # of another length, clips are asked for other things
    pairs = [k > 0 and about.get("seconds") == first.get("seconds") for k, (about, _) in enumerate(read)]
    for row, title in ROWS.items():
        if trials[0].get(row):
            cells = [
                _cell(t.get(row, []), trials[0][row] if pair else None, row)
                for t, pair in zip(trials, pairs, strict=True)
            ]
            lines.append(f"| {title}, % | " + " | ".join(cells) + " |")
    for title, lags in (("impact", _blows), ("lip", _lips)):
        sums = [lag_summary([ms for key in shared for ms in lags(verdicts[key])]) for verdicts in made]
        if any(s["n"] for s in sums):
            name = f"{title} sync, \\|lag\\| ms: median / p90 / % within BT.1359"
            lines.append(f"| {name} | " + " | ".join(map(_lags, sums)) + " |")
    return "\n".join(lines) + "\n"


def sign_test(better: int, worse: int) -> float:
    """Two-sided p that as many pairs fall to one side by chance alone (exact; Arbuthnot 1710); 1 without pairs."""
    n = better + worse
    tail: float = sum(math.comb(n, k) for k in range(min(better, worse) + 1)) / 2**n
    return min(1.0, 2 * tail)


def _key(entry: dict[str, Any]) -> tuple[str, int]:
    return entry["split"], entry["seed"]


def _made(entry: dict[str, Any]) -> bool:
    return not entry["failed"] and "generated" in entry["verdicts"]


def _about(about: dict[str, Any], first: dict[str, Any]) -> str:
    """What distinguishes a record from the first one."""
    other = differences(about, first)
    named = {k: about.get(k) for k in other} or {k: about[k] for k in ("size", "seconds", "wishes") if k in about}
    for name, value in list(named.items()):
        before = first.get(name)
        if other and isinstance(value, dict) and isinstance(before, dict):
            named[name] = {k: value.get(k) for k in differences(value, before)}
        elif isinstance(value, str) and len(value) > 12:
            named[name] = value[:12]
    return ", ".join(f"{k} {v}" for k, v in named.items())


def _trials(verdicts: Sequence[dict[str, Any]]) -> Trials:
    """Of each row whether each trial went well, in the order of the clips."""
    found: Trials = {}
    for verdict in verdicts:
        for row, _, right in verdict["rows"]:
            found.setdefault(row, []).append(right != (row in FAULTS))
    return found


def _cell(own: list[bool], first: list[bool] | None, row: str) -> str:
    if not own:
        return ""
    good = sum(own) / len(own)
    text = f"{100 * (1 - good if row in FAULTS else good):.1f} ({len(own)})"
    if first is None:
        return text
    better = sum(a and not b for a, b in zip(own, first, strict=True))
    worse = sum(b and not a for a, b in zip(own, first, strict=True))
    return f"{text}; +{better} −{worse}, p {sign_test(better, worse):.2g}"


def _blows(verdict: dict[str, Any]) -> list[float]:
    return [math.nan if ms is None else ms for _, ms in verdict["blow_lags"]]


def _lips(verdict: dict[str, Any]) -> list[float]:
    return [math.nan if ms is None else ms for ms in verdict["lip_lags"]]


def _lags(summary: dict[str, float]) -> str:
    if "median_abs_ms" not in summary:
        return "none heard" if summary["n"] else ""
    within = 100 * summary["within_bt1359"]
    return f"{summary['median_abs_ms']:.0f} / {summary['p90_abs_ms']:.0f} / {within:.0f} ({summary['n']})"
