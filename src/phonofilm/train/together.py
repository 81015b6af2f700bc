"""All of the road at once, on one GPU: codecs, filming, storyboards, painter and matcher as processes side by side.

Each of them alone would leave most of a large GPU waiting for its next kernel. They begin with weights that are there,
so that those who depend on others need not wait for them to be good:

| process | share of the time | learns |
|---|---|---|
| picture's codec | first quarter | on clips that are painted beside it; then films the reel by what it has learnt |
| sound's codec | first quarter | |
| storyboards | all of it | text, storyboards and sounds: all of the denoiser but what paints |
| painter | from the first filmed clips on | what paints, beneath true storyboards |
| matcher | from the first filmed clips on | |
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, multiprocessing
from tqdm import tqdm

from phonofilm import checkpoint
from phonofilm.codec.audio import AudioCodecConfig
from phonofilm.codec.codec import AUDIO_FILE, AUDIO_KIND, VIDEO_FILE, VIDEO_KIND, Codec
from phonofilm.codec.video import VideoCodecConfig
from phonofilm.engines.native import SAMPLING_FILE
from phonofilm.errors import InputError, PhonofilmError
from phonofilm.model.denoiser import DenoiserConfig
from phonofilm.model.timer import FILE as TIMER
from phonofilm.text.encoder import TextEncoderConfig
from phonofilm.text.matcher import MatcherConfig
from phonofilm.text.tokenizer import Tokenizer
from phonofilm.train.codec import AudioTraining, VideoTraining, sizes_of, train_video
from phonofilm.train.denoiser import KIND, PAINTER, WEIGHTS, DenoiserTraining, train_denoiser
from phonofilm.train.footage import Bucket, Footage
from phonofilm.train.painted import channel_weights
from phonofilm.train.reel import Ahead, empty_reel, film, sounds
from phonofilm.train.schedule import Plan
from phonofilm.train.sound import train_audio
from phonofilm.train.tasks import Tasks
from phonofilm.train.text import MATCHER, TOKENIZER, TextTraining, almost, evaluate_matcher, load_matcher, train_text
from phonofilm.train.vault import Vault

INT8 = r"(denoiser|text)\.blocks\.\d+\.(qkv|out|up|down)\.weight"
"""Matrices of the transformers, most of all weights, which are stored in 8 bits."""
BOARDS, PICTURE = "storyboards", "picture"  # folders and stages


@dataclass(frozen=True)
class Together:
    """What is trained how long. Shares of the time count from the beginning."""

    seconds: float  # in all
    clips: int = 40_000  # on the reel
    enough: int = 2_048  # clips with which the painter and the matcher begin
    codec_share: float = 0.22  # until when the codecs learn
    film_share: float = 0.75  # until when clips are filmed
    match_share: float = 0.85  # until when the matcher learns
    reserve: float = 10.0  # seconds at the end, for writing
    video: VideoTraining = field(
        default_factory=lambda: VideoTraining(
            batch=64,
            lr=1.5e-3,
            actors=0.75,
            box_weight=6.0,
            whole=0.85,
            hold=0.2,
            warmup=50,
            save_seconds=1e9,
            sheet_steps=10**9,
            log_steps=50,
        )
    )
    audio: AudioTraining = field(
        default_factory=lambda: AudioTraining(
            batch=64, lr=2e-3, hold=0.2, warmup=50, save_seconds=1e9, sheet_steps=10**9, log_steps=50
        )
    )
    text: TextTraining = field(default_factory=lambda: TextTraining(save_seconds=1e9, eval_steps=10**9, lr=1.5e-3))
    match_batch: int = 192
    boards_batch: int = 32  # clips of a whole strip; four times as many sounds
    sketches: int = 16  # and so many times as many storyboards
    paint_batch: int = 64
    detail_blocks: int | None = None  # of the painter, which may have more than the weights it begins with
    video_config: VideoCodecConfig | None = None  # of the picture's codec, likewise
    groups: int = 3  # of clips of each format that the picture's codec has at hand
    workers: int = 3  # processes that prepare data, of each of those that learn


@dataclass(frozen=True)
class _Job:
    """What every process knows."""

    recipe: Together
    start: Path  # the weights to begin with
    out: Path
    began: float  # seconds since the epoch
    reel: list[Bucket]
    ready: Tensor  # (2,) whether the codecs of picture and sound have learnt
    device: str

    def at(self, share: float) -> float:
        return self.began + share * (self.recipe.seconds - self.recipe.reserve)

    def left(self, share: float) -> float:
        return max(1.0, self.at(share) - time.time())

    def plan(self, decay: float) -> Plan:
        return Plan(hours=self.left(1.0) / 3600, decay=decay, until=self.at(1.0))

    def footage(self, batch: int, **shares: Any) -> Footage:
        return Footage(self.reel, batch, **shares)

    def await_clips(self) -> None:
        while sum(len(b) for b in self.reel) < min(self.recipe.enough, self.recipe.clips):
            if time.time() > self.at(1.0):
                raise PhonofilmError("nothing was filmed in time")
            time.sleep(0.2)


def train_together(start: Path, out: Path, recipe: Together, device: str = "cuda") -> None:
    """Train everything from the weights in `start` into `out`.

    Raises InputError if `out` holds weights already, PhonofilmError if a part failed.
    """
    if (out / WEIGHTS).exists():
        raise InputError(f"{out / WEIGHTS} is there already: name another folder, and begin with this one (--start)")
    out.mkdir(parents=True, exist_ok=True)
    for file in (TOKENIZER, TIMER, SAMPLING_FILE):
        if (start / file).exists():
            shutil.copyfile(start / file, out / file)
    reel = empty_reel(recipe.clips)
    job = _Job(recipe, start, out, time.time(), reel, torch.zeros(2).share_memory_(), device)
    context = multiprocessing.get_context("fork")
    parts: Sequence[Callable[[_Job], None]] = (_pictures, _sounds, _boards, _paint, _match)
    processes = [context.Process(target=_run, args=(part, job), name=part.__name__) for part in parts]
    for process in processes:
        process.start()
    with tqdm(total=round(recipe.seconds), desc="all", unit="s", smoothing=0) as bar:
        while any(process.is_alive() for process in processes):
            time.sleep(0.5)
            bar.update(min(bar.total, round(time.time() - job.began)) - bar.n)
            bar.set_postfix_str(f"{sum(len(b) for b in reel)} clips filmed", refresh=False)
            if any(process.exitcode for process in processes[:2]):  # without codecs all others would wait in vain
                break
    for process in processes:
        if process.is_alive():
            process.terminate()
        process.join()
    if not any(process.exitcode for process in processes[:4]):
        earlier = checkpoint.load(start / WEIGHTS, kind=KIND).config.get("trained", {})
        merge(out / BOARDS / WEIGHTS, out / PICTURE / WEIGHTS, out / WEIGHTS, earlier)
    if failed := [p.name.lstrip("_") for p in processes if p.exitcode]:
        raise PhonofilmError(f"training failed in: {', '.join(failed)}")


def merge(
    boards: Path,
    picture: Path,
    target: Path,
    before: Mapping[str, Any] | None = None,
    int8: str | None = INT8,
    side_by_side: bool = True,
) -> str:
    """Write a denoiser whose painter is that of `picture` and whose all else is that of `boards`; returns its hash.

    before: "steps" and "seconds" that both had behind them when they began. side_by_side: whether they learnt at the
    same time, so that the longer one's seconds count; else those of both do.
    """
    one, two = checkpoint.load(boards, kind=KIND), checkpoint.load(picture, kind=KIND)
    tensors = {
        n: w for stored in (one, two) for n, w in stored.tensors.items() if n.startswith(PAINTER) == (stored is two)
    }
    nothing = {"steps": 0, "seconds": 0.0}
    shared = {**nothing, **(before or {})}
    first, second = ({**nothing, **stored.config.get("trained", {})} for stored in (one, two))
    trained = {name: first[name] + second[name] - shared[name] for name in nothing}
    if side_by_side:
        trained["seconds"] = max(first["seconds"], second["seconds"])
    config = {**one.config, "denoiser": two.config["denoiser"], "trained": trained}
    return checkpoint.save(target, tensors, kind=KIND, config=config, storage="bf16", int8=int8)


def _run(part: Callable[[_Job], None], job: _Job) -> None:
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("high")
    part(job)


def _note(job: _Job, name: str, **what: Any) -> None:
    """A line in notes.jsonl: what happened when."""
    with (job.out / "notes.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"at": round(time.time() - job.began, 1), "part": name, **what}) + "\n")


def _pictures(job: _Job) -> None:
    """Train the picture's codec, and film by it."""
    r, device = job.recipe, torch.device(job.device)
    vault = Vault(device, r.workers, r.groups)
    vault.draw(0, r.video, torch.Generator().manual_seed(0), False)
    _note(job, "vault")
    stored = checkpoint.load(job.start / VIDEO_FILE, kind=VIDEO_KIND)
    recipe = replace(r.video, seconds=job.left(r.codec_share))
    config = r.video_config or VideoCodecConfig(**sizes_of(stored))
    train_video(vault, job.out, recipe, config, device, start=stored.tensors)
    step = checkpoint.load_state(job.out / "video-codec.state")["step"]
    del vault
    if device.type == "cuda":
        torch.cuda.empty_cache()
    job.ready[0] = 1
    _note(job, "video codec", steps=step)
    while not job.ready[1]:
        time.sleep(0.1)
    codec = Codec.load(job.out, device)
    done = 0
    for done in film(job.reel, codec, 2 * r.workers):
        if done % 4096 == 0:
            _note(job, "film", clips=done)
        if time.time() > job.at(r.film_share):
            break
    _note(job, "film", clips=done)


