"""Our model as a pipeline of diffusers: it works where phonofilm is not installed, and makes the same films."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import make_weights

from phonofilm import Clip, Request
from phonofilm.cli import main
from phonofilm.clip import NATIVE_FPS, to_native
from phonofilm.engines import NativeEngine
from phonofilm.engines.hub import export_pipeline
from phonofilm.engines.hub.export import code
from phonofilm.engines.hub.layout import PARTS
from phonofilm.errors import CheckpointError, InputError

START = """
import sys, warnings

class Missing:  # phonofilm is not installed
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "phonofilm":
            raise ImportError("phonofilm is not installed")

sys.meta_path.insert(0, Missing())
import numpy as np
import torch
from PIL import Image
from diffusers import DiffusionPipeline

folder, out = sys.argv[1:]
seed = lambda n: torch.Generator().manual_seed(n)
"""

USE = """
pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
assert set(pipe.components) == {"transformer", "text_encoder", "vae", "audio_vae", "timer"}
ask = dict(seconds=2.0, num_inference_steps=2, negative_prompt="a dog")
steps = []
told = lambda pipe, step, t, tensors: steps.append((step, t, tuple(tensors["latents"].shape)))
plain = pipe("a red ball bounces", generator=seed(7), callback_on_step_end=told, **ask)
assert [step for step, _, _ in steps] == [0, 1] and steps[-1][1] == 0 and steps[0][2][2] == 128
assert plain.audio_sample_rate == 16000 and plain.frames.dtype == np.float32
image = Image.open(out + "/first.png")
shown = pipe("a red ball bounces", image=image, last_image=np.asarray(image), generator=seed(7), **ask)

used = seed(7)
both = pipe(["a red ball bounces"] * 2, generator=used, output_type="pt", **ask)
assert both.frames.shape == (2, 32, 3, 128, 128) and both.audio.shape == (2, 1, 32000)
assert np.array_equal(both.frames[0].permute(0, 2, 3, 1).numpy(), plain.frames[0])
assert not torch.equal(both.frames[0], both.frames[1])  # a generator that was used goes on
frames, audio = pipe("a red ball bounces", 2.0, 160, 96, 1, 1.0, seed(1), output_type="pil", return_dict=False)
assert frames[0][0].size == (96, 160) and audio.shape == (1, 1, 32000)
for wrong in ({"seconds": 9}, {"seconds": 2.1}, {"width": 100}, {"output_type": "gif"}, {"num_inference_steps": 0},
              {"generator": [seed(1), seed(2)]}):
    try:
        pipe("a red ball bounces", **{**ask, **wrong})
    except ValueError as error:
        assert "\\n" not in str(error)
    else:
        raise AssertionError(wrong)

pipe.save_pretrained(out + "/saved")
again = DiffusionPipeline.from_pretrained(out + "/saved", trust_remote_code=True)
again.set_progress_bar_config(disable=True)
same = again("a red ball bounces", generator=seed(7), **ask)
assert np.array_equal(same.frames, plain.frames) and np.array_equal(same.audio, plain.audio)
assert again.to("cpu", torch.float32).transformer.dtype == torch.float32
assert again.transformer.net.compute == torch.float32 and again.text_encoder.dtype == torch.float32
near = again("a red ball bounces", generator=seed(7), **ask)
assert np.abs(near.frames - plain.frames).mean() < 0.1
np.savez(out + "/made.npz", frames=plain.frames, audio=plain.audio, shown=shown.frames)
"""

HUB = """
import fnmatch, shutil, types
from pathlib import Path
import diffusers.configuration_utils, diffusers.pipelines.pipeline_utils as loading
import diffusers.utils.dynamic_modules_utils as modules

source, cache, fetched = Path(folder), Path(out) / "snapshot", set()
files = [str(file.relative_to(source)) for file in source.rglob("*") if file.is_file()]

def fetch(name):
    fetched.add(name)
    (cache / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / name, cache / name)
    return str(cache / name)

def one(repo, filename, *args, **options):
    return fetch(filename)

def many(repo, allow_patterns, ignore_patterns, **options):
    for name in files:
        if any(fnmatch.fnmatch(name, p) for p in allow_patterns):
            if not any(fnmatch.fnmatch(name, p) for p in ignore_patterns):
                fetch(name)
    return str(cache)

def info(*args, **options):
    return types.SimpleNamespace(sha="0" * 40, siblings=[types.SimpleNamespace(rfilename=name) for name in files])

for module in (loading, modules, diffusers.configuration_utils):
    for name, stub in (("hf_hub_download", one), ("snapshot_download", many), ("model_info", info)):
        if hasattr(module, name):
            setattr(module, name, stub)
try:
    DiffusionPipeline.from_pretrained("someone/phonofilm")
except ValueError as error:
    assert "trust_remote_code" in str(error)
