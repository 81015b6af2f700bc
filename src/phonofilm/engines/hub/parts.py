"""Our networks as components of `diffusers`: each loads, saves and moves as components do.

The number format of what is sensitive to it stays float32; `to(dtype)` changes the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from phonofilm.codec.audio import AudioCodec, AudioCodecConfig
from phonofilm.codec.video import VideoCodec, VideoCodecConfig
from phonofilm.model.denoiser import Denoiser, DenoiserConfig
from phonofilm.model.timer import Timer, TimerConfig
from phonofilm.precision import native_type
from phonofilm.text.encoder import TextEncoder, TextEncoderConfig
from phonofilm.text.tokenizer import Tokenizer


class PhonofilmPart(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A network `net` as a component."""

    net: nn.Module

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> Self:
        """As of any component. Without a dtype it computes as our engine does, in bfloat16 where that is fast."""
        part: Self = super().from_pretrained(*args, **options)
        asked = part.dtype
        part.net.float()
        part.compute_in(part.natural() if asked == torch.float32 else asked)
        return part

    def to(self, *args: Any, **options: Any) -> Self:
        """Move to a device; a dtype changes only what `compute_in` changes."""
        given = [value for value in (*args, options.get("device"), options.get("dtype")) if not isinstance(value, bool)]
        dtype = next((value for value in given if isinstance(value, torch.dtype)), None)
        device = next((value for value in given if isinstance(value, str | int | torch.device)), None)
        if device is not None:
            super().to(device=torch.device(device))
        if dtype is not None:
            self.compute_in(dtype)
        return self

    def natural(self) -> torch.dtype:
        """The number format in which the engine computes here."""
        return torch.float32

    def compute_in(self, dtype: torch.dtype) -> None:
        """Change the number format, as far as that does no harm."""


class PhonofilmTransformer(PhonofilmPart):
    """The denoiser. sizes: fields of `DenoiserConfig`."""

    net: Denoiser

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        self.net = Denoiser(DenoiserConfig.stored(_tupled(sizes)))

    def natural(self) -> torch.dtype:
        return native_type()

    def compute_in(self, dtype: torch.dtype) -> None:
        self.net.to(dtype).compute = dtype


class PhonofilmTextEncoder(PhonofilmPart):
    """The text encoder and its tokenizer. sizes: of `TextEncoderConfig`; tokenizer: what `Tokenizer.save` writes."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, sizes: dict[str, Any], tokenizer: dict[str, Any]) -> None:
        super().__init__()
        self.net = TextEncoder(TextEncoderConfig(**_tupled(sizes)))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(**self.config.tokenizer)


class PhonofilmVideoCodec(PhonofilmPart):
    """The codec of the picture. sizes: fields of `VideoCodecConfig`."""

    net: VideoCodec

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        self.net = VideoCodec(VideoCodecConfig(**_tupled(sizes)))

    def natural(self) -> torch.dtype:
        return native_type()

    def compute_in(self, dtype: torch.dtype) -> None:
        self.net.encoder.to(dtype)  # mean and deviation of the latents stay
        self.net.decoder.to(dtype)


class PhonofilmAudioCodec(PhonofilmPart):
    """The codec of the sound. sizes: fields of `AudioCodecConfig`."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        self.net = AudioCodec(AudioCodecConfig(**_tupled(sizes)))


class PhonofilmTimer(PhonofilmPart):
    """Tells what is heard from what is seen on a storyboard. sizes: fields of `TimerConfig`."""

    net: Timer

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        self.net = Timer(TimerConfig(**sizes))


def _tupled(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()}
