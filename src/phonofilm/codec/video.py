"""The video codec: blocks of 4 frames x 16 x 16 pixels to 32 numbers and back (96 times fewer values).

The encoder looks at each block of four frames on its own, so a latent frame means the same wherever it stands: in a
picture, at the start of a clip, or at a seam. The decoder is causal: each of its blocks sees the present and the
previous frame of its own stage (the memory of TAEHV, github.com/madebyollin/taehv), so that decoding with a carried
state, latent frame by latent frame, is the same computation as decoding all at once.

Shapes: B clips, T frames, H height, W width, C channels. Inside, tensors are (B, T, H, W, C) contiguous, which is
what a CPU convolves fastest ("channels last"), and which makes every change of resolution a reshape and a product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FRAMES_PER_LATENT = 4
PIXELS_PER_LATENT = 16
BOUND = 3.0  # raw latents lie in (-BOUND, BOUND): tanh(z / BOUND) * BOUND
BASE = 12  # colours of the 2 x 2 cells of a latent
BASE_GAIN = 1.5

State = list[Tensor]
"""What a decoder remembers between two calls: for each of its blocks the last input frame (B, 1, h, w, c)."""


@dataclass(frozen=True)
class VideoCodecConfig:
    """Size of a video codec; the default has 3.8M parameters and decodes 48 frames of 128 x 128 with 48 GFLOP."""

    channels: int = 32  # of the latents
    encoder_widths: tuple[int, int, int] = (64, 128, 160)  # at 1/4, 1/8, 1/16 of the picture's side
    decoder_widths: tuple[int, int, int] = (96, 128, 160)  # the same, decoded in the opposite order
    encoder_blocks: tuple[int, int, int] = (2, 1, 1)
    decoder_blocks: tuple[int, int, int] = (3, 2, 1)


def fold(x_BTHWC: Tensor, time: int, space: int) -> Tensor:
    """Blocks of time x space x space become channels: (B, T, H, W, C) to (B, T/t, H/s, W/s, t*s*s*C)."""
    b, t, h, w, c = x_BTHWC.shape
    x = x_BTHWC.reshape(b, t // time, time, h // space, space, w // space, space, c)
    x = x.permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(b, t // time, h // space, w // space, time * space * space * c)


def unfold(x_BTHWC: Tensor, time: int, space: int) -> Tensor:
    """Inverse of `fold`: (B, T, H, W, t*s*s*C) to (B, T*t, H*s, W*s, C)."""
    b, t, h, w, c = x_BTHWC.shape
    c //= time * space * space
    x = x_BTHWC.reshape(b, t, h, w, time, space, space, c).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, t * time, h * space, w * space, c)


class Conv(nn.Module):
    """3 x 3 convolution of each frame, zero padded: (B, T, H, W, in) to (B, T, H, W, out)."""

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3) * gain * (9 * inputs) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        b, t = x_BTHWC.shape[:2]
        weight = self.weight.contiguous(memory_format=torch.channels_last)
        y = F.conv2d(x_BTHWC.flatten(0, 1).permute(0, 3, 1, 2), weight, self.bias, padding=1)
        frames: Tensor = y.permute(0, 2, 3, 1).unflatten(0, (b, t))
        return frames


class Block(nn.Module):
    """x + conv(silu(conv(norm(x)))); with `memory` the first convolution also sees the previous frame."""

    def __init__(self, width: int, memory: bool) -> None:
        super().__init__()
        self.width, self.memory = width, memory
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))
        self.first = Conv(width * (1 + memory), width)
        self.second = Conv(width, width, gain=0.3)

    def forward(self, x_BTHWC: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns the output and the state for the next call. `state` None: nothing was before (zeros)."""
        y = F.layer_norm(x_BTHWC, (self.width,), self.scale, self.shift)
        last = y[:, -1:]
        if self.memory:
            before = torch.zeros_like(last) if state is None else state
            y = torch.cat([y, torch.cat([before, y[:, :-1]], 1)], -1)
        return x_BTHWC + self.second(F.silu(self.first(y))), last


