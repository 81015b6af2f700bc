"""Named tiers of quality: how much work a film may cost, where the request leaves it to the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Tier:
    """steps: share of the model's own number. threshold, most: of `open.cached.StepCache`; 0 for none."""

    steps: float = 1.0
    threshold: float = 0.0
    most: int = 0

    def of(self, steps: int) -> int:
        """How many steps, where the model's own number is `steps`."""
        return max(1, round(self.steps * steps))


TIERS: Final[Mapping[str, Tier]] = {
    "draft": Tier(0.5, 0.3, 2),
    "standard": Tier(1.0, 0.15, 1),
    "full": Tier(),
}
"""By name. Our own model has no cached steps: its standard is its full."""
