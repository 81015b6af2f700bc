"""Usage: one event for each published film, under an id that stays, for whoever sends bills."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from phonofilm.cli import main
from phonofilm.errors import InputError
from phonofilm.jobs import keys, schema, usage
from phonofilm.jobs.job import Job
from phonofilm.jobs.store import Store
from phonofilm.request import Request


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres").database("usage")
    with Store(schema.database_url(url, tmp_path)) as store:
        yield store


def publish(store: Store, job: Job, *, executions: int = 1, **receipt: float) -> None:
    for _ in range(executions):
        now = store.get(job.id)
        assert now is not None
        attempt = store.begin(job.id, now.ticket, "w")
        assert attempt is not None
    assert store.publish(attempt, {"video": "v"}, receipt, [])


def events(store: Store, **which: object) -> list[dict[str, object]]:
    return [json.loads(line) for line in usage.export(store, **which)]  # type: ignore[arg-type]


def test_a_published_film_is_one_event_and_others_are_none(store: Store) -> None:
    done = store.add(Request("a", model="fake", seconds=2, best_of=2, size="landscape"), "ann")
    publish(store, done, total_energy_j=2.5, steps=8)
    retried = store.add(Request("b", model="fake", seconds=3), "ben", kind="remix", source=done.id)
    attempt = store.begin(retried.id, retried.ticket, "w")
    assert attempt is not None and store.retry(attempt, 0.0, "tried again after 0 s: it failed")
    publish(store, retried, executions=2, total_energy_j=1.0, steps=4)
    first = store.get(retried.id)
    assert first is not None and not store.publish(first, {"video": "late"}, {}, [])
    failed, open_ = store.add(Request("c", model="fake")), store.add(Request("d", model="fake"))
    store.cancel(failed.id)
    store.begin(open_.id, open_.ticket, "w")
    found = events(store)
    assert [(e["subject"], e["data"]) for e in found] == [
        ("ann", {"video": done.id, "model": "fake", "kind": "create", "size": "160x96", "seconds": 4.0, "steps": 8,
                 "energy_j": 2.5, "attempts": 1}),
        ("ben", {"video": retried.id, "model": "fake", "kind": "remix", "size": "128x128", "seconds": 3.0, "steps": 4,
                 "energy_j": 1.0, "attempts": 3}),
    ]  # fmt: skip
    for event in found:  # what CloudEvents 1.0 asks for
        assert event["specversion"] == "1.0" and event["type"] == "phonofilm.film"
        assert event["source"] == "urn:phonofilm" and str(event["id"]).startswith("evt_")
        assert event["datacontenttype"] == "application/json"
        assert datetime.fromisoformat(str(event["time"])).tzinfo is not None


def test_ids_stay_when_it_is_exported_again_also_when_the_film_is_gone(store: Store) -> None:
    jobs = [store.add(Request(f"{k}", model="fake"), "ann") for k in range(5)]
    for job in jobs:
        publish(store, job)
    before = list(usage.export(store))
    for job in jobs[:3]:
        store.forget(job.id)
    assert list(usage.export(store)) == before
    known: dict[object, object] = {}
    for line in [*before, *usage.export(store)]:  # a receiver that goes by the id
        event = json.loads(line)
        known.setdefault((event["source"], event["id"]), event["data"])
    assert len(known) == 5


def test_windows_follow_one_another_without_gap_or_overlap(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "BATCH", 2)
    for k in range(7):
        publish(store, store.add(Request(f"{k}", model="fake"), "ann" if k % 2 else "ben"))
    e = schema.events
    with store.engine.begin() as c:  # in pairs at the same instant
        for k, id in enumerate(c.execute(sa.select(e.c.id).order_by(e.c.created_at)).scalars().all()):
            c.execute(sa.update(e).where(e.c.id == id).values(created_at=1_000_000.0 + k // 2))
    every = [event["id"] for event in events(store)]
    edges = [None, 1_000_000.0, 1_000_001.0, 1_000_002.5, None]
    parts = [events(store, since=a, until=b) for a, b in itertools.pairwise(edges)]
    assert [event["id"] for part in parts for event in part] == every and len(set(every)) == 7
    assert [len(part) for part in parts] == [0, 2, 4, 1]
    assert len(events(store, owner="ann")) == 3 and events(store, owner="nobody") == []


def test_the_command_writes_lines_or_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        assert main(["usage", "export", *arguments, "--data-dir", str(tmp_path)]) == 0
        return capsys.readouterr().out

    with Store(schema.database_url(None, tmp_path)) as store:
        key, _ = keys.create(store, "ann")
        for owner in (key.id, "local"):
            publish(store, store.add(Request("a", model="fake", seconds=2), owner), total_energy_j=1.25)
        everything = [json.loads(line) for line in run().splitlines()]
        assert [event["subject"] for event in everything] == [key.id, "local"]
        rows = list(csv.DictReader(io.StringIO(run("--format", "csv"))))
        assert [row["id"] for row in rows] == [event["id"] for event in everything]
        assert rows[0]["key"] == key.id and float(rows[0]["seconds"]) == 2 and float(rows[0]["energy_j"]) == 1.25
        assert rows[0]["steps"] == "" and tuple(rows[0]) == usage.COLUMNS
        for name, owner in ((key.shown, key.id), (key.id, key.id), ("local", "local")):
            assert [json.loads(line)["subject"] for line in run("--key", name).splitlines()] == [owner]
        assert run("--until", "2001-01-01") == "" == run("--since", "2101-01-01T00:00:00Z")
    assert main(["usage", "export", "--key", "nobody", "--data-dir", str(tmp_path)]) == 2


def test_times_are_utc_where_they_name_no_zone() -> None:
    assert usage.moment("1970-01-02") == 86_400 == usage.moment("1970-01-02T02:00:00+02:00")
    assert usage.moment("1970-01-01T00:00:01.5Z") == 1.5
    for text in ("yesterday", "2026-13-01", "", "1"):
        with pytest.raises(InputError, match="a time must be written as"):
            usage.moment(text)


def test_events_of_an_older_version_are_told_without_what_it_did_not_note(tmp_path: Path) -> None:
    with Store(schema.database_url(None, tmp_path)) as store:
        data = {"id": "video_x", "seconds": 3.0, "energy_j": None, "error": None, "attempts": 1}
        row = {"id": "evt_1", "owner": "ann", "type": usage.TYPE, "created_at": 1.0, "data": data}
        with store.engine.begin() as c:
            c.execute(sa.insert(schema.events).values(row))
        (event,) = events(store)
        assert event["time"] == "1970-01-01T00:00:01.000000Z"
        assert event["data"] == {
            "video": "video_x", "model": None, "kind": None, "size": None, "seconds": 3.0, "steps": None,
            "energy_j": None, "attempts": 1,
        }  # fmt: skip
