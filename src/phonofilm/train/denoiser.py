"""Training of the denoiser and its text encoder, end to end on latents.

Resume is the same call again; what step n sees depends on the seed and on n alone. A longer plan goes on from the
state before the decay of the learning rate, so that a training can be spread over several sittings. A second stage
begins with the weights of the first one, and has files of its own.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from phonofilm import checkpoint
from phonofilm.errors import CheckpointError, InputError, PhonofilmError
from phonofilm.model.denoiser import Denoiser, DenoiserConfig
from phonofilm.text.encoder import TextEncoder, TextEncoderConfig, drop_text, trim
from phonofilm.train.alignment import Alignment, reading_error, token_weights
from phonofilm.train.optim import Average, Optimizers
from phonofilm.train.schedule import Clock, Plan, bucket
from phonofilm.train.tasks import Batch, Question, Tasks, ask, change_error, error, mean_error
from phonofilm.train.throughput import can_compile, keep_memory, matrix_rate

Batches = Callable[[int], Iterator[Batch]]
"""`batches(n)` starts with batch number n; the same n must give the same batch for a run to resume exactly."""

STATE: Final = ".state"  # behind the name of the stage: where the training stands
PREDECAY: Final = ".predecay"  # where it stood before the learning rate began to fall
CURVES: Final = ".jsonl"
WEIGHTS: Final = "denoiser.safetensors"  # the averaged weights, bfloat16, "denoiser." and "text." before the names
KIND: Final = "denoiser"
PAINTER: Final = tuple(f"denoiser.{part}." for part in ("detailer", "drawn_detail", "still_detail", "weather_detail"))
"""Beginnings of the names of the weights that paint the picture."""
_EDGES: Final = (0.0, 0.5, 0.75, 0.9, 0.97, 1.0)  # of the noise levels by which the loss is shown


class Encodes(Protocol):
    """What is needed of a tokenizer."""

    @property
    def size(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class DenoiserTraining:
    """How the denoiser is trained."""

    plan: Plan
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    tasks: Tasks = field(default_factory=Tasks)
    accumulate: int = 2  # batches a step: on two cores 64 clips at once were 1.2x slower than 32, for each clip
    audio_weight: float = 0.5  # of the sound's mean error beside the picture's
    board_weight: float = 1.0  # of the storyboard's
    truth_weight: float = 0.1  # of the cross-entropy by which half depth is aligned with truth, where there is truth
    actor_weight: float = 3.0  # of errors in tokens that show an actor, less 1
    change_weight: float = 0.0  # of errors in how the picture of an actor changes, see `tasks.change_error`
    muon_rate: float = 0.015  # peak learning rate of the blocks' matrices
    muon_decay: float = 0.01  # their weight decay
    adamw_rate: float = 1e-3  # peak learning rate of all else
    clip: float = 1.0  # largest norm of the gradient
    average: float = 0.999  # decay of the averaged weights, which are what is kept
    compile: bool = True  # torch.compile: 1.2-1.3x as fast on a CPU after 20 s; left out where there is no compiler
    bf16: bool | None = None  # None: where the machine has it
    save_seconds: float = 300.0  # between saved states
    sheet_seconds: float = 900.0  # between calls of `sheet`
    log_steps: int = 10  # between points of the curves
    seed: int = 0
    stage: str = KIND  # the name of its files
    after: str | None = None  # the stage whose weights it begins with
    start: str | None = None  # or a file of weights, of a model with fewer blocks in its detailers or as many
    keep_sound: bool = False  # whether sounds are learnt from what those weights make of them, see `_Run._taught`
    frozen: tuple[str, ...] = ()  # beginnings of the names of weights that do not learn
    learns: tuple[str, ...] = ("",)  # and of those that do


class Generator(nn.Module):
    """Text encoder and denoiser, which learn together."""

    def __init__(self, denoiser: DenoiserConfig, text: TextEncoderConfig, compute: torch.dtype | None = None) -> None:
        super().__init__()
        self.text = TextEncoder(text)
        self.denoiser = Denoiser(denoiser, compute=compute)

    def paint(self, question: Question) -> Tensor:
        """The answer x0_BND to a question for the detailer alone."""
        g = question.geometry
        video_BND = self.denoiser.paint(question.x_BND, question.t_BN, g)
        return torch.cat([video_BND, question.x_BND[:, g.video.stop :]], dim=1)

    def forward(self, question: Question, ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The answer x0_BND to a question, the strip's tokens at half depth (see `Denoiser.look`), and text_BLC."""
        with self.autocast(ids_BL.device):
            text_BLC = self.text(ids_BL, mask_BL)
        return *self.denoiser.look(question.x_BND, question.t_BN, text_BLC, question.geometry), text_BLC

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        compute = self.denoiser.compute
        return nullcontext() if compute == torch.float32 else torch.autocast(device.type, compute)


