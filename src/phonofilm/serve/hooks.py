"""OpenAI's webhook endpoints: callers say where they want to be told, as far as the operator lets messages go."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from phonofilm.errors import InputError
from phonofilm.jobs import webhooks
from phonofilm.jobs.webhooks import Hook
from phonofilm.serve import sender
from phonofilm.serve.access import Caller, Who
from phonofilm.serve.errors import ApiError, not_found
from phonofilm.serve.forms import BODIES, After, Given, Limit, text
from phonofilm.serve.service import ID, Service
from phonofilm.serve.shapes import (
    ERRORS,
    Endpoint,
    EndpointDeleted,
    EndpointList,
    EndpointTest,
    EndpointWithSecret,
    EventTypes,
    errors,
)

router: Final = APIRouter(responses=ERRORS)
MOST: Final = 10  # webhooks of one owner
_TESTS: Final = threading.Semaphore(4)  # tests at the same time, each of which keeps a thread while its receiver thinks


def service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


@router.get("/v1/webhook_event_types")
def list_event_types(_: Who) -> EventTypes:
    """What a webhook can be told of."""
    return EventTypes(data=list(webhooks.TYPES))


@router.post("/v1/webhook_endpoints", openapi_extra=BODIES["endpoint"])
async def create_endpoint(request: Request, who: Who, given: Given) -> EndpointWithSecret:
    """Have the caller's films told of to a URL. The answer shows the secret that messages are signed with, once."""
    return await run_in_threadpool(_create, service(request), who, given)


def _create(it: Service, who: Caller, given: Mapping[str, Any]) -> EndpointWithSecret:
    name, url, types = _name(given), _url(it, given), _types(given)
    for missing, value in (("name", name), ("url", url), ("event_types", types)):
        if value is None:
            raise InputError(f"{missing} is needed", missing)
    hook, secret = webhooks.add(it.store, url or "", who.owner, name=name or "", types=types, most=MOST)
    return EndpointWithSecret.of(hook, signing_secret=secret)


@router.get("/v1/webhook_endpoints", responses=errors(404))
def list_endpoints(
    request: Request,
    who: Who,
    after: After = None,
    limit: Limit = 20,
) -> EndpointList:
    """The caller's webhooks, the oldest first."""
    every = webhooks.every(service(request).store, who.owner)
    if after:
        places = [k for k, hook in enumerate(every) if hook.id == after]
        if not places:
            raise not_found("webhook", after)
        every = every[places[0] + 1 :]
    data = [Endpoint.of(hook) for hook in every[:limit]]
    ends = (data[0].id, data[-1].id) if data else (None, None)
    return EndpointList(data=data, has_more=len(every) > limit, first_id=ends[0], last_id=ends[1])


@router.get("/v1/webhook_endpoints/{endpoint_id}", responses=errors(404))
def get_endpoint(request: Request, who: Who, endpoint_id: str) -> Endpoint:
    """A webhook, without its secret."""
    return Endpoint.of(_mine(service(request), who, endpoint_id))


@router.post("/v1/webhook_endpoints/{endpoint_id}", openapi_extra=BODIES["endpoint change"], responses=errors(404))
async def update_endpoint(request: Request, who: Who, endpoint_id: str, given: Given) -> Endpoint:
    """Change a webhook's name, URL or types; what waits goes to the new URL."""
    return await run_in_threadpool(_update, service(request), who, endpoint_id, given)


def _update(it: Service, who: Caller, id: str, given: Mapping[str, Any]) -> Endpoint:
    _mine(it, who, id)
    webhooks.change(it.store, id, url=_url(it, given), name=_name(given), types=_types(given))
    return Endpoint.of(_mine(it, who, id))


@router.delete("/v1/webhook_endpoints/{endpoint_id}", responses=errors(404))
def delete_endpoint(request: Request, who: Who, endpoint_id: str) -> EndpointDeleted:
    """Tell a webhook nothing more, also of what waits."""
    it = service(request)
    _mine(it, who, endpoint_id)
    webhooks.remove(it.store, endpoint_id)
    return EndpointDeleted(id=endpoint_id)


