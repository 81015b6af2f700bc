"""Who is told when a film ends, and the outbox of what is still to be told.

A message is a row that is written in the transaction in which its job ends, so that none is lost or made up. Whoever
sends it takes it for a while (`claim`) and deletes it when the receiver has it (`delivered`); one who dies in between
leaves it to be sent again: at least once, each time under the same id. Headers and signature are those of Standard
Webhooks, as OpenAI sends them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args
from urllib.parse import urlsplit

import sqlalchemy as sa

from phonofilm.errors import InputError
from phonofilm.jobs import schema, usage
from phonofilm.jobs.job import new_id

if TYPE_CHECKING:
    from phonofilm.jobs.store import Store

Kind = Literal["video", "usage"]
Type = Literal["video.completed", "video.failed"]
TYPES: Final[tuple[Type, ...]] = get_args(Type)
ALL: Final = "*"  # the owner of hooks that hear of everybody's films
PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32
LEASE_SECONDS: Final = 60.0  # for which a message belongs to the one who sends it
PATIENCE_SECONDS: Final = 72 * 3600.0  # after which a message is given up
ROTATION_SECONDS: Final = 86_400.0  # for which an old secret may be kept
KEEP_SECONDS: Final = 30 * 86_400.0  # for which one that was given up is kept
_H: Final = schema.hooks
_D: Final = schema.deliveries


@dataclass(frozen=True)
class Hook:
    """A receiver. kind: what it hears of, `video.completed` and `video.failed`, or usage as CloudEvents."""

    id: str
    owner: str  # id of a key, LOCAL, or ALL
    kind: Kind
    url: str
    private: bool  # may be reached at an address that is not public, and without TLS
    created_at: float
    delivered: int  # messages
    failures: int  # attempts
    given_up: int  # messages
    waiting: int  # messages
    told: str | None  # why the last attempt that failed did
    name: str
    types: tuple[Type, ...]  # of events
    hint: str  # the end of its secret
    updated_at: float  # when URL, name, types or secret were changed


@dataclass(frozen=True)
class Delivery:
    """A message that somebody has taken to send it."""

    id: str  # the same at each attempt
    hook: str
    url: str
    private: bool
    kind: Kind
    body: str
    attempt: int  # from 1
    secrets: tuple[str, ...]  # the one that counts, and an older one while that does, too
    bearer: str | None


# --- receivers ------------------------------------------------------------------------------------------------------
def add(
    store: Store, url: str, owner: str = ALL, kind: Kind = "video", *, private: bool = False, bearer: str | None = None,
    name: str = "", types: Sequence[str] | None = None, most: int | None = None,
) -> tuple[Hook, str]:  # fmt: skip
    """A new receiver, and the secret (whsec_…) by which it knows our messages.

    private: let it be an address inside, and http. bearer: sent as `Authorization: Bearer …`. types: None for all.
    Raises InputError for a bad URL, types that are none, and an owner who has `most` already.
    """
    check_url(url, private)
    check_types(types)
    if bearer is not None and not (bearer.isascii() and bearer.isprintable() and " " not in bearer):
        raise InputError("the bearer of a webhook must be printable ASCII without spaces")
    row = {
        "id": new_id("hook"), "owner": owner, "url": url, "secret": _new_secret(), "created_at": time.time(),
        "kind": kind, "private": private, "bearer": bearer, "name": name, "types": None if types is None else [*types],
    }  # fmt: skip
    with store.writing() as c:
        store.lock(c, owner)
        live = (_H.c.owner == owner) & _H.c.removed_at.is_(None)
        if most is not None and c.execute(sa.select(sa.func.count()).where(live)).scalar_one() >= most:
            raise InputError(f"there are {most} webhooks, and no more may be: remove one")
        c.execute(sa.insert(_H).values(row))
    return next(hook for hook in every(store) if hook.id == row["id"]), str(row["secret"])


def every(store: Store, owner: str | None = None) -> list[Hook]:
    """All receivers that were not removed, the oldest first; or those of an owner that hear of films."""
    waiting = sa.select(sa.func.count()).where((_D.c.hook == _H.c.id) & _D.c.given_up_at.is_(None)).scalar_subquery()
    wanted = sa.select(_H, waiting.label("waiting")).where(_H.c.removed_at.is_(None))
    if owner is not None:
        wanted = wanted.where((_H.c.owner == owner) & (_H.c.kind == "video"))
    with store.reading() as c:
        return [_hook(row) for row in c.execute(wanted.order_by(_H.c.created_at, _H.c.id)).mappings()]


def change(store: Store, id: str, *, url: str | None = None, name: str | None = None, types: Any = None) -> None:
    """Change what is not None. With another URL, which must be public, the private one is over. Raises InputError."""
    new: dict[str, Any] = {} if url is None else {"url": url, "private": False, "bearer": None}
    if url is not None:
        check_url(url, private=False)
    if types is not None:
        check_types(types)
        new["types"] = [*types]
    new |= {} if name is None else {"name": name}
    with store.writing() as c:
        c.execute(
            sa.update(_H).where((_H.c.id == id) & _H.c.removed_at.is_(None)).values(new | {"updated_at": time.time()})
        )


def rotate(store: Store, id: str, *, keep_old: bool = False) -> str:
    """A new secret. keep_old: messages are signed with the old one as well, for 24 hours."""
    secret = _new_secret()
    with store.writing() as c:
        new: dict[str, Any] = {"secret": secret, "updated_at": time.time(), "old_secret": None}
        if keep_old:
            new |= {"old_secret": _H.c.secret, "old_until": schema.now(c) + ROTATION_SECONDS}
        c.execute(sa.update(_H).where((_H.c.id == id) & _H.c.removed_at.is_(None)).values(new))
    return secret


def remove(store: Store, id: str) -> None:
    """Tell a receiver nothing more, also of what waits. Raises InputError if there is none of that id."""
    with store.writing() as c:
        # messages first, as all do who change both: so no two wait for each other
        c.execute(sa.delete(_D).where(_D.c.hook == id))
        one = (_H.c.id == id) & _H.c.removed_at.is_(None)
        gone = {"removed_at": schema.now(c), "secret": "", "old_secret": None, "bearer": None}
        if not c.execute(sa.update(_H).where(one).values(gone)).rowcount:
            raise InputError(f"no webhook is called {id!r}")


def retry(store: Store, id: str) -> int:
    """Send what was given up again; how many messages. Raises InputError if there is no receiver of that id."""
    if id not in {hook.id for hook in every(store)}:
        raise InputError(f"no webhook is called {id!r}")
    with store.writing() as c:
        lost = (_D.c.hook == id) & _D.c.given_up_at.is_not(None)
        again = {"given_up_at": None, "due_at": schema.now(c), "created_at": schema.now(c), "attempts": 0}
        return c.execute(sa.update(_D).where(lost).values(again)).rowcount


def check_url(url: str, private: bool) -> None:
    """Raises InputError for what messages may not be sent to, as far as the URL itself tells."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise InputError(f"the URL of a webhook is none: {url!r}") from None
    if parts.scheme != "https" and not (private and parts.scheme == "http"):
        raise InputError("a webhook must be https (http where private addresses are allowed)")
    if not host or parts.username is not None or parts.fragment or len(url) > 2000 or not _plain(url):
        raise InputError("the URL of a webhook must have a host, no user and no fragment, and be plain ASCII")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    if not private and (not address.is_global or address.is_multicast):
        raise InputError(f"{host} is not a public address; let it be one that is not, if that is meant")


