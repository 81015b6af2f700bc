"""A PostgreSQL server of one's own, for a test: made in a temporary folder, and gone afterwards."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PLACES = ("/usr/lib/postgresql", "/usr/local", "/opt/homebrew/opt", "/usr")  # below them: …/bin/initdb
PATTERNS = ("*/bin/initdb", "bin/initdb", "pgsql/bin/initdb", "postgresql*/bin/initdb", "pgsql-*/bin/initdb")


def binaries() -> Path | None:
    """The folder of `initdb` and `postgres`: in $PATH, where `pg_config` says, or where packages put it."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    if tool := shutil.which("pg_config"):
        told = subprocess.run([tool, "--bindir"], capture_output=True, text=True, check=False).stdout.strip()
        if told and (Path(told) / "initdb").exists():
            return Path(told)
    for place in PLACES:
        for pattern in PATTERNS:
            if versions := sorted(Path(place).glob(pattern)):
                return versions[-1].parent
    return None


class Cluster:
    """A running server. `initdb` refuses root, so that root's clusters belong to the user `postgres`, or `nobody`."""

    def __init__(self, port: int = 0, *, durable: bool = True) -> None:
        """port: 0 takes a free one. durable: False does without waiting for the disk. RuntimeError if it fails."""
        found = binaries()
        if found is None:
            raise RuntimeError("PostgreSQL is not installed here: no initdb in $PATH, at pg_config or the usual places")
        self.bin, self.port = found, port or free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="phonofilm-postgres."))
        self.user = _user()
        if self.user:
            shutil.chown(self.folder, self.user)
        self._log = self.folder / "log"
        self._run(
            "initdb", "--pgdata", str(self.folder / "data"), "--auth", "trust", "--username", "phonofilm", "-E", "UTF8"
        )
        self._options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder}"
        if not durable:
            self._options += " -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
        self.start()
        self.url = self.database("phonofilm")

    def database(self, name: str) -> str:
        """The URL of a new database, in place of an older one of that name."""
        self._run("dropdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "phonofilm", "--if-exists", "--force", name)
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "phonofilm", name)
        return f"postgresql://phonofilm@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        self._control("start", "-l", str(self._log), "-o", self._options)

    def stop(self, mode: str = "fast") -> None:
        """mode: fast, or immediate as after a crash."""
        self._control("stop", "-m", mode)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Within, the server answers nobody, and no connection breaks."""
        first = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        family = [first, *_children(first)]
        for process in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-t", "300", *arguments)

    def _run(self, tool: str, *arguments: str) -> None:
        command = [str(self.bin / tool), *arguments]
        if self.user:
            command = ["runuser", "-u", self.user, "--", *command]
        with tempfile.TemporaryFile() as told:  # a pipe would stay open in the server
            done = subprocess.run(command, stdout=told, stderr=told, cwd=self.folder, check=False)
            told.seek(0)
            if done.returncode:
                raise RuntimeError(f"{tool} failed: {told.read().decode(errors='replace')[-2000:]}")


def _user() -> str | None:
    """Whom to become; nobody else where this process is not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise RuntimeError("PostgreSQL does not run as root, and there is no user postgres or nobody")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _children(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in found]


if __name__ == "__main__":
    with Cluster() as cluster:
        print(cluster.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(1e9)
