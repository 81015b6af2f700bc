"""Veo's door with Google's own client, in both of its dialects, without a patch.

As a client of the Enterprise Agent Platform it does all by itself. As one of the Gemini Developer API it has forgotten,
with version 3, how to ask for a film: the request that versions 1 and 2 send is sent by hand then, and it does the
rest.
"""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import errors, types
from PIL import Image
from serving import HOST, Doors, doors, running

from phonofilm.jobs.job import Job
from phonofilm.media import read

VERSION = int(genai.__version__.partition(".")[0])
ENDED = [("cancelled", 1), ("invalid_request", 3), ("timeout", 4), ("out_of_memory", 8), ("generation_failed", 13)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    with doors(tmp_path_factory.mktemp("doors")) as api:
        yield api


def platform(url: str, **options: Any) -> genai.Client:
    return genai.Client(vertexai=True, api_key="any", http_options=types.HttpOptions(base_url=url, **options))


def developer(url: str) -> genai.Client:
    return genai.Client(api_key="any", http_options=types.HttpOptions(base_url=url, api_version="v1beta"))


def image(width: int = 64, height: int = 64) -> types.Image:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (20, 140, 30)).save(file, "PNG")
    return types.Image(image_bytes=file.getvalue(), mime_type="image/png")


def asked(client: genai.Client, url: str, source: types.GenerateVideosSource, **config: Any) -> Any:
    """The operation that a client of the Developer API begins."""
    if VERSION < 3:
        return client.models.generate_videos(
            model="fake", source=source, config=types.GenerateVideosConfig(**config) if config else None
        )
    instance: dict[str, Any] = {"prompt": source.prompt}
    if source.image is not None and source.image.image_bytes is not None:
        inline = base64.b64encode(source.image.image_bytes).decode()
        instance["image"] = {"bytesBase64Encoded": inline, "mimeType": source.image.mime_type}
    if source.video is not None:
        instance["video"] = {"uri": source.video.uri}
    parameters = {"durationSeconds": config["duration_seconds"]} if config else {}
    body = {"instances": [instance], "parameters": parameters}
    sent = httpx2.post(
        f"{url}/v1beta/models/fake:predictLongRunning", json=body, headers={"x-goog-api-key": "any"}, timeout=120
    )
    return types.GenerateVideosOperation.from_api_response(sent.raise_for_status().json())


def made(client: genai.Client, operation: Any) -> types.Video:
    """The film of an operation, once it is done."""
    while not operation.done:
        time.sleep(0.2)
        operation = client.operations.get(operation)
    assert operation.error is None
    (generated,) = operation.response.generated_videos
    video: types.Video = generated.video
    return video


def check(path: Path, seconds: float, width: int, height: int) -> None:
    clip = read(path)
    assert (len(clip.frames), clip.width, clip.height) == (16 * seconds, width, height) and clip.audio is not None


def test_a_film_from_text_on_the_platform(url: str, tmp_path: Path) -> None:
    with platform(url) as client:
        operation = client.models.generate_videos(
            model="fake",
            source=types.GenerateVideosSource(prompt="a neon cat"),
            config=types.GenerateVideosConfig(
                number_of_videos=1, duration_seconds=2, aspect_ratio="9:16", seed=7, negative_prompt="rain",
                enhance_prompt=True, generate_audio=True, person_generation="allow_all",
            ),
        )  # fmt: skip
        assert operation.name is not None
        assert operation.name.startswith("publishers/google/models/fake/operations/video_") and not operation.done
        video = made(client, operation)
        assert video.mime_type == "video/mp4"
        video.save(str(tmp_path / "film.mp4"))
        check(tmp_path / "film.mp4", 2, 96, 160)
        extended = client.models.generate_videos(
            model="fake",
            source=types.GenerateVideosSource(prompt="it stops", video=video),
            config=types.GenerateVideosConfig(aspect_ratio="9:16", duration_seconds=3),
        )
        made(client, extended).save(str(tmp_path / "more.mp4"))
        check(tmp_path / "more.mp4", 3, 96, 160)  # the fake engine makes what is new alone


