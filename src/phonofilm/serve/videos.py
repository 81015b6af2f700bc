"""OpenAI's Videos API, all of it, and what it lacks: cancel, pause, order, events, receipt."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Final, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from phonofilm.engines import capabilities
from phonofilm.errors import InputError
from phonofilm.jobs import schema
from phonofilm.jobs.job import Job, new_id
from phonofilm.request import Condition, Role
from phonofilm.serve import content
from phonofilm.serve.access import Caller, Who
from phonofilm.serve.errors import ApiError, not_found
from phonofilm.serve.forms import BODIES, After, Given, Limit, text, whole
from phonofilm.serve.service import ID, Service
from phonofilm.serve.shapes import ERRORS, Character, Deleted, Model, ModelList, Video, VideoList, errors

EVENT: Final = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["progress", "preview", "done"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
router: Final = APIRouter(responses=ERRORS)
Variant = Literal["video", "thumbnail", "spritesheet"]
Idempotency = Annotated[str | None, Header(alias="Idempotency-Key", max_length=255)]
POLL_MS: Final = {"queued": 1000, "in_progress": 300, "completed": 1000, "failed": 1000}
EVENT_SECONDS: Final = 0.2  # between looks at a running job
QUIET_SECONDS: Final = 15.0  # after which a silent stream says that it is alive
_MEDIA: Final[dict[str, tuple[Role, tuple[Any, ...]]]] = {
    "input_reference": ("first", ("image",)),
    "last_reference": ("last", ("image",)),
    "audio_reference": ("audio", ("audio", "video")),
    "video_reference": ("video", ("video",)),
    "mask": ("mask", ("image",)),
}
"""Fields that carry media: the condition that they become, and the kinds that they may be. The first is OpenAI's."""


def service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


@router.post("/v1/videos", openapi_extra=BODIES["create"], responses=errors(409, 507))
async def create_video(request: Request, who: Who, given: Given, idempotency: Idempotency = None) -> Video:
    """Ask for a film. Multipart or JSON; media as files, `data:` URLs or, where the operator allows it, URLs."""
    return Video.of(await run_in_threadpool(_create, service(request), who, given, idempotency))


def _create(it: Service, who: Caller, given: Mapping[str, Any], idempotency: str | None) -> Job:
    if given.get("characters"):
        model = text(given, "model") or it.config.model
        able = ", ".join(capabilities(model).conditions)
        raise ApiError(400, "unsupported", f"{model} cannot use characters; it takes {able}", param="characters")
    wish = it.wish(given, _conditions(it, who, given))
    return it.add(wish, who, priority=whole(given, "priority") or 0, idempotency=idempotency)


def _conditions(it: Service, who: Caller, given: Mapping[str, Any]) -> tuple[Condition, ...]:
    """The media of a request, taken in."""
    conditions = []
    for name, (role, kinds) in _MEDIA.items():
        if given.get(name) not in (None, ""):
            conditions.append(Condition(role, digest=_take(it, who, given[name], kinds, name)))
    return tuple(conditions)


def _take(it: Service, who: Caller, value: Any, kinds: tuple[Any, ...], name: str) -> str:
    """One medium: a file, {"image_url": …}, or a URL. Raises InputError."""
    if isinstance(value, UploadFile):
        return it.uploads.take(value.file, who.owner, kinds, name)
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            raise InputError(f"{name} is not JSON") from None
    if isinstance(value, Mapping) and "file_id" in value:
        raise InputError(f"{name}: files are not kept under ids here; send the file itself, or a data: URL")
    if isinstance(value, Mapping):
        value = value.get("image_url") or value.get("url")
    if isinstance(value, Mapping):
        value = value.get("url")
    if not isinstance(value, str):
        raise InputError(f"{name} must be a file, a data: URL, or an object with image_url")
    return it.uploads.take_url(value, who.owner, kinds, name)


@router.get("/v1/videos", responses=errors(404))
def list_videos(
    request: Request,
    who: Who,
    after: After = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "desc",
) -> VideoList:
    """The caller's films, page by page."""
    jobs = service(request).store.jobs_of(who.owner, after=after, limit=limit + 1, newest_first=order == "desc")
    return VideoList.of(jobs, limit)


@router.post("/v1/videos/edits", openapi_extra=BODIES["edit"], responses=errors(404, 409, 507))
async def edit_video(request: Request, who: Who, given: Given, idempotency: Idempotency = None) -> Video:
    """A film with the motion of a given one, and another prompt; its sound is made anew.

    With a `mask`, a picture, only what is white or opaque in it is made anew; the rest of the picture stays exactly.
    """
    return Video.of(await run_in_threadpool(_change, service(request), who, given, "edit", idempotency))


