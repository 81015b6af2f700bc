"""A chat assistant's door: an MCP server (modelcontextprotocol.io) over HTTP, or over stdio.

Over HTTP each call stands alone: no sessions that a restart could lose, or that another key could take over.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final

from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.types import ContentBlock, ImageContent, ResourceLink, TextContent, ToolAnnotations
from pydantic import Field
from starlette.types import ASGIApp

from phonofilm import __version__
from phonofilm.errors import InputError, PhonofilmError
from phonofilm.jobs import Job
from phonofilm.jobs.job import LOCAL
from phonofilm.jobs.store import Limits
from phonofilm.request import Condition
from phonofilm.serve.access import CALLER, Caller
from phonofilm.serve.content import TYPES
from phonofilm.serve.errors import ApiError
from phonofilm.serve.service import Service

WAIT_SECONDS: Final = 240.0  # for a film; then the call ends, and the film goes on
LOOK_SECONDS: Final = 0.25
ABOUT: Final = (
    "Makes short films with sound from a sentence. Films take seconds to minutes: `generate` and `extend` wait and"
    " report progress; if they end before the film does, `look` at it later by its id. The seed makes a film again."
)
Prompt = Annotated[str, Field(description="what is seen and heard, one plain sentence", max_length=2000)]
Seconds = Annotated[float, Field(description="length in seconds")]
FilmId = Annotated[str, Field(description="the id of a film, video_…")]


class Desk:
    """What the tools need to know of where they run. here: on the caller's own machine, over stdio.

    wake: called before work is asked for, to see that a worker lives.
    """

    def __init__(self, service: Service, *, here: bool = False, wake: Callable[[], None] = lambda: None) -> None:
        self.it, self.here, self.wake = service, here, wake

    def who(self, ctx: Context) -> Caller:
        if self.here:
            return Caller(LOCAL, Limits(), None)
        request: Any = ctx.request_context.request
        who: Caller = request.scope[CALLER]
        return who

    def place(self, ctx: Context, job: Job) -> str:
        """Where a film can be had: a file of this machine, or the address at which the caller's key opens it."""
        if self.here:
            file = self.it.storage.file(job.files["video"])
            return file.resolve().as_uri() if file is not None else f"{self.it.config.storage}/{job.files['video']}"
        request: Any = ctx.request_context.request
        return f"{str(request.base_url).rstrip('/')}/v1/videos/{job.id}/content"

    def told(self, ctx: Context, job: Job) -> dict[str, Any]:
        """What an assistant is told of a film."""
        wish = job.request
        told: dict[str, Any] = {
            "id": job.id, "status": job.status, "prompt": wish.prompt, "seconds": wish.seconds, "size": wish.size,
            "seed": wish.seed, "model": wish.model,
        }  # fmt: skip
        if job.open:
            told |= {"stage": job.stage, "progress": job.progress}
        if job.status == "completed":
            told |= {"film": self.place(ctx, job), "energy_j": (job.receipt or {}).get("total_energy_j")}
        if job.error_code:
            told["error"] = {"code": job.error_code, "message": job.error_message}
        return told | ({"notes": job.notes} if job.notes else {})

    def content(self, ctx: Context, job: Job, picture: str) -> list[ContentBlock]:
        """The same as content: facts, and for a finished film a link and one of its pictures."""
        blocks: list[ContentBlock] = [TextContent(type="text", text=json.dumps(self.told(ctx, job), indent=1))]
        if job.status == "completed":
            ending = job.files["video"].rpartition(".")[2]
            name, kind = f"{job.id}.{ending}", TYPES.get(ending)
            blocks.append(ResourceLink(type="resource_link", uri=self.place(ctx, job), name=name, mime_type=kind))
            if picture in job.files:
                data = base64.b64encode(b"".join(self.it.storage.read(job.files[picture]))).decode()
                shown = TYPES[job.files[picture].rpartition(".")[2]]
                blocks.append(ImageContent(type="image", data=data, mime_type=shown))
        return blocks

    async def finish(self, ctx: Context, job: Job) -> list[ContentBlock]:
        """Wait for a film, and report how far it is."""
        who, end, last = self.who(ctx), asyncio.get_running_loop().time() + WAIT_SECONDS, -1
        while job.open and asyncio.get_running_loop().time() < end:
            if job.progress > last:
                await ctx.report_progress(job.progress, 100, "waiting" if job.status == "queued" else job.stage)
                last = job.progress
            await asyncio.sleep(LOOK_SECONDS)
            job = await asyncio.to_thread(self.it.job, job.id, who)
        if job.status == "failed":
            raise ToolError(f"{job.id}: {job.error_message} ({job.error_code})")
        await ctx.report_progress(100 if job.status == "completed" else max(last, 0) + 0.5, 100, job.stage)
        return await asyncio.to_thread(self.content, ctx, job, "thumbnail")

    def image(self, who: Caller, image: str | None) -> tuple[Condition, ...]:
        """The first frame, from a data: URL, or here from a file."""
        if not image:
            return ()
        if self.here and not image.startswith(("data:", "https:")):
            with Path(image).expanduser().open("rb") as file:
                digest = self.it.uploads.take(file, who.owner, ("image",), "image")
        else:
            digest = self.it.uploads.take_url(image, who.owner, ("image",), "image")
        return (Condition("first", digest=digest),)


