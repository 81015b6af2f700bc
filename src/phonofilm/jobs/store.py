"""Every change of a job, each one transaction.

Who may do what is decided here: a worker holds an attempt's number, and what it says counts only while that is the
latest. So a job may be executed more than once, and is published once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Self

import sqlalchemy as sa

from phonofilm.errors import PhonofilmError
from phonofilm.jobs import schema, traces, webhooks
from phonofilm.jobs.job import LOCAL, OPEN, Job, JobError, Kind, fingerprint, new_id, retries
from phonofilm.jobs.queue import Tickets
from phonofilm.request import Request

DAY: Final = 86_400.0
KEEP_SECONDS: Final = 7 * DAY  # how long a film and its row are kept
MOST_ATTEMPTS: Final = 10  # executions that ended with the death of their worker, after which a job is given up
SUSPECT: Final = 3  # such executions, after which a job goes behind those that wait: it may be what kills
DEAD_AFTER: Final = 12.0  # seconds without a sign of life
PRIORITIES: Final = (-10, 10)
_BAND: Final = 100_000_000  # rounds of one priority
_BACK: Final = {"status": "queued", "stage": "queued", "progress": 0, "worker": None}
_J: Final = schema.jobs

# Statements of the calls that come most often, built once.
_ADD: Final = sa.insert(_J)
_GET: Final = sa.select(_J).where(_J.c.id == sa.bindparam("job"))
_MINE: Final = (_J.c.owner == sa.bindparam("by")) & (_J.c.priority == sa.bindparam("at"))
_LAST: Final = sa.select(
    *(sa.select(sa.func.max(_J.c.round)).where((_J.c.status == s) & _MINE).scalar_subquery() for s in OPEN),
    sa.select(schema.rounds.c.round).where(schema.rounds.c.priority == sa.bindparam("at")).scalar_subquery(),
)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a key may use; None: as much as it wishes."""

    seconds_a_day: float | None = None  # of film
    concurrent: int | None = None  # open jobs
    requests_a_minute: int | None = None


