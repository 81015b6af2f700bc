"""Throw mutated and hostile files at what uploads pass through: `python scripts/fuzz_media.py --files 10000`.

Each file goes through `Uploads.take`, as the server calls it: sniffed, decoded in a confined process, kept or refused.
Starting Python for each takes most of the time; so the confined processes are forked off one that has all modules
loaded, and lower their limits as ever. `--real` starts them as the server does. Counted is how each file was answered;
a failure is what must not be: another error than a clean refusal, a bait that was opened or called, code of a file that
ran, a process beyond its limits, files left behind.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from hostile_media import Bait, corpus, valid

from phonofilm.errors import InputError, MediaError
from phonofilm.jobs.schema import database_url
from phonofilm.jobs.storage import Storage
from phonofilm.jobs.store import Store
from phonofilm.media import Limits, sandbox
from phonofilm.serve.config import UPLOAD
from phonofilm.serve.policy import Policy
from phonofilm.serve.uploads import Uploads

CANARY = "CANARY-b7f1"
KINDS = ("image", "video", "audio")


@dataclass
class Report:
    """How files were answered, and what must not be."""

    files: int = 0
    answers: Counter[str] = field(default_factory=Counter)  # accepted, refused, or why the child ended badly
    failures: dict[str, str] = field(default_factory=dict)  # what went wrong, by file
    ended: dict[str, str] = field(default_factory=dict)  # files whose child ended badly, and how
    slowest: float = 0.0  # seconds for one file
    child_mib: float = 0.0  # resident, of the largest child
    child_cpu: float = 0.0  # seconds of the one that worked longest
    own_mib: float = 0.0  # resident, of this process, which stands for the server's


def fuzz(
    folder: Path, files: int, seed: int = 0, *, real: bool = False, limits: Limits = UPLOAD,
    told: Callable[[Report], None] = lambda _: None,
) -> Report:  # fmt: skip
    """Send so many files. real: start each decoder as the server does. told: hears of every thousandth file."""
    report = Report()
    scratch = folder / "tmp"
    scratch.mkdir(parents=True)
    old, tempfile.tempdir = tempfile.tempdir, str(scratch)
    try:
        with (
            _baits(folder / "bait", report) as bait,
            _decoders(folder, report, real=real),
            _uploads(folder, limits) as up,
        ):
            for name, data in islice(corpus(bait, seed), files):
                _send(up, name, data, report)
                if report.files % 1000 == 0:
                    told(report)
        if left := [path.name for path in scratch.iterdir()]:
            report.failures["afterwards"] = f"left behind: {left[:5]}"
    finally:
        tempfile.tempdir = old
    report.own_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if real:
        report.child_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    if report.child_mib > limits.memory_bytes / 2**20:
        report.failures["memory"] = f"a child had {report.child_mib:.0f} MiB"
    if report.child_cpu > limits.cpu_seconds + 2:
        report.failures["time"] = f"a child worked for {report.child_cpu:.1f} s"
    return report


def _send(uploads: Uploads, name: str, data: bytes, report: Report) -> None:
    report.files += 1
    began = time.monotonic()
    try:
        uploads.take(data, "ann", KINDS, "input_reference")
        answer = "accepted"
    except InputError as error:
        answer = _answer(str(error))
        if re.search(rf"{CANARY}|root:|Traceback|{re.escape(tempfile.gettempdir())}", str(error)) or "\n" in str(error):
            report.failures[name] = f"told too much: {error}"
    except Exception:
        answer = "error"
        report.failures[name] = traceback.format_exc()
    if answer not in ("accepted", "refused"):
        report.ended[name] = answer
    report.answers[answer] += 1
    report.slowest = max(report.slowest, time.monotonic() - began)


def _answer(told: str) -> str:
    if found := re.search(r"the decoder gave up \((signal \d+|code -?\d+)\)", told):
        return f"child ended with {found[1]}"
    if "took too long" in told:
        return "child took too long"
    return "child was out of memory" if "of memory to decode" in told else "refused"


@contextmanager
def _uploads(folder: Path, limits: Limits) -> Iterator[Uploads]:
    def fetch(url: str) -> bytes:
        raise AssertionError(f"nothing is fetched here, not even {url}")

    with Store(database_url(None, folder / "data")) as store:
        yield Uploads(store, Storage(str(folder / "files")), limits, fetch, Policy(store))


# --- baits ----------------------------------------------------------------------------------------------------------
@contextmanager
def _baits(folder: Path, report: Report) -> Iterator[Bait]:
    """Files that nobody may open, a port that nobody may call; fails the report where somebody does."""
    folder.mkdir()
    made = valid()
    contents = {"a.mp4": made["mp4"], "a.png": made["png"], "a.wav": made["wav"], "a.txt": CANARY.encode()}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    files = tuple(folder / name for name in contents)
    with socket.create_server(("127.0.0.1", 0)) as server, _Opened(files) as opened:
        server.setblocking(False)
        yield Bait(files, server.getsockname()[1], folder / "marker")
        for path in opened.seen():
            report.failures[f"bait {path.name}"] = "was opened"
        try:
            server.accept()
            report.failures["bait port"] = "was called"
        except BlockingIOError:
            pass
    if (folder / "marker").exists():
        report.failures["bait marker"] = "code of a file ran"


class _Opened:
    """Which files were opened, by whomever (inotify, Linux)."""

    def __init__(self, files: tuple[Path, ...]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK)
        self._files = {
            self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), 0x21): path for path in files
        }  # IN_ACCESS | IN_OPEN
        if min(self._files, default=-1) < 0:
            raise OSError(ctypes.get_errno(), "cannot watch the baits")

    def seen(self) -> set[Path]:
        found: set[Path] = set()
        try:
            while events := os.read(self._descriptor, 1 << 16):
                at = 0
                while at < len(events):
                    watch, _, _, length = struct.unpack_from("iIII", events, at)
                    found.add(self._files[watch])
                    at += 16 + length
        except BlockingIOError:
            pass
        return found

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


# --- decoders -------------------------------------------------------------------------------------------------------
@contextmanager
def _decoders(folder: Path, report: Report, *, real: bool) -> Iterator[None]:
    if real:
        yield
        return
    start, nursery = sandbox.run_apart, _Nursery(report, folder / "stderr")
    sandbox.run_apart = nursery.run_apart
    try:
        yield
    finally:
        sandbox.run_apart = start
        nursery.close()


class _Nursery:
    """Stands in for `sandbox.run_apart`: the same confined process, forked off one in which all is imported."""

    def __init__(self, report: Report, errors: Path) -> None:
        self.report = report
        keep = {"PATH": os.environ.get("PATH", ""), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        path = os.pathsep.join(entry for entry in sys.path if entry)
        with errors.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, "--nursery"], env={**keep, "PYTHONPATH": path}, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip

    def run_apart(self, module: str, folder: Path, limits: Limits, path: str) -> dict[str, Any]:
        assert module == sandbox.__name__
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps([str(folder), 2 * limits.cpu_seconds + 30]), file=self._process.stdin, flush=True)
        status, mib, cpu = json.loads(self._process.stdout.readline())
        self.report.child_mib, self.report.child_cpu = max(self.report.child_mib, mib), max(self.report.child_cpu, cpu)
        answer = folder / "report.json"
        if status is None:
            raise MediaError(f"{path}: took too long to decode")
        if status or not answer.is_file():
            why = f"signal {-status}" if status < 0 else f"code {status}"
            raise MediaError(f"{path}: the decoder gave up ({why}); the file is damaged or exceeds the limits")
        told: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return told

    def close(self) -> None:
        self._process.communicate()


def nursery() -> None:
    """The other side: for each line on stdin a confined process; answers with its status, MiB and CPU seconds."""
    import av  # noqa: F401
    from PIL import Image, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401

    for line in sys.stdin:
        folder, seconds = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.chdir(folder)
                quiet = os.open(os.devnull, os.O_RDWR)
                os.dup2(quiet, 0)
                os.dup2(quiet, 1)
                sandbox.main(Path(folder))
                status = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)
        end, late = time.monotonic() + seconds, False
        while not (found := os.wait4(child, os.WNOHANG))[0]:
            if time.monotonic() > end and not late:
                os.kill(child, signal.SIGKILL)
                late = True
            time.sleep(0.001)
        _, status, used = found
        code = None if late else os.waitstatus_to_exitcode(status)
        print(json.dumps([code, used.ru_maxrss / 1024, used.ru_utime + used.ru_stime]), flush=True)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--files", type=int, default=10_000)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--real", action="store_true", help="start each decoder as the server does (slow)")
    p.add_argument("--nursery", action="store_true", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.nursery:
        nursery()
        return 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="phonofilm-fuzz.") as folder:
        report = fuzz(
            Path(folder), a.files, a.seed, real=a.real, told=lambda r: print(r.files, dict(r.answers), flush=True)
        )
        errors = Path(folder) / "stderr"
        last = errors.read_text(errors="replace")[-4000:] if errors.exists() else ""
    print(f"{report.files} files in {time.monotonic() - began:.0f} s: {dict(report.answers)}")
    print(
        f"slowest {report.slowest:.1f} s; largest child {report.child_mib:.0f} MiB, {report.child_cpu:.1f} s of CPU at "
        f"most; this process {report.own_mib:.0f} MiB"
    )
    for name, how in report.ended.items():
        print(f"  {how}: {name}")
    for name, told in report.failures.items():
        print(f"FAILED {name}: {told}")
    if last:
        print(f"what children said last:\n{last}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
