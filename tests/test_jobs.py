"""Jobs: nothing accepted is lost, nothing is published twice, and everybody gets a turn."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from phonofilm.errors import InputError, PhonofilmError
from phonofilm.jobs import schema, webhooks
from phonofilm.jobs.job import Job, JobError
from phonofilm.jobs.retention import keep_upload, known_upload, tidy
from phonofilm.jobs.scratch import Scratch
from phonofilm.jobs.storage import Storage, upload_name
from phonofilm.jobs.store import Limits, Store
from phonofilm.request import Condition, Request


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres").url
    with Store(schema.database_url(url, tmp_path)) as store:
        if url is not None:  # what an earlier test left
            left = (*schema.meta.sorted_tables, tickets(store))
            with store.engine.begin() as c:
                for table in left:
                    c.execute(sa.delete(table) if table is not schema.rounds else sa.update(table).values(round=0))
        yield store


def tickets(store: Store) -> sa.Table:
    schema = "dbos" if store.engine.dialect.name == "postgresql" else None
    return sa.Table("workflow_status", sa.MetaData(), autoload_with=store.engine, schema=schema)


def order(store: Store) -> list[str]:
    """Jobs in the order in which a worker would take their tickets."""
    table = tickets(store)
    live = sa.select(schema.jobs.c.id).join(table, table.c.workflow_uuid == schema.jobs.c.ticket)
    live = live.where(schema.jobs.c.status == "queued")
    with store.reading() as c:
        return [row[0] for row in c.execute(live.order_by(table.c.priority, table.c.created_at))]


def test_a_job_comes_back_as_it_was_given(store: Store) -> None:
    request = Request("a red ball", seconds=2.5, seed=7, size="portrait")
    job = store.add(request, "ann", priority=2)
    found = store.get(job.id)
    assert found == job and found.request == request and found.status == "queued" and found.id.startswith("video_")
    assert store.get(job.id, "ben") is None and store.get(job.id, "ann") == job and store.get("video_x") is None


def test_every_accepted_job_has_its_ticket_and_no_refused_one_has(store: Store) -> None:
    for k in range(3):
        store.add(Request(f"ball {k}"), limits=Limits(concurrent=3))
    with pytest.raises(JobError, match="3 jobs are open, and this key may have 3") as error:
        store.add(Request("one more"), limits=Limits(concurrent=3))
    assert error.value.code == "too_many_jobs"
    table = tickets(store)
    with store.reading() as c:
        assert c.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() == 3
    assert len(order(store)) == 3


def test_seconds_of_film_a_day_are_counted_without_those_of_failed_jobs(store: Store) -> None:
    limits = Limits(seconds_a_day=7)
    first = store.add(Request("a", seconds=3), "ann", limits=limits)
    store.add(Request("b", seconds=3), "ann", limits=limits)
    with pytest.raises(JobError, match="6 of 7 seconds of film a day are used; 2 more do not fit"):
        store.add(Request("c", seconds=2), "ann", limits=limits)
    store.add(Request("c", seconds=2), "ben", limits=limits)
    store.cancel(first.id)
    assert store.used_today("ann") == 3
    store.add(Request("c", seconds=2, best_of=2), "ann", limits=limits)


def test_seconds_of_film_a_day_outlive_the_films(store: Store) -> None:
    limits = Limits(seconds_a_day=7)
    for seconds, tries in ((3, 1), (1, 2)):
        job = store.add(Request("a", seconds=seconds, best_of=tries), "ann", limits=limits)
        assert store.publish(begin(store, job.id), {"video": "v"}, {}, [])
        store.forget(job.id)
    failed = store.add(Request("no", seconds=3), "ann")
    assert store.fail(begin(store, failed.id), "c", "m")
    held = store.add(Request("open", seconds=2), "ann")
    store.hold(held.id, True)
    assert store.used_today("ann") == 7 and store.used_today("ben") == 0
    with pytest.raises(JobError, match="7 of 7 seconds of film a day are used"):
        store.add(Request("more", seconds=1), "ann", limits=limits)
    e = schema.events
    with store.engine.begin() as c:  # a day goes by
        c.execute(sa.update(e).values(created_at=e.c.created_at - 86_401))
    assert store.used_today("ann") == 2
    store.add(Request("more", seconds=3), "ann", limits=limits)


def test_a_paused_film_does_not_age_the_queue(store: Store) -> None:
    held, waits = store.add(Request("a")), store.add(Request("b"))
    store.hold(held.id, True)
    assert store.oldest_queued() == waits.created_at
    store.cancel(waits.id)
    assert store.oldest_queued() is None
    store.hold(held.id, False)
    assert store.oldest_queued() == held.created_at


def test_one_idempotency_key_makes_one_job_also_when_two_call_at_once(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: store.add(Request("a"), "ann", idempotency="k").id, range(16)))
    assert len(ids) == 1
    assert store.add(Request("a"), "ben", idempotency="k").id not in ids
    with pytest.raises(JobError, match="another request") as error:
        store.add(Request("b"), "ann", idempotency="k")
    assert error.value.code == "idempotency_mismatch"


def test_paging_shows_each_job_once_in_both_directions(store: Store) -> None:
    ids = [store.add(Request(f"{k}"), "ann").id for k in range(7)]
    store.add(Request("other"), "ben")
    for newest in (True, False):
        seen: list[str] = []
        while page := store.jobs_of("ann", after=seen[-1] if seen else None, limit=3, newest_first=newest):
            seen += [job.id for job in page]
        assert seen == (ids[::-1] if newest else ids)
    store.cancel(ids[1])
    assert [job.id for job in store.jobs_of("ann", ended=True)] == [ids[1]]
    assert [job.id for job in store.jobs_of("ann", ended=False)] == [ids[k] for k in (6, 5, 4, 3, 2, 0)]
    with pytest.raises(JobError, match="no video"):
        store.jobs_of("ben", after=ids[0])


def test_everybodys_first_job_comes_before_anybodys_second(store: Store) -> None:
    ann = [store.add(Request(f"a{k}"), "ann").id for k in range(3)]
    ben = [store.add(Request(f"b{k}"), "ben").id for k in range(2)]
    urgent = store.add(Request("now"), "eve", priority=5).id
    late = store.add(Request("any time"), "eve", priority=-1).id
    assert order(store) == [urgent, ann[0], ben[0], ann[1], ben[1], ann[2], late]
    store.move(ann[2], 10)
    assert order(store)[0] == ann[2]
    with pytest.raises(JobError, match=r"-10\.\.10, got 11"):
        store.move(ann[2], 11)


def begin(store: Store, id: str, worker: str = "w") -> Job:
    """Take the job's ticket, whatever came before."""
    now = store.get(id)
    assert now is not None
    job = store.begin(id, now.ticket, worker)
    assert job is not None
    return job


