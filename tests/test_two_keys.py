"""Two keys: no call of one reaches an object of the other, at any route. A route without a row fails the test."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from serving import Doors, bearer, doors
from starlette.routing import BaseRoute

from phonofilm.jobs import keys, webhooks
from phonofilm.serve import sender

HEX = "HEX"  # stands for the name of a film's file at Veo's door
CLIP: dict[str, Any] = {"prompt": "x", "video": {"id": "ID"}}
HOOK: dict[str, Any] = {"name": "x", "url": "https://example.org/", "event_types": ["video.completed"]}
VEO = "/v1beta/models/fake"
PLATFORM = "/v1beta1/publishers/google/models/fake"
EXTENSION = {
    "instances": [{"prompt": "x", "video": {"uri": f"http://127.0.0.1/v1beta/files/{HEX}:download?alt=media"}}]
}

THEIRS: dict[str, list[tuple[str, Any]]] = {
    "GET /v1/videos": [("/v1/videos?after=ID", None)],
    "POST /v1/videos/edits": [("/v1/videos/edits", CLIP)],
    "POST /v1/videos/extensions": [("/v1/videos/extensions", CLIP)],
    "POST /v1/videos/characters": [("/v1/videos/characters", {"name": "x", "video": {"id": "ID"}})],
    "GET /v1/videos/characters/{character_id}": [("/v1/videos/characters/ID", None)],
    "GET /v1/videos/{video_id}": [("/v1/videos/ID", None)],
    "DELETE /v1/videos/{video_id}": [("/v1/videos/ID", None)],
    "GET /v1/videos/{video_id}/content": [
        (f"/v1/videos/ID/content?variant={variant}", None) for variant in ("video", "thumbnail", "spritesheet")
    ],
    "HEAD /v1/videos/{video_id}/content": [("/v1/videos/ID/content", None)],
    "POST /v1/videos/{video_id}/remix": [("/v1/videos/ID/remix", {"prompt": "x"})],
    "POST /v1/videos/{video_id}/cancel": [("/v1/videos/ID/cancel", None)],
    "POST /v1/videos/{video_id}/order": [("/v1/videos/ID/order", {"held": True, "priority": 5})],
    "GET /v1/videos/{video_id}/receipt": [("/v1/videos/ID/receipt", None)],
    "GET /v1/videos/{video_id}/events": [("/v1/videos/ID/events", None)],
    "GET /v1/webhook_endpoints": [("/v1/webhook_endpoints?after=ID", None)],
    "GET /v1/webhook_endpoints/{endpoint_id}": [("/v1/webhook_endpoints/ID", None)],
    "POST /v1/webhook_endpoints/{endpoint_id}": [("/v1/webhook_endpoints/ID", {"url": "https://example.net/"})],
    "DELETE /v1/webhook_endpoints/{endpoint_id}": [("/v1/webhook_endpoints/ID", None)],
    "POST /v1/webhook_endpoints/{endpoint_id}/rotate_secret": [("/v1/webhook_endpoints/ID/rotate_secret", {})],
    "POST /v1/webhook_endpoints/{endpoint_id}/test": [
        ("/v1/webhook_endpoints/ID/test", {"event_type": "video.failed"})
    ],
    "POST /v1beta/models/{model}:predictLongRunning": [(f"{VEO}:predictLongRunning", EXTENSION)],
    "GET /v1beta/models/{model}/operations/{video_id}": [(f"{VEO}/operations/ID", None)],
    "GET /v1beta/files/{name:path}:download": [(f"/v1beta/files/{HEX}:download?alt=media", None)],
    "HEAD /v1beta/files/{name:path}:download": [(f"/v1beta/files/{HEX}:download", None)],
    "POST /v1beta1/publishers/google/models/{model}:predictLongRunning": [
        (f"{PLATFORM}:predictLongRunning", EXTENSION)
    ],
    "POST /v1beta1/publishers/google/models/{model}:fetchPredictOperation": [
        (f"{PLATFORM}:fetchPredictOperation", {"operationName": "publishers/google/models/fake/operations/ID"})
    ],
}
"""Calls that name another's object, by route: ID stands for it, in paths and bodies. Each is answered with 404."""

NOBODYS: dict[str, tuple[str, Any]] = {
    "POST /v1/videos": ("/v1/videos", {"prompt": "x"}),
    "POST /v1/webhook_endpoints": ("/v1/webhook_endpoints", HOOK),
    "GET /v1/webhook_event_types": ("/v1/webhook_event_types", None),
    "GET /v1/models": ("/v1/models", None),
    "GET /v1/models/{model}": ("/v1/models/fake", None),
    "GET /healthz": ("/healthz", None),
    "GET /readyz": ("/readyz", None),
    "GET /metrics": ("/metrics", None),
    "GET /openapi.json": ("/openapi.json", None),
    "HEAD /openapi.json": ("/openapi.json", None),
}
"""Calls that name nobody's object; they are answered with nothing of another's."""

STUDIO = (
    "GET /", "HEAD /", "GET /assets/{path:path}", "HEAD /assets/{path:path}", "GET /static/{path:path}",
    "HEAD /static/{path:path}", "GET /theme.css", "HEAD /theme.css", "GET /favicon.ico", "POST /gradio_api/run/predict",
    "GET /gradio_api/app_id",
    "POST /studio/key", "POST /studio/media",
)  # fmt: skip
MCP = ("POST /mcp",)
ELSEWHERE = dict.fromkeys(STUDIO, "test_studio.py") | dict.fromkeys(MCP, "test_mcp.py")
"""Routes that another file tests in this way, and the file."""


