"""Checkpoints come back bit for bit, and files that are not whole are refused in one line."""

from __future__ import annotations

import json
import math
import os
import stat

import numpy as np
import pytest
import torch

from phonofilm.checkpoint import load, load_state, save, save_state, weights_hash
from phonofilm.errors import CheckpointError, OutputError


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(0)
    linear = torch.randn(5, 7, generator=generator)
    return {
        "linear": linear,
        "tied": linear,
        "transposed": linear.T,
        "half": torch.randn(3, generator=generator).to(torch.float16),
        "steps": torch.arange(4),
        "scalar": torch.tensor(2.5),
        "none": torch.empty(0, 3),
        "flag": torch.tensor([True, False]),
    }


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif isinstance(a, float) and math.isnan(a):
        assert math.isnan(b)
    else:
        assert a == b


def test_weights_come_back(tmp_path, weights):
    config = {"width": 5, "rates": [1.5, 2], "name": "ü"}
    told = save(tmp_path / "w.safetensors", weights, kind="codec", config=config)
    found = load(tmp_path / "w.safetensors", kind="codec")
    assert found.config == config
    assert found.kind == "codec"
    assert found.hash == told == weights_hash(weights)
    same(dict(sorted(found.tensors.items())), dict(sorted(weights.items())))
    beside = json.loads((tmp_path / "w.json").read_text())
    assert beside["hash"] == told
    assert beside["config"] == config
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.json", "w.safetensors"]


def test_bf16_halves_floats_and_leaves_the_rest(tmp_path, weights):
    save(tmp_path / "w.safetensors", weights, kind="codec", storage="bf16")
    tensors = load(tmp_path / "w.safetensors").tensors
    assert tensors["linear"].dtype == torch.bfloat16
    assert torch.equal(tensors["linear"], weights["linear"].to(torch.bfloat16))
    assert tensors["steps"].dtype == torch.int64


def test_the_hash_sees_values_names_and_shapes_but_no_order(weights):
    reference = weights_hash(weights)
    assert weights_hash(dict(reversed(weights.items()))) == reference
    assert weights_hash({**weights, "linear": weights["linear"] + 1e-6}) != reference
    assert weights_hash({**weights, "linear": weights["linear"].reshape(7, 5)}) != reference
    assert weights_hash({("more" if k == "half" else k): v for k, v in weights.items()}) != reference


def damage(path, how):
    data = bytearray(path.read_bytes())
    match how:
        case "truncated":
            data = data[: len(data) // 2]
        case "header":
            data = data[:5]
        case "empty":
            data = bytearray()
        case "flipped":
            data[-1] ^= 1
        case "text":
            data = bytearray(b"these are no weights, these are words")
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["truncated", "header", "empty", "flipped", "text"])
def test_damaged_weights_are_refused_in_one_line(tmp_path, weights, how):
    path = tmp_path / "w.safetensors"
    save(path, weights, kind="codec")
    damage(path, how)
    with pytest.raises(CheckpointError, match=r"w\.safetensors: ") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path, weights):
    from safetensors.torch import save_file

    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "missing.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="another program"):
        load(tmp_path / "other.safetensors")
    save(tmp_path / "w.safetensors", weights, kind="codec")
    with pytest.raises(CheckpointError, match="kind 'codec', needed is 'denoiser'"):
        load(tmp_path / "w.safetensors", kind="denoiser")
    with pytest.raises(CheckpointError, match=r"needed is phonofilm\.state/1"):
        load_state(tmp_path / "w.safetensors")


def test_a_tree_comes_back_exactly(tmp_path, weights):
    tree = {
        "weights": weights,
        "state": {0: {"step": torch.tensor(3.0)}, 7: []},
        "numbers": [1, -(2**200), 0.1, 1e-300, math.inf, math.nan, True, None, "ü$", ""],
        "pair": (0.9, (1, [torch.zeros(2, dtype=torch.bfloat16)])),
        "$odd": {"$tensor": "not a tensor"},
        "keys": np.random.default_rng(0).integers(0, 2**32, 624).astype(np.uint32),
        "empty": {},
    }
    save_state(tmp_path / "s.safetensors", tree)
    same(load_state(tmp_path / "s.safetensors"), tree)


def test_training_goes_on_as_if_it_had_not_stopped(tmp_path):
    def start():
        torch.manual_seed(3)
        model = torch.nn.Linear(4, 4)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def train(model, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()

    model, optimizer = start()
    train(model, optimizer, 3)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
    save_state(tmp_path / "s.safetensors", state)
    train(model, optimizer, 3)

    again, optimizer = start()
    torch.manual_seed(99)
    state = load_state(tmp_path / "s.safetensors")
    again.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    train(again, optimizer, 3)
    assert torch.equal(model.weight, again.weight)


@pytest.mark.parametrize("value", [object(), {1.5: 2}, {1, 2}, b"x"])
def test_what_is_not_plain_is_refused_before_writing(tmp_path, value):
    with pytest.raises(TypeError, match="training state"):
        save_state(tmp_path / "s.safetensors", {"a": value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_others_may_read_weights_where_they_may_read_other_files(tmp_path, weights, mask):
    old = os.umask(mask)
    try:
        save(tmp_path / "w.safetensors", weights, kind="test")
        save_state(tmp_path / "w.state", weights)
    finally:
        os.umask(old)
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask, file


def test_a_failed_write_leaves_the_old_file(tmp_path, weights, monkeypatch):
    path = tmp_path / "w.safetensors"
    save(path, weights, kind="codec")
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OutputError, match=r"cannot write .*w\.safetensors: No space left"):
        save(path, {"a": torch.zeros(3)}, kind="codec")
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.json", "w.safetensors"]


def test_a_full_disk_is_one_clear_line(tmp_path, python):
    code = """
import resource, torch
from pathlib import Path
from phonofilm.checkpoint import save
from phonofilm.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    save(Path(sys.argv[1]) / "w.safetensors", {"a": torch.zeros(100_000)}, kind="codec")
except OutputError as error:
    print(error)
"""
    done = python(code, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert "cannot write" in done.stdout
    assert not list(tmp_path.iterdir())
