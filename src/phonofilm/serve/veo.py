"""Veo's door: films for Google's client, in both of its dialects.

With an API key alone (Gemini Developer API; google-genai 1 and 2) it asks below /v1beta, polls by GET, and downloads
the film by its URI. As `Client(vertexai=True, api_key=…)` (Enterprise Agent Platform; all versions, and since 3 only
this one makes films) it asks below /v1beta1/publishers/google, polls by POST, and gets the film in the answer.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from phonofilm.errors import InputError
from phonofilm.jobs.job import Job
from phonofilm.request import Condition, Role
from phonofilm.serve import content
from phonofilm.serve.access import Caller, Who
from phonofilm.serve.errors import not_found
from phonofilm.serve.forms import Given, json_body, nullable, number, numeric, text, whole
from phonofilm.serve.service import Service
from phonofilm.serve.shapes import GoogleErrorEnvelope, errors
from phonofilm.serve.uploads import unbase64

router: Final = APIRouter(responses=errors(404, 409, 507, envelope=GoogleErrorEnvelope), tags=["Veo"])
DEVELOPER: Final = "/v1beta/models/{model}"
PLATFORM: Final = "/v1beta1/publishers/google/models/{model}"
FORMATS: Final = {"1:1": "square", "9:16": "portrait", "16:9": "landscape"}
PERSONS: Final = ("allow_all", "allow_adult", "ALLOW_ALL", "ALLOW_ADULT")
_IMAGES: Final[dict[str, Role]] = {"image": "first", "lastFrame": "last"}
_CODES: Final = {"cancelled": 1, "invalid_request": 3, "timeout": 4, "out_of_memory": 8}  # google.rpc.Code; else 13


class Status(BaseModel):
    """google.rpc.Status."""

    code: int
    message: str


class Operation(BaseModel):
    """google.longrunning.Operation: `response` or `error` once it is `done`."""

    name: str
    metadata: dict[str, Any] = Field(description="stage, and progress in percent")
    done: bool
    error: Status | None = None
    response: dict[str, Any] | None = None


_TEXT: Final = {"type": "string"}
_BOOLEAN: Final = {"type": "boolean"}
_INLINE: Final = {"type": "object", "properties": {"bytesBase64Encoded": nullable(_TEXT)}}
_CLIP: Final = {
    "type": "object",
    "properties": {**dict.fromkeys(("uri", "encodedVideo", "bytesBase64Encoded"), nullable(_TEXT))},
}
_INSTANCE: Final = {
    "type": "object",
    "required": ["prompt"],
    "properties": {
        "prompt": {"type": "string", "minLength": 1, "maxLength": 2000, "pattern": r"\S"},
        **dict.fromkeys(_IMAGES, nullable(_INLINE)),
        "video": nullable(_CLIP),
    },
}
_PARAMETERS: Final = {
    "sampleCount": numeric("integer", minimum=1, maximum=1),
    "durationSeconds": numeric("number", minimum=0.25),
    "aspectRatio": nullable({"type": "string", "enum": [*FORMATS]}),
    "negativePrompt": nullable({"type": "string", "maxLength": 2000}),
    "seed": numeric("integer", minimum=0),
    "fps": numeric("number", minimum=1, maximum=240),
    "generateAudio": nullable({"type": "boolean", "enum": [True]}),
    "enhancePrompt": nullable(_BOOLEAN),
    "personGeneration": nullable({"type": "string", "enum": [*PERSONS]}),
}
_BODY: Final = json_body(
    ("instances",),
    {
        "instances": {"type": "array", "minItems": 1, "maxItems": 1, "items": _INSTANCE},
        "parameters": nullable({"type": "object", "properties": _PARAMETERS}),
    },
)


@router.post(f"{DEVELOPER}:predictLongRunning", openapi_extra=_BODY, response_model_exclude_none=True)
async def predict(request: Request, who: Who, model: str, given: Given) -> Operation:
    """Ask for a film, as a client of the Gemini Developer API does."""
    return await run_in_threadpool(_asked, request, who, model, given)


@router.get(f"{DEVELOPER}/operations/{{video_id}}", response_model_exclude_none=True)
def get_operation(request: Request, who: Who, model: str, video_id: str) -> Operation:
    """How far the film is; when it is done, the URI from which it can be downloaded."""
    job = _job(request, who, model, video_id)
    uri = f"{request.base_url}v1beta/files/{job.id.encode().hex()}:download?alt=media"
    found = {"generateVideoResponse": {"generatedSamples": [{"video": {"uri": uri}}]}}
    return _operation(job, found if job.status == "completed" else None)


@router.get(
    "/v1beta/files/{name:path}:download",
    response_class=Response,
    responses={**errors(416, envelope=GoogleErrorEnvelope), **content.responses("mp4", "png")},
)
@router.head("/v1beta/files/{name:path}:download", response_class=Response, include_in_schema=False)
def download(request: Request, who: Who, name: str) -> Response:
    """The film behind a URI. Google's client puts a whole `http://` URI behind `files/`: the end of it is the name."""
    it = _service(request)
    job = it.completed(_id(name), who)
    return content.send(request, it.storage, job.files["video"], f"{job.id}.mp4")


