"""Training of the tokenizer and of the matcher. The text encoder of the denoiser is trained with the denoiser.

The same call goes on where an earlier one stopped, exactly: what step n draws depends on the seed and on n alone.
Shapes: B batch, K texts, Q all texts of a step, L text tokens, N strip tokens, D values of a token, E embedding.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from phonofilm import checkpoint
from phonofilm.errors import CheckpointError
from phonofilm.latents import AUDIO, Geometry, Latents, pack
from phonofilm.precision import mixed
from phonofilm.text.encoder import trim
from phonofilm.text.matcher import Matcher, MatcherConfig, contrastive_loss, recall_at_1
from phonofilm.text.tokenizer import Tokenizer, train_tokenizer

Batch = Mapping[str, Any]
"""video_z (B, 32, T, H, W) float; audio_z (B, 64, S) float, or None; captions: B strings. Optionally has_audio (B,)
bool, and wrong: for each clip a caption that is nearly, but not, right, or None (by default `almost` makes them)."""

Batches = Callable[[int], Iterator[Batch]]
"""`batches(n)` starts with the batch of step n; the same n must give the same batch for a run to resume exactly."""

STATE: Final = "text.state"
TOKENIZER: Final = "tokenizer.json"
MATCHER: Final = "matcher.safetensors"


@dataclass(frozen=True)
class TextTraining:
    """How the tokenizer and the matcher are trained."""

    vocab: int = 1024  # token ids at most; about 1020 make every word of the playhouse one token
    tokenizer_captions: int = 20_000  # captions of the playhouse on which the tokenizer is trained, if none are given
    steps: int | None = None  # stop after so many steps; None: the seconds alone decide
    lr: float = 1e-3  # peak learning rate
    warmup: int = 100  # steps
    decay: float = 0.4  # last share of the run, in which the learning rate falls to 0
    weight_decay: float = 0.02  # of matrices
    clip: float = 1.0  # norm of the gradient
    ema: float = 0.998  # decay of the averaged weights that are kept
    clean: float = 0.4  # share of strips without noise; the others are noised up to MatcherConfig.noise_max
    shown: float = 0.5  # share of the picture's tokens that a step shows, drawn anew each time (FLIP, 2212.00794)
    one_modality: float = 0.2  # share of steps that show picture alone; as many have sound alone
    save_seconds: float = 120.0  # between two saved states
    eval_steps: int = 500  # between two evaluations
    seed: int = 0
    bf16: bool | None = None  # autocast, None: where it is faster; weights and optimiser stay float32


def playhouse_captions(count: int, seed: int = 0) -> Iterator[str]:
    """Captions of `count` scenes of the training split of the playhouse."""
    from phonofilm.playhouse.captions import describe
    from phonofilm.playhouse.casting import draw_scene

    for i in range(count):
        yield describe(draw_scene(seed + i), seed + i)


@lru_cache(maxsize=1)
def _contrasts() -> tuple[tuple[re.Pattern[str], dict[str, str], dict[str, tuple[str, ...]]], ...]:
    """For each attribute of the playhouse: a pattern of its names, name → value, and value → names."""
    from phonofilm.playhouse import grammar as told
    from phonofilm.playhouse.speech import WORDS

    tables: list[Mapping[str, Sequence[str]]] = [
        told.COLOUR_NAMES,
        told.SIZE_NAMES,
        told.MATERIAL_NAMES,
        told.KIND_NAMES,
        told.FLOOR_NAMES,
        told.LIGHT_NAMES,
        told.CAMERA_NAMES,
        told.COUNT_NAMES,
        told.DIRECTION_NAMES,
        told.SPEED_NAMES,
        told.RAIN_ADJECTIVES,
        {f'"{word}"': (f'"{word}"',) for word in WORDS},
    ]
    contrasts = []
    for table in tables:
        value_of = {name: value for value, names in table.items() for name in names}
        longest_first = "|".join(re.escape(name) for name in sorted(value_of, key=len, reverse=True))
        pattern = re.compile(rf"(?<!\w)(?:{longest_first})(?!\w)")
        contrasts.append((pattern, value_of, {value: tuple(names) for value, names in table.items()}))
    return tuple(contrasts)


def almost(caption: str, rng: random.Random) -> str | None:
    """`caption` with one attribute changed (another colour, count, side, word …), or two of its actors' exchanged.

    None if it names no attribute of the playhouse.
    """
    told = []
    for pattern, value_of, names_of in _contrasts():
        if found := list(pattern.finditer(caption)):
            told.append((found, value_of, names_of))
    if not told:
        return None
    found, value_of, names_of = rng.choice(told)
    first = rng.choice(found)
    others = [match for match in found if value_of[match[0]] != value_of[first[0]]]
    if others and "left" in caption and rng.random() < 0.5:
        one, two = sorted((first, rng.choice(others)), key=lambda match: match.start())
        changed = caption[: one.start()] + two[0] + caption[one.end() : two.start()] + one[0] + caption[two.end() :]
    else:
        value = rng.choice([value for value in names_of if value != value_of[first[0]]])
        changed = caption[: first.start()] + rng.choice(names_of[value]) + caption[first.end() :]
    return re.sub(r"\ban?(?= ([a-z]))", lambda article: "an" if article[1] in "aeiou" else "a", changed)


def strip_of(batch: Batch, device: torch.device) -> tuple[Latents, Tensor | None]:
    """The clean strip of a batch, and keep_BN: false for the sound of clips that have none; None if all have."""
    audio_z = batch.get("audio_z")
    latents = pack(batch["video_z"].to(device).float(), None if audio_z is None else audio_z.to(device).float())
    has_audio_B = torch.as_tensor(batch.get("has_audio", True), dtype=torch.bool, device=device)
    if audio_z is None or has_audio_B.all():
        return latents, None
    return latents, (latents.modality != AUDIO) | has_audio_B[:, None]


def draw_view(latents: Latents, keep_BN: Tensor | None, share: float, draw: float) -> slice:
    """The tokens that a step shows: with `draw` in [0, 1), picture alone and sound alone in a `share` each, else all.

    Where a clip of the batch has no sound, sound is never alone.
    """
    if draw < share:
        return latents.geometry.video
    if draw >= 1 - share and latents.geometry.columns and keep_BN is None:
        return latents.geometry.audio
    return slice(None)


def training_loss(
    matcher: Matcher, tokenizer: Tokenizer, batch: Batch, recipe: TextTraining, step: int, device: torch.device
) -> Tensor:
    """The contrastive loss of one batch, with noise and hidden modalities as step `step` draws them."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    latents, keep_BN = strip_of(batch, device)
    B = len(latents.values_BND)
    t_B = torch.rand(B, generator=generator) * matcher.config.noise_max
    t_B = torch.where(torch.rand(B, generator=generator) < recipe.clean, 0.0, t_B).to(device)
    twin = generator
    if device.type != "cpu":  # a generator where the noise is needed
        twin = torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
    noise_BND = torch.randn(latents.values_BND.shape, generator=twin, device=device)
    noise_BND = noise_BND * latents.geometry.channel_mask().to(device)
    x_BND = torch.lerp(latents.values_BND, noise_BND, t_B[:, None, None])
    rng = random.Random(recipe.seed * 1_000_003 + step)
    view = draw_view(latents, keep_BN, recipe.one_modality, rng.random())
    chance = torch.rand(latents.geometry.n, generator=generator).to(device)
    seen = torch.arange(len(chance), device=device)[view]
    seen = seen[(chance[seen] < recipe.shown) | (latents.modality[seen] == AUDIO)]

    captions = list(batch["captions"])
    wrong = list(batch["wrong"]) if "wrong" in batch else [almost(caption, rng) for caption in captions]
    wrong_BK = torch.tensor([text is not None for text in wrong], device=device)[:, None]
    encoded = tokenizer.encode(captions + [text or "" for text in wrong])
    ids_BL, mask_BL = (tensor.to(device) for tensor in trim(*encoded))
    with mixed(device, recipe.bf16):
        text_QE = matcher.embed_text(ids_BL, mask_BL)
        strip_BE = matcher.embed_strip(
            x_BND[:, seen],
            latents.positions[seen],
            latents.modality[seen],
            t_B,
            None if keep_BN is None else keep_BN[:, seen],
        )
    same_BB = (ids_BL[:B, None] == ids_BL[None, :B]).all(-1)
    return contrastive_loss(text_QE[:B], strip_BE, matcher.scale, same_BB, text_QE[B:, None], wrong_BK)


