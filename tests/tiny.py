"""A folder of weights that are tiny and random: everything of the real loading and sampling, little of its cost."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from phonofilm import checkpoint
from phonofilm.codec.audio import AudioCodec, AudioCodecConfig
from phonofilm.codec.codec import Codec
from phonofilm.codec.video import VideoCodec, VideoCodecConfig
from phonofilm.engines.native import SAMPLING_FILE
from phonofilm.model.denoiser import Denoiser, DenoiserConfig
from phonofilm.model.timer import Timer, TimerConfig
from phonofilm.text.encoder import TextEncoder, TextEncoderConfig
from phonofilm.text.matcher import Matcher, MatcherConfig
from phonofilm.text.tokenizer import Tokenizer, train_tokenizer

TINY = (16, 16, 16)
# few of all, but all that there is
SAMPLING = {"steps": 4, "boards": 3, "lips": 2, "drafts": 2, "rounds": 2, "particles": 2}


def make_weights(folder: Path, seed: int = 0) -> Path:
    """Write codec, tokenizer, denoiser, timer, matcher and how they are sampled; returns the folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = Codec(
            VideoCodec(VideoCodecConfig(encoder_widths=TINY, decoder_widths=TINY, decoder_blocks=(1, 1, 1))),
            AudioCodec(AudioCodecConfig(encoder_widths=TINY, decoder_widths=TINY, decoder_blocks=(1, 1, 1))),
        )
        folder.mkdir(parents=True, exist_ok=True)
        codec.save(folder)
        train_tokenizer(["a red ball bounces", 'a woman says "hello"'], 320).save(folder / "tokenizer.json")
        size = Tokenizer.load(folder / "tokenizer.json").size
        config = DenoiserConfig(width=64, blocks=2, text_width=32, detail=16, detail_blocks=1, reader=16)
        text = TextEncoderConfig(size, width=32, layers=1, heads=2)
        denoiser, encoder = Denoiser(config), TextEncoder(text)
        for parameter in denoiser.parameters():  # outputs start at zero; a test wants something to see
            if not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.05)
        tensors = {f"denoiser.{k}": v for k, v in denoiser.state_dict().items()}
        tensors |= {f"text.{k}": v for k, v in encoder.state_dict().items()}
        checkpoint.save(
            folder / "denoiser.safetensors", tensors, kind="denoiser", storage="bf16",
            config={"denoiser": asdict(config), "text": asdict(text)},
        )  # fmt: skip
        wide = MatcherConfig(size, width=64, text_layers=1, strip_layers=1, heads=2, embedding=16)
        checkpoint.save(folder / "matcher.safetensors", Matcher(wide).state_dict(), kind="matcher", config=asdict(wide))
        small = TimerConfig(width=16, blocks=1)
        checkpoint.save(folder / "timer.safetensors", Timer(small).state_dict(), kind="timer", config=asdict(small))
        (folder / SAMPLING_FILE).write_text(json.dumps(SAMPLING))
    return folder
