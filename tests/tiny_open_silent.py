"""Tiny random checkpoints of the open video models that are silent; `tiny_open` says more and collects them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from tiny_open import gemma_tokenizer, lively, qwen_text, qwen_tokenizer, t5_tokenizer, tiny, wan_vae


def t5_encoder(**changes: Any) -> Any:
    """A T5 encoder of width 32."""
    from transformers import T5Config, T5EncoderModel

    config = {"vocab_size": 256, "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4}
    return T5EncoderModel(T5Config(**{**config, "dropout_rate": 0.0, **changes}))


def umt5_encoder() -> Any:
    """A UMT5 encoder of width 32, as the family of Wan has it."""
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(
        UMT5Config(vocab_size=256, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4, dropout_rate=0.0)
    )


def wan_transformer(kind: str = "WanTransformer3DModel", **changes: Any) -> Any:
    """A transformer of Wan or of a model that was made from it."""
    import diffusers

    config = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 32,
        "freq_dim": 32,
        "ffn_dim": 32,
        "num_layers": 2,
        "rope_max_seq_len": 64,
    }
    return lively(getattr(diffusers, kind)(**{**config, **changes}))


def clip_vision() -> dict[str, Any]:
    """The image encoder of the image-to-video models of Wan and SkyReels with its processor."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4
    )
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return {"image_encoder": CLIPVisionModel(config), "image_processor": processor}


def wan_parts(shift: float = 3.0) -> dict[str, Any]:
    """What the family of Wan has in common: text, autoencoder, scheduler."""
    from diffusers import UniPCMultistepScheduler

    return {
        "tokenizer": t5_tokenizer(),
        "text_encoder": umt5_encoder(),
        "vae": wan_vae(),
        "scheduler": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift),
    }


SMALL = {"height": 32, "width": 32, "num_inference_steps": 2}


@tiny("wan", **SMALL, num_frames=5, guidance_scale=1.0)
def wan() -> Any:
    """Wan 2.1 from words."""
    from diffusers import WanPipeline

    return WanPipeline(transformer=wan_transformer(), **wan_parts())


@tiny("wan2.2", **SMALL, num_frames=5, guidance_scale=1.0)
def wan22() -> Any:
    """Wan 2.2 from words: one transformer for the noisy steps, another for the clean ones."""
    from diffusers import WanPipeline

    return WanPipeline(
        transformer=wan_transformer(), transformer_2=wan_transformer(), boundary_ratio=0.875, **wan_parts()
    )


@tiny("wan-i2v", **SMALL, num_frames=5, guidance_scale=1.0, image="image")
def wan_i2v() -> Any:
    """Wan 2.1 from a first image, which its image encoder sees as well."""
    from diffusers import WanImageToVideoPipeline

    transformer = wan_transformer(in_channels=36, image_dim=8, added_kv_proj_dim=24)
    return WanImageToVideoPipeline(transformer=transformer, **wan_parts(), **clip_vision())


@tiny("wan2.2-i2v", **SMALL, num_frames=5, guidance_scale=1.0, image="image", last_image="image")
def wan22_i2v() -> Any:
    """Wan 2.2 from a first image and, if given, a last one; without an image encoder."""
    from diffusers import WanImageToVideoPipeline

    return WanImageToVideoPipeline(
        transformer=wan_transformer(in_channels=36),
        transformer_2=wan_transformer(in_channels=36),
        image_encoder=None,
        image_processor=None,
        boundary_ratio=0.9,
        **wan_parts(),
    )


@tiny("wan-vace", **SMALL, num_frames=5, guidance_scale=1.0)
def wan_vace() -> Any:
    """Wan VACE: words with any of a video, a mask of what to change in it, and reference images."""
    from diffusers import WanVACEPipeline

    transformer = wan_transformer("WanVACETransformer3DModel", num_layers=3, vace_layers=[0, 2], vace_in_channels=96)
    return WanVACEPipeline(transformer=transformer, **wan_parts())


