"""Numbers with their intervals, for people and for programs: results.json, results.md, index.html."""

from __future__ import annotations

import html
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from phonofilm.clip import Clip
from phonofilm.evaluate.score import FAULTS, ROWS
from phonofilm.evaluate.sync import BIAS_MS, lag_summary
from phonofilm.files import replacing
from phonofilm.playhouse.sound import SOUND_CLASSES
from phonofilm.playhouse.speech import WORDS

if TYPE_CHECKING:
    from phonofilm.evaluate.run import Case

Z95: Final = 1.959964
FEWEST: Final = 5  # trials of an actor below which he cannot be the worst
COLUMNS: Final = ("truth", "codec", "generated")


def wilson(right: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share (E. B. Wilson, JASA 22:209, 1927), each in [0, 1]; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    p, zz = right / trials, Z95 * Z95
    middle = (p + zz / (2 * trials)) / (1 + zz / trials)
    half = Z95 * math.sqrt(p * (1 - p) / trials + zz / (4 * trials * trials)) / (1 + zz / trials)
    return max(0.0, middle - half), min(1.0, middle + half)


def _share(right: int, trials: int) -> dict[str, float]:
    low, high = wilson(right, trials)
    return {"right": right, "n": trials, "share": right / trials, "low": low, "high": high}


def summarise(cases: Sequence[Case], about: dict[str, Any]) -> dict[str, Any]:
    """All that is reported, as plain JSON: splits, and in each the columns that were measured.

    A column holds `rows` (share right of all trials with its 95 % interval; the mean over actors, `macro`; the worst
    actor), `actors` (the same by kind), `impact_sync` (in all and by act), `lip_sync`, `audio`; the codec's
    also `fidelity`.
    """
    splits: dict[str, Any] = {}
    for split in dict.fromkeys(c.split for c in cases):
        own = [c for c in cases if c.split == split]
        splits[split] = {
            column: _column([c for c in own if column in c.verdicts], column)
            for column in COLUMNS
            if any(column in c.verdicts for c in own)
        }
    floors = {"word": 1 / len(WORDS), "sound": 1 / len(SOUND_CLASSES), "colour": 0.1, "size": 1 / 3, "count": 1 / 3}
    failed = [f"{c.split}, seed {c.seed}: {c.failed}" for c in cases if c.failed]
    return {"about": {**about, "chance": floors, "bias_ms": BIAS_MS, "failed": failed}, "splits": splits}


def _column(cases: Sequence[Case], column: str) -> dict[str, Any]:
    verdicts = [c.verdicts[column] for c in cases]
    trials: Counter[tuple[str, str]] = Counter()
    right: Counter[tuple[str, str]] = Counter()
    for verdict in verdicts:
        for row, kind, ok in verdict.rows:
            trials[row, kind] += 1
            right[row, kind] += ok
    rows: dict[str, Any] = {}
    actors: dict[str, Any] = {}
    for row in ROWS:
        kinds = [kind for r, kind in trials if r == row]
        if not kinds:
            continue
        total = _share(sum(right[row, k] for k in kinds), sum(trials[row, k] for k in kinds))
        by_kind = {k: right[row, k] / trials[row, k] for k in kinds}
        enough = {k: v for k, v in by_kind.items() if trials[row, k] >= FEWEST} or by_kind
        worst = (max if row in FAULTS else min)(enough, key=lambda k: enough[k])
        rows[row] = {
            **total,
            "macro": float(np.mean(list(by_kind.values()))),
            "worst": worst,
            "worst_share": enough[worst],
        }
        for kind in kinds:
            actors.setdefault(kind, {})[row] = _share(right[row, kind], trials[row, kind])
    lags = [lag for v in verdicts for lag in v.blow_lags]
    result: dict[str, Any] = {
        "clips": len(cases), "rows": rows, "actors": dict(sorted(actors.items())),
        "impact_sync": {
            "all": lag_summary([ms for _, ms in lags]),
            **{act: lag_summary([ms for a, ms in lags if a == act]) for act in sorted({a for a, _ in lags})},
        },
        "lip_sync": lag_summary([ms for v in verdicts for ms in v.lip_lags]),
        "audio": {
            "rms_dbfs": _mean(v.rms_dbfs for v in verdicts), "peak_dbfs": _mean(v.peak_dbfs for v in verdicts),
        },
    }  # fmt: skip
    if column == "codec":
        boxes: dict[str, list[float]] = {}
        for case in cases:
            for kind, value in case.kind_psnr:
                boxes.setdefault(kind, []).append(value)
        shifts = np.abs([s for c in cases for s in c.shifts_ms])
        result["fidelity"] = {
            **{name: _mean(c.fidelity[name] for c in cases) for name in cases[0].fidelity},
            "psnr_in_boxes": {kind: _mean(values) for kind, values in sorted(boxes.items())},
            "onset_shift_p90_ms": float(np.percentile(shifts, 90)) if len(shifts) else None,
        }
    return result


def _mean(values: Iterable[float]) -> float | None:
    kept = [v for v in values if math.isfinite(v)]
    return float(np.mean(kept)) if kept else None


# --- for people -----------------------------------------------------------------------------------------------------
def markdown(results: dict[str, Any]) -> str:
    """Tables for each split: rows with truth, codec and generated; sync; by actor; the codec's fidelity."""
    about = results["about"]
    lines = [
        "# Results",
        "",
        f"{about['prompts']} prompts a split, seeds from {about['first_seed']}, {about['size'][0]}x{about['size'][1]}, "
        + (f"{about['seconds']:g} s. " if about["seconds"] is not None else "2 to 4 s. ")
        + "Shares in percent with 95 % Wilson intervals; macro: mean over actors; worst: the worst actor.",
        f"Chance: word {100 * about['chance']['word']:.1f}, sound class {100 * about['chance']['sound']:.1f}.",
    ]
    if about["failed"]:
        lines += ["", f"Not measured, and counted nowhere: {'; '.join(about['failed'])}."]
    for split, columns in results["splits"].items():
        names = list(columns)
        lines += ["", f"## {split}", "", "| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        for row, title in ROWS.items():
            if any(row in columns[n]["rows"] for n in names):
                lines.append(f"| {title} | " + " | ".join(_cell(columns[n]["rows"].get(row)) for n in names) + " |")
        for title, key in (("impact sync", "impact_sync"), ("lip sync", "lip_sync")):
            cells = [_lag_cell(columns[n][key]["all"] if key == "impact_sync" else columns[n][key]) for n in names]
            lines.append(f"| {title}, \\|lag\\| ms | " + " | ".join(cells) + " |")
        levels = [columns[n]["audio"] for n in names]
        lines.append(
            "| level RMS / peak, dBFS | "
            + " | ".join(f"{_db(a['rms_dbfs'])} / {_db(a['peak_dbfs'])}" for a in levels)
            + " |"
        )
        if "codec" in columns:
            lines += ["", _fidelity_line(columns["codec"]["fidelity"])]
        last = columns[names[-1]]
        shown = ["actor", "colour", "size", "motion", "count", "sound", "word", "lasting"]
        lines += [
            "",
            f"By actor ({names[-1]}):",
            "",
            "| actor | " + " | ".join(shown) + " |",
            "|---" * (len(shown) + 1) + "|",
        ]
        for kind, rows in last["actors"].items():
            cells = [f"{100 * rows[r]['share']:.1f} ({rows[r]['n']})" if r in rows else "" for r in shown]
            lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    if "conditions" in results:
        from phonofilm.evaluate.conditions import conditions_markdown

        lines += conditions_markdown(results["conditions"])
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    text = f"{100 * row['share']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}] (n {row['n']})"
    return f"{text}; macro {100 * row['macro']:.1f}, worst {row['worst']} {100 * row['worst_share']:.1f}"


def _lag_cell(lag: dict[str, float]) -> str:
    if "median_abs_ms" not in lag:
        return "none heard" if lag["n"] else ""
    within = f"{100 * lag['within_bt1359']:.1f} % within BT.1359"
    return f"median {lag['median_abs_ms']:.1f}, p90 {lag['p90_abs_ms']:.1f}, {within} (n {lag['n']})"


def _db(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _fidelity_line(fidelity: dict[str, Any]) -> str:
    boxes = ", ".join(f"{kind} {_db(value)}" for kind, value in fidelity["psnr_in_boxes"].items())
    shift = fidelity["onset_shift_p90_ms"]
    return (
        f"Codec: PSNR {_db(fidelity['psnr'])} dB, SSIM {fidelity['ssim']:.3f}, log-spectral distance "
        f"{fidelity['log_spectral_distance']:.1f} dB, onset shift p90 {_db(shift)} ms; PSNR in boxes, dB: {boxes}."
    )


def write_sheets(out: Path, case: Case, clips: Mapping[str, Clip]) -> None:
    """Write a contact sheet of each of a case's clips into the folder `out`, for `write_report`."""
    from phonofilm.media import contact_sheet

    for column, clip in clips.items():
        contact_sheet(clip, out / _sheet(case, column), title=f"{column}: {case.prompt}", frames=12)


def _sheet(case: Case, column: str) -> str:
    return f"{case.split}-{case.seed:03d}-{column}.png"


def write_report(out: Path, results: dict[str, Any], shown: Sequence[Case]) -> None:
    """Write results.json, results.md and index.html, with the sheets of the cases that are shown, into `out`."""
    text = markdown(results)
    figures = []
    for case in shown:
        cells = []
        for column, verdict in case.verdicts.items():
            wrong = "; ".join(verdict.wrong) or "all right"
            cells.append(
                f'<figure><img loading="lazy" src="{_sheet(case, column)}" alt="{html.escape(column)}">'
                f"<figcaption>{html.escape(column)}: {html.escape(wrong)}</figcaption></figure>"
            )
        figures.append(
            f"<h3>{html.escape(case.split)}, seed {case.seed}</h3><p>{html.escape(case.prompt)}</p>{''.join(cells)}"
        )
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<title>Phonofilm: evaluation</title><style>"
        "body{font:16px/1.5 system-ui;margin:2rem auto;max-width:70rem;padding:0 1rem}"
        "img{max-width:100%}pre{overflow-x:auto;background:#f4f4f2;padding:1rem}figure{margin:0 0 1rem}</style>"
        "<h1>Evaluation</h1><p>The clips are the first of fixed seeds, not the best.</p>"
        f"<pre>{html.escape(text)}</pre>{''.join(figures)}</html>\n"
    )
    for name, content in (
        ("results.json", json.dumps(results, indent=1) + "\n"),
        ("results.md", text),
        ("index.html", page),
    ):
        with replacing(out / name) as beside:
            beside.write_text(content, encoding="utf-8")
