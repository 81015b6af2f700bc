"""OpenAI's own client against a running server: every method of `client.videos`, sync and async, without a patch."""

from __future__ import annotations

import asyncio
import base64
import inspect
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai.types import Video
from PIL import Image
from serving import running

from phonofilm.media import read

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API is scheduled:DeprecationWarning")
METHODS = {
    "create", "retrieve", "list", "delete", "download_content", "remix", "edit", "extend", "create_character",
    "get_character", "create_and_poll", "poll", "with_raw_response", "with_streaming_response",
}  # fmt: skip
FAST = {"poll_interval_ms": 100}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("server")) as url:
        yield url


class Client:
    """The sync or the async client; what the latter's methods promise is waited for."""

    def __init__(self, url: str, kind: str) -> None:
        make = openai.OpenAI if kind == "sync" else openai.AsyncOpenAI
        self.client = make(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=120)
        self.videos, self.models, self.runner = self.client.videos, self.client.models, asyncio.Runner()

    def __call__(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        result = method(*args, **options)
        return self.runner.run(_waited(result)) if inspect.isawaitable(result) else result

    def collect(self, pages: Any) -> list[Any]:
        """All items of a list, its further pages fetched by the client itself."""
        if isinstance(self.client, openai.OpenAI):
            return list(pages)

        async def collected() -> list[Any]:
            return [item async for item in pages]

        return self.runner.run(collected())

    def stream(self, *args: Any, **options: Any) -> tuple[dict[str, str], bytes]:
        """Headers and body of content that is read block by block."""
        opened = self.videos.with_streaming_response.download_content(*args, **options)
        if isinstance(self.client, openai.OpenAI):
            with opened as answer:
                return dict(answer.headers), b"".join(answer.iter_bytes(1000))

        async def streamed() -> tuple[dict[str, str], bytes]:
            async with opened as answer:
                return dict(answer.headers), b"".join([block async for block in answer.iter_bytes(1000)])

        return self.runner.run(streamed())


async def _waited(promise: Any) -> Any:
    return await promise


@pytest.fixture(scope="module", params=["sync", "async"])
def api(request: pytest.FixtureRequest, url: str) -> Iterator[Client]:
    api = Client(url, request.param)
    yield api
    api(api.client.close)
    api.runner.close()


@pytest.fixture(scope="module")
def film(api: Client) -> Video:
    """A film that is made, by the helper that waits for it."""
    more = {"extra_body": {"seed": 5, "priority": 2}, "extra_headers": {"idempotency-key": type(api.client).__name__}}
    made: Video = api(api.videos.create_and_poll, prompt="a red ball", seconds="2", size="96x160", **more, **FAST)
    once = api(api.videos.create, prompt="a red ball", seconds="2", size="96x160", **more)
    assert once.id == made.id
    return made


def png(width: int = 128, height: int = 128) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 40, 30)).save(file, "PNG")
    return file.getvalue()


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def as_field(reference: dict[str, str]) -> Any:
    """A reference in place of a file: what the client's types allow as a dict, but its code refuses before sending."""
    return (None, json.dumps(reference).encode())


def test_no_method_of_the_client_is_left_out() -> None:
    for kind in (openai.resources.Videos, openai.resources.AsyncVideos):
        assert {name for name in vars(kind) if not name.startswith("_")} == METHODS


def test_create_and_poll_brings_a_film_back(film: Video) -> None:
    assert (film.object, film.status, film.progress, film.error) == ("video", "completed", 100, None)
    assert (film.model, film.prompt, film.seconds, film.size) == ("fake", "a red ball", "2", "96x160")
    assert film.id.startswith("video_") and film.remixed_from_video_id is None
    assert (film.seed, film.priority) == (5, 2)  # type: ignore[attr-defined]
    assert film.completed_at is not None and film.expires_at is not None
    assert film.created_at <= film.completed_at < film.expires_at


