"""The evaluation: scenes of fixed seeds, filmed (truth), through the codec, and generated from their captions."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from phonofilm import checkpoint
from phonofilm.clip import FORMATS, NATIVE_FPS, NATIVE_RATE, Audio, Clip
from phonofilm.codec.codec import AUDIO_FILE, AUDIO_KIND, VIDEO_FILE, VIDEO_KIND
from phonofilm.codec.metrics import log_spectral_distance, onset_shift_ms, psnr, psnr_in_boxes, ssim
from phonofilm.errors import InputError
from phonofilm.evaluate.ledger import CaseLedger, fill, read_cases
from phonofilm.evaluate.report import summarise, write_report, write_sheets
from phonofilm.evaluate.score import Verdict, judge
from phonofilm.evaluate.shared import spread
from phonofilm.playhouse.captions import describe_with_claims
from phonofilm.playhouse.casting import draw_scene
from phonofilm.playhouse.playhouse import film
from phonofilm.playhouse.render import Sight
from phonofilm.playhouse.scene import Event, Scene
from phonofilm.playhouse.splits import check_split, wording_of

if TYPE_CHECKING:
    from phonofilm.codec.codec import Codec
    from phonofilm.engines.engine import Engine
    from phonofilm.engines.making import Defaults

Generator = Callable[[list[str], list[int], float, tuple[int, int]], list[Clip]]
"""(prompts, seeds, seconds, (width, height)) to one clip for each."""

log = logging.getLogger("phonofilm.evaluate")

Players = Callable[[], "tuple[Generator | None, Codec | None]"]

SPLITS: Final = ("train_like", "held_out_combinations", "held_out_wordings")
COLUMNS: Final = ("truth", "codec", "generated")
FIRST_SEED: Final = 0  # of each split: scene k has seed FIRST_SEED + k
BATCH: Final = 8  # clips that are filmed, coded and generated together
ALIKE: Final = ("size", "seconds", "first_seed", "codec")  # settings of which truth and codec depend
CLIPS: Final = "clips.jsonl"  # what was measured of each clip
SHEETS: Final = 6  # clips of each split that are shown, the first ones


@dataclass
class Case:
    """One scene, its caption, and what was measured of each column."""

    split: str
    seed: int
    scene: Scene
    prompt: str
    claims: frozenset[str]
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    fidelity: dict[str, float] = field(default_factory=dict)  # of the codec: PSNR, SSIM, log-spectral distance, ...
    kind_psnr: list[tuple[str, float]] = field(default_factory=list)  # inside the boxes of each actor, dB
    shifts_ms: list[float] = field(default_factory=list)  # of onsets by the codec
    failed: str = ""  # why it could not be measured, if so


def cases(prompts: int, splits: Sequence[str] = SPLITS, seconds: float | None = None) -> list[Case]:
    """The first `prompts` scenes of each split with dense captions. seconds: 2 to 4; drawn with the scene if None."""
    found = []
    for split in splits:
        check_split(split)
        for seed in range(FIRST_SEED, FIRST_SEED + prompts):
            scene = draw_scene(seed, split, seconds=seconds)
            prompt, claims = describe_with_claims(scene, seed, style="dense", wording=wording_of(split))
            found.append(Case(split, seed, scene, prompt, claims))
    return found


def evaluate(
    prompts: int,
    out: Path | str | None = None,
    splits: Sequence[str] = SPLITS,
    generator: Generator | None = None,
    codec: Codec | None = None,
    *,
    seconds: float | None = 3.0,
    size: tuple[int, int] = FORMATS["square"],
    about: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
    players: Players | None = None,
    reuse: Path | None = None,
) -> dict[str, Any]:
    """Measure truth, codec (if given) and generated clips (if a generator is given) on `prompts` scenes a split.

    Returns the results, and writes them with contact sheets of the first clips to `out` (results.json, results.md,
    index.html), if given. What is measured is kept there after each batch (clips.jsonl), and the splits take turns: an
    evaluation can be cut off at any time, and the same call goes on where it was.
    about: what is measured, as plain JSON, so that nothing else is added to it. extra: what else belongs to the
    results. progress(done, total) is called after each batch. workers: processes of one thread each that share the
    work, where there are more than one; `players` (a function that can be pickled) makes generator and codec in each of
    them, in place of those here. reuse: the folder of an evaluation whose columns of truth and codec are taken over,
    where it has them, in place of measuring them again.
    Raises ValueError for an unknown split and lengths outside 2 to 4 s, InputError for fewer than 1 prompt, and where
    what is to be reused is of other clips or another codec.
    """
    if prompts < 1:
        raise InputError(f"prompts must be at least 1, got {prompts}")
    every = cases(prompts, splits, seconds)
    settings = {"size": list(size), "seconds": seconds, "first_seed": FIRST_SEED, **(about or {})}
    ledger = None if out is None else CaseLedger(Path(out) / CLIPS, settings)
    measured = [case for case in every if ledger is not None and ledger.recall(case)]
    if progress is not None and measured:
        progress(len(measured), len(every))
    known = {(case.split, case.seed) for case in measured}
    rest = [case for case in every if (case.split, case.seed) not in known]
    if reuse is not None:
        _take_over(rest, reuse, settings, ("truth", "codec") if codec is not None else ("truth",))
    batches = list(_batches(rest))
    for some, shown in spread(partial(_measure, size=size), batches, (generator, codec), players, workers):
        measured += some
        if ledger is not None:
            for case, clips in shown:
                write_sheets(ledger.path.parent, case, clips)
            ledger.keep(some)
        if progress is not None:
            progress(len(measured), len(every))
    measured.sort(key=lambda case: (tuple(splits).index(case.split), case.seed))
    results = dict(extra or {}) | summarise(measured, {"prompts": prompts, **settings})
    if out is not None:
        write_report(Path(out), results, [case for case in measured if _is_shown(case)])
    return results


def _take_over(every: list[Case], folder: Path, settings: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Fill in these columns from another evaluation, but for clips that are shown."""
    about, entries = read_cases(folder)
    if other := [name for name in ALIKE if about.get(name) != json.loads(json.dumps(settings.get(name)))]:
        raise InputError(f"{folder} cannot be reused: it is an evaluation with another {', '.join(other)}", "reuse")
    found = {(e["split"], e["seed"]): e for e in entries if not e["failed"] and set(columns) <= e["verdicts"].keys()}
    for case in every:
        entry = found.get((case.split, case.seed))
        if entry is not None and not _is_shown(case):
            verdicts = {column: entry["verdicts"][column] for column in columns}
            fill(case, {**entry, "verdicts": verdicts})


