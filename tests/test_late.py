"""Apps that are made at their first request: once, again if that failed, and closed in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from phonofilm.serve.late import Late


def test_an_app_is_made_once_and_closed() -> None:
    events: list[str] = []

    @asynccontextmanager
    async def make() -> AsyncIterator[Any]:
        if not events:
            events.append("failed")
            raise OSError("not yet")
        events.append("made")
        await asyncio.sleep(0)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            events.append(scope["path"])

        yield app
        events.append("closed")

    async def nothing(*_: Any) -> None: ...

    async def live() -> None:
        late = Late(make)
        with pytest.raises(OSError, match="not yet"):
            await late({"path": "a"}, nothing, nothing)
        await asyncio.gather(*(late({"path": path}, nothing, nothing) for path in "bc"))
        await late.close()

    asyncio.run(live())
    assert events[:2] == ["failed", "made"] and set(events[2:4]) == {"b", "c"} and events[4:] == ["closed"]
    asyncio.run(Late(make).close())  # never asked for
    assert events[4:] == ["closed"]
