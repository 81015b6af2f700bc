"""Open models through the same door: every family on a tiny checkpoint in its published layout."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_models import Checkpoint, engine, picture_of, wish
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_open import TINY

from phonofilm import media
from phonofilm.cli import main
from phonofilm.clip import Audio, Clip
from phonofilm.engines import Hooks, join, load
from phonofilm.engines.open import FAMILIES, OpenEngine
from phonofilm.engines.open.families import able, family_of
from phonofilm.engines.open.fill import FILLS
from phonofilm.engines.open.plan import GIB, Machine, available, choose
from phonofilm.engines.open.source import Source, find
from phonofilm.errors import Cancelled, CheckpointError, InputError, PhonofilmError
from phonofilm.request import Adapter, Condition, Request

pytestmark = [  # what the libraries say of each other
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:In CPU autocast"),
]
CPU = Machine("cpu", "a test", 8 * GIB, 8 * GIB)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A picture, a film with sound, and a mask."""
    folder = tmp_path_factory.mktemp("given")
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 255, (48, 64, 3), np.uint8)).save(folder / "image.png")
    frames = np.broadcast_to(draw.integers(0, 255, (1, 64, 64, 3), np.uint8), (40, 64, 64, 3)).copy()
    frames[:, :8] = np.arange(40, dtype=np.uint8)[:, None, None, None] * 6
    tone = np.sin(np.arange(20_000) / 9).astype(np.float32)[None] * 0.3
    media.write(Clip(frames, 16.0, Audio(tone, 8000)), folder / "film.mp4")
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[:, 32:] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    image, film, free = (str(folder / name) for name in ("image.png", "film.mp4", "mask.png"))
    film_of = {"video": film, "continue": film, "audio": film}
    return {"first": image, "last": image, "mask": free, "reference": image, **film_of}


def test_each_family_is_a_declaration_that_diffusers_knows() -> None:
    import diffusers

    for family in FAMILIES:
        for way in family.ways:
            assert hasattr(diffusers, way.pipeline), way.pipeline
            assert set(way.roles.values()) <= set(FILLS) and way.needs <= set(way.roles)
            assert family_of(way.pipeline) is family
        assert family.made(1) >= 1 and family.made(family.made(7)) == family.made(7) >= 7
    assert able("first", "last") and "mochi" not in able("first")


