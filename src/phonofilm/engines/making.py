"""From a request and given clips to a strip, and from the strip to frames and sound: the maths of the built-in engine.

It knows no files and no receipts; whoever has the parts (a tokenizer, a text encoder, a denoiser, a codec) makes films.

Shapes: B strips, N tokens, D = 128 width of a token, L text tokens, C channels of the text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phonofilm import latents
from phonofilm.clip import NATIVE_FPS, NATIVE_RATE, Audio, Clip
from phonofilm.codec.anchor import ENDS, End, anchor
from phonofilm.codec.codec import Codec
from phonofilm.diffusion.ahead import best_board, draw_board, lip_sync, read_board
from phonofilm.diffusion.guidance import ClassifierFree, MatchGuidance, TrackGuidance, storyboard_guidance
from phonofilm.diffusion.noise import strip_noise
from phonofilm.diffusion.sampler import Denoise, Sampler
from phonofilm.diffusion.samplers import SAMPLERS
from phonofilm.diffusion.schedule import shifted_times
from phonofilm.engines.masks import composed, free_tokens
from phonofilm.errors import InputError
from phonofilm.latents import Geometry, Latents
from phonofilm.model.denoiser import Denoiser
from phonofilm.model.timer import Timer
from phonofilm.request import Request
from phonofilm.storyboard import at_instants, decided, in_time
from phonofilm.text.encoder import TextEncoder, trim
from phonofilm.text.tokenizer import Tokenizer

CONTEXT = 4  # video latents (1 s) at least of the given clip that a continuation sees
FADE = 10  # frames over which a jump behind a continued clip or beside a given image fades away
LONGEST = 16  # video latents (4 s) of a strip


@dataclass(frozen=True)
class Defaults:
    """Sampler settings where the request leaves them open."""

    steps: int = 6  # of picture and sound: beneath a storyboard little is left open, and more make neither better
    boards: int = 12  # steps of the storyboard, which cost little
    again: float = 0.4  # noise level from which the kept draft is gone over once more, in as many steps; 0: it is not
    lips: int = 6  # steps of a first sound, and of the mouths that it asks for
    drafts: int = 4  # storyboards that are drawn at once; the one that most likely is as the prompt says is kept
    rounds: int = 4  # of drafts at most, where none of them is
    content: float = 2.0  # doubts of a draft, see `Reader.doubts`, with which no more are drawn
    particles: int = 8  # storyboards of which one is put together where a picture is given
    board_shift: float = 3.0  # of its time grid: it needs more steps where little noise is left
    sampler: str = "euler"
    guidance: float = 2.0  # of strips without a storyboard
    sound_guidance: float = 3.0  # of the sound beneath a storyboard, by it and the prompt, where there is much noise
    picture_guidance: float = 1.4  # of the picture, by its storyboard
    rain_guidance: float = 2.5  # of a picture in which it rains: streaks that nobody can foretell come out faint
    board_guidance: float = 1.5  # of the storyboard, whose numbers more would bend
    hit_delay: float = 0.01  # seconds by which what falls is heard later than drawn, since it is seen later, smeared
    shift: float = 3.0  # of the time grid: sound is coarse where the last step begins in much noise


@dataclass(frozen=True)
class _Script:
    """What a batch is told, and how the denoiser follows it."""

    denoiser: Denoiser
    defaults: Defaults
    with_text_BLC: Tensor
    without_BLC: Tensor
    said_BL: Tensor  # true where there is text

    def copied(self, copies: int, rows: Tensor | None = None) -> _Script:
        """For so many copies of each of these rows of the batch, or of all."""

        def some(x: Tensor) -> Tensor:
            return (x if rows is None else x[rows]).repeat_interleave(copies, 0)

        texts = some(self.with_text_BLC), some(self.without_BLC), some(self.said_BL)
        return _Script(self.denoiser, self.defaults, *texts)

    def bind(self, g: Geometry, scale: float) -> Denoise:
        """Guided by the prompt."""
        both = torch.cat([self.with_text_BLC, self.without_BLC])
        return ClassifierFree(self.denoiser.bind(self.with_text_BLC, g), self.denoiser.bind(both, g), scale)

    def drawing(self, g: Geometry) -> Denoise:
        """The same, for storyboards."""
        return self.bind(g, self.defaults.board_guidance)

    def led(self, g: Geometry, board_BTD: Tensor) -> Denoise:
        """Picture and sound beneath this storyboard: each is guided away from itself without it."""
        sound = self.denoiser.bind(self.without_BLC, Geometry(0, g.height, g.width, g.columns))

        def heard(x_BND: Tensor, t_BN: Tensor) -> Tensor:
            return sound(x_BND[:, g.audio], t_BN[:, g.audio])

        def unled(x_BND: Tensor, t_BN: Tensor) -> Tensor:
            t_BN = t_BN.clone()
            t_BN[:, g.board] = 1
            return self.denoiser.paint(x_BND, t_BN, g)

        d = self.defaults
        told = TrackGuidance(self.denoiser.bind(self.with_text_BLC, g), heard, g.audio, d.sound_guidance, (0.5, 0.95))
        scale = storyboard_guidance(board_BTD, d.picture_guidance, d.rain_guidance)
        return TrackGuidance(told, unled, g.video, scale, (0.0, 1.0))


class Maker(ABC):
    """Makes strips with parts that a subclass provides."""

    device: torch.device
    defaults: Defaults

    @property
    @abstractmethod
    def codec(self) -> Codec: ...

    @property
    @abstractmethod
    def tokenizer(self) -> Tokenizer: ...

    @property
    @abstractmethod
    def _model(self) -> tuple[Denoiser, TextEncoder, str]:
        """The denoiser, the text encoder, and the hash of their weights."""

    @property
    def timer(self) -> Timer | None:
        """What tells when that which is seen is heard, if there is one."""
        return None

    def _judge(self, prompts: Sequence[str], geometry: Geometry, batch: int) -> Callable[[Tensor], Tensor]:
        """x0_BND → (B,): how well predicted strips match their prompts. Raises InputError where nothing judges."""
        raise InputError("match_guidance needs a matcher, here is none", "match_guidance")

    def _strip(
        self, request: Request, given: dict[str, Clip], past: list[Clip], frames_left: int, images: dict[End, Clip]
    ) -> tuple[Latents, int]:
        """The strip with what is given on it, and from which video latent on it is new."""
        width, height = request.pixels
        if request.picture:
            return self._empty(Geometry(1, height // 32, width // 32)), 0
        context = _context(past[-1], frames_left) if past else 0
        count = min(latents.latents_from_frames(frames_left), LONGEST - context) + context
        seconds = latents.seconds_from_latents(count)
        free: dict[str, float] = {condition.role: 1 - condition.strength for condition in request.conditions}
        if past:  # the frame before the new ones is shown, too: what stands still goes on as it is
            images, free["first"] = {"first": Clip(past[-1].frames[-1:], NATIVE_FPS), **images}, 0.0
        begin = latents.seconds_from_latents(context)
        instants = [begin if end == "first" else seconds for end in images]
        g = Geometry(count, height // 32, width // 32, latents.columns_from_latents(count), tuple(instants))
        strip = self._empty(g)
        values, mask = strip.values_BND, strip.mask_BN
        for k, (end, image) in enumerate(images.items()):
            z, _ = self.codec.encode(image)
            span = slice(g.extra.start + k * g.n_picture, g.extra.start + (k + 1) * g.n_picture)
            values[:, span] = latents.patchify(z.to(self.device))
            mask[:, span] = free.get(end, 0.0)
        if past:
            tail = _tail(past[-1], latents.frames_from_latents(context))
            z, a = self.codec.encode(tail)
            self._lay(strip, g.video_span(0, context), latents.patchify(z))
            if a is not None:
                self._lay(strip, g.audio_span(0, context), _sound_tokens(a))
        for role, span in (("video", g.video), ("audio", g.audio)):
            if role in given:
                clip = exactly(given[role], latents.frames_from_latents(count))
                z, a = self.codec.encode(clip)
                if role == "audio" and a is None:
                    raise InputError("the file given as sound has no sound")
                tokens = latents.patchify(z) if role == "video" else _sound_tokens(a)  # type: ignore[arg-type]
                self._lay(strip, span, tokens, free.get(role, 0.0))
        if "mask" in given:
            anew = torch.from_numpy(free_tokens(given["mask"], width, height)).to(self.device)
            mask[:, g.video][:, anew.flatten().repeat(count)] = 1 - free.get("mask", 0.0)
        return strip, context

    def _empty(self, geometry: Geometry) -> Latents:
        values = torch.zeros(1, geometry.n, latents.TOKEN_WIDTH, device=self.device)
        return Latents(values, geometry, torch.ones(1, geometry.n, device=self.device))

    @staticmethod
    def _lay(strip: Latents, span: slice, tokens_BND: Tensor, free: float = 0.0) -> None:
        """Put tokens on the strip. free: the noise level that they start with, 0 binds them."""
        strip.values_BND[:, span] = tokens_BND.to(strip.values_BND)
        strip.mask_BN[:, span] = free

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        strip: Latents,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        negative: str = "",
        match_guidance: float = 0.0,
        callback: Any = None,
        watch: Any = None,
        board_BTD: Tensor | None = None,
    ) -> Latents:
        """Denoise a batch: one clip for each prompt and seed, on the geometry and given tokens of `strip` (1 or B).

        callback, watch: called after each step of picture and sound, and of the storyboard before them.
        board_BTD: a storyboard (1 or B, T, 128) that is given; by default one is made.

        Prompts are filled up to a multiple of 8 tokens; those of other lengths are sampled apart, so that a clip does
        not depend on what else is in its batch.
        """
        alike: dict[int, list[int]] = {}
        for k, prompt in enumerate(prompts):
            alike.setdefault(self._tokens(prompt, negative), []).append(k)
        if len(alike) > 1:
            options = {
                "steps": steps, "guidance": guidance, "sampler": sampler, "negative": negative,
                "match_guidance": match_guidance, "callback": callback, "watch": watch,
            }  # fmt: skip
            B, parts = len(seeds), []
            for rows in alike.values():
                own = replace(strip, values_BND=strip.values_BND.expand(B, -1, -1)[rows],
                              mask_BN=strip.mask_BN.expand(B, -1)[rows])  # fmt: skip
                board = None if board_BTD is None else board_BTD.expand(B, -1, -1)[rows]
                texts, numbers = [prompts[k] for k in rows], [seeds[k] for k in rows]
                parts.append(self.sample(texts, numbers, own, board_BTD=board, **options))
            back = torch.tensor([k for rows in alike.values() for k in rows]).argsort()
            values_BND, mask_BN = torch.cat([p.values_BND for p in parts]), torch.cat([p.mask_BN for p in parts])
            return replace(parts[0], values_BND=values_BND[back], mask_BN=mask_BN[back])
        denoiser, text, _ = self._model
        d, g, B = self.defaults, strip.geometry, len(seeds)
        values, mask = strip.values_BND.expand(B, -1, -1), strip.mask_BN.expand(B, -1)
        strip = Latents(torch.lerp(values, strip_noise(seeds, g, self.device), mask[..., None]), g, mask)
        length = max(alike)
        ids, said = (x[:, :length] for x in self._ids(prompts))
        without = text(*(x[:, :length] for x in self._ids([negative]))).expand(B, -1, -1)
        script = _Script(denoiser, d, text(ids, said), without, said)
        chosen = SAMPLERS[sampler or d.sampler]()
        boards = denoiser.config.storyboard and g.latents > 0
        if boards:
            if board_BTD is None:
                board_BTD = self._storyboard(script, strip, seeds, chosen, watch)
            strip = latents.with_board(strip, board_BTD.expand(B, -1, -1), free=0)
        if guidance is None and boards:  # the picture follows its storyboard, with or without the prompt
            denoise = script.led(strip.geometry, strip.values_BND[:, strip.geometry.board])
        else:
            denoise = script.bind(strip.geometry, d.guidance if guidance is None else guidance)
        if match_guidance:
            denoise = MatchGuidance(denoise, self._judge(prompts, g, B), match_guidance)
        grid = shifted_times(steps or d.steps, d.shift)
        made = chosen(denoise, strip.values_BND, strip.mask_BN, grid, callback)
        return latents.without_board(replace(strip, values_BND=made))

    def _storyboard(self, script: _Script, strip: Latents, seeds: Sequence[int], chosen: Sampler, watch: Any) -> Tensor:
        """The storyboards (B, T, 128) of a strip: read off the picture that is given, drawn and read back, gone over
        again, and put in time with the sound."""
        denoiser, d, g, B = script.denoiser, self.defaults, strip.geometry, len(seeds)
        x_BND, mask_BN = strip.values_BND, strip.mask_BN
        drafts, rounds = (d.drafts, d.rounds) if denoiser.config.reader else (1, 1)
        if g.latents == 1:  # a picture keeps no count
            rounds = 1
        times, seen = shifted_times(d.boards, d.board_shift), self._given_picture(strip)
        heard = bool((mask_BN[:, g.audio] < 1).all())
        count = drafts * rounds + (d.particles * len(times) if seen else 0)
        noise = strip_noise(seeds, Geometry(0, g.height, g.width, boards=g.latents * count), self.device)
        noise_BKTD = noise.view(B, count, g.latents, latents.TOKEN_WIDTH)
        board_BTD = held_BTD = held_T = None
        if seen:
            explain, held_T = seen
            board_BTD = held_BTD = read_board(
                script.copied(d.particles).drawing, x_BND, mask_BN, g,
                noise_BKTD[:, drafts * rounds :].unflatten(1, (-1, d.particles)), explain, held_T, times, watch,
            )  # fmt: skip

        def timed(board_BTD: Tensor) -> Tensor:
            if not seen:  # a given picture may show what is neither the one nor the other
                board_BTD = decided(board_BTD)
            if not heard:  # a given sound keeps its own time
                board_BTD = in_time(board_BTD, held_T)
            return at_instants(self.timer.timed(board_BTD) if self.timer is not None else board_BTD)

        def draw(rows: Tensor, noise_NKTD: Tensor) -> Tensor:
            K = noise_NKTD.shape[1]
            x_ND, mask_N = (x[rows].repeat_interleave(K, 0) for x in (x_BND, mask_BN))
            held = None if held_BTD is None else held_BTD[rows].repeat_interleave(K, 0)
            drawn_NTD = draw_board(
                script.copied(K, rows).drawing, x_ND, mask_N, g, noise_NKTD.flatten(0, 1), chosen, times, watch,
                held_BTD=held, held_T=held_T,
            )  # fmt: skip
            return timed(drawn_NTD).view_as(noise_NKTD)

        def doubts(rows: Tensor, board_NKTD: Tensor) -> Tensor:
            told = script.copied(board_NKTD.shape[1], rows)
            found: Tensor = denoiser.reader.doubts(board_NKTD.flatten(0, 1), told.with_text_BLC, told.said_BL)
            return found.view(board_NKTD.shape[:2])

        if held_T is None or not bool(held_T.all()):
            first = noise_BKTD[:, : drafts * rounds].unflatten(1, (rounds, drafts))
            every = torch.arange(B, device=self.device)
            board_BTD = best_board(draw, doubts, first, d.content) if drafts > 1 else draw(every, first[:, 0])[:, 0]
            if d.again:
                again_BTD = timed(draw_board(
                    script.drawing, x_BND, mask_BN, g, noise_BKTD[:, 0], chosen, times, watch, draft_BTD=board_BTD,
                    free=d.again, held_BTD=held_BTD, held_T=held_T,
                ))  # fmt: skip
                if drafts > 1:
                    before_B, after_B = doubts(every, torch.stack([board_BTD, again_BTD], 1)).unbind(1)
                    worse_B = after_B > before_B.clamp(min=d.content)
                    again_BTD = torch.where(worse_B[:, None, None], board_BTD, again_BTD)
                board_BTD = again_BTD
        assert board_BTD is not None
        if denoiser.config.lips:
            rest = shifted_times(d.lips, d.board_shift)
            board_BTD = lip_sync(
                board_BTD, x_BND, mask_BN, g,
                lambda x, m, g: chosen(script.led(g, x[:, g.board]), x, m, shifted_times(d.lips, d.shift), watch),
                lambda x, m: draw_board(script.drawing, x, m, g, noise_BKTD[:, 0], chosen, rest, watch),
            )  # fmt: skip
        given = held_T is not None and bool(held_T.all())  # a picture that is not painted is not smeared
        return at_instants(timed(board_BTD), 0.0 if given else d.hit_delay)

    def _given_picture(self, strip: Latents) -> tuple[Callable[[Tensor], Tensor], Tensor] | None:
        """Where a part of the picture is given: how badly a storyboard explains it, (N, T, D) → (N, T), and of which
        tokens anything is given, (T,) bool; N is B or a multiple, with B the fastest. See `read_board`.

        The picture that the storyboard alone lets expect, at noise level 1, is compared with that which is given.
        """
        g, denoiser = strip.geometry, self._model[0]
        given_BTN = (strip.mask_BN[:, g.video] == 0).view(len(strip.mask_BN), g.latents, -1)
        share_BT = given_BTN.float().mean(-1)
        if not bool(given_BTN.any()):
            return None
        short = Geometry(g.latents, g.height, g.width, boards=g.latents)
        wanted_BND, B = strip.values_BND[:, g.video], len(strip.mask_BN)

        def explain(board_NTD: Tensor) -> Tensor:
            N, T, _ = board_NTD.shape
            t_NM = torch.cat([wanted_BND.new_ones(N, g.n_video), wanted_BND.new_zeros(N, T)], dim=1)
            x_NMD = torch.cat([torch.zeros_like(wanted_BND).repeat(N // B, 1, 1), board_NTD], dim=1)
            error_NVD = denoiser.paint(x_NMD, t_NM, short) - wanted_BND.repeat(N // B, 1, 1)
            error_NTN = error_NVD.square().mean(-1).view(N, T, -1) * given_BTN.repeat(N // B, 1, 1)
            return error_NTN.mean(-1) / share_BT.clamp(min=1e-6).repeat(N // B, 1)

        return explain, (share_BT > 0.5).any(0) if bool((share_BT > 0.5).any()) else (share_BT > 0).any(0)

    def _tokens(self, prompt: str, negative: str) -> int:
        """How many tokens a prompt and its negative one are filled up to."""
        return trim(*self.tokenizer.encode([prompt, negative]))[0].shape[1]

    def _ids(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, mask = self.tokenizer.encode(list(prompts))
        return ids.to(self.device), mask.to(self.device)

    def _decode(
        self,
        made: Latents,
        keep_from: int,
        request: Request,
        given: dict[str, Clip],
        images: dict[End, Clip],
        before: np.ndarray | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Frames and samples from video latent `keep_from` on; what is given and binds wholly is passed through.

        before: the frame (H, W, 3) that they follow. What the codec changes of it is a jump, which fades away; so does
        what it changes of given images, so that the first and the last frame are those images.
        """
        video_z, audio_z, _ = latents.unpack(made)
        assert video_z is not None
        if request.picture:
            yield self.codec.decode(video_z, picture=True).frames, None
            return
        bound = given.keys() - {condition.role for condition in request.conditions if condition.strength < 1}
        images = {edge: image for edge, image in images.items() if edge in bound}
        for edge, image in images.items():
            video_z = anchor(self.codec.video, video_z, torch.from_numpy(image.frames[:1]), edge)
        count = latents.frames_from_latents(made.geometry.latents)
        first = latents.frames_from_latents(keep_from)
        shown = exactly(given["video"], count).frames if "video" in bound else None
        heard = exactly(given["audio"], count).audio if "audio" in bound else None
        anew = free_tokens(given["mask"], *request.pixels) if "mask" in given else None
        at = 0
        jump: np.ndarray | None = None  # what the frame `beside` the made ones lost in the codec
        beside = first - 1
        pieces: Iterable[Clip] = self.codec.decode_stream(video_z, audio_z)
        ending: np.ndarray | None = None  # likewise of the last image, which is known when all is decoded
        if "last" in images:
            pieces = list(pieces)
            ending = images["last"].frames[0].astype(np.float32) - pieces[-1].frames[-1]
        for piece in pieces:
            assert piece.audio is not None
            frames, samples = piece.frames, piece.audio.samples
            start, end = at, at + len(frames)
            at = end
            if before is not None and start < first <= end:
                jump = before.astype(np.float32) - frames[first - start - 1]
            if end <= first:
                continue
            skip = max(0, first - start)
            if "first" in images and start == 0:
                jump, beside = images["first"].frames[0].astype(np.float32) - frames[0], 0
            if jump is not None:
                frames = _faded(frames, jump, start - beside)
            if ending is not None:
                frames = _faded(frames[::-1], ending, count - end)[::-1]
            if shown is not None:
                frames = shown[start:end] if anew is None else composed(shown[start:end], frames, anew)
            if heard is not None:
                samples = heard.samples[:, latents.samples_from_frames(start) : latents.samples_from_frames(end)]
            yield frames[skip:], samples[:, latents.samples_from_frames(skip) :]