@router.post("/v1/videos/extensions", openapi_extra=BODIES["extension"], responses=errors(404, 409, 507))
async def extend_video(request: Request, who: Who, given: Given, idempotency: Idempotency = None) -> Video:
    """A given film that goes on, by `seconds`."""
    return Video.of(await run_in_threadpool(_change, service(request), who, given, "extension", idempotency))


def _change(
    it: Service, who: Caller, given: Mapping[str, Any], kind: Literal["edit", "extension"], idempotency: str | None
) -> Job:
    masked = given.get("mask") not in (None, "")
    if masked and kind == "extension":
        raise InputError("mask belongs to a film that is edited, not to one that goes on")
    digest, source = _source(it, who, given)
    mask = _take(it, who, given["mask"], ("image",), "mask") if masked else None
    return it.change(kind, given, digest, source, who, idempotency, mask=mask)


def _source(it: Service, who: Caller, given: Mapping[str, Any]) -> tuple[str, Job | None]:
    """The film that `video` means: its digest among the uploads, and its job if it was made here."""
    value = given.get("video")
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            raise InputError("video is not JSON") from None
    if isinstance(value, Mapping) and isinstance(value.get("id"), str):
        job = it.completed(value["id"], who)
        return it.as_upload(job), job
    if isinstance(value, UploadFile):
        return it.uploads.take(value.file, who.owner, ("video",), "video"), None
    raise InputError('video must be a file, or {"id": "video_…"}')


@router.post("/v1/videos/characters", openapi_extra=BODIES["character"], responses=errors(404, 409, 507))
async def create_character(request: Request, who: Who, given: Given) -> Character:
    """Keep a clip under a name. `consent` says by what right, and stays with it."""
    return await run_in_threadpool(_character, service(request), who, given)


def _character(it: Service, who: Caller, given: Mapping[str, Any]) -> Character:
    name = text(given, "name") or ""
    if not 1 <= len(name.strip()) <= 100:
        raise InputError(f"name must have 1 to 100 characters, got {len(name)}")
    consent = text(given, "consent")
    if consent is not None and len(consent) > 2000:
        raise InputError(f"consent must be at most 2000 characters, got {len(consent)}")
    if bad := next((c for c in name + (consent or "") if c == "\0" or "\ud800" <= c <= "\udfff"), None):
        raise InputError(f"name and consent must be plain text, got the character {bad!r}")
    it.policy.check(name, who.owner)
    digest, _ = _source(it, who, given)
    row = {
        "id": new_id("char"), "owner": who.owner, "name": name.strip(), "digest": digest,
        "consent": consent, "created_at": it.now(),
    }  # fmt: skip
    with it.store.writing() as c:
        c.execute(sa.insert(schema.characters).values(row))
    return Character(id=str(row["id"]), name=name.strip(), created_at=int(it.now()))


@router.get("/v1/videos/characters/{character_id}", responses=errors(404))
def get_character(request: Request, who: Who, character_id: str) -> Character:
    """The name under which a clip was kept."""
    t = schema.characters
    if not ID.fullmatch(character_id):
        raise not_found("character", character_id)
    with service(request).store.reading() as c:
        row = c.execute(sa.select(t).where((t.c.id == character_id) & (t.c.owner == who.owner))).mappings().first()
    if row is None:
        raise not_found("character", character_id)
    return Character(id=row["id"], name=row["name"], created_at=int(row["created_at"]))


@router.get("/v1/videos/{video_id}", responses=errors(404))
def get_video(request: Request, response: Response, who: Who, video_id: str) -> Video:
    """A film as it is now; the header `openai-poll-after-ms` says when to ask again."""
    job = service(request).job(video_id, who)
    response.headers["openai-poll-after-ms"] = str(POLL_MS[job.status])
    return Video.of(job)


@router.delete("/v1/videos/{video_id}", responses=errors(404, 409, 507))
def delete_video(request: Request, who: Who, video_id: str) -> Deleted:
    """Forget a film and its files. One that runs is stopped, and has to be deleted again when it has stopped."""
    it = service(request)
    it.job(video_id, who)
    it.delete(video_id)
    return Deleted(id=video_id)


@router.get(
    "/v1/videos/{video_id}/content",
    response_class=Response,
    responses={**errors(404, 409, 416), **content.responses("mp4", "png", "jpg")},
)
@router.head("/v1/videos/{video_id}/content", response_class=Response, include_in_schema=False)
def get_content(request: Request, who: Who, video_id: str, variant: Variant = "video") -> Response:
    """The film, its thumbnail or its contact sheet; ranges are served."""
    it = service(request)
    job = it.completed(video_id, who)
    if variant not in job.files:
        raise ApiError(404, "not_found", f"{video_id} has no {variant}", param="variant")
    ending = job.files[variant].rpartition(".")[2]
    return content.send(request, it.storage, job.files[variant], f"{video_id}.{ending}")