def test_retrieve_and_poll_see_the_same_film(api: Client, film: Video) -> None:
    assert api(api.videos.retrieve, film.id) == film == api(api.videos.poll, film.id)
    raw = api(api.videos.with_raw_response.retrieve, film.id)
    assert int(raw.headers["openai-poll-after-ms"]) > 0 and raw.headers["x-request-id"] and raw.parse() == film


def test_content_comes_in_three_variants_also_as_streams(api: Client, film: Video, tmp_path: Path) -> None:
    whole = api(api.videos.download_content, film.id)
    assert whole.response.headers["content-type"] == "video/mp4"
    (tmp_path / "film.mp4").write_bytes(whole.content)
    clip = read(tmp_path / "film.mp4")
    assert clip.frames.shape == (32, 160, 96, 3) and clip.audio is not None
    for variant, kind in (("video", "video/mp4"), ("thumbnail", "image/jpeg"), ("spritesheet", "image/png")):
        headers, body = api.stream(film.id, variant=variant)
        assert headers["content-type"] == kind and int(headers["content-length"]) == len(body)
        assert body == api(api.videos.download_content, film.id, variant=variant).content
        if variant == "video":
            assert body == whole.content
        else:
            assert max(Image.open(io.BytesIO(body)).size) >= 160


@pytest.mark.parametrize("form", ["file", "bytes", "tuple", "data URL"])
def test_a_first_image_is_taken_in_every_form(api: Client, form: str, tmp_path: Path) -> None:
    (tmp_path / "first.png").write_bytes(png())
    with (tmp_path / "first.png").open("rb") as file:
        given = {
            "file": file,
            "bytes": png(),
            "tuple": ("first.png", png(), "image/png"),
            "data URL": as_field({"image_url": data_url(png())}),
        }[form]
        video = api(api.videos.create, prompt="a ball", input_reference=given, seconds="2", model="fake")
    assert video.status in ("queued", "in_progress") and (video.seconds, video.size) == ("2", "128x128")
    assert api(api.videos.poll, video.id, **FAST).status == "completed"
    with pytest.raises(openai.BadRequestError) as error:  # the same, but what it says it is not
        api(api.videos.create, prompt="a ball", input_reference=("first.png", b"not a picture", "image/png"))
    assert (error.value.code, error.value.param) == ("invalid_value", "input_reference")


def test_lists_go_on_by_themselves_page_after_page(api: Client, film: Video) -> None:
    new = [api(api.videos.create, prompt=f"refuse number {k}").id for k in range(5)]
    newest = [video.id for video in api.collect(api.videos.list(limit=2))]
    assert newest[:5] == new[::-1] and film.id in newest and len(set(newest)) == len(newest)
    assert [video.id for video in api.collect(api.videos.list(limit=3, order="asc"))] == newest[::-1]
    page = api(api.videos.list, limit=2, after=new[2])
    assert [video.id for video in page.data] == [new[1], new[0]] and page.has_more and page.last_id == new[0]


def test_remix_edit_and_extend_make_films_of_a_film(api: Client, film: Video) -> None:
    content = api(api.videos.download_content, film.id).content
    by_id = as_field({"id": film.id})
    by_file: Any = ("film.mp4", content, "video/mp4")
    wanted = [api(api.videos.remix, film.id, prompt="a blue ball")]
    for video in (by_id, by_file):
        wanted.append(api(api.videos.edit, prompt="a green ball", video=video))
        wanted.append(api(api.videos.extend, prompt="it stops", video=video, seconds="4"))
    made = [api(api.videos.poll, video.id, **FAST) for video in wanted]
    assert [video.status for video in made] == ["completed"] * 5
    remix, edit, extension = made[:3]
    assert (remix.remixed_from_video_id, remix.prompt, remix.size) == (film.id, "a blue ball", film.size)
    assert (edit.size, edit.seconds, edit.prompt) == (film.size, film.seconds, "a green ball")
    assert (extension.size, edit.remixed_from_video_id) == (film.size, None)


