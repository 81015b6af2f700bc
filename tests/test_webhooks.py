"""Webhooks: told once a film ends, signed so that OpenAI's client knows it, and again until somebody has heard."""

from __future__ import annotations

import json
import math
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import sqlalchemy as sa
from openai import BadRequestError, InvalidWebhookSignatureError, NotFoundError, OpenAI
from prometheus_client.parser import text_string_to_metric_families
from receiver import Receiver
from serving import doors, running

from phonofilm.cli import main
from phonofilm.errors import InputError
from phonofilm.jobs import keys, schema, usage, webhooks
from phonofilm.jobs.job import Job
from phonofilm.jobs.store import Store
from phonofilm.request import Request
from phonofilm.serve import outside, sender
from phonofilm.serve.sender import Sender

CLIENT = OpenAI(api_key="any", base_url="http://127.0.0.1")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres").database("webhooks")
    with Store(schema.database_url(url, tmp_path)) as store:
        yield store


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Store]:
    with Store(schema.database_url(None, tmp_path)) as store:
        yield store


def begun(store: Store, owner: str = "ann") -> Job:
    job = store.add(Request("a", model="fake", seconds=2), owner)
    attempt = store.begin(job.id, job.ticket, "w")
    assert attempt is not None
    return attempt


def made(store: Store, owner: str = "ann") -> Job:
    """A film that was published."""
    job = begun(store, owner)
    assert store.publish(job, {"video": "v"}, {"total_energy_j": 2.5, "steps": 12}, [])
    return job


def send(store: Store, sender: Sender | None = None) -> int:
    """Send what is due, and wait until it is sent or has failed; how many attempts."""
    sender, count = sender or Sender(store), 0
    while begun := sender.look():
        count += begun
        for thread in list(sender._calls.values()):
            thread.join()
    return count


def later(store: Store, seconds: float) -> None:
    """Let time pass for what waits."""
    d = schema.deliveries
    with store.engine.begin() as c:
        c.execute(sa.update(d).values(due_at=d.c.due_at - seconds, created_at=d.c.created_at - seconds))


