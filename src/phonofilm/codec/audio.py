"""The audio codec: 2000 samples (1/8 s at 16 kHz) to 64 numbers and back (31 times fewer values).

The encoder sees the log-mel spectrogram and the fine envelope; the decoder is a ConvNeXt that ends in an inverse
short-time Fourier transform (Vocos, arXiv:2306.00814). All filters have finite reach, so a stretch of latents with
CONTEXT more on each side decodes to exactly what the whole would give there: that is how it streams.

Framing: frame k belongs to samples [125 k, 125 k + 125); its window of 512 starts 194 samples before the first of
them, so that the middles agree to half a sample and nothing is shifted.

Shapes: B clips, N samples, T frames or latents, C channels, K frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RATE = 16_000  # Hz
HOP = 125  # samples: 128 frames a second
WINDOW = 512  # samples
BEFORE = 194  # samples of a window that lie before its frame; behind it lie 193
FRAMES_PER_LATENT = 16
SAMPLES_PER_LATENT = HOP * FRAMES_PER_LATENT
MELS = 64
FINE = 5  # parts of a frame whose energy the encoder sees: 25 samples, 1.6 ms
FLOOR = 1e-4  # of amplitudes, before the logarithm
ONSET_FLOOR = 3e-4  # of the levels of `onset_error`
CONTEXT = 4  # latents to each side on which a decoded latent may depend
BOUND = 3.0  # raw latents lie in (-BOUND, BOUND)


@dataclass(frozen=True)
class AudioCodecConfig:
    """Size of an audio codec; the default has 2.0M parameters."""

    channels: int = 64  # of the latents
    encoder_widths: tuple[int, int, int] = (128, 160, 192)  # at 128, 32 and 8 Hz
    decoder_widths: tuple[int, int, int] = (160, 160, 160)
    decoder_blocks: tuple[int, int, int] = (4, 2, 1)
    expansion: int = 3  # of the ConvNeXt blocks
    gains: bool = False  # whether the decoder ends in gains of 1.6 ms, by which what begins has no echo before it


def mel_filters(bands: int = MELS, window: int = WINDOW, rate: int = RATE) -> Tensor:
    """Triangular filters (K, bands) of equal peak, equally spaced on the HTK mel scale from 0 to rate / 2."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    points = 700 * (10 ** (torch.linspace(0, top, bands + 2, dtype=torch.float64) / 2595) - 1)
    frequency = torch.linspace(0, rate / 2, window // 2 + 1, dtype=torch.float64)[:, None]
    rise = (frequency - points[:-2]) / (points[1:-1] - points[:-2])
    fall = (points[2:] - frequency) / (points[2:] - points[1:-1])
    filters = torch.minimum(rise, fall).clamp(min=0)
    nearest = (frequency - points[1:-1]).abs().argmin(0)  # a low band may be narrower than the grid: never empty
    filters[nearest, torch.arange(bands)] = filters[nearest, torch.arange(bands)].clamp(min=0.5)
    return filters.float()


def spectrum(samples_BN: Tensor, window: int = WINDOW, hop: int = HOP) -> Tensor:
    """Complex spectra (B, K, N / hop), Hann window, framed as said at the top; N must be a multiple of hop."""
    before = (window - hop + 1) // 2
    padded = F.pad(samples_BN, (before, window - hop - before))
    hann = torch.hann_window(window, device=samples_BN.device)
    return torch.stft(padded, window, hop, window=hann, center=False, return_complex=True)


def inverse_spectrum(spectra_BKT: Tensor) -> Tensor:
    """Samples (B, 125 T) whose `spectrum` is nearest to the given one (Griffin & Lim 1984, eq. 6)."""
    hann = torch.hann_window(WINDOW, device=spectra_BKT.device)
    frames = torch.fft.irfft(spectra_BKT, WINDOW, dim=1) * hann[:, None]
    t = frames.shape[-1]
    length = (t - 1) * HOP + WINDOW

    def overlap(x: Tensor) -> Tensor:
        return F.fold(x, (1, length), (1, WINDOW), stride=(1, HOP))[:, 0, 0, BEFORE : BEFORE + t * HOP]

    energy = overlap((hann * hann)[None, :, None].expand(1, WINDOW, t))
    return overlap(frames) / energy


def log_mel(samples_BN: Tensor, filters_KM: Tensor) -> Tensor:
    """Log-mel spectrogram (B, T, M), natural logarithm of the mel-weighted amplitude, not below log(FLOOR)."""
    amplitude = spectrum(samples_BN).abs().transpose(1, 2) / (WINDOW / 4)
    return torch.log(amplitude @ filters_KM + FLOOR)


def fine_envelope(samples_BN: Tensor, part: int = HOP // FINE) -> Tensor:
    """Root mean square of each `part` samples: (B, N / part)."""
    parts: Tensor = samples_BN.unflatten(-1, (-1, part))
    return (parts.square().mean(-1) + 1e-9).sqrt()


class Block(nn.Module):
    """ConvNeXt block (arXiv:2201.03545) over time: (B, T, C) to the same."""

    def __init__(self, width: int, kernel: int, expansion: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, expansion * width)
        self.narrow = nn.Linear(expansion * width, width)
        with torch.no_grad():
            self.narrow.weight.mul_(0.3)

    def forward(self, x_BTC: Tensor) -> Tensor:
        y = self.mix(x_BTC.transpose(1, 2)).transpose(1, 2)
        change: Tensor = self.narrow(F.gelu(self.widen(self.norm(y))))
        return x_BTC + change


class Encoder(nn.Module):
    """Samples (B, N) to raw bounded latents (B, N / 2000, C)."""

    filters: Tensor

    def __init__(self, config: AudioCodecConfig) -> None:
        super().__init__()
        a, b, c = config.encoder_widths
        self.register_buffer("filters", mel_filters(), persistent=False)
        self.enter = nn.Linear(MELS + FINE, a)
        self.high = Block(a, 7, 2)
        self.to_middle = nn.Linear(4 * a, b)
        self.middle = Block(b, 5, 2)
        self.to_low = nn.Linear(4 * b, c)
        self.low = Block(c, 3, 2)
        self.leave = nn.Linear(c, config.channels)

    def forward(self, samples_BN: Tensor) -> Tensor:
        mel = log_mel(samples_BN, self.filters)
        fine = torch.log(fine_envelope(samples_BN) + FLOOR).unflatten(1, (-1, FINE))
        x = self.enter((torch.cat([mel, fine], -1) + 5) / 3)
        x = self.to_middle(self.high(x).unflatten(1, (-1, 4)).flatten(2))
        x = self.to_low(self.middle(x).unflatten(1, (-1, 4)).flatten(2))
        z: Tensor = self.leave(self.low(x))
        return torch.tanh(z / BOUND) * BOUND


class Decoder(nn.Module):
    """Raw latents (B, T, C) to samples (B, 2000 T)."""

    def __init__(self, config: AudioCodecConfig) -> None:
        super().__init__()
        a, b, c = config.decoder_widths
        high, middle, low = config.decoder_blocks
        self.enter = nn.Conv1d(config.channels, c, 3, padding=1)
        self.low = nn.Sequential(*(Block(c, 3, config.expansion) for _ in range(low)))
        self.to_middle = nn.Linear(c, 4 * b)
        self.middle = nn.Sequential(*(Block(b, 5, config.expansion) for _ in range(middle)))
        self.to_high = nn.Linear(b, 4 * a)
        self.high = nn.Sequential(*(Block(a, 7, config.expansion) for _ in range(high)))
        self.norm = nn.LayerNorm(a)
        self.head = nn.Linear(a, 3 * (WINDOW // 2 + 1))
        self.gain = nn.Linear(a, FINE) if config.gains else None
        if self.gain is not None:
            nn.init.zeros_(self.gain.weight)
            nn.init.zeros_(self.gain.bias)

    def forward(self, z_BTC: Tensor) -> Tensor:
        x = self.low(self.enter(z_BTC.transpose(1, 2)).transpose(1, 2))
        x = self.middle(self.to_middle(x).unflatten(-1, (4, -1)).flatten(1, 2))
        x = self.high(self.to_high(x).unflatten(-1, (4, -1)).flatten(1, 2))
        x = self.norm(x)
        loud, real, imaginary = self.head(x).float().transpose(1, 2).chunk(3, 1)
        amplitude = torch.exp((3 * loud - 3).clamp(max=6))
        direction = torch.complex(real, imaginary)
        direction = direction / (direction.abs() + 1e-3)
        samples = inverse_spectrum(amplitude * direction)
        if self.gain is None:
            return samples
        level = self.gain(x).float().flatten(1)[:, None]  # nats, in the middle of each part of 1.6 ms
        return samples * F.interpolate(level, scale_factor=HOP // FINE, mode="linear")[:, 0].clamp(max=1).exp()


class AudioCodec(nn.Module):
    """Samples in [-1, 1] at 16 kHz to normalised latents (8 a second, unit variance) and back."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: AudioCodecConfig | None = None) -> None:
        super().__init__()
        self.config = config or AudioCodecConfig()
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        self.register_buffer("mean", torch.zeros(self.config.channels))
        self.register_buffer("std", torch.ones(self.config.channels))

    def encode_raw(self, samples_BN: Tensor) -> Tensor:
        """Latents (B, T, C) before normalisation; N must be a multiple of 2000."""
        raw: Tensor = self.encoder(samples_BN)
        return raw

    def decode_raw(self, raw_BTC: Tensor) -> Tensor:
        """Samples (B, 2000 T) from latents before normalisation."""
        samples: Tensor = self.decoder(raw_BTC)
        return samples

    def encode(self, samples_BN: Tensor) -> Tensor:
        """Samples to normalised latents (B, C, ceil(N / 2000)); the last is filled up with silence.

        Raises ValueError if there is no sample.
        """
        if samples_BN.shape[-1] < 1:
            raise ValueError("cannot encode sound of no samples: at least one is needed")
        raw = self.encode_raw(F.pad(samples_BN.float(), (0, -samples_BN.shape[-1] % SAMPLES_PER_LATENT)))
        return ((raw - self.mean) / self.std).transpose(1, 2)

    def decode(self, z_BCT: Tensor) -> Tensor:
        """Normalised latents (B, C, T) to samples (B, 2000 T) in [-1, 1]."""
        return self.decode_raw(z_BCT.transpose(1, 2).float() * self.std + self.mean).clamp(-1, 1)

    def decode_stream(self, z_BCT: Tensor, chunk: int) -> Iterator[Tensor]:
        """`decode` in chunks of `chunk` latents, each (B, 2000 chunk) (the last may be shorter)."""
        total = z_BCT.shape[-1]
        for start in range(0, total, chunk):
            stop = min(total, start + chunk)
            first = max(0, start - CONTEXT)
            samples = self.decode(z_BCT[..., first : min(total, stop + CONTEXT)])
            yield samples[:, (start - first) * SAMPLES_PER_LATENT : (stop - first) * SAMPLES_PER_LATENT]


RESOLUTIONS = ((128, 25), (256, 50), (512, 125), (1024, 250), (2048, 500))  # (window, hop) of the loss


def onset_error(made_BN: Tensor, true_BN: Tensor) -> Tensor:
    """Error of the level around what begins: L1 of the level of parts of 1.6 ms (nats, above -70 dB), the mean over
    20 ms before and behind the places where the true one rises by more than 9 dB in 3 ms, weighed by how much more. 0
    where nothing begins."""
    made, true = (torch.log(fine_envelope(x) + ONSET_FLOOR) for x in (made_BN, true_BN))
    rise = F.relu(true[:, 2:] - true[:, :-2] - 1)
    near = F.max_pool1d(F.pad(rise, (1, 1)), 25, 1, 12)
    return (near * (made - true).abs()).sum() / near.sum().clamp(min=1.0)


def audio_loss(
    made_BN: Tensor, true_BN: Tensor, filters_KM: Tensor, onset_weight: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss between sounds, and its parts; N must be a multiple of 500.

    Multi-resolution STFT (arXiv:1910.11480: spectral convergence + L1 of log amplitudes), log-mel L1, L1 of the 1.6 ms
    envelope to the power 0.3, and `onset_error`, which keep onsets where they are.
    """
    convergence = logarithmic = made_BN.new_zeros(())
    for window, hop in RESOLUTIONS:
        made = spectrum(made_BN, window, hop).abs() / window**0.5
        true = spectrum(true_BN, window, hop).abs() / window**0.5
        convergence = convergence + (made - true).norm() / (true.norm() + 1e-2)
        logarithmic = logarithmic + (torch.log(made + 1e-3) - torch.log(true + 1e-3)).abs().mean()
    parts = {
        "convergence": convergence / len(RESOLUTIONS),
        "log": logarithmic / len(RESOLUTIONS),
        "mel": (log_mel(made_BN, filters_KM) - log_mel(true_BN, filters_KM)).abs().mean(),
        "envelope": (fine_envelope(made_BN) ** 0.3 - fine_envelope(true_BN) ** 0.3).abs().mean(),
        "onset": onset_error(made_BN, true_BN),
    }
    whole = parts["convergence"] + parts["log"] + parts["mel"] + 3 * parts["envelope"] + onset_weight * parts["onset"]
    return whole, parts