def _faded(frames: np.ndarray, jump: np.ndarray, after: int) -> np.ndarray:
    """Frames (T, H, W, 3) with what is left of a jump (H, W, 3) of grey values; the first is `after` frames behind.

    It fades as half a cosine, which begins gently: an exponential would change most in its first step, at the seam.
    """
    share = np.clip((after + np.arange(len(frames))) / FADE, 0, 1)[:, None, None, None]
    left = 0.5 + 0.5 * np.cos(np.pi * share)
    faded: np.ndarray = (frames + left * jump).round().clip(0, 255).astype(np.uint8)
    return faded


def images_of(given: Mapping[str, Clip], past: Sequence[Clip], frames_left: int) -> dict[End, Clip]:
    """The images that bind a part: the first one where nothing is past, the last one where the clip ends."""
    longest = latents.frames_from_latents(LONGEST - (CONTEXT if past else 0))
    binds = {"first": not past, "last": frames_left <= longest}
    return {end: given[end] for end in ENDS if end in given and binds[end]}


def _context(past: Clip, frames_left: int) -> int:
    """How many video latents of what is past a strip begins with: as many as it has room for. How a clip begins tells
    how it goes on, and a strip of which the first half is given is what the model was trained on."""
    return max(
        CONTEXT, min(len(past.frames) // latents.FRAMES_PER_LATENT, LONGEST - latents.latents_from_frames(frames_left))
    )


def _sound_tokens(audio_z: Tensor) -> Tensor:
    pad = latents.TOKEN_WIDTH - latents.AUDIO_CHANNELS
    return torch.nn.functional.pad(audio_z.transpose(1, 2), (0, pad))


def exactly(clip: Clip, frames: int) -> Clip:
    """Cut, or prolonged by its last frame and silence."""
    kept = clip.frames[:frames]
    if len(kept) < frames:
        kept = np.concatenate([kept, np.repeat(kept[-1:], frames - len(kept), 0)])
    audio = None
    if clip.audio is not None:
        need = latents.samples_from_frames(frames)
        samples = clip.audio.samples[:1, :need]
        audio = Audio(np.pad(samples, ((0, 0), (0, need - samples.shape[1]))), NATIVE_RATE)
    return Clip(kept, NATIVE_FPS, audio)


def _tail(clip: Clip, frames: int) -> Clip:
    audio = None
    if clip.audio is not None:
        end = latents.samples_from_frames(len(clip.frames))
        samples = clip.audio.samples[:1, :end]
        samples = np.pad(samples, ((0, 0), (0, end - samples.shape[1])))
        audio = Audio(np.ascontiguousarray(samples[:, -latents.samples_from_frames(frames) :]), NATIVE_RATE)
    return Clip(clip.frames[-frames:], NATIVE_FPS, audio)
