"""How many jobs a second the API accepts, and how long a poll waits while 1,000 jobs are queued. It reports, no more.

    python scripts/load_api.py                 # SQLite
    python scripts/load_api.py --postgres      # a PostgreSQL server of its own
    python scripts/load_api.py --workers 1     # with a worker that makes films meanwhile

Besides what the clock says, it reports how long the server's process was on a processor for each call: on a machine
that is busy with other things, the clock says more about those.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from local_postgres import Cluster
from processes import Processes, answers

from phonofilm.jobs import keys


class Connection:
    """One kept-alive connection that speaks as little HTTP as is needed."""

    def __init__(self, host: str, port: int, key: str | None) -> None:
        self.host, self.port = host, port
        self.common = f"host: {host}:{port}\r\n" + (f"authorization: Bearer {key}\r\n" if key else "")

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port)

    async def call(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        kind = f"content-type: application/json\r\ncontent-length: {len(body)}"
        head = f"{method} {path} HTTP/1.1\r\n{self.common}{kind}\r\n\r\n"
        self.writer.write(head.encode() + body)
        told = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(told.partition("content-length:")[2].partition("\r")[0])
        return int(told.split()[1]), await self.reader.readexactly(length)


async def load(
    connections: list[Connection], count: int, call: Callable[[int], tuple[str, str, bytes]]
) -> tuple[float, list[float], list[bytes]]:
    """Seconds for all, seconds of each, and the answers, of `count` calls, each connection one after the other."""
    numbers = iter(range(count))
    took: list[float] = []
    bodies: list[bytes] = []

    async def some(connection: Connection) -> None:
        for number in numbers:
            began = time.perf_counter()
            status, body = await connection.call(*call(number))
            took.append(time.perf_counter() - began)
            bodies.append(body)
            assert status == 200, (status, body)

    began = time.perf_counter()
    await asyncio.gather(*(some(connection) for connection in connections))
    return time.perf_counter() - began, took, bodies


def on_processor(process: int) -> float:
    """Seconds that a process has used of a processor."""
    told = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")


def told(what: str, seconds: float, took: list[float], used: float) -> None:
    cut = statistics.quantiles(took, n=100)
    count = len(took)
    print(
        f"{what}: {count} in {seconds:.2f} s = {count / seconds:.0f}/s; p50 {1000 * cut[49]:.1f} ms, "
        f"p99 {1000 * cut[98]:.1f} ms; server {1000 * used / count:.2f} ms of processor each = "
        f"{count / used:.0f}/s on one core of its own",
        flush=True,
    )


async def measure(a: argparse.Namespace, port: int, process: int, key: str | None) -> None:
    async def connected(count: int) -> list[Connection]:
        found = [Connection("127.0.0.1", port, key) for _ in range(count)]
        await asyncio.gather(*(connection.open() for connection in found))
        return found

    def create(number: int) -> tuple[str, str, bytes]:
        body = {"prompt": f"film {number}", "seconds": "2", "model": "fake", "seed": number}
        return "POST", "/v1/videos", json.dumps(body).encode()

    await load(await connected(a.connections), 50, create)  # warm up
    before = on_processor(process)
    seconds, took, bodies = await load(await connected(a.connections), a.creates, create)
    told("creates", seconds, took, on_processor(process) - before)
    ids = [json.loads(body)["id"] for body in bodies]
    for pollers in (1, a.connections):
        before = on_processor(process)
        seconds, took, _ = await load(
            await connected(pollers), a.polls, lambda number: ("GET", f"/v1/videos/{ids[number % len(ids)]}", b"")
        )
        told(f"polls by {pollers}", seconds, took, on_processor(process) - before)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--creates", type=int, default=1000, help="jobs, all of them queued when the polls begin")
    p.add_argument("--polls", type=int, default=1000)
    p.add_argument("--connections", type=int, default=8)
    p.add_argument("--workers", type=int, default=0)
    p.add_argument("--keys", action="store_true", help="call with a key, whose calls are counted")
    p.add_argument("--postgres", action="store_true")
    a = p.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="phonofilm.load.")))
        url = stack.enter_context(Cluster()).url if a.postgres else None
        here = stack.enter_context(Processes(folder, url))
        key = keys.create(here.store, "load")[1] if a.keys else None
        process, address = here.serve("--workers", str(a.workers))
        here.until(lambda: answers(f"{address}/healthz"), "the server")
        print(f"{'PostgreSQL' if a.postgres else 'SQLite'}, {a.workers} workers, load average {os.getloadavg()[0]:.1f}")
        asyncio.run(measure(a, int(address.rpartition(":")[2]), process.pid, key))


if __name__ == "__main__":
    main()