def _sounds(job: _Job) -> None:
    r = job.recipe
    stored = checkpoint.load(job.start / AUDIO_FILE, kind=AUDIO_KIND)
    recipe = replace(r.audio, seconds=max(1.0, job.left(r.codec_share) - 5))
    config = AudioCodecConfig(**sizes_of(stored))
    source = sounds(r.workers, recipe.batch)
    train_audio(source, job.out, recipe, config, job.device, start=stored.tensors)
    job.ready[1] = 1
    _note(job, "audio codec", steps=checkpoint.load_state(job.out / "audio-codec.state")["step"])


def _denoiser(job: _Job, stage: str, footage: Footage, workers: int, **options: Any) -> None:
    """Train a part of the denoiser in a folder of its own."""
    stored = checkpoint.load(job.start / WEIGHTS, kind=KIND)
    config = DenoiserConfig.stored(stored.config["denoiser"])
    config = replace(config, detail_blocks=job.recipe.detail_blocks or config.detail_blocks, weather=True)
    weights = options.pop("channel_weights", None)
    training = DenoiserTraining(
        denoiser=config, start=str(job.start / WEIGHTS), stage=stage, accumulate=1, compile=False, save_seconds=1e9,
        sheet_seconds=1e9, log_steps=50, **options,
    )  # fmt: skip
    (job.out / stage).mkdir(exist_ok=True)
    train_denoiser(
        job.out / stage, training, Ahead(footage, workers), Tokenizer.load(job.start / TOKENIZER),
        text=TextEncoderConfig(**stored.config["text"]), channel_weights=weights, device=job.device, progress=False,
        curves=False,
    )  # fmt: skip
    step = checkpoint.load(job.out / stage / WEIGHTS).config["trained"]
    _note(job, stage, clips=len(footage), **step)


