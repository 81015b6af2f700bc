"""An engine that makes plain films at once, and fails when the prompt says so: to try a server, and to test one.

Words of the prompt that it obeys: "sleep=SECONDS" (over all steps), "fail" (an error that may pass), "fail_once" (the
first time in this process), "refuse" (the input is wrong), "die" (the process ends as if it was killed).
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

import numpy as np

from phonofilm.energy import Meter, Receipt
from phonofilm.engines.catalogue import CATALOGUE
from phonofilm.engines.engine import Capabilities, Chunk, Hooks, Progress
from phonofilm.errors import Cancelled, InputError, PhonofilmError
from phonofilm.request import Request

STEPS: Final = 4


class FakeEngine:
    """A colour that depends on prompt and seed, with a bar that moves, and a tone."""

    def __init__(self) -> None:
        self._failed: set[str] = set()

    @property
    def capabilities(self) -> Capabilities:
        return CATALOGUE["fake"]

    def generate(self, request: Request, hooks: Hooks | None = None) -> Iterator[Chunk]:
        """Chunks of one clip; see the words that it obeys."""
        self.capabilities.check(request)
        return self._generate(request, hooks or Hooks())

    def _generate(self, request: Request, hooks: Hooks) -> Iterator[Chunk]:
        words = request.prompt.split()
        found = re.search(r"sleep=([0-9.]+)", request.prompt)
        pause = float(found[1]) / STEPS if found else 0.0
        with Meter() as meter:
            frames, samples = self._film(request)
            for step in range(STEPS):
                with meter.stage("denoise"):
                    time.sleep(pause)
                hooks.progress(Progress("denoise", step + 1, STEPS))
                if hooks.cancelled():
                    raise Cancelled("the generation was cancelled")
                if hooks.preview is not None:
                    hooks.preview(frames)
            if "die" in words:
                os.kill(os.getpid(), signal.SIGKILL)
            if "refuse" in words:
                raise InputError("the fake engine refuses this prompt")
            if "fail" in words or ("fail_once" in words and request.prompt not in self._failed):
                self._failed.add(request.prompt)
                raise PhonofilmError("the fake engine fails on this prompt")
        c = self.capabilities
        receipt = Receipt.of(meter, asdict(request), request.seed, "0" * 64)
        yield Chunk(frames, None if request.picture else samples, c.fps, c.sample_rate, receipt)

    def _film(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        width, height = request.pixels
        count = 1 if request.picture else round(request.seconds * self.capabilities.fps)
        draw = np.random.default_rng([request.seed, *request.prompt.encode()])
        frames = np.broadcast_to(draw.integers(60, 200, 3).astype(np.uint8), (count, height, width, 3)).copy()
        for t in range(count):
            frames[t, :, t * 2 % width] = 255
        rate = self.capabilities.sample_rate
        clock = np.arange(round(count / self.capabilities.fps * rate)) / rate
        tone = 0.2 * np.sin(2 * np.pi * float(draw.integers(200, 800)) * clock)
        return frames, tone.astype(np.float32)[None]
