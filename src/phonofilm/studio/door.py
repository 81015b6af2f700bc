"""The way into the studio: few routes, each behind the key where keys are needed, and nothing else of Gradio's.

Of Gradio are served: the page, its files, and calls of the page's own actions, whose arguments are plain values. Its
upload, file, queue, stream, proxy and schema routes are not reachable: media come in at a route of our own, which does
what the API does, and films go out at the API's. Gradio is imported at the first request of the page.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import AsyncIterator
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from phonofilm import __version__
from phonofilm.errors import InputError
from phonofilm.jobs import keys
from phonofilm.jobs.retention import known_upload
from phonofilm.serve.access import CALLER, COOKIE, Caller, Who, known, same_origin
from phonofilm.serve.errors import ApiError
from phonofilm.serve.late import Late
from phonofilm.serve.service import Service
from phonofilm.studio.actions import MEDIA, Actions
from phonofilm.studio.layout import FOLDER, build, theme

COOKIE_SECONDS: Final = 30 * 86_400
MOST_CALL: Final = 64 << 10  # bytes of an action's arguments
FILES: Final = ("/assets/{path:path}", "/static/{path:path}", "/theme.css")
POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; frame-ancestors 'none'; "
    "base-uri 'self'; form-action 'self'"
)
"""Content-Security-Policy: the browser itself sees to it that nothing is loaded from elsewhere."""
ICON: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#1b1a19"/>'
    '<path d="M3 3h6v10H3zM11 3h2v10h-2z" fill="#f0b25c"/></svg>'
)


def open_door(app: FastAPI) -> Late:
    """Add the studio's routes to the app; what is returned must be closed with it."""
    service: Service = app.state.service

    @contextlib.asynccontextmanager
    async def make() -> AsyncIterator[ASGIApp]:
        inner = await run_in_threadpool(_gradio, Actions(service))
        async with inner.router.lifespan_context(inner):
            yield inner

    gradio = Late(make)
    app.router.routes.append(Route("/", _Page(gradio), methods=["GET"]))
    app.router.routes.append(Route("/gradio_api/run/predict", _Calls(gradio), methods=["POST"]))
    for path in FILES:
        app.router.routes.append(Route(path, _Files(gradio), methods=["GET"]))
    app.include_router(router)
    return gradio


def _gradio(actions: Actions) -> FastAPI:
    blocks = build(actions)
    import gradio as gr

    script = (FOLDER / "studio.js").read_text(encoding="utf-8")
    outer = FastAPI(openapi_url=None)
    gr.mount_gradio_app(
        outer, blocks, "/", footer_links=[], run_history=False, show_error=False, ssr_mode=False,
        enable_monitoring=False, pwa=False, mcp_server=False, theme=theme(), css_paths=[FOLDER / "studio.css"],
        head=f"<script>{script}</script>",
    )  # fmt: skip
    return outer


class _Files:
    """Files of Gradio's own, behind the key because nobody else needs them."""

    def __init__(self, gradio: Late) -> None:
        self.gradio = gradio

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await known(Request(scope, receive))
        await self.gradio(_plain(scope), receive, send)


class _Page(_Files):
    """The page for those who may see it, and the form for a key for all others."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            await known(request)
        except ApiError as error:
            await _key_form(str(error) if request.cookies.get(COOKIE) else "")(scope, receive, send)
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = {
                    "content-security-policy": POLICY,
                    "referrer-policy": "same-origin",
                    "cache-control": "no-store",
                }
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in extra.items())]
            await send(message)

        await self.gradio({**_plain(scope), "query_string": b""}, receive, guarded)  # without Gradio's deep links


class _Calls(_Files):
    """Actions of the page: by whom they are called is known, and their arguments can name no files and no URLs."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        who = await known(request)
        body = json.dumps(await _checked(request, who)).encode()
        sent = False

        async def again() -> Any:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        headers = [(k, v) for k, v in scope["headers"] if k != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self.gradio({**_plain(scope), "headers": headers, CALLER: who}, again, send)


async def _checked(request: Request, who: Caller) -> dict[str, Any]:
    """The body of a call, if it holds nothing but plain values; its session is one of the caller's own."""
    content = b""
    async for block in request.stream():
        content += block
        if len(content) > MOST_CALL:
            raise ApiError(413, "too_large", f"a call may have at most {MOST_CALL} bytes")
    try:
        body = json.loads(content)
        data, event = body["data"], body.get("event_data")
        told = event.values() if isinstance(event, dict) else [event]
        flat = isinstance(data, list) and all(isinstance(x, str | int | float | None) for x in (*data, *told))
        number, session = int(body["fn_index"]), str(body.get("session_hash"))[:64]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError("this is no call of the studio") from None
    if not flat:
        raise InputError("a call of the studio takes plain values alone")
    return {
        "data": data, "event_data": event, "fn_index": number, "trigger_id": body.get("trigger_id"),
        "session_hash": f"{who.owner}.{session}",
    }  # fmt: skip


def _plain(scope: Scope) -> dict[str, Any]:
    """The scope without what the outer app's routing has put into it."""
    return {k: v for k, v in scope.items() if k not in ("app", "router", "endpoint", "route", "path_params", "state")}


router: Final = APIRouter(include_in_schema=False)


@router.get("/gradio_api/app_id")
def there() -> dict[str, str]:
    """What pages ask while the server is away; once it answers, they load themselves again."""
    return {"app_id": __version__}


@router.get("/favicon.ico")
def icon() -> Response:
    return Response(ICON, media_type="image/svg+xml", headers={"cache-control": "max-age=86400"})


@router.post("/studio/media")
async def take(request: Request, who: Who, place: str) -> JSONResponse:
    """Take a file in, the body as it is, for a place of the form: its digest and kind."""
    if place not in MEDIA:
        raise InputError(f"place must be one of {', '.join(MEDIA)}, got {place[:40]!r}")
    it: Service = request.app.state.service
    with tempfile.TemporaryFile(prefix="phonofilm.") as file:
        async for block in request.stream():
            file.write(block)
        file.seek(0)
        digest = await run_in_threadpool(it.uploads.take, file, who.owner, MEDIA[place], place)
    kind = await run_in_threadpool(known_upload, it.store, who.owner, digest)
    return JSONResponse({"digest": digest, "kind": kind})


@router.post("/studio/key")
async def enter(request: Request) -> Response:
    """Keep a key in a cookie that scripts cannot read and other sites cannot send; an empty one is forgotten."""
    if not same_origin(request):
        raise ApiError(403, "forbidden_origin", "a key is entered on this server's own page")
    text = str((await request.form(max_files=0, max_fields=4)).get("key") or "").strip()
    if text and await run_in_threadpool(keys.find, request.app.state.store, text) is None:
        return _key_form("that key is not known here")
    answer = RedirectResponse("/", 303)
    secure = request.url.scheme == "https"
    if text:
        answer.set_cookie(COOKIE, text, COOKIE_SECONDS, httponly=True, samesite="strict", secure=secure)
    else:
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=secure)
    return answer


def _key_form(problem: str) -> HTMLResponse:
    """A page that has nothing on it but the form for a key."""
    page = (FOLDER / "key.html").read_text(encoding="utf-8").replace("{problem}", problem)
    headers = {"content-security-policy": POLICY, "cache-control": "no-store"}
    answer = HTMLResponse(page, 401, headers)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