@torch.no_grad()
def evaluate_matcher(
    matcher: Matcher,
    tokenizer: Tokenizer,
    batches: Iterable[Batch],
    *,
    of: int = 64,
    noise: float = 0.0,
    device: str | torch.device = "cpu",
) -> dict[str, float]:
    """R@1 among `of` clips, both ways, in [0, 1], over all whole groups of `of` clips of equal geometry.

    Keys: text_to_clip, clip_to_text; the same with _video and _audio for picture alone and sound alone (where there is
    sound); wrong: share of clips that score higher with their own caption than with one that is
    almost right. ValueError if there are fewer than `of` clips of one geometry.
    """
    device = torch.device(device)
    matcher.eval()
    groups: dict[Any, list[tuple[list[str], Tensor, dict[str, Tensor]]]] = {}
    beats: list[bool] = []
    rng = random.Random(0)
    for batch in batches:
        captions = list(batch["captions"])
        latents, keep_BN = strip_of(batch, device)
        values_BND, positions, modality = latents.values_BND, latents.positions, latents.modality
        if noise:
            drawn = torch.randn(values_BND.shape, generator=torch.Generator().manual_seed(0)).to(device)
            values_BND = torch.lerp(values_BND, drawn * latents.geometry.channel_mask().to(device), noise)
        views = {"": slice(None)}
        if latents.geometry.columns and keep_BN is None:
            views |= {"_video": latents.geometry.video, "_audio": latents.geometry.audio}
        strips = {
            name: matcher.embed_strip(
                values_BND[:, view],
                positions[view],
                modality[view],
                noise,
                None if keep_BN is None else keep_BN[:, view],
            )
            for name, view in views.items()
        }
        text_BE = matcher.embed_text(*(tensor.to(device) for tensor in tokenizer.encode(captions)))
        groups.setdefault(latents.geometry, []).append((captions, text_BE, strips))
        wrong = list(batch["wrong"]) if "wrong" in batch else [almost(caption, rng) for caption in captions]
        encoded = tokenizer.encode([text or "" for text in wrong])
        wrong_BE = matcher.embed_text(*(tensor.to(device) for tensor in encoded))
        better_B = ((text_BE - wrong_BE) * strips[""]).sum(-1) > 0
        beats += [better for better, text in zip(better_B.tolist(), wrong, strict=True) if text is not None]
    found: dict[str, list[float]] = {}
    for parts in groups.values():
        captions = [caption for names, _, _ in parts for caption in names]
        text_KE = torch.cat([text for _, text, _ in parts])
        for view in set.intersection(*(set(strips) for _, _, strips in parts)):
            strip_KE = torch.cat([strips[view] for _, _, strips in parts])
            for k in range(0, len(captions) - of + 1, of):
                similarity = matcher.similarity(text_KE[k : k + of], strip_KE[k : k + of])
                by_text, by_clip = recall_at_1(similarity, captions[k : k + of])
                found.setdefault(f"text_to_clip{view}", []).append(by_text)
                found.setdefault(f"clip_to_text{view}", []).append(by_clip)
    if not found:
        raise ValueError(f"recall among {of} needs at least {of} clips of one size and length")
    scores = {name: sum(shares) / len(shares) for name, shares in sorted(found.items())}
    return scores | ({"wrong": sum(beats) / len(beats)} if beats else {})