@router.post(f"{PLATFORM}:predictLongRunning", openapi_extra=_BODY, response_model_exclude_none=True)
async def predict_on_platform(request: Request, who: Who, model: str, given: Given) -> Operation:
    """Ask for a film, as a client of the Enterprise Agent Platform does."""
    return await run_in_threadpool(_asked, request, who, model, given, "publishers/google/")


@router.post(
    f"{PLATFORM}:fetchPredictOperation",
    openapi_extra=json_body(("operationName",), {"operationName": {"type": "string"}}),
    response_model_exclude_none=True,
)
async def fetch_operation(request: Request, who: Who, model: str, given: Given) -> Operation:
    """How far the film is; when it is done, the film itself."""
    name = text(given, "operationName") or ""
    return await run_in_threadpool(_fetched, request, who, model, name.rpartition("/operations/")[2])


def _fetched(request: Request, who: Caller, model: str, id: str) -> Operation:
    job, found = _job(request, who, model, id), None
    if job.status == "completed":
        name = job.files["video"]
        try:
            film = b"".join(_service(request).storage.read(name))
        except FileNotFoundError:
            raise content.gone() from None
        video = {"bytesBase64Encoded": base64.b64encode(film).decode(), "mimeType": content.media_type(name)}
        found = {"raiMediaFilteredCount": 0, "videos": [video]}
    return _operation(job, found, "publishers/google/")


def _asked(request: Request, who: Caller, model: str, given: Mapping[str, Any], publisher: str = "") -> Operation:
    """Take a body of `predictLongRunning` as a job. Raises InputError for all in it that would be without effect."""
    it = _service(request)
    if model not in it.config.models:
        raise not_found("model", model)
    _known(given, ("instances", "parameters"), "the body")
    instances = given.get("instances")
    parameters = {} if given.get("parameters") is None else given["parameters"]
    if not isinstance(instances, list) or len(instances) != 1 or not isinstance(instances[0], Mapping):
        raise InputError("instances must be a list of one object")
    if not isinstance(parameters, Mapping):
        raise InputError("parameters must be an object")
    instance = instances[0]
    _known(instance, ("prompt", *_IMAGES, "video"), "an instance")
    values = {"prompt": instance.get("prompt"), "model": model, **_values(parameters)}
    conditions = [
        Condition(role, digest=it.uploads.take(_bytes(instance[name], name), who.owner, ("image",), name))
        for name, role in _IMAGES.items()
        if instance.get(name) is not None
    ]
    source: Job | None = None
    if (video := instance.get("video")) is not None:
        digest, source = _clip(it, who, video)
        conditions.append(Condition("continue", digest=digest))
        if source is not None:
            values = {"size": source.request.size, **values}
    wish = it.wish(values, tuple(conditions))
    if (fps := number(parameters, "fps")) is not None:
        wish = it.checked(dataclasses.replace(wish, fps=fps))
    job = it.add(wish, who, kind="create" if video is None else "extension", source=source.id if source else None)
    return _operation(job, None, publisher)


