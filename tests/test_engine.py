"""The built-in engine on tiny random weights: lengths, seeds, conditions, cancel, clear errors."""

from __future__ import annotations

import wave
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import make_weights

import phonofilm
from phonofilm import Audio, Clip, Condition, Request, latents, media
from phonofilm.clip import to_native
from phonofilm.diffusion.samplers import SAMPLERS
from phonofilm.engines import CATALOGUE, Hooks, NativeEngine, join, load, making
from phonofilm.engines.making import LONGEST, Defaults
from phonofilm.engines.native import stored_defaults
from phonofilm.errors import Cancelled, CheckpointError, InputError
from phonofilm.latents import SECONDS_PER_LATENT, Geometry
from phonofilm.media.formats import Limits
from phonofilm.request import Role


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> NativeEngine:
    return NativeEngine(make_weights(tmp_path_factory.mktemp("weights")))


def ask(engine: NativeEngine, **options: object) -> Clip:
    return join(engine.generate(Request("a red ball bounces", **{"seconds": 2.0, "steps": 2, **options})))[0]  # type: ignore[arg-type]


def test_picture_and_sound_have_the_length_that_was_asked_for(engine: NativeEngine) -> None:
    for seconds in (2.0, 2.75, 4.0):
        clip = ask(engine, seconds=seconds, steps=1)
        assert len(clip.frames) == seconds * 16
        assert clip.audio is not None and clip.audio.samples.shape == (1, seconds * 16000)


@pytest.mark.parametrize("size", ["square", "portrait", "landscape"])
def test_formats(engine: NativeEngine, size: str) -> None:
    clip = ask(engine, size=size, steps=1)
    assert (clip.width, clip.height) == Request("x", size=size).pixels


def test_a_seed_is_bitwise_reproducible_and_another_seed_differs(engine: NativeEngine) -> None:
    one, again, other = ask(engine, seed=7), ask(engine, seed=7), ask(engine, seed=8)
    assert np.array_equal(one.frames, again.frames)
    assert one.audio is not None and again.audio is not None and other.audio is not None
    assert np.array_equal(one.audio.samples, again.audio.samples)
    assert not np.array_equal(one.frames, other.frames)


def test_a_clip_alone_equals_the_same_clip_in_a_batch(engine: NativeEngine) -> None:
    alone = engine.make_batch(["a red ball bounces"], [5], seconds=2.0, steps=2)[0]
    longer = "a large blue metal ball bounces three times on a stone floor at night while the camera pans"
    batch = engine.make_batch([longer, "a red ball bounces", "rain"], [1, 5, 9], seconds=2.0, steps=2)[1]
    error = np.mean((alone.frames.astype(float) - batch.frames) ** 2) / 255**2
    assert -10 * np.log10(error + 1e-12) > 40
    assert alone.audio is not None and batch.audio is not None
    gap = np.mean((alone.audio.samples - batch.audio.samples) ** 2) / np.mean(alone.audio.samples**2)
    assert gap < 1e-2


def test_a_picture_is_one_silent_frame(engine: NativeEngine) -> None:
    clip = ask(engine, picture=True)
    assert clip.picture and clip.audio is None


