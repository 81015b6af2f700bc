"""A chat assistant's door, with the client of the official SDK: over HTTP, over stdio, and over a bridge."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import httpx2
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from PIL import Image
from serving import HOST, PATIENCE, Doors, bearer, doors, running

from phonofilm.cli import main
from phonofilm.jobs import keys
from phonofilm.jobs.store import Store
from phonofilm.provenance import verify
from phonofilm.serve import command, mcp
from phonofilm.serve.service import Service

TOOLS = {"generate", "extend", "look", "list"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("server")) as url:
        yield url


def stdio(folder: Path, log: TextIO, *options: str) -> Any:
    arguments = ["-m", "phonofilm.cli", "mcp", "--model", "fake", "--data-dir", str(folder / "data"), *options]
    environment = {"PHONOFILM_HOME": str(folder / "home")}
    return stdio_client(StdioServerParameters(command=sys.executable, args=arguments, env=environment), log)


def picture(content: Any) -> Image.Image:
    (image,) = [block for block in content if block.type == "image"]
    return Image.open(io.BytesIO(base64.b64decode(image.data)))


async def talk(server: Any, **given: Any) -> tuple[dict[str, Any], list[float]]:
    """What every assistant does: list the tools, make a film, look at it, extend it. The film, and its progress."""
    told: list[float] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        assert total == 100 and message
        told.append(done)

    async with Client(server, read_timeout_seconds=PATIENCE) as client:
        listed = await client.list_tools()
        assert {tool.name for tool in listed.tools} == TOOLS
        assert all(tool.description and tool.input_schema["properties"] for tool in listed.tools)
        asked = {"prompt": "a bell rings sleep=1", "seconds": 2, "seed": 7, **given}
        made = await client.call_tool("generate", asked, progress_callback=progress)
        assert not made.is_error, made.content
        film = json.loads(made.content[0].text)
        assert (film["status"], film["seconds"], film["seed"]) == ("completed", 2, 7) and film["energy_j"] > 0
        (link,) = [block for block in made.content if block.type == "resource_link"]
        assert (link.uri, link.mime_type) == (film["film"], "video/mp4") and max(picture(made.content).size) == 320
        looked = await client.call_tool("look", {"id": film["id"]})
        assert picture(looked.content).width > 400  # the contact sheet
        longer = await client.call_tool("extend", {"id": film["id"], "prompt": "it rings on", "seconds": 2})
        assert not longer.is_error
        newest = json.loads((await client.call_tool("list", {"limit": 2})).content[0].text)
        assert [one["prompt"] for one in newest] == ["it rings on", "a bell rings sleep=1"]
        for tool, wrong in (
            ("look", {"id": "video_none"}), ("extend", {"id": "video_none", "prompt": "x"}),
            ("generate", {"prompt": ""}),
            ("generate", {"prompt": "x", "seconds": 99}), ("generate", {"prompt": "x", "image": "data:,x"}),
            ("generate", {"prompt": "x refuse"}),
        ):  # fmt: skip
            answer = await client.call_tool(tool, wrong)
            assert answer.is_error and len(answer.content[0].text) > 20, (tool, wrong)
    return film, told


def test_over_http_an_assistant_makes_films(url: str) -> None:
    film, told = asyncio.run(talk(f"{url}/mcp"))
    assert told == sorted(set(told)) and len(told) >= 3 and told[-1] == 100
    content = httpx2.get(film["film"]).content
    assert content[4:8] == b"ftyp"


def test_over_stdio_a_worker_is_started_and_the_film_is_a_file(tmp_path: Path) -> None:
    image = tmp_path / "first.png"
    Image.new("RGB", (64, 64), (20, 80, 160)).save(image)
    with (tmp_path / "log").open("w") as log:
        film, told = asyncio.run(talk(stdio(tmp_path, log), image=str(image)))
    assert len(told) >= 3 and told[-1] == 100
    assert verify(Path(film["film"].removeprefix("file://"))).status == "signed"
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_bridge_speaks_for_a_server_elsewhere(url: str, tmp_path: Path) -> None:
    image = tmp_path / "first.png"
    Image.new("RGB", (64, 64), (20, 80, 160)).save(image)
    with (tmp_path / "log").open("w") as log:
        film, told = asyncio.run(talk(stdio(tmp_path, log, "--url", url), image=str(image)))
    assert film["film"].startswith(f"{url}/v1/videos/") and told[-1] == 100


def test_tools_called_at_once_over_stdio_start_one_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[float] = []

    def keep(command: list[str], url: str, stop: threading.Event) -> None:
        started.append(time.monotonic())
        stop.wait(PATIENCE)

    def alive(store: Store) -> list[dict[str, Any]]:
        time.sleep(0.1)  # as long as a look into the database may take: all look before any starts
        return []

    async def calls(service: Service, wake: Callable[[], None]) -> None:
        await asyncio.gather(*(asyncio.to_thread(wake) for _ in range(4)))

    monkeypatch.setattr(command, "_keep_running", keep)
    monkeypatch.setattr(Store, "alive", alive)
    monkeypatch.setattr(mcp, "over_stdio", calls)
    monkeypatch.setattr(command, "_log_to_stderr", lambda: None)
    assert main(["mcp", "--model", "fake", "--data-dir", str(tmp_path)]) == 0
    assert len(started) == 1


# --- keys ---
@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    with doors(tmp_path_factory.mktemp("public"), host="0.0.0.0") as api:
        yield api


def call(api: Doors, tool: str, arguments: dict[str, Any], headers: dict[str, str]) -> Any:
    """One call, as a message of its own."""
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    accept = {"accept": "application/json, text/event-stream", **headers}
    answer = api.post("/mcp", json=message, headers=accept)
    if answer.status_code != 200:
        return answer
    data = next(line for line in answer.text.splitlines() if line.startswith("data: {"))
    return json.loads(data.removeprefix("data: "))["result"]


def test_each_key_has_films_of_its_own(public: Doors) -> None:
    ann, ben = (bearer(keys.create(public.service.store, name)[1]) for name in ("ann", "ben"))
    id = public.post("/v1/videos", json={"prompt": "a secret"}, headers=ann).json()["id"]
    public.film(id)
    assert call(public, "list", {}, {}).status_code == 401
    assert call(public, "list", {}, bearer("pf_wrong")).status_code == 401
    assert "a secret" in call(public, "list", {}, ann)["content"][0]["text"]
    assert json.loads(call(public, "list", {}, ben)["content"][0]["text"]) == []
    for tool, arguments in (("look", {"id": id}), ("extend", {"id": id, "prompt": "x"})):
        theirs = call(public, tool, arguments, ben)
        none = call(public, tool, {**arguments, "id": "video_none"}, ben)
        assert theirs["isError"] and none["isError"]
        assert theirs["content"][0]["text"].replace(id, "video_none") == none["content"][0]["text"]
    assert not call(public, "look", {"id": id}, ann)["isError"]


def test_files_of_the_server_are_no_images(public: Doors, tmp_path: Path) -> None:
    ann = bearer(keys.create(public.service.store, "ann")[1])
    image = tmp_path / "first.png"
    Image.new("RGB", (64, 64)).save(image)
    for path in (str(image), image.as_uri(), "/etc/passwd"):
        answer = call(public, "generate", {"prompt": "x", "image": path}, ann)
        assert answer["isError"] and str(tmp_path) not in answer["content"][0]["text"]
    assert public.get("/mcp", headers=ann).status_code == 405
    assert public.post("/mcp", json={}, headers={**ann, "host": "127.0.0.1"}).status_code in (400, 406)


def test_only_its_own_names_reach_a_local_server(tmp_path: Path) -> None:
    with doors(tmp_path) as api:
        for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
            assert api.post("/mcp", json={}, headers=headers).status_code == 403
        assert api.base_url == HOST
