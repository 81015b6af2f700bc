"""What goes over the wire, in the shapes of OpenAI's Videos API, with our additions marked."""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import BaseModel, Field

from phonofilm.jobs.job import Job
from phonofilm.jobs.webhooks import Hook


class VideoError(BaseModel):
    code: str
    message: str


class Video(BaseModel):
    """A film, made or being made. Times are whole seconds since 1970."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int = Field(ge=0, le=100)
    created_at: int
    completed_at: int | None = None
    expires_at: int | None = None
    prompt: str
    seconds: str
    size: str
    remixed_from_video_id: str | None = None
    error: VideoError | None = None
    stage: str = Field(description="addition: what is being done")
    seed: int = Field(description="addition: the same seed and request make the same film")
    held: bool = Field(default=False, description="addition: paused while queued")
    priority: int = Field(default=0, description="addition: -10 (late) to 10 (early)")
    notes: list[str] = Field(default_factory=list, description="addition: remarks of the engine")

    @classmethod
    def of(cls, job: Job) -> Video:
        wish = job.request
        width, height = wish.pixels
        seconds = wish.seconds
        if job.kind == "extension" and job.receipt is not None:
            seconds = job.receipt.get("film_seconds", seconds)  # with what it goes on from
        error = VideoError(code=job.error_code, message=job.error_message or "") if job.error_code else None
        return cls(
            id=job.id, model=wish.model, status=job.status, progress=job.progress, created_at=int(job.created_at),
            completed_at=None if job.completed_at is None else int(job.completed_at),
            expires_at=None if job.expires_at is None else int(job.expires_at), prompt=wish.prompt,
            seconds=f"{seconds:g}", size=f"{width}x{height}",
            remixed_from_video_id=job.source if job.kind == "remix" else None, error=error, stage=job.stage,
            seed=wish.seed, held=job.held, priority=job.priority, notes=job.notes,
        )  # fmt: skip


class VideoList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Video]
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, jobs: list[Job], limit: int) -> VideoList:
        """A page of at most `limit` of the jobs, which may be one more."""
        data = [Video.of(job) for job in jobs[:limit]]
        ends = (data[0].id, data[-1].id) if data else (None, None)
        return cls(data=data, has_more=len(jobs) > limit, first_id=ends[0], last_id=ends[1])


class Deleted(BaseModel):
    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class Character(BaseModel):
    id: str
    object: Literal["character"] = "character"
    name: str
    created_at: int


class Endpoint(BaseModel):
    """A webhook, as OpenAI shows it."""

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    name: str
    url: str
    event_types: list[str]
    created_at: int
    updated_at: int
    signing_secret_hint: str

    @classmethod
    def of(cls, hook: Hook, **more: Any) -> Self:
        """A hook as it is shown. more: fields that it does not tell."""
        told: dict[str, Any] = {
            "id": hook.id, "name": hook.name, "url": hook.url, "event_types": list(hook.types),
            "created_at": int(hook.created_at), "updated_at": int(hook.updated_at),
            "signing_secret_hint": f"whsec_…{hook.hint}",
        }  # fmt: skip
        return cls(**told, **more)


class EndpointWithSecret(Endpoint):
    signing_secret: str = Field(description="shown here alone")


class EndpointList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Endpoint]
    has_more: bool
    first_id: str | None
    last_id: str | None


class EndpointDeleted(BaseModel):
    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: Literal[True] = True


class EndpointTest(BaseModel):
    """What a receiver answered to a message that tells of nothing."""

    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    status_code: int
    success: Literal[True] = True


class EventTypes(BaseModel):
    object: Literal["list"] = "list"
    data: list[str]


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    conditions: list[str] = Field(description="addition: what may be given")
    sizes: list[str] = Field(description="addition: WIDTHxHEIGHT in pixels")
    seconds: list[float] = Field(description="addition: shortest, longest, step")


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    error: ErrorBody


class GoogleErrorBody(BaseModel):
    code: int
    message: str
    status: str
    details: list[dict[str, str]] = Field(description="an ErrorInfo, whose reason is this server's own code")


class GoogleErrorEnvelope(BaseModel):
    error: GoogleErrorBody


_MEANINGS: Final = {
    400: "the request is not possible",
    401: "no key, or a wrong one",
    403: "not from this place",
    404: "there is no such thing, or it is somebody else's",
    409: "it is not in a state for that",
    413: "larger than is taken",
    416: "no such part of it",
    429: "too many requests, or beyond the quota",
    500: "something went wrong here",
    507: "no room to store it",
}
_ALWAYS: Final = (400, 401, 403, 413, 429, 500)  # what any call may be answered with


def errors(*statuses: int, envelope: type[BaseModel] = ErrorEnvelope) -> dict[int | str, dict[str, Any]]:
    """The answers of an operation that are errors, for the OpenAPI document: those of any, and `statuses`."""
    every = sorted({*_ALWAYS, *statuses})
    return {status: {"model": envelope, "description": _MEANINGS[status]} for status in every}


ERRORS: Final = errors()
