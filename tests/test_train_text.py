"""Training of tokenizer and matcher: it learns, it resumes exactly, and it refuses what cannot be."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from phonofilm import checkpoint
from phonofilm.errors import CheckpointError
from phonofilm.text.matcher import MatcherConfig
from phonofilm.text.tokenizer import Tokenizer
from phonofilm.train.text import (
    MATCHER,
    STATE,
    TOKENIZER,
    Batch,
    TextTraining,
    almost,
    draw_view,
    evaluate_matcher,
    load_matcher,
    playhouse_captions,
    strip_of,
    train_text,
)

CAPTIONS = [
    f"a {colour} {kind}" for colour in ("red", "blue", "green", "white") for kind in ("ball", "box", "bell", "car")
]
TINY = MatcherConfig(2, width=64, text_layers=1, strip_layers=1, heads=2, embedding=32)


def clips(seed: int = 0) -> Batch:
    """One clip for each caption, of 0.5 s and 64 × 64 px."""
    generator = torch.Generator().manual_seed(seed)
    video_z = torch.randn(len(CAPTIONS), 32, 2, 4, 4, generator=generator)
    return {
        "video_z": video_z,
        "audio_z": torch.randn(len(CAPTIONS), 64, 4, generator=generator),
        "captions": CAPTIONS,
    }


def stream(start: int) -> Iterator[Batch]:
    """Step n sees a half of the clips that n decides."""
    whole = clips()
    for step in itertools.count(start):
        chosen = torch.randperm(len(CAPTIONS), generator=torch.Generator().manual_seed(step))[:8]
        yield {
            "video_z": whole["video_z"][chosen],
            "audio_z": whole["audio_z"][chosen],
            "captions": [CAPTIONS[i] for i in chosen],
        }


def recipe(steps: int, **changes: object) -> TextTraining:
    return TextTraining(vocab=300, steps=steps, warmup=10, ema=0.9, save_seconds=0.0, **changes)  # type: ignore[arg-type]


def run(out_dir: Path, recipe: TextTraining, batches: object = stream, **options: object) -> dict[str, float]:
    return train_text(
        batches,
        out_dir,
        600.0,
        recipe=recipe,
        model=TINY,
        captions=CAPTIONS,
        progress=False,
        **options,  # type: ignore[arg-type]
    )


def test_it_learns_the_clips_by_heart(tmp_path: Path) -> None:
    def whole(start: int) -> Iterator[Batch]:
        return itertools.repeat(clips())

    easy = recipe(120, lr=3e-3, one_modality=0.1)
    scores = run(tmp_path, easy, whole, held_out=[clips()])
    assert scores["text_to_clip"] == scores["clip_to_text"] == 1.0
    assert scores["wrong"] > 0.9 and scores["step"] == 120
    matcher, tokenizer = load_matcher(tmp_path / MATCHER), Tokenizer.load(tmp_path / TOKENIZER)
    stored = evaluate_matcher(matcher, tokenizer, [clips()], of=16)
    assert stored["text_to_clip"] >= 0.95  # in bfloat16
    noised = evaluate_matcher(matcher, tokenizer, [clips()], of=16, noise=0.5)
    assert noised["text_to_clip"] >= 0.75
    assert any(path.name.startswith("events") for path in (tmp_path / "curves").iterdir())


class PowerCut(Exception):
    pass


def test_the_same_call_resumes_exactly(tmp_path: Path) -> None:
    def cut(start: int) -> Iterator[Batch]:
        yield from itertools.islice(stream(start), 3)
        raise PowerCut

    run(tmp_path / "whole", recipe(8))
    with pytest.raises(PowerCut):
        run(tmp_path / "cut", recipe(8), cut)
    assert checkpoint.load_state(tmp_path / "cut" / STATE)["step"] == 3
    with pytest.raises(PowerCut):
        run(tmp_path / "cut", recipe(8), cut)
    scores = run(tmp_path / "cut", recipe(8))
    whole, resumed = (checkpoint.load_state(tmp_path / name / STATE) for name in ("whole", "cut"))
    assert whole["step"] == resumed["step"] == 8
    for part in ("matcher", "averaged"):
        assert all(torch.equal(whole[part][name], resumed[part][name]) for name in whole[part]), part
    hashes = {checkpoint.load(tmp_path / name / MATCHER, kind="matcher").hash for name in ("whole", "cut")}
    assert len(hashes) == 1

    def never(start: int) -> Iterator[Batch]:
        raise AssertionError("a finished run needs no batch")

    assert run(tmp_path / "cut", recipe(8), never) == scores


def test_another_recipe_does_not_go_on_in_the_same_folder(tmp_path: Path) -> None:
    run(tmp_path, recipe(1))
    with pytest.raises(ValueError, match="choose another folder"):
        run(tmp_path, recipe(2, lr=1e-4))


def test_clips_of_several_lengths_are_compared_with_their_like(tmp_path: Path) -> None:
    whole = clips()
    short = {"video_z": whole["video_z"][:3, :, :1], "audio_z": whole["audio_z"][:3, :, :2], "captions": CAPTIONS[:3]}
    few = {name: values[:5] for name, values in whole.items()}
    options = {"model": TINY, "captions": CAPTIONS, "progress": False}
    scores = train_text(stream, tmp_path, 60, recipe=recipe(1), held_out=[short, few], **options)
    assert 0 <= scores["text_to_clip"] <= 1


def test_the_seconds_end_the_run(tmp_path: Path) -> None:
    scores = train_text(stream, tmp_path, 0.2, recipe=recipe(10**6), model=TINY, captions=CAPTIONS, progress=False)
    state = checkpoint.load_state(tmp_path / STATE)
    assert 0 < scores["step"] < 10**6 and state["spent"] >= 0.2
    with pytest.raises(ValueError, match="-1"):
        train_text(stream, tmp_path, -1, progress=False)


def test_silent_clips_and_batches_that_end(tmp_path: Path) -> None:
    def silent(start: int) -> Iterator[Batch]:
        loud = clips()
        yield {**loud, "audio_z": None}
        yield {**loud, "has_audio": torch.arange(len(CAPTIONS)) % 2 == 0}

    with pytest.raises(ValueError, match="ended at step 2"):
        run(tmp_path, recipe(3), silent)
    assert checkpoint.load_state(tmp_path / STATE)["step"] == 2


def test_the_sound_of_a_silent_clip_is_not_heard(tmp_path: Path) -> None:
    run(tmp_path, recipe(1))
    matcher, tokenizer = load_matcher(tmp_path / MATCHER), Tokenizer.load(tmp_path / TOKENIZER)
    silent = {**clips(), "has_audio": [False] * len(CAPTIONS)}
    other = {**silent, "audio_z": clips(1)["audio_z"]}
    assert evaluate_matcher(matcher, tokenizer, [silent], of=16) == evaluate_matcher(matcher, tokenizer, [other], of=16)
    with pytest.raises(ValueError, match="at least 64"):
        evaluate_matcher(matcher, tokenizer, [clips()])


def test_a_step_shows_picture_or_sound_alone_as_often_as_asked() -> None:
    batch = clips()
    latents, keep = strip_of(batch, torch.device("cpu"))
    assert keep is None
    draws = [i / 100 for i in range(100)]
    views = [draw_view(latents, None, 0.2, draw) for draw in draws]
    assert views.count(latents.geometry.video) == views.count(latents.geometry.audio) == 20
    assert views.count(slice(None)) == 60
    some_silent, keep = strip_of({**batch, "has_audio": torch.arange(len(CAPTIONS)) > 0}, torch.device("cpu"))
    assert keep is not None and keep[0].sum() == latents.geometry.n_video and keep[1:].all()
    silent, none = strip_of({**batch, "audio_z": None}, torch.device("cpu"))
    for strip, kept in ((some_silent, keep), (silent, none)):
        views = [draw_view(strip, kept, 0.2, draw) for draw in draws]
        assert views.count(strip.geometry.video) == 20 and views.count(slice(None)) == 80


def test_almost_right_captions_change_one_thing() -> None:
    rng = random.Random(0)
    for caption in itertools.islice(playhouse_captions(300), 300):
        wrong = almost(caption, rng)
        if wrong is not None:
            assert wrong != caption
            kept = set(caption.split()) & set(wrong.split())
            assert len(kept) >= len(set(caption.split())) - 7
    assert almost("nothing that anybody knows", rng) is None
    changed = {almost("a red ball", rng) for _ in range(200)}
    assert "an orange ball" in changed and "a crimson ball" not in changed
    sides = {almost("a red ball on the left and a blue ball on the right", rng) for _ in range(300)}
    assert "a blue ball on the left and a red ball on the right" in sides


def test_a_damaged_matcher_is_refused(tmp_path: Path) -> None:
    run(tmp_path, recipe(1))
    whole = (tmp_path / MATCHER).read_bytes()
    (tmp_path / MATCHER).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"matcher\.safetensors"):
        load_matcher(tmp_path / MATCHER)
