"""The matcher: does this sentence belong to this film? Text and strip meet in one space (CLIP, 2103.00020).

It is trained on noised strips and is told their noise, so that it can judge, and guide, a film that is only half made.
Shapes: B batch, K texts, L text tokens, N strip tokens, D values of a strip token (128), C channels, E embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phonofilm.latents import AUDIO, AUDIO_CHANNELS, TOKEN_WIDTH
from phonofilm.text.encoder import Block, TextEncoder, TextEncoderConfig, init_transformer


@dataclass(frozen=True)
class MatcherConfig:
    """Sizes of a matcher."""

    vocab: int  # number of token ids
    width: int = 192  # channels in both towers
    text_layers: int = 2  # blocks of the text tower
    strip_layers: int = 3  # blocks of the strip tower
    heads: int = 3  # attention heads, of 64 channels
    expansion: int = 2  # hidden width of the feed-forwards over `width`
    embedding: int = 128  # E, where text and strip meet
    noise_max: float = 0.7  # highest noise level it is trained on

    @property
    def text(self) -> TextEncoderConfig:
        """Sizes of the text tower."""
        return TextEncoderConfig(
            self.vocab, width=self.width, layers=self.text_layers, heads=self.heads, expansion=self.expansion
        )


class Pool(nn.Module):
    """Attention with one learned query a head: a sequence → one vector, → an embedding of unit length."""

    def __init__(self, width: int, heads: int, embedding: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, bias=False)
        self.score = nn.Linear(width, heads)
        self.value = nn.Linear(width, width, bias=False)
        self.project = nn.Linear(width, embedding, bias=False)

    def forward(self, x_BLC: Tensor, mask_BL: Tensor | None) -> Tensor:
        """(x_BLC, mask_BL bool, one true a row, or None for all) → unit vectors (B, E), float32."""
        B, L, C = x_BLC.shape
        x_BLC = self.norm(x_BLC)
        score_BLH = self.score(x_BLC).float()
        if mask_BL is not None:
            score_BLH = score_BLH.masked_fill(~mask_BL[..., None], -math.inf)
        value_BLHD = self.value(x_BLC).view(B, L, self.heads, C // self.heads)
        pooled_BC = (score_BLH.softmax(1)[..., None] * value_BLHD).sum(1).reshape(B, C)
        return F.normalize(self.project(pooled_BC).float(), dim=-1)


def fourier(values: Tensor, lowest: float, highest: float, count: int) -> Tensor:
    """values (...) → sines and cosines (..., 2·count), of `count` frequencies from lowest to highest, in cycles."""
    steps = torch.linspace(0, 1, count, device=values.device)
    angles = 2 * math.pi * values.float()[..., None] * (lowest * (highest / lowest) ** steps)
    return torch.cat([angles.sin(), angles.cos()], -1)


class StripTower(nn.Module):
    """A strip, clean or noisy → an embedding. Attends over picture and sound tokens together."""

    def __init__(self, config: MatcherConfig) -> None:
        super().__init__()
        width = config.width
        self.video = nn.Linear(TOKEN_WIDTH, width)
        self.audio = nn.Linear(AUDIO_CHANNELS, width)
        self.place = nn.Linear(2 * (8 + 4 + 4), width)
        self.noise = nn.Linear(2 * 4 + 1, width)
        self.blocks = nn.ModuleList(Block(width, config.heads, config.expansion) for _ in range(config.strip_layers))
        self.pool = Pool(width, config.heads, config.embedding)
        init_transformer(self, config.strip_layers)

    def forward(
        self, values_BND: Tensor, positions: Tensor, modality: Tensor, t: Tensor, keep_BN: Tensor | None = None
    ) -> Tensor:
        """See `Matcher.embed_strip`."""
        seconds, y, x = positions.unbind(-1)
        place = torch.cat([fourier(seconds, 1 / 8, 8, 8), *(fourier(side, 1 / 16, 1 / 2, 4) for side in (y, x))], -1)
        t = t[:, None] if t.ndim == 1 else t
        noise = torch.cat([fourier(t, 1 / 8, 2, 4), t[..., None].float()], -1)
        sound = (modality == AUDIO)[..., None]
        x_BNC = torch.where(sound, self.audio(values_BND[..., :AUDIO_CHANNELS]), self.video(values_BND))
        x_BNC = x_BNC + self.place(place) + self.noise(noise)
        for block in self.blocks:
            x_BNC = block(x_BNC, keep_BN)
        pooled: Tensor = self.pool(x_BNC, keep_BN)
        return pooled


class Matcher(nn.Module):
    """Two towers and a temperature. Embeddings have unit length; `similarity` is their cosine, in [-1, 1]."""

    def __init__(self, config: MatcherConfig) -> None:
        super().__init__()
        self.config = config
        self.text = TextEncoder(config.text)
        self.text_pool = Pool(config.width, config.heads, config.embedding)
        init_transformer(self.text_pool, 1)
        self.strip = StripTower(config)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def scale(self) -> Tensor:
        """Factor from cosine to logit, at most 100 (2103.00020, section 2.5)."""
        return self.log_scale.clamp(max=math.log(100.0)).exp()

    def embed_text(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Token ids and mask, of a `Tokenizer` → unit vectors (B, E), float32."""
        pooled: Tensor = self.text_pool(self.text(ids_BL, mask_BL), mask_BL)
        return pooled

    def embed_strip(
        self,
        values_BND: Tensor,
        positions: Tensor,
        modality: Tensor,
        t: Tensor | float = 0.0,
        keep_BN: Tensor | None = None,
    ) -> Tensor:
        """A strip → unit vectors (B, E), float32.

        positions (N, 3) or (B, N, 3): seconds, y, x. modality (N,) or (B, N): 0 picture, 1 sound. t: noise level in
        [0, 1], one number, (B,) or (B, N); it was trained up to `noise_max`. keep_BN: false for tokens to overlook
        (at least one must stay).
        """
        t = torch.as_tensor(t, dtype=torch.float32, device=values_BND.device)
        t = t.expand(len(values_BND)) if t.ndim == 0 else t
        embedded: Tensor = self.strip(values_BND, positions, modality, t, keep_BN)
        return embedded

    def similarity(self, texts_KE: Tensor, strips_BE: Tensor) -> Tensor:
        """Cosine of every text with every strip (K, B)."""
        return texts_KE @ strips_BE.T

    def score(
        self,
        text_BE: Tensor,
        x0_BND: Tensor,
        positions: Tensor,
        modality: Tensor,
        t: Tensor | float = 0.0,
        keep_BN: Tensor | None = None,
    ) -> Tensor:
        """Cosine of each strip with its own text (B,), differentiable with respect to `x0_BND`.

        text_BE: (B, E), or (1, E) for all. Arguments as `embed_strip`.
        """
        return (text_BE * self.embed_strip(x0_BND, positions, modality, t, keep_BN)).sum(-1)