def test_who_keeps_asking_overtakes_neither_himself_nor_others_for_ever(store: Store) -> None:
    ann = [store.add(Request(f"{k}"), "ann").id for k in range(6)]
    served: list[str] = []
    for k in range(20):  # each time that a job ends, ann wants one more, and every other time somebody new comes
        first = order(store)[0]
        served.append(first)
        assert store.fail(begin(store, first), "c", "m")
        if k % 2:
            store.add(Request("new"), f"new{k}")
        ann.append(store.add(Request("more"), "ann").id)
    turns = [served.index(id) for id in ann if id in served]
    assert turns == sorted(turns) and len(turns) >= 9  # in her order, and every other one is hers


def test_what_lost_its_worker_keeps_its_place_until_it_is_suspect(store: Store) -> None:
    jobs = [store.add(Request(f"{k}")).id for k in range(3)]
    for _ in range(2):
        begin(store, jobs[0], "gone")
        assert store.orphans() == [jobs[0]] and order(store)[0] == jobs[0]
    begin(store, jobs[0], "gone")
    assert store.orphans() == [jobs[0]] and order(store) == [jobs[1], jobs[2], jobs[0]]


def test_an_execution_is_put_back_once_and_by_the_latest_alone(store: Store) -> None:
    job = store.add(Request("a"))
    first, second = begin(store, job.id), begin(store, job.id)
    assert store.running_on("w") == [second] and not store.put_back(first) and store.put_back(second)
    assert not store.put_back(second) and store.running_on("w") == [] and order(store) == [job.id]
    third = begin(store, job.id)
    store.cancel(job.id)
    assert not store.put_back(third) and store.fail(third, "cancelled", "")


