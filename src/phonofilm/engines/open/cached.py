"""Cached steps: where the network's answer changes little from step to step, it is continued instead of computed.

The answers of a sampler's steps move along a smooth path; the next one is the last one and its last change again
(TaylorSeer 2503.06923, first order). Whether that may be done is told by how much the last two computed answers differ
(cf. TeaCache 2411.19108). It is the whole network that is left out, so that it serves every family.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

LEAD: Final = 2  # steps at the beginning that are always computed


@dataclass
class _Past:
    """What one call of a step answered, in the last two steps that computed it."""

    answers: list[tuple[int, Any]] = field(default_factory=list)  # (step, answer), at most two, the newest last

    def add(self, step: int, answer: Any) -> None:
        self.answers = [*self.answers[-1:], (step, answer)]

    @property
    def change(self) -> float:
        """Relative change of the answer in one step; infinite where it is not known."""
        if len(self.answers) < 2:
            return float("inf")
        (before, old), (after, new) = self.answers
        moved = total = 0.0
        for a, b in zip(_tensors(old), _tensors(new), strict=True):
            if a.shape != b.shape:
                return float("inf")
            moved += float((b.float() - a.float()).abs().sum())
            total += float(b.float().abs().sum())
        return moved / max(total, 1e-12) / (after - before)

    def ahead(self, step: int) -> Any:
        """What it would answer in `step` if it went on evenly."""
        (before, old), (after, new) = self.answers
        share = (step - after) / (after - before)
        return _combine(new, old, lambda b, a: b + (b - a) * share)


class StepCache:
    """Wraps the networks of a pipeline for one film.

    threshold: largest relative change of an answer in a step with which it may be continued. most: steps in a row that
    are continued. step, steps: tell which step it is, and how many there are.
    """

    def __init__(self, threshold: float, most: int, step: Callable[[], int], steps: Callable[[], int]) -> None:
        self.threshold, self.most, self._step, self._steps = threshold, most, step, steps
        self.continued = 0  # steps
        self._pasts: dict[tuple[int, int], _Past] = {}  # by network and by which of its calls in a step
        self._now = -1
        self._skip = False
        self._row = 0
        self._calls: dict[int, int] = {}

    @contextlib.contextmanager
    def on(self, networks: list[Any]) -> Iterator[None]:
        own = [network.__dict__.get("forward") for network in networks]
        for k, network in enumerate(networks):
            network.forward = self._wrap(k, network.forward)
        try:
            yield
        finally:
            for network, forward in zip(networks, own, strict=True):
                if forward is None:
                    del network.forward
                else:
                    network.forward = forward

    def _wrap(self, k: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            if self._step() != self._now:
                self._begin(self._step(), k)
            call = self._calls.get(k, 0)
            self._calls[k] = call + 1
            past = self._pasts.setdefault((k, call), _Past())
            if self._skip and len(past.answers) == 2:
                return past.ahead(self._now)
            answer = forward(*args, **options)
            past.add(self._now, answer)
            return answer

        return run

    def _begin(self, step: int, k: int) -> None:
        """Decide whether the step that begins, with network k, is computed."""
        self._now, self._calls = step, {}
        known = [past for (network, _), past in self._pasts.items() if network == k]
        self._skip = (
            LEAD <= step < self._steps() - 1
            and self._row < self.most
            and bool(known)
            and all(past.change <= self.threshold for past in known)
        )
        self._row = self._row + 1 if self._skip else 0
        self.continued += self._skip


def _tensors(answer: Any) -> list[Any]:
    """The tensors of an answer: a tensor, or a tuple, list or mapping of answers."""
    if hasattr(answer, "shape"):
        return [answer]
    items = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, list | tuple) else ()
    return [tensor for item in items for tensor in _tensors(item)]


def _combine(new: Any, old: Any, of: Callable[[Any, Any], Any]) -> Any:
    """The same structure with `of` of each pair of tensors; all else as in `new`."""
    if hasattr(new, "shape"):
        return of(new, old)
    if isinstance(new, dict):
        made = {name: _combine(value, old[name], of) for name, value in new.items()}
        return made if type(new) is dict else type(new)(**made)
    if isinstance(new, list | tuple):
        return type(new)(_combine(a, b, of) for a, b in zip(new, old, strict=True))
    return new