def test_a_film_from_images_without_waiting(url: str, tmp_path: Path) -> None:
    async def film() -> types.Video:
        async with platform(url).aio as client:
            operation = await client.models.generate_videos(
                model="fake",
                source=types.GenerateVideosSource(prompt="a ball", image=image(300, 200)),
                config=types.GenerateVideosConfig(duration_seconds=2, last_frame=image(), aspect_ratio="16:9"),
            )
            while not operation.done:
                await asyncio.sleep(0.2)
                operation = await client.operations.get(operation)
            video: types.Video = operation.response.generated_videos[0].video  # type: ignore[union-attr, index, assignment]
            return video

    asyncio.run(film()).save(str(tmp_path / "film.mp4"))
    check(tmp_path / "film.mp4", 2, 160, 96)


def test_a_film_for_the_developer_api_is_downloaded(url: str, tmp_path: Path) -> None:
    with developer(url) as client:
        source = types.GenerateVideosSource(prompt="a ball", image=image())
        operation = asked(client, url, source, duration_seconds=2)
        assert operation.name.startswith("models/fake/operations/video_") and not operation.done
        video = made(client, operation)
        assert video.uri is not None and video.uri.startswith(f"{url}/v1beta/files/")
        content = client.files.download(file=video)
        video.save(str(tmp_path / "film.mp4"))
        check(tmp_path / "film.mp4", 2, 128, 128)
        client.files.download(file=types.GeneratedVideo(video=video), destination=tmp_path / "again.mp4")
        plain = httpx2.get(video.uri, headers={"x-goog-api-key": "any"}, timeout=120)
        assert content == (tmp_path / "again.mp4").read_bytes() == plain.content
        assert plain.headers["content-type"] == "video/mp4"
        more = asked(client, url, types.GenerateVideosSource(prompt="more", video=types.Video(uri=video.uri)))
        assert made(client, more).uri != video.uri


def test_what_fails_is_an_operation_that_is_done(url: str) -> None:
    with platform(url) as client:
        operation = client.models.generate_videos(model="fake", source=types.GenerateVideosSource(prompt="refuse this"))
        while not operation.done:
            time.sleep(0.2)
            operation = client.operations.get(operation)
        assert operation.error == {"code": 3, "message": "the fake engine refuses this prompt"}
        assert operation.response is None


# --- without a worker ---
def post(api: Doors, instance: Any = None, parameters: Any = None, model: str = "fake", **body: Any) -> Any:
    given = {"instances": [{"prompt": "x"} if instance is None else instance], "parameters": parameters or {}, **body}
    return api.post(f"/v1beta/models/{model}:predictLongRunning", json=given)


def job(api: Doors, answer: Any) -> Job:
    found = api.service.store.get(answer.json()["name"].rpartition("/")[2])
    assert found is not None
    return found


def test_what_is_asked_becomes_one_request(api: Doors) -> None:
    inline = {"bytesBase64Encoded": base64.b64encode(image().image_bytes or b"").decode(), "mimeType": "image/png"}
    given = {
        "sampleCount": 1, "durationSeconds": 4, "aspectRatio": "16:9", "negativePrompt": "rain", "seed": 9, "fps": 16,
        "generateAudio": True, "enhancePrompt": True, "personGeneration": "allow_adult", "resolution": None,
    }  # fmt: skip
    wish = job(api, post(api, {"prompt": "a ball", "image": inline, "lastFrame": inline}, given)).request
    assert (wish.prompt, wish.seconds, wish.size, wish.negative_prompt) == ("a ball", 4, "landscape", "rain")
    assert (wish.seed, wish.fps, wish.model) == (9, 16, "fake")
    assert [condition.role for condition in wish.conditions] == ["first", "last"]
    assert len({condition.digest for condition in wish.conditions}) == 1
    for ratio, size in (("1:1", "square"), ("9:16", "portrait")):
        assert job(api, post(api, None, {"aspectRatio": ratio})).request.size == size
    data = {"inlineData": {"data": inline["bytesBase64Encoded"], "mimeType": "image/png"}}
    assert job(api, post(api, {"prompt": "x", "image": data})).request.conditions[0].role == "first"