@tiny("skyreels-v2", **SMALL, num_frames=5, guidance_scale=1.0)
def skyreels_v2() -> Any:
    """SkyReels V2 from words."""
    from diffusers import SkyReelsV2Pipeline

    return SkyReelsV2Pipeline(transformer=wan_transformer("SkyReelsV2Transformer3DModel"), **wan_parts(8.0))


@tiny("skyreels-v2-i2v", **SMALL, num_frames=5, guidance_scale=1.0, image="image")
def skyreels_v2_i2v() -> Any:
    """SkyReels V2 from a first image."""
    from diffusers import SkyReelsV2ImageToVideoPipeline
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    parts = {**wan_parts(5.0), **clip_vision()}
    config = CLIPVisionConfig(**parts["image_encoder"].config.to_dict())
    parts["image_encoder"] = CLIPVisionModelWithProjection(config)
    transformer = wan_transformer("SkyReelsV2Transformer3DModel", in_channels=36, image_dim=8, added_kv_proj_dim=24)
    return SkyReelsV2ImageToVideoPipeline(transformer=transformer, **parts)


@tiny("skyreels-v2-df", **SMALL, num_frames=5, guidance_scale=1.0)
def skyreels_v2_df() -> Any:
    """SkyReels V2 with diffusion forcing, which makes long videos in overlapping pieces."""
    from diffusers import SkyReelsV2DiffusionForcingPipeline

    transformer = wan_transformer("SkyReelsV2Transformer3DModel", inject_sample_info=True)
    return SkyReelsV2DiffusionForcingPipeline(transformer=transformer, **wan_parts(8.0))


@tiny("helios", **SMALL, num_frames=33, guidance_scale=1.0)
def helios() -> Any:
    """Helios, which makes videos in chunks of 33 frames from words, an image or a video."""
    from diffusers import HeliosPipeline, HeliosScheduler, HeliosTransformer3DModel

    transformer = HeliosTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_dim=(4, 4, 4),
        has_multi_term_memory_patch=True,
        guidance_cross_attn=True,
        zero_history_timestep=True,
        is_amplify_history=False,
    )
    scheduler = HeliosScheduler(stage_range=[0, 1], stages=1, use_dynamic_shifting=True)
    return HeliosPipeline(**{**wan_parts(), "scheduler": scheduler, "transformer": transformer})


@tiny("ltx", height=64, width=64, num_frames=9, num_inference_steps=2, guidance_scale=1.0)
def ltx() -> Any:
    """LTX Video from words; serves its pipelines with an image and with conditions as well."""
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )

    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )
    return LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
        transformer=transformer,
    )


def cogvideox_parts(in_channels: int, **changes: Any) -> dict[str, Any]:
    """The parts of a CogVideoX pipeline; the transformer knows one size of 32 by 32 pixels."""
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel

    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=in_channels,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=1,
        sample_width=4,
        sample_height=4,
        sample_frames=9,
        max_text_seq_length=226,
        use_rotary_positional_embeddings=True,
        **changes,
    )
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2
    )
    scheduler = CogVideoXDDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
    parts = {"tokenizer": t5_tokenizer(), "text_encoder": t5_encoder(), "scheduler": scheduler}
    return {**parts, "transformer": transformer, "vae": vae}


@tiny("cogvideox", **SMALL, num_frames=9, guidance_scale=1.0)
def cogvideox() -> Any:
    """CogVideoX from words."""
    from diffusers import CogVideoXPipeline

    return CogVideoXPipeline(**cogvideox_parts(4))


@tiny("cogvideox-i2v", **SMALL, num_frames=9, guidance_scale=1.0, image="image")
def cogvideox_i2v() -> Any:
    """CogVideoX from a first image, at the one size that its learned positions have."""
    from diffusers import CogVideoXImageToVideoPipeline

    return CogVideoXImageToVideoPipeline(**cogvideox_parts(8, use_learned_positional_embeddings=True))