def _boards(job: _Job) -> None:
    r = job.recipe
    footage = job.footage(r.boards_batch, boards=0.45, sounds=0.6, sketches=r.sketches, speakers=0.3, even=0.3)
    _denoiser(
        job, BOARDS, footage, 3 * r.workers, plan=job.plan(0.6), frozen=PAINTER,
        tasks=Tasks(alone=0, video=0.4, heard=0.5), muon_rate=0.012, adamw_rate=8e-4, average=0.998,
    )  # fmt: skip


def _paint(job: _Job) -> None:
    r = job.recipe
    job.await_clips()
    _note(job, "painter begins")
    footage = job.footage(r.paint_batch, boards=0.0)
    seen = channel_weights(Codec.load(job.out, job.device), footage)
    _denoiser(
        job, PICTURE, footage, 2 * r.workers, plan=job.plan(0.7), learns=PAINTER, tasks=Tasks(alone=1),
        change_weight=0.3, muon_rate=0.015, adamw_rate=1e-3, average=0.9995, channel_weights=seen,
    )  # fmt: skip


def _match(job: _Job) -> None:
    r = job.recipe
    stored = checkpoint.load(job.start / MATCHER, kind="matcher")
    config = MatcherConfig(**stored.config)
    job.await_clips()
    footage = _Wrong(job.reel, r.match_batch)
    scores = train_text(
        Ahead(footage, r.workers), job.out, job.left(r.match_share), recipe=r.text, model=config, device=job.device,
        progress=False, start=stored.tensors,
    )  # fmt: skip
    held_out = [footage.at(2**40 + k) for k in range(4)]
    matcher, tokenizer = load_matcher(job.out / MATCHER, job.device), Tokenizer.load(job.out / TOKENIZER)
    of = min(64, min(len(b["captions"]) for b in held_out))
    _note(job, "matcher", **scores, **evaluate_matcher(matcher, tokenizer, held_out, of=of, device=job.device))


class _Wrong(Footage):
    """Footage whose batches bring their captions that are almost right."""

    def at(self, step: int) -> dict[str, Any]:
        batch, rng = super().at(step), random.Random(step)
        return {**batch, "wrong": [almost(caption, rng) for caption in batch["captions"]]}