def test_the_receipt_comes_with_the_last_chunk_and_tells_every_stage(engine: NativeEngine) -> None:
    chunks = list(engine.generate(Request("a red ball", seconds=2.0, steps=2)))
    assert [c.receipt is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    receipt = chunks[-1].receipt
    assert receipt is not None and {"condition", "denoise", "decode"} <= set(receipt.seconds)
    assert receipt.total_energy_j > 0 and receipt.energy_method


@pytest.fixture
def film(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(0, 255, (1, 128, 128, 3), np.uint8), 32, 0)
    sound = Audio((0.1 * np.sin(np.arange(32000) * 0.1))[None].astype(np.float32), 16000)
    media.write(Clip(frames, 16, sound), tmp_path / "given.mp4")
    return tmp_path / "given.mp4"


def test_what_the_codec_loses_of_the_last_given_frame_fades_from_those_that_follow() -> None:
    given, coded = np.full((2, 2, 3), 120, np.uint8), np.full((2, 2, 3), 100, np.uint8)
    made = np.full((16, 2, 2, 3), 100, np.uint8)  # nothing moves
    left = making._faded(made, given.astype(np.float32) - coded, 1)[:, 0, 0, 0].astype(float)
    steps = np.diff(left, prepend=120.0)
    assert left[0] >= 119 and (steps <= 0).all() and left[making.FADE - 1 :].max() == 100
    assert abs(steps[0]) < abs(steps).max() / 2  # nothing is to be seen at the seam
    again = making._faded(made[:4], given.astype(np.float32) - coded, 5)[:, 0, 0, 0]  # the next piece goes on
    assert np.array_equal(again, left[4:8])
    assert making._faded(made, np.full((2, 2, 3), 200.0), 1).max() == 255


def test_a_continuation_begins_with_the_given_clip(engine: NativeEngine, film: Path) -> None:
    clip = ask(engine, conditions=(Condition("continue", str(film)),))
    given = media.read(film)
    assert len(clip.frames) == 32 + 32
    assert np.array_equal(clip.frames[:32], given.frames[:32])
    assert clip.audio is not None and clip.audio.samples.shape == (1, 64000)


def test_given_picture_and_given_sound_come_back_untouched(engine: NativeEngine, film: Path) -> None:
    given = media.read(film)
    scored = ask(engine, conditions=(Condition("video", str(film)),))
    assert np.array_equal(scored.frames, given.frames[:32])
    pictured = ask(engine, conditions=(Condition("audio", str(film)),))
    assert given.audio is not None and pictured.audio is not None
    assert np.array_equal(pictured.audio.samples, given.audio.samples[:, :32000])
    assert not np.array_equal(pictured.frames, given.frames[:32])


def test_strength_says_how_far_a_given_picture_binds(engine: NativeEngine, film: Path) -> None:
    """At 0 it is as if it was not given; in between the film lies between the two, and is not the given one."""

    made = {s: ask(engine, conditions=(Condition("video", str(film), strength=s),)) for s in (0.0, 0.5, 1.0)}
    plain = ask(engine)
    assert np.array_equal(made[0.0].frames, plain.frames)
    assert np.array_equal(made[1.0].frames, media.read(film).frames[:32])
    assert not np.array_equal(made[0.5].frames, plain.frames)
    assert not np.array_equal(made[0.5].frames, made[1.0].frames)


def painted(path: Path, size: tuple[int, int], spot: tuple[int, int], kind: str = "luma") -> str:
    """A mask with one small spot: white on black, or opaque in any colour on what is transparent."""
    image = Image.new("RGB", size) if kind == "luma" else Image.new("RGBA", size)
    image.putpixel(spot, (255, 255, 255) if kind == "luma" else (30, 0, 0, 200))
    image.save(path)
    return str(path)


@pytest.mark.parametrize("kind", ["luma", "alpha"])
def test_a_mask_says_which_part_of_a_given_picture_is_made_anew(
    engine: NativeEngine, film: Path, tmp_path: Path, kind: str
) -> None:
    """The token under the spot differs from the given one in every latent, all others are the given pixels."""
    mask = painted(tmp_path / "mask.png", (300, 200), (50 + 110, 30), kind)  # of 200x200 in the middle: x 110, y 30
    given = media.read(film).frames[:32]
    conditions = (Condition("video", str(film)), Condition("mask", mask))
    clip, again = ask(engine, conditions=conditions), ask(engine, conditions=conditions)
    assert np.array_equal(clip.frames, again.frames) and clip.audio is not None and again.audio is not None
    assert np.array_equal(clip.audio.samples, again.audio.samples)
    anew = np.zeros((128, 128), bool)
    anew[:32, 64:96] = True
    assert np.array_equal(clip.frames[:, ~anew], given[:, ~anew])
    assert all((clip.frames[t][anew] != given[t][anew]).any() for t in range(32))
    other = ask(engine, conditions=conditions, seed=1)
    assert np.array_equal(other.frames[:, ~anew], given[:, ~anew]) and not np.array_equal(other.frames, clip.frames)


def test_a_mask_leaves_a_given_sound_and_knows_every_format(engine: NativeEngine, film: Path, tmp_path: Path) -> None:
    mask = painted(tmp_path / "mask.png", (160, 96), (159, 95))
    roles = {"video": str(film), "audio": str(film), "mask": mask}
    conditions = tuple(Condition(role, path) for role, path in roles.items())  # type: ignore[arg-type]
    clip = ask(engine, size="landscape", steps=1, conditions=conditions)
    given = to_native(media.read(film), (160, 96))
    assert clip.audio is not None and given.audio is not None
    assert np.array_equal(clip.audio.samples, given.audio.samples[:, :32000])
    changed = (clip.frames != given.frames[:32]).any((0, 3))
    assert changed[64:, 128:].any() and not changed[:64].any() and not changed[:, :128].any()


def test_masks_that_say_nothing_are_refused(engine: NativeEngine, film: Path, tmp_path: Path) -> None:
    black = painted(tmp_path / "black.png", (128, 128), (0, 0), "alpha")
    Image.new("L", (128, 128), 127).save(black)
    beside = painted(tmp_path / "beside.png", (384, 128), (100, 60))  # in what is cropped off
    (tmp_path / "torn.png").write_bytes(Path(beside).read_bytes()[:50])
    video, going_on = Condition("video", str(film)), Condition("continue", str(film))
    for path, told in (
        (black, "covers nothing"), (beside, "covers nothing"), (str(tmp_path / "torn.png"), "cannot be decoded"),
        (str(film), "is no picture"), (str(tmp_path), "a mask is one picture"), ("none.png", "no such file"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            ask(engine, conditions=(video, Condition("mask", path)))
    for more, told in (({"picture": True}, "a single picture"), ({"conditions": (going_on,)}, "cannot go on")):
        given = (video, Condition("mask", beside), *more.pop("conditions", ()))  # type: ignore[misc]
        for model in ("native", "fake"):
            with pytest.raises(InputError, match=told):
                load(model).generate(Request("a ball", model=model, conditions=given, **more))  # type: ignore[arg-type]


def test_the_catalogue_tells_the_truth_about_the_engine(engine: NativeEngine) -> None:
    """What is known without loading it is what it is made of."""
    c = CATALOGUE["native"]
    assert c is engine.capabilities and c.samplers == tuple(SAMPLERS)
    assert c.seconds_step == SECONDS_PER_LATENT and c.seconds[1] == LONGEST * SECONDS_PER_LATENT
    assert isinstance(load("native"), NativeEngine) and load("fake").capabilities.name == "fake"
    with pytest.raises(InputError, match="one of native, fake, a folder or ORG/NAME of an open model, got 'sora'"):
        load("sora")


def test_images_and_match_guidance_change_the_film(engine: NativeEngine, film: Path, tmp_path: Path) -> None:
    media.write(Clip(media.read(film).frames[:1], 16), tmp_path / "first.png")
    plain = ask(engine)
    for role in ("first", "last"):
        other = ask(engine, conditions=(Condition(role, str(tmp_path / "first.png")),))  # type: ignore[arg-type]
        assert not np.array_equal(plain.frames, other.frames)
        given, at = media.read(tmp_path / "first.png").frames[0], 0 if role == "first" else -1
        assert np.array_equal(other.frames[at], given)  # the image itself, and ever less of what the codec changed
        assert not np.array_equal(other.frames[-1 - at], given)
    assert not np.array_equal(plain.frames, ask(engine, match_guidance=2.0).frames)


def test_best_of_keeps_the_one_that_matches_best(engine: NativeEngine) -> None:
    hooks = Hooks()
    clip, _ = join(engine.generate(Request("a red ball bounces", seconds=2.0, steps=1, best_of=3, seed=4), hooks))
    assert any("of 3" in note for note in hooks.notes)
    assert len(clip.frames) == 32


def test_unknown_words_are_named_and_something_is_made(engine: NativeEngine) -> None:
    hooks = Hooks()
    join(engine.generate(Request("a zeppelin bounces", seconds=2.0, steps=1), hooks))
    assert any("zeppelin" in note for note in hooks.notes)


@pytest.mark.parametrize("role", ["video", "audio"])
@pytest.mark.parametrize(("seconds", "told"), [(2.0, None), (2.5, "lasts 2.00 s and the film 2.5 s")])
def test_given_media_of_another_length_are_told(
    engine: NativeEngine, film: Path, role: Role, seconds: float, told: str | None
) -> None:
    hooks = Hooks()
    join(
        engine.generate(
            Request("a red ball", seconds=seconds, steps=1, conditions=(Condition(role, str(film)),)), hooks
        )
    )
    assert [told in note for note in hooks.notes] == [True] if told else not hooks.notes


def test_no_more_of_given_media_is_read_than_is_needed(
    engine: NativeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large ones and long ones were refused for what nobody needs of them."""
    noise = np.random.default_rng(0).integers(0, 256, (80, 240, 320, 3), np.uint8)
    media.write(Clip(noise, 16.0), tmp_path / "large.mp4")
    media.write(Clip(noise[:1], 16.0), tmp_path / "large.png")
    with wave.open(str(tmp_path / "long.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 8000 * 301))
    monkeypatch.setattr("phonofilm.media.reading.Limits", partial(Limits, decoded_bytes=80 * 128 * 128 * 3 + 1))
    given = (("video", "large.mp4"), ("audio", "long.wav"), ("first", "large.png"), ("last", "large.mp4"))
    conditions = tuple(Condition(role, str(tmp_path / name)) for role, name in given)
    notes: list[str] = []
    clips = engine._read_conditions(Request("a red ball", seconds=2.0, conditions=conditions), notes)
    assert {role: len(clip.frames) for role, clip in clips.items() if role in ("first", "last")} == {
        "first": 1,
        "last": 1,
    }
    assert all(clip.frames.shape[1:3] == (128, 128) and len(clip.frames) < 40 for clip in clips.values())
    assert len(notes) == 2 and all("longer than the film: only its first 2 s are used" in note for note in notes)


def test_a_prompt_that_is_too_long_is_told(engine: NativeEngine) -> None:
    hooks = Hooks()
    prompt = "a red ball bounces on a wooden floor, " * 8 + "and a bell rings"
    join(engine.generate(Request(prompt, seconds=2.0, steps=1), hooks))
    assert [note for note in hooks.notes if "not read" in note and note.endswith("and a bell rings")]


def test_generate_asks_the_model_that_is_named() -> None:
    with pytest.raises(InputError, match="model must be one of"):
        phonofilm.generate("a red ball", model="none")
    with pytest.raises(InputError, match="model must be one of"):
        phonofilm.generate(Request("a red ball"), model="none")


def test_cancel_takes_effect_within_one_step(engine: NativeEngine) -> None:
    seen: list[int] = []
    hooks = Hooks(
        progress=lambda p: seen.append(p.done) if p.stage == "denoise" else None, cancelled=lambda: len(seen) >= 2
    )
    with pytest.raises(Cancelled):
        join(engine.generate(Request("a red ball", seconds=2.0, steps=9), hooks))
    assert len(seen) == 2


def test_previews_are_frames_of_the_clip(engine: NativeEngine) -> None:
    shown: list[np.ndarray] = []
    join(engine.generate(Request("a red ball", seconds=2.0, steps=2), Hooks(preview=shown.append)))
    assert len(shown) == 2 and shown[0].shape == (32, 128, 128, 3) and shown[0].dtype == np.uint8


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"seconds": 1.0}, "2 to 4"),
        ({"seconds": 3.1}, "0.25"),
        ({"size": "130x130"}, "128x128"),
        ({"steps": 500}, "100"),
        ({"sampler": "magic"}, "euler"),
        ({"fps": 24.0}, "16"),
        ({"picture": True, "conditions": (Condition("first", "a.png"),)}, "'first'"),
        ({"conditions": (Condition("continue", "a.mp4"), Condition("audio", "b.wav"))}, "continue takes no audio"),
        ({"conditions": (Condition("video", "b.mp4"), Condition("continue", "a.mp4"))}, "continue takes no video"),
    ],
)
def test_what_is_impossible_is_said_with_what_is_possible(
    engine: NativeEngine, options: dict[str, object], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        ask(engine, **options)


def test_the_noise_of_a_seed_does_not_depend_on_the_batch(engine: NativeEngine) -> None:
    from phonofilm.diffusion.noise import strip_noise

    g = Geometry.of_clip(128, 128, 2.0)
    assert torch.equal(strip_noise([3], g)[0], strip_noise([1, 2, 3], g)[2])


def test_a_last_image_binds_the_end_alone_however_many_parts_a_clip_has(
    engine: NativeEngine, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 s that follow a clip are made in two parts; a first image has no place there, and that is said."""
    picture = tmp_path / "end.png"
    media.write(Clip(np.full((1, 128, 128, 3), 200, np.uint8), 16.0), picture)
    held: list[tuple[str, int]] = []

    def watch(video: object, z: torch.Tensor, image: torch.Tensor, end: str) -> torch.Tensor:
        held.append((end, z.shape[2]))
        return z

    monkeypatch.setattr(making, "anchor", watch)
    given = (Condition("continue", str(film)), Condition("first", str(picture)), Condition("last", str(picture)))
    hooks = Hooks()
    request = Request("a red ball bounces", seconds=4.0, steps=1, conditions=given)
    join(engine.generate(request, hooks))
    assert held == [("last", 16)]  # 3 s that are seen again, 1 s that is left after the first 3 s
    assert any("first image is not used" in note for note in hooks.notes)


@torch.no_grad()
def test_the_shipped_weights_fit_the_code_and_their_budget() -> None:
    """All networks load, belong together, and make finite latents; together they take at most 40 MiB."""
    engine = NativeEngine()
    assert sum(file.stat().st_size for file in engine.folder.iterdir()) <= 40 * 2**20
    strip = engine._empty(Geometry.of_clip(64, 64, 2.0))
    made = engine.sample(["a red ball bounces"], [0], strip, steps=1)
    assert torch.isfinite(made.values_BND).all()
    assert -1 <= float(engine._score(["a red ball bounces"], made)[0]) <= 1
    assert engine.codec.decode(*latents.unpack(made)[:2]).frames.shape == (32, 64, 64, 3)


@pytest.mark.parametrize("name", ["timer.safetensors", "video-codec.safetensors", "tokenizer.json", "sampling.json"])
def test_the_digest_of_an_engine_is_of_all_that_films_depend_on(tmp_path: Path, name: str) -> None:
    folder = make_weights(tmp_path)
    before = NativeEngine(folder).digest
    assert before == NativeEngine(folder).digest
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    assert NativeEngine(folder).digest != before


def test_weights_say_how_they_are_sampled(tmp_path: Path) -> None:
    path = tmp_path / "sampling.json"
    assert stored_defaults(path) == Defaults() == NativeEngine(tmp_path).defaults
    path.write_text('{"steps": 9, "guidance": 3, "sampler": "heun"}')
    found = NativeEngine(tmp_path).defaults
    assert (found.steps, found.guidance, found.sampler, found.boards) == (9, 3, "heun", Defaults.boards)
    assert NativeEngine(tmp_path, defaults=Defaults(steps=4)).defaults.steps == 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "9",
        '{"stepz": 9}',
        '{"steps": 1.5}',
        '{"steps": true}',
        '{"sampler": 1}',
        '{"sampler": "x"}',
        '{"steps": -1}',
    ],
)
def test_what_says_it_wrongly_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "sampling.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"sampling\.json holds no sampler settings"):
        NativeEngine(tmp_path)
