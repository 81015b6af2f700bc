"""A worker: takes tickets, makes films, publishes them. Engines, and torch, are loaded here and nowhere else.

Signs of life go into the database; whoever sees that another worker has been silent for too long puts its work back
into the queue. A worker that was only slow finds that its attempt is no longer the latest, and stops. While the
database is away, what has to be told to it waits.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import logging
import math
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from phonofilm.engines import Engine, Hooks, Progress, load
from phonofilm.errors import Cancelled, CheckpointError, InputError, OutputError, PhonofilmError
from phonofilm.jobs.job import AGAIN, Job
from phonofilm.jobs.queue import Taker
from phonofilm.jobs.retention import tidy
from phonofilm.jobs.schema import AWAY
from phonofilm.jobs.storage import Storage, upload_name
from phonofilm.jobs.store import DEAD_AFTER, Store
from phonofilm.jobs.traces import span
from phonofilm.request import Request

log = logging.getLogger("phonofilm.worker")
T = TypeVar("T")
BEAT_SECONDS: Final = 2.0  # between signs of life
SWEEP_SECONDS: Final = 3.0  # between looks at the others
TIDY_SECONDS: Final = 30.0  # between looks for what has expired or went astray
RETRIES: Final = 3  # executions after an error that may pass
BACKOFF_SECONDS: Final = 2.0  # before the first of them; each next one waits twice as long
STEP_SECONDS: Final = 30.0  # that an engine gets to notice that it is to stop
PREVIEW_SECONDS: Final = 1.0  # from one preview to the next, at least
_SHARES: Final = {"condition": (0, 5), "denoise": (5, 80), "decode": (80, 95), "export": (95, 99)}  # of progress

Export = Callable[[Any, Path, Job], dict[str, Path]]
"""`export(chunks, folder, job)`: writes the films' files into a folder; returns them by variant."""


@dataclasses.dataclass(frozen=True)
class WorkerConfig:
    """How a worker works."""

    weights: Path | None = None  # of the native engine, None: the shipped ones
    at_once: int = 1  # films at the same time
    limit_seconds: float = 1800.0  # for one execution
    previews: bool = True


