"""Keys of subscribers: made once, shown once, stored as a digest."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from phonofilm.errors import InputError
from phonofilm.jobs import schema
from phonofilm.jobs.job import new_id
from phonofilm.jobs.store import Limits, Store

PREFIX: Final = "pf_"  # so that a key that leaked is known for what it is
BYTES: Final = 24  # 192 bits
_K: Final = schema.keys
_C: Final = schema.calls

# Statements of every call, built once.
_FIND: Final = sa.select(_K).where((_K.c.digest == sa.bindparam("of")) & _K.c.revoked_at.is_(None))
_COUNT: Final = (
    sa.update(_C)
    .where((_C.c.owner == sa.bindparam("by")) & (_C.c.minute == sa.bindparam("at")))
    .values(count=_C.c.count + 1)
    .returning(_C.c.count)
)


@dataclass(frozen=True)
class Key:
    """What is known of a key; never the key itself. Times are seconds since 1970."""

    id: str
    name: str
    shown: str  # its first characters
    created_at: float
    revoked_at: float | None
    limits: Limits


def create(store: Store, name: str, limits: Limits | None = None) -> tuple[Key, str]:
    """A new key, and its text, which cannot be had again. Raises InputError for a name or limits that are none."""
    limits = limits or Limits()
    if not 1 <= len(name.strip()) <= 100:
        raise InputError(f"the name of a key must have 1 to 100 characters, got {name!r}")
    for what in ("seconds_a_day", "concurrent", "requests_a_minute"):
        value = getattr(limits, what)
        if value is not None and value <= 0:
            raise InputError(f"{what} must be above 0, got {value:g}")
    text = PREFIX + secrets.token_urlsafe(BYTES)
    row = {
        "id": new_id("key"), "name": name.strip(), "digest": _digest(text), "shown": text[: len(PREFIX) + 4],
        "created_at": time.time(), "revoked_at": None, **vars(limits),
    }  # fmt: skip
    with store.writing() as c:
        c.execute(sa.insert(_K).values(row))
    return _key(row), text


def find(store: Store, text: str) -> Key | None:
    """The key that `text` is, unless it was revoked.

    It is looked up by its SHA-256: a comparison that stops early tells nothing about a key of 192 random bits.
    """
    with store.reading() as c:
        row = c.execute(_FIND, {"of": _digest(text)}).mappings().first()
    return _key(row) if row is not None else None


def every(store: Store) -> list[Key]:
    """All keys, the oldest first, revoked ones too."""
    with store.reading() as c:
        return [_key(row) for row in c.execute(sa.select(_K).order_by(_K.c.created_at)).mappings()]


def named(store: Store, id: str) -> Key:
    """The key, valid or revoked, of an id, or of first characters. Raises InputError if it is not one."""
    with store.reading() as c:
        rows = c.execute(sa.select(_K).where((_K.c.id == id) | (_K.c.shown == id))).mappings().all()
    if len(rows) != 1:
        raise InputError(f"{'no' if not rows else 'more than one'} key is called {id!r}")
    return _key(rows[0])


def revoke(store: Store, id: str) -> Key:
    """Make a key useless from now on. Raises InputError if there is none of that id (or of those first characters)."""
    key = named(store, id)
    now = key.revoked_at or time.time()
    with store.writing() as c:
        c.execute(sa.update(_K).where(_K.c.id == key.id).values(revoked_at=now))
    return dataclasses.replace(key, revoked_at=now)


def count_call(store: Store, owner: str, most: int | None) -> bool:
    """Count a call of this minute; False if it is one too many."""
    minute = int(time.time() // 60)
    with store.writing(light=True) as c:
        store.lock(c, owner)
        count = c.execute(_COUNT, {"by": owner, "at": minute}).scalar()
        if count is None:
            c.execute(sa.delete(_C).where((_C.c.owner == owner) & (_C.c.minute < minute)))
            c.execute(sa.insert(_C).values(owner=owner, minute=minute, count=1))
            count = 1
    return most is None or count <= most


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _key(row: Any) -> Key:
    limits = Limits(row["seconds_a_day"], row["concurrent"], row["requests_a_minute"])
    return Key(row["id"], row["name"], row["shown"], row["created_at"], row["revoked_at"], limits)
