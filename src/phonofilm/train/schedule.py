"""How much is left of a training, and what that means for the learning rate."""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Plan:
    """A budget, in steps or in hours, spent as warm-up, a constant learning rate and a linear decay to 0.

    Before the decay begins the training may be extended with a longer plan and nothing is lost (2405.18392).
    """

    steps: int | None = None  # the budget in optimizer steps: one of the two is given
    hours: float | None = None  # the budget in hours of training
    warmup: int = 100  # steps over which the rate rises from 0
    decay: float = 0.35  # the last share of the budget, over which the rate falls to 0
    until: float | None = None  # seconds since the epoch: with `hours`, those before this instant, whatever they hold

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.hours is None):
            raise ValueError(f"a plan has either steps or hours, got steps={self.steps} and hours={self.hours}")
        if not (self.steps or self.hours or 0) > 0:
            raise ValueError(f"a plan of {self.steps or self.hours} is not possible: it must be above 0")
        if not 0 <= self.decay <= 1 or self.warmup < 0:
            raise ValueError(f"decay {self.decay} must be in [0, 1] and warmup {self.warmup} at least 0")

    def spent(self, step: int, seconds: float) -> float:
        """The share of the budget spent after `step` steps in `seconds`: 1 or more is the end."""
        if self.until is not None and self.hours is not None:
            return 1 - (self.until - time.time()) / (3600 * self.hours)
        return step / self.steps if self.steps is not None else seconds / (3600 * (self.hours or 1.0))

    def decaying(self, step: int, seconds: float) -> bool:
        return self.spent(step, seconds) > 1 - self.decay

    def rate(self, step: int, seconds: float) -> float:
        """Factor of the learning rate, in [0, 1], for the step that follows `step` steps."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        left = min(1.0, max(0.0, 1 - self.spent(step, seconds)))
        return warm * min(1.0, left / self.decay) if self.decay else warm

    def longer_than(self, other: Plan) -> bool:
        """True if this is the other plan with more of the same budget."""
        for mine, its in ((self.steps, other.steps), (self.hours, other.hours)):
            if mine is not None and its is not None:
                return mine > its
        return True  # steps against hours: a new plan


class Clock:
    """Seconds spent on training. A process that was stopped for a while does not pay for it.

    A step counts for at most three times the median of the last ones.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self._recent: deque[float] = deque(maxlen=32)

    def add(self, duration: float) -> float:
        """Count a step of `duration` seconds; returns what it counted for."""
        if len(self._recent) >= 8:
            duration = min(duration, 3 * statistics.median(self._recent))
        self._recent.append(duration)
        self.seconds += duration
        return duration


def bucket(value: float, edges: tuple[float, ...]) -> int:
    """Index of the interval [edges[i], edges[i + 1]) that holds `value`; the last one is closed."""
    for i, (low, high) in enumerate(pairwise(edges)):
        if low <= value < high:
            return i
    return len(edges) - 2