@tiny("mochi", **SMALL, num_frames=7, guidance_scale=1.0)
def mochi() -> Any:
    """Mochi 1 from words."""
    from diffusers import (
        AutoencoderKLMochi,
        FlowMatchEulerDiscreteScheduler,
        MochiPipeline,
        MochiTransformer3DModel,
    )

    transformer = MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        text_embed_dim=32,
        time_embed_dim=4,
    )
    vae = AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    return MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=vae,
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
        transformer=transformer,
        force_zeros_for_empty_prompt=True,
    )


def hunyuan_parts(task: str) -> dict[str, Any]:
    """The parts of a HunyuanVideo 1.5 pipeline."""
    from diffusers import (
        AutoencoderKLHunyuanVideo15,
        ClassifierFreeGuidance,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideo15Pipeline,
        HunyuanVideo15Transformer3DModel,
    )
    from transformers import ByT5Tokenizer, Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel

    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=16,
        text_embed_2_dim=32,
        image_embed_dim=8,
        rope_axes_dim=(2, 2, 4),
        target_size=32,
        task_type=task,
    ).to(torch.bfloat16)  # 4 million weights between the two text encoders have one size only
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8, 8),
        layers_per_block=1,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    words = inspect.signature(HunyuanVideo15Pipeline._get_mllm_prompt_embeds).parameters["system_message"].default
    tokenizer = qwen_tokenizer(words)
    return {
        "text_encoder": Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**qwen_text(tokenizer, num_hidden_layers=3))),
        "tokenizer": tokenizer,
        "transformer": transformer,
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "text_encoder_2": t5_encoder(vocab_size=384),
        "tokenizer_2": ByT5Tokenizer(),
        "guider": ClassifierFreeGuidance(guidance_scale=1.0),
    }


@tiny("hunyuan-video-1.5", **SMALL, num_frames=5)
def hunyuan_video15() -> Any:
    """HunyuanVideo 1.5 from words; the scale of guidance belongs to its guider, not to the call."""
    from diffusers import HunyuanVideo15Pipeline

    return HunyuanVideo15Pipeline(**hunyuan_parts("t2v"))


@tiny("hunyuan-video-1.5-i2v", num_frames=5, num_inference_steps=2, image="image")
def hunyuan_video15_i2v() -> Any:
    """HunyuanVideo 1.5 from a first image, whose shape decides the size of the video."""
    from diffusers import HunyuanVideo15ImageToVideoPipeline
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=27, patch_size=1
    )
    return HunyuanVideo15ImageToVideoPipeline(
        image_encoder=SiglipVisionModel(config),
        feature_extractor=SiglipImageProcessor(size={"height": 27, "width": 27}),
        **hunyuan_parts("i2v"),
    )


def sana_parts() -> dict[str, Any]:
    """The parts of a SANA-Video pipeline but for the scheduler."""
    from diffusers import SanaVideoTransformer3DModel
    from transformers import Gemma2Config, Gemma2Model

    text_encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=512,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            query_pre_attn_scalar=8,
        )
    )
    transformer = SanaVideoTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=8,
        mlp_ratio=2.5,
        sample_size=8,
        rope_max_seq_len=64,
    )
    return {
        "tokenizer": gemma_tokenizer(8192),
        "text_encoder": text_encoder,
        "vae": wan_vae(),
        "transformer": transformer,
    }


@tiny("sana-video", **SMALL, frames=5, guidance_scale=1.0, use_resolution_binning=False)
def sana_video() -> Any:
    """SANA-Video from words."""
    from diffusers import DPMSolverMultistepScheduler, SanaVideoPipeline

    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0)
    return SanaVideoPipeline(scheduler=scheduler, **sana_parts())


@tiny("sana-video-i2v", **SMALL, frames=5, guidance_scale=1.0, use_resolution_binning=False, image="image")
def sana_video_i2v() -> Any:
    """SANA-Video from a first image."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SanaImageToVideoPipeline

    return SanaImageToVideoPipeline(scheduler=FlowMatchEulerDiscreteScheduler(shift=8.0), **sana_parts())
