"""Work that is shared among processes: in order, with tools of their own, and none outlives who asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from phonofilm.evaluate.shared import spread


def tools() -> int:
    return os.getpid()


def who(tool: int, item: int) -> tuple[int, int, int]:
    return tool, os.getpid(), item * item


def fail(tool: int, item: int) -> int:
    if item == 2:
        raise ValueError("two is refused")
    return item


def test_it_is_the_same_here_and_elsewhere() -> None:
    here = list(spread(who, range(4), -1))
    assert here == [(-1, os.getpid(), k * k) for k in range(4)]
    there = list(spread(who, range(4), -1, tools, 2))
    assert [found for *_, found in there] == [0, 1, 4, 9]
    assert all(tool == process != os.getpid() for tool, process, _ in there)


def test_what_fails_there_is_said_here() -> None:
    with pytest.raises(ValueError, match="two is refused"):
        list(spread(fail, range(4), 0, tools, 2))


WAITING = """
import os, time
from phonofilm.evaluate.shared import spread

def wait(tool, item):
    open(f"{tool}/{os.getpid()}", "w").close()
    time.sleep(600)

def folder():
    return os.environ["FOLDER"]

if __name__ == "__main__":
    list(spread(wait, range(2), None, folder, 2))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_workers_end_with_a_parent_that_is_killed(tmp_path) -> None:
    script, pids = tmp_path / "waiting.py", tmp_path / "pids"
    script.write_text(WAITING)
    pids.mkdir()
    paths = os.pathsep.join(p for p in sys.path if p.endswith("src"))
    parent = subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "FOLDER": str(pids), "PYTHONPATH": paths}
    )
    try:
        assert _comes_true(lambda: len(list(pids.iterdir())) == 2), "they did not begin"
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    workers = [int(path.name) for path in pids.iterdir()]
    assert _comes_true(lambda: not any(_lives(pid) for pid in workers))


def _comes_true(condition, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def _lives(pid: int) -> bool:
    """A zombie, whom nobody has reaped yet, does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