def save_matcher(path: str | Path, matcher: Matcher) -> str:
    """Write a matcher's weights in bfloat16, with its configuration. Returns their hash."""
    return checkpoint.save(path, matcher.state_dict(), kind="matcher", config=asdict(matcher.config), storage="bf16")


def load_matcher(path: str | Path, device: str | torch.device = "cpu") -> Matcher:
    """The matcher that `save_matcher` wrote, in float32, for use. CheckpointError if the file is not one."""
    stored = checkpoint.load(path, kind="matcher", device=device)
    matcher = Matcher(MatcherConfig(**stored.config)).to(device)
    matcher.load_state_dict(stored.tensors)
    return matcher.eval().requires_grad_(False)


def _optimizer(matcher: Matcher, recipe: TextTraining) -> torch.optim.AdamW:
    matrices = [p for p in matcher.parameters() if p.ndim > 1]
    others = [p for p in matcher.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))


def train_text(
    batches: Batches,
    out_dir: str | Path,
    budget_seconds: float,
    *,
    recipe: TextTraining | None = None,
    model: MatcherConfig | None = None,
    captions: Iterable[str] | None = None,
    held_out: Sequence[Batch] = (),
    device: str | torch.device = "cpu",
    progress: bool = True,
    start: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Train tokenizer and matcher into `out_dir`; the same call again resumes, and does nothing once it is done.

    Writes `tokenizer.json`, `matcher.safetensors` (averaged weights), `text.state` (for resuming) and TensorBoard
    curves. `budget_seconds` counts training over all calls; `recipe.steps` may end it sooner, and then the result does
    not depend on the machine's speed. captions: what the tokenizer is trained on, by default the playhouse's; it is not
    trained again where out_dir holds one. model: its `vocab` is replaced by the tokenizer's. held_out: clips on which
    R@1 of 64 (or of all, if fewer) is measured. start: weights to begin with.
    Returns the last evaluation, with `loss` and `step`.
    Raises CheckpointError if out_dir holds a run of another recipe or model.
    """
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

    recipe = recipe or TextTraining()
    if not budget_seconds > 0:
        raise ValueError(f"budget_seconds is {budget_seconds}; it must be positive")
    out_dir, device = Path(out_dir), torch.device(device)
    out_dir.mkdir(parents=True, exist_ok=True)
    if not (out_dir / TOKENIZER).exists():
        texts = playhouse_captions(recipe.tokenizer_captions) if captions is None else captions
        train_tokenizer(texts, recipe.vocab, lambda c: tqdm(c, "captions", disable=not progress)).save(
            out_dir / TOKENIZER
        )
    tokenizer = Tokenizer.load(out_dir / TOKENIZER)
    config = replace(model or MatcherConfig(tokenizer.size), vocab=tokenizer.size)

    torch.manual_seed(recipe.seed)
    matcher = Matcher(config).to(device)
    if start is not None:
        matcher.load_state_dict({name: value.float() for name, value in start.items()})
    averaged = Matcher(config).to(device).requires_grad_(False)
    averaged.load_state_dict(matcher.state_dict())
    optimizer = _optimizer(matcher, recipe)
    kept = {"recipe": _essential(recipe), "model": asdict(config)}
    step, spent, loss = 0, 0.0, float("nan")
    if (out_dir / STATE).exists():
        state = checkpoint.load_state(out_dir / STATE)
        if state["kept"] != kept:
            held = json.dumps(state["kept"])
            raise CheckpointError(f"{out_dir} holds a run of {held}, not of {json.dumps(kept)}; choose another folder")
        matcher.load_state_dict(state["matcher"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent, loss = state["step"], state["spent"], state["loss"]

    def done_share() -> float:
        return max(spent / budget_seconds, step / recipe.steps if recipe.steps else 0.0)

    def save() -> None:
        state = {
            "kept": kept,
            "matcher": matcher.state_dict(),
            "averaged": averaged.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "spent": spent,
            "loss": loss,
        }
        checkpoint.save_state(out_dir / STATE, state)
        save_matcher(out_dir / MATCHER, averaged)

    def evaluate() -> dict[str, float]:
        alike: Counter[Geometry] = Counter()
        for batch in held_out:
            alike[strip_of(batch, device)[0].geometry] += len(batch["captions"])
        clips = max(alike.values(), default=0)  # of one size and length
        return evaluate_matcher(averaged, tokenizer, held_out, of=min(64, clips), device=device) if clips else {}

    if done_share() >= 1:
        return {**evaluate(), "loss": loss, "step": float(step)}
    with (
        SummaryWriter(str(out_dir / "curves"), purge_step=step) as curves,
        tqdm(desc="matcher", unit="step", initial=step, total=recipe.steps, disable=not progress) as bar,
    ):
        stream, saved = batches(step), time.monotonic()
        while done_share() < 1:
            began = time.monotonic()
            matcher.train()
            share = done_share()
            rate = recipe.lr * min(1.0, (step + 1) / recipe.warmup, (1 - share) / recipe.decay)
            for group in optimizer.param_groups:
                group["lr"] = rate
            try:
                batch = next(stream)
            except StopIteration:
                raise ValueError(f"the batches ended at step {step}; training needs an endless stream") from None
            value = training_loss(matcher, tokenizer, batch, recipe, step, device)
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call, unused-ignore]
            torch.nn.utils.clip_grad_norm_(matcher.parameters(), recipe.clip)
            optimizer.step()
            step += 1
            _average(averaged, matcher, min(recipe.ema, (1 + step) / (10 + step)))
            spent += time.monotonic() - began
            bar.update()
            if step % 10 == 0:
                loss = value.item()
                curves.add_scalar("loss", loss, step)
                curves.add_scalar("scale", matcher.scale.item(), step)
                curves.add_scalar("lr", rate, step)
                bar.set_postfix(loss=f"{loss:.3f}", left=f"{max(0.0, budget_seconds - spent):.0f}s")
            if step % recipe.eval_steps == 0:
                for name, score in evaluate().items():
                    curves.add_scalar(f"recall/{name}", score, step)
            if time.monotonic() - saved > recipe.save_seconds:
                save()
                saved = time.monotonic()
        loss = value.item()
        save()
        scores = evaluate()
        for name, score in scores.items():
            curves.add_scalar(f"recall/{name}", score, step)
    return {**scores, "loss": loss, "step": float(step)}


def _essential(recipe: TextTraining) -> dict[str, Any]:
    """The recipe without what may change between two calls of one run."""
    free = {"steps", "save_seconds", "eval_steps"}
    return {name: value for name, value in asdict(recipe).items() if name not in free}


@torch.no_grad()
def _average(averaged: Matcher, matcher: Matcher, decay: float) -> None:
    """Exponential moving average of the weights."""
    torch._foreach_lerp_(list(averaged.parameters()), list(matcher.parameters()), 1 - decay)