def build(desk: Desk) -> MCPServer:
    """The server with its tools."""
    server: MCPServer = MCPServer("phonofilm", version=__version__, instructions=ABOUT, log_level="WARNING")
    it = desk.it

    async def ask(work: Callable[[], Job]) -> Job:
        try:
            await asyncio.to_thread(desk.wake)
            return await asyncio.to_thread(work)
        except (PhonofilmError, ApiError) as error:
            raise ToolError(str(error)) from None
        except OSError as error:
            raise ToolError(f"the file cannot be read: {error.strerror}") from None

    reading, making = ToolAnnotations(read_only_hint=True), ToolAnnotations(destructive_hint=False)

    @server.tool(title="Make a film", annotations=making, structured_output=False)
    async def generate(
        ctx: Context,
        prompt: Prompt,
        seconds: Seconds = 3.0,
        size: Annotated[str, Field(description="square, portrait or landscape")] = "square",
        seed: Annotated[int | None, Field(description="the same seed makes the same film; left out: any")] = None,
        image: Annotated[
            str | None, Field(description="the first frame: a data: URL, or over stdio the path of a file")
        ] = None,
    ) -> list[ContentBlock]:
        """Make a short film with sound from a sentence, and wait for it; returns its id, a link and a thumbnail."""
        who = desk.who(ctx)
        given = {
            "prompt": prompt,
            "seconds": seconds,
            "size": size,
            "seed": random.randrange(10**6) if seed is None else seed,
        }
        return await desk.finish(ctx, await ask(lambda: it.add(it.wish(given, desk.image(who, image)), who)))

    @server.tool(title="Extend a film", annotations=making, structured_output=False)
    async def extend(ctx: Context, id: FilmId, prompt: Prompt, seconds: Seconds = 3.0) -> list[ContentBlock]:
        """Go on with a film that was made here: the new one holds both. Waits for it as `generate` does."""
        who = desk.who(ctx)

        def work() -> Job:
            source = it.completed(id, who)
            given = {"prompt": prompt, "seconds": seconds}
            return it.change("extension", given, it.as_upload(source), source, who)

        return await desk.finish(ctx, await ask(work))

    @server.tool(title="Look at a film", annotations=reading, structured_output=False)
    async def look(ctx: Context, id: FilmId) -> list[ContentBlock]:
        """How far a film is; of a finished one the contact sheet too: its frames over waveform and spectrogram."""
        who = desk.who(ctx)
        job = await ask(lambda: it.job(id, who))
        return await asyncio.to_thread(desk.content, ctx, job, "spritesheet")

    @server.tool(name="list", title="List films", annotations=reading, structured_output=False)
    async def newest(ctx: Context, limit: Annotated[int, Field(ge=1, le=50)] = 10) -> str:
        """The newest films, made and being made."""
        jobs = await asyncio.to_thread(it.store.jobs_of, desk.who(ctx).owner, limit=limit)
        return json.dumps([desk.told(ctx, job) for job in jobs], indent=1)

    return server


@asynccontextmanager
async def over_http(service: Service) -> AsyncIterator[ASGIApp]:
    """The server as an ASGI app; Host, Origin and keys are checked before it."""
    server = build(Desk(service))
    server.streamable_http_app(
        stateless_http=True, max_request_body_size=service.config.upload_bytes,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )  # fmt: skip
    async with server.session_manager.run():
        yield server.session_manager.handle_request


async def over_stdio(service: Service, wake: Callable[[], None]) -> None:
    """Serve the one who started this process."""
    await build(Desk(service, here=True, wake=wake)).run_stdio_async()


async def bridge(url: str, key: str | None) -> None:
    """Serve the one who started this process with the tools of a server elsewhere."""
    headers = {"authorization": f"Bearer {key}"} if key else None
    async with create_mcp_http_client(headers=headers) as http:
        transport = streamable_http_client(f"{url.rstrip('/')}/mcp", http_client=http)
        async with Client(transport) as there:

            async def tools(_: Any, __: Any) -> Any:
                return await there.list_tools()

            async def call(ctx: Any, asked: Any) -> Any:
                async def report(progress: float, total: float | None, message: str | None) -> None:
                    await ctx.session.report_progress(progress, total, message)

                given = dict(asked.arguments or {})
                if isinstance(image := given.get("image"), str) and not image.startswith(("data:", "https:")):
                    given["image"] = await asyncio.to_thread(_data_url, image)
                return await there.call_tool(asked.name, given, progress_callback=report)

            server: Server[Any] = Server(
                "phonofilm", version=__version__, instructions=ABOUT, on_list_tools=tools, on_call_tool=call
            )
            async with stdio_server() as (read, write):
                await server.run(read, write, server.create_initialization_options())


def _data_url(path: str) -> str:
    """An image file of this machine as a data: URL. Raises InputError."""
    from phonofilm.media.formats import IMAGES, sniff

    kind = sniff(Path(path).expanduser())
    if kind not in IMAGES:
        raise InputError(f"image must be {', '.join(IMAGES)}, got {kind}")
    data = base64.b64encode(Path(path).expanduser().read_bytes()).decode()
    return f"data:image/{kind.lower()};base64,{data}"
