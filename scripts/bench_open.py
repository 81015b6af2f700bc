"""What our engine for open models costs on top of the bare pipeline, and what each way to be faster gives.

Runs on a random model in the published layout of Wan, large enough that a film takes a minute on two cores. Every film
is made in a process of its own, the bare pipeline and our engine taking turns:

    python scripts/bench_open.py            # overhead: time and peak memory, as ratios of one run
    python scripts/bench_open.py --tiers    # each tier with its similarity to full; compiled blocks
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FRAMES, SIDE = 33, 256


def build(folder: Path, width: int, blocks: int) -> None:
    """Save a random Wan of `blocks` blocks, `width` wide."""
    sys.path.insert(0, str(ROOT / "tests"))
    import torch
    from diffusers import WanPipeline
    from tiny_open_silent import wan_parts, wan_transformer

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"num_attention_heads": width // 64, "attention_head_dim": 64, "ffn_dim": 4 * width}
    network = wan_transformer(**sizes, num_layers=blocks, freq_dim=256, rope_max_seq_len=256)
    WanPipeline(transformer=network.to(torch.bfloat16), **wan_parts()).save_pretrained(folder)


def film(way: str, folder: str, steps: int) -> dict[str, float]:
    """Make one film in this process: seconds of the call alone, and the most memory that the process ever had."""
    import torch

    if way == "ours":
        from phonofilm.engines import join
        from phonofilm.engines.open import OpenEngine
        from phonofilm.request import Request

        engine = OpenEngine(folder, "cpu", precision="bf16")
        seconds = FRAMES / engine.family.fps
        request = Request("a dog runs", model=folder, seconds=seconds, size=f"{SIDE}x{SIDE}", steps=steps, guidance=1.0)
        engine.prepare(request)
        began = time.perf_counter()
        made = join(engine.generate(request))[0].frames
    else:
        import diffusers

        diffusers.utils.logging.disable_progress_bar()
        types = {"default": torch.bfloat16, "vae": torch.float32}
        pipe = diffusers.WanPipeline.from_pretrained(folder, dtype=types)
        pipe.set_progress_bar_config(disable=True)
        began = time.perf_counter()
        made = pipe(
            "a dog runs", width=SIDE, height=SIDE, num_frames=FRAMES, num_inference_steps=steps, guidance_scale=1.0,
            generator=torch.Generator().manual_seed(0),
        ).frames[0]  # fmt: skip
    taken = time.perf_counter() - began
    assert len(made) == FRAMES
    return {"seconds": taken, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def overhead(folder: str, steps: int, rounds: int) -> str:
    """A table: the bare pipeline and our engine, which take turns."""
    found: dict[str, list[dict[str, float]]] = {"bare": [], "ours": []}
    for k in range(rounds):
        for way in ("bare", "ours") if k % 2 == 0 else ("ours", "bare"):
            run = [sys.executable, "-W", "ignore", __file__, "--film", way, "--folder", folder, "--steps", str(steps)]
            out = subprocess.run(
                run, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": ""}
            )
            found[way].append(json.loads(out.stdout.splitlines()[-1]))
            print(f"{way}: {found[way][-1]['seconds']:.1f} s, {found[way][-1]['mib']:.0f} MiB", file=sys.stderr)
    lines = ["| | bare pipeline | our engine | ratio |", "|---|---|---|---|"]
    for name, unit, title in (("seconds", "s", "a film"), ("mib", "MiB", "peak memory")):
        bare, ours = (statistics.median(row[name] for row in found[way]) for way in ("bare", "ours"))
        lines.append(f"| {title} | {bare:.1f} {unit} | {ours:.1f} {unit} | {ours / bare:.3f} |")
    return "\n".join(lines)


def tiers(folder: str) -> str:
    """What calibration says of this model, and compiled blocks."""
    os.environ["PHONOFILM_HOME"] = str(Path(folder).parent / "home")
    from phonofilm.codec.metrics import psnr, ssim
    from phonofilm.engines import join
    from phonofilm.engines.open import OpenEngine
    from phonofilm.engines.open.calibration import calibrate
    from phonofilm.request import Request

    engine = OpenEngine(folder, "cpu", precision="bf16")
    request = Request(
        "a dog runs", model=folder, seconds=FRAMES / engine.family.fps, size=f"{SIDE}x{SIDE}", guidance=1.0
    )
    found = calibrate(engine, request)
    lines = ["| quality | s | against full | steps | continued | picture, dB | SSIM |", "|---|---|---|---|---|---|---|"]
    for name, t in found.items():
        ratio = found["full"].seconds / t.seconds
        near = "| |" if t.psnr_db is None else f"| {t.psnr_db:.1f} | {t.ssim:.3f} |"
        lines.append(f"| {name} | {t.seconds:.1f} | {ratio:.2f} | {t.steps} | {t.continued} {near}")
    full, _ = join(engine.generate(request))
    for name, options in (("full, compiled", {"compiled": True}), ("full, int8", {"precision": "int8"})):
        other = OpenEngine(folder, "cpu", **{"precision": "bf16", **options})
        join(other.generate(replace(request, steps=2)))  # loads, and compiles
        began = time.perf_counter()
        clip, _ = join(other.generate(request))
        taken = time.perf_counter() - began
        level, near = psnr(clip.frames, full.frames), ssim(clip.frames, full.frames)
        ratio = found["full"].seconds / taken
        lines.append(f"| {name} | {taken:.1f} | {ratio:.2f} | {other.counted[0]} | 0 | {level:.1f} | {near:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=90)
    parser.add_argument("--rounds", type=int, default=2, help="films of each")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--tiers", action="store_true")
    parser.add_argument("--film", choices=("bare", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.film:
        print(json.dumps(film(a.film, a.folder, a.steps)))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = f"{folder}/wan"
        build(Path(model), a.width, a.blocks)
        print(tiers(model) if a.tiers else overhead(model, a.steps, a.rounds))


if __name__ == "__main__":
    main()
