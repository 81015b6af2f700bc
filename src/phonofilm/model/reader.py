"""Reads a storyboard back, and tells whether it says what the prompt says.

Whoever draws should look at what he drew: the storyboard is small and drawn first, so that several drafts cost little,
and the one that keeps the prompt's word is filmed (best of n with a verifier, cf. 2110.14168 and 2501.09732; here at
the stage where the meaning is decided). One half reads attributes off the storyboard, the other what the prompt claims
of them; both learn from the playhouse's exact truth.

Shapes: B storyboards, T their tokens, L text tokens, C channels of the text, A attributes (`storyboard.CLAIMS`), W
channels of the reader.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phonofilm.latents import BOARD_CHANNELS
from phonofilm.model.layers import Linear, norm
from phonofilm.storyboard import CLAIMS, blows

REACH = 2  # tokens of the storyboard before and after each that a block sees
BLOCKS = 3
MOST = 8.0  # doubts of one claim


class ReadingBlock(nn.Module):
    """A convolution along time, and a pointwise map, on a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = Linear((2 * REACH + 1) * width, width)
        self.down = Linear(width, width, std=0)

    def forward(self, x_BTW: Tensor) -> Tensor:
        T = x_BTW.shape[1]
        padded = F.pad(norm(x_BTW), (0, 0, REACH, REACH))
        h = self.up(torch.cat([padded[:, k : k + T] for k in range(2 * REACH + 1)], dim=-1))
        out: Tensor = x_BTW + self.down(F.gelu(h))
        return out


class Reader(nn.Module):
    """What a prompt claims, what a storyboard shows, and how much of the one is missing in the other; float32."""

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.attention = Linear(text_width, len(CLAIMS))
        self.told = nn.ModuleList(Linear(text_width, count + 1) for count in CLAIMS.values())
        self.board_in = Linear(BOARD_CHANNELS, width)
        self.blocks = nn.ModuleList(ReadingBlock(width) for _ in range(BLOCKS))
        self.shown = nn.ModuleList(Linear(2 * width, count + 1) for count in CLAIMS.values())

    def tell(self, text_BLC: Tensor, mask_BL: Tensor) -> list[Tensor]:
        """What the prompt claims: for each attribute logits (B, values + 1) float32, the first for no claim.

        mask_BL: true where there is text.
        """
        text_BLC = text_BLC.float()
        score_BLA = self.attention(text_BLC).masked_fill(~mask_BL[..., None], -torch.inf)
        found_BAC = score_BLA.softmax(1).transpose(1, 2) @ text_BLC
        return [head(found_BAC[:, k]) for k, head in enumerate(self.told)]

    def show(self, board_BTD: Tensor) -> list[Tensor]:
        """What a storyboard on the strip (B, T, 128) shows: logits likewise, the first for what the scene has not."""
        h_BTW = self.board_in(board_BTD.float())
        for block in self.blocks:
            h_BTW = block(h_BTW)
        h_BTW = norm(h_BTW)
        h_BX = torch.cat([h_BTW.mean(1), h_BTW.amax(1)], dim=-1)
        return [head(h_BX) for head in self.shown]

    def doubts(self, board_BTD: Tensor, text_BLC: Tensor, mask_BL: Tensor) -> Tensor:
        """(B,) float32: how unlikely it is that the storyboard shows what the prompt claims, summed over the claims.

        The negative logarithm of the probability of each, `MOST` at most, so that one hopeless claim does not decide.
        Blows are counted, not guessed: `MOST` for each that is missing or too many, less for half ones. Where a prompt
        names somebody and no second one, it claims that there is none.
        """
        total_B = torch.zeros(len(board_BTD), device=board_BTD.device)
        named_B = torch.zeros_like(total_B, dtype=torch.bool)
        blows_BS = blows(board_BTD)
        for name, told, shown in zip(CLAIMS, self.tell(text_BLC, mask_BL), self.show(board_BTD), strict=True):
            claim_B = told.argmax(-1)  # of a count, which begin at 1, the count itself
            slot, _, attribute = name.rpartition(".")
            if attribute == "count":
                doubt_B = MOST * (blows_BS[:, int(slot)] - claim_B).square()
            else:
                doubt_B = F.cross_entropy(shown, claim_B, reduction="none")
            claimed_B = claim_B > 0
            if attribute == "kind":
                claimed_B = claimed_B | named_B
                named_B = claimed_B
            total_B += torch.where(claimed_B, doubt_B.clamp(max=MOST), 0.0)
        return total_B