def test_characters_are_kept_from_a_clip(api: Client, film: Video) -> None:
    content = api(api.videos.download_content, film.id).content
    made = api(api.videos.create_character, name="Ada", video=("ada.mp4", content, "video/mp4"))
    assert made.name == "Ada" and made.id.startswith("char_")
    assert api(api.videos.get_character, made.id).model_dump() == made.model_dump()
    with pytest.raises(openai.NotFoundError):
        api(api.videos.get_character, "char_none")


def test_a_deleted_film_is_gone(api: Client) -> None:
    video = api(api.videos.create_and_poll, prompt="refuse", **FAST)
    assert video.status == "failed" and video.error is not None and video.error.code == "invalid_request"
    assert api(api.videos.delete, video.id).model_dump() == {
        "id": video.id, "object": "video.deleted", "deleted": True,
    }  # fmt: skip
    for method in (api.videos.retrieve, api.videos.delete, api.videos.download_content):
        with pytest.raises(openai.NotFoundError) as error:
            api(method, video.id)
        assert error.value.code == "not_found"


def test_models_say_what_they_can_do(api: Client) -> None:
    assert [model.id for model in api.collect(api.models.list())] == ["fake", "native"]
    assert api(api.models.retrieve, "fake").sizes == ["128x128", "96x160", "160x96"]
    with pytest.raises(openai.NotFoundError):
        api(api.models.retrieve, "sora-2")


def test_events_tell_of_progress_show_previews_and_end(url: str) -> None:
    with httpx2.Client(base_url=url, timeout=120) as http:
        id = http.post("/v1/videos", json={"prompt": "a ball sleep=2", "seconds": 2}).json()["id"]
        events: dict[str, list[Any]] = {}
        with http.stream("GET", f"/v1/videos/{id}/events") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            name = ""
            for line in answer.iter_lines():
                kind, _, value = line.partition(": ")
                if kind == "event":
                    name = value
                elif kind == "data":
                    events.setdefault(name, []).append(json.loads(value))
        assert set(events) == {"progress", "preview", "done"} and [e["id"] for e in events["done"]] == [id]
        assert events["done"][0]["status"] == "completed"
        steps = [event["progress"] for event in events["progress"]]
        assert steps == sorted(steps) and len(set(steps)) > 1
        numbers = [event["number"] for event in events["preview"]]
        assert numbers == sorted(set(numbers))
        head, _, body = events["preview"][-1]["image"].partition(",")
        assert head == "data:image/jpeg;base64" and Image.open(io.BytesIO(base64.b64decode(body))).size == (128, 128)


def test_a_running_film_stops_when_it_is_cancelled(url: str) -> None:
    with httpx2.Client(base_url=url, timeout=120) as http:
        id = http.post("/v1/videos", json={"prompt": "a ball sleep=8"}).json()["id"]
        with http.stream("GET", f"/v1/videos/{id}/events") as answer:
            lines = answer.iter_lines()
            assert any('"stage":"denoise"' in line for line in lines)
            told = http.post(f"/v1/videos/{id}/cancel").json()
            assert told["status"] in ("in_progress", "failed")
            deleted = http.delete(f"/v1/videos/{id}")
            assert deleted.status_code in (200, 409)
            last = [line for line in lines if line.startswith("data: ")]
        if deleted.status_code == 409:
            done = json.loads(last[-1].removeprefix("data: "))
            assert (done["status"], done["error"]["code"]) == ("failed", "cancelled")
            assert http.get(f"/v1/videos/{id}/content").json()["error"]["code"] == "not_completed"


def test_a_receipt_tells_what_a_film_cost(url: str) -> None:
    with httpx2.Client(base_url=url, timeout=120) as http:
        done = next(v for v in http.get("/v1/videos?limit=100").json()["data"] if v["status"] == "completed")
        receipt = http.get(f"/v1/videos/{done['id']}/receipt").json()
        assert receipt["total_energy_j"] > 0 and "denoise" in json.dumps(receipt)
        waiting = http.post("/v1/videos", json={"prompt": "later"}).json()["id"]
        http.post(f"/v1/videos/{waiting}/order", json={"held": True})
        assert http.get(f"/v1/videos/{waiting}/receipt").status_code in (200, 409)
