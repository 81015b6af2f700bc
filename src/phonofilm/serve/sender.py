"""Sends what waits in the outbox to those who want to hear of it, beside all calls."""

from __future__ import annotations

import http.client
import logging
import math
import random
import threading
import time
from typing import Final
from urllib.parse import urlsplit

from phonofilm.jobs import webhooks
from phonofilm.jobs.schema import AWAY
from phonofilm.jobs.store import Store
from phonofilm.jobs.webhooks import Delivery
from phonofilm.serve.outside import calling

log = logging.getLogger("phonofilm.webhooks")
POLL_SECONDS: Final = 0.5  # between looks at an empty outbox
AT_ONCE: Final = 8  # receivers that are called at the same time, each by one message
CALL_SECONDS: Final = 15.0  # for one attempt, name to answer
FIRST_SECONDS: Final = 5.0  # before the second attempt; each next one waits three times as long
LONGEST_SECONDS: Final = 6 * 3600.0
JITTER: Final = 0.25  # of a wait, up or down
FAULTS: Final = (OSError, ValueError, http.client.HTTPException)
REST_SECONDS: Final = 60.0  # for which a receiver that fails again and again is left alone, at most


class Sender:
    """`start`, then `stop`. Several may run, in several processes, over one database."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._calls: dict[str, threading.Thread] = {}  # by receiver
        self._rests: dict[str, tuple[int, float]] = {}  # by receiver: failures in a row, and until when it rests
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float = 3.0) -> None:
        """Begin no more calls, and wait so long for those under way; what is cut off is sent again, later."""
        self._stopping.set()
        end = time.monotonic() + seconds
        for thread in (self._thread, *list(self._calls.values())):
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))

    def _run(self) -> None:
        while not self._stopping.is_set():
            begun = 0
            try:
                begun = self.look()
            except AWAY as error:
                log.warning("the database is away: %s", error.args[0] if error.args else error)
                self._stopping.wait(5.0)
            except Exception:  # whatever it is, the next look may go well
                log.exception("webhooks are not sent")
                self._stopping.wait(5.0)
            if not begun:
                self._stopping.wait(POLL_SECONDS)

    def look(self) -> int:
        """Begin calls for what is due; how many."""
        with self._lock:
            now = time.monotonic()
            busy = {*self._calls, *(hook for hook, (_, until) in self._rests.items() if until > now)}
            free = AT_ONCE - len(self._calls)
        taken = webhooks.claim(self.store, free, busy) if free > 0 else []
        for delivery in taken:
            thread = threading.Thread(target=self._call, args=(delivery,), name=delivery.id, daemon=True)
            with self._lock:
                self._calls[delivery.hook] = thread
            thread.start()
        return len(taken)

    def _call(self, delivery: Delivery) -> None:
        try:
            why, wait = attempt(delivery)
            with self._lock:
                failures = 0 if why is None else self._rests.get(delivery.hook, (0, 0.0))[0] + 1
                rest = min(REST_SECONDS, 2.0 ** min(failures, 9) - 1)
                self._rests[delivery.hook] = failures, time.monotonic() + rest
            if why is None:
                webhooks.delivered(self.store, delivery)
            elif webhooks.failed(self.store, delivery, why, wait):
                log.warning("webhook %s: %s, attempt %d: %s", delivery.hook, delivery.id, delivery.attempt, why)
            else:
                log.error("webhook %s: %s is given up: %s", delivery.hook, delivery.id, why)
        except AWAY as error:  # the message comes back when its lease is over
            log.warning("the database is away: %s", error.args[0] if error.args else error)
        except Exception:
            log.exception("webhook %s: %s", delivery.hook, delivery.id)
        finally:
            with self._lock:
                del self._calls[delivery.hook]


def attempt(delivery: Delivery) -> tuple[str | None, float]:
    """Send a message once. (None, 0) if the receiver has it, else why not, and the seconds to the next attempt."""
    wait = pause(delivery.attempt)
    try:
        status, asked = call(delivery)
    except FAULTS as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", wait
    if 200 <= status < 300:
        return None, 0.0
    if status == 410:
        return "answers with 410: it wants no more of this", math.inf
    if status in (429, 503) and asked.isascii() and asked.isdecimal() and len(asked) < 7:
        wait = max(wait, min(LONGEST_SECONDS, float(asked)))
    return f"answers with {status}", wait


def call(delivery: Delivery) -> tuple[int, str]:
    """Post a message: the status that it is answered with, and what `retry-after` says. Raises one of FAULTS."""
    parts = urlsplit(delivery.url)
    webhooks.check_url(delivery.url, delivery.private)
    with calling(parts, CALL_SECONDS, private=delivery.private) as connection:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", path, delivery.body.encode(), webhooks.headers(delivery))
        answer = connection.getresponse()  # its body is of no interest, and redirects are not followed
        return answer.status, answer.headers.get("retry-after", "")


def pause(attempt: int) -> float:
    """Seconds from one attempt, from 1, to the next: three times as long each time, give or take a quarter."""
    return min(LONGEST_SECONDS, FIRST_SECONDS * 3.0 ** min(attempt - 1, 20)) * random.uniform(1 - JITTER, 1 + JITTER)