@router.post("/v1/webhook_endpoints/{endpoint_id}/rotate_secret", openapi_extra=BODIES["rotate"], responses=errors(404))
async def rotate_secret(request: Request, who: Who, endpoint_id: str, given: Given) -> EndpointWithSecret:
    """A new secret; the old one counts for 24 hours more if that is wished."""
    return await run_in_threadpool(_rotate, service(request), who, endpoint_id, given)


def _rotate(it: Service, who: Caller, id: str, given: Mapping[str, Any]) -> EndpointWithSecret:
    _mine(it, who, id)
    keep = given.get("keep_old_secret_active_for_24_hours")
    if keep is not None and not isinstance(keep, bool):
        raise InputError(f"keep_old_secret_active_for_24_hours must be true or false, got {keep!r}")
    secret = webhooks.rotate(it.store, id, keep_old=bool(keep))
    return EndpointWithSecret.of(_mine(it, who, id), signing_secret=secret)


@router.post("/v1/webhook_endpoints/{endpoint_id}/test", openapi_extra=BODIES["test"], responses=errors(404))
async def test_endpoint(request: Request, who: Who, endpoint_id: str, given: Given) -> EndpointTest:
    """Send a message that tells of nothing, and say how it was answered."""
    return await run_in_threadpool(_test, service(request), who, endpoint_id, given)


def _test(it: Service, who: Caller, id: str, given: Mapping[str, Any]) -> EndpointTest:
    hook = _mine(it, who, id)
    kind = given.get("event_type")
    if kind not in webhooks.TYPES:
        raise InputError(f"event_type must be one of {', '.join(webhooks.TYPES)}, got {kind!r}", "event_type")
    message = webhooks.sample(it.store, hook.id, kind)
    if message is None:
        raise not_found("webhook", id)
    if not _TESTS.acquire(blocking=False):
        raise ApiError(429, "rate_limit_exceeded", "too many webhooks are being tested")
    try:
        status, _ = sender.call(message)
    except sender.FAULTS as error:
        raise ApiError(400, "unreachable", f"the webhook was not reached: {type(error).__name__}") from None
    finally:
        _TESTS.release()
    return EndpointTest(webhook_endpoint_id=id, event_type=kind, status_code=status)


def _mine(it: Service, who: Caller, id: str) -> Hook:
    """A webhook of the caller. Raises ApiError 404 for all others."""
    found = [hook for hook in webhooks.every(it.store, who.owner) if hook.id == id] if ID.fullmatch(id) else []
    if not found:
        raise not_found("webhook", id)
    return found[0]


def _name(given: Mapping[str, Any]) -> str | None:
    name = text(given, "name")
    if name is not None and not (1 <= len(name.strip()) <= 100 and name.isprintable()):
        raise InputError(f"name must have 1 to 100 printable characters, got {name[:120]!r}", "name")
    return name


def _url(it: Service, given: Mapping[str, Any]) -> str | None:
    url = text(given, "url")
    if url is None:
        return None
    try:
        webhooks.check_url(url, private=False)
    except InputError as error:
        raise InputError(str(error), "url") from None
    hosts = it.config.webhook_hosts
    if "*" not in hosts and (urlsplit(url).hostname or "") not in {host.lower() for host in hosts}:
        allowed = f"may be sent to {', '.join(sorted(hosts))} alone" if hosts else "are added by the operator alone"
        raise InputError(f"webhooks {allowed} here", "url")
    return url


def _types(given: Mapping[str, Any]) -> list[str] | None:
    types = given.get("event_types")
    if types is None:
        return None
    if not isinstance(types, list) or not all(isinstance(one, str) for one in types):
        raise InputError("event_types must be a list", "event_types")
    webhooks.check_types(types)
    return types
