"""The whole road: presets, and what `phonofilm train codec|text|denoiser` does.

Everything of one run lies in one folder: the codec's weights, the latents that it made, the tokenizer, the matcher, the
denoiser. The same command goes on where an earlier one stopped.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from phonofilm import checkpoint
from phonofilm.codec.audio import AudioCodecConfig
from phonofilm.codec.codec import AUDIO_FILE, VIDEO_FILE, Codec
from phonofilm.codec.video import VideoCodecConfig
from phonofilm.data.cache import LatentCache
from phonofilm.diffusion.schedule import SHIFT
from phonofilm.engines.native import SAMPLING_FILE, shipped_weights
from phonofilm.errors import CheckpointError, InputError
from phonofilm.files import replacing
from phonofilm.model.denoiser import DenoiserConfig
from phonofilm.model.timer import FILE as TIMER
from phonofilm.text.encoder import TextEncoderConfig
from phonofilm.text.matcher import MatcherConfig
from phonofilm.text.tokenizer import Tokenizer
from phonofilm.train.codec import (
    AudioTraining,
    VideoTraining,
    playhouse_films,
    train_decoder,
    train_video,
)
from phonofilm.train.denoiser import KIND, PAINTER, WEIGHTS, DenoiserTraining, Generator, Sheet, train_denoiser
from phonofilm.train.footage import Footage, film_folder, film_playhouse
from phonofilm.train.own import OwnClips
from phonofilm.train.painted import channel_weights, load_denoiser, painter, painting_error
from phonofilm.train.schedule import Plan
from phonofilm.train.sound import playhouse_sounds, train_audio, train_audio_decoder
from phonofilm.train.tasks import Tasks
from phonofilm.train.text import MATCHER, TOKENIZER, TextTraining, train_text
from phonofilm.train.timer import TimerTraining, train_timer
from phonofilm.train.together import BOARDS, PICTURE, Together, merge, train_together

log = logging.getLogger(__name__)

UNPLANNED = {"steps": 12, "shift": SHIFT}  # how strips without a storyboard are sampled, which leave much more open
TINY = (16, 16, 16)
TINY_DENOISER = DenoiserConfig(
    width=64, blocks=2, text_width=32, detail=16, detail_blocks=1, board_detail=16, board_blocks=1, reader=16
)


@dataclass(frozen=True)
class Stage:
    """A training of the denoiser, and what its batches are."""

    training: DenoiserTraining
    boards: float = 0.1  # share of batches that are storyboards of fresh scenes
    sounds: float = 0.16  # of the others: sounds with their storyboards, without the picture
    sketches: int = 8  # times as many clips in a batch of storyboards alone
    speakers: float = 0.0  # share of them that is a face alone: words are many


@dataclass(frozen=True)
class Preset:
    """Everything that a run needs."""

    video: VideoTraining
    audio: AudioTraining
    text: TextTraining
    text_seconds: float  # of training the matcher
    denoiser: tuple[Stage, ...]  # one after the other
    batch: int  # clips (square, 3 s) of a forward pass of the denoiser
    clips: int  # of the playhouse, filmed once and kept as latents
    text_clips: int  # of them, enough for the matcher
    models: dict[str, Any] = field(default_factory=dict)  # sizes other than the defaults: video, audio, matcher, ...
    timer: TimerTraining = field(default_factory=TimerTraining)
    more_clips: int = 2_000  # that are filmed where one goes on with weights that are there, see `_more`
    more_batch: int = 32  # clips of a forward pass where what paints goes on: fewer stir up what it has learnt


def _stages(first: Plan, second: Plan, third: Plan, **options: Any) -> tuple[Stage, ...]:
    """The whole denoiser, most batches for what paints; then storyboards and sounds, while that stays as it is; then
    what paints, alone, and above all what moves."""
    return (
        Stage(DenoiserTraining(first, accumulate=1, **options)),
        Stage(
            DenoiserTraining(
                second, stage="storyboards", after="denoiser", frozen=PAINTER,
                tasks=Tasks(alone=0, video=0.4, heard=0.5), accumulate=1, **options,
            ),
            boards=0.65, sounds=0.6, sketches=4, speakers=0.35,
        ),
        Stage(
            DenoiserTraining(
                third, stage="picture", after="storyboards", learns=PAINTER, tasks=Tasks(alone=1), accumulate=1,
                change_weight=0.3, muon_rate=0.01, adamw_rate=7e-4, **options,
            ),
            boards=0.0, sounds=0.0,
        ),
    )  # fmt: skip


def playhouse_cpu() -> Preset:
    """What two cores do in at most eight hours in all, with the filming; smaller models than the shipped ones."""
    return Preset(
        video=VideoTraining(seconds=3600, lr=2e-3, fresh=0.25, actors=0.75, box_weight=6.0, whole=0.85),
        audio=AudioTraining(seconds=1080),
        text=TextTraining(), text_seconds=900,
        denoiser=_stages(Plan(hours=2.9, decay=0.25), Plan(hours=1.5, decay=0.5), Plan(hours=1.2, decay=1.0)),
        batch=8, clips=16_000, text_clips=4_000, models={"audio": AudioCodecConfig(gains=True)},
    )  # fmt: skip


def playhouse_gpu() -> Preset:
    """What one 80 GB GPU does in 25 minutes; the clips are made on it."""
    return Preset(
        video=VideoTraining(seconds=240, batch=64, fresh=8.0, pool=768), audio=AudioTraining(seconds=90, batch=128),
        text=TextTraining(), text_seconds=90, denoiser=_stages(
            Plan(hours=0.13), Plan(hours=0.05, decay=0.75), Plan(hours=0.04, decay=1.0)
        ),
        batch=256, clips=40_000, text_clips=40_000, more_batch=256, models={"audio": AudioCodecConfig(gains=True)},
    )  # fmt: skip


def smoke() -> Preset:
    """Less than a minute on two cores: every step of the road, on models too small to learn much."""
    return Preset(
        video=VideoTraining(seconds=None, steps=6, batch=4, pool=8),
        audio=AudioTraining(seconds=None, steps=6, batch=4),
        text=TextTraining(tokenizer_captions=2000, steps=4), text_seconds=60,
        denoiser=_stages(
            Plan(steps=4, warmup=2), Plan(steps=2, warmup=1), Plan(steps=2, warmup=1), denoiser=TINY_DENOISER,
            compile=False,
        ),
        batch=4, clips=16, text_clips=16, more_clips=16, more_batch=4, timer=TimerTraining(scenes=32, steps=4, batch=8),
        models={
            "video": VideoCodecConfig(encoder_widths=TINY, decoder_widths=TINY, decoder_blocks=(1, 1, 1)),
            "audio": AudioCodecConfig(encoder_widths=TINY, decoder_widths=TINY, decoder_blocks=(1, 1, 1), gains=True),
            "text": {"width": 32, "layers": 1, "heads": 2},
            "matcher": MatcherConfig(vocab=1024, width=64, text_layers=1, strip_layers=1, heads=2, embedding=32),
        },
    )  # fmt: skip


OPTIONS: dict[str, set[str]] = {
    "codec": {"data", "hours"}, "decoder": {"data", "hours", "start"}, "text": {"data", "hours", "clips"},
    "denoiser": {"data", "hours", "clips"}, "timer": set(), "all": {"hours", "clips", "start"},
    "storyboards": {"hours", "clips", "start"}, "picture": {"hours", "clips", "start"},
}  # fmt: skip
"""What else each step may be told than preset and folder."""

MORE = (BOARDS, PICTURE)
"""Parts of the denoiser, stages of its training, that can go on by themselves."""
HARD = 0.75
"""Share of the clips, where the picture goes on, whose scenes are hard to paint."""
UNSEEN = 96
"""Clips by which it is judged whether what paints has become better."""
SLOWER = 0.4
"""Learning rates of what goes on with what has learnt before, beside those of its stage."""
SETTLED = 0.1
"""The same of what paints: faster, or in batches of 8, it forgot more than it learnt."""

PRESETS = {"playhouse-cpu": playhouse_cpu, "playhouse-gpu": playhouse_gpu, "smoke": smoke}


def train(
    what: str,
    preset: str,
    out: Path,
    *,
    folder: Path | None = None,
    hours: float | None = None,
    clips: int | None = None,
    start: Path | None = None,
) -> None:
    """Train "codec", "text", "denoiser" or "timer" into `out`; each needs what stands before it, but for the timer,
    which needs nothing. "decoder" goes on with the decoders of picture and sound alone, at any time: latents, matcher
    and denoiser stay valid. "storyboards" (with text and sound) and "picture" go on with these parts of the denoiser in
    `start` (the shipped weights), whatever its size; `out` gets all that a film needs. "all" goes on with everything at
    once, from the weights in `start`, too: that needs a large GPU, see `together`.

    folder: captioned clips instead of the playhouse. hours, clips: instead of the preset's. See `OPTIONS` for which
    step knows which. Raises InputError when something is missing, or given to a step that does not know it.
    """
    if preset not in PRESETS:
        raise InputError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    given = {"data": folder, "hours": hours, "clips": clips, "start": start}
    for name, value in given.items():
        if value is not None and name not in OPTIONS[what]:
            knowing = ", ".join(step for step, names in OPTIONS.items() if name in names)
            raise InputError(f"train {what} knows no {name}, got {value}: it is for {knowing}", name)
    p = PRESETS[preset]()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out.mkdir(parents=True, exist_ok=True)
    if what == "all":
        if device == "cpu":
            raise InputError("train all needs a CUDA GPU, here is none: train codec, text and denoiser one by one")
        together = Together(seconds=3600 * (hours or 25 / 60), clips=clips or p.clips)
        train_together(start or shipped_weights(), out, together, device)
        return
    if what == "codec":
        video, audio = _codecs(p, hours)
        own = None if folder is None else _own(out, folder)
        sounds, films = playhouse_sounds(device=device), playhouse_films(device=device)
        if own is not None:
            sounds, films = own.sounds, own.films
        if own is None or own.tracks:
            train_audio(sounds, out, audio, p.models.get("audio"), device)
        elif not (out / AUDIO_FILE).exists():
            log.warning("%s: no clip has sound; the shipped codec of sound is used", folder)
            with replacing(out / AUDIO_FILE) as beside:
                copyfile(shipped_weights() / AUDIO_FILE, beside)
        train_video(films, out, video, p.models.get("video"), device)
        return
    if what == "timer":
        _train_timer(out, p.timer)
        return
    if what in MORE:
        _more(what, p, out, start or shipped_weights(), hours, clips, device)
        return
    if what == "decoder" and start is not None:
        _goes_on(out, start, checkpoint.load(start / WEIGHTS, kind=KIND).hash)
    for file in (VIDEO_FILE, AUDIO_FILE):
        if not (out / file).exists():
            raise InputError(
                f"{out / file} is missing: run `phonofilm train codec --preset {preset} --out {out}` first"
            )
    if what == "decoder":
        video, audio = _codecs(p, hours)
        video, audio = replace(video, lr=SLOWER * video.lr), replace(audio, lr=SLOWER * audio.lr)
        weights = out / "denoiser.safetensors"
        mine = None if folder is None else _own(out, folder)
        if mine is None or mine.tracks:
            train_audio_decoder(playhouse_sounds(device=device) if mine is None else mine.sounds, out, audio, device)
        if mine is not None:
            films = mine.films
        else:
            paint = painter(Codec.load(out, device), weights) if weights.exists() else None
            films = playhouse_films(device=device, paint=paint)
        train_decoder(films, out, video, p.models.get("video"), device)
        return
    codec = Codec.load(out, device)
    _belongs(out, what, codec)
    if what == "text":
        footage = _footage(codec, out, folder, clips or p.text_clips, 64 if preset != "smoke" else 4)
        held_out = [footage.at(2**40 + k) for k in range(4)]
        train_text(
            footage, out, 3600 * hours if hours else p.text_seconds, recipe=p.text, model=p.models.get("matcher"),
            held_out=held_out, device=device, captions=_captions(footage) if folder else None,
        )  # fmt: skip
        return
    if not (out / "tokenizer.json").exists():
        raise InputError(
            f"{out / 'tokenizer.json'} is missing: run `phonofilm train text --preset {preset} --out {out}` first"
        )
    tokenizer = Tokenizer.load(out / "tokenizer.json")
    sizes = TextEncoderConfig(tokenizer.size, **p.models.get("text", {}))
    footage = _footage(codec, out, folder, clips or p.clips, p.batch)
    stages = p.denoiser if folder is None else (_without_storyboard(p.denoiser[0]),)
    if folder is not None and not (out / SAMPLING_FILE).exists():
        with replacing(out / SAMPLING_FILE) as beside:
            beside.write_text(json.dumps(UNPLANNED), encoding="utf-8")
    whole = sum(stage.training.plan.hours or 1.0 for stage in stages)
    seen = channel_weights(codec, footage)
    for stage in stages:
        plan = stage.training.plan
        if hours is not None:
            plan = replace(plan, steps=None, hours=hours * (plan.hours or 1.0) / whole)
        if stage.training.denoiser.storyboard and folder is None:
            footage.boards, footage.sounds = stage.boards, stage.sounds
            footage.sketches, footage.speakers = stage.sketches, stage.speakers
        train_denoiser(
            out, replace(stage.training, plan=plan), footage, tokenizer, text=sizes,
            sheet=_sheet(out, codec, tokenizer), channel_weights=seen, device=device,
        )  # fmt: skip


def _more(what: str, p: Preset, out: Path, start: Path, hours: float | None, clips: int | None, device: str) -> None:
    """Go on with a part of the denoiser in `start`: slower, since it has learnt before. See `train`."""
    stored = checkpoint.load(start / WEIGHTS, kind=KIND)
    config = replace(DenoiserConfig.stored(stored.config["denoiser"]), weather=True)
    if not config.storyboard:
        raise InputError(f"{start / WEIGHTS} knows no storyboard, so that it has no such part to go on with", "start")
    _goes_on(out, start, stored.hash)
    stage = next(stage for stage in p.denoiser if stage.training.stage == what)
    codec, tokenizer = Codec.load(out, device), Tokenizer.load(out / TOKENIZER)
    amount = clips or (p.clips if what == PICTURE else p.more_clips)
    if what == PICTURE:
        footage, slower = _footage(codec, out, None, amount, p.more_batch, HARD), SETTLED
    else:
        footage, slower = _footage(codec, out, None, amount, p.batch), SLOWER
    footage.boards, footage.sounds, footage.sketches = stage.boards, stage.sounds, 2 * stage.sketches
    if what == BOARDS:  # sound is forgotten else
        footage.boards, footage.sounds, footage.codec = 0.6, 0.8, codec
    footage.speakers, footage.even, footage.pairs = 0.15, 0.15, 0.5  # who is who of two is learnt last
    plan = replace(stage.training.plan, decay=0.7)
    training = replace(
        stage.training, plan=plan if hours is None else replace(plan, steps=None, hours=hours), after=None,
        start=str(start / WEIGHTS), denoiser=config, average=0.998, keep_sound=what == BOARDS,
        muon_rate=slower * stage.training.muon_rate, adamw_rate=slower * stage.training.adamw_rate,
    )  # fmt: skip
    seen = channel_weights(codec, footage)
    train_denoiser(
        out / what, training, footage, tokenizer, text=TextEncoderConfig(**stored.config["text"]),
        sheet=_sheet(out, codec, tokenizer), channel_weights=seen, device=device,
    )  # fmt: skip
    parts = {part: out / part / WEIGHTS for part in MORE}
    boards, picture = (path if path.exists() else start / WEIGHTS for path in parts.values())
    if picture == parts[PICTURE] and not _paints_better(picture, start / WEIGHTS, codec, seen, out, device):
        picture = start / WEIGHTS
    merge(boards, picture, out / WEIGHTS, stored.config.get("trained", {}), side_by_side=False)


def _paints_better(learnt: Path, before: Path, codec: Codec, channel_weights_D: Tensor, out: Path, device: str) -> bool:
    """Whether what paints has become better on scenes that it never saw: few clips are soon known by heart."""
    footage = Footage(_filmed(codec, out, "unseen", UNSEEN, seed=1), 8)
    after, at_first = (
        painting_error(load_denoiser(weights, device), footage, channel_weights_D, device)
        for weights in (learnt, before)
    )
    told = f"error on {len(footage)} clips that nothing learnt from: {at_first:.4f} before, {after:.4f} now"
    if after >= at_first:
        log.warning("%s. What paints is kept as it was; it learns from more clips (--clips)", told)
        return False
    tqdm.write(f"What paints: {told}", file=sys.stderr)
    return True


def _goes_on(out: Path, start: Path, digest: str) -> None:
    """Bring all that a film needs from `start` to `out`, where parts of it go on, and note what they began with. Raises
    InputError where `out` holds other things, which would be lost or would not fit."""
    note = out / "start.hash"
    if note.exists():
        if note.read_text(encoding="utf-8").strip() != digest:
            raise InputError(f"{out} went on with other weights than {start}: name another folder", "start")
    elif others := [file for file in (VIDEO_FILE, AUDIO_FILE, TOKENIZER, WEIGHTS) if (out / file).exists()]:
        raise InputError(f"{out / others[0]} is there already: name another folder, or begin with this one (--start)")
    else:
        with replacing(note) as beside:
            beside.write_text(digest + "\n", encoding="utf-8")
    for file in (VIDEO_FILE, AUDIO_FILE, TOKENIZER, MATCHER, TIMER, SAMPLING_FILE, WEIGHTS):
        if (start / file).exists() and not (out / file).exists():
            with replacing(out / file) as beside:
                copyfile(start / file, beside)


def _belongs(out: Path, what: str, codec: Codec) -> None:
    """Note of which codec's latents a step learns. Raises CheckpointError where it has learnt another one's."""
    note, state = out / f"{what}.codec", out / f"{what}.state"
    if state.exists() and note.exists() and (of := note.read_text(encoding="utf-8").strip()) != codec.hash:
        raise CheckpointError(
            f"{state} learnt the latents of codec {of[:12]}…, here is {codec.hash[:12]}…: choose another folder, or "
            "remove that file to begin anew"
        )
    with replacing(note) as beside:
        beside.write_text(codec.hash + "\n", encoding="utf-8")


def _without_storyboard(stage: Stage) -> Stage:
    """The same for clips of which nobody has storyboards: a picture beneath one does not follow the prompt."""
    sizes = replace(stage.training.denoiser, storyboard=False)
    return replace(stage, training=replace(stage.training, denoiser=sizes))


def _train_timer(out: Path, recipe: TimerTraining) -> None:
    with tqdm(desc="timer", unit="step") as bar:

        def show(step: int, steps: int, loss: float) -> None:
            bar.total, bar.n = steps, step
            bar.set_postfix(loss=f"{loss:.5f}")

        train_timer(out, recipe, progress=show)


def _codecs(p: Preset, hours: float | None) -> tuple[VideoTraining, AudioTraining]:
    """The recipes of both codecs, with `hours` in all, in place of the preset's seconds or steps."""
    if hours is None:
        return p.video, p.audio
    scale = 3600 * hours / ((p.video.seconds or 1) + (p.audio.seconds or 1))
    return (
        replace(p.video, seconds=(p.video.seconds or 1) * scale, steps=None),
        replace(p.audio, seconds=(p.audio.seconds or 1) * scale, steps=None),
    )