def _measure(
    tools: tuple[Generator | None, Codec | None], batch: list[Case], size: tuple[int, int]
) -> tuple[list[Case], list[tuple[Case, dict[str, Clip]]]]:
    """The batch with its verdicts, and those of its clips that are shown. What cannot be judged is said to have failed,
    and the others go on."""
    generator, codec = tools
    shown = []
    for case, clips in zip(batch, _play(batch, size, generator, codec), strict=True):
        try:
            case.verdicts |= {column: judge(clip, case.scene, case.claims) for column, clip in clips.items()}
        except Exception as error:  # one clip in a thousand must not cost the others, and is counted
            log.exception("%s, seed %d cannot be judged", case.split, case.seed)
            case.failed = f"{type(error).__name__}: {error}"
        if _is_shown(case):
            shown.append((case, clips))
    return batch, shown


def _is_shown(case: Case) -> bool:
    return case.seed < FIRST_SEED + SHEETS


def _batches(every: list[Case]) -> Iterator[list[Case]]:
    """Neighbours of one split and length, at most BATCH at a time; the splits take turns."""

    def parts(split: str) -> Iterator[list[Case]]:
        own = sorted((c for c in every if c.split == split), key=lambda c: (c.scene.seconds, c.seed))
        for _, group in groupby(own, key=lambda c: c.scene.seconds):
            some = list(group)
            for k in range(0, len(some), BATCH):
                yield some[k : k + BATCH]

    turns = zip_longest(*(parts(split) for split in dict.fromkeys(c.split for c in every)))
    yield from (batch for turn in turns for batch in turn if batch is not None)


