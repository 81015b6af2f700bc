"""The queue: DBOS workflows as tickets for jobs.

DBOS (MIT, SQLite or PostgreSQL, no server of its own) gives what is hard to get right: tickets that are written in the
caller's transaction, claimed by one process, and claimable again when that process is found dead. All else about a job
stands in its row, so that a ticket which comes late, or twice, finds out that it is not wanted and does nothing.

Arguments are stored as JSON, never as pickles.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa

from phonofilm.jobs import schema

QUEUE: Final = "films"
WORKFLOW: Final = "make_film"
APPLICATION: Final = "phonofilm"
VERSION: Final = "1"  # of the workflow: a worker takes tickets of its own version alone
POLL_SECONDS: Final = 0.1
ASTRAY_SECONDS: Final = 15.0  # between the taking of a ticket and the beginning of its job
_OVER: Final = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")


class Tickets:
    """Hands out tickets, from any process, over the connections of its store."""

    def __init__(self, url: str, engine: sa.Engine) -> None:
        from dbos import DBOSClient
        from dbos._sys_db import SystemDatabase  # the client does not migrate, and there is no public way to

        _log_as_we_do()
        database = SystemDatabase.create(
            system_database_url=url, engine_kwargs={}, engine=None, schema="dbos", serializer=_serializer(),
            executor_id=None, use_listen_notify=False,
        )  # fmt: skip
        try:
            database.run_migrations()
        finally:
            database.engine.dispose()
        self._client = DBOSClient(system_database_engine=engine, application_name=APPLICATION, serializer=_serializer())
        self._table = sa.table(
            "workflow_status", sa.column("workflow_uuid", sa.Text), sa.column("status", sa.Text),
            sa.column("updated_at", sa.Double), schema="dbos" if engine.dialect.name == "postgresql" else None,
        )  # fmt: skip

    def hand_out(self, connection: sa.Connection, job: str, ticket: str, priority: int, delay: float = 0.0) -> None:
        """Put a ticket into the queue as part of the caller's transaction. priority: the lowest number goes first."""
        from dbos import EnqueueOptions, WorkflowSerializationFormat

        options: EnqueueOptions = {
            "workflow_name": WORKFLOW, "queue_name": QUEUE, "workflow_id": ticket, "app_version": VERSION,
            "priority": priority, "serialization_type": WorkflowSerializationFormat.PORTABLE,
        }  # fmt: skip
        if delay > 0:
            options["delay_seconds"] = delay
        self._client.enqueue_in_transaction(connection, options, job, ticket)

    def waiting(self, connection: sa.Connection, ticket: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
        """True of a ticket that waits to be taken, or was taken a moment ago."""
        t = self._table.c
        fresh = t.updated_at > 1000 * (schema.now(connection) - ASTRAY_SECONDS)
        return sa.exists().where((t.workflow_uuid == ticket) & (t.status.in_(("ENQUEUED", "DELAYED")) | fresh))

    def forget(self, connection: sa.Connection, older_than: float, most: int = 1000) -> int:
        """Delete tickets that were used up so many seconds ago; how many there were, at most `most`."""
        t = self._table.c
        old = t.status.in_(_OVER) & (t.updated_at < 1000 * (schema.now(connection) - older_than))
        ids = list(connection.execute(sa.select(t.workflow_uuid).where(old).limit(most)).scalars())
        if ids:
            self._client.delete_workflows(ids)
        return len(ids)

    def close(self) -> None:
        self._client.destroy()


class Taker:
    """Takes tickets, in a worker: `work(job, ticket)` runs on a thread of its own, `at_once` of them at a time."""

    def __init__(self, url: str, worker: str, work: Callable[[str, str], None], at_once: int = 1) -> None:
        from dbos import DBOS, DBOSConfig, WorkflowSerializationFormat

        config: DBOSConfig = {
            "name": APPLICATION, "system_database_url": url, "executor_id": worker, "application_version": VERSION,
            "log_level": "WARNING", "serializer": _serializer(), "use_listen_notify": False,
            "sys_db_pool_size": at_once + 4,
        }  # fmt: skip
        self._dbos, self._at_once = DBOS, at_once
        DBOS(config=config)
        _log_as_we_do()
        _take_at_most(at_once)

        @DBOS.workflow(
            name=WORKFLOW, max_recovery_attempts=None, serialization_type=WorkflowSerializationFormat.PORTABLE
        )
        def make_film(job: str, ticket: str) -> None:
            work(job, ticket)

    def start(self) -> None:
        self._dbos.listen_queues([QUEUE])
        self._dbos.launch()
        self._dbos.register_queue(
            QUEUE, worker_concurrency=self._at_once, polling_interval_sec=POLL_SECONDS, on_conflict="always_update"
        )

    def take_over(self, dead: list[str]) -> None:
        """Put what dead workers had begun back into the queue. Safe to do twice, and from several workers."""
        self._dbos._recover_pending_workflows(dead)

    def stop(self, seconds: int) -> None:
        """Take no more tickets, and wait so long for what runs."""
        self._dbos.destroy(workflow_completion_timeout_sec=seconds)


def _take_at_most(count: int) -> None:
    """DBOS keeps how many tickets a worker takes with the queue, the same for all: here each worker has its own."""
    from dbos._sys_db import SystemDatabase

    read = SystemDatabase.get_queue

    def get_queue(self: Any, name: str, **more: Any) -> Any:
        queue = read(self, name, **more)
        if queue is not None and name == QUEUE:
            queue._worker_concurrency = count
        return queue

    SystemDatabase.get_queue = get_queue  # type: ignore[method-assign]


def _log_as_we_do() -> None:
    """DBOS has a handler of its own, and asks a database that is away ten times a second."""
    log = logging.getLogger("dbos")
    log.setLevel(logging.WARNING)
    log.handlers.clear()
    log.propagate = True
    if not any(isinstance(one, _Seldom) for one in log.filters):
        log.addFilter(_Seldom())


class _Seldom(logging.Filter):
    """Lets what begins alike pass once in `seconds`."""

    def __init__(self, seconds: float = 10.0) -> None:
        super().__init__()
        self.seconds, self._last = seconds, dict[str, float]()

    def filter(self, record: logging.LogRecord) -> bool:
        now, begins = time.monotonic(), record.getMessage()[:60]
        if now - self._last.get(begins, -self.seconds) < self.seconds:
            return False
        self._last[begins] = now
        return True


def _serializer() -> Any:
    from dbos._serialization import DBOSPortableJSON

    return DBOSPortableJSON
