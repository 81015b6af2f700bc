"""The playhouse: endless clips with picture, sound, caption and exact truth, deterministic by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phonofilm.playhouse.captions import describe
from phonofilm.playhouse.casting import draw_scene
from phonofilm.playhouse.render import Sight, render
from phonofilm.playhouse.scene import Performance, Scene
from phonofilm.playhouse.sound import synthesize
from phonofilm.playhouse.stage import perform


@dataclass(frozen=True)
class Take:
    """A batch of filmed scenes."""

    frames: Tensor  # (B, T, H, W, 3) uint8 sRGB
    audio: Tensor  # (B, N) float32 in [-1, 1], mono
    captions: list[str]
    performances: list[Performance]  # tracks and events: the truth in world units and seconds
    sights: list[list[Sight]]  # for each scene and actor: the truth in pixels


def film(
    scenes: Sequence[Scene],
    size: tuple[int, int] = (128, 128),
    fps: float = 16.0,
    sample_rate: int = 16000,
    device: torch.device | str = "cpu",
    *,
    captions: Sequence[str] | None = None,
) -> Take:
    """Film scenes of equal length at `size` (W, H). Raises ValueError if their lengths differ."""
    performances = [perform(scene, size, fps) for scene in scenes]
    frames, sights = render(performances, size, fps, device)
    audio = synthesize(performances, sample_rate, str(device))
    texts = list(captions) if captions is not None else [describe(s, s.seed) for s in scenes]
    return Take(frames, audio, texts, performances, sights)


def take(
    seeds: Sequence[int],
    split: str = "train",
    seconds: float = 3.0,
    size: tuple[int, int] = (128, 128),
    device: torch.device | str = "cpu",
) -> Take:
    """Draw one scene for each seed from `split` and film them. A seed gives the same clip in any batch."""
    wording = "held_out" if split == "held_out_wordings" else "train"
    scenes = [draw_scene(seed, split, seconds=seconds) for seed in seeds]
    texts = [describe(s, s.seed, wording=wording) for s in scenes]
    return film(scenes, size, device=device, captions=texts)