def _play(
    batch: list[Case], size: tuple[int, int], generator: Generator | None, codec: Codec | None
) -> list[dict[str, Clip]]:
    """The clips of each case, by column; truth and codec only where they are not yet judged."""
    if all(case.verdicts for case in batch):
        return [{"generated": clip} for clip in _generate(batch, size, generator)] or [{} for _ in batch]
    take = film([c.scene for c in batch], size, captions=[c.prompt for c in batch])
    frames, samples = take.frames.numpy(), take.audio.numpy()
    clips = [{"truth": clip_of(f, a)} for f, a in zip(frames, samples, strict=True)]
    if codec is not None:
        made_frames = codec.decode_frames(codec.encode_frames(take.frames)).cpu().numpy()[:, : frames.shape[1]]
        whole = -(-samples.shape[1] // 2000) * 2000
        padded = torch.nn.functional.pad(take.audio, (0, whole - samples.shape[1]))
        made_samples = codec.decode_samples(codec.encode_samples(padded)).float().cpu().numpy()[:, : samples.shape[1]]
        for k, case in enumerate(batch):
            clips[k]["codec"], case.kind_psnr = clip_of(made_frames[k], made_samples[k]), []
            _fidelity(case, clips[k]["codec"], clips[k]["truth"], take.sights[k], take.performances[k].events)
    for k, clip in enumerate(_generate(batch, size, generator)):
        clips[k]["generated"] = clip
    return clips


def _generate(batch: list[Case], size: tuple[int, int], generator: Generator | None) -> list[Clip]:
    if generator is None:
        return []
    return generator([c.prompt for c in batch], [c.seed for c in batch], batch[0].scene.seconds, size)


def clip_of(frames: np.ndarray[Any, np.dtype[np.uint8]], samples: np.ndarray[Any, np.dtype[np.float32]]) -> Clip:
    """A native clip of frames (T, H, W, 3) and samples (N,)."""
    sound = np.clip(np.ascontiguousarray(samples[None], np.float32), -1, 1)
    return Clip(np.ascontiguousarray(frames), float(NATIVE_FPS), Audio(sound, NATIVE_RATE))


def _fidelity(case: Case, made: Clip, true: Clip, sights: list[Sight], events: Sequence[Event]) -> None:
    assert made.audio is not None and true.audio is not None
    a, b = made.audio.samples[0], true.audio.samples[0]
    case.fidelity = {
        "psnr": psnr(made.frames, true.frames), "ssim": ssim(made.frames, true.frames),
        "log_spectral_distance": log_spectral_distance(a, b),
    }  # fmt: skip
    for actor, sight in zip(case.scene.actors, sights, strict=True):
        case.kind_psnr.append((actor.kind, psnr_in_boxes(made.frames, true.frames, sight.box.astype(np.float64))))
    times = np.asarray([e.time for e in events if e.kind in ("impact", "knock", "strike", "ring", "tick")], np.float64)
    case.shifts_ms = [float(s) for s in onset_shift_ms(a, b, times) if np.isfinite(s)]


def evaluate_engine(
    engine: Engine,
    prompts: int,
    out: Path | str | None = None,
    *,
    size: str = "square",
    seconds: float | None = 3.0,
    conditions: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    reuse: Path | None = None,
    **wishes: Any,
) -> str:
    """Evaluate an engine (and its codec, if it has one) from prompts alone; returns the report as Markdown.

    conditions: clips on which the conditions of the built-in engine are measured as well; 0: not at all.
    workers: processes that share the work, of the built-in engine alone. reuse: see `evaluate`.
    wishes: fields of each `Request`, such as steps, guidance, best_of, match_guidance.
    """
    from phonofilm.engines.native import NativeEngine

    if size not in FORMATS:
        raise InputError(f"size must be one of {', '.join(FORMATS)} for an evaluation, got {size!r}")
    from phonofilm.request import Request

    engine.capabilities.check(Request("a ball", seconds=3.0 if seconds is None else seconds, size=size, **wishes))
    codec, shape = getattr(engine, "codec", None), FORMATS[size]
    extra: dict[str, Any] = {}
    about: dict[str, Any] = {"engine": engine.capabilities.name, "wishes": wishes}
    if isinstance(engine, NativeEngine):
        about |= {"weights": engine.digest, "codec": codec_hash(engine.folder), "defaults": asdict(engine.defaults)}
    if conditions and isinstance(engine, NativeEngine):
        from phonofilm.evaluate.conditions import measure_conditions

        kept = None if out is None else Path(out) / "conditions.jsonl"
        extra["conditions"] = measure_conditions(engine, conditions, kept, progress, workers)
    players = partial(_players, engine.folder, engine.defaults, wishes) if isinstance(engine, NativeEngine) else None
    results = evaluate(
        prompts, out, SPLITS, partial(_make, engine, wishes), codec, seconds=seconds, size=shape, about=about,
        extra=extra, progress=progress, workers=workers, players=players, reuse=reuse,
    )  # fmt: skip
    from phonofilm.evaluate.report import markdown

    return markdown(results)


def codec_hash(weights: Path) -> str:
    """Names all that the codec's column depends on: both codecs, encoders and decoders."""
    files = ((VIDEO_FILE, VIDEO_KIND), (AUDIO_FILE, AUDIO_KIND))
    return " ".join(checkpoint.load(weights / file, kind=kind).hash for file, kind in files)


def _make(
    engine: Engine, wishes: Mapping[str, Any], texts: list[str], seeds: list[int], seconds: float, size: tuple[int, int]
) -> list[Clip]:
    """A `Generator`, once engine and wishes are given."""
    from phonofilm.engines.engine import join
    from phonofilm.engines.native import NativeEngine
    from phonofilm.request import Request

    if isinstance(engine, NativeEngine) and wishes.get("best_of", 1) == 1:
        options = {name: value for name, value in wishes.items() if name != "best_of"}
        return engine.make_batch(texts, seeds, seconds, size, **options)  # cheaper, and the same to rounding
    wish = f"{size[0]}x{size[1]}"
    requests = [Request(t, seconds=seconds, size=wish, seed=s, **wishes) for t, s in zip(texts, seeds, strict=True)]
    return [join(engine.generate(request))[0] for request in requests]


def _players(weights: Path, defaults: Defaults, wishes: Mapping[str, Any]) -> tuple[Generator, Codec]:
    """The built-in engine and its codec, on one thread, in a process that shares the work."""
    from phonofilm.engines.native import NativeEngine

    engine = NativeEngine(weights, "cpu", defaults)
    return partial(_make, engine, wishes), engine.codec