def routes(of: Iterable[BaseRoute]) -> Iterator[str]:
    """Method and path of every route, also of those in routers that were included; mounted apps by their path."""
    for route in of:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from routes(inner.routes)
        else:
            for method in sorted(getattr(route, "methods", None) or ("MOUNT",)):
                yield f"{method} {getattr(route, 'path', '')}"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    with doors(tmp_path_factory.mktemp("doors"), host="0.0.0.0", webhook_hosts=("*",)) as api:
        yield api


class Ann:
    """A key with an object of each kind, in each state."""

    def __init__(self, api: Doors) -> None:
        _, text = keys.create(api.service.store, "ann")
        self.headers = {**bearer(text), "idempotency-key": "k"}
        self.ids = []
        for k in range(4):
            made = api.post("/v1/videos", json={"prompt": f"a riddle {k}"}, headers={**self.headers, **tag(k)})
            self.ids.append(made.json()["id"])
        _, running, done, failed = self.ids
        api.begin(running)
        api.film(done, b"riddle film" * 100)
        api.service.store.cancel(failed)
        character = {"name": "riddle Ada", "video": {"id": done}}
        self.ids.append(api.post("/v1/videos/characters", json=character, headers=self.headers).json()["id"])
        hook = HOOK | {"name": "riddle"}
        self.ids.append(api.post("/v1/webhook_endpoints", json=hook, headers=self.headers).json()["id"])


def tag(k: int) -> dict[str, str]:
    return {"idempotency-key": f"k{k}"}


@pytest.fixture(scope="module")
def ann(api: Doors) -> Ann:
    return Ann(api)


@pytest.fixture(scope="module")
def ben(api: Doors) -> dict[str, str]:
    return bearer(keys.create(api.service.store, "ben")[1])


def call(api: Doors, route: str, path: str, body: Any, id: str, headers: dict[str, str]) -> Any:
    def put_in(text: str) -> str:
        return text.replace("ID", id).replace(HEX, id.encode().hex())

    content = None if body is None else put_in(json.dumps(body))
    return api.request(route.partition(" ")[0], put_in(path), content=content, headers=headers)


def test_every_route_has_a_row(api: Doors) -> None:
    found = set(routes(api.app.routes))  # type: ignore[attr-defined]
    assert found == {*THEIRS, *NOBODYS, *ELSEWHERE}
    assert len(found) > 20
    for file in ELSEWHERE.values():
        assert (Path(__file__).parent / file).exists()


@pytest.mark.parametrize("route", THEIRS)
def test_what_is_anothers_does_not_exist(api: Doors, ann: Ann, ben: dict[str, str], route: str) -> None:
    def state() -> list[Any]:
        jobs = [api.service.store.get(id) for id in ann.ids]
        hers = [hook for hook in webhooks.every(api.service.store) if hook.id in ann.ids]
        return [asdict(one) for one in (*jobs, *hers) if one is not None]

    before, count = state(), len(api.get("/v1/videos", headers=ben).json()["data"])
    for path, body in THEIRS[route]:
        none = call(api, route, path, body, "video_none", ben)
        for id in ann.ids:
            answer = call(api, route, path, body, id, ben)
            assert answer.status_code == 404 == none.status_code
            same = answer.text.replace(id, "video_none").replace(id.encode().hex(), b"video_none".hex())
            assert same == none.text  # and nothing tells it from what never was
    assert state() == before and len(api.get("/v1/videos", headers=ben).json()["data"]) == count


@pytest.mark.parametrize("route", NOBODYS)
def test_what_names_nothing_shows_nothing_of_anothers(api: Doors, ann: Ann, ben: dict[str, str], route: str) -> None:
    path, body = NOBODYS[route]
    for k in range(4):
        answer = call(api, route, path, body, "", {**ben, **tag(k)})
        assert answer.status_code in (200, 503)
        assert "riddle" not in answer.text and not any(id in answer.text for id in ann.ids)


def test_the_owner_reaches_what_the_table_names(api: Doors, ann: Ann, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table's calls fail for whose they are not, and for no other reason."""
    monkeypatch.setattr(sender, "call", lambda _: (204, ""))
    done, character, hook = ann.ids[2], ann.ids[4], ann.ids[5]
    for route, calls in THEIRS.items():
        if route.startswith("DELETE"):
            continue
        for path, body in calls:
            id = character if "{character_id}" in route else hook if "webhook" in route else done
            headers = {name: value for name, value in ann.headers.items() if name == "authorization"}
            answer = call(api, route, path, body, id, headers)
            assert answer.status_code == 200, (route, answer.text)


@pytest.mark.parametrize("route", [*THEIRS, *NOBODYS])
def test_without_a_key_nothing_is_told(api: Doors, ann: Ann, route: str) -> None:
    path, body = THEIRS[route][0] if route in THEIRS else NOBODYS[route]
    status = call(api, route, path, body, ann.ids[2], {}).status_code
    assert status == 401 if "/v1" in route else status in (200, 503)


def test_lists_show_ones_own(api: Doors, ann: Ann, ben: dict[str, str]) -> None:
    mine = {video["id"] for video in api.get("/v1/videos?limit=100", headers=ann.headers).json()["data"]}
    his = {video["id"] for video in api.get("/v1/videos?limit=100", headers=ben).json()["data"]}
    assert set(ann.ids[:4]) <= mine and not mine & his
    assert api.get("/v1/videos").status_code == 401
