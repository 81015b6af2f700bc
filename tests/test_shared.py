"""Work that is shared among processes: in order, with tools of their own, and none outlives who asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import make_weights

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


FILMING = """
import os
from pathlib import Path
from phonofilm.train.footage import film_playhouse

if __name__ == "__main__":
    folder = Path(os.environ["FOLDER"])
    film_playhouse(folder / "weights", folder / "films", 100_000, workers=2)
"""


def filming(folder: Path) -> bool:
    return len([part for part in (folder / "films").glob("*-of-02") if list(part.glob("0*.safetensors"))]) == 2


def waiting(folder: Path) -> bool:
    return len([path for path in folder.iterdir() if path.name.isdigit()]) == 2


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for children there")
@pytest.mark.parametrize(("script", "begun"), [(WAITING, waiting), (FILMING, filming)])
def test_workers_end_with_a_parent_that_is_killed(script: str, begun: Callable[[Path], bool], tmp_path: Path) -> None:
    """Those who filmed filmed the same groups once more, beside the workers of the next training."""
    make_weights(tmp_path / "weights")
    (tmp_path / "script.py").write_text(script)
    paths = os.pathsep.join(p for p in sys.path if p.endswith("src"))
    env = {**os.environ, "FOLDER": str(tmp_path), "PYTHONPATH": paths}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "script.py")], env=env)
    try:
        assert _comes_true(lambda: begun(tmp_path)), "they did not begin"
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        workers = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert len(workers) == 2
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
