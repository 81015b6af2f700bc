"""The app: doors, errors, health, and metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from phonofilm import __version__
from phonofilm.serve import errors, metrics, videos
from phonofilm.serve.access import Gate
from phonofilm.serve.config import Config
from phonofilm.serve.policy import Hook
from phonofilm.serve.service import Service


def create_app(config: Config, hook: Hook | None = None) -> FastAPI:
    """The whole server but its workers. It holds a database connection until its lifespan ends."""
    service = Service(config, hook)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="Phonofilm", version=__version__, lifespan=lifespan, redirect_slashes=False, docs_url=None,
        redoc_url=None, description="Type a sentence, get a short film whose picture and sound were made together.",
    )  # fmt: skip
    app.state.config, app.state.service, app.state.store = config, service, service.store
    errors.install(app)
    app.include_router(videos.router)

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok", "version": __version__})

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> JSONResponse:
        """Ready if the database answers and a worker is alive."""
        workers = len(await run_in_threadpool(service.store.alive))
        return JSONResponse(
            {"status": "ready" if workers else "no worker", "workers": workers}, 200 if workers else 503
        )

    @app.get("/metrics", include_in_schema=False)
    async def scrape() -> Response:
        return Response(await run_in_threadpool(metrics.scrape, service), media_type=metrics.CONTENT_TYPE)

    app.add_middleware(Gate, config=config)
    return app