def contrastive_loss(
    text_BE: Tensor,
    strip_BE: Tensor,
    scale: Tensor,
    same_BB: Tensor | None = None,
    wrong_BKE: Tensor | None = None,
    wrong_BK: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE (1807.03748, 2103.00020): scalar.

    same_BB: true where text i would be as right for strip j as its own is (equal captions), so not a negative.
    wrong_BKE: K texts that are nearly, but not, right for strip b: hard negatives of the strip → text direction;
    wrong_BK: false for those to leave out.
    """
    own = torch.arange(len(text_BE), device=text_BE.device)
    logits_BB = scale * text_BE @ strip_BE.T
    if same_BB is not None:
        ambiguous = same_BB & ~torch.eye(len(own), dtype=torch.bool, device=own.device)
        logits_BB = logits_BB.masked_fill(ambiguous, -math.inf)
    per_strip = logits_BB.T
    if wrong_BKE is not None:
        logits_BK = scale * torch.einsum("bke,be->bk", wrong_BKE, strip_BE)
        if wrong_BK is not None:
            logits_BK = logits_BK.masked_fill(~wrong_BK, -math.inf)
        per_strip = torch.cat([per_strip, logits_BK], 1)
    return (F.cross_entropy(logits_BB, own) + F.cross_entropy(per_strip, own)) / 2


def recall_at_1(similarity_KK: Tensor, captions: Sequence[str] | None = None) -> tuple[float, float]:
    """Share of texts whose best strip is their own, and of strips whose best text is their own (entry i is pair i).

    An equal caption counts as right, if `captions` (K) are given.
    """
    own = torch.arange(len(similarity_KK), device=similarity_KK.device)
    by_text, by_strip = similarity_KK.argmax(1), similarity_KK.argmax(0)
    if captions is None:
        return (by_text == own).float().mean().item(), (by_strip == own).float().mean().item()
    return (
        sum(captions[i] == captions[j] for i, j in enumerate(by_text.tolist())) / len(own),
        sum(captions[i] == captions[j] for i, j in enumerate(by_strip.tolist())) / len(own),
    )
