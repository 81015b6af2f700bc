"""A server to test against: as a process with its worker, or in this process without one."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
from fastapi.testclient import TestClient

from phonofilm.jobs.job import Job
from phonofilm.serve.app import create_app
from phonofilm.serve.config import Config
from phonofilm.serve.policy import Hook
from phonofilm.serve.service import Service

HOST = "http://127.0.0.1"
PATIENCE = 240.0  # seconds, for machines that are busy with other things


@contextlib.contextmanager
def running(folder: Path, *options: str, model: str = "fake", port: int | None = None) -> Iterator[str]:
    """`phonofilm serve` with a worker, its home and data in `folder`: the URL at which it answers."""
    port = port or free_port()
    command = [sys.executable, "-m", "phonofilm.cli", "serve", "--model", model, "--port", str(port)]
    command += ["--data-dir", str(folder / "data"), *options]
    environment = {**os.environ, "PHONOFILM_HOME": str(folder / "home")}
    with (folder / "log").open("wb") as log, subprocess.Popen(command, env=environment, stderr=log) as process:
        try:
            yield _when_ready(f"{HOST}:{port}", process, folder / "log")
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _when_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + PATIENCE
    with httpx2.Client(timeout=PATIENCE) as client:
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(httpx2.TransportError):
                if client.get(f"{url}/readyz").status_code == 200:
                    return url
            time.sleep(0.3)
    raise RuntimeError(f"the server did not get ready:\n{log.read_text()[-4000:]}")


class Doors(TestClient):
    """The app in this process, without a worker; `film` does what one would have done."""

    def __init__(self, folder: Path, hook: Hook | None = None, **config: Any) -> None:
        given = {"model": "fake", "models": ("fake", "native"), **config}
        app = create_app(Config(folder=folder, **given), hook)
        self.service: Service = app.state.service
        super().__init__(app, HOST, raise_server_exceptions=False)

    def begin(self, id: str) -> Job:
        """A worker takes the job."""
        queued = self.service.store.get(id)
        assert queued is not None
        job = self.service.store.begin(id, queued.ticket, "a worker")
        assert job is not None
        return job

    def film(self, id: str, content: bytes = bytes(range(256)) * 8, seconds: float = 3.0) -> bytes:
        """A worker takes the job and publishes `content` as its film, so many seconds long."""
        job, files = self.begin(id), {}
        for variant, ending in (("video", "mp4"), ("thumbnail", "jpg"), ("spritesheet", "png")):
            made = self.service.config.folder / f"{id}.{ending}"
            made.write_bytes(content if variant == "video" else variant.encode())
            files[variant] = f"films/{id}/1/{variant}.{ending}"
            self.service.storage.put(made, files[variant])
        assert self.service.store.publish(job, files, {"total_energy_j": 1.5, "film_seconds": seconds}, [])
        return content


@contextlib.contextmanager
def doors(folder: Path, hook: Hook | None = None, **config: Any) -> Iterator[Doors]:
    with Doors(folder, hook, **config) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