def _own(out: Path, folder: Path) -> OwnClips:
    with tqdm(desc="reading", unit="clip") as bar:

        def show(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        return OwnClips(folder, out, show)


def _sheet(out: Path, codec: Codec, tokenizer: Tokenizer) -> Sheet:
    """Writes contact sheets of three films by the weights as they are, into `out`/sheets."""
    from phonofilm import latents, media
    from phonofilm.diffusion.ahead import draw_board
    from phonofilm.diffusion.euler import Euler
    from phonofilm.diffusion.noise import strip_noise
    from phonofilm.diffusion.schedule import shifted_times

    prompts = [
        "a red ball bounces three times on a wooden floor",
        'a woman in a green shirt says "hello" at sunset',
        "a small blue car drives in from the left",
    ]

    def show(step: int, model: Generator) -> None:
        g = latents.Geometry.of_clip(128, 128, 3.0)
        noise = strip_noise(range(len(prompts)), replace(g, boards=g.latents), codec.device)
        x = noise[:, : g.n]
        strip = latents.Latents(x, g, torch.ones_like(x[..., 0]))
        text = model.text(*(x.to(codec.device) for x in tokenizer.encode(prompts))).float()
        times = shifted_times(12)
        if model.denoiser.config.storyboard:
            board = draw_board(
                lambda g: model.denoiser.bind(text, g), x, strip.mask_BN, g, noise[:, g.n :], Euler(), times
            )
            strip = latents.with_board(strip, board, free=0)
        made = Euler()(model.denoiser.bind(text, strip.geometry), strip.values_BND, strip.mask_BN, times)
        video_z, audio_z, _ = latents.unpack(replace(strip, values_BND=made))
        assert video_z is not None and audio_z is not None
        (out / "sheets").mkdir(exist_ok=True)
        for k, prompt in enumerate(prompts):
            clip = codec.decode(video_z[k : k + 1], audio_z[k : k + 1])
            media.contact_sheet(clip, out / "sheets" / f"{step:06d}-{k}.png", title=prompt)

    return show


def _footage(
    codec: Codec,
    out: Path,
    folder: Path | None,
    clips: int,
    batch: int,
    hard: float = 0.0,
) -> Footage:
    if folder is not None:
        return Footage([film_folder(codec, out, folder)], batch)
    return Footage(_filmed(codec, out, "hard" if hard else "playhouse", clips, hard), batch)


def _filmed(codec: Codec, out: Path, name: str, clips: int, hard: float = 0.0, seed: int = 0) -> list[LatentCache]:
    """Clips of the playhouse in a folder of their own, with a progress bar; all cores film where there are many."""
    with tqdm(desc="filming", unit="group") as bar:

        def show(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        device = str(codec.device)
        workers = max(1, os.cpu_count() or 1) if device == "cpu" and clips > 64 else 1
        folder = out / f"{name}-{codec.hash[:12]}"
        return film_playhouse(out, folder, clips, device=device, workers=workers, seed=seed, hard=hard, progress=show)


def _captions(footage: Footage) -> list[str]:
    return [row["caption"] for bucket in footage.buckets for row in bucket.about]
