"""Takeovers and outages: a worker that falls silent, a database that is away, an answer that gets lost."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from local_postgres import Cluster
from processes import QUICK, Processes, answers, ends, wish
from serving import doors

from phonofilm.errors import CheckpointError
from phonofilm.jobs import schema, worker
from phonofilm.jobs.job import Job
from phonofilm.jobs.storage import Storage
from phonofilm.jobs.store import Store
from phonofilm.jobs.worker import Worker, WorkerConfig


# --- several machines -----------------------------------------------------------------------------------------------
@pytest.fixture
def there(tmp_path: Path, postgres: Cluster) -> Iterator[Processes]:
    with Processes(tmp_path, postgres.url) as processes:
        with processes.store.engine.begin() as c:
            for table in schema.meta.sorted_tables:
                if table is not schema.rounds:
                    c.execute(sa.delete(table))
            c.exec_driver_sql("DELETE FROM dbos.workflow_status")
        yield processes


def test_a_worker_that_stood_still_does_no_harm_when_it_goes_on(there: Processes) -> None:
    workers = [there.worker(code=QUICK) for _ in range(2)]
    names = [there.signed_on(process) for process in workers]
    job = there.store.add(wish("sleep=4"))
    slow = str(there.started(job.id).worker)
    first, second = workers if slow == names[0] else workers[::-1]
    first.send_signal(signal.SIGSTOP)
    there.until(lambda: there.job(job.id).attempt == 2, "the takeover")
    first.send_signal(signal.SIGCONT)
    assert there.ended(job.id)[0].worker != slow
    second.terminate()
    assert second.wait(120) == 0
    more = there.store.add(wish("more"))
    assert there.ended(more.id)[0].worker == slow  # it lives, and works
    first.terminate()
    assert first.wait(120) == 0
    assert ends(there.store) == [(job.id, "video.completed"), (more.id, "video.completed")]
    files = Storage(str(there.folder / "data" / "files")).names("films")
    assert {name.rpartition("/")[0] for name in files} == {f"films/{job.id}/2", f"films/{more.id}/1"}


def test_each_worker_takes_as_many_films_as_it_was_told_to(there: Processes) -> None:
    workers = [there.worker("--at-once", str(count), code=QUICK) for count in (3, 1)]
    names = [there.signed_on(process) for process in workers]
    jobs = [there.store.add(wish(f"{k} sleep=60")) for k in range(6)]
    there.until(lambda: there.store.counts().get("in_progress") == 4, "four films at a time")
    there.until(lambda: [len(there.store.running_on(name)) for name in names] == [3, 1], "three and one of them")
    for job in jobs:
        there.store.cancel(job.id)


@pytest.mark.parametrize("outage", ["frozen", "restarted", "crashed"])
def test_while_the_database_is_away_nothing_is_lost(there: Processes, postgres: Cluster, outage: str) -> None:
    _, url = there.serve("--workers", "0")
    there.worker(code=QUICK)
    there.until(lambda: answers(f"{url}/readyz"), "server and worker")
    running, waiting = there.store.add(wish("sleep=2")), there.store.add(wish("next"))
    there.started(running.id)
    if outage == "frozen":
        with postgres.frozen():
            there.until(lambda: answers(f"{url}/healthz"), "an answer that needs no database")
    else:
        postgres.stop("fast" if outage == "restarted" else "immediate")
        try:
            answer = httpx2.get(f"{url}/v1/videos/{running.id}", timeout=60)
        finally:
            postgres.start()
        assert answer.status_code == 503 and answer.headers["x-should-retry"] == "true"
        assert answer.json()["error"]["code"] == "unavailable"
    there.store.engine.dispose()
    assert [job.status for job in there.ended(running.id, waiting.id)] == ["completed", "completed"]
    there.until(lambda: answers(f"{url}/readyz"), "server and worker")
    made = httpx2.post(f"{url}/v1/videos", json={"prompt": "after", "seconds": "2"}, timeout=60).json()["id"]
    assert there.ended(made)[0].status == "completed"
    assert len(ends(there.store)) == 3


# --- answers that get lost, in this process -------------------------------------------------------------------------
class Lost(sa.exc.OperationalError):
    def __init__(self) -> None:
        super().__init__("SELECT 1", {}, Exception("server closed the connection unexpectedly"))


class NoTaker:
    """Stands in for the queue: the test hands the tickets over itself."""

    def __init__(self, *_: object) -> None: ...


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker of this process that makes empty films."""
    monkeypatch.setattr(worker, "Taker", NoTaker)
    monkeypatch.setattr(worker.time, "sleep", lambda _: None)

    def export(chunks: Any, folder: Path, job: Job) -> dict[str, Path]:
        list(chunks)
        (folder / "film.mp4").write_bytes(job.request.prompt.encode())
        return {"video": folder / "film.mp4"}

    with Store(schema.database_url(None, tmp_path)) as store:
        yield Worker(store, Storage(str(tmp_path / "files")), export, WorkerConfig())


