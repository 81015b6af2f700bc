"""The studio: a film is typed, watched, played, extended, cancelled and remembered; and who gets in, and at what."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import HOST, Doors, bearer, doors, free_port, running

from phonofilm.clip import Clip
from phonofilm.errors import InputError
from phonofilm.jobs import keys
from phonofilm.jobs.schema import database_url
from phonofilm.jobs.storage import upload_name
from phonofilm.jobs.store import Limits, Store
from phonofilm.media import read_mask, write
from phonofilm.provenance import verify
from phonofilm.serve.access import COOKIE, Caller
from phonofilm.studio.actions import Actions

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PLACES = ("/usr/bin", "/usr/lib/chromium", "/snap/bin", "/Applications/Google Chrome.app/Contents/MacOS")
SCREENSHOTS = "PHONOFILM_SCREENSHOTS"  # a folder where pictures of the studio go; else that of the test
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip
PREDICT = "/gradio_api/run/predict"


# --- in a browser ---
def chromium() -> str | None:
    path = os.pathsep.join((os.environ.get("PATH", ""), *PLACES))
    return next((found for name in (*NAMES, "Google Chrome") if (found := shutil.which(name, path=path))), None)


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = chromium()
    if program is None:
        pytest.skip(f"no Chromium is installed (none of {', '.join(NAMES)} is found)")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


class Visit:
    """A page of the studio, with all that went wrong in it and all that it asked for elsewhere."""

    def __init__(self, browser: Any, folder: Path, **options: Any) -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 900}, **options)
        self.page.set_default_timeout(90_000)
        self.folder = Path(os.environ.get(SCREENSHOTS) or folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.problems: list[str] = []
        self.asked: set[str] = set()
        self.page.on("console", lambda m: self.problems.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.asked.add(request.url))

    def make(self, prompt: str) -> None:
        self.page.fill("#prompt textarea", prompt)
        self.page.click("#go")
        self.sees(f'#stage h2:has-text("{prompt}")')

    def sees(self, selector: str) -> None:
        """Wait for an element; where it does not come, the failure says what the page said in its place."""
        try:
            self.page.wait_for_selector(selector)
        except Exception as error:
            said = [text for text in self.page.locator('[role="alert"]').all_inner_texts() if text.strip()]
            raise AssertionError(f"{selector} did not come; the page says {said}, {self.problems}") from error

    def tell(self, script: str) -> Any:
        return self.page.evaluate(script)

    def until(self, script: str) -> None:
        self.page.wait_for_function(script)

    def picture(self, name: str) -> None:
        self.page.screenshot(path=self.folder / f"studio-{name}.png", full_page=True, animations="disabled")


def test_a_film_is_made_watched_extended_cancelled_and_remembered(browser: Any, tmp_path: Path) -> None:
    port, it = free_port(), Visit(browser, tmp_path)
    page, origin = it.page, f"{HOST}:{port}/"
    with Store(database_url(None, tmp_path / "data")) as store:
        _, key = keys.create(store, "ann")
    image = tmp_path / "first.png"
    image.write_bytes(png())
    with running(tmp_path, "--host", "0.0.0.0", port=port):
        page.goto(origin)
        assert page.query_selector("#form") is None
        page.fill("#key", key)
        it.problems.clear()  # that the first answer was 401
        page.keyboard.press("Enter")
        it.sees("#stage .screen")
        page.set_input_files(".tile input >> nth=0", image)
        it.sees(".tile.full")
        page.fill("#prompt textarea", "a unicorn bounces on a wooden floor")
        it.sees('#hints :text("unicorn")')
        it.make("a bell rings sleep=2")
        it.sees("#stage img.live")  # the preview
        it.picture("live")
        it.sees("#stage video")
        it.until("document.querySelector('#stage video').readyState >= 2")
        it.tell("document.querySelector('#stage video').play()")
        it.until("document.querySelector('#stage video').currentTime > 0.2")
        it.until("document.querySelector('canvas.wave').ariaValueMax > 0")
        it.until("document.querySelector('.sheet img').naturalWidth > 0")
        assert "J" in page.inner_text(".cost")
        with page.expect_download() as download:
            page.click('#stage a:has-text("Download film")')
        assert verify(Path(download.value.path()).rename(tmp_path / "a.mp4")).status == "signed"
        it.picture("film")

        page.fill("#prompt textarea", "something else")
        page.click('#stage button:has-text("Extend")')
        it.sees('#go:has-text("Extend")')
        it.until("document.querySelector('#prompt textarea').value == 'a bell rings sleep=2'")
        it.make("it rings again")
        it.sees('#stage .facts:has-text("extension")')
        it.sees("#stage video")
        page.click('#stage button:has-text("Remix")')
        it.sees('#about :text("Remix")')
        page.click("#about button")
        it.sees('#go:has-text("Make")')

        it.make("slow sleep=12")
        page.click('#stage button:has-text("Cancel")')
        it.sees('#stage :text("Cancelled")')
        page.reload()
        it.until("document.querySelectorAll('#history li').length == 3")
        assert not it.problems
    it.tell("window.old = true")
    with page.expect_event("requestfailed", lambda request: "app_id" in request.url):  # it asks whether we are back
        page.click("#history button >> nth=0")
    with running(tmp_path, "--host", "0.0.0.0", port=port):
        it.until("!window.old && document.querySelectorAll('#history li').length == 3")  # it came back by itself
        it.problems.clear()  # that nobody answered for a while
        page.click('#history button:has-text("a bell rings")')
        it.sees("#stage video")
        for theme in ("dark", "light"):
            page.emulate_media(color_scheme=theme)
            page.set_viewport_size({"width": 390, "height": 844})
            assert it.tell("document.documentElement.scrollWidth") <= 390
            it.picture(f"phone-{theme}")
        assert not it.problems
        page.click("#me button")
        it.sees("#key")
    assert it.asked
    assert not [url for url in it.asked if not url.startswith((origin, "data:", "blob:"))]


def test_a_part_of_a_clip_is_painted_by_hand_and_by_keys(browser: Any, tmp_path: Path) -> None:
    frames = np.zeros((32, 96, 160, 3), np.uint8)
    frames[:, :, :80] = (180, 60, 40)
    write(Clip(frames, 16.0), tmp_path / "clip.mp4")
    it = Visit(browser, tmp_path, has_touch=True)
    page = it.page
    page.set_viewport_size({"width": 390, "height": 844})

    def asked() -> dict[str, str | None]:
        with Store(database_url(None, tmp_path / "data")) as store:
            return {c.role: c.digest for c in store.jobs_of("local", limit=1)[0].request.conditions}

    def mask() -> np.ndarray:
        name = upload_name("local", str(asked()["mask"]))
        return read_mask(tmp_path / "data" / "files" / name).frames[0, :, :, 0] == 255

    with running(tmp_path) as origin:
        page.goto(origin)
        page.set_input_files('[data-place="media"] input', tmp_path / "clip.mp4")
        it.sees('[data-place="media"].full')
        page.click('text="Paint a part to be made anew"')
        it.sees(".paint dialog[open]")
        box = page.locator(".easel canvas >> nth=1").bounding_box()
        assert box["width"] <= 390 and abs(box["width"] / box["height"] - 160 / 96) < 0.02
        shown = it.tell("[...document.querySelector('.easel canvas').getContext('2d').getImageData(9, 9, 1, 1).data]")
        assert np.abs(np.array(shown[:3]) - (180, 60, 40)).max() < 24  # the first frame
        y = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] * 0.1, y)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.4, y, steps=4)
        page.mouse.up()
        it.sees('#paint-now:has-text("Painted")')
        it.picture("paint")
        page.click('.paint >> text="Use it"')
        it.sees('.paint [role="status"]:has-text("of the picture painted")')
        it.make("the left half burns")
        found = mask()
        assert found[:, : int(found.shape[1] * 0.5)].any() and not found[:, int(found.shape[1] * 0.6) :].any()

        page.focus('.paint [data-do="open"]')
        page.keyboard.press("Enter")
        it.sees(".paint dialog[open]")
        page.click('.paint >> text="Clear"')
        page.focus(".easel canvas >> nth=1")
        for key in (*["ArrowRight"] * 20, "Space"):
            page.keyboard.press(key)
        it.sees('#paint-now:has-text("100 % from the left")')
        page.focus('.paint [data-do="use"]')
        page.keyboard.press("Enter")
        page.wait_for_selector(".paint dialog[open]", state="detached")
        it.make("the right edge burns")
        found = mask()
        assert found[:, -1].any() and not found[:, : found.shape[1] // 2].any()

        page.select_option(".use select", "its sound")
        assert page.is_hidden(".paint .act >> nth=0")
        it.make("it sounds")
        assert set(asked()) == {"audio"}
    assert not it.problems


# --- who gets in, and at what ---
@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """A server that others reach, so that it asks for keys."""
    with doors(tmp_path_factory.mktemp("public"), host="0.0.0.0") as api:
        yield api


@pytest.fixture
def visitor(public: Doors) -> Iterator[str]:
    """A key in the cookie of a browser."""
    _, text = keys.create(public.service.store, "ann")
    answer = public.post("/studio/key", data={"key": text}, headers={"origin": HOST}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "secure" not in cookie
    yield text
    public.cookies.clear()


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 40, 30)).save(file, "PNG")
    return file.getvalue()


def test_without_a_key_there_is_only_the_form_for_one(public: Doors) -> None:
    for headers in ({}, {"cookie": f"{COOKIE}=pf_wrong"}):
        answer = public.get("/", headers=headers)
        assert answer.status_code == 401 and "password" in answer.text and "gradio" not in answer.text
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert public.post(PREDICT, json={"data": [], "fn_index": 0}).status_code == 401
    for path in ("/theme.css", "/assets/index.js", "/static/img/logo.svg"):
        assert public.get(path).status_code == 401
    assert public.post("/studio/media?place=first", content=png()).status_code == 401
    wrong = public.post("/studio/key", data={"key": "pf_wrong"}, headers={"origin": HOST})
    assert wrong.status_code == 401 and "not known" in wrong.text and COOKIE not in public.cookies
    for origin in ({}, {"origin": "http://evil.example"}):
        assert public.post("/studio/key", data={"key": "x"}, headers=origin).status_code == 403


def test_a_cookie_changes_things_from_our_own_pages_alone(public: Doors, visitor: str) -> None:
    assert public.get("/v1/videos").status_code == 200
    for origin, status in ((None, 401), ("http://evil.example", 401), (HOST, 200)):
        headers = {} if origin is None else {"origin": origin}
        assert public.post("/v1/videos", json={"prompt": "x"}, headers=headers).status_code == status
        media = public.post("/studio/media?place=first", content=png(), headers=headers)
        assert media.status_code == status
    left = public.post("/studio/key", data={}, headers={"origin": HOST}, follow_redirects=False)
    assert left.status_code == 303 and public.get("/v1/videos").status_code == 401


def test_films_that_a_page_shows_do_not_count_as_calls(public: Doors) -> None:
    _, text = keys.create(public.service.store, "ben", Limits(requests_a_minute=2))
    for _ in range(5):
        assert public.get("/v1/videos", headers={"cookie": f"{COOKIE}={text}"}).status_code == 200
    other = {"cookie": f"{COOKIE}={text}", **bearer(text)}
    assert {public.get("/v1/videos", headers=other).status_code for _ in range(3)} == {200, 429}


def test_nothing_else_of_gradio_is_reachable(public: Doors, visitor: str) -> None:
    for path in (
        "/gradio_api/file=/etc/hostname", "/gradio_api/proxy=http://127.0.0.1/", "/gradio_api/info", "/config",
        "/gradio_api/openapi.json", "/gradio_api/queue/data?session_hash=a", "/gradio_api/heartbeat/a", "/monitoring",
        "/gradio_api/startup-events", "/docs", "/logout",
    ):  # fmt: skip
        assert public.get(path).status_code == 404, path
    for path in (
        "/gradio_api/upload",
        "/gradio_api/queue/join",
        "/gradio_api/api/look",
        "/login",
        "/gradio_api/vibe-edit",
    ):
        assert public.post(path, headers={"origin": HOST}).status_code == 404, path
    assert public.post("/", headers={"origin": HOST}).status_code == 405


@pytest.mark.parametrize(
    "body",
    [
        {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}], "fn_index": 0},
        {"data": [{"path": "http://example.com/a.png"}], "fn_index": 0},
        {"data": [["a"]], "fn_index": 0},
        {"data": {"a": "b"}, "fn_index": 0},
        {"data": ["a"], "event_data": {"act": ["show"]}, "fn_index": 0},
        {"data": ["a"], "fn_index": "x"},
        {"data": ["a"]},
        [],
    ],
)
def test_calls_of_the_page_take_plain_values_alone(public: Doors, visitor: str, body: Any) -> None:
    assert public.post(PREDICT, json=body, headers={"origin": HOST}).status_code == 400
    assert public.post(PREDICT, content=b"[" * 100_000, headers={"origin": HOST}).status_code in (400, 413)


def test_media_come_in_as_at_the_api(public: Doors, visitor: str) -> None:
    def give(place: str, content: bytes) -> Any:
        return public.post(f"/studio/media?place={place}", content=content, headers={"origin": HOST})

    told = give("first", png()).json()
    assert told["kind"] == "image" and told["digest"].startswith("sha256:")
    assert give("mask", png()).json()["kind"] == "image"
    for place, content in (
        ("media", png()),
        ("mask", b"no picture"),
        ("first", b"no picture"),
        ("first", b""),
        ("elsewhere", png()),
    ):
        assert give(place, content).json()["error"]["code"] == "invalid_value"


# --- what the page does, without the page ---
@pytest.fixture
def actions(tmp_path: Path) -> Iterator[Actions]:
    with doors(tmp_path) as api:
        yield Actions(api.service)


ANN, BEN = (Caller(name, Limits(), None) for name in ("ann", "ben"))
FORM = {"prompt": "a ball", "seconds": 3, "size": "square", "seed": ""}


def test_one_sees_ones_own_and_reaches_nothing_else(actions: Actions) -> None:
    from phonofilm.serve.errors import ApiError

    mine = actions.make(ANN, {**FORM, "prompt": "<b>mine</b>"}, "", "")
    panels, shown, _ = actions.look(ANN, mine.id, 12, "")
    assert "&lt;b&gt;mine" in str(panels["stage"]) and "<b>mine" not in str(panels)
    again, _, _ = actions.look(ANN, mine.id, 12, shown)
    assert set(again.values()) == {None}  # nothing new, nothing sent
    for id in (mine.id, "video_none", "'; DROP"):
        seen, _, _ = actions.look(BEN, id, 12, "nonsense")
        assert "mine" not in str(seen) and mine.id not in str(seen)
        for act in ("show", "cancel", "pause", "first", "delete", "again"):
            with pytest.raises(ApiError, match="no video"):
                actions.act(BEN, act, id)
        for mode in ("remix", "extend"):
            with pytest.raises(ApiError, match="no video"):
                actions.make(BEN, FORM, "", f"{mode}:{id}")
    digest = actions.it.uploads.take(png(), "ann", ("image",), "first")
    with pytest.raises(Exception, match="first must be image"):
        actions.make(BEN, FORM, json.dumps({"first": digest}), "")
    assert actions.make(ANN, FORM, json.dumps({"first": digest}), "").request.conditions[0].digest == digest


def test_what_was_painted_is_the_mask_of_the_clip(actions: Actions, tmp_path: Path) -> None:
    write(Clip(np.zeros((32, 96, 160, 3), np.uint8), 16.0), tmp_path / "clip.mp4")
    clip = actions.it.uploads.take((tmp_path / "clip.mp4").read_bytes(), "ann", ("video",), "media")
    painted = actions.it.uploads.take(png(), "ann", ("image",), "mask")
    given = {"media": clip, "use": "its picture", "mask": painted}
    job = actions.make(ANN, FORM, json.dumps(given), "")
    assert [(c.role, c.digest) for c in job.request.conditions] == [("video", clip), ("mask", painted)]
    for wrong, told in (
        ({**given, "mask": clip}, "mask must be image"), ({"mask": painted}, "mask needs a clip"),
        ({**given, "use": "its end, to go on from"}, "mask needs a clip"), ({**given, "mask": "x"}, "mask must be"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            actions.make(ANN, FORM, json.dumps(wrong), "")
    with pytest.raises(InputError, match="must be"):
        actions.make(BEN, FORM, json.dumps(given), "")


def test_a_queue_is_paused_reordered_and_emptied(actions: Actions) -> None:
    store = actions.it.store
    a, b, c = (actions.make(ANN, {**FORM, "prompt": name}, "", "").id for name in ("aaa", "bbb", "ccc"))

    def order() -> list[str]:
        queue = str(actions.look(ANN, "", 12, "")[0]["queue"])
        return sorted((name for name in ("aaa", "bbb", "ccc") if f">{name}<" in queue), key=queue.index)

    assert order() == ["aaa", "bbb", "ccc"]
    actions.act(ANN, "first", c)
    actions.act(ANN, "later", a)
    assert order() == ["ccc", "bbb", "aaa"]
    actions.act(ANN, "pause", c)
    held = store.get(c)
    assert held is not None and held.held and order() == ["bbb", "aaa", "ccc"]
    actions.act(ANN, "resume", c)
    for id in (a, b):
        actions.act(ANN, "cancel", id)
    again = actions.act(ANN, "again", a)
    assert again not in (None, a) and "aaa" in str(actions.look(ANN, str(again), 12, "")[0]["stage"])
    assert actions.act(ANN, "delete", a) == "" and store.get(a) is None


def test_limits_and_policy_hold_in_the_studio(tmp_path: Path) -> None:
    def hook(text: str, _: Path | None) -> str | None:
        return "not here" if "forbidden" in text else None

    with doors(tmp_path, hook) as api, contextlib.closing(api.service.store):
        actions = Actions(api.service)
        key, _ = keys.create(api.service.store, "x", Limits(requests_a_minute=3, concurrent=1))
        who = Caller(key.id, key.limits, key.id)
        actions.make(who, FORM, "", "")
        for form, told in (
            (FORM, "may have 1"), ({**FORM, "prompt": "forbidden"}, "not here"), (FORM, "3 times a minute"),
        ):  # fmt: skip
            with pytest.raises(Exception, match=told):
                actions.make(who, form, "", "")


def test_words_that_the_model_never_saw_are_named_when_they_are_whole(actions: Actions) -> None:
    assert "unicorn" in actions.hints("a unicorn jumps") and "knows all" in actions.hints("a red ball bounces")
    assert "left to chance" in actions.hints("a unicorn jumps")
    assert "knows all" in actions.hints("a red ba") and actions.hints("  ") == ""
    assert "&lt;i&gt;" not in actions.hints("<i>") and "<i>" not in actions.hints('a man says "<i>"')


def test_history_outlives_the_server(tmp_path: Path) -> None:
    with doors(tmp_path) as api:
        id = Actions(api.service).make(ANN, FORM, "", "").id
        api.film(id)
    with doors(tmp_path) as api:
        panels, _, wait = Actions(api.service).look(ANN, "", 12, "")
        assert id in str(panels["history"]) and "<video" in str(panels["stage"]) and wait > 1
        assert isinstance(api.service.store, Store)