def _cell_means(x_BTHWC: Tensor) -> Tensor:
    """Mean colours of cells of 4 frames x 8 x 8 pixels, the four cells of a latent as channels: (.., 12)."""
    b, t, h, w, c = x_BTHWC.shape
    cells = x_BTHWC.reshape(b, t // 4, 4, h // 8, 8, w // 8, 8, c).float().mean((2, 4, 6)).to(x_BTHWC.dtype)
    return fold(cells, 1, 2)


def _spread(cells_BTHWC: Tensor) -> Tensor:
    """Inverse of `_cell_means`, bilinear between the cells' centres and constant over the four frames."""
    cells = unfold(cells_BTHWC, 1, 2)
    b, t = cells.shape[:2]
    wide = F.interpolate(cells.flatten(0, 1).permute(0, 3, 1, 2), scale_factor=8, mode="bilinear", align_corners=False)
    frames: Tensor = wide.permute(0, 2, 3, 1).unflatten(0, (b, t))
    return frames.repeat_interleave(4, 1)


class Encoder(nn.Module):
    """Frames (B, T, H, W, 3) to raw bounded latents (B, T/4, H/16, W/16, C)."""

    def __init__(self, config: VideoCodecConfig) -> None:
        super().__init__()
        a, b, c = config.encoder_widths
        self.enter = Conv(2 * 16 * 3, a)
        self.high = nn.ModuleList(Block(a, False) for _ in range(config.encoder_blocks[0]))
        self.to_middle = nn.Linear(2 * 4 * a, b)
        self.middle = nn.ModuleList(Block(b, False) for _ in range(config.encoder_blocks[1]))
        self.to_low = nn.Linear(4 * b, c)
        self.low = nn.ModuleList(Block(c, False) for _ in range(config.encoder_blocks[2]))
        self.leave = nn.Linear(c, config.channels)
        self.base = nn.Linear(BASE, config.channels, bias=False)
        with torch.no_grad():
            self.leave.weight.mul_(0.5)
            self.base.weight.copy_(BASE_GAIN * torch.eye(config.channels, BASE))

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        base = self.base(_cell_means(x_BTHWC))
        x = self.enter(fold(x_BTHWC, 2, 4))
        for block in self.high:
            x, _ = block(x)
        x = self.to_middle(fold(x, 2, 2))
        for block in self.middle:
            x, _ = block(x)
        x = self.to_low(fold(x, 1, 2))
        for block in self.low:
            x, _ = block(x)
        z: Tensor = self.leave(x) + base
        return torch.tanh(z / BOUND) * BOUND


class Decoder(nn.Module):
    """Raw latents (B, T/4, H/16, W/16, C) to frames (B, T, H, W, 3), causally."""

    def __init__(self, config: VideoCodecConfig) -> None:
        super().__init__()
        a, b, c = config.decoder_widths
        self.enter = Conv(config.channels, c)
        self.low = nn.ModuleList(Block(c, True) for _ in range(config.decoder_blocks[2]))
        self.to_middle = nn.Linear(c, 4 * b)
        self.middle = nn.ModuleList(Block(b, True) for _ in range(config.decoder_blocks[1]))
        self.to_high = nn.Linear(b, 2 * 4 * a)
        self.high = nn.ModuleList(Block(a, True) for _ in range(config.decoder_blocks[0]))
        self.leave = Conv(a, 2 * 16 * 3, gain=0.1)
        self.base = nn.Linear(config.channels, BASE, bias=False)
        with torch.no_grad():
            self.base.weight.copy_(torch.eye(BASE, config.channels) / BASE_GAIN)

    def forward(self, z_BTHWC: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        before = iter(state) if state is not None else None
        after: State = []
        x = self.enter(z_BTHWC)
        for blocks, up in ((self.low, self.to_middle), (self.middle, self.to_high), (self.high, None)):
            for block in blocks:
                x, last = block(x, next(before) if before is not None else None)
                after.append(last)
            if up is not None:
                x = unfold(up(x), 2 if blocks is self.middle else 1, 2)
        return unfold(self.leave(F.silu(x)), 2, 4) + _spread(self.base(z_BTHWC)), after


class VideoCodec(nn.Module):
    """Frames in [-1, 1] to normalised latents and back.

    Normalised latents are uncorrelated over the training data and of unit variance in the mean over the channels. They
    are half whitened (see `half_whitened`): what the raw latents say strongly, mostly light and colour, still weighs
    more, but drowns in noise soon enough for the text to matter.
    """

    mean: Tensor
    basis: Tensor

    def __init__(self, config: VideoCodecConfig | None = None) -> None:
        super().__init__()
        self.config = config or VideoCodecConfig()
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        self.register_buffer("mean", torch.zeros(self.config.channels))
        self.register_buffer("basis", torch.eye(self.config.channels))  # raw = mean + basis z

    def encode_raw(self, frames_BTCHW: Tensor) -> Tensor:
        """Latents (B, T/4, H/16, W/16, C) before normalisation; T must be a multiple of 4."""
        raw: Tensor = self.encoder(frames_BTCHW.permute(0, 1, 3, 4, 2).contiguous())
        return raw

    def decode_raw(self, raw_BTHWC: Tensor) -> Tensor:
        """Frames (B, T, 3, H, W), about [-1, 1], from latents before normalisation."""
        frames: Tensor = self.decoder(raw_BTHWC)[0]
        return frames.permute(0, 1, 4, 2, 3)

    def encode(self, frames_BTCHW: Tensor) -> Tensor:
        """Frames (B, T, 3, H, W) in [-1, 1] to normalised latents (B, C, ceil(T/4), H/16, W/16) in float32.

        If T is no multiple of 4 the last frame is repeated; a picture is T = 1, hence four equal frames.
        Raises ValueError if H or W is no multiple of 16, or if there is no frame.
        """
        b, t, _, h, w = frames_BTCHW.shape
        if t < 1 or h % PIXELS_PER_LATENT or w % PIXELS_PER_LATENT or h < 1 or w < 1:
            raise ValueError(
                f"cannot encode {t} frames of {w}x{h}: at least one frame is needed, and sides that are multiples of "
                f"{PIXELS_PER_LATENT}"
            )
        missing = -t % FRAMES_PER_LATENT
        if missing:
            frames_BTCHW = torch.cat([frames_BTCHW, frames_BTCHW[:, -1:].expand(b, missing, -1, -1, -1)], 1)
        raw = self.encode_raw(frames_BTCHW.to(self.dtype)).float()
        z: Tensor = (raw - self.mean.float()) @ torch.linalg.inv(self.basis.float()).T
        return z.permute(0, 4, 1, 2, 3)

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Normalised latents (B, C, t, h, w) to frames (B, 4t, 3, 16h, 16w) in [-1, 1], float32."""
        return self.decode_step(z_BCTHW)[0]

    def decode_step(self, z_BCTHW: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """`decode` of the latents that follow those which left `state` (None: of the first). Returns the new state."""
        raw = z_BCTHW.permute(0, 2, 3, 4, 1).float() @ self.basis.float().T + self.mean.float()
        frames, state = self.decoder(raw.to(self.dtype), state)
        return frames.float().permute(0, 1, 4, 2, 3).clamp(-1, 1), state

    @property
    def dtype(self) -> torch.dtype:
        """Number format in which the convolutions are computed."""
        return self.encoder.leave.weight.dtype


def half_whitened(raw_MC: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (C,) and basis (C, C) such that z = basis⁻¹ (raw - mean) is uncorrelated, half way to white.

    With the correlations V L Vᵀ of the channels, the variances of z are √L, scaled to the mean 1 (L would be principal
    components, 1 white noise).
    """
    mean = raw_MC.mean(0)
    deviation = raw_MC.std(0).clamp(min=1e-3)
    unit = ((raw_MC - mean) / deviation).double()
    values, vectors = torch.linalg.eigh(unit.T @ unit / len(unit))
    values = values.clamp(min=1e-4)
    strongest_first = values.argsort(descending=True)
    values, vectors = values[strongest_first], vectors[:, strongest_first]
    basis = deviation.double()[:, None] * vectors * values**0.25 * values.sqrt().mean().sqrt()
    return mean, basis.to(raw_MC.dtype)


def temporal_difference(x_BTCHW: Tensor) -> Tensor:
    """Change from each frame to the next: (B, T-1, C, H, W)."""
    return x_BTCHW[:, 1:] - x_BTCHW[:, :-1]


def video_loss(
    made_BTCHW: Tensor, true_BTCHW: Tensor, weight_BT1HW: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Reconstruction loss of frames in [-1, 1], and its parts.

    L1 + 2 MSE, both weighted per pixel, + L1 of horizontal and vertical gradients, of frame differences, and of the
    means over 4 x 4 and 16 x 16 pixels (flat areas must not drift).
    """
    error = (made_BTCHW - true_BTCHW).float()
    w = torch.ones_like(error[:, :, :1]) if weight_BT1HW is None else weight_BT1HW.float()
    w = w / w.mean()
    edges_x = ((error[..., 1:] - error[..., :-1]).abs() * w[..., 1:]).mean()
    edges_y = ((error[..., 1:, :] - error[..., :-1, :]).abs() * w[..., 1:, :]).mean()
    coarse4 = F.avg_pool2d(error.flatten(0, 1), 4)
    coarse16 = F.avg_pool2d(coarse4, 4)
    parts = {
        "l1": (error.abs() * w).mean(),
        "mse": (error.square() * w).mean(),
        "edges": edges_x + edges_y,
        "motion": (temporal_difference(error).abs() * w[:, 1:]).mean(),
        "coarse": coarse4.abs().mean() + coarse16.abs().mean(),
    }
    total = parts["l1"] + 2 * parts["mse"] + 0.5 * parts["edges"] + 0.5 * parts["motion"] + 0.5 * parts["coarse"]
    return total, parts
