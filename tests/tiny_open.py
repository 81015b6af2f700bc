"""Tiny random checkpoints of open video models, saved the way the published ones are.

`TINY[key](folder)` writes a checkpoint of a few MB that `DiffusionPipeline.from_pretrained(folder)` (for
MiniMax H3 `ModularPipeline.from_pretrained(folder)`) loads with no network; `CALLS[key]` are the smallest arguments
for the call of the loaded pipeline. The weights are noise and always the same; the compression of space, time and
sound is that of the published models wherever a tiny network can have it, so the rules for sizes and lengths hold.

This module has the models with sound and the pieces both share; `tiny_open_silent` has the others, and `TINY` and
`CALLS` here hold them all.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PROMPT = "a robot dancing in the rain"

TINY: dict[str, Callable[[Path], None]] = {}
CALLS: dict[str, dict[str, Any]] = {}

# Every sequence of messages as <|im_start|>role\ncontent<|im_end|>, images and videos as their pads.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}"
    "{% else %}{{ '<|vision_start|><|' + part.type + '_pad|><|vision_end|>' }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

QWEN_SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
QWEN_VOCABULARY = 2048


def tiny(key: str, **call: Any) -> Callable[[Callable[[], Any]], Callable[[Path], None]]:
    """Register a function that builds a pipeline as the checkpoint `key`, with the arguments of its call."""

    def register(build: Callable[[], Any]) -> Callable[[Path], None]:
        @functools.wraps(build)
        def save(folder: Path) -> None:
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*weight_norm.* is deprecated")
                torch.manual_seed(0)
                pipeline = build()
            index = folder / "modular_model_index.json"
            if not hasattr(pipeline, "load_components"):
                pipeline.save_pretrained(folder)
                return
            # A published index names the repository, and what lies beside the index is loaded from there nonetheless.
            pipeline.save_pretrained(str(folder), overwrite_modular_index=True)
            index.write_text(index.read_text().replace(json.dumps(str(folder)), json.dumps(f"tiny-random/{key}")))

        TINY[key] = save
        CALLS[key] = {"prompt": PROMPT, **call}
        return save

    return register


def shelf(
    folder: Callable[[str], Path], finish: Callable[[str, Path], None] = lambda *_: None
) -> Callable[[str], Path]:
    """A checkpoint by key, made once. folder: a new one by name; finish: called with each that is made."""
    made: dict[str, Path] = {}

    def find(key: str) -> Path:
        if key not in made:
            made[key] = folder("open") / key
            TINY[key](made[key])
            finish(key, made[key])
        return made[key]

    return find


def lively(model: Any, gain: float = 1.0) -> Any:
    """Weights that pass a signal on at `gain` times the strength that it came with, and no bias to drown it."""
    with torch.no_grad():
        for module in model.modules():
            weight = getattr(module, "weight_v", getattr(module, "weight", None))
            if not isinstance(weight, torch.nn.Parameter) or weight.ndim < 2:
                continue
            inputs = weight[0].numel()
            if isinstance(module, torch.nn.ConvTranspose1d):
                inputs = weight.shape[0] * weight.shape[2] // module.stride[0]
            weight.normal_(std=gain * inputs**-0.5)
            if hasattr(module, "weight_g"):
                module.weight_g.copy_(weight.flatten(1).norm(dim=1).view_as(module.weight_g))
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
    return model


def alphabet() -> list[str]:
    """The 256 characters that stand for bytes in a byte-level tokenizer, in a fixed order."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def qwen_tokenizer(text: str = "") -> Any:
    """A byte-level Qwen2 tokenizer in which the words of `text` are tokens of their own."""
    from transformers import Qwen2Tokenizer

    vocab = {character: i for i, character in enumerate(alphabet())}
    merges = []

    def merge(left: str, right: str) -> None:
        if left + right not in vocab:
            vocab[left + right] = len(vocab)
            merges.append((left, right))

    for length in (1, 2, 4):
        merge("Ġ" * length, "Ġ" * length)
    words = re.findall("[A-Za-z]+", text)
    for word in [*("Ġ" + word for word in words), *words]:
        for end in range(1, len(word)):
            merge(word[:end], word[end])
    special = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, model_max_length=8192, extra_special_tokens=special)
    tokenizer.add_special_tokens({"additional_special_tokens": list(QWEN_SPECIALS)}, replace_extra_special_tokens=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    if len(tokenizer) > QWEN_VOCABULARY:
        raise ValueError(f"{len(tokenizer)} tokens do not fit into {QWEN_VOCABULARY}")
    return tokenizer


def qwen_processor(name: str, tokenizer: Any, patch: int) -> Any:
    """The processor `name` of Qwen-VL; it needs torchvision, so without that one of the same calls and no video."""
    import transformers

    image = transformers.Qwen2VLImageProcessor(
        patch_size=patch, size={"shortest_edge": (2 * patch) ** 2, "longest_edge": (4 * patch) ** 2}
    )
    if importlib.util.find_spec("torchvision") is None:
        return transformers.PaddleOCRVLProcessor(image, tokenizer, chat_template=CHAT_TEMPLATE)
    video = getattr(transformers, name.replace("Processor", "VideoProcessor").replace("2_5", "2"))(patch_size=patch)
    return getattr(transformers, name)(image, tokenizer, video, chat_template=CHAT_TEMPLATE)


def gemma_tokenizer(length: int = 1024) -> Any:
    """A Gemma tokenizer of the printable characters, other bytes by fallback."""
    from transformers import GemmaTokenizer

    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    tokens += ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)] + ["▁", *(chr(code) for code in range(33, 127))]
    return GemmaTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=length)