def _values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Our names for the parameters. Raises InputError for what cannot be had."""
    _known(given, (*_PARAMETERS,), "parameters")
    if (count := whole(given, "sampleCount")) not in (None, 1):
        raise InputError(f"sampleCount must be 1, got {count}: ask again with another seed for another film")
    if given.get("generateAudio") is not None and given["generateAudio"] is not True:
        raise InputError(f"generateAudio must be true: every film here has its sound, got {given['generateAudio']!r}")
    if given.get("personGeneration") not in (None, *PERSONS):
        raise InputError(f"personGeneration must be allow_all or allow_adult, got {given['personGeneration']!r}")
    if not isinstance(given.get("enhancePrompt"), bool | None):
        raise InputError(f"enhancePrompt must be true or false, got {given['enhancePrompt']!r}")
    values = {"seconds": given.get("durationSeconds"), "seed": given.get("seed")}
    values["negative_prompt"] = given.get("negativePrompt")
    ratio = text(given, "aspectRatio")
    if ratio is not None and ratio not in FORMATS:
        raise InputError(f"aspectRatio must be one of {', '.join(FORMATS)}, got {ratio!r}")
    return values | ({"size": FORMATS[ratio]} if ratio is not None else {})


def _known(given: Mapping[str, Any], names: tuple[str, ...], what: str) -> None:
    for name, value in given.items():
        if name not in names and value is not None:
            raise InputError(f"{what} may have {', '.join(names)} here, got {name[:40]!r}")


def _bytes(value: Any, name: str) -> bytes:
    """Inline media. Raises InputError."""
    inline = value.get("inlineData") if isinstance(value, Mapping) else None
    if isinstance(inline, Mapping):
        return unbase64(inline.get("data"), name)
    for key in ("bytesBase64Encoded", "encodedVideo"):
        if isinstance(value, Mapping) and value.get(key) is not None:
            return unbase64(value[key], name)
    raise InputError(f"{name} must be an object with bytesBase64Encoded; nothing is fetched from elsewhere")


def _clip(it: Service, who: Caller, value: Any) -> tuple[str, Job | None]:
    """A film to go on with: one that was made here, by its URI, or inline."""
    uri = value.get("uri") if isinstance(value, Mapping) else None
    if isinstance(uri, str) and "files/" in uri:
        job = it.completed(_id(uri.partition("?")[0].removesuffix(":download")), who)
        return it.as_upload(job), job
    return it.uploads.take(_bytes(value, "video"), who.owner, ("video",), "video"), None


def _id(name: str) -> str:
    """The film that a file's name means. Raises ApiError 404 for names that none has."""
    name = name.rpartition("/")[2]
    try:
        return bytes.fromhex(name).decode()
    except ValueError:
        raise not_found("file", name) from None


def _job(request: Request, who: Caller, model: str, id: str) -> Job:
    job = _service(request).job(id, who)
    if job.request.model != model:
        raise not_found("operation", id)
    return job


def _operation(job: Job, response: dict[str, Any] | None, publisher: str = "") -> Operation:
    error = None
    if job.status == "failed":
        error = Status(code=_CODES.get(job.error_code or "", 13), message=job.error_message or "it failed")
    return Operation(
        name=f"{publisher}models/{job.request.model}/operations/{job.id}", done=not job.open, error=error,
        metadata={"stage": job.stage, "progress": job.progress}, response=response,
    )  # fmt: skip


def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found