class Worker:
    """One process's worth of work: `start`, then `stop`."""

    def __init__(self, store: Store, storage: Storage, export: Export, config: WorkerConfig | None = None) -> None:
        self.store, self.storage, self.export = store, storage, export
        self.config = config or WorkerConfig()
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._engines: dict[str, Engine] = {}
        self._loading = threading.Lock()
        self._running: dict[str, tuple[str, float]] = {}  # by ticket: the job that is executed, and since when
        self._stopping, self._ended = threading.Event(), threading.Event()
        self._beaten = self._steady = time.monotonic()  # the last sign of life, and since when none came late
        self._threads: list[threading.Thread] = []
        self._cleared = False  # what killed processes left in the storage
        self._taker = Taker(store.url, self.id, self.work, self.config.at_once)

    def start(self) -> None:
        self.store.sign_of_life(self.id, self.state())
        self._repeat(self._beat, BEAT_SECONDS)
        self._taker.start()
        self._repeat(self._sweep, SWEEP_SECONDS)
        self._repeat(self._tidy, TIDY_SECONDS)

    def stop(self, seconds: int = 60) -> None:
        """Take nothing more and let what runs end; what has not ended after so long goes back into the queue."""
        late = threading.Timer(seconds, self._stopping.set)
        late.start()
        self._taker.stop(seconds + round(STEP_SECONDS))
        late.cancel()
        self._stopping.set()
        self._ended.set()
        for thread in self._threads:
            thread.join(BEAT_SECONDS)
        self._surely(self._sign_off, tries=3)

    def _sign_off(self) -> None:
        for job in self.store.running_on(self.id):
            self.store.put_back(job)
        self.store.sign_off(self.id)

    def state(self) -> dict[str, Any]:
        """What a worker says of itself."""
        return {
            "host": socket.gethostname(), "process": os.getpid(), "space": _space(), "engines": sorted(self._engines),
        }  # fmt: skip

    # --- one job ----------------------------------------------------------------------------------------------------
    def work(self, id: str, ticket: str) -> None:
        """Execute a ticket. Nothing that goes wrong in a job leaves this function."""
        self._running[ticket] = id, time.monotonic()
        try:
            job = self._surely(lambda: self.store.begin(id, ticket, self.id))
            if job is not None:
                began = time.monotonic()
                self._running[ticket] = id, began
                with span("job", job.trace, id=id, attempt=job.attempt, model=job.request.model):
                    self._surely(self._try(job, began))
        finally:
            del self._running[ticket]

    def _try(self, job: Job, began: float) -> Callable[[], bool]:
        """Make the film; returns how the execution ends, for the database to be told."""
        try:
            return self._make(job, began)
        except Cancelled:
            return lambda: self._stopped(job, began)
        except MemoryError:
            return lambda: self.store.fail(job, "out_of_memory", "the film needs more memory than this machine has")
        except Exception as error:  # the job's failure must not be the worker's
            code, told = _told(error)
            if code == "invalid_request":
                return lambda: self.store.fail(job, "invalid_request", told)
            log.warning("job %s, attempt %d: %s", job.id, job.attempt, error, exc_info=code is None)
            wait = BACKOFF_SECONDS * 2**job.retries
            if job.retries >= RETRIES:
                return lambda: self.store.fail(job, code or "generation_failed", told)
            why = f"{AGAIN} after {wait:g} s: {told}"
            return lambda: self.store.retry(job, wait, why) or self._stopped(job, began)

    def _stopped(self, job: Job, began: float) -> bool:
        now = self.store.get(job.id)
        if now is not None and now.cancelled:
            return self.store.fail(job, "cancelled", "cancelled while it was running")
        if time.monotonic() - began > self.config.limit_seconds:
            return self.store.fail(job, "timeout", f"took longer than {self.config.limit_seconds:g} s")
        return self._stopping.is_set() and self.store.put_back(job)

    def _make(self, job: Job, began: float) -> Callable[[], bool]:
        hooks = _Watch(self.store, job, began + self.config.limit_seconds, self.config.previews, self._stopping)
        place = _place(job)
        with tempfile.TemporaryDirectory(prefix="phonofilm.") as name:
            folder = Path(name)
            with span("generate"):
                request = self._with_media(job.request, job.owner, folder)
                made = self.export(self.engine(job.request.model).generate(request, hooks), folder, job)
            hooks.progress(Progress("export", 1, 2))
            receipt = json.loads(made["receipt"].read_text(encoding="utf-8")) if "receipt" in made else {}
            if receipt:
                receipt["steps"] = hooks.steps
            stored = {variant: f"{place}/{path.name}" for variant, path in made.items()}
            try:
                with span("store"):
                    for variant, path in made.items():
                        self.storage.put(path, stored[variant])
            except BaseException:
                self._remove(place)
                raise
        return lambda: self._publish(job, began, stored, receipt, [*job.notes, *hooks.notes])

    def _publish(
        self, job: Job, began: float, stored: dict[str, str], receipt: dict[str, Any], notes: list[str]
    ) -> bool:
        """Make the film known, or, where another execution is to do that, or none, remove its files."""
        place = _place(job)
        with span("publish"):
            published = self.store.publish(job, stored, receipt, notes)
        if not published:
            now = self.store.get(job.id)
            if now is None or now.files != stored:  # else it is known already, and only the answer was lost
                self._remove(place)
                return self._stopped(job, began)
        for old in {item.split("/")[2] for item in self.storage.names(f"films/{job.id}")} - {str(job.attempt)}:
            self._remove(f"films/{job.id}/{old}")  # left by executions whose worker died
        return True

    def _remove(self, folder: str) -> None:
        try:
            self.storage.remove(folder)
        except OutputError as error:  # it goes when the job expires
            log.warning("%s", error)

    def _with_media(self, request: Request, owner: str, folder: Path) -> Request:
        """The request with its uploads as files."""
        conditions = []
        for k, condition in enumerate(request.conditions):
            if condition.digest is not None:
                path = self.storage.fetch(upload_name(owner, condition.digest), folder / f"given{k}")
                condition = dataclasses.replace(condition, digest=None, path=str(path))
            conditions.append(condition)
        return dataclasses.replace(request, conditions=tuple(conditions))

    def engine(self, name: str) -> Engine:
        with self._loading:
            if name not in self._engines:
                self._engines[name] = load(name, self.config.weights if name == "native" else None)
            return self._engines[name]

    # --- life -------------------------------------------------------------------------------------------------------
    def _surely(self, act: Callable[[], T], tries: float = math.inf) -> T:
        """Do what must be done, again and again while the database is away."""
        pause, count = 0.5, 1
        while True:
            try:
                return act()
            except AWAY as error:
                if count >= tries:
                    raise
                time.sleep(pause)
                log.warning("the database is away: %s", error.args[0] if error.args else error)
                pause, count = min(5.0, 2 * pause), count + 1

    def _repeat(self, act: Callable[[], None], seconds: float) -> None:
        thread = threading.Thread(target=self._every, args=(act, seconds), name=act.__name__, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _every(self, act: Callable[[], None], seconds: float) -> None:
        while not self._ended.is_set():
            try:
                act()
            except Exception as error:  # a database that is away comes back, and so must this thread
                log.warning("%s: %s", act.__name__.strip("_"), error)
            self._ended.wait(seconds)

    def _beat(self) -> None:
        self.store.sign_of_life(self.id, self.state())
        now = time.monotonic()
        if now - self._beaten > DEAD_AFTER / 2:  # the database was away, or this process stood still
            self._steady = now
        self._beaten = now

    def _judges(self) -> bool:
        """True if others, when they are silent, are so for a reason of their own."""
        now = time.monotonic()
        return now - self._beaten < DEAD_AFTER / 2 and now - self._steady > DEAD_AFTER

    def _sweep(self) -> None:
        """Take over what dead workers, or this one, had begun and nobody goes on with."""
        for other in self.store.alive():
            if other["id"] != self.id and other.get("space") == _space() != "" and not _exists(other["process"]):
                self.store.declare_dead(other["id"])
        if dead := [worker for worker in self.store.dead(declared=not self._judges()) if worker != self.id]:
            log.warning("taking over from %s", ", ".join(dead))
            self._taker.take_over(dead)
            for worker in dead:
                self.store.sign_off(worker, if_dead=True)
        if lost := self.store.orphans():
            log.warning("back in the queue: %s", ", ".join(lost))
        mine = self.store.running_on(self.id)
        running = dict(list(self._running.values()))
        for job in mine:
            began = running.get(job.id)
            if began is None and not self.store.put_back(job):
                self._stopped(job, time.monotonic())
            elif began is not None and time.monotonic() - began > self.config.limit_seconds + STEP_SECONDS:
                self.store.fail(job, "timeout", f"took longer than {self.config.limit_seconds:g} s, and did not stop")
                log.error("job %s does not stop: this process ends, so that its engine does", job.id)
                os._exit(70)

    def _tidy(self) -> None:
        if not self._cleared:
            self._cleared = True
            self.storage.clear()
        if lost := self.store.astray():
            log.warning("back in the queue: %s", ", ".join(lost))
        tidy(self.store, self.storage)


def _place(job: Job) -> str:
    """Where an execution leaves its files: no other one writes there."""
    return f"films/{job.id}/{job.attempt}"


def _space() -> str:
    """Where process numbers mean the same: this start of this machine, and the namespace. Empty if not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _exists(process: int) -> bool:
    """True unless the process, of this space, is gone; one that is dead and not yet buried counts as gone."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's, and that is all that can be seen
        return True


def _told(error: Exception) -> tuple[str | None, str]:
    """The code and the message for what went wrong; no code for what nobody foresaw."""
    if isinstance(error, CheckpointError):
        return "generation_failed", "the weights that this server has cannot be used"
    if isinstance(error, InputError):
        return "invalid_request", str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return "no_space", "there is no room left to store the film"
        cause = cause.__cause__ or cause.__context__
    return ("generation_failed", str(error)) if isinstance(error, PhonofilmError) else (None, "the generator failed")


class _Watch(Hooks):
    """Passes progress and previews on to the database, and stops what is not wanted any more."""

    def __init__(self, store: Store, job: Job, deadline: float, previews: bool, stopping: threading.Event) -> None:
        super().__init__(progress=self._progress, cancelled=self._cancelled)
        self._previews, self._shown = previews, -math.inf
        self._store, self._job, self._deadline, self._stopping = store, job, deadline, stopping
        self._wanted = True
        self.steps = 0  # of denoising, in all passes

    def _progress(self, now: Progress) -> None:
        self.steps += now.stage == "denoise" and now.done > 0
        due = self._previews and time.monotonic() >= self._shown + PREVIEW_SECONDS
        self.preview = self._preview if due else None  # engines ask after each step: decoding costs as much as a step
        low, high = _SHARES.get(now.stage, (0, 0))
        percent = round(low + (high - low) * now.done / max(1, now.total))
        try:
            self._wanted = self._store.report(self._job, now.stage, percent)
        except AWAY as error:  # the film can be made without; whether it is wanted is asked again at its end
            log.warning("the database is away: %s", error.args[0] if error.args else error)
        if self._cancelled() and now.stage != "denoise":
            raise Cancelled("the generation was cancelled")

    def _cancelled(self) -> bool:
        return not self._wanted or self._stopping.is_set() or time.monotonic() > self._deadline

    def _preview(self, frames: np.ndarray) -> None:
        from PIL import Image

        self._shown = time.monotonic()
        file = io.BytesIO()
        Image.fromarray(frames[len(frames) // 2]).save(file, "JPEG", quality=80)
        try:
            self._store.preview(self._job, file.getvalue())
        except AWAY as error:
            log.warning("the database is away: %s", error.args[0] if error.args else error)