@pytest.mark.parametrize("key", list(TINY))
def test_every_family_makes_a_film_from_the_command_line(
    key: str, checkpoint: Checkpoint, given: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, request = checkpoint(key), wish(key)
    family = OpenEngine(str(folder)).family
    extra = ["--image", given["first"]] if OpenEngine(str(folder)).ways[0].needs else []
    out = tmp_path / "film.mp4"
    code = main([
        "generate", request.prompt, "-o", str(out), "--model", str(folder), "--size", request.size, "--steps", "2",
        "--seconds", str(request.seconds), "--no-sign", "--receipt", *extra,
    ])  # fmt: skip
    said = capsys.readouterr()
    assert code == 0, said.err
    clip = media.read(out)
    assert len(clip.frames) == round(request.seconds * family.fps) and clip.fps == pytest.approx(family.fps)
    assert (clip.width, clip.height) == request.pixels and clip.frames.std() > 0
    assert (clip.audio is not None) == bool(family.sound)
    if clip.audio is not None:
        assert clip.audio.seconds == pytest.approx(clip.seconds, abs=0.05)
        assert np.abs(clip.audio.samples).max() > 0
    receipt = json.loads(out.with_suffix(".receipt.json").read_text())
    assert {"load", "condition", "denoise", "decode"} <= set(receipt["seconds"]) and receipt["request"]["model"] == str(
        folder
    )


def conditions_of(key: str) -> list[tuple[str, ...]]:
    """Sets of conditions to try on a checkpoint: each by itself, with what it needs."""
    index = {"ltx2": "LTX2Pipeline", "cosmos3": "Cosmos3OmniPipeline", "kandinsky6": "Kandinsky6TI2VAPipeline",
             "minimax-h3": "MiniMaxH3ModularPipeline", "wan": "WanPipeline", "wan2.2": "WanPipeline",
             "wan-i2v": "WanImageToVideoPipeline", "wan2.2-i2v": "WanImageToVideoPipeline",
             "wan-vace": "WanVACEPipeline", "hunyuan-video-1.5": "HunyuanVideo15Pipeline",
             "hunyuan-video-1.5-i2v": "HunyuanVideo15ImageToVideoPipeline", "ltx": "LTXPipeline",
             "cogvideox": "CogVideoXPipeline", "cogvideox-i2v": "CogVideoXImageToVideoPipeline",
             "mochi": "MochiPipeline", "sana-video": "SanaVideoPipeline",
             "sana-video-i2v": "SanaImageToVideoPipeline", "skyreels-v2": "SkyReelsV2Pipeline",
             "skyreels-v2-i2v": "SkyReelsV2ImageToVideoPipeline",
             "skyreels-v2-df": "SkyReelsV2DiffusionForcingPipeline", "helios": "HeliosPipeline"}  # fmt: skip
    family = family_of(index[key])
    assert family is not None
    group = next(group for group in family.groups if any(way.pipeline == index[key] for way in group))
    sets: list[tuple[str, ...]] = []
    for way in group:
        for role in way.roles:
            roles = {role, *way.needs, *(("video",) if role == "mask" else ())}
            if tuple(sorted(roles)) not in sets:
                sets.append(tuple(sorted(roles)))
    return sets


@pytest.mark.parametrize(("key", "roles"), [(key, roles) for key in TINY for roles in conditions_of(key)])
def test_every_condition_that_a_family_has_changes_its_film(
    key: str, roles: tuple[str, ...], checkpoint: Checkpoint, given: dict[str, str]
) -> None:
    maker = engine(checkpoint(key))
    request = wish(key, roles, given)
    if not set(roles) <= set(maker.capabilities.conditions):
        assert key in ("wan-i2v", "skyreels-v2-i2v") and "last" in roles  # this checkpoint sees one image
        with pytest.raises(InputError, match="cannot take 'last'"):
            maker.generate(request)
        return
    clip, _ = join(maker.generate(request))
    count = round(request.seconds * maker.family.fps)
    if "continue" in roles:
        past = round(2.5 * maker.family.fps)
        assert len(clip.frames) == pytest.approx(past + count, abs=1)
        assert clip.frames[: past // 2, 20:].std(0).mean() < 3  # the given film, which hardly moves
        if clip.audio is not None:
            assert clip.audio.seconds == pytest.approx(clip.seconds, abs=0.05)
    else:
        assert len(clip.frames) == count
    assert (clip.width, clip.height) == request.pixels
    if not maker.ways[0].needs:
        plain, made = (picture_of(maker.raw(r)) for r in (wish(key), request))
        assert not np.array_equal(plain[-count:], made[-count:])


@pytest.mark.parametrize("key", ["ltx2", "wan", "kandinsky6"])
def test_the_same_tensors_as_the_bare_pipeline(key: str, checkpoint: Checkpoint) -> None:
    from diffusers import DiffusionPipeline

    folder, request = checkpoint(key), wish(key)
    maker = engine(folder)
    ours = maker.raw(request)
    pipe = DiffusionPipeline.from_pretrained(str(folder), dtype=torch.float32)
    wanted = round(request.seconds * maker.family.fps)
    rate = {maker.family.fps_name: maker.family.fps} if maker.family.fps_name else {}
    bare = dict(pipe(
        prompt=request.prompt, width=request.pixels[0], height=request.pixels[1], num_inference_steps=2,
        num_frames=maker.family.made(wanted), generator=torch.Generator("cpu").manual_seed(request.seed),
        output_type="np", **rate,
    ))  # fmt: skip
    assert np.array_equal(np.asarray(bare["frames"]), np.asarray(ours["frames"]))
    if "audio" in bare:
        assert torch.equal(torch.as_tensor(bare["audio"]), torch.as_tensor(ours["audio"]))
    again = maker.raw(request)
    assert np.array_equal(np.asarray(again["frames"]), np.asarray(ours["frames"]))
    assert "progress_bar" not in vars(maker._pipes[maker.source.pipeline])  # nothing of ours stays on it


def test_it_tells_how_far_it_is_and_stops_before_the_next_step(checkpoint: Checkpoint) -> None:
    told: list[tuple[str, int, int]] = []
    hooks = Hooks(progress=lambda p: told.append((p.stage, p.done, p.total)))
    maker = engine(checkpoint("wan"))
    join(maker.generate(wish("wan", steps=3), hooks))
    assert [t for t in told if t[0] == "denoise"] == [("denoise", k, 3) for k in (1, 2, 3)]
    assert told[0][0] == "condition" and told[-1][0] == "decode" and "GiB" in hooks.notes[0]
    steps: list[int] = []

    def stop_after_one() -> bool:
        return len(steps) > 0

    hooks = Hooks(progress=lambda p: steps.append(p.done) if p.stage == "denoise" else None, cancelled=stop_after_one)
    with pytest.raises(Cancelled):
        join(maker.generate(wish("wan", steps=50), hooks))
    assert steps == [1]
    join(maker.generate(wish("wan")))  # and it still works


def test_out_of_memory_steps_down_and_says_so(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = OpenEngine(str(checkpoint("wan")), "cpu")
    calls: list[str] = []
    real = OpenEngine._call

    def tight(self: OpenEngine, pipe: Any, *rest: Any) -> Any:
        calls.append(str(pipe.transformer.dtype))
        if len(calls) == 1:
            raise MemoryError("no more")
        return real(self, pipe, *rest)

    monkeypatch.setattr(OpenEngine, "_call", tight)
    hooks = Hooks()
    clip, _ = join(maker.generate(wish("wan"), hooks))
    assert len(calls) == 2 and clip.frames.std() > 0 and any("stepping down" in note for note in hooks.notes)
    calls[:] = []  # the next one does not fit beside what is loaded: it steps down further
    hooks = Hooks()
    assert join(maker.generate(wish("wan"), hooks))[0].frames.std() > 0
    assert len(calls) == 2 and ["stepping down" in note for note in hooks.notes] == [True]
    calls[:] = []
    maker = OpenEngine(str(checkpoint("wan")), "cpu", precision="fp32", tiled=True)
    with pytest.raises(PhonofilmError, match="out of memory with cpu, fp32"):
        join(maker.generate(wish("wan")))


def test_a_plan_fits_the_memory_or_says_what_is_missing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = find(str(checkpoint("wan")))
    plans = choose(source, (832, 480), 81, Machine("cuda", "a GPU", 80 * GIB, 100 * GIB))
    assert plans[0].offload == "none" and plans[0].precision == "bf16" and not plans[0].tiled
    assert plans[-1].offload == "group" and plans[-1].peak < plans[0].peak
    assert choose(source, (64, 64), 5, CPU, precision="fp32")[0].precision == "fp32"
    with pytest.raises(InputError, match=r"needs about \d+\.\d GiB at 832x480, 81 frames.*0\.5 GiB free"):
        choose(source, (832, 480), 81, Machine("cpu", "a small one", 0.5 * GIB, 0.5 * GIB))
    with pytest.raises(InputError, match="offload 'model' needs a GPU"):
        choose(source, (64, 64), 5, CPU, offload="model")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 2048 kB\n")
    assert available(tmp_path) == 2 * 2**20
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("1048576\n")
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("1024\n")
    assert available(tmp_path) == 1048576 - 1024


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def weights(folder: Path) -> Path:
    return next((folder / "transformer").glob("*.safetensors"))


def test_what_is_missing_cut_off_or_unsafe_is_one_line(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = checkpoint("wan")
    capsys.readouterr()

    def line(folder: Path) -> str:
        assert main(["generate", "a ball", "--model", str(folder), "-o", str(tmp_path / "x.mp4")]) == 2
        said = capsys.readouterr().err.strip()
        assert len(said.splitlines()) == 1 and not (tmp_path / "x.mp4").exists()
        return said

    cut = copied(good, tmp_path / "cut")
    weights(cut).write_bytes(weights(cut).read_bytes()[:-100])
    assert "is cut off" in line(cut)
    pickled = copied(good, tmp_path / "pickled")
    weights(pickled).rename(weights(pickled).with_name("diffusion_pytorch_model.bin"))
    assert "is a pickle" in line(pickled)
    half = copied(good, tmp_path / "half")
    shutil.rmtree(half / "text_encoder")
    assert "the download of" in line(half) and "text_encoder" in line(half)
    shards = copied(good, tmp_path / "shards")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (shards / "transformer/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00002.safetensors: is missing" in line(shards)
    escape = {"weight_map": {"a": "../../secrets.safetensors"}}
    (shards / "transformer/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(escape))
    assert "outside of its folder" in line(shards)
    bomb = copied(good, tmp_path / "bomb")
    weights(bomb).write_bytes(struct.pack("<Q", 2**60) + b"{}")
    assert "not a safetensors file" in line(bomb)
    programs = copied(good, tmp_path / "programs")
    (programs / "pipeline.py").write_text("raise SystemExit('run')")
    assert "programs of its own" in line(programs)
    (tmp_path / "nothing").mkdir()
    assert "no model of diffusers" in line(tmp_path / "nothing")
    unknown = copied(good, tmp_path / "unknown")
    (unknown / "model_index.json").write_text('{"_class_name": "FutureVideoPipeline"}')
    assert "does not know the pipeline FutureVideoPipeline" in line(unknown)
    still = copied(good, tmp_path / "still")
    (still / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert "makes no films from text" in line(still)
    other = copied(good, tmp_path / "other")
    config = json.loads((other / "transformer/config.json").read_text()) | {"num_layers": 3}
    (other / "transformer/config.json").write_text(json.dumps(config))
    assert "has no weights for blocks.2." in line(other)


def test_what_a_model_cannot_do_is_said_before_anything_is_loaded(
    checkpoint: Checkpoint, given: dict[str, str]
) -> None:
    maker = engine(checkpoint("wan"))
    for request, said in (
        (wish("wan", ("last",), given), "cannot take 'last'"),
        (wish("wan", seconds=100.0), "0.25 to 7.56"),
        (wish("wan", size="100x100"), "multiples of 16"),
        (wish("wan", fps=12.0), "16 frames a second"),
        (wish("wan", best_of=2), "best_of needs the native model"),
        (wish("wan", sampler="heun"), "own choice"),
    ):
        with pytest.raises(InputError, match=said):
            maker.generate(request)
    with pytest.raises(InputError, match="needs first"):
        engine(checkpoint("wan-i2v")).generate(wish("wan-i2v"))
    assert not maker._pipes
    with pytest.raises(InputError, match="precision is a choice for open models"):
        load("native", precision="bf16")
    sizes = maker.capabilities.formats
    assert sizes["landscape"] == (832, 480) and sizes["portrait"] == (480, 832) and sizes["square"] == (624, 624)


def test_a_model_of_no_known_family_works_by_inspection(checkpoint: Checkpoint, tmp_path: Path) -> None:
    maker = engine(checkpoint("wan"))
    family = maker._inspected()
    assert family.name == "WanPipeline" and family.frames == (4, 1) and family.frames_name == "num_frames"
    maker.family = family
    clip, _ = join(maker.generate(wish("wan")))
    assert clip.frames.shape[1:3] == wish("wan").pixels[::-1]


def make_lora(folder: Path, to: Path) -> Path:
    """A LoRA on the attention of a Wan transformer."""
    from diffusers import DiffusionPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    pipe = DiffusionPipeline.from_pretrained(str(folder))
    pipe.transformer.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = get_peft_model_state_dict(pipe.transformer)
    type(pipe).save_lora_weights(str(to), transformer_lora_layers={k: 4 * v for k, v in layers.items()})
    return next(to.glob("*.safetensors"))


def test_a_lora_changes_the_film_and_comes_off_again(checkpoint: Checkpoint, tmp_path: Path) -> None:
    lora = make_lora(checkpoint("wan"), tmp_path / "lora")
    maker = engine(checkpoint("wan"))

    def film_with(*adapters: Adapter) -> Any:
        return picture_of(maker.raw(wish("wan", adapters=adapters)))

    plain, full = film_with(), film_with(Adapter(str(lora)))
    assert not np.array_equal(plain, full)
    half = film_with(Adapter(str(lora), strength=0.5))
    assert not np.array_equal(half, full) and not np.array_equal(half, plain)
    assert np.allclose(film_with(Adapter(str(lora), strength=0.0)), plain, atol=1e-6)
    assert np.array_equal(film_with(), plain)
    out = tmp_path / "film.mp4"
    command = ["generate", "a ball", "--model", str(checkpoint("wan")), "--size", "32x32", "--seconds", "0.3"]
    assert main([*command, "--steps", "2", "--no-sign", "-o", str(out), "--lora", f"{lora}:0.8"]) == 0 and out.exists()


def test_a_wrong_lora_is_one_line(checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lora = make_lora(checkpoint("wan"), tmp_path / "lora")
    pickle, cut = tmp_path / "lora.bin", tmp_path / "cut.safetensors"
    pickle.write_bytes(lora.read_bytes())
    cut.write_bytes(lora.read_bytes()[:-50])
    other = tmp_path / "other.safetensors"
    save_file({"some.layer.weight": torch.zeros(3)}, other)
    narrow = tmp_path / "narrow.safetensors"
    save_file({k: v[:, :5].contiguous() if "lora_A" in k else v for k, v in load_file(lora).items()}, narrow)
    folder = str(checkpoint("wan"))
    capsys.readouterr()
    for path, said in (
        (tmp_path / "none.safetensors", "there is no such LoRA"), (pickle, "only safetensors"), (cut, "cut off"),
        (other, "is no LoRA for"), (narrow, "is no LoRA for"),
    ):  # fmt: skip
        size = ["--size", "32x32", "--seconds", "0.3", "--steps", "1", "-o", str(tmp_path / "x.mp4")]
        assert main(["generate", "a ball", "--model", folder, *size, "--lora", str(path)]) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1 and said in told[0], told
    with pytest.raises(InputError, match="native takes no adapters"):
        load("native").generate(Request("a ball", adapters=(Adapter(str(lora)),)))


class Hub:
    """A hub that answers as it is told."""

    def __init__(self, error: Exception | None = None, files: tuple[str, ...] = ()) -> None:
        self.error, self.files = error, files

    def list_repo_files(self, _: str) -> list[str]:
        if self.error is not None:
            raise self.error
        return list(self.files)


def test_what_cannot_be_fetched_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import httpx
    import huggingface_hub
    from huggingface_hub import errors

    answer = httpx.Response(403, request=httpx.Request("GET", "https://hub"))
    for error, files, said in (
        (errors.GatedRepoError("gated", response=answer), (), "is gated: accept its licence"),
        (errors.RepositoryNotFoundError("none", response=answer), (), "there is no model some/model"),
        (httpx.ConnectError("no route"), (), "cannot be fetched: no route"),
        (None, ("weights.safetensors",), "no model of diffusers"),
        (None, ("model_index.json", "vae/model.bin"), "pickles only"),
    ):
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda e=error, f=files: Hub(e, f))
        assert main(["models", "pull", "some/model"]) in (1, 2)
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1 and said in told[0]
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="phonofilm models pull some/model"):
        find("some/model")
    with pytest.raises(InputError, match="ORG/NAME such as"):
        find("../etc/passwd")


def test_models_are_listed_and_looked_at(checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    listed = capsys.readouterr().out
    assert all(family.title in listed for family in FAMILIES) and "licence" in listed and "GiB" in listed
    assert main(["models", "show", str(checkpoint("ltx2"))]) == 0
    shown = capsys.readouterr().out
    assert "LTX-2.x (LTX2Pipeline)" in shown and "kHz" in shown and "continue" in shown


def test_nothing_of_it_is_imported_without_need(checkpoint: Checkpoint) -> None:
    code = (
        "import sys\n"
        "for name in ('diffusers', 'transformers', 'huggingface_hub', 'peft', 'torchao'): sys.modules[name] = None\n"
        "from phonofilm.engines import capabilities, load\n"
        "from phonofilm.cli import main\n"
        f"print(capabilities({str(checkpoint('wan'))!r}).fps)\n"
        f"main(['generate', 'a ball', '--model', {str(checkpoint('wan'))!r}, '--size', '32x32', '--seconds', '0.3'])\n"
        "main(['models', 'pull', 'some/model'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split()[0] == "16" and done.stderr.count('pip install "phonofilm[open]"') == 2, done.stderr


def test_a_source_counts_what_it_holds(checkpoint: Checkpoint) -> None:
    from safetensors import safe_open

    source = Source("wan", checkpoint("wan"))
    counted = 0
    for file in checkpoint("wan").rglob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            counted += sum(tensors.get_tensor(name).numel() for name in tensors.keys())  # noqa: SIM118
    assert source.values == counted > 0 and {part.name for part in source.parts} == {
        "transformer",
        "vae",
        "text_encoder",
    }
    with pytest.raises(CheckpointError):
        Source("x", checkpoint("wan") / "vae").index  # noqa: B018


def test_there_may_be_several_references(checkpoint: Checkpoint, given: dict[str, str]) -> None:
    maker = engine(checkpoint("wan-vace"))
    once, twice = (
        replace(wish("wan-vace"), conditions=tuple(Condition("reference", path) for path in paths))
        for paths in ([given["first"]], [given["first"], given["mask"]])
    )
    films = [picture_of(maker.raw(request)) for request in (once, twice)]
    assert films[0].shape == films[1].shape and not np.array_equal(*films)