pipe = DiffusionPipeline.from_pretrained("someone/phonofilm", trust_remote_code=True)
assert fetched == {name for name in files if name != "README.md"}, fetched ^ set(files)
made = pipe("a red ball bounces", seconds=2.0, num_inference_steps=2, negative_prompt="a dog", generator=seed(7))
np.savez(out + "/fetched.npz", frames=made.frames)
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def folder(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_pipeline(tmp_path_factory.mktemp("hub") / "phonofilm", weights)


def run(script: str, folder: Path, out: Path) -> None:
    """Run a script in a process that has no phonofilm and no network."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"HF_HOME": str(out / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", START + script, str(folder), str(out)],
        capture_output=True, text=True, check=False, env=env, cwd=out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_without_phonofilm_it_makes_the_films_of_our_engine_bitwise(
    weights: Path, folder: Path, tmp_path: Path
) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "first.png")
    run(USE, folder, tmp_path)
    made = np.load(tmp_path / "made.npz")
    engine = NativeEngine(weights, device="cpu")
    request = Request("a red ball bounces", "a dog", seconds=2.0, steps=2, seed=7)
    true = engine.make(request, {})
    assert true.audio is not None
    np.testing.assert_array_equal(np.rint(made["frames"][0] * 255).astype(np.uint8), true.frames)
    np.testing.assert_array_equal(made["audio"][0], true.audio.samples)
    still = to_native(Clip(picture[None], NATIVE_FPS), (128, 128))
    true = engine.make(request, {"first": still, "last": still})
    np.testing.assert_array_equal(np.rint(made["shown"][0] * 255).astype(np.uint8), true.frames)
    saved = {str(file.relative_to(tmp_path / "saved")) for file in (tmp_path / "saved").rglob("*") if file.is_file()}
    assert saved == {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_from_the_hub_it_fetches_all_that_it_needs(weights: Path, folder: Path, tmp_path: Path) -> None:
    run(HUB, folder, tmp_path)
    request = Request("a red ball bounces", "a dog", seconds=2.0, steps=2, seed=7)
    true = NativeEngine(weights, device="cpu").make(request, {})
    np.testing.assert_array_equal(np.rint(np.load(tmp_path / "fetched.npz")["frames"][0] * 255), true.frames)


def test_the_folder_is_whole_and_names_no_place_of_this_machine(folder: Path) -> None:
    files = {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
    assert {file.suffix for file in files} == {".py", ".json", ".md", ".safetensors"}
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "PhonofilmPipeline"]
    for name, kind in PARTS.items():
        library, named = index[name]
        assert named == kind and f"class {kind}" in (folder / "phonofilm_engines_hub_parts.py").read_text()
        assert kind in (folder / name / f"{library}.py").read_text()
        assert tensors_in(folder / name) and json.loads((folder / name / "config.json").read_text())["sizes"]
    for file in files:
        if file.suffix != ".safetensors":
            text = (folder / file).read_text(encoding="utf-8")
            assert "/work" not in text and str(folder) not in text


def tensors_in(place: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(place / "diffusion_pytorch_model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}
        return list(file.keys())


def test_the_code_is_our_own_with_other_imports() -> None:
    import phonofilm

    root = Path(phonofilm.__file__).parent
    copies = code()
    assert "pipeline.py" in copies and "phonofilm_model_denoiser.py" in copies
    named = set(re.findall(r"^from \.(\S+) import", copies["pipeline.py"], re.MULTILINE))
    assert {f"{name}.py" for name in named} == copies.keys() - {"pipeline.py"}  # diffusers copies these and no more
    for name, text in copies.items():
        compile(text, name, "exec")
        assert not re.search(r"^\s*(from|import) phonofilm", text, re.MULTILINE), name
    ours = (root / "model" / "denoiser.py").read_text(encoding="utf-8")
    copied = copies["phonofilm_model_denoiser.py"]
    assert ours[ours.index("@dataclass") :] == copied[copied.index("@dataclass") :]


def test_the_card_says_what_the_hub_asks(folder: Path) -> None:
    import yaml

    text = (folder / "README.md").read_text(encoding="utf-8")
    _, header, body = text.split("---\n", 2)
    told = yaml.safe_load(header)
    assert told["license"] == "apache-2.0" and told["library_name"] == "diffusers"
    assert told["pipeline_tag"] == "text-to-video" and {"diffusers", "text-to-video"} <= set(told["tags"])
    assert "trust_remote_code=True" in body and "2 to 4" in body and "{" not in body


def test_the_command_and_its_errors(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "model"
    (tmp_path / "new").mkdir()
    assert main(["models", "export", str(target), "--weights", str(weights)]) == 0
    assert capsys.readouterr().out.strip() == str(target) and (target / "model_index.json").exists()
    before = sorted(tmp_path.rglob("*"))
    assert main(["models", "export", str(target), "--weights", str(weights)]) == 2
    told = capsys.readouterr().err.strip()
    assert told == f"phonofilm: {target} exists and is not empty: name a new folder"
    with pytest.raises(InputError, match="not empty"):
        export_pipeline(target / "README.md", weights)
    with pytest.raises(CheckpointError):
        export_pipeline(tmp_path / "other", tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    empty = tmp_path / "empty"
    empty.mkdir()
    assert export_pipeline(empty, weights) == empty and (empty / "pipeline.py").exists()


def test_to_export_needs_no_diffusers(weights: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from phonofilm.engines.hub import export_pipeline\n"
        "export_pipeline(sys.argv[1], sys.argv[2])\n"
        "assert 'diffusers' not in sys.modules\n"
    )
    path = os.pathsep.join(place for place in sys.path if place.endswith("src"))
    env = {**os.environ, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "x"), str(weights)], check=True, env=env, umask=0o022)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "x").rglob("*.*") if file.is_file()} == {0o644}
