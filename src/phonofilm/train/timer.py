"""Training of the timer, on storyboards of the playhouse alone: nothing is filmed, a scene takes 3 ms.

What it will see is drawn by a network, so that the storyboards that it learns on are roughened.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from phonofilm import checkpoint
from phonofilm.clip import FORMATS
from phonofilm.model.timer import FILE, KIND, Timer, TimerConfig, load_timer
from phonofilm.playhouse.casting import draw_scene
from phonofilm.playhouse.stage import perform
from phonofilm.playhouse.storyboard import storyboard
from phonofilm.storyboard import from_tokens, to_tokens

FIRST_SEED: Final = 1_000_000  # of its scenes
CHUNK: Final = 500  # scenes that a process performs at a time
SECONDS: Final = (2.0, 2.5, 3.0, 3.0, 3.0, 3.5, 4.0)


@dataclass(frozen=True)
class TimerTraining:
    """How the timer is trained."""

    scenes: int = 100_000
    steps: int = 10_000
    batch: int = 128
    rate: float = 2e-3  # of AdamW, after `warmup` steps; it falls to nothing from `hold` on
    warmup: int = 100
    hold: float = 0.3  # share of the steps
    roughness: float = 0.35  # noise of each storyboard is drawn from U(0, roughness), in units of the strip
    ema: float = 0.995  # decay of the averaged weights, which are what is kept
    seed: int = 0
    save_steps: int = 1000


def train_timer(
    out: Path,
    recipe: TimerTraining | None = None,
    config: TimerConfig | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Timer:
    """Train a timer and write it into `out`; the same call goes on where an earlier one stopped.

    progress(step, steps, loss): after each 100 steps.
    """
    recipe, state_path = recipe or TimerTraining(), out / "timer.state"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = Timer(config)
    optimiser = torch.optim.AdamW(net.parameters(), recipe.rate, (0.9, 0.98), weight_decay=0.01)
    average = {name: x.clone() for name, x in net.state_dict().items()}
    step, described = 0, {"recipe": asdict(recipe), "config": asdict(net.config)}
    if state_path.exists():
        state = checkpoint.load_state(state_path)
        if state["of"] == described:
            net.load_state_dict(state["weights"])
            optimiser.load_state_dict(state["optimiser"])
            average, step = state["average"], state["step"]
    boards = _boards(recipe) if step < recipe.steps else {}
    loss = torch.zeros(())
    while step < recipe.steps:
        draw = torch.Generator().manual_seed(recipe.seed * 2**20 + step)
        for group in optimiser.param_groups:
            rise = min(1.0, (step + 1) / recipe.warmup)
            group["lr"] = recipe.rate * rise * min(1.0, (1 - step / recipe.steps) / (1 - recipe.hold))
        error = _error(net, boards, recipe, draw)
        optimiser.zero_grad(set_to_none=True)
        error.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        for name, x in net.state_dict().items():
            average[name].lerp_(x, 1 - recipe.ema)
        loss = error.detach() if step == 0 else torch.lerp(loss, error.detach(), 0.02)
        step += 1
        if step % recipe.save_steps == 0 or step == recipe.steps:
            state = {"weights": net.state_dict(), "optimiser": optimiser.state_dict(), "average": average}
            checkpoint.save_state(state_path, {**state, "step": step, "of": described})
        if progress is not None and (step % 100 == 0 or step == recipe.steps):
            progress(step, recipe.steps, float(loss))
    net.load_state_dict(average)
    checkpoint.save(out / FILE, net.state_dict(), kind=KIND, config=asdict(net.config), storage="bf16")
    return load_timer(out / FILE)


def _error(net: Timer, boards: dict[int, Tensor], recipe: TimerTraining, draw: torch.Generator) -> Tensor:
    """Mean square error on a batch of storyboards of one length."""
    shares = torch.tensor([float(len(some)) for some in boards.values()])
    some = list(boards.values())[int(torch.multinomial(shares, 1, generator=draw))]
    board_BTD = some[torch.randint(len(some), (recipe.batch,), generator=draw)]
    wanted: Tensor = from_tokens(board_BTD)[..., net.sounds]
    rough_B11 = torch.rand(len(board_BTD), 1, 1, generator=draw) * recipe.roughness
    noisy_BTD = board_BTD + rough_B11 * torch.randn(board_BTD.shape, generator=draw)
    error: Tensor = (net(noisy_BTD) - wanted).square().mean()
    return error


def _boards(recipe: TimerTraining) -> dict[int, Tensor]:
    """Storyboards on the strip by their number of tokens: (N, T, 128)."""
    chunks = [(k, min(CHUNK, recipe.scenes - k)) for k in range(0, recipe.scenes, CHUNK)]
    if len(chunks) == 1:
        found = [_performed(chunks[0])]
    else:
        context = torch.multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(os.cpu_count(), context, partial(torch.set_num_threads, 1)) as pool:
            found = list(pool.map(_performed, chunks))
    lengths = sorted({T for some in found for T in some})
    return {T: torch.cat([some[T] for some in found if T in some]) for T in lengths}


def _performed(chunk: tuple[int, int]) -> dict[int, Tensor]:
    first, count = chunk
    found: dict[int, list[Any]] = {}
    for seed in range(FIRST_SEED + first, FIRST_SEED + first + count):
        draw = random.Random(seed)
        size = FORMATS[draw.choice(["square", "square", "portrait", "landscape"])]
        scene = draw_scene(seed, "train", seconds=draw.choice(SECONDS))
        board = to_tokens(storyboard(perform(scene, size), size))
        found.setdefault(len(board), []).append(board)
    return {T: torch.stack(some) for T, some in found.items()}