def test_a_ticket_that_went_astray_is_replaced(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lost, held, waits = (store.add(Request(f"{k}")) for k in range(3))
    table = tickets(store)
    gone = table.c.workflow_uuid.in_((lost.ticket, held.ticket))
    with store.engine.begin() as c:  # taken by a process that never heard that it got it
        c.execute(sa.update(table).where(gone).values(status="PENDING", updated_at=1000 * time.time()))
    store.hold(held.id, True)
    assert store.astray() == []
    with store.engine.begin() as c:
        c.execute(sa.update(table).where(gone).values(updated_at=1000 * (time.time() - 60)))
    assert store.astray() == [lost.id] and store.astray() == []
    assert order(store) == [lost.id, held.id, waits.id]
    assert store.begin(lost.id, lost.ticket, "w") is None and begin(store, lost.id).id == lost.id


def test_used_up_tickets_are_forgotten(store: Store) -> None:
    jobs = [store.add(Request(f"{k}")) for k in range(3)]
    table = tickets(store)
    for job, status in zip(jobs, ("SUCCESS", "SUCCESS", "ENQUEUED"), strict=True):
        then = 1000 * (time.time() - (60 if job is jobs[1] else 9999))
        with store.engine.begin() as c:
            mine = table.c.workflow_uuid == job.ticket
            c.execute(sa.update(table).where(mine).values(status=status, updated_at=then))
    with store.reading() as c:
        assert store.tickets.forget(c, 3600) == 1
    with store.reading() as c:
        left = set(c.execute(sa.select(table.c.workflow_uuid)).scalars())
    assert left == {jobs[1].ticket, jobs[2].ticket}


def test_uploads_go_when_nothing_needs_them(tmp_path: Path) -> None:
    storage, digests = Storage(str(tmp_path / "films")), [f"sha256:{k:064x}" for k in range(4)]
    with Store(schema.database_url(None, tmp_path), keep_seconds=100) as store:
        for digest in digests:
            (tmp_path / "f").write_bytes(b"x")
            storage.put(tmp_path / "f", upload_name("ann", digest))
            keep_upload(store, "ann", digest, "image", 1)
        wanted = store.add(Request("a", conditions=(Condition("first", digest=digests[0]),)), "ann")
        store.add(Request("b", conditions=(Condition("first", digest=digests[1]),)), "ben")  # not of hers
        character = {"id": "c", "owner": "ann", "name": "n", "digest": digests[2], "created_at": 0}
        with store.engine.begin() as c:
            c.execute(sa.insert(schema.characters).values(character))
            c.execute(sa.update(schema.uploads).values(used_at=time.time() - 200))
        assert known_upload(store, "ann", digests[3]) == "image"  # sent again
        tidy(store, storage)
        left = {digest for digest in digests if known_upload(store, "ann", digest)}
        assert left == {digests[0], digests[2], digests[3]}
        assert sorted(storage.names("uploads/ann")) == sorted(upload_name("ann", digest) for digest in left)
        store.cancel(wanted.id)


def test_only_the_latest_attempt_is_listened_to(store: Store) -> None:
    job = store.add(Request("a"))
    first = store.begin(job.id, job.ticket, "w1")
    second = store.begin(job.id, job.ticket, "w2")
    assert first is not None and second is not None and (first.attempt, second.attempt) == (1, 2)
    assert not store.report(first, "denoise", 50) and store.report(second, "denoise", 40)
    assert not store.publish(first, {"video": "x"}, {}, []) and not store.fail(first, "c", "m")
    assert store.publish(second, {"video": "y"}, {"total_energy_j": 2.5}, ["note"])
    assert not store.publish(second, {"video": "z"}, {}, []) and not store.fail(second, "c", "m")
    done = store.get(job.id)
    assert done is not None and (done.status, done.files, done.progress) == ("completed", {"video": "y"}, 100)
    assert store.begin(job.id, job.ticket, "w3") is None
    with store.reading() as c:
        rows = c.execute(sa.select(schema.events)).mappings().all()
    assert [(row["type"], row["data"]["seconds"], row["data"]["energy_j"]) for row in rows] == [
        ("video.completed", 3.0, 2.5)
    ]


def test_a_cancelled_job_ends_once_and_is_never_published(store: Store) -> None:
    queued, running = store.add(Request("a")), store.add(Request("b"))
    attempt = store.begin(running.id, running.ticket, "w")
    assert attempt is not None
    for id in (queued.id, running.id):
        store.cancel(id)
    gone = store.get(queued.id)
    assert gone is not None and (gone.status, gone.error_code) == ("failed", "cancelled")
    assert store.begin(queued.id, queued.ticket, "w") is None
    assert not store.report(attempt, "denoise", 10) and not store.publish(attempt, {}, {}, [])
    assert store.fail(attempt, "cancelled", "")
    assert store.cancel("video_none") is None
    taken = store.add(Request("c"))
    store.begin(taken.id, taken.ticket, "w")
    store.cancel(taken.id)
    assert store.begin(taken.id, taken.ticket, "w2") is None  # taken over after it was cancelled
    last = store.get(taken.id)
    assert last is not None and last.error_code == "cancelled"


def test_a_held_job_waits_until_it_is_let_go(store: Store) -> None:
    job = store.add(Request("a"))
    store.hold(job.id, True)
    assert store.begin(job.id, job.ticket, "w") is None
    free = store.hold(job.id, False)
    assert free is not None and free.ticket != job.ticket
    assert store.begin(job.id, job.ticket, "w") is None  # the old ticket
    assert store.begin(job.id, free.ticket, "w") is not None


def test_a_retry_waits_in_the_queue_with_a_new_ticket(store: Store) -> None:
    job = store.add(Request("a"))
    first = store.begin(job.id, job.ticket, "w")
    assert first is not None and store.retry(first, 0.0, "tried again: it failed")
    again = store.get(job.id)
    assert again is not None and (again.status, again.notes) == ("queued", ["tried again: it failed"])
    assert not store.retry(first, 0.0, "twice")
    assert store.begin(job.id, job.ticket, "w") is None and store.begin(job.id, again.ticket, "w") is not None


def test_what_a_lost_worker_was_doing_goes_back_into_the_queue(store: Store) -> None:
    job = store.add(Request("a"))
    store.sign_of_life("w", {"host": "h"})
    assert store.begin(job.id, job.ticket, "w") is not None and store.orphans() == []
    assert store.alive()[0]["id"] == "w" and store.dead() == []
    with store.engine.begin() as c:
        c.execute(sa.update(schema.workers).values(seen_at=time.time() - 60))
    assert store.dead() == ["w"] and store.alive() == []
    store.sign_off("w")
    assert store.orphans() == [job.id] and store.orphans() == []
    back = store.get(job.id)
    assert back is not None and back.status == "queued" and store.begin(job.id, back.ticket, "w2") is not None


def test_a_job_whose_workers_always_die_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phonofilm.jobs.store.MOST_ATTEMPTS", 2)
    job = store.add(Request("a"))
    assert [store.begin(job.id, job.ticket, "w") is not None for _ in range(3)] == [True, True, False]
    end = store.get(job.id)
    assert end is not None and end.error_code == "worker_died" and "2 executions" in str(end.error_message)


def test_what_has_ended_expires_and_what_has_not_stays(tmp_path: Path) -> None:
    with Store(schema.database_url(None, tmp_path), keep_seconds=-1) as store:
        done, open_ = store.add(Request("a")), store.add(Request("b"))
        store.cancel(done.id)
        assert [job.id for job in store.expired()] == [done.id]
        store.forget(done.id)
        assert store.get(done.id) is None and store.get(open_.id) is not None and store.expired() == []
        assert store.end(open_.id) is not None and store.end("video_none") is None
        store.forget(open_.id)
        assert store.get(open_.id) is None


def test_a_running_job_is_cancelled_before_it_can_be_deleted(store: Store) -> None:
    job = store.add(Request("a"))
    attempt = store.begin(job.id, job.ticket, "w")
    with pytest.raises(JobError, match="is running"):
        store.end(job.id)
    assert attempt is not None and not store.report(attempt, "denoise", 1)


def test_previews_are_numbered_and_the_last_one_counts(store: Store) -> None:
    job = store.add(Request("a"))
    assert store.last_preview(job.id) is None
    first = begin(store, job.id)
    for k in range(3):
        store.preview(first, bytes([k]))
    assert store.last_preview(job.id) == (3, b"\x02") and store.last_preview(job.id, after=3) is None
    second = begin(store, job.id)
    store.preview(first, b"late")
    assert store.last_preview(job.id) == (3, b"\x02")
    assert store.fail(second, "c", "m") and store.last_preview(job.id) is None
    store.preview(second, b"later still")
    assert store.last_preview(job.id) is None


def test_jobs_outlive_the_process_that_took_them(tmp_path: Path) -> None:
    url = schema.database_url(None, tmp_path)
    with Store(url) as store:
        job = store.add(Request("a"))
    with Store(url) as store:
        assert store.get(job.id) == job and order(store) == [job.id] and store.counts() == {"queued": 1}
        assert store.oldest_queued() == job.created_at


def test_a_database_that_cannot_be_reached_is_one_line_without_its_password(tmp_path: Path) -> None:
    for url in ("postgresql://ann:secret@127.0.0.1:1/none", f"sqlite:///{tmp_path}/none/x.db"):
        with pytest.raises(PhonofilmError, match="the database cannot be used: ") as error:
            Store(schema.database_url(url, tmp_path))
        assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_databases_that_are_none_are_named(tmp_path: Path) -> None:
    for url in ("mysql://a@b/c", "sqlite://", "nonsense"):
        with pytest.raises(InputError, match="database"):
            schema.database_url(url, tmp_path)


@pytest.mark.parametrize("place", ["{}/films", "memory://films"])
def test_a_stored_file_is_whole_or_not_there(tmp_path: Path, place: str) -> None:
    storage = Storage(place.format(tmp_path))
    assert storage.local == (place != "memory://films")
    source = tmp_path / "a.bin"
    source.write_bytes(bytes(range(256)) * 5000)
    storage.put(source, "films/j/1/a.bin")
    assert storage.size("films/j/1/a.bin") == 1_280_000
    assert b"".join(storage.read("films/j/1/a.bin")) == source.read_bytes()
    assert b"".join(storage.read("films/j/1/a.bin", 250, 260)) == bytes([*range(250, 256), *range(4)])
    assert storage.names("films/j") == ["films/j/1/a.bin"] and storage.names("films/none") == []
    assert storage.fetch("films/j/1/a.bin", tmp_path / "b" / "c.bin").read_bytes() == source.read_bytes()
    storage.remove("films/j")
    storage.remove("films/j")
    with pytest.raises(FileNotFoundError):
        storage.size("films/j/1/a.bin")
    for name in ("../a", "a/../b", "/etc/passwd", "a//b", ".hidden", ""):
        with pytest.raises(InputError, match="cannot be named"):
            storage.put(source, name)
    with pytest.raises(InputError, match="cannot store"):
        Storage("nosuchscheme://x")


def test_what_killed_processes_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "phonofilm-process.dead").mkdir()
    (tmp_path / "phonofilm-process.dead" / "half").write_bytes(b"x")
    first, second = Scratch(tmp_path), Scratch(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([first.folder, second.folder])
    first.remove()
    assert list(tmp_path.iterdir()) == [second.folder]
    second.remove()
    films = Storage(str(tmp_path / "films"))
    old, new = tmp_path / "films" / "old.part", tmp_path / "films" / "new.part"
    old.parent.mkdir()
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    films.clear()
    assert new.exists() and not old.exists()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_database_of_an_older_version_gets_what_is_new(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    place = None if kind == "sqlite" else request.getfixturevalue("postgres").database("older")
    url = schema.database_url(place, tmp_path)
    with Store(url) as store:
        job = store.add(Request("a"))
        with store.engine.begin() as c:
            c.exec_driver_sql("DROP INDEX jobs_by_status")
            c.exec_driver_sql("ALTER TABLE jobs DROP COLUMN round")
            c.exec_driver_sql("ALTER TABLE jobs DROP COLUMN receipt")
            c.exec_driver_sql("DROP TABLE deliveries")
            c.exec_driver_sql("DROP TABLE hooks")
            c.exec_driver_sql(
                "CREATE TABLE hooks (id TEXT PRIMARY KEY, owner TEXT, url TEXT, secret TEXT, created_at FLOAT)"
            )
            c.exec_driver_sql("INSERT INTO hooks VALUES ('old', '*', 'https://example.org/', 'whsec_AAAA', 0)")
    with Store(url) as store:
        assert store.get(job.id) == job and order(store) == [job.id]
        (hook,) = webhooks.every(store)
        assert (hook.id, hook.kind, hook.private, hook.waiting) == ("old", "video", False, 0)
        again = store.add(Request("b"))
        assert order(store) == [job.id, again.id]
        assert "jobs_by_status" in {index["name"] for index in sa.inspect(store.engine).get_indexes("jobs")}