def t5_tokenizer() -> Any:
    """A T5 tokenizer of the printable characters."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(chr(code), -3.0) for code in range(33, 127)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def clip_tokenizer() -> Any:
    """A CLIP tokenizer of single bytes."""
    from transformers import CLIPTokenizer

    tokens = ["<|startoftext|>", "<|endoftext|>", *alphabet(), *(character + "</w>" for character in alphabet())]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def wan_vae(**changes: Any) -> Any:
    """The causal video autoencoder of Wan: 8 pixels and 4 frames to a latent."""
    from diffusers import AutoencoderKLWan

    config = {"base_dim": 3, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    return AutoencoderKLWan(**{**config, "temperal_downsample": [False, True, True], **changes}).eval()


def qwen_ids(tokenizer: Any) -> dict[str, int]:
    """The ids of the special tokens as a Qwen-VL config names them."""
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


def qwen_text(tokenizer: Any, **changes: Any) -> dict[str, Any]:
    """The text half of a Qwen-VL config."""
    return {
        "vocab_size": QWEN_VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **changes,
    }


@tiny(
    "ltx2",
    height=64,
    width=64,
    num_frames=9,
    frame_rate=24.0,
    num_inference_steps=2,
    guidance_scale=1.0,
    stg_scale=0.0,
    modality_scale=1.0,
    audio_guidance_scale=1.0,
    audio_stg_scale=0.0,
    audio_modality_scale=1.0,
    max_sequence_length=128,
)
def ltx2() -> Any:
    """LTX-2: picture and stereo sound at 24 kHz; serves the pipelines with an image and with conditions as well."""
    from diffusers import (
        AutoencoderKLLTX2Audio,
        AutoencoderKLLTX2Video,
        FlowMatchEulerDiscreteScheduler,
        LTX2Pipeline,
        LTX2VideoTransformer3DModel,
    )
    from diffusers.pipelines.ltx2 import LTX2TextConnectors
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    tokenizer = gemma_tokenizer()
    text_encoder = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config={
                "vocab_size": 512,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 8,
                "query_pre_attn_scalar": 8,
            },
            vision_config={
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 8,
                "patch_size": 4,
            },
            mm_tokens_per_image=4,
            boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
            eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
            image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        )
    )
    transformer = LTX2VideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=8,
        audio_out_channels=8,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        caption_channels=16,
        rope_double_precision=False,
        rope_type="split",
    )
    connectors = LTX2TextConnectors(
        caption_channels=16,
        text_proj_in_factor=3,
        video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=8,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None,
        connector_rope_base_seq_len=32,
        rope_theta=10000.0,
        rope_double_precision=False,
        causal_temporal_positioning=False,
        rope_type="split",
    )
    vae = AutoencoderKLLTX2Video(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        decoder_causal=False,
        decoder_spatial_padding_mode="zeros",
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )
    audio_vae = lively(
        AutoencoderKLLTX2Audio(
            base_channels=8, ch_mult=(1, 1, 1), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=16
        )
    )
    vocoder = lively(
        LTX2Vocoder(
            in_channels=32,
            hidden_channels=32,
            upsample_kernel_sizes=[16, 15, 16],
            upsample_factors=[6, 5, 8],
            resnet_kernel_sizes=[3],
            resnet_dilations=[[1, 3, 5]],
        )
    )
    return LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        audio_vae=audio_vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        connectors=connectors,
        transformer=transformer,
        vocoder=vocoder,
    )


@tiny(
    "kandinsky6",
    height=32,
    width=32,
    num_frames=5,
    frame_rate=24.0,
    num_inference_steps=2,
    guidance_scale=1.0,
    max_sequence_length=64,
)
def kandinsky6() -> Any:
    """Kandinsky 6: picture from words and an optional image, mono sound at 44.1 kHz."""
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        Kandinsky6TI2VAPipeline,
        Kandinsky6Transformer3DModel,
        MMAudioVAE,
        MMAudioVocoder,
    )
    from diffusers.pipelines.kandinsky6 import pipeline_kandinsky6_ti2va
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
    )

    tokenizer = qwen_tokenizer(pipeline_kandinsky6_ti2va._PROMPT_TEMPLATE)
    text_encoder = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=qwen_text(tokenizer),
            vision_config={
                "depth": 1,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_heads": 2,
                "out_hidden_size": 16,
                "fullatt_block_indexes": [0],
            },
            **qwen_ids(tokenizer),
        )
    )
    processor = qwen_processor("Qwen2_5_VLProcessor", tokenizer, 14)
    words = clip_tokenizer()
    text_encoder_2 = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )
    transformer = Kandinsky6Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=16,
        time_dim=16,
        model_dim=24,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(4, 4, 4),
        in_audio_dim=4,
        out_audio_dim=4,
        visual_token_type_num_embeddings=2,
    )
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )
    audio_vae = lively(
        MMAudioVAE(
            mel_bins=16, latent_channels=4, hidden_channels=16, channel_multipliers=(1, 1, 1), layers_per_block=1
        )
    )
    vocoder = lively(
        MMAudioVocoder(
            num_mels=16,
            upsample_initial_channel=16,
            upsample_rates=(8, 8, 8),
            upsample_kernel_sizes=(16, 16, 16),
            resblock_kernel_sizes=(3,),
            resblock_dilation_sizes=((1, 3, 5),),
        ),
        gain=0.6,
    )
    return Kandinsky6TI2VAPipeline(
        transformer=transformer,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=processor,
        text_encoder_2=text_encoder_2,
        tokenizer_2=words,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        audio_vae=audio_vae,
        vocoder=vocoder,
    )


@tiny(
    "cosmos3",
    height=32,
    width=32,
    num_frames=5,
    fps=24.0,
    num_inference_steps=2,
    guidance_scale=1.0,
    enable_sound=True,
)
def cosmos3() -> Any:
    """Cosmos 3 Omni: picture from words, an image or a video, stereo sound at 48 kHz, no safety checker."""
    from diffusers import Cosmos3OmniPipeline, Cosmos3OmniTransformer, UniPCMultistepScheduler
    from diffusers.models.autoencoders.autoencoder_cosmos3_audio import Cosmos3AVAEAudioTokenizer

    transformer = Cosmos3OmniTransformer(
        head_dim=6,
        hidden_size=12,
        intermediate_size=12,
        latent_channel=16,
        latent_patch_size=2,
        patch_latent_dim=64,
        num_attention_heads=2,
        num_hidden_layers=1,
        num_key_value_heads=1,
        rope_axes_dim=[1, 1, 1],
        sound_dim=4,
        sound_gen=True,
        vocab_size=QWEN_VOCABULARY,
    )
    sound_tokenizer = lively(
        Cosmos3AVAEAudioTokenizer(vocoder_input_dim=4, dec_dim=4, dec_c_mults=(1, 1, 1, 1, 1), encoder_enabled=False),
        gain=0.55,
    )
    return Cosmos3OmniPipeline(
        transformer=transformer,
        text_tokenizer=qwen_tokenizer(),
        vae=wan_vae(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
        sound_tokenizer=sound_tokenizer,
        enable_safety_checker=False,
    )


@tiny("minimax-h3", height=32, width=32, num_frames=124, num_inference_steps=2)
def minimax_h3() -> Any:
    """MiniMax H3: modular only, at least 5 seconds at 24 frames per second, stereo sound at 32 kHz."""
    from diffusers import (
        AutoencoderKLMiniMaxH3,
        AutoencoderKLMiniMaxH3Audio,
        MiniMaxH3Scheduler,
        MiniMaxH3Transformer3DModel,
    )
    from diffusers.modular_pipelines import MiniMaxH3Blocks
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    tokenizer = qwen_tokenizer()
    # The transformer reads hidden state 50, so there must be 51 layers.
    text_encoder = Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            text_config=qwen_text(tokenizer, hidden_size=8, intermediate_size=8, head_dim=8, num_hidden_layers=51),
            vision_config={
                "depth": 1,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_heads": 2,
                "out_hidden_size": 8,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
            **qwen_ids(tokenizer),
        ),
    )
    transformer = {
        name: MiniMaxH3Transformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            hidden_size=24,
            num_layers=1,
            num_refiner_layers=1,
            ffn_dim=32,
            in_channels=4,
            audio_in_channels=6,
            text_dim=8,
            freq_dim=8,
            time_embed_hidden_dim=24,
            time_embed_dim=16,
            rope_freq_dim=2,
        )
        for name in ("transformer", "transformer_ref")
    }
    vae = AutoencoderKLMiniMaxH3(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        spatial_downsample_factors=(2, 2, 2, 2),
        temporal_downsample_factors=(1, 2, 2, 1),
        norm_num_groups=4,
        decoder_num_layers=1,
        decoder_num_attention_heads=2,
        decoder_attention_head_dim=8,
        decoder_num_register_tokens=2,
        decoder_ffn_mult=2,
        latents_mean=(0.0,) * 4,
        latents_std=(1.0,) * 4,
    )
    audio_vae = lively(
        AutoencoderKLMiniMaxH3Audio(
            encoder_dim=2,
            latent_dim=24,
            latent_channels=6,
            num_attention_heads=2,
            decoder_dim=32,
            decoder_rates=(5, 5, 4, 4, 2),
            decoder_kernel_sizes=(9, 9, 8, 8, 4),
            resblock_kernel_sizes=(3,),
            resblock_dilation_sizes=((1, 3),),
            latents_mean=[0.0] * 6,
            latents_std=[1.0] * 6,
        ),
        gain=0.6,
    )
    pipeline = MiniMaxH3Blocks().init_pipeline()
    pipeline.update_components(
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        processor=qwen_processor("Qwen3VLProcessor", tokenizer, 16),
        scheduler=MiniMaxH3Scheduler(shift=12.0),
        audio_scheduler=MiniMaxH3Scheduler(shift=3.0),
        vae=vae,
        audio_vae=audio_vae,
        **transformer,
    )
    return pipeline


import tiny_open_silent  # noqa: E402, F401  (it registers its models here, and takes the pieces above)
