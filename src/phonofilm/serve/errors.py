"""Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}}, and a status that fits."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from phonofilm.errors import InputError, OutputError, PhonofilmError
from phonofilm.jobs.job import JobError

_TYPES: Final = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 409: "conflict_error",
    429: "rate_limit_error", 500: "server_error", 503: "server_error", 507: "server_error",
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
    status: int, code: str, message: str, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """The envelope. Clients try again only where that can help."""
    again = status in (429, 503) and code not in ("quota_exceeded",)
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
    async def _api(_: Request, error: ApiError) -> JSONResponse:
        return answer(error.status, error.code, str(error), error.param, error.headers)

    @app.exception_handler(JobError)
    async def _job(_: Request, error: JobError) -> JSONResponse:
        return answer(_OF_JOBS.get(error.code, 400), error.code, str(error))

    @app.exception_handler(PhonofilmError)
    async def _ours(_: Request, error: PhonofilmError) -> JSONResponse:
        if isinstance(error, InputError):
            return answer(400, "invalid_value", str(error), _param(str(error)))
        return answer(507 if isinstance(error, OutputError) else 500, "server_error", str(error))

    @app.exception_handler(RequestValidationError)
    async def _shape(_: Request, error: RequestValidationError) -> JSONResponse:
        first: dict[str, Any] = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or None
        return answer(400, "invalid_value", f"{place or 'the request'}: {first['msg']}", place)

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        codes = {404: "not_found", 405: "method_not_allowed"}
        headers = dict(error.headers or {})
        return answer(
            error.status_code, codes.get(error.status_code, "invalid_request"), str(error.detail), None, headers
        )

    @app.exception_handler(Exception)
    async def _other(_: Request, __: Exception) -> JSONResponse:
        return answer(500, "server_error", "something went wrong here; it was logged under this request's id")


_FIELDS: Final = (
    "prompt", "negative_prompt", "model", "seconds", "size", "seed", "steps", "guidance", "sampler", "best_of",
    "match_guidance", "priority",
)  # fmt: skip


def _param(message: str) -> str | None:
    """The field that a message of `Request` begins with."""
    word = message.split(" ", 1)[0]
    return word if word in _FIELDS else None
