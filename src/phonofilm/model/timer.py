"""What is seen → when it is heard: the blows and the loudness that the motion of a storyboard tells.

A storyboard is drawn as a whole, and what is seen in it and what sounds may differ by a frame or two, or, where a
picture is given, by much more: then it shows the picture's motion and the prompt's rhythm. A ball's path says to the
millisecond when it touches the floor, so that its sound need not be guessed.

Shapes: B storyboards, T tokens, D = 128.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from phonofilm import checkpoint
from phonofilm.latents import BOARD_CHANNELS, TOKEN_WIDTH
from phonofilm.model.layers import Linear, norm
from phonofilm.model.reader import ReadingBlock
from phonofilm.storyboard import ON, from_tokens, heard, to_tokens

FILE: Final = "timer.safetensors"
KIND: Final = "timer"


@dataclass(frozen=True)
class TimerConfig:
    """Sizes."""

    width: int = 128  # channels
    blocks: int = 4  # each sees 2 tokens (0.5 s) before and after


class Timer(nn.Module):
    """Tells `hit` and `level` of each actor from all else on the storyboard; float32."""

    def __init__(self, config: TimerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TimerConfig()
        self.sounds: Tensor
        self.register_buffer("sounds", heard(), persistent=False)
        self.board_in = Linear(BOARD_CHANNELS, config.width)
        self.blocks = nn.ModuleList(ReadingBlock(config.width) for _ in range(config.blocks))
        self.out = Linear(config.width, int(heard().sum()), std=0)

    def forward(self, board_BTD: Tensor) -> Tensor:
        """Storyboards on the strip (B, T, 128) → what is heard in them, plain numbers in the order of `heard`."""
        h_BTW = self.board_in(board_BTD.float().masked_fill(self.sounds, 0.0)[..., :BOARD_CHANNELS])
        for block in self.blocks:
            h_BTW = block(h_BTW)
        out: Tensor = self.out(norm(h_BTW))
        return out

    @torch.no_grad()
    def timed(self, board_BTD: Tensor) -> Tensor:
        """Storyboards on the strip in which every sound comes when it is seen."""
        assert board_BTD.shape[-1] == TOKEN_WIDTH
        plain = from_tokens(board_BTD)
        plain[..., self.sounds] = self(board_BTD).clamp(0, ON).to(plain)
        return torch.where(self.sounds, to_tokens(plain), board_BTD)  # all else bitwise as it was


def load_timer(path: str | Path, device: str | torch.device = "cpu") -> Timer:
    """A timer for use, in float32. CheckpointError if the file is not one."""
    stored = checkpoint.load(path, kind=KIND)
    net = Timer(TimerConfig(**stored.config))
    net.load_state_dict(stored.tensors)
    return net.to(device).float().eval().requires_grad_(False)