WRONG = [
    ({}, {}, "prompt"),
    ({"prompt": "x", "referenceImages": []}, {}, "referenceImages"),
    ({"prompt": "x", "image": {"gcsUri": "gs://b/i.png"}}, {}, "image"),
    ({"prompt": "x", "image": {"bytesBase64Encoded": "%"}}, {}, "image must be base64"),
    ({"prompt": "x", "lastFrame": {"bytesBase64Encoded": "bm9uZQ=="}}, {}, "lastFrame"),
    ({"prompt": "x", "image": "x"}, {}, "image"),
    ({"prompt": "x", "video": {"uri": "gs://b/v.mp4"}}, {}, "video"),
    ({"prompt": "x"}, {"sampleCount": 2}, "sampleCount must be 1, got 2"),
    ({"prompt": "x"}, {"durationSeconds": 8}, "2 to 4 seconds"),
    ({"prompt": "x"}, {"aspectRatio": "21:9"}, "1:1, 9:16, 16:9"),
    ({"prompt": "x"}, {"resolution": "1080p"}, "resolution"),
    ({"prompt": "x"}, {"generateAudio": False}, "generateAudio"),
    ({"prompt": "x"}, {"personGeneration": "dont_allow"}, "personGeneration"),
    ({"prompt": "x"}, {"storageUri": "gs://b"}, "storageUri"),
    ({"prompt": "x"}, {"fps": 24}, "16 frames a second"),
    ({"prompt": "x"}, {"seed": "x"}, "seed"),
    ("x", {}, "instances"),
]


@pytest.mark.parametrize(("instance", "parameters", "told"), WRONG, ids=lambda value: str(value)[:40])
def test_what_cannot_be_done_is_named(api: Doors, instance: Any, parameters: Any, told: str) -> None:
    answer = post(api, instance, parameters)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert told in error["message"] and error["details"][0]["reason"] == "invalid_value"


def test_errors_are_googles_on_all_of_its_paths(api: Doors) -> None:
    waiting = post(api).json()["name"]
    id = waiting.rpartition("/")[2]
    file = f"/v1beta/files/{id.encode().hex()}:download"
    for answer, status, name in (
        (post(api, model="gemini"), 404, "NOT_FOUND"),
        (post(api, labels={"a": "b"}), 400, "INVALID_ARGUMENT"),
        (api.get(f"/v1beta/{waiting}x"), 404, "NOT_FOUND"),
        (api.get(f"/v1beta/models/native/operations/{id}"), 404, "NOT_FOUND"),
        (api.get("/v1beta/files/zz:download"), 404, "NOT_FOUND"),
        (api.get(file), 409, "FAILED_PRECONDITION"),
        (api.get("/v1beta/nothing"), 404, "NOT_FOUND"),
        (api.put("/v1beta/models/fake:predictLongRunning"), 405, "UNIMPLEMENTED"),
        (api.get("/v1beta/nothing", headers={"host": "evil.example"}), 403, "PERMISSION_DENIED"),
    ):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["status"]) == (status, status, name) and error["message"]
    with platform(HOST, httpx_client=api) as client, pytest.raises(errors.ClientError) as raised:
        client.models.generate_videos(
            model="fake", source=types.GenerateVideosSource(prompt="x"), config={"number_of_videos": 4}
        )
    assert (raised.value.code, raised.value.status) == (400, "INVALID_ARGUMENT")
    assert "sampleCount must be 1" in str(raised.value.message)


@pytest.mark.parametrize(("reason", "code"), ENDED)
def test_what_ended_badly_has_its_code(api: Doors, reason: str, code: int) -> None:
    name = post(api).json()["name"]
    api.service.store.fail(api.begin(name.rpartition("/")[2]), reason, "why")
    ended = api.get(f"/v1beta/{name}").json()
    assert ended["done"] and ended["error"] == {"code": code, "message": "why"} and "response" not in ended


def test_what_is_done_is_found_by_polling(api: Doors) -> None:
    name = post(api).json()["name"]
    waiting = api.get(f"/v1beta/{name}").json()
    assert waiting == {"name": name, "done": False, "metadata": {"stage": "queued", "progress": 0}}
    content = api.film(name.rpartition("/")[2])
    done = api.get(f"/v1beta/{name}").json()
    (sample,) = done["response"]["generateVideoResponse"]["generatedSamples"]
    assert done["done"] and api.get(sample["video"]["uri"]).content == content
    part = api.get(sample["video"]["uri"], headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, content[10:20])
    body = {"operationName": f"publishers/google/{name}"}
    inline = api.post("/v1beta1/publishers/google/models/fake:fetchPredictOperation", json=body).json()
    assert base64.b64decode(inline["response"]["videos"][0]["bytesBase64Encoded"]) == content
    secure = sample["video"]["uri"].replace("http://", "https://").rpartition("files/")[2]
    assert secure.partition(":")[0].isalnum() and secure.islower()  # all that the client keeps of an https:// URI
