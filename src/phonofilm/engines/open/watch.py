"""A pipeline under watch: progress, cancelling, the meter's stages; and what it returns as arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from phonofilm.energy import Meter
from phonofilm.engines.engine import Hooks, Progress
from phonofilm.errors import Cancelled, PhonofilmError

if TYPE_CHECKING:
    import torch

DECODER: Final = ("vae", "video_vae")


class Watch:
    """Progress, cancelling, and the stages of the meter, from the pipeline's own progress bar and forward passes."""

    def __init__(self, hooks: Hooks, meter: Meter, steps: int) -> None:
        self.hooks, self.meter, self.steps = hooks, meter, steps
        self.done = 0
        self._stage = contextlib.ExitStack()
        self._name = ""

    @contextlib.contextmanager
    def on(self, pipe: Any) -> Iterator[None]:
        import torch

        parts = [part for name, part in _components(pipe).items() if isinstance(part, torch.nn.Module)]
        named = networks(pipe)
        decoders = [part for name, part in _components(pipe).items() if name in DECODER and part is not None]
        handles = [part.register_forward_pre_hook(self._step) for part in named]
        handles += [part.register_forward_pre_hook(self._watch) for part in parts if part not in named]
        owners = [pipe, *_blocks(pipe)]
        decodes = [(part, part.decode) for part in decoders if hasattr(part, "decode")]
        for owner in owners:
            owner.progress_bar = self._bar
        for part, decode in decodes:
            part.decode = self._decoding(decode)
        self._enter("condition")
        try:
            yield
        finally:
            self._stage.close()
            for handle in handles:
                handle.remove()
            for part, _ in decodes:
                del part.decode
            for owner in owners:
                del owner.progress_bar

    def _enter(self, name: str) -> None:
        if name != self._name:
            self._stage.close()
            self._stage.enter_context(self.meter.stage(name))
            self._name = name

    def _watch(self, *_: Any) -> None:
        if self.hooks.cancelled():
            raise Cancelled("the generation was cancelled")

    def _step(self, *_: Any) -> None:
        self._watch()
        if self._name == "condition":
            self._enter("denoise")

    def _decoding(self, decode: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            self._watch()
            if self.done:  # an image that is given is decoded before, in some pipelines
                self._enter("decode")
                self.hooks.progress(Progress("decode", 0, 1))
            return decode(*args, **options)

        return run

    def _bar(self, iterable: Any = None, total: int | None = None) -> Any:
        self.steps = total or (len(iterable) if isinstance(iterable, Sequence) else self.steps)
        return _Steps(self, iterable)

    def advance(self, count: int = 1) -> None:
        self.done += count
        self.hooks.progress(Progress("denoise", min(self.done, self.steps), max(self.done, self.steps)))
        self._watch()


class _Steps:
    """What stands for tqdm."""

    def __init__(self, watch: Watch, iterable: Any) -> None:
        self._watch, self._iterable = watch, iterable

    def __enter__(self) -> _Steps:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __iter__(self) -> Iterator[Any]:
        for item in self._iterable:
            yield item
            self._watch.advance()

    def update(self, count: int = 1) -> None:
        self._watch.advance(int(count or 1))

    def set_postfix(self, *_: Any, **__: Any) -> None: ...


def networks(pipe: Any) -> list[Any]:
    """The networks that denoise: one, or one for each range of noise levels."""
    return [part for name, part in _components(pipe).items() if name.startswith("transformer") and part is not None]


def _components(pipe: Any) -> dict[str, Any]:
    found: dict[str, Any] = dict(pipe.components)
    return found


def _blocks(pipe: Any) -> list[Any]:
    """All blocks of a modular pipeline: each has a progress bar of its own."""
    found: list[Any] = []
    todo = [pipe.blocks] if hasattr(pipe, "blocks") else []
    while todo:
        block = todo.pop()
        found.append(block)
        todo += list(getattr(block, "sub_blocks", {}).values())
    return found


def to_frames(found: Any) -> np.ndarray:
    """(T, H, W, 3) uint8, of arrays, tensors or images of a batch of one, in [0, 1] or 0..255."""
    first = found[0] if isinstance(found, list | tuple) or getattr(found, "ndim", 4) > 4 else found
    if isinstance(first, list | tuple):
        first = np.stack([np.asarray(image) for image in first])
    frames = np.asarray(first.float().cpu() if hasattr(first, "cpu") else first)
    if frames.ndim == 5:
        frames = frames[0]
    if frames.shape[-1] != 3 and frames.shape[1] == 3:
        frames = frames.transpose(0, 2, 3, 1)
    if frames.dtype != np.uint8:
        if not np.isfinite(frames).all():
            raise PhonofilmError("the model made values that are not numbers: try another precision")
        frames = (frames.clip(0, 1) * 255).round().astype(np.uint8)
    return frames


def to_samples(sound: torch.Tensor | np.ndarray) -> np.ndarray:
    """(C, N) float32 in [-1, 1]."""
    samples = np.asarray(sound.float().cpu() if hasattr(sound, "cpu") else sound, dtype=np.float32)  # type: ignore[union-attr]
    samples = samples[0] if samples.ndim == 3 else samples.reshape(-1, samples.shape[-1])
    return samples.clip(-1, 1)
