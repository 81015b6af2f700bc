"""Errors as the clients of each door read them, and a status that fits.

OpenAI's: {"error": {"message", "type", "param", "code"}}. Google's, below /v1beta: {"error": {"code", "message",
"status", "details"}}, our own code as the reason of an ErrorInfo.
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route

from phonofilm.errors import InputError, OutputError, PhonofilmError
from phonofilm.jobs.job import JobError
from phonofilm.jobs.schema import AWAY

log = logging.getLogger("phonofilm.api")
_TYPES: Final = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 409: "conflict_error",
    429: "rate_limit_error", 500: "server_error", 503: "server_error", 507: "server_error",
}  # fmt: skip
_GOOGLE: Final = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 405: "UNIMPLEMENTED",
    409: "FAILED_PRECONDITION", 413: "INVALID_ARGUMENT", 416: "OUT_OF_RANGE", 429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE", 507: "RESOURCE_EXHAUSTED",
}  # fmt: skip
_OF_JOBS: Final = {
    "not_found": 404, "in_progress": 409, "idempotency_mismatch": 409, "quota_exceeded": 429, "too_many_jobs": 429,
}  # fmt: skip


class ApiError(Exception):
    """An answer other than success."""

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, headers or {}


def not_found(what: str, id: str) -> ApiError:
    return ApiError(404, "not_found", f"no {what} {id!r}")


def answer(
    path: str, status: int, code: str, message: str, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """The envelope of the door that has the path. Clients try again only where that can help."""
    again = status in (429, 503) and code not in ("quota_exceeded",)
    told: dict[str, Any]
    if path.startswith("/v1beta"):
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": code, "domain": "phonofilm"}
        told = {"code": status, "message": message, "status": _GOOGLE.get(status, "INTERNAL"), "details": [info]}
    else:
        told = {"message": message, "type": _TYPES.get(status, "invalid_request_error"), "param": param, "code": code}
    extra = {
        "x-should-retry": "true" if again else "false",
        **({"retry-after": "5"} if again else {}),
        **(headers or {}),
    }
    return JSONResponse({"error": told}, status, extra)


def install(app: FastAPI) -> None:
    """Every error of the app in the envelope."""

    @app.exception_handler(ApiError)
    async def _api(request: Request, error: ApiError) -> JSONResponse:
        return answer(request.url.path, error.status, error.code, str(error), error.param, error.headers)

    @app.exception_handler(JobError)
    async def _job(request: Request, error: JobError) -> JSONResponse:
        return answer(request.url.path, _OF_JOBS.get(error.code, 400), error.code, str(error), _param(str(error)))

    @app.exception_handler(PhonofilmError)
    async def _ours(request: Request, error: PhonofilmError) -> JSONResponse:
        path = request.url.path
        if isinstance(error, InputError):
            return answer(path, 400, "invalid_value", str(error), error.field or _param(str(error)))
        return answer(path, 507 if isinstance(error, OutputError) else 500, "server_error", str(error))

    @app.exception_handler(RequestValidationError)
    async def _shape(request: Request, error: RequestValidationError) -> JSONResponse:
        first: dict[str, Any] = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or None
        return answer(request.url.path, 400, "invalid_value", f"{place or 'the request'}: {first['msg']}", place)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["allow"] = ", ".join(_allowed(request))
        return answer(request.url.path, error.status_code, code, str(error.detail), None, headers)

    async def _away(request: Request, error: Exception) -> JSONResponse:
        log.warning("the database is away: %s", error)
        return answer(request.url.path, 503, "unavailable", "the database is away; try again")

    for kind in AWAY:
        app.add_exception_handler(kind, _away)

    @app.exception_handler(OSError)
    async def _full(request: Request, error: OSError) -> JSONResponse:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise error
        log.error("no room is left: %s", error)
        return answer(request.url.path, 507, "no_space", "there is no room left here to take that in")


def _allowed(request: Request) -> list[str]:
    """The methods that a path has; Starlette names those of the first route that fits alone."""
    fitting = [route for route in _routes(request.app.routes) if route.path_regex.match(request.url.path)]
    return sorted({method for route in fitting if route.path == fitting[0].path for method in route.methods or ()})


def _routes(of: Iterable[BaseRoute]) -> Iterator[Route]:
    """All routes, also those of included routers."""
    for route in of:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from _routes(inner.routes)
        elif isinstance(route, Route):
            yield route


_FIELDS: Final = (
    "prompt", "negative_prompt", "model", "seconds", "size", "seed", "steps", "guidance", "sampler", "best_of",
    "match_guidance", "priority", "held", "name", "consent", "video", "input_reference", "last_reference",
    "audio_reference", "video_reference", "mask", "url", "event_types", "event_type",
)  # fmt: skip


def _param(message: str) -> str | None:
    """The field that a message begins with."""
    word = re.split(r"\W", message, maxsplit=1)[0]
    return word if word in _FIELDS else None