def breaking(method: Callable[..., Any], where: Sequence[bool]) -> Callable[..., Any]:
    """A method that loses its connection at the first calls: before what it does (False), or after (True)."""
    left = list(where)

    def broken(*args: Any, **more: Any) -> Any:
        if not left:
            return method(*args, **more)
        if left.pop(0):
            method(*args, **more)
        raise Lost

    return broken


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Lost(), 503, "unavailable"), (sa.exc.TimeoutError("no connection is free"), 503, "unavailable"),
        (OSError(errno.ENOSPC, "No space left on device"), 507, "no_space"), (OSError("odd"), 500, "server_error"),
    ],
)  # fmt: skip
def test_callers_learn_whether_trying_again_can_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    def broken(*_: object) -> None:
        raise error

    with doors(tmp_path) as here:
        monkeypatch.setattr(here.service.store, "get", broken)
        answer = here.get("/v1/videos/video_x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.headers["x-should-retry"] == ("true" if status == 503 else "false")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("name", "prompt", "end"),
    [
        ("begin", "a", "completed"), ("report", "a", "completed"), ("preview", "a", "completed"),
        ("publish", "a", "completed"), ("get", "a", "completed"), ("fail", "refuse", "failed"),
        ("retry", "fail", "queued"),
    ],
)  # fmt: skip
def test_a_job_ends_as_it_should_though_answers_of_the_database_get_lost(
    alone: Worker, monkeypatch: pytest.MonkeyPatch, name: str, prompt: str, end: str, after: bool
) -> None:
    job = alone.store.add(wish(prompt))
    monkeypatch.setattr(alone.store, name, breaking(getattr(alone.store, name), [after, after]))
    alone.work(job.id, job.ticket)
    monkeypatch.undo()
    now = alone.store.get(job.id)
    assert now is not None and now.status == end and alone._running == {}
    assert len(ends(alone.store)) == (end != "queued")
    if end == "completed":
        assert b"".join(alone.storage.read(now.files["video"])) == b"a"


def test_what_nobody_executes_is_found_by_the_worker_that_is_said_to(alone: Worker) -> None:
    jobs = [alone.store.add(wish(f"{k}")) for k in range(2)]
    for job in jobs:
        alone.store.begin(job.id, job.ticket, alone.id)
    alone.store.cancel(jobs[1].id)
    alone.store.sign_of_life(alone.id, alone.state())
    alone._sweep()
    assert [alone.store.get(job.id).status for job in jobs] == ["queued", "failed"]  # type: ignore[union-attr]


def test_a_film_that_cannot_be_stored_leaves_nothing(alone: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    job = alone.store.add(wish("a"))
    monkeypatch.setattr(alone.storage._system, "put_file", full)
    for _ in range(worker.RETRIES + 1):
        now = alone.store.get(job.id)
        assert now is not None and now.open
        alone.work(job.id, now.ticket)
    last = alone.store.get(job.id)
    assert last is not None and last.error_code == "no_space" and alone.storage.names("films") == []


def test_weights_that_cannot_be_used_are_not_the_callers_fault(alone: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise CheckpointError("/srv/weights/denoiser.safetensors is truncated")

    monkeypatch.setattr(worker, "load", broken)
    job = alone.store.add(wish("a"))
    alone.work(job.id, job.ticket)
    now = alone.store.get(job.id)
    assert (
        now is not None
        and now.status == "queued"
        and now.notes[0].endswith("weights that this server has cannot be used")
    )


def test_only_those_who_have_been_awake_judge_others(alone: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(worker.time, "monotonic", lambda: now[0])
    alone._beaten = alone._steady = now[0]
    seen = []
    for gap in (2, 2, 2, 2, 2, 2, 2, 20, 0.1, 2, 2, 2, 2, 2, 2, 2):  # seconds between signs of life
        now[0] += gap
        late = alone._judges()
        alone._beat()
        seen.append((late, alone._judges()))
    assert [judges for _, judges in seen] == [False] * 6 + [True] + [False] * 7 + [True] * 2
    assert seen[7][0] is False