def check_types(types: Sequence[str] | None) -> None:
    """Raises InputError for types of events that are none."""
    if types is not None and not (1 <= len(types) <= len(TYPES) and set(types) <= set(TYPES)):
        told = ", ".join(map(repr, types[:5]))
        raise InputError(f"event_types must be some of {', '.join(TYPES)}, got {told or 'none'}", "event_types")


def _new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def _hook(row: Mapping[Any, Any]) -> Hook:
    made = {name: row.get(name) for name in Hook.__dataclass_fields__}
    made |= {"types": tuple(row["types"] or TYPES), "hint": row["secret"][-4:]}
    made["updated_at"] = row["updated_at"] or row["created_at"]
    return Hook(**cast(dict[str, Any], made))


def _plain(url: str) -> bool:
    return url.isascii() and url.isprintable() and " " not in url


# --- messages -------------------------------------------------------------------------------------------------------
def post(c: sa.Connection, event: Mapping[Any, Any]) -> None:
    """Put a message for each receiver of an event into the outbox, as part of the caller's transaction."""
    heard = _H.c.owner.in_((event["owner"], ALL)) & _H.c.removed_at.is_(None)
    rows = c.execute(sa.select(_H.c.id, _H.c.kind, _H.c.types).where(heard)).all()
    for hook, kind, types in rows:
        if event["type"] not in ((usage.TYPE,) if kind == "usage" else types or TYPES):
            continue
        body = usage.cloud_event(event) if kind == "usage" else video_event(event)
        row = {
            "id": new_id("msg"), "hook": hook, "body": json.dumps(body, ensure_ascii=False, separators=(",", ":")),
            "created_at": schema.now(c), "due_at": schema.now(c),
        }  # fmt: skip
        c.execute(sa.insert(_D).values(row))


