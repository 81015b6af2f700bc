"""Decode a stranger's file in a process of its own, with bounded memory, time and files.

The child is `python -m phonofilm.media.sandbox FOLDER`: it reads FOLDER/job.json and leaves there raw frames, raw
samples and report.json. Nothing is pickled, and a decoder that crashes takes only the child with it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from phonofilm.clip import Frames, Samples
from phonofilm.errors import MediaError
from phonofilm.media.decode import Job, Report, decode
from phonofilm.media.formats import Limits


def decode_apart(job: Job) -> tuple[Report, Frames, Samples]:
    """`decode` in a child process. Returns the report, frames (T, H, W, 3) and samples (C, N), either empty."""
    with tempfile.TemporaryDirectory(prefix="phonofilm.") as name:
        folder = Path(name)
        absolute = dataclasses.replace(job, path=os.path.abspath(job.path))
        (folder / "job.json").write_text(json.dumps(dataclasses.asdict(absolute)), encoding="utf-8")
        told = run_apart("phonofilm.media.sandbox", folder, job.limits, job.path)
        if "error" in told:
            raise MediaError(told["error"].replace(absolute.path, job.path))
        report = Report(**told)
        frames = np.fromfile(folder / "frames.raw", np.uint8)
        samples = np.fromfile(folder / "sound.raw", np.float32)
    shape = (len(report.times), report.height, report.width, 3)
    # blocks of (n, C): written sample by sample, so that blocks follow one another
    return report, frames.reshape(shape), np.ascontiguousarray(samples.reshape(-1, max(1, report.channels)).T)


def run_apart(module: str, folder: Path, limits: Limits, path: str) -> dict[str, Any]:
    """Run `python -m MODULE FOLDER`, which looks at `path`; returns the FOLDER/report.json that it leaves.

    Raises MediaError if it leaves none, or takes too long.
    """
    root = str(Path(__file__).resolve().parents[2])
    keep = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if key in os.environ}
    env = {**keep, "PYTHONPATH": root, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", module, str(folder)]
    quiet = subprocess.DEVNULL
    try:
        child = subprocess.run(
            command, cwd=folder, env=env, stdin=quiet, stdout=quiet, stderr=quiet,
            timeout=2 * limits.cpu_seconds + 30, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise MediaError(f"{path}: took too long to decode") from None
    answer = folder / "report.json"
    if child.returncode != 0 or not answer.is_file():
        why = f"signal {-child.returncode}" if child.returncode < 0 else f"code {child.returncode}"
        raise MediaError(f"{path}: the decoder gave up ({why}); the file is damaged or exceeds the limits")
    told: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return told


def confine(limits: Limits) -> None:
    """Lower what this process may use; it cannot raise it again."""
    try:
        import resource
    except ImportError:  # not a Unix: the limits of `decode` itself remain
        return
    wanted = {
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_CPU: limits.cpu_seconds,
        resource.RLIMIT_FSIZE: limits.decoded_bytes + (1 << 28),
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for which, soft in wanted.items():
        hard = resource.getrlimit(which)[1]
        least = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
        try:
            resource.setrlimit(which, (least, least))
        except (ValueError, OSError):  # some systems do not know all of them
            continue


def main(folder: Path) -> None:
    """The child's side."""
    told = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    size = told["size"]
    limits = Limits(**told.pop("limits"))
    job = Job(**{**told, "limits": limits, "size": tuple(size) if isinstance(size, list) else size})
    confine(limits)
    with (folder / "frames.raw").open("wb") as frames, (folder / "sound.raw").open("wb") as sound:
        try:
            report = decode(job, lambda f: frames.write(f.tobytes()), lambda s: sound.write(s.T.tobytes()))
            answer = dataclasses.asdict(report)
        except MediaError as error:
            answer = {"error": str(error)}
        except MemoryError:
            answer = {"error": f"{job.path}: needs more than {limits.memory_bytes} bytes of memory to decode"}
    (folder / "report.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
