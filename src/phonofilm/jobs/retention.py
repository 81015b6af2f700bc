"""What is no longer needed goes: films whose time is over, uploads that nothing refers to, used-up tickets."""

from __future__ import annotations

import logging
from typing import Final

import sqlalchemy as sa

from phonofilm.errors import OutputError
from phonofilm.jobs import schema, webhooks
from phonofilm.jobs.storage import Storage, upload_name
from phonofilm.jobs.store import Store

log = logging.getLogger("phonofilm.retention")
TICKETS_SECONDS: Final = 3600.0  # for which a ticket is kept that was used up
BATCH: Final = 100


def known_upload(store: Store, owner: str, digest: str) -> str | None:
    """The kind of an owner's upload, which from now on is kept for as long as if it was new; None: not there."""
    t = schema.uploads
    with store.writing() as c:
        mine = (t.c.owner == owner) & (t.c.digest == digest)
        used = sa.update(t).where(mine).values(used_at=schema.now(c)).returning(t.c.kind)
        return c.execute(used).scalar()


def keep_upload(store: Store, owner: str, digest: str, kind: str, size: int) -> None:
    """Note an upload whose file is in the storage."""
    t = schema.uploads
    row = {"kind": kind, "bytes": size, "name": upload_name(owner, digest)}
    with store.writing() as c:
        store.lock(c, owner)
        used = row | {"used_at": schema.now(c)}
        if not c.execute(sa.update(t).where((t.c.owner == owner) & (t.c.digest == digest)).values(used)).rowcount:
            c.execute(sa.insert(t).values(owner=owner, digest=digest, **used))


def tidy(store: Store, storage: Storage) -> None:
    """Remove files first and rows last, so that what a crash leaves is found by the next call."""
    for job in store.expired(BATCH):
        try:
            storage.remove(f"films/{job.id}")
        except OutputError as error:
            log.warning("%s", error)
        else:
            store.forget(job.id)
    _forget_uploads(store, storage)
    webhooks.tidy(store)
    with store.reading() as c:
        store.tickets.forget(c, TICKETS_SECONDS, 10 * BATCH)


def _forget_uploads(store: Store, storage: Storage) -> None:
    """Uploads that were not sent again for as long as films are kept, and that no film or character needs."""
    u, j, k = schema.uploads.c, schema.jobs.c, schema.characters.c
    with store.reading() as c:
        old = sa.select(u.owner, u.digest, u.name).where(u.used_at < schema.now(c) - store.keep_seconds).limit(BATCH)
        rows = c.execute(old).all()
    for owner, digest, name in rows:
        told = sa.cast(j.request, sa.Text).contains(digest, autoescape=True)
        films = sa.exists().where((j.owner == owner) & told)
        needed = films | sa.exists().where((k.owner == owner) & (k.digest == digest))
        try:
            with store.writing() as c:  # whoever sends it again meanwhile waits until its file is gone
                if c.dialect.name == "postgresql":
                    c.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '5min'")
                late = (u.owner == owner) & (u.digest == digest) & (u.used_at < schema.now(c) - store.keep_seconds)
                if c.execute(sa.update(schema.uploads).where(late & needed).values(used_at=schema.now(c))).rowcount:
                    continue  # looked at again when as much time has passed
                if c.execute(sa.delete(schema.uploads).where(late)).rowcount:
                    storage.remove(name)
        except OutputError as error:
            log.warning("%s", error)
