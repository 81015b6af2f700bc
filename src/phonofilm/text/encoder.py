"""The text encoder: token ids → one vector a token, a small bidirectional transformer.

Shapes: B batch, L tokens, C channels, H heads, D channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phonofilm.text.tokenizer import MAX_LENGTH, PAD, START


@dataclass(frozen=True)
class TextEncoderConfig:
    """Sizes of a text encoder."""

    vocab: int  # number of token ids, `Tokenizer.size`
    width: int = 256  # channels of a token
    layers: int = 3  # blocks
    heads: int = 4  # attention heads; `width` is a multiple
    max_length: int = MAX_LENGTH  # tokens a prompt may have
    expansion: int = 4  # hidden width of the feed-forward over `width`

    def __post_init__(self) -> None:
        if self.vocab <= START:
            raise ValueError(f"vocab is {self.vocab}; it must be more than {START}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")


class Block(nn.Module):
    """Pre-norm transformer block with normalised queries and keys (2302.05442), bidirectional."""

    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.norm_q = nn.LayerNorm(width // heads, bias=False)
        self.norm_k = nn.LayerNorm(width // heads, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, expansion * width, bias=False)
        self.down = nn.Linear(expansion * width, width, bias=False)

    def forward(self, x_BLC: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """x_BLC → x_BLC; only tokens where `mask_BL` (bool) is true are attended to. Each row needs one."""
        B, L, C = x_BLC.shape
        q, k, v = self.qkv(self.norm1(x_BLC)).view(B, L, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        q_BHLD, k_BHLD = self.norm_q(q).to(v.dtype), self.norm_k(k).to(v.dtype)
        mask = None if mask_BL is None else mask_BL[:, None, None, :]
        a_BHLD = F.scaled_dot_product_attention(q_BHLD, k_BHLD, v, attn_mask=mask)
        x_BLC = x_BLC + self.out(a_BHLD.transpose(1, 2).reshape(B, L, C))
        y_BLC: Tensor = self.down(F.gelu(self.up(self.norm2(x_BLC))))
        return x_BLC + y_BLC


def init_transformer(module: nn.Module, layers: int) -> None:
    """Normal weights of deviation 0.02, and less by √(2·layers) where a block writes to the residual (GPT-2)."""
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear):
            writes = name.endswith((".out", ".down"))
            nn.init.normal_(child.weight, std=0.02 / (2 * layers) ** 0.5 if writes else 0.02)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, nn.Embedding):
            nn.init.normal_(child.weight, std=0.02)


class TextEncoder(nn.Module):
    """Token ids → vectors. Where there is no text stands one learned vector, so that no reader needs the mask.

    `TextEncoder(config)(ids_BL, mask_BL)`: ids int64 in [0, vocab), mask bool (true: text) → text_BLC, float32 or the
    autocast type, of unit variance over C. Padding changes nothing: a prompt's vectors are the same at any L.
    """

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.vocab, config.width)
        self.position = nn.Embedding(config.max_length, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.expansion) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, bias=False)
        init_transformer(self, config.layers)
        self.pad = nn.Parameter(torch.randn(config.width))

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """(ids_BL, mask_BL) → text_BLC; L at most `max_length`, the first token of every row is text."""
        L = ids_BL.shape[1]
        if L > self.config.max_length:
            raise ValueError(f"{L} text tokens; at most {self.config.max_length} are allowed")
        x_BLC = self.token(ids_BL) + self.position.weight[:L]
        for block in self.blocks:
            x_BLC = block(x_BLC, mask_BL)
        x_BLC = self.norm(x_BLC)
        return torch.where(mask_BL[..., None], x_BLC, self.pad.to(x_BLC.dtype))

    @torch.no_grad()
    def warm_start(self, other: TextEncoder) -> None:
        """Begin with the weights of `other`, such as a trained matcher's text tower. ValueError if sizes differ."""
        if other.config != self.config:
            raise ValueError(f"cannot start a text encoder of {self.config} from one of {other.config}")
        self.load_state_dict(other.state_dict())


def trim(ids_BL: Tensor, mask_BL: Tensor, multiple: int = 8) -> tuple[Tensor, Tensor]:
    """Leave out padding that no row needs; the length stays a multiple of `multiple`, to meet few shapes."""
    longest = -(-int(mask_BL.sum(1).max()) // multiple) * multiple
    return ids_BL[:, :longest], mask_BL[:, :longest]


def drop_text(ids_BL: Tensor, mask_BL: Tensor, drop_B: Tensor) -> tuple[Tensor, Tensor]:
    """Replace the rows where `drop_B` (bool) is true by the empty prompt, for classifier-free guidance (2207.12598)."""
    empty_L = torch.full_like(ids_BL[0], PAD)
    empty_L[0] = START
    ids_BL = torch.where(drop_B[:, None], empty_L, ids_BL)
    return ids_BL, mask_BL & ~drop_B[:, None] | (ids_BL == START)
