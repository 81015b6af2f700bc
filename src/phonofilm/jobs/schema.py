"""The tables, and the engines that reach them: SQLite (one machine) or PostgreSQL (many)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from phonofilm.errors import InputError

AWAY: Final = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)
"""What is raised while the database is away: unreachable, stopped, locked for too long, or without room."""

meta: Final = sa.MetaData()
_Time = sa.Double
_Text = sa.Text
_IDLE_MS: Final = 10_000  # that a transaction may sit idle with its locks held
_PATIENCE: Final = {
    "connect_timeout": "10", "keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}  # fmt: skip
"""How long (s, the last in ms) a connection to PostgreSQL waits for one who does not answer."""

jobs: Final = sa.Table(
    "jobs", meta,
    sa.Column("id", _Text, primary_key=True),
    sa.Column("owner", _Text, nullable=False),
    sa.Column("kind", _Text, nullable=False),
    sa.Column("source", _Text),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("status", _Text, nullable=False),
    sa.Column("stage", _Text, nullable=False),
    sa.Column("progress", sa.Integer, nullable=False, default=0),
    sa.Column("attempt", sa.Integer, nullable=False, default=0),
    sa.Column("ticket", _Text, nullable=False),
    sa.Column("worker", _Text),
    sa.Column("held", sa.Boolean, nullable=False, default=False),
    sa.Column("cancelled", sa.Boolean, nullable=False, default=False),
    sa.Column("priority", sa.Integer, nullable=False, default=0),
    sa.Column("round", sa.Integer, nullable=False, server_default="0"),  # its place in the order through the owners
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("started_at", _Time),
    sa.Column("completed_at", _Time),
    sa.Column("expires_at", _Time),
    sa.Column("error_code", _Text),
    sa.Column("error_message", _Text),
    sa.Column("files", sa.JSON, nullable=False),
    sa.Column("receipt", sa.JSON),
    sa.Column("notes", sa.JSON, nullable=False),
    sa.Column("idempotency", _Text),  # the caller's key for "this call once"
    sa.Column("fingerprint", _Text),  # of what that call asked
    sa.Column("trace", _Text),
    sa.UniqueConstraint("owner", "idempotency"),
    sa.Index("jobs_of_owner", "owner", "created_at", "id"),
    sa.Index("jobs_by_status", "status", "owner", "priority", "round"),
    sa.Index("jobs_by_expiry", "expires_at"),
)  # fmt: skip

rounds: Final = sa.Table(
    "rounds", meta,  # how far each priority is served
    sa.Column("priority", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("round", sa.Integer, nullable=False),
)  # fmt: skip

previews: Final = sa.Table(
    "previews", meta,
    sa.Column("job", _Text, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),  # rises with each new one
    sa.Column("jpeg", sa.LargeBinary, nullable=False),
)  # fmt: skip

workers: Final = sa.Table(
    "workers", meta,
    sa.Column("id", _Text, primary_key=True),
    sa.Column("seen_at", _Time, nullable=False),
    sa.Column("state", sa.JSON, nullable=False),  # engine, weights, process, host
)  # fmt: skip

keys: Final = sa.Table(
    "keys", meta,
    sa.Column("id", _Text, primary_key=True),
    sa.Column("name", _Text, nullable=False),
    sa.Column("digest", _Text, nullable=False, unique=True),  # SHA-256 of the key, hexadecimal
    sa.Column("shown", _Text, nullable=False),  # its first characters, to tell keys apart
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("revoked_at", _Time),
    sa.Column("seconds_a_day", _Time),  # of film, None: as much as wished
    sa.Column("concurrent", sa.Integer),  # open jobs
    sa.Column("requests_a_minute", sa.Integer),
)  # fmt: skip

calls: Final = sa.Table(
    "calls", meta,  # requests of a key in a minute
    sa.Column("owner", _Text, primary_key=True),
    sa.Column("minute", sa.BigInteger, primary_key=True),
    sa.Column("count", sa.Integer, nullable=False),
)  # fmt: skip

uploads: Final = sa.Table(
    "uploads", meta,
    sa.Column("owner", _Text, primary_key=True),
    sa.Column("digest", _Text, primary_key=True),  # sha256:…
    sa.Column("kind", _Text, nullable=False),  # image, video, audio
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("name", _Text, nullable=False),  # in the storage
    sa.Column("used_at", _Time, nullable=False),
)  # fmt: skip

characters: Final = sa.Table(
    "characters", meta,
    sa.Column("id", _Text, primary_key=True),
    sa.Column("owner", _Text, nullable=False),
    sa.Column("name", _Text, nullable=False),
    sa.Column("digest", _Text, nullable=False),  # of the uploaded clip
    sa.Column("consent", _Text),  # what the uploader declared
    sa.Column("created_at", _Time, nullable=False),
)  # fmt: skip

events: Final = sa.Table(
    "events", meta,  # what happened to whom: metering, webhooks, refusals
    sa.Column("id", _Text, primary_key=True),
    sa.Column("owner", _Text, nullable=False),
    sa.Column("type", _Text, nullable=False),
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Index("events_of_owner", "owner", "type", "created_at"),
)  # fmt: skip

hooks: Final = sa.Table(
    "hooks", meta,  # where events are sent
    sa.Column("id", _Text, primary_key=True),
    sa.Column("owner", _Text, nullable=False),
    sa.Column("url", _Text, nullable=False),
    sa.Column("secret", _Text, nullable=False),  # whsec_…, by which the receiver knows that it is us
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("kind", _Text, nullable=False, server_default="video"),  # video, usage
    sa.Column("private", sa.Boolean, nullable=False, server_default=sa.false()),  # may be inside, and http
    sa.Column("bearer", _Text),  # sent as Authorization
    sa.Column("removed_at", _Time),
    sa.Column("delivered", sa.Integer, nullable=False, server_default="0"),  # messages
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),  # attempts
    sa.Column("given_up", sa.Integer, nullable=False, server_default="0"),  # messages
    sa.Column("told", _Text),  # why the last attempt failed
    sa.Column("name", _Text, nullable=False, server_default=""),
    sa.Column("types", sa.JSON(none_as_null=True)),  # of the events that it hears of, NULL: all
    sa.Column("old_secret", _Text),  # that still counts
    sa.Column("old_until", _Time),
    sa.Column("updated_at", _Time),
)  # fmt: skip

deliveries: Final = sa.Table(
    "deliveries", meta,  # the outbox: what is still to be sent, and what was given up
    sa.Column("id", _Text, primary_key=True),
    sa.Column("hook", _Text, nullable=False),
    sa.Column("body", _Text, nullable=False),
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("due_at", _Time, nullable=False),  # when it is to be tried, or tried again
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("given_up_at", _Time),
    sa.Index("deliveries_due", "given_up_at", "due_at"),
    sa.Index("deliveries_of_hook", "hook", "given_up_at", "due_at"),
)  # fmt: skip

settings: Final = sa.Table(
    "settings", meta, sa.Column("name", _Text, primary_key=True), sa.Column("value", sa.JSON, nullable=False)
)


def database_url(url: str | None, folder: Path) -> str:
    """`url`, or an SQLite file in `folder`. Raises InputError for anything but SQLite files and PostgreSQL."""
    if url is None:
        folder.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{(folder / 'phonofilm.db').resolve()}"
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise InputError("the database URL is not one, such as postgresql://USER:PASSWORD@HOST/NAME") from None
    kind = parsed.get_backend_name()
    if kind == "postgresql":
        patience = {name: value for name, value in _PATIENCE.items() if name not in parsed.query}
        return parsed.set(drivername="postgresql+psycopg", query={**parsed.query, **patience}).render_as_string(False)
    if kind == "sqlite" and parsed.database:
        return parsed.render_as_string(hide_password=False)
    raise InputError(f"the database must be an SQLite file or PostgreSQL, got {kind!r}")


def connect(url: str) -> sa.Engine:
    """An engine whose transactions are serialised where they write: SQLite begins them with its write lock taken.

    Options of a connection: `reads`, for work that only reads and never waits for a writer; `light`, for what may be
    lost when the power fails, such as signs of life: its commits do not wait for the disk.
    """
    if not url.startswith("sqlite"):
        return _postgresql(url)
    engine = sa.create_engine(url, pool_size=8, max_overflow=8, connect_args={"timeout": 30})

    def opened(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where the next function says
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "busy_timeout=30000", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begun(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        connection.exec_driver_sql(f"PRAGMA synchronous={'NORMAL' if options.get('light') else 'FULL'}")
        connection.exec_driver_sql("BEGIN" if options.get("reads") else "BEGIN IMMEDIATE")

    sa.event.listen(engine, "connect", opened)
    sa.event.listen(engine, "begin", begun)
    return engine


def _postgresql(url: str) -> sa.Engine:
    """A machine that freezes, or is cut off, holds what it has locked for seconds, not for hours."""
    engine = sa.create_engine(url, pool_pre_ping=True, pool_size=8, max_overflow=8)

    def opened(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET idle_in_transaction_session_timeout = {_IDLE_MS}")
            cursor.execute(f"SET lock_timeout = {3 * _IDLE_MS}")
        connection.commit()

    def begun(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("light"):
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")

    sa.event.listen(engine, "connect", opened)
    sa.event.listen(engine, "begin", begun)
    return engine


def prepare(connection: sa.Connection) -> None:
    """Make the tables, and in those of an older version the columns and indexes that are new."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(729004131)"))  # one process at a time
    found = sa.inspect(connection)
    older = set(found.get_table_names())
    meta.create_all(connection)
    for table in meta.sorted_tables:
        if table.name not in older:
            continue
        known = {column["name"] for column in found.get_columns(table.name)}
        for column in table.columns:
            if column.name not in known:
                spec = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
                connection.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN {spec}"))
        named = {index["name"] for index in found.get_indexes(table.name)}
        for index in table.indexes:
            if index.name not in named:
                index.create(connection)


def now(connection: sa.Connection) -> sa.ColumnElement[float]:
    """Seconds since 1970 by the clock that all processes share: the database's, or this machine's on SQLite."""
    if connection.dialect.name == "postgresql":
        return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)
    return sa.literal(time.time())
