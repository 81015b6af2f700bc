"""Ratios measured in one run: training throughput, generation, codec, playhouse. `make bench` prints a table.

Nothing here asserts a time: machines differ. Shapes: B clips, N tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phonofilm.train.tasks import Batch

PROMPT = "a red ball bounces three times on a wooden floor"


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall-clock of `work`, after one call to warm up."""
    work()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return sorted(taken)[len(taken) // 2]


def _again(batch: Batch, _: int) -> Iterator[Batch]:
    return repeat(batch)


def training(steps: int = 12) -> dict[str, float]:
    """Model FLOPs of a whole training step over the machine's rate on the model's largest product.

    As the preset for CPUs has them (`playhouse-cpu`): the whole denoiser, 8 clips a step, and what paints, 32.
    """
    import torch

    from phonofilm.engines.native import shipped_weights
    from phonofilm.text.tokenizer import Tokenizer
    from phonofilm.train.denoiser import PAINTER, DenoiserTraining, train_denoiser
    from phonofilm.train.schedule import Plan
    from phonofilm.train.tasks import Tasks

    tokenizer, plan = Tokenizer.load(shipped_weights() / "tokenizer.json"), Plan(steps=2 * steps, warmup=1)
    whole = DenoiserTraining(plan, accumulate=1, log_steps=steps)
    painter = replace(whole, tasks=Tasks(alone=1), learns=PAINTER)
    found: dict[str, float] = {}
    for name, recipe, clips in (("denoiser", whole, 8), ("painter", painter, 32)):
        draw = torch.Generator().manual_seed(0)
        data = {
            "video_z": torch.randn(clips, 32, 12, 8, 8, generator=draw),
            "audio_z": torch.randn(clips, 64, 24, generator=draw),
            "captions": [PROMPT] * clips,
        }
        if recipe is painter:
            data["board"] = torch.randn(clips, 12, 128, generator=draw)
        with tempfile.TemporaryDirectory() as folder:
            train_denoiser(folder, recipe, partial(_again, data), tokenizer, progress=False, curves=False)
            lines = [json.loads(line) for line in (Path(folder) / "denoiser.jsonl").read_text().splitlines()]
        last = lines[-1]  # the first one holds the compilation
        found |= {
            f"training, {name}, {clips} clips: tokens/s": last["tokens_per_second"],
            f"training, {name}: largest product, TFLOP/s": last["tflops_machine"],
            f"training, {name}: model FLOPs over that": last["flops_share"],
        }
    return found


def generation() -> dict[str, float]:
    """End to end to the written MP4, warm; and the stages."""
    from phonofilm import Request, media
    from phonofilm.engines import NativeEngine, join

    engine = NativeEngine()
    request = Request(PROMPT, seconds=3.0)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:

        def make() -> None:
            clip, receipt = join(engine.generate(request))
            media.write(clip, Path(folder) / "film.mp4")
            assert receipt is not None
            found.update({f"generate, {name} s": value for name, value in receipt.seconds.items()})

        seconds = median_seconds(make, 5)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "generate 3 s, warm, to the written MP4, s": seconds,
        "generate, real-time factor": seconds / 3,
        **found,
        "generate, peak memory GiB": peak,
    }


def cold() -> dict[str, float]:
    """The whole command from a cold start."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "phonofilm.cli", "generate", PROMPT, "-q", "-o", f"{folder}/film.mp4"]
        taken = median_seconds(lambda: subprocess.run(command, check=True, capture_output=True), 3)
        help_ = median_seconds(lambda: subprocess.run([*command[:3], "--help"], check=True, capture_output=True), 3)
    return {"whole command from cold start, s": taken, "phonofilm --help, s": help_}


def parts() -> dict[str, float]:
    """Codec and playhouse, as multiples of real time."""
    import torch

    from phonofilm.codec.codec import Codec
    from phonofilm.engines.native import shipped_weights
    from phonofilm.playhouse.playhouse import take

    codec = Codec.load(shipped_weights())
    shot = take([1])
    z, a = codec.encode_frames(shot.frames), codec.encode_samples(shot.audio)
    return {
        "video encode, x real time": 3 / median_seconds(lambda: codec.encode_frames(shot.frames), 5),
        "video decode, x real time": 3 / median_seconds(lambda: codec.decode_frames(z), 5),
        "audio decode, x real time": 3 / median_seconds(lambda: codec.decode_samples(a), 5),
        "playhouse with sound, x real time": 3 * 16 / median_seconds(lambda: take(range(16)), 2),
        "threads": float(torch.get_num_threads()),
    }


WIDTH = 48  # of the titles
MEASURES = {"generation": generation, "cold": cold, "parts": parts, "training": training}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=tuple(MEASURES))
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    found: dict[str, float] = {}
    for name, measure in MEASURES.items():
        if arguments.only in (None, name):
            new = measure()
            for title, value in new.items():
                print(f"{title:{WIDTH}}  {value:10.3f}", flush=True)
            found |= new
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
