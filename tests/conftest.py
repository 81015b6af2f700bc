"""What several tests use: a clip whose picture and sound are known, and torch on few threads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from local_postgres import Cluster, binaries

from phonofilm.clip import Audio, Clip

FPS, RATE = 16, 16_000

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # they share the cores; before torch is imported
    share = str(max(1, (os.cpu_count() or 1) // int(workers)))
    os.environ.update(OMP_NUM_THREADS=share, MKL_NUM_THREADS=share)


def flash_clip(
    frames: int = 32, width: int = 128, height: int = 128, at: int = 12, *, channels: int = 1, rate: int = RATE
) -> Clip:
    """Four flat colours; frame `at` is white, and during it a 1 kHz beep is heard."""
    colours = np.array([[(200, 60, 40), (40, 160, 80)], [(50, 70, 190), (190, 180, 60)]], np.uint8)
    picture = colours.repeat(-(-height // 2), 0)[:height].repeat(-(-width // 2), 1)[:, :width]
    movie = np.repeat(picture[None], frames, 0)
    movie[at] = 255
    time = np.arange(round(frames * rate / FPS)) / rate
    beep = np.where((time >= at / FPS) & (time < (at + 1) / FPS), 0.6 * np.sin(2 * np.pi * 1000 * time), 0)
    return Clip(movie, FPS, Audio(np.repeat(beep[None].astype(np.float32), channels, 0), rate))


def onsets(clip: Clip) -> tuple[float, float]:
    """Seconds at which the flash is first seen and the beep is first heard."""
    seen = clip.frames[:, clip.height // 2 :].mean((1, 2, 3)) > 190
    assert clip.audio is not None
    heard = np.abs(clip.audio.samples).max(0) > 0.2
    assert seen.any() and heard.any()
    return float(seen.argmax() / clip.fps), float(heard.argmax() / clip.audio.sample_rate)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of each test's own, so that none signs with the key of whoever runs it."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("PHONOFILM_HOME", str(folder))
    for name in ("PHONOFILM_SIGN_KEY", "PHONOFILM_SIGN_CHAIN", "PHONOFILM_TRUST"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny checkpoint of an open model by key (see `tiny_open`)."""
    from tiny_open import shelf

    return shelf(tmp_path_factory.mktemp)


@pytest.fixture
def clip() -> Clip:
    return flash_clip()


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a piece of Python in a fresh process, with the package on its path."""

    def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = [p for p in sys.path if p.endswith(("src", "scripts"))]
        start = f"import sys; sys.path[:0] = {path!r}\n"
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", start + code, *arguments], capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL server for this session, which does not wait for the disk."""
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed: no initdb in $PATH, at pg_config or the usual places")
    with Cluster(durable=False) as cluster:
        yield cluster