def video_event(event: Mapping[Any, Any]) -> dict[str, Any]:
    """An event as OpenAI tells it."""
    return {
        "id": event["id"], "object": "event", "type": event["type"], "created_at": int(event["created_at"]),
        "data": {"id": event["data"]["id"]},
    }  # fmt: skip


def sign(secret: str, id: str, timestamp: int, body: str) -> str:
    """The header `webhook-signature`: HMAC-SHA256 over `id.timestamp.body` (Standard Webhooks 1.0.0)."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    digest = hmac.new(key, f"{id}.{timestamp}.{body}".encode(), hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def headers(delivery: Delivery) -> dict[str, str]:
    """All headers of a message that is sent now."""
    now = int(time.time())
    told = {
        "content-type": "application/cloudevents+json; charset=utf-8" if delivery.kind == "usage" else
        "application/json; charset=utf-8", "user-agent": "phonofilm", "webhook-id": delivery.id,
        "webhook-timestamp": str(now),
        "webhook-signature": " ".join(sign(one, delivery.id, now, delivery.body) for one in delivery.secrets),
    }  # fmt: skip
    return told | ({"authorization": f"Bearer {delivery.bearer}"} if delivery.bearer else {})


# --- sending --------------------------------------------------------------------------------------------------------
def claim(store: Store, most: int, but: Collection[str] = ()) -> list[Delivery]:
    """Take messages that are due, one for each receiver at most, and none for those in `but`."""
    live = sa.select(_H.c.id).where(_H.c.removed_at.is_(None))
    with store.reading() as c:
        due = _D.c.given_up_at.is_(None) & (_D.c.due_at <= schema.now(c)) & _D.c.hook.in_(live)
        if but:
            due &= _D.c.hook.not_in(list(but))
        first = sa.select(_D.c.hook).where(due).group_by(_D.c.hook).order_by(sa.func.min(_D.c.due_at)).limit(most)
        ready = list(c.execute(first).scalars())
    taken = []
    if ready:
        with store.writing() as c:
            for hook in ready:
                mine = (_D.c.hook == hook) & _D.c.given_up_at.is_(None) & (_D.c.due_at <= schema.now(c))
                one = sa.select(_D.c.id).where(mine).order_by(_D.c.due_at, _D.c.id).limit(1)
                one = one.with_for_update(skip_locked=True)
                lease = {"due_at": schema.now(c) + LEASE_SECONDS, "attempts": _D.c.attempts + 1}
                id = c.execute(one).scalar()
                row = c.execute(sa.update(_D).where(_D.c.id == id).values(lease).returning(_D)).mappings().first()
                of = c.execute(sa.select(_H).where(_H.c.id == hook)).mappings().one()
                if row is not None:
                    taken.append(_delivery(row, of))
    return taken


def _delivery(row: Mapping[Any, Any], of: Mapping[Any, Any]) -> Delivery:
    known = of["old_secret"] if of["old_secret"] and (of["old_until"] or 0) > time.time() else None
    both = (of["secret"], known) if known else (of["secret"],)
    return Delivery(
        row["id"], of["id"], of["url"], of["private"], of["kind"], row["body"], row["attempts"], both, of["bearer"]
    )


def sample(store: Store, id: str, type: Type) -> Delivery | None:
    """A message that tells of nothing, to try a receiver with; None if there is none of that id."""
    with store.reading() as c:
        of = c.execute(sa.select(_H).where((_H.c.id == id) & _H.c.removed_at.is_(None))).mappings().first()
    body = video_event({"id": new_id("evt"), "type": type, "created_at": time.time(), "data": {"id": "video_test"}})
    return None if of is None else _delivery({"id": new_id("msg"), "body": json.dumps(body), "attempts": 1}, of)


def delivered(store: Store, delivery: Delivery) -> None:
    """The receiver has it."""
    with store.writing(light=True) as c:  # what a power failure takes back is sent once more
        if c.execute(sa.delete(_D).where(_D.c.id == delivery.id)).rowcount:
            c.execute(sa.update(_H).where(_H.c.id == delivery.hook).values(delivered=_H.c.delivered + 1))


def failed(store: Store, delivery: Delivery, why: str, wait: float) -> bool:
    """An attempt came to nothing: the next one is due in `wait` seconds; math.inf: never. False if it is given up."""
    with store.writing() as c:
        mine = (_D.c.id == delivery.id) & (_D.c.attempts == delivery.attempt)
        late = sa.true() if wait > PATIENCE_SECONDS else schema.now(c) + wait > _D.c.created_at + PATIENCE_SECONDS
        lost = c.execute(sa.update(_D).where(mine & late).values(given_up_at=schema.now(c))).rowcount
        if not lost:
            c.execute(sa.update(_D).where(mine).values(due_at=schema.now(c) + wait))
        told = {"failures": _H.c.failures + 1, "given_up": _H.c.given_up + lost, "told": why}
        c.execute(sa.update(_H).where(_H.c.id == delivery.hook).values(told))
    return not lost


def tidy(store: Store) -> None:
    """Forget what was given up long ago, and what came for a receiver that was being removed."""
    with store.reading() as c:
        gone = sa.select(_H.c.id).where(_H.c.removed_at.is_not(None))
        old = (_D.c.given_up_at < schema.now(c) - KEEP_SECONDS) | _D.c.hook.in_(gone)
        if c.execute(sa.select(_D.c.id).where(old).limit(1)).first() is None:
            return
    with store.writing() as c:
        c.execute(sa.delete(_D).where(old))


@dataclass(frozen=True)
class Sums:
    """Of all receivers ever, removed ones too. `oldest`: when the message was written that waits longest."""

    delivered: int
    failures: int
    given_up: int
    waiting: int
    oldest: float | None


def sums(store: Store) -> Sums:
    total = sa.func.coalesce
    counts = sa.select(*(total(sa.func.sum(_H.c[name]), 0) for name in ("delivered", "failures", "given_up")))
    waiting = sa.select(sa.func.count(), sa.func.min(_D.c.created_at)).where(_D.c.given_up_at.is_(None))
    with store.reading() as c:
        return Sums(*(int(value) for value in c.execute(counts).one()), *c.execute(waiting).one())