class Store:
    """Jobs in a database. Safe to use from several threads, processes and, on PostgreSQL, machines."""

    def __init__(self, url: str, *, keep_seconds: float = KEEP_SECONDS) -> None:
        """Raises PhonofilmError if the database cannot be reached, or not be used."""
        self.url, self.keep_seconds = url, keep_seconds
        self.engine = schema.connect(url)
        single = self.engine.dialect.name == "sqlite"  # which lets those who wait sleep longer than needed
        self._turn: contextlib.AbstractContextManager[Any] = threading.Lock() if single else contextlib.nullcontext()
        try:
            self._prepare()
        except schema.AWAY as error:
            why = " ".join(str(error.args[0] if error.args else error).split())
            raise PhonofilmError(f"the database cannot be used: {why}") from error
        self.tickets = Tickets(url, self.engine)

    def _prepare(self) -> None:
        with self.engine.begin() as c:
            schema.prepare(c)
            known = set(c.execute(sa.select(schema.rounds.c.priority)).scalars())
            if new := [{"priority": p, "round": 0} for p in range(PRIORITIES[0], PRIORITIES[1] + 1) if p not in known]:
                c.execute(sa.insert(schema.rounds), new)

    def close(self) -> None:
        self.tickets.close()
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection that sees one state, and never waits for writers."""
        with self.engine.connect().execution_options(reads=True) as c:
            yield c

    @contextlib.contextmanager
    def writing(self, *, light: bool = False) -> Iterator[sa.Connection]:
        """A transaction. light: it may be lost when the power fails, and is quick for it."""
        with self._turn, self.engine.connect().execution_options(light=light) as c, c.begin():
            yield c

    # --- by those who ask -------------------------------------------------------------------------------------------
    def add(
        self,
        request: Request,
        owner: str = LOCAL,
        *,
        kind: Kind = "create",
        source: str | None = None,
        priority: int = 0,
        idempotency: str | None = None,
        limits: Limits | None = None,
    ) -> Job:
        """Accept a job: from here on it is never lost.

        The same `idempotency` key brings back the job of the first call. Raises JobError "idempotency_mismatch" where
        that call asked for something else, and "quota_exceeded" or "too_many_jobs" beyond the owner's limits.
        """
        if not PRIORITIES[0] <= priority <= PRIORITIES[1]:
            raise JobError("invalid_priority", f"priority must be {PRIORITIES[0]}..{PRIORITIES[1]}, got {priority}")
        job = Job(
            new_id("video"), owner, request, kind, source, priority=priority, ticket=new_id("ticket"),
            trace=traces.current(),
        )  # fmt: skip
        with self.writing() as c:
            self.lock(c, owner)
            if idempotency is not None:
                mine = (_J.c.owner == owner) & (_J.c.idempotency == idempotency)
                row = c.execute(sa.select(_J).where(mine)).mappings().first()
                if row is not None:
                    if row["fingerprint"] != fingerprint(request, kind=kind, source=source):
                        raise JobError("idempotency_mismatch", "this idempotency key was used for another request")
                    return _job(row)
            self._check(c, owner, request, limits or Limits())
            place = self._last_round(c, owner, priority) + 1
            asked = None if idempotency is None else fingerprint(request, kind=kind, source=source)
            c.execute(_ADD, {**_values(job), "idempotency": idempotency, "fingerprint": asked, "round": place})
            self.tickets.hand_out(c, job.id, job.ticket, _rank(priority, place))
        return job

    def get(self, id: str, owner: str | None = None) -> Job | None:
        """A job, or None if there is none, or it is not `owner`'s."""
        with self.reading() as c:
            row = c.execute(_GET, {"job": id}).mappings().first()
        return _job(row) if row is not None and owner in (None, row["owner"]) else None

    def jobs_of(
        self,
        owner: str,
        *,
        after: str | None = None,
        limit: int = 20,
        newest_first: bool = True,
        ended: bool | None = None,
    ) -> list[Job]:
        """At most `limit` jobs of an owner by age, from the one behind `after` on.

        ended: only those that have ended (True) or have not (False). Raises JobError "not_found" if `after` is no job
        of the owner.
        """
        wanted = sa.select(_J).where(_J.c.owner == owner)
        place = sa.tuple_(_J.c.created_at, _J.c.id)
        with self.reading() as c:
            if after is not None:
                edge = c.execute(wanted.where(_J.c.id == after)).mappings().first()
                if edge is None:
                    raise JobError("not_found", f"no video {after!r} to list from")
                here = sa.tuple_(sa.literal(edge["created_at"]), sa.literal(edge["id"]))
                wanted = wanted.where(place < here if newest_first else place > here)
            if ended is not None:
                wanted = wanted.where(_J.c.status.not_in(OPEN) if ended else _J.c.status.in_(OPEN))
            order = (_J.c.created_at.desc(), _J.c.id.desc()) if newest_first else (_J.c.created_at, _J.c.id)
            return [_job(row) for row in c.execute(wanted.order_by(*order).limit(limit)).mappings()]

    def cancel(self, id: str) -> Job | None:
        """Stop a job: a queued one at once, a running one within a step. Returns it as it is now."""
        with self.writing() as c:
            wanted = (_J.c.id == id) & _J.c.status.in_(OPEN)
            status = c.execute(sa.update(_J).where(wanted).values(cancelled=True).returning(_J.c.status)).scalar()
            if status == "queued":
                self._end(c, id, "failed", error_code="cancelled", error_message="cancelled while it was queued")
        return self.get(id)

    def hold(self, id: str, held: bool) -> Job | None:
        """Pause a queued job, or let it go on, behind those that wait."""
        with self.writing() as c:
            waiting = (_J.c.id == id) & (_J.c.status == "queued") & (_J.c.held != held)
            if c.execute(sa.update(_J).where(waiting).values(held=held)).rowcount and not held:
                self._requeue(c, id, last=True)
        return self.get(id)

    def move(self, id: str, priority: int) -> Job | None:
        """Give a queued job another priority."""
        if not PRIORITIES[0] <= priority <= PRIORITIES[1]:
            raise JobError("invalid_priority", f"priority must be {PRIORITIES[0]}..{PRIORITIES[1]}, got {priority}")
        with self.writing() as c:
            waiting = (_J.c.id == id) & (_J.c.status == "queued")
            if c.execute(sa.update(_J).where(waiting).values(priority=priority, round=0)).rowcount:
                self._requeue(c, id, last=True)
        return self.get(id)

    def end(self, id: str) -> Job | None:
        """See to it that a job has ended, so that it can be forgotten. Raises JobError "in_progress" if it runs."""
        job = self.cancel(id)
        if job is not None and job.open:
            raise JobError("in_progress", f"{id} is running; it was cancelled and can be deleted when it has stopped")
        return job

    def forget(self, id: str) -> None:
        """Delete the row, with the preview."""
        with self.writing() as c:
            c.execute(sa.delete(schema.previews).where(schema.previews.c.job == id))
            c.execute(sa.delete(_J).where(_J.c.id == id))

    # --- by workers -------------------------------------------------------------------------------------------------
    def begin(self, id: str, ticket: str, worker: str) -> Job | None:
        """Start an execution; None if the ticket is stale, or the job is held, stopped, or has killed too often."""
        with self.writing() as c:
            mine = (_J.c.id == id) & (_J.c.ticket == ticket) & _J.c.status.in_(OPEN) & ~_J.c.held
            now = time.time()
            begun = {
                "attempt": _J.c.attempt + 1, "status": "in_progress", "stage": "start", "worker": worker,
                "started_at": sa.func.coalesce(_J.c.started_at, now), "progress": 0,
            }  # fmt: skip
            row = c.execute(sa.update(_J).where(mine).values(begun).returning(_J)).mappings().first()
            if row is None:
                return None
            if row["cancelled"]:
                self._end(c, id, "failed", error_code="cancelled", error_message="cancelled")
                return None
            job = _job(row)
            if job.attempt - job.retries > MOST_ATTEMPTS:
                told = f"given up after {MOST_ATTEMPTS} executions whose worker died"
                self._end(c, id, "failed", error_code="worker_died", error_message=told)
                return None
            t = schema.rounds
            served = (t.c.priority == row["priority"]) & (t.c.round < row["round"])
            c.execute(sa.update(t).where(served).values(round=row["round"]))
            return job

    def report(self, job: Job, stage: str, progress: int) -> bool:
        """Say how far an execution is; False if it is to stop: cancelled, deleted, or taken over."""
        mine = self._mine(job) & ~_J.c.cancelled
        with self.writing(light=True) as c:
            return c.execute(sa.update(_J).where(mine).values(stage=stage, progress=progress)).rowcount > 0

    def preview(self, job: Job, jpeg: bytes) -> None:
        """Keep a picture of the running latents in place of the last one, while the execution is the latest."""
        t = schema.previews
        with self.writing(light=True) as c:
            if c.execute(sa.select(_J.c.id).where(self._mine(job)).with_for_update(read=True)).first() is None:
                return
            if not c.execute(sa.update(t).where(t.c.job == job.id).values(number=t.c.number + 1, jpeg=jpeg)).rowcount:
                c.execute(sa.insert(t).values(job=job.id, number=1, jpeg=jpeg))

    def last_preview(self, id: str, after: int = 0) -> tuple[int, bytes] | None:
        """The newest preview and its number, if that is above `after`."""
        t = schema.previews
        with self.reading() as c:
            row = c.execute(sa.select(t.c.number, t.c.jpeg).where((t.c.job == id) & (t.c.number > after))).first()
        return (row[0], bytes(row[1])) if row else None

    def publish(self, job: Job, files: Mapping[str, str], receipt: Mapping[str, Any], notes: Sequence[str]) -> bool:
        """End an execution well. False if it is no longer this one's to end: its files must go."""
        made = {"files": dict(files), "receipt": dict(receipt), "notes": list(notes)}
        with self.writing() as c:
            return self._end(c, job.id, "completed", attempt=job.attempt, **made)

    def fail(self, job: Job, code: str, message: str) -> bool:
        """End an execution badly. False if it is no longer this one's to end."""
        with self.writing() as c:
            return self._end(c, job.id, "failed", attempt=job.attempt, error_code=code, error_message=message)

    def retry(self, job: Job, seconds: float, why: str) -> bool:
        """Put a job back into the queue, to be taken in so many seconds. False if it is to stop, or another's."""
        return self.put_back(job, seconds, notes=[*job.notes, why])

    def put_back(self, job: Job, seconds: float = 0.0, **values: Any) -> bool:
        """Give an execution up for another one to come. False if it is to stop, or is no longer the latest."""
        with self.writing() as c:
            if not c.execute(sa.update(_J).where(self._mine(job) & ~_J.c.cancelled).values(_BACK | values)).rowcount:
                return False
            self._requeue(c, job.id, delay=seconds)
        return True

    # --- the life of workers ----------------------------------------------------------------------------------------
    def sign_of_life(self, worker: str, state: Mapping[str, Any]) -> None:
        t = schema.workers
        with self.writing(light=True) as c:
            values = {"seen_at": schema.now(c), "state": dict(state)}
            if not c.execute(sa.update(t).where(t.c.id == worker).values(values)).rowcount:
                c.execute(sa.insert(t).values(id=worker, **values))

    def sign_off(self, worker: str, *, if_dead: bool = False) -> None:
        """Forget a worker; see `orphans` for what it leaves."""
        t = schema.workers
        with self.writing() as c:
            late = t.c.seen_at < schema.now(c) - DEAD_AFTER if if_dead else sa.true()
            c.execute(sa.delete(t).where((t.c.id == worker) & late))

    def declare_dead(self, worker: str) -> None:
        """Say of a worker what is known without waiting: its process is gone."""
        with self.writing() as c:
            c.execute(sa.update(schema.workers).where(schema.workers.c.id == worker).values(seen_at=0.0))

    def dead(self, *, declared: bool = False) -> list[str]:
        """Workers that have not been seen for `DEAD_AFTER` seconds, or only those that were declared dead."""
        t = schema.workers
        with self.reading() as c:
            limit = sa.literal(1.0) if declared else schema.now(c) - DEAD_AFTER
            return [row[0] for row in c.execute(sa.select(t.c.id).where(t.c.seen_at < limit))]

    def orphans(self) -> list[str]:
        """Running jobs whose worker is not known any more: put back into the queue, and named."""
        known = sa.select(schema.workers.c.id)
        lost = (_J.c.status == "in_progress") & _J.c.worker.notin_(known)
        return self._put_back_all(lost)

    def astray(self) -> list[str]:
        """Queued jobs whose ticket does not wait any more, and was not begun: put back into the queue, and named.

        So it is when a connection broke just when a ticket was taken.
        """
        with self.reading() as c:
            waits = self.tickets.waiting(c, _J.c.ticket)
        return self._put_back_all((_J.c.status == "queued") & ~_J.c.held & ~waits)

    def running_on(self, worker: str) -> list[Job]:
        """The jobs that are said to run there."""
        with self.reading() as c:
            here = (_J.c.status == "in_progress") & (_J.c.worker == worker)
            return [_job(row) for row in c.execute(sa.select(_J).where(here)).mappings()]

    def alive(self) -> list[dict[str, Any]]:
        """Workers that have been seen, with what they say of themselves."""
        t = schema.workers
        with self.reading() as c:
            rows = c.execute(sa.select(t).where(t.c.seen_at >= schema.now(c) - DEAD_AFTER)).mappings()
            return [{"id": row["id"], "seen_at": row["seen_at"], **row["state"]} for row in rows]

    def expired(self, limit: int = 100) -> list[Job]:
        """Jobs that have ended and whose time is over."""
        over = (_J.c.expires_at < time.time()) & _J.c.status.notin_(OPEN)
        with self.reading() as c:
            return [_job(row) for row in c.execute(sa.select(_J).where(over).limit(limit)).mappings()]

    def counts(self) -> dict[str, int]:
        """Jobs by status."""
        with self.reading() as c:
            return {row[0]: row[1] for row in c.execute(sa.select(_J.c.status, sa.func.count()).group_by(_J.c.status))}

    def oldest_queued(self) -> float | None:
        """When the job that has waited longest was accepted; those that are held wait for their owner, not for us."""
        with self.reading() as c:
            waits = (_J.c.status == "queued") & ~_J.c.held
            at: float | None = c.execute(sa.select(sa.func.min(_J.c.created_at)).where(waits)).scalar()
            return at

    def used_today(self, owner: str, connection: sa.Connection | None = None) -> float:
        """Seconds of film that were made for an owner in the last 24 hours, and those of their open jobs.

        What was made is told by its event, which outlives its job: deleting a film gives nothing back. What failed, or
        was cancelled, does not count.
        """
        e = schema.events.c
        made = (e.owner == owner) & (e.type == "video.completed") & (e.created_at > time.time() - DAY)
        asked = (_J.c.owner == owner) & _J.c.status.in_(OPEN)
        both = sa.union_all(  # one statement, one snapshot: a job that ends meanwhile is counted once
            sa.select(sa.literal(True), e.data).where(made), sa.select(sa.literal(False), _J.c.request).where(asked)
        )
        with contextlib.nullcontext(connection) if connection is not None else self.reading() as c:
            return sum(float(told["seconds"]) if ended else film_seconds(told) for ended, told in c.execute(both))

    # --- inside a transaction ---------------------------------------------------------------------------------------
    def _mine(self, job: Job) -> sa.ColumnElement[bool]:
        return (_J.c.id == job.id) & (_J.c.attempt == job.attempt) & (_J.c.status == "in_progress")

    def lock(self, c: sa.Connection, owner: str) -> None:
        """One transaction at a time for each owner; on SQLite there is one at a time anyway."""
        if self.engine.dialect.name == "postgresql":
            c.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext(:owner))"), {"owner": owner})

    def _check(self, c: sa.Connection, owner: str, request: Request, limits: Limits) -> None:
        """Raises JobError where the limits leave no room for one more job."""
        if limits.concurrent is not None:
            mine = (_J.c.owner == owner) & _J.c.status.in_(OPEN)
            count = c.execute(sa.select(sa.func.count()).select_from(_J).where(mine)).scalar_one()
            if count >= limits.concurrent:
                raise JobError("too_many_jobs", f"{count} jobs are open, and this key may have {limits.concurrent}")
        if limits.seconds_a_day is not None:
            wanted, used = film_seconds(json.loads(request.to_json())), self.used_today(owner, c)
            if used + wanted > limits.seconds_a_day:
                told = (
                    f"{used:g} of {limits.seconds_a_day:g} seconds of film a day are used; {wanted:g} more do not fit"
                )
                raise JobError("quota_exceeded", told)

    def _last_round(self, c: sa.Connection, owner: str, priority: int) -> int:
        """The round of the owner's last open job, or the one that is being served if that is later.

        Rounds make the order fair (start-time fair queueing: Goyal, Vin, Cheng 1996): an owner's jobs are one round
        apart, and whoever comes late joins the round that is being served, so that nobody is overtaken for ever.
        """
        return max(value or 0 for value in c.execute(_LAST, {"by": owner, "at": priority}).one())

    def _put_back_all(self, which: sa.ColumnElement[bool]) -> list[str]:
        """Put jobs back into the queue; those that another process is changing are left for the next time."""
        with self.writing() as c:
            found = [row[0] for row in c.execute(sa.select(_J.c.id).where(which).with_for_update(skip_locked=True))]
            for id in found:
                c.execute(sa.update(_J).where(_J.c.id == id).values(_BACK))
                self._requeue(c, id)
        return found

    def _requeue(self, c: sa.Connection, id: str, *, delay: float = 0.0, last: bool = False) -> None:
        """A new ticket in place of the one that the job had.

        It keeps its place, unless it is to be the owner's `last`, or lost its worker so often that it may be why.
        """
        row = c.execute(sa.select(_J).where(_J.c.id == id)).mappings().one()
        last |= row["attempt"] - retries(row["notes"]) >= SUSPECT
        place = self._last_round(c, row["owner"], row["priority"]) + 1 if last else row["round"]
        ticket = new_id("ticket")
        c.execute(sa.update(_J).where(_J.c.id == id).values(ticket=ticket, round=place))
        self.tickets.hand_out(c, id, ticket, _rank(row["priority"], place), delay)

    def _end(self, c: sa.Connection, id: str, status: str, *, attempt: int | None = None, **values: Any) -> bool:
        """The one place where a job ends: once, with its event for meters and webhooks in the same transaction."""
        now = time.time()
        at = (_J.c.id == id) & _J.c.status.in_(OPEN)
        if attempt is not None:
            at &= (_J.c.attempt == attempt) & (_J.c.status == "in_progress")
        if status == "completed":
            at &= ~_J.c.cancelled
            values["progress"] = 100
        values |= {"status": status, "stage": "done", "completed_at": now, "expires_at": now + self.keep_seconds}
        row = c.execute(sa.update(_J).where(at).values(values).returning(_J)).mappings().first()
        if row is None:
            return False
        wish, receipt = Request.from_json(row["request"]), row["receipt"] or {}
        data = {
            "id": id, "seconds": film_seconds(row["request"]) if status == "completed" else 0.0,
            "energy_j": receipt.get("total_energy_j"), "steps": receipt.get("steps"), "error": row["error_code"],
            "attempts": row["attempt"], "model": wish.model, "kind": row["kind"], "size": "{}x{}".format(*wish.pixels),
        }  # fmt: skip
        event = {"id": new_id("evt"), "owner": row["owner"], "type": f"video.{status}", "created_at": now, "data": data}
        c.execute(sa.insert(schema.events).values(event))
        webhooks.post(c, event)
        c.execute(sa.delete(schema.previews).where(schema.previews.c.job == id))
        return True


def film_seconds(request: Mapping[str, Any]) -> float:
    """Seconds of film that a request makes: what a quota counts. A picture counts as nothing but its job."""
    return 0.0 if request.get("picture") else float(request["seconds"]) * int(request.get("best_of", 1))


def _rank(priority: int, place: int) -> int:
    """The order of tickets, the lowest first: by priority, then round by round through the owners."""
    return (PRIORITIES[1] - priority) * _BAND + min(place, _BAND - 1)


def _values(job: Job) -> dict[str, Any]:
    values = {item.name: getattr(job, item.name) for item in dataclasses.fields(job)}
    return values | {"request": json.loads(job.request.to_json())}


def _job(row: Mapping[Any, Any]) -> Job:
    values = {item.name: row[item.name] for item in dataclasses.fields(Job)}
    return Job(**(values | {"request": Request.from_json(values["request"])}))