Sheet = Callable[[int, Generator], None]
"""`sheet(step, generator)`: called now and then with the averaged weights, in evaluation mode, without gradients."""


def train_denoiser(
    folder: str | Path,
    config: DenoiserTraining,
    batches: Batches,
    tokenizer: Encodes,
    *,
    text: TextEncoderConfig | None = None,
    text_start: TextEncoder | None = None,
    sheet: Sheet | None = None,
    channel_weights: Tensor | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
    curves: bool = True,
) -> Path:
    """Train until the plan is spent; returns the path of the averaged weights.

    Args:
        folder: for the states, the weights, the curves as JSON lines and TensorBoard's. What is there is gone on with.
        config: a plan longer than that of the states is an extension; all else should be as it was.
        batches: the data, see `Batch`; one of them is one forward pass.
        tokenizer: turns captions into ids; the text encoder's vocabulary is its size.
        text: sizes of the text encoder, by default those of `text_start`, or the shipped ones.
        text_start: a trained text encoder to begin with.
        channel_weights: (128,), of the errors in the channels of a picture token, 1 in the mean.
        progress, curves: whether to show a bar, and to write TensorBoard files.

    Raises CheckpointError if the states in `folder` are of another model, InputError if the stage before is missing,
    PhonofilmError if the loss is not finite.
    """
    run = _Run(Path(folder), config, tokenizer, text, text_start, torch.device(device))
    run.channel_weights = channel_weights
    run.resume()
    run.train(batches, sheet, progress, curves)
    return run.folder / WEIGHTS


