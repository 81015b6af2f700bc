"""What a bill is made of: one event for each film that was published, under an id that never changes.

Events are written in the transaction that publishes the film. They are told as CloudEvents 1.0 (JSON), as OpenMeter
and its like take them in: `subject` is the key, and who has seen an `id` before counts it no more.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import sqlalchemy as sa

from phonofilm.errors import InputError
from phonofilm.jobs import schema

if TYPE_CHECKING:
    from phonofilm.jobs.store import Store

Format = Literal["jsonl", "csv"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
TYPE: Final = "video.completed"  # of the events that are billed
SOURCE: Final = "urn:phonofilm"
DATA: Final = ("video", "model", "kind", "size", "seconds", "steps", "energy_j", "attempts")
COLUMNS: Final = ("id", "time", "key", *DATA)  # of a CSV file
BATCH: Final = 500


def cloud_event(event: Mapping[Any, Any]) -> dict[str, Any]:
    """An event of the table as a CloudEvent. What an older version did not note is null.

    data: seconds of film (each try of `best_of` counted), denoising steps (of each pass, tries not counted), joules of
    the execution that was published, executions begun.
    """
    data = {**event["data"], "video": event["data"]["id"]}
    return {
        "specversion": "1.0", "id": event["id"], "source": SOURCE, "type": "phonofilm.film", "subject": event["owner"],
        "time": _stamp(event["created_at"]), "datacontenttype": "application/json",
        "data": {name: data.get(name) for name in DATA},
    }  # fmt: skip


def export(
    store: Store, form: Format = "jsonl", *, since: float | None = None, until: float | None = None,
    owner: str | None = None,
) -> Iterator[str]:  # fmt: skip
    """Lines, each with its end, of the films that were published in [since, until), the oldest first.

    since, until: seconds since 1970. jsonl: a CloudEvent a line; csv: `COLUMNS`, named in the first line.
    """
    if form == "csv":
        yield _row(COLUMNS)
    for event in _events(store, since, until, owner):
        told = cloud_event(event)
        if form == "jsonl":
            yield json.dumps(told, ensure_ascii=False) + "\n"
        else:
            yield _row((told["id"], told["time"], told["subject"], *told["data"].values()))


def moment(text: str) -> float:
    """Seconds since 1970 of a day or an instant after ISO 8601, in UTC where it names no zone. Raises InputError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"a time must be written as 2026-11-30 or 2026-11-30T12:00:00Z, got {text!r}") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _events(store: Store, since: float | None, until: float | None, owner: str | None) -> Iterator[Mapping[Any, Any]]:
    e = schema.events
    wanted = sa.select(e).where(e.c.type == TYPE)
    if since is not None:
        wanted = wanted.where(e.c.created_at >= since)
    if until is not None:
        wanted = wanted.where(e.c.created_at < until)
    if owner is not None:
        wanted = wanted.where(e.c.owner == owner)
    place, edge = sa.tuple_(e.c.created_at, e.c.id), None
    while True:  # batch by batch: a long table fits no memory, and a long read would hold back SQLite's log
        page = wanted if edge is None else wanted.where(place > sa.tuple_(*map(sa.literal, edge)))
        with store.reading() as c:
            rows = c.execute(page.order_by(e.c.created_at, e.c.id).limit(BATCH)).mappings().all()
        yield from rows
        if len(rows) < BATCH:
            return
        edge = rows[-1]["created_at"], rows[-1]["id"]


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _row(values: tuple[Any, ...]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow(values)
    return file.getvalue()
