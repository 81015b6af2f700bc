"""Processes of a service, for tests that kill them: `phonofilm serve` and `phonofilm worker` over one database."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import sqlalchemy as sa
from local_postgres import free_port

from phonofilm.jobs import schema
from phonofilm.jobs.job import Job
from phonofilm.jobs.store import Store
from phonofilm.request import Request

QUICK = """
import phonofilm.jobs.store as s; s.DEAD_AFTER, s.MOST_ATTEMPTS = 3.0, 2
import phonofilm.jobs.worker as w; w.BEAT_SECONDS = w.SWEEP_SECONDS = w.TIDY_SECONDS = 0.3; w.BACKOFF_SECONDS = 0.1
import phonofilm.serve.command as c
"""
"""Shorter waits, for code that runs in a worker's process before it starts."""
PATIENCE = 300.0  # seconds, for machines that are busy with other things


class Processes:
    """What runs over one folder and one database. `store` is a view of the same database from here."""

    def __init__(self, folder: Path, database: str | None = None) -> None:
        """database: a URL, None: SQLite in the folder."""
        self.folder, self.url = folder, schema.database_url(database, folder / "data")
        self.store = Store(self.url)
        self.log = folder / "log"
        self._started: list[subprocess.Popen[bytes]] = []

    def worker(self, *options: str, code: str | None = None) -> subprocess.Popen[bytes]:
        """`phonofilm worker`; code: Python that runs before it, in its process."""
        return self._start("worker", "--data-dir", str(self.folder / "data"), *options, code=code)

    def serve(self, *options: str, port: int = 0) -> tuple[subprocess.Popen[bytes], str]:
        """`phonofilm serve` with the fake engine, and the URL at which it will answer."""
        port = port or free_port()
        data = ("--data-dir", str(self.folder / "data"), "--model", "fake", "--port", str(port))
        return self._start("serve", *data, *options), f"http://127.0.0.1:{port}"

    def _start(self, *arguments: str, code: str | None = None) -> subprocess.Popen[bytes]:
        home = {"PHONOFILM_HOME": str(self.folder / "home"), "PHONOFILM_DATABASE_URL": self.url}
        scratch = self.folder / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        start = ["-m", "phonofilm.cli"]
        if code is not None:
            start = ["-c", f"{code}\nimport sys\nfrom phonofilm.cli import main\nsys.exit(main(sys.argv[1:]))"]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *start, *arguments], env={**os.environ, **home, "TMPDIR": str(scratch)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._started.append(process)
        return process

    # --- watching ---------------------------------------------------------------------------------------------------
    def until(self, done: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        """Wait until `done` returns something true, and return that. Raises AssertionError with the log's end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := done():
                return found
            time.sleep(0.05)
        raise AssertionError(f"waited {seconds:g} s in vain for {what}\n{self.log.read_text(errors='replace')[-6000:]}")

    def job(self, id: str) -> Job:
        job = self.store.get(id)
        assert job is not None, id
        return job

    def ended(self, *ids: str) -> list[Job]:
        """The jobs when all of them have ended."""
        self.until(lambda: not any(self.job(id).open for id in ids), f"the end of {len(ids)} jobs")
        return [self.job(id) for id in ids]

    def started(self, id: str, stage: str = "denoise") -> Job:
        """The job when it is being made."""
        return self.until(lambda: (job := self.job(id)).stage == stage and job, f"{stage} of {id}")

    def signed_on(self, process: subprocess.Popen[bytes]) -> str:
        """The worker's id when it has begun to work."""
        mine = f"-{process.pid}-"
        found = self.until(
            lambda: [one["id"] for one in self.store.alive() if mine in one["id"]] or process.poll() is not None,
            "a worker",
        )
        assert found is not True, f"the worker ended with {process.poll()}\n{self.log.read_text()[-6000:]}"
        return str(found[0])

    # --- the end ----------------------------------------------------------------------------------------------------
    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                    process.kill()
            process.wait()
        self.store.close()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def children(process: int) -> list[int]:
    """Processes that a process, by any of its threads, has started."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def alive(process: int) -> bool:
    """True if there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wish(prompt: str, **more: Any) -> Request:
    return Request(prompt, model="fake", seconds=2, **more)


def ends(store: Store) -> list[tuple[str, str]]:
    """(job, type) of every event that says how a job ended."""
    with store.reading() as c:
        rows = c.execute(sa.select(schema.events).order_by(schema.events.c.created_at)).mappings().all()
    return [(row["data"]["id"], row["type"]) for row in rows]


def answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=60).status_code == 200
    except httpx2.TransportError:
        return False
