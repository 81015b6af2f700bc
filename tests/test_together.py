"""Everything at once on one GPU, here on the CPU, part after part: a reel that grows, crops, parts, merging."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import make_weights

from phonofilm import checkpoint
from phonofilm.checkpoint import SCALE
from phonofilm.clip import FORMATS
from phonofilm.codec.codec import VIDEO_FILE, Codec
from phonofilm.codec.video import VideoCodec, VideoCodecConfig
from phonofilm.engines.native import NativeEngine
from phonofilm.errors import InputError
from phonofilm.model.denoiser import Denoiser, DenoiserConfig
from phonofilm.playhouse.casting import draw_scene
from phonofilm.playhouse.playhouse import film as take_film
from phonofilm.storyboard import FACES, channels, from_tokens
from phonofilm.train import reel, together, vault
from phonofilm.train.alignment import truth_maps
from phonofilm.train.codec import AudioTraining, VideoTraining, actor_weights
from phonofilm.train.codec import Footage as Film
from phonofilm.train.codec import grow as grow_codec
from phonofilm.train.denoiser import PAINTER, Generator, grow
from phonofilm.train.footage import Bucket, Footage, encode_batch
from phonofilm.train.optim import Muon, Optimizers
from phonofilm.train.painted import channel_weights
from phonofilm.train.road import train


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reel, "GROUP", 4)
    monkeypatch.setattr(reel, "PART", 2)
    monkeypatch.setattr(vault, "GROUP", 4)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("weights"))


def filmed(weights: Path, clips: int) -> list[Bucket]:
    empty = reel.empty_reel(clips)
    assert list(reel.film(empty, Codec.load(weights), 0)) == list(range(4, clips + 1, 4))
    return empty


def test_a_reel_holds_what_the_playhouse_films(weights: Path) -> None:
    (bucket,) = filmed(weights, 4)
    assert len(bucket) == len(bucket.about) == 4
    scenes = [draw_scene(a["seed"], "train", kinds=a.get("kinds"), seconds=a["seconds"]) for a in bucket.about]
    shot = take_film(scenes, FORMATS["square"])
    for name, truth in truth_maps(shot).items():
        assert torch.equal(bucket.tensors[name], truth)
    for name, z in encode_batch(Codec.load(weights), shot.frames, shot.audio).items():
        assert (bucket.tensors[name].float() - z.float()).abs().max() < 0.1  # batches of other sizes round otherwise


def test_batches_made_ahead_are_the_batches(weights: Path) -> None:
    footage = Footage(filmed(weights, 8), 2, boards=0.4, sounds=0.5, sketches=2, speakers=0.3, even=0.3)
    ahead = reel.Ahead(footage, 2)(3)
    for step in range(3, 9):
        made, wanted = next(ahead), footage.at(step)
        assert made.keys() == wanted.keys() and made["captions"] == wanted["captions"]
        for name, value in wanted.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(made[name].to(value.dtype), value), name


def test_fresh_scenes_are_of_those_that_are_wished(weights: Path) -> None:
    """Who plays is seen on the storyboard: which slots anybody stands in, and of which kind."""
    footage = Footage(filmed(weights, 8), 10, boards=1.0, sketches=2, speakers=0.3, pairs=0.5)
    batch = footage.at(0)
    board = from_tokens(batch["board"])
    there = [board[..., channels("kind", slot)].amax((1, 2)) > 0 for slot in range(2)]
    assert len(batch["captions"]) == 20 and bool(there[0].all())
    assert not there[1][:6].any() and bool(there[1][6:16].all())
    faces = board[:6, 0, channels("kind", 0)].argmax(-1)
    assert {int(kind) for kind in faces} <= set(FACES)
    assert len(set(batch["captions"])) == 20


def test_a_reel_grows_while_it_is_learnt_from(weights: Path) -> None:
    empty = reel.empty_reel(8)
    footage = Footage(empty, 2, boards=0.2)
    assert len(footage) == 0 and "video_z" not in footage.at(0)  # storyboards alone, of scenes that need no film
    film = reel.film(empty, Codec.load(weights), 0)
    next(film)
    assert len(footage) == 4
    assert any("video_z" in footage.at(step) for step in range(8))


def test_what_is_seen_is_measured_on_what_is_filmed(weights: Path) -> None:
    reel_of_4, longer = filmed(weights, 4), reel.empty_reel(16)
    codec = Codec.load(weights)
    next(reel.film(longer, codec, 0))  # the rest of it is empty yet
    whole, growing = (channel_weights(codec, Footage(buckets, 2)) for buckets in (reel_of_4, longer))
    assert torch.equal(whole, growing)


def test_the_vault_crops_as_the_pool_does() -> None:
    kept = vault.Vault(torch.device("cpu"), 0, 1)
    recipe = VideoTraining(batch=6, crop=64, frames=8, stills=0.0, actors=1.0)
    frames, weight, painted = kept.draw(0, recipe, torch.Generator().manual_seed(0), False)
    again = kept.draw(0, recipe, torch.Generator().manual_seed(0), False)
    assert torch.equal(frames, again[0]) and torch.equal(weight, again[1])
    assert frames.shape == (6, 8, 64, 64, 3) and weight.shape == (6, 8, 1, 64, 64) and painted == [None] * 6
    assert frames.min() >= -1 and frames.max() <= 1
    assert (weight.flatten(1).amax(1) > 1).all()  # each was aimed at an actor
    whole, weight, _ = kept.draw(0, replace(recipe, batch=4), torch.Generator().manual_seed(1), True)
    name = next(n for n, (w, h) in FORMATS.items() if (h, w) == whole.shape[2:4] and n in kept.frames)
    shown = (whole * 127.5 + 127.5).round().to(torch.uint8)
    matches = [
        (clip, start)
        for clip in range(4)
        for start in range(32 - 8 + 1)
        if torch.equal(kept.frames[name][0][clip, start : start + 8], shown[0])
    ]
    clip, start = matches[0]
    boxes = kept.boxes[name][0][clip].transpose(0, 1)
    wanted = actor_weights(Film(kept.frames[name][0][clip], boxes), slice(start, start + 8), recipe.box_weight)
    assert torch.allclose(weight[0, :, 0], wanted, atol=1e-4)


def test_blocks_that_are_added_change_nothing(weights: Path) -> None:
    stored = checkpoint.load(weights / "denoiser.safetensors")
    engine = NativeEngine(weights, device="cpu")
    denoiser, text, _ = engine._model
    wider = Generator(replace(denoiser.config, detail_blocks=3, board_blocks=denoiser.config.board_blocks), text.config)
    grow(wider, stored.tensors)
    from phonofilm.latents import Geometry

    g = Geometry(4, 4, 4, boards=4)
    x, t = torch.randn(1, g.n, 128), torch.full((1, g.n), 0.5)
    t[:, g.board] = 0
    same = Generator(denoiser.config, text.config)
    grow(same, stored.tensors)
    assert torch.allclose(wider.denoiser.paint(x, t, g), same.denoiser.paint(x, t, g), atol=1e-5)
    older = Generator(replace(denoiser.config, weather=False), text.config)
    older.load_state_dict({n: w for n, w in same.state_dict().items() if ".weather_detail." not in n})
    told = Generator(denoiser.config, text.config)
    grow(told, older.state_dict())
    assert torch.equal(told.denoiser.paint(x, t, g), older.denoiser.paint(x, t, g))
    small = checkpoint.load(weights / VIDEO_FILE)
    config = VideoCodecConfig(encoder_widths=(16,) * 3, decoder_widths=(16,) * 3, decoder_blocks=(1, 1, 1))
    plain, grown = VideoCodec(config), VideoCodec(replace(config, encoder_blocks=(3, 2, 2), decoder_blocks=(2, 3, 2)))
    plain.load_state_dict({name: value.float() for name, value in small.tensors.items()})
    grow_codec(grown, small.tensors)
    frames = torch.rand(1, 8, 3, 32, 32) * 2 - 1
    assert torch.allclose(plain.decode(plain.encode(frames)), grown.decode(grown.encode(frames)), atol=1e-5)


def test_muon_takes_the_steps_of_torch() -> None:
    shapes = [(64, 32), (64, 32), (32, 64), (48, 48)]
    one = [torch.nn.Parameter(torch.randn(s, generator=torch.Generator().manual_seed(k))) for k, s in enumerate(shapes)]
    two = [torch.nn.Parameter(p.detach().clone()) for p in one]
    ours, theirs = Muon(one, 0.02, weight_decay=0.01), torch.optim.Muon(two, lr=0.02, weight_decay=0.01)
    for step in range(4):
        for k, (p, q) in enumerate(zip(one, two, strict=True)):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + k))
            q.grad = p.grad.clone()
        ours.step()
        theirs.step()
    for p, q in zip(one, two, strict=True):
        assert (p - q).detach().abs().max() < 4e-3  # both iterate in bfloat16, and round otherwise
        assert (p - q).detach().norm() < 0.02 * 4 * 0.05 * q.detach().numel() ** 0.5


@pytest.mark.parametrize("fast", [torch.float32, torch.bfloat16])
def test_the_optimiser_computes_in_what_the_machine_is_fast_in(
    monkeypatch: pytest.MonkeyPatch, fast: torch.dtype
) -> None:
    """On a CPU without instructions for bfloat16 a step of it took 14 s in it, and takes half a second."""
    monkeypatch.setattr("phonofilm.train.optim.native_type", lambda _: fast)
    muon = Optimizers(Denoiser(DenoiserConfig(width=64, blocks=1, detail=16, detail_blocks=1))).parts[0]
    assert isinstance(muon, Muon) and muon.compute == fast


def test_all_parts_learn_and_make_weights_that_work(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    shutil.copyfile(weights / "tokenizer.json", out / "tokenizer.json")
    recipe = together.Together(
        seconds=9.0, clips=8, enough=4, codec_share=0.13, film_share=50, match_share=0.3, reserve=1.0, workers=1,
        groups=1, match_batch=4, boards_batch=1, sketches=2, paint_batch=1,
        video=VideoTraining(batch=2, save_seconds=1e9, bf16=False), audio=AudioTraining(batch=2, save_seconds=1e9),
    )  # fmt: skip
    shared, ready = reel.empty_reel(8), torch.zeros(2)
    for part in (together._sounds, together._pictures, together._boards, together._paint, together._match):
        part(together._Job(recipe, weights, out, time.time(), shared, ready, "cpu"))
    assert sum(len(b) for b in shared) == 8 and bool(ready.all())
    together.merge(out / together.BOARDS / "denoiser.safetensors", out / together.PICTURE / "denoiser.safetensors",
                   out / "denoiser.safetensors")  # fmt: skip
    merged, old = (checkpoint.load(folder / "denoiser.safetensors").tensors for folder in (out, weights))
    changed = {name for name in old if not torch.equal(merged[name].float(), old[name].float())}
    assert any(name.startswith(PAINTER) for name in changed)
    assert any(name.startswith("denoiser.board_detailer") for name in changed)
    (clip,) = NativeEngine(out, device="cpu").make_batch(["a red ball bounces"], [1], 2.0)
    assert clip.frames.shape == (32, 128, 128, 3)


def test_all_needs_a_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="needs a CUDA GPU"):
        train("all", "playhouse-gpu", tmp_path)


def test_all_overwrites_nothing(weights: Path) -> None:
    with pytest.raises(InputError, match="is there already"):
        together.train_together(weights, weights, together.Together(seconds=1.0))


def test_matrices_in_8_bits_come_back_nearly_as_they_were(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    tensors = {"a.weight": torch.randn(40, 300, generator=draw), "b.weight": torch.randn(40, 300, generator=draw)}
    tensors["a.weight"][3] = 0
    digest = checkpoint.save(tmp_path / "x.safetensors", tensors, kind="test", storage="bf16", int8="a.*")
    stored = checkpoint.load(tmp_path / "x.safetensors", kind="test")
    assert stored.hash == digest and stored.tensors.keys() == tensors.keys()
    error = stored.tensors["a.weight"] - tensors["a.weight"]
    assert 0.002 < error.std() < 0.012 and bool((stored.tensors["a.weight"][3] == 0).all())
    scale = tensors["a.weight"].abs().amax(1) / 127
    assert bool((error.abs() <= scale[:, None] / 2 + 1e-6).all())
    assert torch.equal(stored.tensors["b.weight"], tensors["b.weight"].bfloat16())
    assert not any(name.endswith(SCALE) for name in stored.tensors)
