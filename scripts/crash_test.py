"""Kill API and workers at random while films are made, and see that nothing is lost, done twice, torn or stuck.

    python scripts/crash_test.py                                      # SQLite, one worker
    python scripts/crash_test.py --postgres --workers 2               # a PostgreSQL server of its own
    python scripts/crash_test.py --database-url postgresql://… --workers 2

The API is `phonofilm serve`. On SQLite it runs its own worker, which it starts again; elsewhere the workers stand
beside it, as on other machines. What is killed gets SIGKILL; what is dead is started again, as a supervisor would.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import sqlalchemy as sa
from local_postgres import Cluster, free_port
from processes import PATIENCE, Processes, children
from receiver import Receiver

from phonofilm.jobs import keys, schema, webhooks
from phonofilm.jobs.job import AGAIN
from phonofilm.jobs.storage import Storage
from phonofilm.jobs.worker import RETRIES

AHEAD = 50  # jobs that are created before their turn
OWNERS = 3
AT_ONCE = ("--at-once", "2")


@dataclass
class Report:
    """What was found. The first seven must be 0."""

    lost: int = 0  # ids that a create call answered with, and that are not known any more
    stuck: int = 0  # jobs that did not end
    twice: int = 0  # jobs that do not have exactly one event of their end
    torn: int = 0  # films that were served with other bytes than are stored, or changed, or do not verify
    wrong: int = 0  # jobs that ended otherwise than their prompt asks, or calls that made two
    left: int = 0  # files that belong to no execution that was published
    unheard: int = 0  # ends of jobs that no webhook told of, or none with a signature that is good
    jobs: int = 0
    kills_api: int = 0
    kills_worker: int = 0
    interrupted: int = 0  # executions whose worker was killed
    heard: int = 0  # messages by webhook, again and again included
    downloads: int = 0
    verified: int = 0  # signatures
    ends: dict[str, int] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)  # what ended otherwise than asked
    takeovers: list[float] = field(default_factory=list)  # seconds from a kill to the next execution of the job
    attempts: int = 0  # executions
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return not (self.lost or self.stuck or self.twice or self.torn or self.wrong or self.left or self.unheard)

    def __str__(self) -> str:
        slow = f"{max(self.takeovers):.1f} s" if self.takeovers else "none"
        return (
            f"{self.jobs} jobs, {self.attempts} executions, {self.interrupted} of them interrupted; "
            f"killed: API {self.kills_api}×, worker {self.kills_worker}×; {self.seconds:.0f} s\n"
            f"lost {self.lost}, stuck {self.stuck}, finished twice {self.twice}, torn {self.torn}, wrong {self.wrong}, "
            f"files left over {self.left}, ends that no webhook told of {self.unheard} ({self.heard} messages)\n"
            f"{self.downloads} downloads, {self.verified} signatures verified; longest takeover {slow}; "
            f"ends: {self.ends}"
        )


class Chaos:
    """One run. After `run`, `report` says what was found."""

    def __init__(
        self, folder: Path, database: str | None, *, jobs: int, kills: int, workers: int, seed: int, verify: int
    ) -> None:
        self.jobs, self.kills, self.workers, self.verify = jobs, kills, workers, verify
        self.draw = random.Random(seed)
        self.processes = Processes(folder, database)
        self.embedded = database is None
        self.storage = Storage(str(folder / "data" / "files"))
        self.port = free_port()
        self.report = Report()
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.made: dict[str, str] = {}  # id → prompt, of the jobs that were answered
        self.cancelled: set[str] = set()
        self.sums: dict[str, str] = {}  # id → SHA-256 of the film as it was served
        self.interrupted: dict[tuple[str, int], float] = {}  # (job, execution) whose worker was killed, and when
        self.places: list[subprocess.Popen[bytes] | None] = [None] * (1 if self.embedded else 1 + workers)
        self.client = httpx2.Client(timeout=60)
        self.receiver = Receiver()
        self.receiver.answers = random.Random(seed).choices((204, 500), (9, 1), k=100 * jobs)
        _, self.secret = webhooks.add(self.processes.store, self.receiver.url, private=True)
        self.keys = [keys.create(self.processes.store, f"owner{k}")[1] for k in range(OWNERS)]

    # --- those who call ---------------------------------------------------------------------------------------------
    def call(self, method: str, path: str, key: str, **more: Any) -> httpx2.Response | None:
        """None: nobody answered, or not to the end."""
        headers = {"authorization": f"Bearer {key}", **more.pop("headers", {})}
        try:
            return self.client.request(method, f"http://127.0.0.1:{self.port}{path}", headers=headers, **more)
        except httpx2.TransportError:
            return None

    def create(self) -> None:
        """Jobs, each asked for until it is answered; some under a key that makes it one job."""
        draw = random.Random(self.draw.random())
        for number in range(self.jobs):
            while number > self.ended() + AHEAD:
                time.sleep(0.1)
            long = self.jobs >= 200  # "fail" is tried again for 14 s
            word = draw.choices(("", "fail_once", "refuse", "fail"), (90, 6, 3, 1 if long else 0))[0]
            prompt = f"film {number} sleep={draw.choices((0, 0.1, 0.3, 1), (4, 3, 2, 1))[0]:g} {word}".strip()
            owner, once = draw.randrange(OWNERS), draw.random() < 0.8
            body = {"prompt": prompt, "seconds": "2", "seed": number}
            headers = {"idempotency-key": f"job{number}"} if once else {}
            while True:
                answer = self.call("POST", "/v1/videos", self.keys[owner], json=body, headers=headers)
                if answer is not None and answer.status_code == 200:
                    break
                time.sleep(0.1)
            with self.lock:
                self.made[answer.json()["id"]] = prompt
            if draw.random() < 0.03:
                self.cancelled.add(answer.json()["id"])
                self.call("POST", f"/v1/videos/{answer.json()['id']}/cancel", self.keys[owner])

    def read(self) -> None:
        """Films, again and again, as soon as they are there."""
        draw = random.Random(self.draw.random())
        while not self.over.is_set():
            with self.lock:
                ids = list(self.made)
            if ids:
                self.look(draw.choice(ids))
            time.sleep(0.1)

    def look(self, id: str) -> bool:
        """Poll a job and fetch its film. True if it was all there."""
        job = self.processes.store.get(id)
        if job is None:
            return False
        key = self.key_of(job.owner)
        answer = self.call("GET", f"/v1/videos/{id}", key)
        if answer is None or answer.status_code != 200 or answer.json()["status"] != "completed":
            return False
        film = self.call("GET", f"/v1/videos/{id}/content", key)
        if film is None or film.status_code >= 500:
            return False
        found = hashlib.sha256(film.content).hexdigest()
        now = self.processes.job(id)
        stored = b"".join(self.storage.read(now.files["video"]))
        with self.lock:
            self.report.downloads += 1
            if film.status_code != 200 or stored != film.content or self.sums.setdefault(id, found) != found:
                self.report.torn += 1
        return True

    def key_of(self, owner: str) -> str:
        if not hasattr(self, "_owners"):
            self._owners = {key.id: key.name for key in keys.every(self.processes.store)}
        return self.keys[int(self._owners[owner].removeprefix("owner"))]

    def ended(self) -> int:
        counts = self.processes.store.counts()
        return counts.get("completed", 0) + counts.get("failed", 0)

    # --- those who run and are killed -------------------------------------------------------------------------------
    def keep(self, place: int) -> None:
        """Run a process, and another when it is dead."""
        draw = random.Random(self.draw.random())
        while not self.over.is_set():
            if place == 0:
                workers = ("--workers", "1" if self.embedded else "0", *AT_ONCE)
                self.places[0], _ = self.processes.serve(*workers, port=self.port)
            else:
                self.places[place] = self.processes.worker(*AT_ONCE)
            self.places[place].wait()  # type: ignore[union-attr]
            self.over.wait(draw.uniform(0, 1))

    def victims(self) -> tuple[list[int], list[int]]:
        """Processes: of APIs, and of workers."""
        running = [process.pid for process in self.places if process is not None and process.poll() is None]
        if self.embedded:
            return running, [child for pid in running for child in children(pid)]
        api = self.places[0]
        return [pid for pid in running if api and pid == api.pid], [pid for pid in running if not api or pid != api.pid]

    def kill(self) -> None:
        """As the work goes on, at moments that nobody foresees: in the middle of a start, a film, or an answer."""
        moments = sorted(self.draw.uniform(0, 0.95 * self.jobs) for _ in range(self.kills))
        for moment in moments:
            while self.ended() < moment:
                time.sleep(0.05)
            time.sleep(self.draw.expovariate(4))
            api = self.draw.random() < 0.5
            while not (which := self.victims()[0 if api else 1]):
                time.sleep(0.01)
            victim = self.draw.choice(which)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            now = time.monotonic()
            if api:
                self.report.kills_api += 1
            else:
                self.report.kills_worker += 1
                self.note(victim, now)

    def note(self, victim: int, now: float) -> None:
        """What a killed worker was doing."""
        j = schema.jobs.c
        with self.processes.store.reading() as c:
            mine = (j.status == "in_progress") & j.worker.contains(f"-{victim}-", autoescape=True)
            for id, attempt in c.execute(sa.select(j.id, j.attempt).where(mine)):
                self.report.interrupted += 1
                self.interrupted[(id, attempt)] = now

    def watch(self) -> None:
        """How long it takes until somebody goes on with what a dead worker did."""
        while not self.over.wait(0.1):
            for (id, attempt), then in list(self.interrupted.items()):
                job = self.processes.store.get(id)
                if job is None or job.attempt > attempt or not job.open:
                    self.report.takeovers.append(time.monotonic() - then)
                    del self.interrupted[(id, attempt)]

    # --- the whole --------------------------------------------------------------------------------------------------
    def run(self) -> Report:
        began = time.monotonic()
        threads = [threading.Thread(target=act, daemon=True) for act in (self.create, self.read, self.watch)]
        threads += [threading.Thread(target=self.keep, args=(k,), daemon=True) for k in range(len(self.places))]
        for thread in threads:
            thread.start()
        try:
            self.kill()
            threads[0].join()
            self.wait()
            self.check()
        finally:
            self.over.set()
            for process in self.places:
                if process is not None:
                    process.terminate()
            for thread in threads:
                thread.join(PATIENCE)
            self.client.close()
            self.receiver.close()
            self.processes.close()
        self.report.seconds = time.monotonic() - began
        return self.report

    def wait(self) -> None:
        """Until all have ended, or none ends any more."""
        moved, last = time.monotonic(), -1
        while (counts := self.processes.store.counts()).get("queued", 0) + counts.get("in_progress", 0):
            if self.ended() != last:
                moved, last = time.monotonic(), self.ended()
            if time.monotonic() - moved > PATIENCE:
                return
            time.sleep(0.1)
        self.processes.until(lambda: not self.interrupted, "all takeovers to be seen")

    def check(self) -> None:
        store, found = self.processes.store, self.report
        with store.reading() as c:
            rows = c.execute(sa.select(schema.jobs)).mappings().all()
            e = schema.events.c
            events = c.execute(sa.select(e.id, e.data).where(e.type.like("video.%"))).all()
            told = collections.Counter(data["id"] for _, data in events)
        self.processes.until(lambda: not webhooks.sums(store).waiting, "the last webhook")
        heard = {event for event in map(self.heard, list(self.receiver.got)) if event}
        found.heard, found.unheard = len(self.receiver.got), len({id for id, _ in events} ^ heard)
        jobs = {row["id"]: row for row in rows}
        found.jobs, found.attempts = len(jobs), sum(row["attempt"] for row in rows)
        found.lost = sum(id not in jobs for id in self.made)
        found.stuck = sum(row["status"] in ("queued", "in_progress") for row in rows)
        found.twice = sum(told[id] != 1 for id in jobs) + sum(id not in jobs for id in told)
        odd = [row for row in rows if row["status"] != "completed" and not self.expected(row)]
        found.odd = [f"{row['request']['prompt']}: {row['error_code']}, {row['error_message']}" for row in odd]
        found.wrong = len(odd)
        once = [row["idempotency"] for row in rows if row["idempotency"] is not None]
        found.wrong += len(once) - len(set(once))
        found.ends = dict(collections.Counter(row["error_code"] or row["status"] for row in rows))
        known = {name for row in rows for name in row["files"].values()}
        found.left = len(set(self.storage.names("films")) ^ known)
        for id, row in jobs.items():
            if row["status"] == "completed":
                self.processes.until(lambda id=id: self.look(id), f"the film of {id}")
        self.signatures([row for row in rows if row["status"] == "completed"])

    def heard(self, message: tuple[dict[str, str], bytes]) -> str | None:
        """The id of the event that a message tells of, if its signature is good."""
        headers, body = message
        stamp, signature = int(headers["webhook-timestamp"]), headers["webhook-signature"]
        good = webhooks.sign(self.secret, headers["webhook-id"], stamp, body.decode()) == signature
        return str(json.loads(body)["id"]) if good else None

    def expected(self, row: sa.RowMapping) -> bool:
        """True if a job had to fail as it did."""
        words = row["request"]["prompt"].split()
        code = row["error_code"]
        if code == "cancelled":
            return row["id"] in self.cancelled
        if "fail_once" in words:  # once in each process: a new one for every execution, and it fails for good
            return code == "generation_failed" and sum(note.startswith(AGAIN) for note in row["notes"]) == RETRIES
        return (code == "invalid_request" and "refuse" in words) or (code == "generation_failed" and "fail" in words)

    def signatures(self, rows: list[sa.RowMapping]) -> None:
        from phonofilm.provenance import verify

        for row in random.Random(0).sample(rows, min(self.verify, len(rows))):
            with tempfile.TemporaryDirectory() as folder:
                film = self.storage.fetch(row["files"]["video"], Path(folder) / "film.mp4")
                self.report.verified += 1
                self.report.torn += verify(film).status != "signed"


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--jobs", type=int, default=500)
    p.add_argument("--kills", type=int, default=50)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--workers", type=int, default=1)
    p.add_argument("--verify", type=int, default=100, help="films whose signature is verified as well")
    p.add_argument("--database-url")
    p.add_argument("--postgres", action="store_true", help="start a PostgreSQL server for this")
    p.add_argument("--port", type=int, default=0, help="of that server")
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="phonofilm.crash.")))
        url = stack.enter_context(Cluster(a.port)).url if a.postgres else a.database_url
        chaos = Chaos(folder, url, jobs=a.jobs, kills=a.kills, workers=a.workers, seed=a.seed, verify=a.verify)
        report = chaos.run()
        print(json.dumps(asdict(report)) if a.json else report)
        if not report.good:
            log = (folder / "log").read_text(errors="replace").splitlines()
            print(
                *report.odd, *[line for line in log if '"level": "info"' not in line][-100:], sep="\n", file=sys.stderr
            )
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