class _Run:
    """A training under way."""

    def __init__(
        self,
        folder: Path,
        config: DenoiserTraining,
        tokenizer: Encodes,
        text: TextEncoderConfig | None,
        text_start: TextEncoder | None,
        device: torch.device,
    ) -> None:
        self.folder, self.config, self.tokenizer, self.device = folder, config, tokenizer, device
        text = text or (text_start.config if text_start else TextEncoderConfig(tokenizer.size))
        compute = None if config.bf16 is None else torch.bfloat16 if config.bf16 else torch.float32
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = Generator(config.denoiser, text, compute)
        if text_start is not None:
            self.model.text.warm_start(text_start)
        self.alignment = Alignment(config.denoiser.width, config.denoiser.fold)
        for name, weight in self.model.named_parameters():
            weight.requires_grad_(name.startswith(config.learns) and not name.startswith(config.frozen))
        self.teacher: Generator | None = None
        if config.keep_sound:
            if config.start is None:
                raise ValueError("keep_sound needs weights to keep the sound of: start is None")
            self.teacher = Generator(config.denoiser, text, compute).to(device).eval().requires_grad_(False)
            grow(self.teacher, checkpoint.load(config.start, kind=KIND).tensors)
        self.model.to(device).train()
        self.alignment.to(device)
        self.optimizers = Optimizers(
            self.model, muon_rate=config.muon_rate, muon_decay=config.muon_decay, adamw_rate=config.adamw_rate
        )
        self.readers = torch.optim.AdamW(self.alignment.parameters(), lr=config.adamw_rate, weight_decay=0.0)
        self.average = Average(self.model, config.average)
        self.step = 0
        self.finite = torch.ones((), dtype=torch.bool, device=device)  # whether all losses were; kept where they are
        self.before = {"steps": 0, "seconds": 0.0}  # of the stages before
        self.channel_weights: Tensor | None = None
        self.clock = Clock()
        if config.compile and can_compile(device):
            self.model.denoiser.compile_blocks(dynamic=True)

    # --- states -----------------------------------------------------------------------------------------------------
    @property
    def spent(self) -> float:
        return self.config.plan.spent(self.step, self.clock.seconds)

    def resume(self) -> None:
        """Load the state in the folder, or the one before the decay if the plan has become longer since.

        A stage begins anew where the one before it has gone on since.
        """
        path = self._path(STATE)
        if not path.exists():
            self._begin()
            return
        state = checkpoint.load_state(path)
        if self.config.after is not None and self._path_of(self.config.after).exists():
            earlier = checkpoint.load_state(self._path_of(self.config.after))
            if self._spent_before(earlier) != state.get("before", self.before):
                self._begin()
                return
            del earlier
        old = Plan(**state["plan"])
        if self.config.plan.longer_than(old) and old.decaying(state["step"], state["seconds"]):
            path = self._path(PREDECAY)
            state = checkpoint.load_state(path)
        self._check(path, state)
        self.model.load_state_dict(state["weights"])
        self.alignment.load_state_dict(state["alignment"])
        self.readers.load_state_dict(state["readers"])
        self.optimizers.load_state_dict(state["optimizers"])
        self.average.load_state_dict(state["average"])
        self.step = int(state["step"])
        self.clock = Clock(float(state["seconds"]))
        self.before = state.get("before", self.before)

    def _begin(self) -> None:
        """Take over the averaged weights of the stage before, or those of a file, if there are any."""
        if self.config.start is not None:
            stored = checkpoint.load(self.config.start, kind=KIND)
            grow(self.model, stored.tensors)
            self.average = Average(self.model, self.config.average)
            self.before = {**self.before, **stored.config.get("trained", {})}
        if self.config.after is None:
            return
        path = self._path_of(self.config.after)
        if not path.exists():
            raise InputError(f"{path} is missing: this stage begins where that one ended")
        state = checkpoint.load_state(path)
        self._check(path, state)
        self.model.load_state_dict(state["average"]["weights"])
        self.alignment.load_state_dict(state["alignment"])
        self.average = Average(self.model, self.config.average)
        self.before = self._spent_before(state)

    def _check(self, path: Path, state: Mapping[str, Any]) -> None:
        model = json.loads(json.dumps(self._described()))
        if state["model"] != model:
            raise CheckpointError(f"{path}: is of another model, {state['model']}; asked for is {model}")

    @staticmethod
    def _spent_before(state: Mapping[str, Any]) -> dict[str, Any]:
        """What a stage that begins where `state` ended has behind it."""
        earlier = state.get("before", {"steps": 0, "seconds": 0.0})
        return {"steps": state["step"] + earlier["steps"], "seconds": state["seconds"] + earlier["seconds"]}

    def _path(self, name: str) -> Path:
        return self.folder / (self.config.stage + name)

    def _path_of(self, stage: str) -> Path:
        return self.folder / (stage + STATE)

    def save(self, name: str = STATE) -> None:
        """Write the state, and the averaged weights; nothing if a step that was not looked at had no finite loss."""
        if not bool(self.finite):
            raise PhonofilmError(f"the loss was not finite before step {self.step}: lower the learning rate")
        state = {
            "plan": asdict(self.config.plan),
            "model": self._described(),
            "step": self.step,
            "seconds": self.clock.seconds,
            "before": self.before,
            "weights": self.model.state_dict(),
            "alignment": self.alignment.state_dict(),
            "readers": self.readers.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "average": self.average.state_dict(),
        }
        checkpoint.save_state(self._path(name), state)
        if name == STATE:
            seconds = self.before["seconds"] + self.clock.seconds
            trained = {"steps": self.before["steps"] + self.step, "seconds": round(seconds, 1)}
            described = {**self._described(), "trained": trained}
            checkpoint.save(self.folder / WEIGHTS, self.average.weights, kind=KIND, config=described, storage="bf16")

    def _described(self) -> dict[str, Any]:
        return {"denoiser": asdict(self.config.denoiser), "text": asdict(self.model.text.config)}

    # --- the loop ---------------------------------------------------------------------------------------------------
    def train(self, batches: Batches, sheet: Sheet | None, progress: bool, curves: bool) -> None:
        config, plan = self.config, self.config.plan
        if self.spent >= 1:
            if not (self.folder / WEIGHTS).exists():  # no time was left to begin with
                self.save()
            return
        if self.device.type == "cpu":
            keep_memory()
        compute = self.model.denoiser.compute
        rate = matrix_rate(config.denoiser, compute, self.device)
        log = _Log(self._path(CURVES), rate, curves)
        source = batches(self.step * config.accumulate)
        saved = shown = self.clock.seconds
        constant = not plan.decaying(self.step, self.clock.seconds)
        bar = tqdm(total=100.0, initial=round(100 * self.spent, 2), disable=not progress, unit="%", smoothing=0)
        bar.bar_format = config.stage + " {percentage:5.1f}%|{bar}| {elapsed}<{remaining} {postfix}"
        began = time.perf_counter()
        try:
            while self.spent < 1:
                if constant and self._decays_next():
                    self.save(PREDECAY)
                    constant = False
                # on a GPU only some of the steps are looked at: a look waits for the device
                watched = self.device.type == "cpu" or (self.step + 1) % config.log_steps == 0
                points, flops, tokens = self._advance(source, watched)
                now = time.perf_counter()
                seconds, began = self.clock.add(now - began), now
                self.step += 1
                log.add(points, flops, tokens, seconds)
                if self.step % config.log_steps == 0:
                    line = log.write(self.step, self.clock.seconds, plan.rate(self.step, self.clock.seconds))
                    speed = line["tokens_per_second"]
                    bar.set_postfix_str(f"step {self.step} loss {line['loss']:.4f} {speed:.0f} tokens/s")
                bar.update(min(100.0, 100 * self.spent) - bar.n)
                if self.clock.seconds - saved >= config.save_seconds and self.spent < 1:
                    self.save()
                    saved = self.clock.seconds
                if sheet is not None and self.clock.seconds - shown >= config.sheet_seconds:
                    self._show(sheet)
                    shown = self.clock.seconds
                    began = time.perf_counter()  # looking is not training
        finally:
            bar.close()
            log.close()
        self.save()
        if sheet is not None:
            self._show(sheet)

    def _decays_next(self) -> bool:
        """True if this step or the one after it is in the decay of the learning rate."""
        last = self.clock.seconds / self.step if self.step else 0.0
        return self.config.plan.decaying(self.step + 1, self.clock.seconds + last)

    def _advance(self, source: Iterator[Batch], watched: bool) -> tuple[dict[str, float], float, int]:
        """One step; returns points for the curves (if it is watched), model FLOPs, tokens."""
        config = self.config
        flops, tokens = 0.0, 0
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for i in range(config.accumulate):
            batch = self._at_hand(next(source))
            draw = torch.Generator().manual_seed((config.seed << 32) + self.step * config.accumulate + i)
            question = ask(batch, config.tasks, draw, self.device)
            g = question.geometry
            L, aligned = 0, torch.zeros((), device=self.device)
            known: dict[str, Tensor] = {}
            if question.alone:
                answer_BND = self.model.paint(question)
            else:
                answer_BND, L, aligned, known = self._answer(question, batch, draw, watched)
            error_BN = error(answer_BND, question, weights_D=self.channel_weights)
            weight_BN = token_weights(batch, g, config.actor_weight)
            video = mean_error(error_BN, question, g.video, weight_BN)
            audio = mean_error(error_BN, question, g.audio)
            board = mean_error(error_BN, question, g.board)
            loss = video + config.audio_weight * audio + config.board_weight * board + config.truth_weight * aligned
            if config.change_weight and weight_BN is not None:
                known["change"] = change_error(answer_BND, question, weight_BN)
                loss = loss + config.change_weight * known["change"]
            (loss / config.accumulate).backward()
            self.finite &= torch.isfinite(loss.detach())
            if watched:
                if not math.isfinite(lost := float(loss.detach())):
                    raise PhonofilmError(f"the loss is {lost} at step {self.step}: lower the learning rate")
                points = _points(question, error_BN.detach(), loss, {"video": video, "audio": audio, "board": board})
                points |= {f"truth/{name}": float(share.detach()) for name, share in known.items()}
                for name, value in points.items():
                    if not math.isnan(value):
                        sums[name] = sums.get(name, 0.0) + value
                        counts[name] = counts.get(name, 0) + 1
            flops += self.model.denoiser.training_flops(len(answer_BND), g, L, alone=question.alone)
            tokens += len(answer_BND) * self.model.denoiser.stream(g, L)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        rate = config.plan.rate(self.step, self.clock.seconds)
        self.optimizers.step(rate)
        for group in self.readers.param_groups:
            group["lr"] = rate * config.adamw_rate
        self.readers.step()
        self.readers.zero_grad(set_to_none=True)
        self.average.update()
        points = {name: total / counts[name] for name, total in sums.items()}
        return points | ({"gradient": float(norm)} if watched else {}), flops, tokens

    def _at_hand(self, batch: Batch) -> Batch:
        """The batch with its tensors where they are needed, latents as float32."""

        def here(x: Tensor) -> Tensor:
            x = x.to(self.device)
            return x.float() if x.dtype == torch.float16 else x

        kept = {"has_audio"}  # is asked on the CPU
        return {n: here(x) if isinstance(x, Tensor) and n not in kept else x for n, x in batch.items()}

    def _answer(
        self, question: Question, batch: Batch, draw: torch.Generator, watched: bool
    ) -> tuple[Tensor, int, Tensor, dict[str, Tensor]]:
        """The whole model's answer, tokens of text, the loss of what it should know, and points for the curves."""
        ids_BL, mask_BL = self.tokenizer.encode(batch["captions"])
        ids_BL, mask_BL = drop_text(*trim(ids_BL, mask_BL), question.untold_B)
        ids_BL, mask_BL = ids_BL.to(self.device), mask_BL.to(self.device)
        if self.teacher is not None and question.geometry.columns:
            question.x0_BND[:, question.geometry.audio] = self._taught(self.teacher, question, ids_BL, mask_BL)
        answer_BND, half_BPW, text_BLC = self.model(question, ids_BL, mask_BL)
        aligned, known = self.alignment(half_BPW, batch, question.geometry, question.learn_BN, question.t_BN, watched)
        denoiser = self.model.denoiser
        if "told" in batch and denoiser.config.storyboard and denoiser.config.reader:
            untold_B = question.untold_B.to(self.device)
            read, right = reading_error(denoiser.reader, batch, text_BLC, mask_BL, untold_B, draw)
            aligned, known = aligned + read, known | right
        return answer_BND, ids_BL.shape[1], aligned, known

    @staticmethod
    @torch.no_grad()
    def _taught(teacher: Generator, question: Question, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """(B, S, D) the clean sound as the teacher has it, in place of the true one: what was learnt before is kept
        (Learning without Forgetting, 1606.09282), and its mean over all that is possible is told, not one of them."""
        answer_BND: Tensor = teacher(question, ids_BL, mask_BL)[0]
        return answer_BND[:, question.geometry.audio].float()

    def _show(self, sheet: Sheet) -> None:
        with self.average.applied() as model, torch.no_grad():
            assert isinstance(model, Generator)
            sheet(self.step, model)


@torch.no_grad()
def grow(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Fill a `Generator` with the weights of one with fewer blocks in its detailers, or one that is not told of the
    weather; its further blocks do nothing yet, and nor does the weather.

    The last block stays the last one. Raises CheckpointError naming a weight that fits nowhere, or that is missing.
    """
    own = model.state_dict()
    fresh = {name for name in own if re.search(r"detailer\.blocks\.\d+\.|\.weather_detail\.", name)}
    blocks = re.compile(r"(.*detailer\.blocks\.)(\d+)(\..*)")
    counts: dict[bool, dict[str, int]] = {True: {}, False: {}}
    for mine, names in ((True, own.keys()), (False, weights.keys())):
        for name in names:
            if found := blocks.fullmatch(name):
                counts[mine][found[1]] = max(counts[mine].get(found[1], 0), int(found[2]) + 1)
    missing = own.keys() - fresh
    for name, value in weights.items():
        place = name
        if (found := blocks.fullmatch(name)) and int(found[2]) == counts[False][found[1]] - 1:
            place = f"{found[1]}{counts[True].get(found[1], 0) - 1}{found[3]}"
        if place not in own or own[place].shape != value.shape:
            raise CheckpointError(f"{name} {tuple(value.shape)} has no place in the model")
        own[place].copy_(value)
        fresh.discard(place)
        missing = missing - {place}
    if missing:
        raise CheckpointError(f"{sorted(missing)[0]} is missing")
    for name in fresh:
        if name.endswith("down.weight"):
            own[name].zero_()


def _points(q: Question, error_BN: Tensor, loss: Tensor, means: Mapping[str, Tensor]) -> dict[str, float]:
    """Points of the curves: the loss, by modality, and of each by noise level where anything was learnt."""
    points = {"loss": float(loss.detach())}
    spans = {"video": q.geometry.video, "audio": q.geometry.audio, "board": q.geometry.board}
    for name, mean in means.items():
        tokens = spans[name]
        learn_BN = q.learn_BN[:, tokens]
        if not bool(learn_BN.any()):
            continue
        points[name] = float(mean.detach())
        learnt_B = learn_BN.sum(1).tolist()
        errors_B = error_BN[:, tokens].sum(1).tolist()
        levels_B = q.t_BN[:, tokens].amax(1).tolist()
        cells: dict[int, list[float]] = {}
        for level, wrong, count in zip(levels_B, errors_B, learnt_B, strict=True):
            if count:
                cells.setdefault(bucket(level, _EDGES), []).append(wrong / count)
        for cell, values in cells.items():
            points[f"{name}/t{_EDGES[cell]:g}-{_EDGES[cell + 1]:g}"] = sum(values) / len(values)
    return points


class _Log:
    """Curves: means since the last point, into `denoiser.jsonl` and TensorBoard."""

    def __init__(self, path: Path, matrix_rate: float, curves: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._rate = matrix_rate
        self._points: dict[str, list[float]] = {}
        self._flops = self._seconds = 0.0
        self._tokens = 0
        self._board: Any = None
        if curves:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(path.parent / "curves" / path.stem))

    def add(self, points: dict[str, float], flops: float, tokens: int, seconds: float) -> None:
        for name, value in points.items():
            self._points.setdefault(name, []).append(value)
        self._flops += flops
        self._tokens += tokens
        self._seconds += seconds

    def write(self, step: int, seconds: float, rate: float) -> dict[str, float]:
        line = {name: sum(values) / len(values) for name, values in sorted(self._points.items())}
        line["learning_rate"] = rate
        line["tokens_per_second"] = self._tokens / self._seconds
        line["flops_share"] = self._flops / self._seconds / self._rate  # of the machine's rate in matrix products
        line["tflops_machine"] = self._rate / 1e12
        with self._path.open("a", encoding="utf-8") as file:
            told = {name: round(value, 6) for name, value in line.items()}
            file.write(json.dumps({"step": step, "hours": round(seconds / 3600, 4), **told}) + "\n")
        if self._board is not None:
            for name, value in line.items():
                self._board.add_scalar(name, value, step)
        self._points, self._flops, self._tokens, self._seconds = {}, 0.0, 0, 0.0
        return line

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
