"""The strip: picture and sound of a clip as one sequence of tokens on one clock, and every conversion of its units.

Shapes: B batch, N tokens, D token width; T latent frames, H, W latent rows and columns, S audio columns;
h, w token rows and columns of one latent frame.

Clock: 16 frames a second; a video latent spans 4 frames (0.25 s) and 16x16 pixels, a video token 2x2 of
those; an audio column spans 2000 samples at 16 kHz (0.125 s), so that two of them stand under each video latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

FPS: Final = 16
SAMPLE_RATE: Final = 16_000  # Hz
SAMPLES_PER_FRAME: Final = SAMPLE_RATE // FPS
FRAMES_PER_LATENT: Final = 4
SAMPLES_PER_COLUMN: Final = 2_000
COLUMNS_PER_LATENT: Final = FRAMES_PER_LATENT * SAMPLES_PER_FRAME // SAMPLES_PER_COLUMN
SECONDS_PER_LATENT: Final = FRAMES_PER_LATENT / FPS
SECONDS_PER_COLUMN: Final = SAMPLES_PER_COLUMN / SAMPLE_RATE
PIXELS_PER_LATENT: Final = 16
PATCH: Final = 2  # latents a side of a video token
PIXELS_PER_TOKEN: Final = PIXELS_PER_LATENT * PATCH
VIDEO_CHANNELS: Final = 32  # of a video latent
AUDIO_CHANNELS: Final = 64  # of an audio column
TOKEN_WIDTH: Final = VIDEO_CHANNELS * PATCH * PATCH
BOARD_CHANNELS: Final = 128  # of a token of the storyboard

VIDEO: Final = 0  # modality of a token
AUDIO: Final = 1
BOARD: Final = 2
PLAIN: Final = 0  # role of a token
REFERENCE: Final = 1  # a single image appended to the strip

assert SAMPLE_RATE % FPS == 0 and FRAMES_PER_LATENT * SAMPLES_PER_FRAME == COLUMNS_PER_LATENT * SAMPLES_PER_COLUMN
assert max(AUDIO_CHANNELS, BOARD_CHANNELS) <= TOKEN_WIDTH == 128


def frames_from_seconds(seconds: float) -> int:
    """Frames of a clip of `seconds`; raises ValueError unless that is a whole number of video latents."""
    frames = round(seconds * FPS)
    if frames < FRAMES_PER_LATENT or frames % FRAMES_PER_LATENT or abs(frames - seconds * FPS) > 1e-6:
        raise ValueError(f"a clip of {seconds} s is not possible: it must be a multiple of {SECONDS_PER_LATENT} s")
    return frames


def latents_from_frames(frames: int) -> int:
    """Video latents in time of `frames` frames (a multiple of 4)."""
    assert frames > 0 and frames % FRAMES_PER_LATENT == 0, frames
    return frames // FRAMES_PER_LATENT


def frames_from_latents(latents: int) -> int:
    """Frames that `latents` video latents span."""
    return latents * FRAMES_PER_LATENT


def samples_from_frames(frames: int) -> int:
    """Audio samples (16 kHz) that `frames` frames span."""
    return frames * SAMPLES_PER_FRAME


def columns_from_latents(latents: int) -> int:
    """Audio columns under `latents` video latents."""
    return latents * COLUMNS_PER_LATENT


def columns_from_samples(samples: int) -> int:
    """Audio columns of `samples` samples (a multiple of 2000)."""
    assert samples >= 0 and samples % SAMPLES_PER_COLUMN == 0, samples
    return samples // SAMPLES_PER_COLUMN


def samples_from_columns(columns: int) -> int:
    """Samples (16 kHz) that `columns` audio columns span."""
    return columns * SAMPLES_PER_COLUMN


def seconds_from_latents(latents: int) -> float:
    """Seconds that `latents` video latents span."""
    return latents * SECONDS_PER_LATENT


def tokens_from_pixels(pixels: int) -> int:
    """Tokens along a side of `pixels` pixels; raises ValueError unless it is a multiple of 32."""
    if pixels <= 0 or pixels % PIXELS_PER_TOKEN:
        raise ValueError(f"a side of {pixels} pixels is not possible: it must be a multiple of {PIXELS_PER_TOKEN}")
    return pixels // PIXELS_PER_TOKEN


@dataclass(frozen=True)
class Geometry:
    """What lies where on a strip: video tokens (time, y, x raster), audio tokens, appended images, storyboard."""

    latents: int  # video latents in time, 0 for sound alone
    height: int  # token rows of the picture
    width: int  # token columns
    columns: int = 0  # audio columns, 0 for a strip without sound
    images: tuple[float, ...] = ()  # the instants, in seconds, of the appended single images
    boards: int = 0  # tokens of the storyboard, one for each video latent in time; 0 for a strip without

    def __post_init__(self) -> None:
        assert self.latents >= 0 and self.height > 0 and self.width > 0 and self.columns >= 0, self
        assert not (self.latents and self.columns) or self.columns == columns_from_latents(self.latents), (
            f"picture and sound differ in length: {self}"
        )
        assert self.boards in (0, self.latents) or not self.latents, f"picture and storyboard differ in length: {self}"

    @classmethod
    def of_clip(
        cls, width: int, height: int, seconds: float, *, audio: bool = True, images: Sequence[float] = ()
    ) -> Geometry:
        """The strip of a clip of `width` x `height` pixels (multiples of 32) and `seconds` (a multiple of 0.25)."""
        latents = latents_from_frames(frames_from_seconds(seconds))
        columns = columns_from_latents(latents) if audio else 0
        return cls(latents, tokens_from_pixels(height), tokens_from_pixels(width), columns, tuple(images))

    @property
    def n_picture(self) -> int:
        """Tokens of one latent frame."""
        return self.height * self.width

    @property
    def n_video(self) -> int:
        return self.latents * self.n_picture

    @property
    def n_audio(self) -> int:
        return self.columns

    @property
    def n_extra(self) -> int:
        return len(self.images) * self.n_picture

    @property
    def n(self) -> int:
        """Tokens in all."""
        return self.n_video + self.n_audio + self.n_extra + self.boards

    @property
    def seconds(self) -> float:
        return max(max(self.latents, self.boards) * SECONDS_PER_LATENT, self.columns * SECONDS_PER_COLUMN)

    @property
    def video(self) -> slice:
        return slice(0, self.n_video)

    @property
    def audio(self) -> slice:
        return slice(self.n_video, self.n_video + self.n_audio)

    @property
    def extra(self) -> slice:
        return slice(self.n_video + self.n_audio, self.n - self.boards)

    @property
    def board(self) -> slice:
        return slice(self.n - self.boards, self.n)

    def video_span(self, first: int, last: int) -> slice:
        """The video tokens of the latent frames [first, last)."""
        assert 0 <= first <= last <= self.latents, (first, last, self)
        return slice(first * self.n_picture, last * self.n_picture)

    def audio_span(self, first: int, last: int) -> slice:
        """The audio tokens that sound during the latent frames [first, last)."""
        assert 0 <= first <= last <= self.latents and self.columns, (first, last, self)
        return slice(self.n_video + columns_from_latents(first), self.n_video + columns_from_latents(last))

    def positions(self) -> Tensor:
        """(N, 3) float32: seconds (middle of the token's interval; of an image: its instant), y, x in tokens.

        The middle of the picture is y = x = 0; sound and storyboard stand there too.
        """
        return _positions(self).clone()

    def modality(self) -> Tensor:
        """(N,) int64: VIDEO, AUDIO or BOARD."""
        kinds = [VIDEO] * self.n_video + [AUDIO] * self.n_audio + [VIDEO] * self.n_extra + [BOARD] * self.boards
        return torch.tensor(kinds)

    def role(self) -> Tensor:
        """(N,) int64: PLAIN or REFERENCE."""
        return torch.tensor(
            [PLAIN] * (self.n_video + self.n_audio) + [REFERENCE] * self.n_extra + [PLAIN] * self.boards
        )

    def channel_mask(self) -> Tensor:
        """(N, 128) float32: 1 where a token carries a value, 0 in the unused channels of sound and storyboard."""
        mask_ND = torch.ones(self.n, TOKEN_WIDTH)
        mask_ND[self.audio, AUDIO_CHANNELS:] = 0
        mask_ND[self.board, BOARD_CHANNELS:] = 0
        return mask_ND


@lru_cache(maxsize=128)
def _positions(geometry: Geometry) -> Tensor:
    g = geometry
    y, x = torch.meshgrid(
        torch.arange(g.height) - (g.height - 1) / 2, torch.arange(g.width) - (g.width - 1) / 2, indexing="ij"
    )

    def pictures(seconds: Tensor) -> Tensor:
        n = len(seconds)
        return torch.stack(
            [
                seconds[:, None].expand(n, g.n_picture),
                y.reshape(1, -1).expand(n, g.n_picture),
                x.reshape(1, -1).expand(n, g.n_picture),
            ],
            dim=-1,
        ).reshape(-1, 3)

    video = pictures((torch.arange(g.latents) + 0.5) * SECONDS_PER_LATENT)
    audio = torch.zeros(g.columns, 3)
    audio[:, 0] = (torch.arange(g.columns) + 0.5) * SECONDS_PER_COLUMN
    board = torch.zeros(g.boards, 3)
    board[:, 0] = (torch.arange(g.boards) + 0.5) * SECONDS_PER_LATENT
    return torch.cat([video, audio, pictures(torch.tensor(g.images, dtype=torch.float32)), board])


@dataclass(frozen=True)
class Latents:
    """A strip: the tokens of a batch of clips of equal geometry, and how much of each is to be made."""

    values_BND: Tensor  # float, about unit variance; unused channels of the sound are 0
    geometry: Geometry
    mask_BN: Tensor  # float in [0, 1]: noise level of the token at t = 1. 0: given, stays as it is; 1: made from noise

    def __post_init__(self) -> None:
        B, N, D = self.values_BND.shape
        assert (N, D) == (self.geometry.n, TOKEN_WIDTH), (self.values_BND.shape, self.geometry)
        assert self.mask_BN.shape == (B, N), self.mask_BN.shape

    @property
    def positions(self) -> Tensor:
        """(N, 3): seconds, y, x. See `Geometry.positions`."""
        return self.geometry.positions().to(self.values_BND.device)

    @property
    def modality(self) -> Tensor:
        """(N,): VIDEO, AUDIO or BOARD."""
        return self.geometry.modality().to(self.values_BND.device)

    @property
    def role(self) -> Tensor:
        """(N,): PLAIN or REFERENCE."""
        return self.geometry.role().to(self.values_BND.device)


def patchify(z_BCTHW: Tensor) -> Tensor:
    """Video latents (B, 32, T, H, W) as tokens (B, T*h*w, 128), raster over time, y, x; H and W even."""
    B, C, T, H, W = z_BCTHW.shape
    assert C == VIDEO_CHANNELS and H % PATCH == 0 and W % PATCH == 0, z_BCTHW.shape
    h, w = H // PATCH, W // PATCH
    z = z_BCTHW.reshape(B, C, T, h, PATCH, w, PATCH).permute(0, 2, 3, 5, 1, 4, 6)
    return z.reshape(B, T * h * w, TOKEN_WIDTH)


def unpatchify(tokens_BND: Tensor, height: int, width: int) -> Tensor:
    """Inverse of `patchify`, for pictures of `height` x `width` tokens."""
    B, N, _ = tokens_BND.shape
    T = N // (height * width)
    assert N == T * height * width, (tokens_BND.shape, height, width)
    z = tokens_BND.reshape(B, T, height, width, VIDEO_CHANNELS, PATCH, PATCH).permute(0, 4, 1, 2, 5, 3, 6)
    return z.reshape(B, VIDEO_CHANNELS, T, height * PATCH, width * PATCH)


def pack(
    video_z: Tensor | None,
    audio_z: Tensor | None = None,
    images: Sequence[tuple[Tensor, float]] = (),
    *,
    height: int | None = None,
    width: int | None = None,
) -> Latents:
    """Lay picture, sound and appended images on a strip.

    Args:
        video_z: video latents (B, 32, T, H, W), or None for sound alone (then give `height` and `width`).
        audio_z: audio columns (B, 64, S), S = 2 T, or None for a strip without sound.
        images: single images that condition the clip: latents (B, 32, 1, H, W), and each one's instant in seconds.
        height, width: of the picture in tokens; only where `video_z` is None.

    Returns:
        The strip. Its mask is 1, and 0 on the appended images.
    """
    parts: list[Tensor] = []
    latents = columns = 0
    if video_z is not None:
        latents, height, width = video_z.shape[2], video_z.shape[3] // PATCH, video_z.shape[4] // PATCH
        parts.append(patchify(video_z))
    if audio_z is not None:
        assert audio_z.shape[1] == AUDIO_CHANNELS, audio_z.shape
        columns = audio_z.shape[2]
        parts.append(torch.nn.functional.pad(audio_z.transpose(1, 2), (0, TOKEN_WIDTH - AUDIO_CHANNELS)))
    for image_z, _ in images:
        assert image_z.shape[2] == 1, image_z.shape
        parts.append(patchify(image_z))
    assert parts and height is not None and width is not None, "nothing to pack, or a picture without a size"
    values_BND = torch.cat(parts, dim=1)
    geometry = Geometry(latents, height, width, columns, tuple(float(seconds) for _, seconds in images))
    mask_BN = torch.ones(values_BND.shape[:2], device=values_BND.device)
    mask_BN[:, geometry.extra] = 0
    return Latents(values_BND, geometry, mask_BN)


def unpack(latents: Latents) -> tuple[Tensor | None, Tensor | None, list[tuple[Tensor, float]]]:
    """Exact inverse of `pack`: video latents or None, audio columns or None, appended images with their instants.

    A storyboard is left out.
    """
    g, values_BND = latents.geometry, latents.values_BND
    video_z = unpatchify(values_BND[:, g.video], g.height, g.width) if g.latents else None
    audio_z = values_BND[:, g.audio, :AUDIO_CHANNELS].transpose(1, 2).contiguous() if g.columns else None
    pictures = values_BND[:, g.extra].split(g.n_picture, dim=1) if g.images else ()
    images = [
        (unpatchify(picture, g.height, g.width), seconds) for picture, seconds in zip(pictures, g.images, strict=True)
    ]
    return video_z, audio_z, images


def with_board(latents: Latents, board_BTD: Tensor, free: float = 1.0) -> Latents:
    """The strip with a storyboard (B, T, 128) behind it, one token for each video latent in time.

    free: its noise level at t = 1; 0 gives it, 1 has it made.
    """
    g = latents.geometry
    assert not g.boards, "the strip has a storyboard"
    values_BND = torch.cat([latents.values_BND, board_BTD.to(latents.values_BND)], dim=1)
    mask_BN = torch.cat([latents.mask_BN, latents.mask_BN.new_full(board_BTD.shape[:2], free)], dim=1)
    return Latents(values_BND, replace(g, boards=board_BTD.shape[1]), mask_BN)


def without_board(latents: Latents) -> Latents:
    """The strip without its storyboard."""
    keep = slice(0, latents.geometry.board.start)
    return Latents(latents.values_BND[:, keep], replace(latents.geometry, boards=0), latents.mask_BN[:, keep])