def until(done: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


# --- what is sent ---------------------------------------------------------------------------------------------------
def test_openais_client_verifies_and_reads_what_is_sent(store: Store, receiver: Receiver) -> None:
    _, secret = webhooks.add(store, receiver.url, private=True)
    film = made(store)
    gone = store.add(Request("b", model="fake"), "ben")
    store.cancel(gone.id)
    assert send(store) == 2
    seen = {}
    for headers, body in receiver.got:
        event = CLIENT.webhooks.unwrap(body, headers, secret=secret)
        seen[event.type] = event.data.id  # type: ignore[union-attr]
        assert event.id.startswith("evt_") and event.object == "event" and abs(event.created_at - time.time()) < 60
        assert set(json.loads(body)) == {"id", "object", "type", "created_at", "data"}
        assert headers["content-type"] == "application/json; charset=utf-8" and "authorization" not in headers
        assert headers["host"] == f"127.0.0.1:{receiver.port}"
    assert seen == {"video.completed": film.id, "video.failed": gone.id}
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 2


def test_what_was_tampered_with_is_refused(alone: Store, receiver: Receiver) -> None:
    _, secret = webhooks.add(alone, receiver.url, private=True)
    _, other = webhooks.add(alone, "https://example.org/")
    made(alone, "ann")
    send(alone)
    headers, body = receiver.got[0]
    stamp = int(headers["webhook-timestamp"])
    CLIENT.webhooks.unwrap(body, headers, secret=secret)
    for bad_body, bad, key in (
        (body.replace(b"completed", b"failed"), {}, secret), (body, {"webhook-id": "msg_other"}, secret),
        (body, {"webhook-timestamp": str(stamp + 1)}, secret), (body, {"webhook-timestamp": str(stamp - 301)}, secret),
        (body, {}, other), (body, {"webhook-signature": "v1," + "A" * 43 + "="}, secret),
    ):  # fmt: skip
        with pytest.raises(InvalidWebhookSignatureError):
            CLIENT.webhooks.unwrap(bad_body, headers | bad, secret=key)


def test_a_signature_is_the_one_of_the_standards_example() -> None:
    """Standard Webhooks 1.0.0: the vector that its libraries are tested with."""
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", '{"test": 2432232314}'
    signature = webhooks.sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_each_hears_of_what_is_his_and_of_usage_what_is_billed(store: Store, receiver: Receiver) -> None:
    ann, _ = webhooks.add(store, receiver.url, "ann", private=True)
    all_, _ = webhooks.add(store, receiver.url, private=True)
    meter, secret = webhooks.add(store, receiver.url, "ann", "usage", private=True, bearer="token")
    gone, _ = webhooks.add(store, receiver.url, private=True)
    webhooks.remove(store, gone.id)
    films = [made(store, "ann"), made(store, "ben")]
    store.cancel(store.add(Request("c", model="fake"), "ann").id)
    assert {hook.id: hook.waiting for hook in webhooks.every(store)} == {ann.id: 2, all_.id: 3, meter.id: 1}
    assert send(store) == 6
    assert {hook.id: hook.delivered for hook in webhooks.every(store)} == {ann.id: 2, all_.id: 3, meter.id: 1}
    ((headers, body),) = [one for one in receiver.got if "cloudevents" in one[0]["content-type"]]
    told = json.loads(body)
    assert headers["authorization"] == "Bearer token" and told["specversion"] == "1.0" and told["subject"] == "ann"
    assert told["data"] == {
        "video": films[0].id, "model": "fake", "kind": "create", "size": "128x128", "seconds": 2.0, "steps": 12,
        "energy_j": 2.5, "attempts": 1,
    }  # fmt: skip
    CLIENT.webhooks.verify_signature(body, headers, secret=secret)


def test_a_message_is_written_with_the_end_of_its_job_or_not_at_all(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhooks.add(store, "https://example.org/")
    job, post = begun(store), webhooks.post

    def broken(c: sa.Connection, event: Any) -> None:
        post(c, event)
        raise RuntimeError("the power fails")

    monkeypatch.setattr(webhooks, "post", broken)
    with pytest.raises(RuntimeError):
        store.publish(job, {}, {}, [])
    now = store.get(job.id)
    assert now is not None and now.status == "in_progress" and webhooks.sums(store).waiting == 0
    monkeypatch.undo()
    assert store.publish(job, {}, {}, []) and not store.publish(job, {}, {}, [])
    assert webhooks.sums(store).waiting == 1


# --- again and again ------------------------------------------------------------------------------------------------
def test_what_fails_is_sent_again_under_the_same_id_later_and_later(store: Store, receiver: Receiver) -> None:
    _, secret = webhooks.add(store, receiver.url, private=True)
    receiver.answers = [500, 302, 404, 200]
    receiver.headers = {"location": receiver.url}
    made(store)
    for count in (1, 2, 3, 4):
        assert send(store) == 1 and send(store) == 0 and len(receiver.got) == count
        later(store, 1.3 * 5 * 3**count)
    assert send(store) == 0
    assert len({(headers["webhook-id"], body) for headers, body in receiver.got}) == 1
    for headers, body in receiver.got:
        CLIENT.webhooks.unwrap(body, headers, secret=secret)
    (now,) = webhooks.every(store)
    assert (now.delivered, now.failures, now.waiting, now.told) == (1, 3, 0, "answers with 404")


def test_waits_grow_with_jitter_and_end() -> None:
    for attempt, middle in ((1, 5), (2, 15), (4, 135), (8, 10_935), (9, 21_600), (40, 21_600)):
        waits = [sender.pause(attempt) for _ in range(200)]
        assert 0.75 * middle <= min(waits) < 0.9 * middle and 1.1 * middle < max(waits) <= 1.25 * middle


def test_who_is_dead_is_told_when_he_lives_again(alone: Store, receiver: Receiver) -> None:
    port = receiver.port
    receiver.close()
    webhooks.add(alone, receiver.url, private=True)
    made(alone)
    assert send(alone) == 1 and webhooks.sums(alone).failures == 1
    told = webhooks.every(alone)[0].told
    assert told is not None and "ConnectionRefused" in told
    alive = Receiver(port)
    later(alone, 60)
    assert send(alone) == 1 and len(alive.got) == 1 and webhooks.sums(alone).delivered == 1
    alive.close()


def test_a_receiver_may_ask_to_wait_and_to_be_left_alone(alone: Store, receiver: Receiver) -> None:
    webhooks.add(alone, receiver.url, private=True)
    receiver.answers, receiver.headers = [503, 410], {"retry-after": "900"}
    made(alone)
    send(alone)
    later(alone, 800)
    assert send(alone) == 0
    later(alone, 110)
    assert send(alone) == 1 and webhooks.sums(alone).given_up == 1 and webhooks.sums(alone).waiting == 0


def test_what_nobody_takes_for_three_days_is_given_up_visibly_and_can_be_sent_again(
    store: Store, receiver: Receiver
) -> None:
    hook, _ = webhooks.add(store, receiver.url, private=True)
    made(store)
    receiver.answers, attempts = [500] * 100, 0
    while webhooks.sums(store).waiting:
        attempts += send(store)
        later(store, 6.5 * 3600)
    assert 10 <= attempts <= 20
    (now,) = webhooks.every(store)
    assert (now.given_up, now.delivered, now.waiting) == (1, 0, 0) and send(store) == 0
    receiver.answers = []
    assert webhooks.retry(store, hook.id) == 1 and send(store) == 1 and webhooks.sums(store).delivered == 1
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    with pytest.raises(InputError, match="no webhook is called 'x'"):
        webhooks.retry(store, "x")


KILLED = """
import os, signal, sys, time
from phonofilm.jobs import webhooks
from phonofilm.jobs.store import Store
from phonofilm.serve.sender import Sender
webhooks.delivered = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with Store(sys.argv[1]) as store:
    Sender(store).start()
    time.sleep(60)
"""


def test_one_who_dies_between_sending_and_noting_it_leaves_it_to_be_sent_again(
    store: Store, receiver: Receiver
) -> None:
    webhooks.add(store, receiver.url, private=True)
    made(store)
    path = [entry for entry in sys.path if entry.endswith("src")]
    code = f"import sys; sys.path[:0] = {path!r}\n{KILLED}"
    died = subprocess.run([sys.executable, "-c", code, store.url], check=False, timeout=120)
    assert died.returncode == -signal.SIGKILL and len(receiver.got) == 1
    assert webhooks.sums(store).waiting == 1 and send(store) == 0  # it was taken, and its time is not over
    later(store, webhooks.LEASE_SECONDS + 1)
    assert send(store) == 1 and webhooks.sums(store).waiting == 0
    first, second = receiver.got
    assert first[0]["webhook-id"] == second[0]["webhook-id"] and first[1] == second[1]


def test_two_who_send_do_not_send_twice(store: Store, receiver: Receiver) -> None:
    for _ in range(3):
        webhooks.add(store, receiver.url, private=True)
    for _ in range(10):
        made(store)
    both = [Sender(store), Sender(store)]
    for one in both:
        one.start()
    until(lambda: webhooks.sums(store).delivered == 30)
    for one in both:
        one.stop()
    assert len(receiver.got) == 30 == len({headers["webhook-id"] for headers, _ in receiver.got})


def test_one_who_answers_slowly_is_cut_off_and_holds_up_nobody_else(
    alone: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "CALL_SECONDS", 1.0)
    slow = Receiver()
    slow.drip = 0.1
    for url in (slow.url, receiver.url):
        webhooks.add(alone, url, private=True)
    for _ in range(5):
        made(alone)
    one = Sender(alone)
    one.start()
    until(lambda: len(receiver.got) == 5)
    until(lambda: webhooks.sums(alone).failures)
    one.stop()
    assert webhooks.every(alone)[0].delivered == 0 and webhooks.every(alone)[1].delivered == 5
    slow.close()


# --- where it may go ------------------------------------------------------------------------------------------------
def test_addresses_inside_are_not_called_unless_the_operator_says_so(
    alone: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in (
        "http://example.org/", "ftp://example.org", "https://u:p@example.org/", "https://", "https://10.0.0.1/",
        "https://[::1]/", "https://169.254.169.254/", "https://example.org/#x", "https://example.org:x/", "x", "",
        "https://exa mple.org/", "https://example.org/\n",
    ):  # fmt: skip
        with pytest.raises(InputError):
            webhooks.add(alone, url)
    assert webhooks.every(alone) == []

    def resolved(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("8.8.8.8", "127.0.0.1")]

    monkeypatch.setattr(outside.socket, "getaddrinfo", resolved)
    webhooks.add(alone, f"https://example.org:{receiver.port}/")
    made(alone)
    assert send(alone) == 1 and receiver.got == []
    assert webhooks.every(alone)[0].told == "NotPublic: example.org has an address that is not public"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False), ("0.0.0.0", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("224.0.0.1", False), ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False), ("::ffff:127.0.0.1", False), ("::ffff:8.8.8.8", True), ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False), ("ff02::1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert outside.is_public(address) == public


def test_a_call_goes_to_the_address_that_was_checked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is another one's a moment later gains nothing."""
    asked, resolve = [], socket.getaddrinfo

    def changing(host: str, port: int, *rest: Any, **more: Any) -> list[Any]:
        asked.append(host)
        now = host if host != "name.example" else "127.0.0.1" if asked.count(host) == 1 else "8.8.8.8"
        return resolve(now, port, *rest, **more)

    monkeypatch.setattr(outside.socket, "getaddrinfo", changing)
    with outside.calling(urlsplit(f"http://name.example:{receiver.port}/"), 5.0, private=True) as connection:
        connection.request("POST", "/", b"x")
        assert connection.getresponse().status == 204
    assert asked.count("name.example") == 1 and receiver.got[0][0]["host"] == f"name.example:{receiver.port}"


# --- for those who call ---------------------------------------------------------------------------------------------
def test_openais_client_adds_changes_tries_and_removes_webhooks(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with doors(tmp_path, webhook_hosts=("Films.example.org",)) as here:
        store, client = here.service.store, OpenAI(api_key="any", base_url="http://127.0.0.1/v1", http_client=here)
        hooks, url = client.webhooks, "https://films.example.org/heard"
        assert hooks.event_types.list().data == ["video.completed", "video.failed"]
        made_ = hooks.create(name="mine", url=url, event_types=["video.failed"])
        assert made_.signing_secret_hint == f"whsec_…{made_.signing_secret[-4:]}" and made_.event_types == [
            "video.failed"
        ]
        assert [one.id for one in hooks.list()] == [made_.id] == [hooks.retrieve(made_.id).id]
        assert made_.signing_secret not in repr([*hooks.list()])
        made(store, "local")
        assert webhooks.sums(store).waiting == 0
        assert hooks.update(made_.id, event_types=["video.completed"], name="other").name == "other"
        film = made(store, "local")
        assert webhooks.sums(store).waiting == 1

        here_ = urlsplit(receiver.url)._replace(path="/", query="").geturl()  # stands for the host outside
        monkeypatch.setattr(webhooks, "check_url", lambda *_, **__: None)
        with store.engine.begin() as c:
            c.execute(sa.update(schema.hooks).values(url=here_, private=True))
        new = hooks.rotate_secret(made_.id, keep_old_secret_active_for_24_hours=True)
        assert new.signing_secret != made_.signing_secret
        tried = hooks.test(made_.id, event_type="video.failed")
        assert (tried.status_code, tried.success, tried.webhook_endpoint_id) == (204, True, made_.id)
        send(store)
        for secret in (made_.signing_secret, new.signing_secret):
            test, event = (CLIENT.webhooks.unwrap(body, headers, secret=secret) for headers, body in receiver.got)
            assert (test.type, event.type, event.data.id) == ("video.failed", "video.completed", film.id)  # type: ignore[union-attr]
        again = hooks.rotate_secret(made_.id)
        hooks.test(made_.id, event_type="video.failed")
        headers, body = receiver.got[-1]
        CLIENT.webhooks.unwrap(body, headers, secret=again.signing_secret)
        with pytest.raises(InvalidWebhookSignatureError):
            CLIENT.webhooks.unwrap(body, headers, secret=new.signing_secret)
        receiver.close()
        with pytest.raises(BadRequestError, match="not reached"):
            hooks.test(made_.id, event_type="video.failed")
        assert hooks.delete(made_.id).deleted and [*hooks.list()] == []
        with pytest.raises(NotFoundError):
            hooks.retrieve(made_.id)


def test_callers_add_webhooks_only_where_the_operator_lets_them(tmp_path: Path) -> None:
    def add(here: Any, url: Any, **more: Any) -> tuple[int, str | None, str]:
        body = {"name": "x", "url": url, "event_types": ["video.completed"], **more}
        answer = here.post("/v1/webhook_endpoints", json=body)
        error = answer.json().get("error", {"param": None, "message": ""})
        return answer.status_code, error["param"], error["message"]

    with doors(tmp_path / "a") as here:
        assert add(here, "https://example.org/") == (400, "url", "webhooks are added by the operator alone here")
    with doors(tmp_path / "b", webhook_hosts=("example.org",)) as here:
        assert add(here, "https://EXAMPLE.org/x")[0] == 200
        for url in ("https://example.net/", "https://example.org.evil.net/", "http://example.org/", "x", 7):
            assert add(here, url)[:1] == (400,)
    with doors(tmp_path / "c", webhook_hosts=("*",)) as here:
        for url in ("https://127.0.0.1/", "https://[::1]/", "https://10.0.0.1/", "http://example.org/"):
            assert add(here, url)[:2] == (400, "url")
        for more in ({"event_types": []}, {"event_types": ["video.completed", "x"]}, {"event_types": "video.failed"}):
            assert add(here, "https://example.org/", **more)[:2] == (400, "event_types")
        for name in ("", " ", "x" * 101, "a\0b", None):
            assert add(here, "https://example.org/", name=name)[:2] == (400, "name")
        assert [add(here, "https://example.org/")[0] for _ in range(11)] == [200] * 10 + [400]
        pages, after = [], None
        while after is None or pages[-1]["has_more"]:
            query = f"?limit=4&after={after}" if after else "?limit=4"
            pages.append(here.get(f"/v1/webhook_endpoints{query}").json())
            after = pages[-1]["last_id"]
        assert [len(page["data"]) for page in pages] == [4, 4, 2]
        assert len({one["id"] for page in pages for one in page["data"]}) == 10


# --- for the operator -----------------------------------------------------------------------------------------------
def test_the_operator_adds_lists_and_removes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> list[str]:
        assert main([*arguments, "--data-dir", str(tmp_path)]) == 0
        return capsys.readouterr().out.splitlines()

    with Store(schema.database_url(None, tmp_path)) as store:
        key, _ = keys.create(store, "ann")
        (secret,) = run("webhooks", "add", "https://example.org/all")
        run("webhooks", "add", "https://example.org/ann", "--key", key.shown)
        run("webhooks", "add", "http://127.0.0.1:1/meter", "--key", "local", "--usage", "--allow-private")
        assert secret.startswith("whsec_") and len(secret) == 6 + 44
        hooks = webhooks.every(store)
        assert [(hook.owner, hook.kind, hook.private) for hook in hooks] == [
            ("*", "video", False), (key.id, "video", False), ("local", "usage", True),
        ]  # fmt: skip
        made(store, key.id)
        lines = run("webhooks", "list")
        assert [line.split()[0] for line in lines] == [hook.id for hook in hooks]
        assert "all keys" in lines[0] and "1 waiting" in lines[1] and "0 waiting" in lines[2]
        assert secret not in "".join(lines)
        assert run("webhooks", "retry", hooks[1].id) == ["0 messages are sent again"]
        run("webhooks", "remove", hooks[1].id)
        assert [hook.id for hook in webhooks.every(store)] == [hooks[0].id, hooks[2].id]
        assert webhooks.sums(store).waiting == 1
    assert main(["webhooks", "remove", "hook_none", "--data-dir", str(tmp_path)]) == 2
    assert main(["webhooks", "add", "https://127.0.0.1/", "--data-dir", str(tmp_path)]) == 2


def test_metrics_tell_how_webhooks_fare(tmp_path: Path, receiver: Receiver) -> None:
    with doors(tmp_path) as here:
        store = here.service.store

        def scraped() -> dict[str, float]:
            families = text_string_to_metric_families(here.get("/metrics").text)
            return {
                " ".join([s.name, *s.labels.values()]): s.value
                for family in families
                for s in family.samples
                if "webhook" in s.name
            }

        assert set(scraped().values()) == {0}
        hook, _ = webhooks.add(store, receiver.url, private=True)
        receiver.answers = [200, 500]
        for _ in range(2):
            made(store)
        send(store)
        (delivery,) = webhooks.claim(store, 1) or [None]
        assert delivery is None
        later(store, 60)
        now = scraped()
        assert now.pop("phonofilm_webhooks_age_seconds") > 59
        assert now == {
            "phonofilm_webhooks_total delivered": 1, "phonofilm_webhooks_total given_up": 0,
            "phonofilm_webhook_failures_total": 1, "phonofilm_webhooks_waiting": 1,
        }  # fmt: skip
        (delivery,) = webhooks.claim(store, 1)
        assert not webhooks.failed(store, delivery, "no more", math.inf)
        webhooks.remove(store, hook.id)
        now = scraped()
        assert now["phonofilm_webhooks_total given_up"] == 1 and now["phonofilm_webhooks_total delivered"] == 1


def test_tidying_forgets_what_was_given_up_long_ago(alone: Store) -> None:
    webhooks.add(alone, "https://example.org/")
    for _ in range(2):
        made(alone)
    for delivery in (*webhooks.claim(alone, 1), *webhooks.claim(alone, 1)):
        webhooks.failed(alone, delivery, "no", math.inf)
    d = schema.deliveries
    with alone.engine.begin() as c:
        first = sa.select(sa.func.min(d.c.id)).scalar_subquery()
        c.execute(sa.update(d).where(d.c.id == first).values(given_up_at=time.time() - 31 * 86_400))
    webhooks.tidy(alone)
    with alone.reading() as c:
        assert c.execute(sa.select(sa.func.count()).select_from(d)).scalar_one() == 1


def test_a_running_server_tells_of_its_films_also_when_it_was_away(tmp_path: Path, receiver: Receiver) -> None:
    with Store(schema.database_url(None, tmp_path / "data")) as store:
        _, secret = webhooks.add(store, receiver.url, private=True)
        earlier = made(store)
        with running(tmp_path) as url:
            until(lambda: len(receiver.got) == 1)
            film = httpx2.post(f"{url}/v1/videos", json={"prompt": "a", "seconds": "2"}, timeout=60).json()["id"]
            until(lambda: len(receiver.got) == 2, 240)
        told = [CLIENT.webhooks.unwrap(body, headers, secret=secret) for headers, body in receiver.got]
        assert [event.data.id for event in told] == [earlier.id, film]  # type: ignore[union-attr]
        assert [event.type for event in told] == ["video.completed"] * 2
        *_, event = usage.export(store)
        assert json.loads(event)["data"]["steps"] == 4  # the fake engine's, as the worker counted them
