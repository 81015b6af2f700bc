"""What the denoiser is asked in training: all conditions are mixed in from the first day.

Shapes: B batch, N tokens of the strip, D = 128 width of a token, T video latents in time, S audio columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from phonofilm.diffusion.noise import add_noise
from phonofilm.diffusion.schedule import draw_times
from phonofilm.latents import SECONDS_PER_LATENT, Geometry, Latents, pack, with_board
from phonofilm.storyboard import hold, worth

Batch = Mapping[str, Any]
"""video_z (B, 32, T, H, W) float; audio_z (B, 64, 2 T), or None; captions: B strings. Optionally has_audio (B,) bool,
true where the clip has sound; first_still and last_still (B, 32, 1, H, W): the clip's first and last frame, each
encoded as a still; board (B, T, 128): storyboards. Latents have about zero mean and unit variance. Where there are
storyboards alone, or sounds with them, `shape` tells rows and columns of the picture in tokens, in place of video_z."""


@dataclass(frozen=True)
class Tasks:
    """How often what is given, and how the noise levels are drawn. Shares lie in [0, 1]."""

    # for a whole batch, since they change its geometry; they need stills
    picture: float = 0.04  # a single image is to be made, without sound
    first: float = 0.25  # the first image is given, appended
    last: float = 0.2  # the last image is given, appended; with the first one or without
    alone: float = 0.95  # the detailer alone paints beneath a clean storyboard: much cheaper; needs storyboards
    # for each sample; at most one of them
    continuation: float = 0.15  # the beginning is given, picture and sound
    video: float = 0.15  # the picture is given, the sound is to be made
    audio: float = 0.1  # the sound is given, the picture is to be made
    heard: float = 0.3  # the sound is given, where there is none but it and a storyboard to be made
    hidden: float = 0.1  # a part of the picture is given, a rectangle is to be made; for the detailer alone
    blind: float = 0.1  # the detailer alone paints without its storyboard, which guides where it is seen
    # the storyboard, for each sample
    legible: float = 0.5  # share that see it clean, of those to whom nothing else is given
    unread: float = 0.15  # share that see noise in its place, as where a clip has none; else its level is drawn
    board_mean: float = 0.5  # of logit(t); a storyboard has few tokens, and must be exact
    ahead: float = 0.5  # share of those drawn whose picture and sound are still noise, as when a clip is begun
    shortest: int = 2  # video latents at least that a continuation sees; at most half of the clip
    # noise
    shared: float = 0.5  # share of samples whose picture and sound have one noise level; else two are drawn
    mean: float = 2.0  # of logit(t); a strip is long and its numbers alike, so that much shows through much noise
    deviation: float = 1.5
    uniform: float = 0.15  # share of uniform noise levels
    untold: float = 0.1  # share of samples whose text is dropped

    def __post_init__(self) -> None:
        shares = (
            "picture",
            "first",
            "last",
            "alone",
            "continuation",
            "video",
            "audio",
            "heard",
            "hidden",
            "blind",
            "legible",
            "unread",
            "ahead",
            "shared",
            "uniform",
            "untold",
        )
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")
        if self.continuation + self.video + self.audio > 1:
            raise ValueError("continuation, video and audio exclude each other: together they must be at most 1")
        if self.legible + self.unread > 1:
            raise ValueError("legible and unread exclude each other: together they must be at most 1")


@dataclass(frozen=True)
class Question:
    """What the denoiser sees, and what it should answer."""

    x_BND: Tensor  # the noisy strip
    t_BN: Tensor  # its noise levels, 0 where given
    x0_BND: Tensor  # the clean strip
    learn_BN: Tensor  # 1 where the answer counts: neither given nor missing
    untold_B: Tensor  # bool: without text
    geometry: Geometry
    alone: bool = False  # for the detailer, see `Denoiser.paint`


def ask(batch: Batch, tasks: Tasks, draw: torch.Generator, device: torch.device) -> Question:
    """Draw a task for a batch. `draw` is a generator on the CPU: all that is random here comes from it."""
    if "board" in batch and "video_z" in batch and float(torch.rand((), generator=draw)) < tasks.alone:
        return _ask_alone(batch, tasks, draw, device)
    strip, has_audio_B = _lay_out(batch, tasks, draw)
    g = strip.geometry
    x0_BND = strip.values_BND.to(device, torch.float32)
    B = len(x0_BND)
    given_BN = torch.zeros(B, g.n, dtype=torch.bool)
    given_BN[:, g.extra] = True
    asked_B = torch.zeros(B, dtype=torch.bool)  # of which the storyboard is to be found from what is given
    asked_B |= bool(g.images)
    for b, kind in enumerate(torch.rand(B, generator=draw).tolist()):
        if kind < tasks.continuation:
            longest = g.latents // 2
            if longest >= tasks.shortest:
                asked_B[b] = True
                count = int(torch.randint(tasks.shortest, longest + 1, (), generator=draw))
                given_BN[b, g.video_span(0, count)] = True
                if g.columns:
                    given_BN[b, g.audio_span(0, count)] = True
        elif not g.columns or not has_audio_B[b]:
            continue
        elif not g.latents:
            if kind < tasks.continuation + tasks.heard:
                asked_B[b] = given_BN[b, g.audio] = True
        elif kind < tasks.continuation + tasks.video:
            asked_B[b] = given_BN[b, g.video] = True
        elif kind < tasks.continuation + tasks.video + tasks.audio:
            asked_B[b] = given_BN[b, g.audio] = True

    t_B2 = draw_times((B, 2), draw, mean=tasks.mean, deviation=tasks.deviation, uniform=tasks.uniform)
    shared_B = torch.rand(B, generator=draw) < tasks.shared
    t_B2[:, 1] = torch.where(shared_B, t_B2[:, 0], t_B2[:, 1])
    t_BN = t_B2[:, :1].repeat(1, g.n)
    t_BN[:, g.audio] = t_B2[:, 1:]
    if g.boards:
        t_BN = _board_levels(t_BN, g, tasks, draw, asked_B)
        given_BN |= t_BN == 0
    t_BN[given_BN] = 0
    learn_BN = (~given_BN).float()
    t_BN[:, g.audio][~has_audio_B] = 1  # a missing sound is shown as noise, and nothing is asked of it
    learn_BN[:, g.audio][~has_audio_B] = 0
    untold_B = torch.rand(B, generator=draw) < tasks.untold

    t_BN, learn_BN = t_BN.to(device), learn_BN.to(device)
    noise_BND = torch.randn(x0_BND.shape, generator=_twin(draw, device), device=device)
    noise_BND *= g.channel_mask().to(device)
    return Question(add_noise(x0_BND, noise_BND, t_BN), t_BN, x0_BND, learn_BN, untold_B, g)


def _ask_alone(batch: Batch, tasks: Tasks, draw: torch.Generator, device: torch.device) -> Question:
    """The picture alone, beneath its storyboard; some with images, a beginning or all around a rectangle given."""
    images = _images(batch, tasks, torch.rand(2, generator=draw).tolist())
    strip = with_board(pack(batch["video_z"], images=images), batch["board"], free=0)
    g, x0_BND = strip.geometry, strip.values_BND.to(device, torch.float32)
    free_BN = torch.ones(len(x0_BND), g.n)
    free_BN[:, g.extra] = free_BN[:, g.board] = 0
    for b, kind in enumerate(torch.rand(len(x0_BND), generator=draw).tolist()):
        if kind < tasks.hidden:
            free_BN[b, g.video] = _rectangle(g, draw).repeat(g.latents)
        elif kind < tasks.hidden + tasks.continuation and g.latents > tasks.shortest:
            free_BN[b, g.video_span(0, int(torch.randint(1, g.latents // 2 + 1, (), generator=draw)))] = 0
    times = draw_times((len(x0_BND), 1), draw, mean=tasks.mean, deviation=tasks.deviation, uniform=tasks.uniform)
    t_BN = free_BN * times
    t_BN[:, g.board][torch.rand(len(x0_BND), generator=draw) < tasks.blind] = 1
    t_BN = t_BN.to(device)
    learn_BN = (t_BN > 0).float()
    learn_BN[:, g.board] = 0
    noise_BND = torch.randn(x0_BND.shape, generator=_twin(draw, device), device=device)
    untold_B = torch.ones(len(x0_BND), dtype=torch.bool)
    return Question(add_noise(x0_BND, noise_BND, t_BN), t_BN, x0_BND, learn_BN, untold_B, g, alone=True)


def _rectangle(g: Geometry, draw: torch.Generator) -> Tensor:
    """(h w,) 1 in a rectangle of tokens, 0 around it."""
    edges = [torch.randint(side + 1, (2,), generator=draw).sort().values.tolist() for side in (g.height, g.width)]
    inside = torch.zeros(g.height, g.width)
    (top, bottom), (left, right) = edges
    inside[top : bottom + 1, left : right + 1] = 1
    return inside.flatten()


def _board_levels(t_BN: Tensor, g: Geometry, tasks: Tasks, draw: torch.Generator, asked_B: Tensor) -> Tensor:
    """The noise levels with those of the storyboard: a level of its own, 0 or 1; of those asked for it never 0."""
    B = len(t_BN)
    kind_B = torch.rand(B, generator=draw)
    t_B = draw_times((B,), draw, mean=tasks.board_mean, deviation=tasks.deviation, uniform=tasks.uniform)
    if not g.latents and not g.columns:
        t_BN[:, g.board] = t_B[:, None]
        return t_BN
    kind_B = torch.where(asked_B, tasks.legible + (1 - tasks.legible) * kind_B, kind_B)
    drawn_B = kind_B >= tasks.legible + tasks.unread
    ahead_B = drawn_B & (torch.rand(B, generator=draw) < tasks.ahead)
    t_B = torch.where(drawn_B, t_B, (kind_B >= tasks.legible).float())
    t_BN = torch.where(ahead_B[:, None], 1.0, t_BN)
    t_BN[:, g.board] = t_B[:, None]
    return t_BN


def error(
    answer_BND: Tensor,
    question: Question,
    floor: float = 0.4,
    board_floor: float = 0.15,
    weights_D: Tensor | None = None,
) -> Tensor:
    """(B, N): squared error of the velocity, that of the clean strip over max(t, floor)²; 0 where nothing is learnt.

    x-prediction with velocity loss (JiT, 2511.13720). Below the floor, where a sampler of few steps hardly comes,
    errors of the clean strip count alike; storyboards, which must be exact, have a lower one, and channels of
    different worth. weights_D: of the channels of picture tokens, 1 in the mean.
    """
    g = question.geometry
    floor_N = torch.full((g.n,), floor, device=answer_BND.device)
    floor_N[g.board] = board_floor
    mask_ND = g.channel_mask().to(answer_BND.device)
    if weights_D is not None:
        weights_ND = mask_ND.clone()
        weights_ND[g.video] = weights_ND[g.extra] = weights_D.to(mask_ND)
    else:
        weights_ND = mask_ND
    if g.boards:
        weights_ND = weights_ND.clone()
        weights_ND[g.board] = worth().to(mask_ND)
    square_BN = ((answer_BND.float() - question.x0_BND).square() * weights_ND).sum(-1) / mask_ND.sum(-1)
    return square_BN * question.learn_BN / question.t_BN.maximum(floor_N).square()


def mean_error(error_BN: Tensor, question: Question, tokens: slice, weight_BN: Tensor | None = None) -> Tensor:
    """Mean of `error`, weighted if so wished, over those of the `tokens` that are learnt; 0 if there are none."""
    learn_BN = question.learn_BN
    if weight_BN is not None:
        error_BN, learn_BN = error_BN * weight_BN, learn_BN * weight_BN
    return error_BN[:, tokens].sum() / learn_BN[:, tokens].sum().clamp(min=1)


def change_error(answer_BND: Tensor, question: Question, weight_BN: Tensor, small: float = 0.05) -> Tensor:
    """Error of how the picture changes, over how much it does; the mean over what weighs more than 1, or 0.

    Of each place its mean over time is taken away from the answer and from the truth. A mouth changes a twentieth of
    what a ball does that flies past, and would be learnt last. small: change (squared) below which errors count less.
    """
    g = question.geometry
    if g.latents < 2:
        return answer_BND.new_zeros(())

    def change(x_BND: Tensor) -> Tensor:
        x_BTPD = x_BND[:, g.video].float().reshape(len(x_BND), g.latents, g.n_picture, -1)
        return x_BTPD - x_BTPD.mean(1, keepdim=True)

    true_BTPD = change(question.x0_BND)
    free_BTP, weight_BTP = (x[:, g.video].view(true_BTPD.shape[:3]) for x in (question.learn_BN, weight_BN))
    counts_BTP = (weight_BTP > 1) * free_BTP.amin(1, keepdim=True)
    error_BTP = (change(answer_BND) - true_BTPD).square().mean(-1) / (true_BTPD.square().mean(-1) + small)
    return (error_BTP * counts_BTP).sum() / counts_BTP.sum().clamp(min=1)


def _lay_out(batch: Batch, tasks: Tasks, draw: torch.Generator) -> tuple[Latents, Tensor]:
    """The strip for this batch, with all to be made, and which samples have sound."""
    chance = torch.rand(4, generator=draw).tolist()
    board = batch.get("board")
    if "video_z" not in batch:
        assert board is not None
        height, width = batch["shape"]
        if batch.get("audio_z") is not None:
            images = _images(batch, tasks, chance[2:])
            sound = pack(None, batch["audio_z"], images, height=height, width=width)
            return with_board(sound, board), batch["has_audio"].cpu()
        g = Geometry(0, height, width, boards=board.shape[1])
        return Latents(board, g, torch.ones(board.shape[:2])), torch.zeros(len(board), dtype=torch.bool)
    video_z, audio_z = batch["video_z"], batch.get("audio_z")
    B = len(video_z)
    first, last = batch.get("first_still"), batch.get("last_still")
    if chance[0] < tasks.picture and first is not None:
        end = -1 if last is not None and chance[1] < 0.5 else 0
        strip = pack(last if end and last is not None else first)
        return strip if board is None else with_board(strip, hold(board, end)), torch.zeros(B, dtype=torch.bool)
    images = _images(batch, tasks, chance[2:])
    has_audio_B = torch.zeros(B, dtype=torch.bool)
    if audio_z is not None:
        told = batch.get("has_audio")
        has_audio_B = ~has_audio_B if told is None else told.cpu()
    strip = pack(video_z, audio_z, images)
    return strip if board is None else with_board(strip, board), has_audio_B


def _images(batch: Batch, tasks: Tasks, chance: list[float]) -> list[tuple[Tensor, float]]:
    """The stills that are given, with their instants."""
    board, video_z = batch.get("board"), batch.get("video_z")
    count = video_z.shape[2] if video_z is not None else board.shape[1] if board is not None else 0
    ends = (("first_still", 0.0, tasks.first), ("last_still", count * SECONDS_PER_LATENT, tasks.last))
    return [(batch[name], at) for (name, at, share), c in zip(ends, chance, strict=True) if name in batch and c < share]


def _twin(draw: torch.Generator, device: torch.device) -> torch.Generator:
    """A generator on the device where the noise is needed, seeded from `draw`."""
    seed = int(torch.randint(2**62, (), generator=draw))
    return torch.Generator(device).manual_seed(seed)
