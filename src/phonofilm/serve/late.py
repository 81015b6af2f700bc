"""Apps that are made when they are first called, so that the server starts, and idles, without them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from starlette.types import ASGIApp, Receive, Scope, Send

Make = Callable[[], AbstractAsyncContextManager[ASGIApp]]


class Late:
    """An ASGI app that `make` opens at its first request and closes at `close`, both in one task."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._ready: asyncio.Future[ASGIApp] | None = None
        self._task: asyncio.Task[None] | None = None
        self._over = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._ready is None or (self._ready.done() and self._ready.exception()):
            self._ready = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._live(self._ready))
        app = await asyncio.shield(self._ready)
        await app(scope, receive, send)

    async def close(self) -> None:
        self._over.set()
        if self._task is not None:
            await self._task

    async def _live(self, ready: asyncio.Future[ASGIApp]) -> None:
        try:
            async with self._make() as app:
                ready.set_result(app)
                await self._over.wait()
        except Exception as error:
            if ready.done():
                raise
            ready.set_exception(error)