@router.post("/v1/videos/{video_id}/remix", openapi_extra=BODIES["remix"], responses=errors(404, 409))
async def remix_video(
    request: Request, who: Who, video_id: str, given: Given, idempotency: Idempotency = None
) -> Video:
    """The same noise, size and length under another prompt, so that what the prompt leaves open stays."""
    return Video.of(await run_in_threadpool(_remix, service(request), who, video_id, given, idempotency))


def _remix(it: Service, who: Caller, id: str, given: Mapping[str, Any], idempotency: str | None) -> Job:
    return it.remix(id, text(given, "prompt") or "", who, idempotency)


@router.post("/v1/videos/{video_id}/cancel", responses=errors(404))
def cancel_video(request: Request, who: Who, video_id: str) -> Video:
    """Addition: stop a film that is queued (at once) or being made (within a step). It ends as failed, `cancelled`."""
    it = service(request)
    it.job(video_id, who)
    return Video.of(it.store.cancel(video_id) or it.job(video_id, who))


@router.post("/v1/videos/{video_id}/order", openapi_extra=BODIES["order"], responses=errors(404))
async def order_video(request: Request, who: Who, video_id: str, given: Given) -> Video:
    """Addition: pause a queued film (`held`), or move it in the queue (`priority`, -10 to 10)."""
    return Video.of(await run_in_threadpool(_order, service(request), who, video_id, given))


def _order(it: Service, who: Caller, id: str, given: Mapping[str, Any]) -> Job:
    job = it.job(id, who)
    held, priority = given.get("held"), whole(given, "priority")
    if held is not None and not isinstance(held, bool):
        raise InputError(f"held must be true or false, got {held!r}")
    if priority is not None:
        job = it.store.move(id, priority) or job
    if held is not None:
        job = it.store.hold(id, held) or job
    return job


@router.get("/v1/videos/{video_id}/receipt", responses=errors(404, 409))
def get_receipt(request: Request, who: Who, video_id: str) -> dict[str, Any]:
    """Addition: what a film cost, and how it was made."""
    job = service(request).completed(video_id, who)
    if job.receipt is None:
        raise not_found("receipt of", video_id)
    return job.receipt


@router.get(
    "/v1/videos/{video_id}/events",
    response_class=StreamingResponse,
    responses={**errors(404), 200: {"content": {"text/event-stream": {"itemSchema": EVENT}}}},
)
def watch_video(request: Request, who: Who, video_id: str) -> StreamingResponse:
    """Addition: server-sent events `progress`, `preview` (a JPEG of the running latents) and at last `done`."""
    it = service(request)
    it.job(video_id, who)
    return StreamingResponse(_events(it, who, video_id), media_type="text/event-stream")


async def _events(it: Service, who: Caller, id: str) -> AsyncIterator[str]:
    last, number, silent = "", 0, 0.0
    while not it.stopping.is_set():
        try:
            job = await run_in_threadpool(it.job, id, who)
        except ApiError:  # deleted meanwhile
            return
        told = Video.of(job).model_dump_json()
        picture = await run_in_threadpool(it.store.last_preview, id, number) if job.status == "in_progress" else None
        if picture is not None:
            number = picture[0]
            image = base64.b64encode(picture[1]).decode()
            yield _event("preview", json.dumps({"number": number, "image": f"data:image/jpeg;base64,{image}"}))
        if not job.open:
            yield _event("done", told)
            return
        if told != last:
            yield _event("progress", told)
            last, silent = told, 0.0
        elif silent >= QUIET_SECONDS:
            yield ": still here\n\n"
            silent = 0.0
        await asyncio.sleep(EVENT_SECONDS)
        silent += EVENT_SECONDS


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"


@router.get("/v1/models")
def list_models(request: Request, _: Who) -> ModelList:
    """What can be asked for as `model`, and what each can do."""
    return ModelList(data=[_model(name) for name in service(request).config.models])


@router.get("/v1/models/{model}", responses=errors(404))
def get_model(request: Request, _: Who, model: str) -> Model:
    """What a model can do."""
    if model not in service(request).config.models:
        raise not_found("model", model)
    return _model(model)


def _model(name: str) -> Model:
    c = capabilities(name)
    return Model(
        id=name, created=1_795_305_600, owned_by="phonofilm", conditions=list(c.conditions),
        sizes=[f"{w}x{h}" for w, h in c.sizes], seconds=[*c.seconds, c.seconds_step],
    )  # fmt: skip
