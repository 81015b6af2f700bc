"""The denoiser: one transformer over text, picture, sound and storyboard, which predicts the clean strip.

Shapes: B batch, N tokens of the strip, D = 128 width of a token, L text tokens, C channels of the text, S = tokens of
the strip in the stream, M = registers + L + S tokens of the stream, W its width, H heads, K channels of a head, R rows
of a modulation table.

The stream is shorter than the strip: `fold` video tokens that follow each other at one place (0.5 s) share one token of
the stream, which costs half of the work; predicting the clean strip, wide tokens do no harm (JiT). Sound keeps its own.

After DiT (2212.09748), JiT's x-prediction (2511.13720), query-key norm (2302.05442), rotary positions (2104.09864),
registers (2309.16588). What depends on the noise level is a small table in each block over a fixed basis of cosines,
one set for each of picture, sound and storyboard: every token may then have its own noise level at no cost. What a
legible storyboard says of each place is drawn there (`storyboard.splat`) and added to the tokens of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phonofilm.latents import (
    AUDIO_CHANNELS,
    BOARD_CHANNELS,
    COLUMNS_PER_LATENT,
    PATCH,
    SECONDS_PER_LATENT,
    TOKEN_WIDTH,
    VIDEO_CHANNELS,
    Geometry,
    unpatchify,
)
from phonofilm.model.detailer import DetailBlock, Detailer, by_planes, ending
from phonofilm.model.layers import Linear, norm
from phonofilm.model.reader import Reader
from phonofilm.precision import native_type
from phonofilm.storyboard import ON, OUTLINE, POSES, SPLAT, UNREADABLE, outline, poses, rains, splat

SHARPEST = 32.0  # largest attention logit


@dataclass(frozen=True)
class DenoiserConfig:
    """Sizes of a denoiser: 10.7M parameters by default; the shipped one has a deeper detailer, and 11.4M."""

    width: int = 256  # channels of a token in the stream; a multiple of `head`
    blocks: int = 8  # transformer blocks
    head: int = 64  # channels of an attention head; half of them (pairs) rotate: 1/2 by time, 1/4 by y, 1/4 by x
    expansion: int = 4  # hidden width of the feed-forward over `width`
    text_width: int = 256  # channels of the text encoder's vectors
    registers: int = 4  # learned tokens without a place, for what belongs to no other token
    cosines: int = 12  # cos(pi k t), k < cosines: the basis over noise levels of the modulation
    fastest: float = 12.0  # rad/s of the fastest rotation over time: half a turn a video token
    slowest: float = 0.25  # rad/s of the slowest: well under a turn in the longest clip
    finest: float = 3.0  # radians a token of the fastest rotation over y and x
    coarsest: float = 0.3  # radians a token of the slowest
    roles: int = 2  # what a token is for: 0 a part of the clip, 1 an appended image
    fold: int = 2  # video tokens in time that share a token of the stream
    detail: int = 160  # channels of the detailer
    detail_blocks: int = 6  # its convolutions; 0 for none
    storyboard: bool = True  # whether it knows that track
    board_detail: int = 192  # channels of the storyboard's detailer
    board_blocks: int = 4  # its convolutions along time
    sound_detail: int = 128  # channels of the sound's detailer; 0 for none
    sound_blocks: int = 4  # its convolutions along time
    stills: bool = True  # whether the picture's detailer sees the appended images
    reader: int = 96  # channels of what reads storyboards back; 0 for none
    lips: bool = True  # whether the storyboard's detailer hears the sound
    poses: bool = True  # whether the picture's detailer sees poses plain
    weather: bool = True  # whether it is told at each place whether it rains

    def __post_init__(self) -> None:
        if self.width % self.head or self.head % 8:
            raise ValueError(f"width {self.width} must be a multiple of head {self.head}, and that a multiple of 8")
        for name in ("detail_blocks", "board_blocks", "sound_detail", "sound_blocks", "reader"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        for name in ("blocks", "expansion", "text_width", "cosines", "roles", "fold", "detail", "board_detail"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @classmethod
    def stored(cls, sizes: Mapping[str, Any]) -> DenoiserConfig:
        """Sizes as they lie beside weights; what older weights do not name they do not have."""
        return cls(**{**_LACKED, **sizes})

    @property
    def rows(self) -> int:
        """Rows of a modulation table: cosines of each folded video token, sound, storyboard; text and registers."""
        return (self.fold + 1 + self.storyboard) * self.cosines + 1


_LACKED: dict[str, Any] = {
    "storyboard": False, "sound_detail": 0, "stills": False, "reader": 0, "lips": False, "poses": False,
    "weather": False,
}  # fmt: skip


def attend(q_BHMK: Tensor, k_BHMK: Tensor, v_BHMK: Tensor) -> Tensor:
    """Attention with logits q.k, of size at most `SHARPEST`, no mask.

    On a CPU two plain products around an exponential: at these lengths (M of about 300) the products run at 0.3
    TFLOP/s in bfloat16, the fused kernel, which tiles for long sequences, at 0.12 (two AVX512-BF16 cores). As logits
    are bounded, no maximum is subtracted, and the sum is divided out after the second product, so that nothing but
    the exponential passes over M x M values.
    """
    if q_BHMK.device.type != "cpu":
        fused: Tensor = F.scaled_dot_product_attention(q_BHMK, k_BHMK, v_BHMK, scale=1.0)
        return fused
    B, H, M, K = q_BHMK.shape
    q, k, v = (x.reshape(B * H, M, K) for x in (q_BHMK, k_BHMK, v_BHMK))
    weights = torch.bmm(q, k.transpose(1, 2)).float().exp()
    sums = weights.sum(dim=-1, keepdim=True)
    return (torch.bmm(weights.to(v.dtype), v) / sums).to(v.dtype).view(B, H, M, K)


def rotate(x_BMHK: Tensor, cos_MK: Tensor, sin_MK: Tensor) -> Tensor:
    """Rotate channel k of each head with channel k + K/2 (2104.09864); `sin` bears the sign of each half."""
    half = x_BMHK.shape[-1] // 2
    swapped_BMHK = x_BMHK.view(*x_BMHK.shape[:-1], 2, half).flip(-2).view(x_BMHK.shape)
    return x_BMHK * cos_MK[..., :, None, :] + swapped_BMHK * sin_MK[..., :, None, :]


class Block(nn.Module):
    """Attention and feed-forward, each on a norm whose scale and shift depend on the token's noise level."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        width, self.head = config.width, config.head
        self.modulation = Linear(config.rows, 4 * width, std=0)  # scale, shift; scale, shift
        self.sharpness = nn.Parameter(torch.full((width // config.head, 1), math.log(8.0)))  # of attention, by head
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width, std=0)
        self.up = Linear(width, config.expansion * width)
        self.down = Linear(config.expansion * width, width, std=0)

    def forward(self, x_BMW: Tensor, basis_BMR: Tensor, cos_MK: Tensor, sin_MK: Tensor) -> Tensor:
        B, M, W = x_BMW.shape
        dtype = basis_BMR.dtype
        scale1, shift1, scale2, shift2 = self.modulation(basis_BMR).chunk(4, dim=-1)

        h = (norm(x_BMW) * (1 + scale1) + shift1).to(dtype)
        q, k, v = self.qkv(h).view(B, M, 3, W // self.head, self.head).unbind(2)
        # unit vectors, so that a logit is a cosine times the head's sharpness
        sharpness = self.sharpness.clamp(max=math.log(SHARPEST)).exp() * self.head**-0.5
        q = rotate(norm(q), cos_MK, sin_MK) * sharpness
        k = rotate(norm(k), cos_MK, sin_MK) * self.head**-0.5
        a_BHMK = attend(q.to(dtype).transpose(1, 2), k.to(dtype).transpose(1, 2), v.transpose(1, 2))
        x_BMW = x_BMW + self.out(a_BHMK.transpose(1, 2).reshape(B, M, W))

        h = (norm(x_BMW) * (1 + scale2) + shift2).to(dtype)
        out_BMW: Tensor = x_BMW + self.down(F.gelu(self.up(h)))
        return out_BMW


class Denoiser(nn.Module):
    """Noisy strip, its noise levels and the text → clean strip.

    `compute` is the type of the matrix products: bfloat16 by default where the machine has it, else float32; the
    residual stream and the weights in training are float32.
    """

    def __init__(self, config: DenoiserConfig | None = None, *, compute: torch.dtype | None = None) -> None:
        super().__init__()
        self.config = config = config or DenoiserConfig()
        self.compute = compute or native_type()
        width = config.width
        self.video_in = Linear(config.fold * TOKEN_WIDTH, width)
        self.audio_in = Linear(AUDIO_CHANNELS, width)
        self.text_in = Linear(config.text_width, width)
        self.registers = nn.Parameter(torch.randn(config.registers, width) * 0.5)
        self.position = Linear(config.head, width, std=0.1)
        self.role = nn.Embedding(config.roles, width)
        nn.init.zeros_(self.role.weight)
        self.level = Linear(config.rows, width, std=0.1)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.modulation = Linear(config.rows, 2 * width, std=0)
        self.audio_out = Linear(width, AUDIO_CHANNELS, std=0)
        if config.detail_blocks:
            self.known = Linear(width, config.fold * config.detail * PATCH**2)
            count = config.detail_blocks  # every second block along time, but for the last
            in_time = [k % 2 == 1 and k < count - 1 for k in range(count)]
            self.detailer = Detailer(VIDEO_CHANNELS, config.detail, in_time, config.cosines)
        else:
            self.video_out = Linear(width, config.fold * TOKEN_WIDTH, std=0)
        if config.detail_blocks and config.stills:
            self.still_detail = Linear(4 * (VIDEO_CHANNELS + 1), config.detail, std=0)
        if config.sound_detail:
            self.known_sound = Linear(width, config.sound_detail)
            along = [True] * config.sound_blocks
            self.sound_detailer = Detailer(AUDIO_CHANNELS, config.sound_detail, along, config.cosines)
        if config.storyboard:
            self.board_in = Linear(BOARD_CHANNELS, width)
            self.known_board = Linear(width, config.board_detail)
            along = [True] * config.board_blocks
            self.board_detailer = Detailer(BOARD_CHANNELS, config.board_detail, along, config.cosines, filtered=True)
            if config.reader:
                self.reader = Reader(config.text_width, config.reader)
            self.shape = Linear(3, width, std=0.1)  # rows and columns of the picture, 1
            self.drawn = Linear(config.fold * PATCH**2 * SPLAT, width, std=0)
            self.cued = Linear(3 * BOARD_CHANNELS, COLUMNS_PER_LATENT * width, std=0)
            if config.sound_detail:
                self.cued_detail = Linear(3 * BOARD_CHANNELS, COLUMNS_PER_LATENT * config.sound_detail)
            if config.lips:
                self.heard = Linear(3 * COLUMNS_PER_LATENT * AUDIO_CHANNELS, config.board_detail, std=0)
            if config.detail_blocks:
                self.drawn_detail = Linear(SPLAT + OUTLINE + POSES * config.poses, config.detail, std=0.25)
                if config.weather:
                    self.weather_detail = Linear(2, config.detail, std=0)
        self._run_block: Callable[..., Tensor] = _run_block

    def forward(self, x_BND: Tensor, t_BN: Tensor, text_BLC: Tensor, geometry: Geometry) -> Tensor:
        """Predict the clean strip.

        Args:
            x_BND: the noisy strip, (1 - t) clean + t noise, about unit variance.
            t_BN: noise level of each token, in [0, 1]; 0 is clean and given.
            text_BLC: the text encoder's vectors, with one learned vector where there is no text.
            geometry: what lies where on the strip.

        Returns:
            x0_BND float32; 0 in unused channels and on appended images, and whatever on other tokens with t = 0.
        """
        return self.look(x_BND, t_BN, text_BLC, geometry)[0]

    def look(self, x_BND: Tensor, t_BN: Tensor, text_BLC: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """`forward`, and what the tokens of the strip are at half depth: x0_BND, h_BSW.

        S are the tokens of the stream: video (`fold` latents in time, y, x), sound, appended images, storyboard.
        """
        g, config, dtype, device = geometry, self.config, self.compute, x_BND.device
        B, N, _ = x_BND.shape
        assert N == g.n and t_BN.shape == (B, N), (x_BND.shape, t_BN.shape, g)
        assert config.storyboard or not g.boards, "this denoiser knows no storyboard"
        lead = config.registers + text_BLC.shape[1]  # tokens before the strip
        folds = math.ceil(g.latents / config.fold)  # in time
        video = slice(0, folds * g.n_picture)
        sound = slice(video.stop, video.stop + g.n_audio)
        extra = slice(sound.stop, sound.stop + g.n_extra)
        board = slice(extra.stop, extra.stop + g.boards)
        drawn_BTHWK = self._draw(x_BND, t_BN, g)  # the first SPLAT channels for tokens, all for the detailer

        exact_BND, x_BND = x_BND, x_BND.to(dtype)
        video_BSD, extra_BSD = self._fold(x_BND[:, g.video], folds, g), self._repeat(x_BND[:, g.extra])
        told_BN = self._told_once(t_BN)
        lead_BMR = self._lead_basis(len(told_BN), lead, device)
        basis_BMR = torch.cat([lead_BMR, self._basis(told_BN, folds, g)], dim=1).to(dtype)
        angle_SJ = self._angles(self._places(folds, g).to(device))
        wave_SK = torch.cat([angle_SJ.cos(), angle_SJ.sin()], dim=-1)
        role_W = self.role.weight
        where_SW = self.position(wave_SK) + torch.cat(
            [role_W[:1].expand(sound.stop, -1), role_W[1:2].expand(g.n_extra, -1), role_W[:1].expand(g.boards, -1)]
        )

        audio_BSW = self.audio_in(x_BND[:, g.audio, :AUDIO_CHANNELS])
        if g.boards and g.n_audio:
            audio_BSW = audio_BSW + self._cue(x_BND[:, g.board], t_BN[:, g.board], self.cued)
        video_BSW = self.video_in(video_BSD)
        if drawn_BTHWK is not None:
            video_BSW = video_BSW + self.drawn(self._fold(_tokens(drawn_BTHWK[..., :SPLAT]), folds, g))
        parts = [video_BSW, audio_BSW, self.video_in(extra_BSD)]
        if g.boards:
            shape = torch.tensor([g.height / 4 - 1, g.width / 4 - 1, 1.0], device=device, dtype=dtype)
            parts.append(self.board_in(x_BND[:, g.board, :BOARD_CHANNELS]) + self.shape(shape))
        strip_BSW = torch.cat(parts, dim=1)
        text_BLW = norm(self.text_in(text_BLC.to(dtype)).float())
        x_BMW = torch.cat(
            [self.registers.float().expand(B, -1, -1), text_BLW, strip_BSW.float() + where_SW.float()], dim=1
        ) + self.level(basis_BMR)

        angle_MJ = F.pad(angle_SJ, (0, 0, lead, 0))  # text and registers have no place: not rotated
        cos_MK = angle_MJ.cos().repeat(1, 2)
        sin_MK = torch.cat([-angle_MJ.sin(), angle_MJ.sin()], dim=-1)
        run: Callable[..., Tensor] = self._run_block if self.training else _run_block
        half_BSW = x_BMW
        for k, block in enumerate(self.blocks):
            x_BMW = run(block, x_BMW, basis_BMR, cos_MK, sin_MK)
            if k == (config.blocks - 1) // 2:
                half_BSW = x_BMW[:, lead:]

        scale, shift = self.modulation(basis_BMR[:, lead:]).chunk(2, dim=-1)
        h_BSW = (norm(x_BMW[:, lead:]) * (1 + scale) + shift).to(dtype)
        audio_BSD = self._detail_sound(exact_BND, t_BN, h_BSW[:, sound], g)
        if not config.detail_blocks:
            video_BND = self._unfold(self.video_out(h_BSW[:, video]), folds, g).float()
        elif folds:
            known_BND = self._unfold(self.known(h_BSW[:, video]), folds, g)
            if g.boards:  # beneath a storyboard that it can read the detailer paints by itself
                unread_B = (t_BN[:, g.board].mean(1) / UNREADABLE).clamp(max=1)
                known_BND = known_BND * unread_B[:, None, None].to(known_BND)
            video_BND = self._detail(exact_BND, t_BN, known_BND, drawn_BTHWK, g)
        else:
            video_BND = x_BND[:, g.video].float()
        answer = [video_BND, audio_BSD, torch.zeros_like(x_BND[:, g.extra], dtype=torch.float32)]
        if g.boards:
            known_BTD = self.known_board(h_BSW[:, board])
            if config.lips and g.n_audio:
                known_BTD = known_BTD + self._hear(x_BND[:, g.audio], t_BN[:, g.audio])
            answer.append(self._detail_board(exact_BND[:, g.board], t_BN[:, g.board], known_BTD))
        return torch.cat(answer, dim=1), half_BSW

    def _draw(self, x_BND: Tensor, t_BN: Tensor, g: Geometry) -> Tensor | None:
        """What the storyboard says of each latent, as far as it is legible: (B, T, H, W, K), or None."""
        if not g.boards or not g.latents:
            return None
        legible_BT = _legible(t_BN[:, g.board])
        draws = (splat, outline, poses) if self.config.poses else (splat, outline)
        drawn = [draw(x_BND[:, g.board], g.height, g.width).to(self.compute) for draw in draws]
        return torch.cat(drawn, dim=-1) * legible_BT[..., None, None, None].to(self.compute)

    def _weather(self, x_BND: Tensor, t_BN: Tensor, g: Geometry) -> Tensor:
        """Whether it is dry, and whether it rains, as far as the storyboard is legible: (B, T, 1, 1, 2). Nobody's place
        tells that of the floor far from him: what paints saw rain there now and then, where none was."""
        legible_BT = _legible(t_BN[:, g.board])
        wet_B1 = rains(x_BND[:, g.board]).to(legible_BT)[:, None]
        told_BTK = ON * torch.stack([legible_BT * (1 - wet_B1), legible_BT * wet_B1], dim=-1)
        return told_BTK[:, :, None, None].to(self.compute)

    def _cue(self, x_BTD: Tensor, t_BT: Tensor, cued: Linear) -> Tensor:
        """What the storyboard says of each column of sound, its own token and those around it: (B, S, W)."""
        legible_BTD = x_BTD[..., :BOARD_CHANNELS] * _legible(t_BT)[..., None].to(x_BTD.dtype)
        around = F.pad(legible_BTD, (0, 0, 1, 1))
        cued_BTW: Tensor = cued(torch.cat([around[:, :-2], legible_BTD, around[:, 2:]], dim=-1))
        return cued_BTW.view(len(x_BTD), COLUMNS_PER_LATENT * x_BTD.shape[1], -1)

    def _hear(self, x_BSD: Tensor, t_BS: Tensor) -> Tensor:
        """What is heard in each token of the storyboard and those beside it: (B, T, channels of its detailer)."""
        legible_BSD = x_BSD[..., :AUDIO_CHANNELS] * _legible(t_BS)[..., None].to(x_BSD.dtype)
        own_BTX = legible_BSD.reshape(len(x_BSD), -1, COLUMNS_PER_LATENT * AUDIO_CHANNELS)
        around = F.pad(own_BTX, (0, 0, 1, 1))
        heard_BTW: Tensor = self.heard(torch.cat([around[:, :-2], own_BTX, around[:, 2:]], dim=-1))
        return heard_BTW

    def _detail_sound(self, x_BND: Tensor, t_BN: Tensor, h_BSW: Tensor, g: Geometry) -> Tensor:
        """The clean sound (B, S, 128) float32: the transformer's answer, and what its detailer adds."""
        answer_BSD = self.audio_out(h_BSW).float()
        if self.config.sound_detail and g.columns:
            run = self._run_block if self.training else _run_block
            known_BSD = self.known_sound(h_BSW)
            if g.boards:
                known_BSD = known_BSD + self._cue(
                    x_BND[:, g.board].to(self.compute), t_BN[:, g.board], self.cued_detail
                )
            noisy_BSZ, t_BS = x_BND[:, g.audio, :AUDIO_CHANNELS], t_BN[:, g.audio]
            noisy, level, known, basis = (  # latents of one place
                x[:, :, None, None]
                for x in (
                    noisy_BSZ,
                    t_BS[..., None],
                    known_BSD,
                    self._waves(self._told_once(t_BS, 2)).to(self.compute),
                )
            )
            answer_BSD = answer_BSD + self.sound_detailer(noisy, level, known, basis, run)[:, :, 0, 0]
        return F.pad(answer_BSD, (0, TOKEN_WIDTH - AUDIO_CHANNELS))

    def _detail_board(self, x_BTD: Tensor, t_BT: Tensor, known_BTD: Tensor) -> Tensor:
        """The clean storyboard (B, T, 128) float32, from what the transformer knows of each of its tokens."""
        run = self._run_block if self.training else _run_block
        basis_BTR = self._waves(self._told_once(t_BT, 2)).to(self.compute)
        noisy, level, known, basis = (  # latents of one place
            x[:, :, None, None] for x in (x_BTD[..., :BOARD_CHANNELS], t_BT[..., None], known_BTD, basis_BTR)
        )
        clean: Tensor = self.board_detailer(noisy, level, known, basis, run)
        return F.pad(clean[:, :, 0, 0], (0, TOKEN_WIDTH - BOARD_CHANNELS))

    def paint(self, x_BND: Tensor, t_BN: Tensor, geometry: Geometry) -> Tensor:
        """The picture by the detailer alone, beneath a storyboard that is given: (B, n_video, D) float32."""
        return self._detail(x_BND, t_BN, None, self._draw(x_BND, t_BN, geometry), geometry)

    def _detail(
        self, x_BND: Tensor, t_BN: Tensor, known_BND: Tensor | None, drawn_BTHWK: Tensor | None, g: Geometry
    ) -> Tensor:
        """Clean video tokens (B, n_video, D). known: what the transformer knows of each, side by side by latent."""
        B, (h, w), run = len(x_BND), (g.height, g.width), self._run_block if self.training else _run_block
        stills_BTHWK = self._stills(x_BND[:, g.extra], t_BN[:, g.extra], g)
        told = self.config.weather and drawn_BTHWK is not None
        weather_BTHWK = self._weather(x_BND, t_BN, g) if told else None
        x_BND, t_BN = x_BND[:, g.video], t_BN[:, g.video]

        def grid(x: Tensor) -> Tensor:  # tokens, each with channel, row, column → (B, T, H, W, channels)
            x = x.view(B, g.latents, h, w, -1, PATCH, PATCH).permute(0, 1, 2, 5, 3, 6, 4)
            return x.reshape(B, g.latents, h * PATCH, w * PATCH, -1)

        told_BN = self._told_once(t_BN, 2)
        basis_BNR = self._waves(told_BN).to(self.compute)
        if told_BN.numel() > 1:
            basis_BTHWR = grid(basis_BNR.expand(B, -1, -1)[..., None].expand(-1, -1, -1, PATCH**2))
        else:
            basis_BTHWR = basis_BNR[:, :, None, None]
        t_BTHW1 = grid(t_BN[..., None, None].expand(-1, -1, 1, PATCH**2))
        parts = [] if known_BND is None else [grid(known_BND)]
        if drawn_BTHWK is not None:
            parts.append(self.drawn_detail(drawn_BTHWK))
            if weather_BTHWK is not None:
                parts.append(self.weather_detail(weather_BTHWK))
        if stills_BTHWK is not None:
            parts.append(self.still_detail(stills_BTHWK))
        known_BTHWD = sum(parts[1:], start=parts[0])
        clean: Tensor = self.detailer(grid(x_BND), t_BTHW1, known_BTHWD, basis_BTHWR, run)
        clean = clean.view(B, g.latents, h, PATCH, w, PATCH, VIDEO_CHANNELS).permute(0, 1, 2, 4, 6, 3, 5)
        return clean.reshape(B, g.n_video, TOKEN_WIDTH)

    def _stills(self, x_BND: Tensor, t_BN: Tensor, g: Geometry) -> Tensor | None:
        """What the appended images show at each latent, (B, T, H, W, K), or None: for the clip's beginning and for its
        end the image and 1, and both again, the less the further away its instant is; 0 where there is none."""
        if not g.images or not self.config.stills:
            return None
        middles_T = (torch.arange(g.latents, device=x_BND.device) + 0.5) * SECONDS_PER_LATENT
        nothing = x_BND.new_zeros(len(x_BND), g.latents, g.height * PATCH, g.width * PATCH, 2 * (VIDEO_CHANNELS + 1))
        ends = [nothing, nothing]
        for k, instant in enumerate(g.images):
            span = slice(k * g.n_picture, (k + 1) * g.n_picture)
            image = unpatchify(x_BND[:, span], g.height, g.width).permute(0, 2, 3, 4, 1)
            image = F.pad(image, (0, 1), value=1.0) * (1 - t_BN[:, span].mean(1))[:, None, None, None, None]
            near_T = torch.exp(-(middles_T - instant).abs() / SECONDS_PER_LATENT)
            even = image.expand(-1, g.latents, -1, -1, -1)
            ends[instant > g.seconds - SECONDS_PER_LATENT / 2] = torch.cat(
                [even, even * near_T[:, None, None, None]], dim=-1
            )
        return torch.cat(ends, dim=-1).to(self.compute)

    # --- between strip and stream -----------------------------------------------------------------------------------
    def _fold(self, x_BND: Tensor, folds: int, g: Geometry) -> Tensor:
        """Video tokens (B, N, D) that share a token of the stream side by side: (B, S, fold D).

        Where the last ones are too few, the last latent in time stands for those that are missing.
        """
        B, _, D = x_BND.shape
        if not folds:
            return x_BND.new_zeros(B, 0, self.config.fold * D)
        x = x_BND.view(B, g.latents, g.n_picture, D)
        missing = folds * self.config.fold - g.latents
        if missing:
            x = torch.cat([x, x[:, -1:].expand(-1, missing, -1, -1)], dim=1)
        x = x.view(B, folds, self.config.fold, g.n_picture, D).transpose(2, 3)
        return x.reshape(B, folds * g.n_picture, self.config.fold * D)

    def _unfold(self, x_BSD: Tensor, folds: int, g: Geometry) -> Tensor:
        """Inverse of `_fold`."""
        B, fold = len(x_BSD), self.config.fold
        width = x_BSD.shape[-1] // fold
        x = x_BSD.view(B, folds, g.n_picture, fold, width).transpose(2, 3)
        return x.reshape(B, folds * fold * g.n_picture, width)[:, : g.n_video]

    def _repeat(self, x_BND: Tensor) -> Tensor:
        """A single image as the `fold` equal latents that it would be in a clip: (B, N, fold D)."""
        return x_BND.repeat(1, 1, self.config.fold)

    def _places(self, folds: int, g: Geometry) -> Tensor:
        """(S, 3): seconds, y, x of the tokens of the stream; the middle of what they cover."""
        places_N3 = g.positions()
        video_N3 = places_N3[g.video].view(g.latents, g.n_picture, 3)[:: self.config.fold].reshape(-1, 3).clone()
        video_N3[:, 0] += (self.config.fold - 1) / 2 * SECONDS_PER_LATENT
        return torch.cat([video_N3, places_N3[g.video.stop :]])

    def bind(self, text_BLC: Tensor, geometry: Geometry) -> Callable[[Tensor, Tensor], Tensor]:
        """What samplers take: (x_BND, t_BN) → x0_BND, for this text and geometry."""

        def denoise(x_BND: Tensor, t_BN: Tensor) -> Tensor:
            x0_BND: Tensor = self(x_BND, t_BN, text_BLC, geometry)
            return x0_BND

        return denoise

    def compile_blocks(self, **options: Any) -> None:
        """Train through `torch.compile`, of one block, which serves them all; `dynamic=True`: and every geometry."""
        self._run_block = torch.compile(_run_block, **options)
        # it does not compile for any shape, and is twice as fast as what does (float32, AVX2)
        planes, compiled = torch.compiler.disable(by_planes), torch.compile(ending, **options)
        for module in self.modules():
            if isinstance(module, DetailBlock):
                module.by_planes = planes
            if isinstance(module, Detailer):
                module.ending = compiled

    @property
    def block_parameters(self) -> int:
        """Weights that each token of the stream is multiplied with."""
        return _weights(self.blocks)

    def stream(self, geometry: Geometry, text: int) -> int:
        """Tokens of the stream, with `text` ones of text."""
        folded = math.ceil(geometry.latents / self.config.fold) * geometry.n_picture
        return self.config.registers + text + folded + geometry.n_audio + geometry.n_extra + geometry.boards

    def training_flops(self, batch: int, geometry: Geometry, text: int, *, alone: bool = False) -> float:
        """Model FLOPs of a training step: 6 x parameters x tokens, and the products of attention, of the blocks; and
        6 x parameters x latents of the detailers' blocks. alone: of `paint`."""
        M, config = self.stream(geometry, text), self.config
        products = M * self.block_parameters + 2 * config.blocks * M * M * config.width
        details = _weights(self.detailer.blocks) * geometry.n_video * PATCH**2 if config.detail_blocks else 0
        boards = _weights(self.board_detailer.blocks) * geometry.boards if config.storyboard else 0
        return 6.0 * batch * (details if alone else products + details + boards)

    def _basis(self, t_BN: Tensor, folds: int, g: Geometry) -> Tensor:
        """(B, S, R): cos(pi k t) in the columns of the token's modality; video has columns for each of its levels."""
        K, fold, rows = self.config.cosines, self.config.fold, self.config.rows
        waves = self._waves(t_BN)

        def place(waves: Tensor, first: int) -> Tensor:
            return F.pad(waves, (first, rows - first - waves.shape[-1]))

        parts = [
            place(self._fold(waves[:, g.video], folds, g), 0),
            place(waves[:, g.audio], fold * K),
            place(self._repeat(waves[:, g.extra]), 0),
        ]
        return torch.cat([*parts, place(waves[:, g.board], (fold + 1) * K)] if g.boards else parts, dim=1)

    def _waves(self, t_BN: Tensor) -> Tensor:
        """(B, N, K): cos(pi k t)."""
        return torch.cos(math.pi * torch.arange(self.config.cosines, device=t_BN.device) * t_BN[..., None].float())

    def _told_once(self, t_BN: Tensor, axes: int = 1) -> Tensor:
        """t_BN of the first strip alone, (1, N), where all have the same noise levels, as in sampling.

        axes 2: and of its first token alone, (1, 1), where all of its tokens have the same. What is computed from it is
        broadcast: the same, cheaper. In training they differ, and on a GPU the look would cost more than it saves.
        """
        if self.training or t_BN.device.type != "cpu" or not t_BN.numel():
            return t_BN
        if axes == 2 and bool((t_BN == t_BN[0, 0]).all()):
            return t_BN[:1, :1]
        return t_BN[:1] if bool((t_BN == t_BN[:1]).all()) else t_BN

    def _lead_basis(self, batch: int, lead: int, device: torch.device) -> Tensor:
        return F.one_hot(torch.full((batch, lead), self.config.rows - 1, device=device), self.config.rows).float()

    def _angles(self, positions_N3: Tensor) -> Tensor:
        """(N, head / 2) radians: the first half from seconds, a quarter each from y and x."""
        pairs = self.config.head // 2

        def turn(place_N: Tensor, count: int, fastest: float, slowest: float) -> Tensor:
            speed = torch.logspace(math.log2(fastest), math.log2(slowest), count, 2.0, device=place_N.device)
            return place_N[:, None] * speed

        seconds, y, x = positions_N3.unbind(-1)
        c = self.config
        return torch.cat(
            [
                turn(seconds, pairs // 2, c.fastest, c.slowest),
                turn(y, pairs // 4, c.finest, c.coarsest),
                turn(x, pairs // 4, c.finest, c.coarsest),
            ],
            dim=-1,
        )


def _weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _legible(t_BT: Tensor) -> Tensor:
    """How much of a token can be read at its noise level: 1 where it is clean, 0 from `UNREADABLE` on."""
    return (1 - t_BT / UNREADABLE).clamp(min=0)


def _tokens(x_BTHWK: Tensor) -> Tensor:
    """Values of latents (B, T, H, W, K) gathered by token: (B, N, 4 K)."""
    B, T, H, W, K = x_BTHWK.shape
    x = x_BTHWK.view(B, T, H // PATCH, PATCH, W // PATCH, PATCH, K).transpose(3, 4)
    return x.reshape(B, T * (H // PATCH) * (W // PATCH), PATCH**2 * K)


def _run_block(block: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    return block(*inputs)
