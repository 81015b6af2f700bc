"""Worker processes: what is accepted gets done, whatever dies, hangs, or is away meanwhile."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from processes import QUICK, Processes, alive, answers, children, ends, wish

from phonofilm.engines import Progress
from phonofilm.jobs import worker
from phonofilm.jobs.job import Job
from phonofilm.jobs.storage import Storage
from phonofilm.media import read
from phonofilm.provenance import verify


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path) as processes:
        yield processes


# --- one worker after the other ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Processes, dict[str, Job]]]:
    """Jobs of every kind, queued before a worker starts, and what became of them."""
    with Processes(tmp_path_factory.mktemp("done")) as here:
        add = here.store.add
        jobs = {
            "first": add(wish("first"), "ann"), "second": add(wish("second"), "ann"), "ben": add(wish("other"), "ben"),
            "fail": add(wish("fail"), "cy"), "fail_once": add(wish("fail_once"), "cy"),
            "refuse": add(wish("refuse"), "cy"), "urgent": add(wish("now"), "cy", priority=3),
            "late": add(wish("whenever"), "dee", priority=-3), "held": add(wish("held"), "eve"),
            "running": add(wish("sleep=4"), "zed", priority=-9), "queued": add(wish("never"), "zed", priority=-10),
        }  # fmt: skip
        here.store.hold(jobs["held"].id, True)
        process = here.worker(code=QUICK)
        assert 0 < here.started(jobs["running"].id).progress < 80
        seen = here.until(lambda: here.store.last_preview(jobs["running"].id), "a preview")
        assert seen[1].startswith(b"\xff\xd8")
        for name in ("queued", "running"):
            here.store.cancel(jobs[name].id)
        here.ended(*(job.id for name, job in jobs.items() if name != "held"))
        process.terminate()
        assert process.wait(60) == 0
        yield here, {name: here.job(job.id) for name, job in jobs.items()}


def test_a_film_is_made_signed_stored_and_published(done: tuple[Processes, dict[str, Job]], tmp_path: Path) -> None:
    here, jobs = done
    job = jobs["first"]
    assert (job.status, job.stage, job.progress, job.attempt) == ("completed", "done", 100, 1)
    storage = Storage(str(here.folder / "data" / "files"))
    assert set(job.files) == {"video", "thumbnail", "spritesheet", "receipt"}
    film = storage.fetch(job.files["video"], tmp_path / "film.mp4")
    clip = read(film)
    assert clip.seconds == pytest.approx(2) and clip.audio is not None
    assert verify(film).status == "signed"
    assert job.receipt is not None and job.receipt["request"]["prompt"] == "first" and job.receipt["steps"] == 4
    assert here.store.last_preview(job.id) is None  # it was for the time of waiting


def test_errors_that_may_pass_are_tried_again_and_others_are_not(done: tuple[Processes, dict[str, Job]]) -> None:
    _, jobs = done
    assert (jobs["fail_once"].status, jobs["fail_once"].attempt) == ("completed", 2)
    assert jobs["fail_once"].notes[0].startswith("tried again after") and jobs["fail_once"].receipt["steps"] == 4
    assert (jobs["fail"].error_code, jobs["fail"].attempt) == ("generation_failed", worker.RETRIES + 1)
    assert jobs["fail"].error_message == "the fake engine fails on this prompt"
    waits = [float(note.split()[3]) for note in jobs["fail"].notes]
    assert waits == [0.1, 0.2, 0.4]
    assert (jobs["refuse"].error_code, jobs["refuse"].attempt) == ("invalid_request", 1)


def test_cancelled_jobs_end_and_held_ones_wait(done: tuple[Processes, dict[str, Job]]) -> None:
    here, jobs = done
    assert (jobs["queued"].error_code, jobs["queued"].attempt) == ("cancelled", 0)
    assert (jobs["running"].error_code, jobs["running"].progress < 80) == ("cancelled", True)
    assert (jobs["held"].status, jobs["held"].attempt) == ("queued", 0)
    told = ends(here.store)
    assert len(told) == len(set(told)) == len(jobs) - 1


def test_execution_follows_priority_and_goes_round_the_owners(done: tuple[Processes, dict[str, Job]]) -> None:
    _, jobs = done
    begun = sorted((job for job in jobs.values() if job.started_at), key=lambda job: job.started_at or 0)
    names = [next(name for name, job in jobs.items() if job.id == one.id) for one in begun]
    assert names == ["urgent", "first", "ben", "fail", "second", "fail_once", "refuse", "late", "running"]


def test_nothing_is_left_in_the_folder_for_temporary_files(done: tuple[Processes, dict[str, Job]]) -> None:
    here, _ = done
    assert list((here.folder / "tmp").iterdir()) == []


# --- death ----------------------------------------------------------------------------------------------------------
def test_what_kills_its_worker_is_given_up_and_what_does_not_is_not(here: Processes) -> None:
    poison, other = here.store.add(wish("die")), here.store.add(wish("live"))
    deaths: list[int] = []
    while here.job(poison.id).open:
        process = here.worker(code=QUICK)
        end = here.until(lambda p=process: p.poll() or not here.job(poison.id).open, "the end of worker or job")
        deaths += [end] if end is not True else []
    last = here.job(poison.id)
    assert (
        deaths == [-signal.SIGKILL] * 2
        and last.error_code == "worker_died"
        and "2 executions" in str(last.error_message)
    )
    assert here.ended(other.id)[0].status == "completed"
    names = Storage(str(here.folder / "data" / "files")).names("films")
    assert all(name.startswith(f"films/{other.id}/1/") for name in names)
    assert len(list((here.folder / "tmp").iterdir())) == 1  # of the worker that lives


def test_a_worker_that_is_told_to_stop_ends_its_film_and_begins_none(here: Processes) -> None:
    running, waiting = here.store.add(wish("sleep=2")), here.store.add(wish("next"))
    process = here.worker(code=QUICK)
    here.started(running.id)
    process.terminate()
    assert process.wait(120) == 0
    assert here.job(running.id).status == "completed" and here.job(waiting.id).status == "queued"
    assert here.store.alive() == [] and here.store.dead() == []


@pytest.mark.parametrize(("prompt", "step"), [("sleep=6", 20), ("sleep=400", 1)])
def test_what_has_not_ended_when_a_worker_must_stop_is_put_back(here: Processes, prompt: str, step: int) -> None:
    """The second engine does not even notice that it is to stop."""
    job = here.store.add(wish(prompt))
    process = here.worker(code=QUICK + f"c.GRACE_SECONDS, w.STEP_SECONDS = 1, {step}")
    here.until(lambda: here.job(job.id).status == "in_progress", "its beginning")
    process.terminate()
    assert process.wait(120) == 0
    now = here.job(job.id)
    assert (now.status, now.attempt, now.worker) == ("queued", 1, None) and now.ticket != job.ticket
    assert ends(here.store) == []


@pytest.mark.parametrize("prompt", ["sleep=4", "sleep=400"])
def test_a_film_that_takes_too_long_is_given_up(here: Processes, prompt: str) -> None:
    """A worker whose engine hangs ends with it, so that another one can work."""
    job, process = here.store.add(wish(prompt)), here.worker("--limit", "1", code=QUICK + "w.STEP_SECONDS = 3.0")
    last = here.ended(job.id)[0]
    assert last.error_code == "timeout" and str(last.error_message).startswith("took longer than 1 s")
    if prompt == "sleep=400":
        assert process.wait(60) == 70
    else:
        following = here.store.add(wish("next"))
        here.until(lambda: here.job(following.id).attempt, "the beginning of the next one")


def test_a_worker_ends_with_the_server_that_started_it_and_another_server_goes_on(here: Processes) -> None:
    server, url = here.serve()
    here.until(lambda: answers(f"{url}/readyz"), "the server")
    made = httpx2.post(f"{url}/v1/videos", json={"prompt": "sleep=2", "seconds": "2"}).json()["id"]
    here.started(made)
    child = next(pid for pid in children(server.pid) if alive(pid))
    os.kill(child, signal.SIGKILL)  # the server starts another one, which takes up the job
    here.until(lambda: here.job(made).attempt == 2, "the second execution")
    child = next(pid for pid in children(server.pid) if alive(pid))
    server.kill()
    server.wait()
    here.until(lambda: not alive(child), "the end of the worker")
    assert here.job(made).status == "completed"  # it was let finish
    waiting = here.store.add(wish("more"))
    server, url = here.serve()
    assert here.ended(waiting.id)[0].status == "completed"
    here.until(lambda: answers(f"{url}/readyz"), "the server")
    film = httpx2.get(f"{url}/v1/videos/{made}/content").content
    assert film == (here.folder / "data" / "files" / here.job(made).files["video"]).read_bytes()
    children_then = children(server.pid)
    held = here.store.add(wish("held"))
    here.store.hold(held.id, True)
    with httpx2.stream("GET", f"{url}/v1/videos/{held.id}/events", timeout=60) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: progress"
        server.terminate()
        assert "event: done" not in list(lines)  # it ends, and is not broken off
    assert server.wait(120) in (0, -signal.SIGTERM)
    assert not any(alive(child) for child in children_then) and list((here.folder / "tmp").glob("*/*")) == []


# --- no room, and no time -------------------------------------------------------------------------------------------
def test_a_full_disk_fails_the_job_and_the_service_goes_on(here: Processes) -> None:
    films = here.folder / "tiny"
    films.mkdir()
    if os.geteuid() or shutil.which("mount") is None or mount("-t", "tmpfs", "-o", "size=16k", "none", str(films)):
        pytest.skip("no file system of 16 kB can be mounted here")
    try:
        job = here.store.add(wish("too large"))
        here.worker("--files", str(films), code=QUICK)
        last = here.ended(job.id)[0]
        assert (last.error_code, last.attempt) == ("no_space", worker.RETRIES + 1)
        assert last.error_message == "there is no room left to store the film"
        assert [path for path in films.rglob("*") if path.is_file()] == []
        assert not mount("-o", "remount,size=10m", str(films))
        assert here.ended(here.store.add(wish("fits")).id)[0].status == "completed"
    finally:
        subprocess.run(["umount", "-l", str(films)], check=True)


def mount(*arguments: str) -> int:
    return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode


def test_films_and_their_rows_go_when_their_time_is_over(here: Processes) -> None:
    job = here.store.add(wish("brief"))
    here.worker("--keep-days", "0.00001", code=QUICK)
    here.until(lambda: here.store.get(job.id) is None, "its removal")
    assert Storage(str(here.folder / "data" / "files")).names("films") == []
    assert ends(here.store) == [(job.id, "video.completed")]  # what is billed stays


def test_a_preview_is_due_at_once_and_then_now_and_then(here: Processes) -> None:
    """Engines decode one wherever it is asked for, which costs about as much as a step."""
    job = here.store.add(wish("a"))
    begun = here.store.begin(job.id, job.ticket, "w")
    assert begun is not None
    for wanted, due in ((True, [True, False, False]), (False, [False, False, False])):
        watch = worker._Watch(here.store, begun, math.inf, wanted, threading.Event())
        seen = []
        for step in range(3):
            watch.progress(Progress("denoise", step + 1, 3))
            seen.append(watch.preview is not None)
            if watch.preview is not None:
                watch.preview(np.zeros((2, 8, 8, 3), np.uint8))
        assert seen == due
