"""The app: doors, errors, health, and metrics."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.routing import Route
from starlette.types import ASGIApp

from phonofilm import __version__
from phonofilm.serve import document, errors, hooks, metrics, veo, videos
from phonofilm.serve.access import Behind, Gate
from phonofilm.serve.config import Config
from phonofilm.serve.late import Late, Make
from phonofilm.serve.policy import Hook
from phonofilm.serve.service import Service


def create_app(config: Config, hook: Hook | None = None) -> FastAPI:
    """The whole server but its workers. It holds a database connection until its lifespan ends."""
    service = Service(config, hook)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        for one in late:
            await one.close()
        service.close()

    app = FastAPI(
        title="Phonofilm", version=__version__, lifespan=lifespan, redirect_slashes=False, docs_url=None,
        redoc_url=None, description="Type a sentence, get a short film whose picture and sound were made together.",
    )  # fmt: skip
    app.state.config, app.state.service, app.state.store = config, service, service.store
    errors.install(app)
    app.include_router(videos.router)
    app.include_router(veo.router)
    app.include_router(hooks.router)

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok", "version": __version__})

    @app.get("/readyz", include_in_schema=False)
    async def readyz(workers: int = 1) -> JSONResponse:
        """Ready if the database answers and so many workers are alive; those who only route calls ask for 0."""
        alive = len(await run_in_threadpool(service.store.alive))
        ready = alive >= workers
        return JSONResponse({"status": "ready" if ready else "no worker", "workers": alive}, 200 if ready else 503)

    @app.get("/metrics", include_in_schema=False)
    async def scrape() -> Response:
        return Response(await run_in_threadpool(metrics.scrape, service), media_type=metrics.CONTENT_TYPE)

    from phonofilm.studio.door import open_door

    assistants = Late(_mcp(service))
    app.router.routes.append(Route("/mcp", Behind(assistants), methods=["POST"]))
    late = [open_door(app), assistants]
    document.install(app)
    app.add_middleware(Gate, config=config)
    return app


def _mcp(service: Service) -> Make:
    @asynccontextmanager
    async def make() -> AsyncIterator[ASGIApp]:
        module = await run_in_threadpool(importlib.import_module, "phonofilm.serve.mcp")
        async with module.over_http(service) as app:
            yield app

    return make
