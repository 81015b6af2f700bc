"""Who may call, from where, and how much: before anything of a request is read.

On this machine alone no key is asked for, so that a web page elsewhere must not be able to call: the name under which
the server is called is checked (DNS rebinding), and the page from which a browser calls (cross-site posts).
"""

from __future__ import annotations

import contextvars
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phonofilm.jobs import keys
from phonofilm.jobs.job import LOCAL
from phonofilm.jobs.store import Limits, Store
from phonofilm.serve.config import Config
from phonofilm.serve.errors import ApiError, answer

log = logging.getLogger("phonofilm.api")
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
CALLER: Final = "phonofilm.caller"  # where a scope says who calls, for apps behind `Behind`
COOKIE: Final = "phonofilm_key"  # in which the browser of the studio keeps a key
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Gate:
    """Outermost layer: names each request, checks Host and Origin, and caps the body."""

    def __init__(self, app: ASGIApp, config: Config) -> None:
        self.app, self.config = app, config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan" or self._known(_headers(scope)):
                await self.app(scope, receive, send)
            return
        headers = _headers(scope)
        given = headers.get("x-request-id", "")
        name = given if _PLAIN_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        token = request_id.set(name)
        began, status = time.perf_counter(), [0]

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                message.setdefault("headers", [])
                message["headers"] = [
                    *message["headers"], (b"x-request-id", name.encode()), (b"x-content-type-options", b"nosniff"),
                ]  # fmt: skip
            await send(message)

        try:
            if not self._known(headers):
                told = f"this server is not called {headers.get('host', '')!r}, or not from such a page"
                await answer(scope["path"], 403, "forbidden_origin", told)(scope, receive, named)
            elif int(headers.get("content-length") or 0) > self.config.upload_bytes:
                await self._too_large(scope)(scope, receive, named)
            else:
                await self.app(scope, self._capped(receive), named)
        except _TooLarge:
            if not status[0]:
                await self._too_large(scope)(scope, receive, named)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"], extra={"request_id": name})
            if status[0]:
                raise
            told = "something went wrong here; it was logged under this request's id"
            await answer(scope["path"], 500, "server_error", told)(scope, receive, named)
        finally:
            took = 1000 * (time.perf_counter() - began)
            log.info("%s %s %d %.0f ms", scope["method"], scope["path"], status[0], took, extra={"request_id": name})
            request_id.reset(token)

    def _known(self, headers: MutableMapping[str, str]) -> bool:
        names = self.config.names
        if names and _name(headers.get("host", "")) not in names:
            return False
        origin = headers.get("origin")
        if origin is None or not names:
            return True
        return urlsplit(origin).netloc == headers.get("host", "")

    def _capped(self, receive: Receive) -> Receive:
        left = self.config.upload_bytes

        async def capped() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise _TooLarge
            return message

        return capped

    def _too_large(self, scope: Scope) -> Any:
        told = f"a request may have at most {self.config.upload_bytes} bytes"
        return answer(scope["path"], 413, "too_large", told)


class _TooLarge(Exception):
    pass


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _name(host: str) -> str:
    """A Host header without its port."""
    return host.rpartition(":")[0] if re.search(r":\d+$", host) and not host.endswith("]") else host


class Caller:
    """Who calls: the owner of what he makes, and his limits."""

    def __init__(self, owner: str, limits: Limits, key: str | None) -> None:
        self.owner, self.limits, self.key = owner, limits, key


Check = Callable[[Request], Awaitable[Caller]]


async def caller(request: Request) -> Caller:
    """The key behind a request, whose calls of this minute are counted; not those by which its page shows films."""
    who = await known(request)
    if request.method not in ("GET", "HEAD") or _header_key(request) is not None:
        await run_in_threadpool(count, request.app.state.store, who)
    return who


def count(store: Store, who: Caller) -> None:
    """Count a call. Raises ApiError 429 if it is one too many of this minute."""
    if who.key is not None and not keys.count_call(store, who.key, who.limits.requests_a_minute):
        wait = 60 - int(time.time()) % 60
        told = f"this key may call {who.limits.requests_a_minute} times a minute"
        raise ApiError(429, "rate_limit_exceeded", told, headers={"retry-after": str(wait)})


async def known(request: Request) -> Caller:
    """The key behind a request; where none is needed, and none was brought, the one who sits at the machine."""
    config: Config = request.app.state.config
    store: Store = request.app.state.store
    text = _key_text(request)
    if text is None and (config.local or config.insecure):
        return Caller(LOCAL, Limits(), None)
    key = await run_in_threadpool(keys.find, store, text) if text else None
    if key is None:
        if text and config.local:
            return Caller(LOCAL, Limits(), None)  # clients insist on sending one; here any will do
        told = "that key is not known here" if text else "a key is needed: Authorization: Bearer pf_…"
        raise ApiError(401, "invalid_api_key", told, headers={"www-authenticate": "Bearer"})
    return Caller(key.id, key.limits, key.id)


def _key_text(request: Request) -> str | None:
    # a browser sends its cookie whichever page asks: what changes something must come from a page of ours
    by_cookie = request.method in ("GET", "HEAD") or same_origin(request)
    return _header_key(request) or (request.cookies.get(COOKIE) if by_cookie else None)


def _header_key(request: Request) -> str | None:
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and text.strip():
        return text.strip()
    return request.headers.get("x-goog-api-key") or None


def same_origin(request: Request) -> bool:
    """True if a browser says that a page of this server asks."""
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("host")


class Behind:
    """An ASGI app behind the key: it is told who calls."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        who = await caller(Request(scope, receive))
        await self.app({**scope, CALLER: who}, receive, send)


Who = Annotated[Caller, Depends(caller)]
