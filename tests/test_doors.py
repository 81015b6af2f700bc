"""The doors without a worker: errors, keys, limits, ranges, uploads, policy, and who may call from where."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import sqlalchemy as sa
from PIL import Image
from serving import HOST, Doors, bearer, doors

from phonofilm.jobs import keys, schema
from phonofilm.jobs.job import JobError
from phonofilm.jobs.store import Limits
from phonofilm.media import Limits as UploadLimits
from phonofilm.serve.policy import load_hook

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API is scheduled:DeprecationWarning")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """Without keys, on this machine."""
    with doors(tmp_path_factory.mktemp("doors"), upload_bytes=200_000) as api:
        yield api


@pytest.fixture
def public(tmp_path: Path) -> Iterator[Doors]:
    """Reachable from elsewhere, with keys."""
    with doors(tmp_path, host="0.0.0.0") as api:
        yield api


def png(colour: tuple[int, int, int] = (200, 40, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    return file.getvalue()


def create(api: Doors, prompt: str = "a ball", headers: dict[str, str] | None = None, **more: Any) -> str:
    answer = api.post("/v1/videos", json={"prompt": prompt, **more}, headers=headers)
    assert answer.status_code == 200, answer.text
    id: str = answer.json()["id"]
    return id


def error(answer: Any) -> tuple[int, str, str | None, str]:
    """(status, type, param, code), the envelope held to its shape."""
    body = answer.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"] and answer.headers["x-request-id"]
    return answer.status_code, body["error"]["type"], body["error"]["param"], body["error"]["code"]


# --- errors ---
INVALID = "invalid_request_error"
BODIES = [
    ({"prompt": ""}, "prompt", "invalid_value"),
    ({}, "prompt", "invalid_value"),
    ({"prompt": 5}, "prompt", "invalid_value"),
    ({"prompt": "x" * 2001}, "prompt", "invalid_value"),
    ({"prompt": "\ud800"}, "prompt", "invalid_value"),
    ({"prompt": "x", "seconds": "9"}, "seconds", "invalid_value"),
    ({"prompt": "x", "seconds": "2.1"}, "seconds", "invalid_value"),
    ({"prompt": "x", "seconds": "long"}, "seconds", "invalid_value"),
    ({"prompt": "x", "seconds": 10**400}, "seconds", "invalid_value"),
    ({"prompt": "x", "size": "1x1"}, "size", "invalid_value"),
    ({"prompt": "x", "size": "1280x720"}, "size", "invalid_value"),
    ({"prompt": "x", "model": "sora-2"}, "model", "model_not_found"),
    ({"prompt": "x", "seed": -1}, "seed", "invalid_value"),
    ({"prompt": "x", "seed": 1.5}, "seed", "invalid_value"),
    ({"prompt": "x", "seed": 2**70}, "seed", "invalid_value"),
    ({"prompt": "x", "steps": 999}, "steps", "invalid_value"),
    ({"prompt": "x", "best_of": True}, "best_of", "invalid_value"),
    ({"prompt": "x", "priority": 11}, "priority", "invalid_priority"),
    ({"prompt": "x", "input_reference": {"file_id": "file_1"}}, "input_reference", "invalid_value"),
    ({"prompt": "x", "input_reference": 5}, "input_reference", "invalid_value"),
    ({"prompt": "x", "input_reference": "data:image/png;base64,%"}, "input_reference", "invalid_value"),
    ({"prompt": "x", "input_reference": "data:image/png,abc"}, "input_reference", "invalid_value"),
    ({"prompt": "x", "input_reference": "http://127.0.0.1/a.png"}, "input_reference", "invalid_value"),
    ({"prompt": "x", "input_reference": "file:///etc/passwd"}, "input_reference", "invalid_value"),
    ({"prompt": "x", "characters": [{"id": "char_1"}]}, "characters", "unsupported"),
]


@pytest.mark.parametrize(("body", "param", "code"), BODIES, ids=lambda value: str(value)[:40])
def test_what_cannot_be_done_is_named(api: Doors, body: dict[str, Any], param: str, code: str) -> None:
    answer = api.post("/v1/videos", content=json.dumps(body))
    assert error(answer) == (400, INVALID, param, code)
    assert answer.headers["x-should-retry"] == "false"


def test_bodies_that_are_none_are_refused(api: Doors) -> None:
    for content, kind in (
        (b"{", "application/json"), (b"[1]", "application/json"), (b"\xff", "application/json"),
        (b"[" * 100_000, "application/json"), (b"nonsense", "multipart/form-data; boundary=x"),
        (b"--x\r\n", "multipart/form-data"), (b"9" * 5000, "application/json"),
    ):  # fmt: skip
        assert error(api.post("/v1/videos", content=content, headers={"content-type": kind}))[::3] == (
            400, "invalid_value",
        )  # fmt: skip
    many = {f"field{k}": "x" for k in range(100)}
    assert error(api.post("/v1/videos", data=many, files={"a": b"x"}))[0] == 400


def test_every_error_comes_as_the_clients_own_class(api: Doors) -> None:
    client = openai.OpenAI(base_url=f"{HOST}/v1", api_key="any", max_retries=2, http_client=api)
    waiting = create(api)
    cases = [
        (openai.BadRequestError, lambda: client.videos.create(prompt=" ")),
        (openai.NotFoundError, lambda: client.videos.retrieve("video_none")),
        (openai.NotFoundError, lambda: client.videos.retrieve("video_\0")),
        (openai.NotFoundError, lambda: client.videos.list(after="video_none")),
        (openai.BadRequestError, lambda: client.videos.list(limit=0)),
        (openai.ConflictError, lambda: client.videos.download_content(waiting)),
        (openai.ConflictError, lambda: client.videos.remix(waiting, prompt="x")),
        (openai.NotFoundError, lambda: client.get("/nothing", cast_to=object)),
        (openai.PermissionDeniedError, lambda: client.videos.list(extra_headers={"origin": "http://evil.example"})),
    ]
    for kind, call in cases:
        with pytest.raises(kind) as raised:
            call()
        assert raised.value.code and raised.value.type and raised.value.request_id


def test_other_errors_wear_the_envelope_too(api: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    assert error(api.put("/v1/videos")) == (405, INVALID, None, "method_not_allowed")
    assert error(api.get("/v1/nothing")) == (404, "not_found_error", None, "not_found")
    assert error(api.get("/v1/videos", params={"order": "up"})) == (400, INVALID, "order", "invalid_value")
    assert error(api.get("/v1/models/gpt")) == (404, "not_found_error", None, "not_found")
    monkeypatch.setattr(api.service.store, "jobs_of", lambda *_, **__: 1 / 0)
    assert error(api.get("/v1/videos")) == (500, "server_error", None, "server_error")
    assert "division" not in api.get("/v1/videos").text


# --- jobs ---
def test_one_idempotency_key_makes_one_film(api: Doors) -> None:
    key = {"idempotency-key": "once"}
    first = create(api, headers=key)
    assert create(api, headers=key) == first and create(api) != first
    other = api.post("/v1/videos", json={"prompt": "another"}, headers=key)
    assert error(other) == (409, "conflict_error", None, "idempotency_mismatch")
    assert error(api.post("/v1/videos", json={"prompt": "x"}, headers={"idempotency-key": "k" * 256}))[0] == 400


def test_queued_films_are_cancelled_held_moved_and_deleted(api: Doors) -> None:
    id = create(api, priority="3")
    seen = api.get(f"/v1/videos/{id}")
    assert seen.json()["priority"] == 3 and int(seen.headers["openai-poll-after-ms"]) > 0
    held = api.post(f"/v1/videos/{id}/order", json={"held": True, "priority": -2}).json()
    assert (held["held"], held["priority"], held["status"]) == (True, -2, "queued")
    assert api.post(f"/v1/videos/{id}/order", json={"held": False}).json()["held"] is False
    for body, param in (({"held": "yes"}, "held"), ({"priority": 99}, "priority"), ({"priority": "x"}, "priority")):
        assert error(api.post(f"/v1/videos/{id}/order", json=body))[2] == param
    stopped = api.post(f"/v1/videos/{id}/cancel").json()
    assert (stopped["status"], stopped["error"]["code"]) == ("failed", "cancelled")
    assert api.post(f"/v1/videos/{id}/cancel").json() == stopped  # once more changes nothing
    assert api.delete(f"/v1/videos/{id}").json() == {"id": id, "object": "video.deleted", "deleted": True}
    for path in ("", "/cancel", "/order", "/remix", "/content", "/events", "/receipt"):
        call = api.post if path in ("/cancel", "/order", "/remix") else api.get
        assert error(call(f"/v1/videos/{id}{path}"))[0] == 404


def test_a_running_film_is_stopped_before_it_is_deleted(api: Doors) -> None:
    id = create(api)
    job = api.begin(id)
    assert error(api.delete(f"/v1/videos/{id}")) == (409, "conflict_error", None, "in_progress")
    assert not api.service.store.report(job, "denoise", 5) and api.service.store.fail(job, "cancelled", "stopped")
    assert api.get(f"/v1/videos/{id}").json()["error"] == {"code": "cancelled", "message": "stopped"}
    assert api.delete(f"/v1/videos/{id}").status_code == 200


def test_events_of_what_has_ended_are_one(api: Doors) -> None:
    id = create(api)
    api.film(id)
    answer = api.get(f"/v1/videos/{id}/events")
    assert answer.text.startswith("event: done\ndata: {") and answer.text.count("event:") == 1
    assert api.get(f"/v1/videos/{id}/receipt").json()["total_energy_j"] == 1.5


def test_films_of_films_know_where_they_come_from(api: Doors) -> None:
    id = create(api, size="160x96", seconds=4, seed=5)
    content = api.film(id)
    remix = api.post(f"/v1/videos/{id}/remix", json={"prompt": "another"}).json()
    assert (remix["remixed_from_video_id"], remix["seed"], remix["size"], remix["seconds"]) == (id, 5, "160x96", "4")
    for door, role, seconds in (("edits", "video", "4"), ("extensions", "continue", "3")):
        made = api.post(f"/v1/videos/{door}", json={"prompt": "x", "video": {"id": id}, "priority": 4}).json()
        assert (made["size"], made["seconds"], made["priority"]) == ("160x96", seconds, 4)
        job = api.service.store.get(made["id"])
        assert job is not None and job.source == id
        (condition,) = job.request.conditions
        assert condition.role == role and condition.digest is not None
        stored = api.service.storage.read(f"uploads/local/{condition.digest.removeprefix('sha256:')}")
        assert b"".join(stored) == content
        api.film(made["id"], seconds=7)  # of an extension, what it goes on from counts too
        assert api.get(f"/v1/videos/{made['id']}").json()["seconds"] == ("7" if door == "extensions" else seconds)
        for video in ({"id": "video_none"}, {"id": "../x"}):
            assert error(api.post(f"/v1/videos/{door}", json={"prompt": "x", "video": video}))[0] == 404
        for video in ("x", "{", 5, {}, {"id": 5}):
            assert error(api.post(f"/v1/videos/{door}", json={"prompt": "x", "video": video}))[2] == "video"


def test_characters_keep_name_and_consent(api: Doors) -> None:
    id = create(api)
    api.film(id)
    body = {"name": " Ada ", "video": {"id": id}, "consent": "she said yes"}
    made = api.post("/v1/videos/characters", json=body).json()
    assert made["name"] == "Ada" and api.get(f"/v1/videos/characters/{made['id']}").json() == made
    with api.service.store.reading() as c:
        row = c.execute(sa.select(schema.characters)).mappings().one()
    assert row["consent"] == "she said yes"
    for wrong in ({"name": ""}, {"name": "x" * 101}, {"name": "\ud800"}, {"consent": "x" * 2001}, {"consent": "\0"}):
        assert error(api.post("/v1/videos/characters", content=json.dumps({**body, **wrong})))[0] == 400


# --- content ---
@pytest.fixture(scope="module")
def film(api: Doors) -> tuple[str, bytes]:
    id = create(api)
    return f"/v1/videos/{id}/content", api.film(id)


def test_ranges_of_content(api: Doors, film: tuple[str, bytes]) -> None:
    path, whole = film
    size = len(whole)
    full = api.get(path)
    assert full.content == whole and full.headers["accept-ranges"] == "bytes" and "filename=" in str(full.headers)
    for asked, start, stop in (
        ("bytes=0-99", 0, 100), ("bytes=100-", 100, size), ("bytes=-7", size - 7, size), ("bytes=0-0", 0, 1),
        (f"bytes={size - 1}-{size + 50}", size - 1, size), ("bytes=-999999", 0, size),
    ):  # fmt: skip
        part = api.get(path, headers={"range": asked})
        assert (part.status_code, part.content) == (206, whole[start:stop])
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
        assert part.headers["content-length"] == str(stop - start)
    for ignored in ("bytes=5-2", "bytes=0-1,4-5", "bytes=-", "frames=0-1", "bytes=x-y", "bytes=" + "9" * 30 + "-"):
        assert api.get(path, headers={"range": ignored}).status_code == 200
    for asked in (f"bytes={size}-", "bytes=-0"):
        beyond = api.get(path, headers={"range": asked})
        assert error(beyond)[::3] == (416, "invalid_range") and beyond.headers["content-range"] == f"bytes */{size}"


def test_content_is_asked_for_on_conditions(api: Doors, film: tuple[str, bytes]) -> None:
    path, whole = film
    head = api.head(path)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(whole)))
    tag = head.headers["etag"]
    for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        same = api.get(path, headers={"if-none-match": given})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert api.get(path, headers={"if-none-match": '"other"'}).status_code == 200
    for given, status in ((tag, 206), ('"other"', 200), (f"W/{tag}", 200)):
        assert api.get(path, headers={"range": "bytes=0-9", "if-range": given}).status_code == status
    thumbnail = api.get(path, params={"variant": "thumbnail"})
    assert thumbnail.headers["etag"] != tag and thumbnail.headers["content-type"] == "image/jpeg"
    assert error(api.get(path, params={"variant": "sound"}))[2] == "variant"


def test_a_film_that_goes_meanwhile_is_not_found(api: Doors) -> None:
    id = create(api)
    api.film(id)
    api.service.storage.remove(f"films/{id}")
    for answer in (
        api.get(f"/v1/videos/{id}/content"),
        api.post("/v1/videos/edits", json={"prompt": "x", "video": {"id": id}}),
    ):
        assert error(answer) == (404, "not_found_error", None, "not_found")
    name = {"operationName": f"publishers/google/models/fake/operations/{id}"}
    assert api.post("/v1beta1/publishers/google/models/fake:fetchPredictOperation", json=name).status_code == 404


# --- uploads and bodies ---
def test_uploads_are_what_their_bytes_say(api: Doors) -> None:
    wave = b"RIFF\x24\0\0\0WAVEfmt "
    for content, name, kind in (
        (b"<svg/>", "a.png", "image/png"), (b"", "a.png", "image/png"), (png()[:60], "a.png", "image/png"),
        (wave, "a.png", "image/png"), (b"#EXTM3U\nfile:///etc/passwd", "a.mp4", "video/mp4"),
        (b"\0\0\0\x18ftypisom" + bytes(64), "a.mp4", "video/mp4"),
    ):  # fmt: skip
        answer = api.post("/v1/videos", data={"prompt": "x"}, files={"input_reference": (name, content, kind)})
        assert error(answer)[1:] == (INVALID, "input_reference", "invalid_value"), content
        assert "/tmp" not in answer.text and "upload" not in answer.text
    named = api.post("/v1/videos", data={"prompt": "x"}, files={"input_reference": ("../../a.mp4", png(), "video/mp4")})
    assert named.status_code == 200
    job = api.service.store.get(named.json()["id"])
    assert job is not None and [c.role for c in job.request.conditions] == ["first"]
    wrong = api.post("/v1/videos", data={"prompt": "x"}, files={"audio_reference": ("a.wav", png(), "audio/wav")})
    assert error(wrong)[2] == "audio_reference"


def test_a_mask_comes_in_beside_its_film(api: Doors) -> None:
    """It binds the rest of the picture wholly; alone, or with a film that goes on, it is refused."""
    id = create(api, size="160x96", seconds=4)
    api.film(id)
    url = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    film = {"prompt": "x", "video": json.dumps({"id": id})}
    answers = [
        api.post("/v1/videos/edits", json={"prompt": "x", "video": {"id": id}, "mask": {"image_url": url}}),
        api.post("/v1/videos/edits", data=film, files={"mask": ("mask.png", png(), "image/png")}),
    ]
    for answer in answers:
        job = api.service.store.get(answer.json()["id"])
        assert job is not None and [(c.role, c.strength) for c in job.request.conditions] == [("video", 1), ("mask", 1)]
    for door, body in (
        ("", {"prompt": "x", "mask": url}), ("/edits", {"prompt": "x", "video": {"id": id}, "mask": "data:,x"}),
        ("/edits", {"prompt": "x", "video": {"id": id}, "mask": 7}),
        ("/extensions", {"prompt": "x", "video": {"id": id}, "mask": url}),
    ):  # fmt: skip
        assert error(api.post(f"/v1/videos{door}", json=body))[1:] == (INVALID, "mask", "invalid_value"), (door, body)


def test_an_image_has_one_digest_in_every_form(api: Doors) -> None:
    url = f"data:image/png;base64,{base64.b64encode(png((1, 2, 3))).decode()}"
    jobs = [
        api.post("/v1/videos", json={"prompt": "x", "input_reference": {"image_url": url}}),
        api.post("/v1/videos", json={"prompt": "x", "input_reference": url}),
        api.post("/v1/videos", data={"prompt": "x", "input_reference[image_url]": url}),
        api.post("/v1/videos", data={"prompt": "x", "input_reference": json.dumps({"image_url": url})}),
        api.post("/v1/videos", data={"prompt": "x"}, files={"input_reference": png((1, 2, 3))}),
    ]
    found = [api.service.store.get(answer.json()["id"]) for answer in jobs]
    assert len({job.request for job in found if job is not None}) == 1


def test_bodies_are_capped_whether_their_length_is_told_or_not(api: Doors) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 10_000

    for kind in ("application/json", "multipart/form-data; boundary=x"):
        for content in (b"x" * 300_000, chunks()):
            answer = api.post("/v1/videos", content=content, headers={"content-type": kind})
            assert error(answer)[::3] == (413, "too_large")


def test_an_upload_has_its_own_cap(tmp_path: Path) -> None:
    with doors(tmp_path, upload=UploadLimits(file_bytes=1000, pixels=32 * 32)) as api:
        for content, told in ((bytes(2000), "1000 bytes"), (png(), "pixels")):
            answer = api.post("/v1/videos", data={"prompt": "x"}, files={"input_reference": content})
            assert error(answer)[2] == "input_reference" and told in answer.text


# --- policy ---
def test_refused_words_are_answered_and_logged(tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text("# not wanted\nforbidden\nvery bad\n")
    with doors(tmp_path, load_hook(str(words))) as api:
        source = create(api, "unforbidden, very good")
        api.film(source)
        for path, body in (
            ("/v1/videos", {"prompt": "a FORBIDDEN ball"}),
            ("/v1/videos", {"prompt": "a ball", "negative_prompt": "very bad"}),
            (f"/v1/videos/{source}/remix", {"prompt": "forbidden"}),
            ("/v1/videos/edits", {"prompt": "forbidden", "video": {"id": source}}),
            ("/v1/videos/extensions", {"prompt": "forbidden", "video": {"id": source}}),
            ("/v1/videos/characters", {"name": "forbidden", "video": {"id": source}}),
        ):
            assert error(api.post(path, json=body))[::3] == (400, "content_policy"), path
        body = {"instances": [{"prompt": "forbidden"}]}
        veo = api.post("/v1beta/models/fake:predictLongRunning", json=body).json()["error"]
        assert veo["details"][0]["reason"] == "content_policy"
        with api.service.store.reading() as c:
            refused = schema.events.c.type == "refused"
            logged = c.execute(sa.select(schema.events.c.data).where(refused)).scalars().all()
        assert len(logged) == 7 and "FORBIDDEN" in logged[0]["text"] and "'very bad'" in logged[1]["why"]


def test_the_policy_sees_uploads(tmp_path: Path) -> None:
    def hook(text: str, upload: Path | None) -> str | None:
        return "no pictures today" if upload is not None and upload.read_bytes() == png() else None

    with doors(tmp_path, hook) as api:
        answer = api.post("/v1/videos", data={"prompt": "x"}, files={"input_reference": png()})
        assert error(answer)[2:] == ("input_reference", "content_policy") and "no pictures today" in answer.text
        assert api.service.storage.names("uploads") == [] and api.get("/v1/videos").json()["data"] == []


# --- who may call ---
def test_only_its_own_names_and_pages_reach_a_local_server(api: Doors) -> None:
    for host in ("127.0.0.1", "127.0.0.1:8600", "localhost:1", "[::1]:8600"):
        assert api.get("/v1/models", headers={"host": host}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:8600", ""):
        assert error(api.get("/v1/models", headers={"host": host})) == (
            403, "permission_error", None, "forbidden_origin",
        )  # fmt: skip
    for origin in ("http://evil.example", "null", "http://localhost:1", "https://127.0.0.1.evil.example"):
        assert error(api.post("/v1/videos", json={"prompt": "x"}, headers={"origin": origin}))[0] == 403
    assert api.get("/v1/models", headers={"origin": HOST}).status_code == 200
    assert api.get("/v1/models", headers=bearer("sk-anything")).status_code == 200  # clients insist on sending one


def test_keys_are_asked_for_where_others_can_call(public: Doors) -> None:
    store = public.service.store
    key, text = keys.create(store, "ann")
    for headers in ({}, bearer("pf_wrong"), bearer(""), {"authorization": f"Basic {text}"}, {"x-goog-api-key": "x"}):
        answer = public.get("/v1/videos", headers=headers)
        assert error(answer) == (401, "authentication_error", None, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert public.get("/v1/videos", headers=bearer(text)).status_code == 200
    assert public.get("/v1/videos", headers={"x-goog-api-key": text}).status_code == 200
    assert text not in public.get("/v1/videos", params={"key": text}).text
    keys.revoke(store, key.id)
    assert error(public.get("/v1/videos", headers=bearer(text)))[0] == 401
    for path in ("/healthz", "/metrics", "/openapi.json"):
        assert public.get(path).status_code == 200
    assert public.get("/readyz").status_code == 503  # no worker


def test_calls_a_minute_are_limited_by_key(public: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phonofilm.jobs.keys.time.time", lambda: 6000.0)
    _, text = keys.create(public.service.store, "ann", Limits(requests_a_minute=2))
    _, other = keys.create(public.service.store, "ben")
    answers = [public.get("/v1/models", headers=bearer(text)) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert error(answers[2]) == (429, "rate_limit_error", None, "rate_limit_exceeded")
    assert answers[2].headers["x-should-retry"] == "true" and int(answers[2].headers["retry-after"]) <= 60
    assert public.get("/v1/models", headers=bearer(other)).status_code == 200


def test_quotas_are_answered_so_that_clients_do_not_insist(public: Doors) -> None:
    _, text = keys.create(public.service.store, "ann", Limits(seconds_a_day=5, concurrent=2))
    create(public, headers=bearer(text), seconds=3)
    over = public.post("/v1/videos", json={"prompt": "x", "seconds": 3}, headers=bearer(text))
    assert error(over) == (429, "rate_limit_error", None, "quota_exceeded")
    assert over.headers["x-should-retry"] == "false" and "retry-after" not in over.headers
    create(public, headers=bearer(text), seconds=2)
    full = public.post("/v1/videos", json={"prompt": "x", "seconds": 2}, headers=bearer(text))
    assert error(full) == (429, "rate_limit_error", None, "too_many_jobs")
    assert full.headers["x-should-retry"] == "true"


def test_what_the_store_refuses_has_a_status(api: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise JobError("something_new", "no")

    monkeypatch.setattr(api.service.store, "add", full)
    assert error(api.post("/v1/videos", json={"prompt": "x"})) == (400, INVALID, None, "something_new")
