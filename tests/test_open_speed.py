"""Open models made faster, watched and shared out: tiers of quality, compiled blocks, previews, several processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from open_models import Checkpoint, engine, wish
from PIL import Image

from phonofilm.cli import main
from phonofilm.engines import Hooks, join
from phonofilm.errors import InputError

pytestmark = [  # what the libraries say of each other
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:In CPU autocast"),
]


def test_a_network_without_repeated_blocks_is_not_compiled() -> None:
    from phonofilm.engines.open.loading import compile_blocks

    pipe = SimpleNamespace(components={"transformer": torch.nn.Linear(2, 2)})
    with pytest.raises(InputError, match="Linear names no blocks"):
        compile_blocks(pipe)


@pytest.mark.parametrize("key", ["ltx2", "wan", "cogvideox"])  # packed; channels first; frames first
def test_each_step_can_be_looked_at(key: str, checkpoint: Checkpoint) -> None:
    seen: list[np.ndarray] = []
    request = wish(key, steps=3)
    maker = engine(checkpoint(key))
    watched = join(maker.generate(request, Hooks(preview=seen.append)))[0]
    assert len(seen) == 3 and seen[0].dtype == np.uint8 and not np.array_equal(seen[0], seen[-1])
    frames, height, width, colours = seen[0].shape
    assert colours == 3 and width / height == pytest.approx(request.pixels[0] / request.pixels[1])
    stride, offset = maker.family.frames
    assert frames == (maker.family.made(len(watched.frames)) - offset) // stride + 1
    assert np.array_equal(watched.frames, join(maker.generate(request))[0].frames)  # looking changes nothing


SHARED = """
import sys, torch
from phonofilm.cli import main
torch.accelerator.device_count = lambda: 2  # processes of a CPU stand for GPUs
sys.exit(main(sys.argv[1:]))
"""


def test_two_processes_make_the_film_that_one_makes(checkpoint: Checkpoint, tmp_path: Path) -> None:
    key = "wan"
    request, script = wish(key), tmp_path / "shared.py"
    script.write_text(SHARED)
    common = ["generate", request.prompt, "--model", str(checkpoint(key)), "--size", request.size, "--steps", "2",
              "--seconds", str(request.seconds), "--no-sign", "--precision", "fp32"]  # fmt: skip
    assert main([*common, "-o", str(tmp_path / "one" / "%03d.png")]) == 0
    run = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    made = subprocess.run(
        [*run, str(script), *common, "-o", str(tmp_path / "two" / "%03d.png")], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr[-2000:]
    one, two = (sorted((tmp_path / name).glob("*.png")) for name in ("one", "two"))
    assert len(one) == len(two) > 1
    for a, b in zip(one, two, strict=True):
        apart = np.asarray(Image.open(a)).astype(int) - np.asarray(Image.open(b))
        assert np.abs(apart).max() <= 1  # the sums of attention are ordered otherwise


def test_what_cannot_be_shared_out_says_so(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="2 processes need as many GPUs; this computer has 0"):
        join(engine(checkpoint("wan")).generate(wish("wan")))
    with pytest.raises(InputError, match=r"CogVideoX cannot be shared out .* families that can: Wan 2.1 and 2.2"):
        join(engine(checkpoint("cogvideox")).generate(wish("cogvideox")))


# --- quality ----------------------------------------------------------------------------------------------------------


def test_a_smooth_path_is_continued_and_a_rough_one_computed() -> None:
    from phonofilm.engines.open.cached import StepCache

    class Network(torch.nn.Module):
        rough, computed = 0.0, 0

        def forward(self, t: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            self.computed += 1
            line = torch.ones(3) * (10 + t) + self.rough * (-1) ** (self.computed // 2)
            return line, {"sound": 2 * line}

    def run(cache: StepCache, network: Network) -> list[float]:
        found = []
        with cache.on([network]):
            for step in range(10):
                now[0] = step
                for branch in (0.0, 100.0):  # with text and without
                    line, more = network(float(step) + branch)
                    assert torch.equal(more["sound"], 2 * line)
                    found.append(float(line[0]))
        return found

    now = [0]
    exact = [10 + step + branch for step in range(10) for branch in (0.0, 100.0)]
    for most, continued in ((0, 0), (1, 4), (2, 5)):
        network = Network()
        cache = StepCache(0.2, most, lambda: now[0], lambda: 10)
        assert run(cache, network) == pytest.approx(exact, abs=1e-4)  # a line is continued without error
        assert (cache.continued, network.computed) == (continued, 20 - 2 * continued)
        assert "forward" not in vars(network)
    rough = Network()
    rough.rough = 30.0
    cache = StepCache(0.2, 2, lambda: now[0], lambda: 10)
    run(cache, rough)
    assert cache.continued == 0 and rough.computed == 20


@pytest.mark.parametrize("key", ["ltx2", "wan"])
def test_tiers_cost_less_and_are_calibrated(
    key: str,
    checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PHONOFILM_HOME", str(tmp_path))
    folder, open_engine = checkpoint(key), engine(checkpoint(key))
    full = join(open_engine.generate(wish(key, steps=None)))[0]
    steps, continued = open_engine.counted
    assert steps == open_engine.family.steps and continued == 0
    hooks = Hooks()
    draft = join(open_engine.generate(wish(key, steps=None, quality="draft"), hooks))[0]
    assert open_engine.counted[0] == steps // 2 and draft.frames.shape == full.frames.shape
    assert any("never measured here" in note for note in hooks.notes)
    size = wish(key).size
    assert main(["calibrate", str(folder), "--seconds", "0.3", "--size", size, "--precision", "fp32"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("full", "standard", "draft")) and "times as fast as full" in said
    hooks = Hooks()
    join(open_engine.generate(wish(key, steps=None, quality="draft"), hooks))
    assert any("measured here" in note and "never" not in note for note in hooks.notes)
    assert main(["models", "show", str(folder)]) == 0
    assert "times as fast as full" in capsys.readouterr().out
