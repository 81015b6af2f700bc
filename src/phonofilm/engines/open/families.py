"""What the families of open models can do, and how a `Request` becomes the call of a pipeline: declarations, no code.

A family has groups of ways; the ways of a group share their weights, so that a checkpoint saved for one of them serves
all. Facts are those of the published pipelines and model cards (diffusers 0.42).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True)
class Way:
    """A pipeline class, and how it takes what is given.

    roles: condition → how it is passed, a name of `fill.FILLS`. needs: conditions without which it does not work.
    unless: condition → (a, b), it lacks in checkpoints whose transformer is configured with a but not with b.
    """

    pipeline: str
    roles: Mapping[str, str] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()
    unless: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """Models of one design.

    size: (width, height) in pixels that it was trained for; multiple: sides are multiples of it. frames: (stride,
    offset), it makes stride n + offset frames, from least to longest. fps: frames a second; `fps_name`: the argument
    that changes it, if one does. sound: where the pipeline's output has it, "" for silent ones; rate: where the loaded
    pipeline tells its sample rate. call: arguments that differ from the pipeline's own defaults.
    """

    name: str
    title: str
    groups: tuple[tuple[Way, ...], ...]
    size: tuple[int, int]
    frames: tuple[int, int]
    longest: int
    fps: float
    licence: str
    limits: str = ""  # of the licence, in a few words
    repositories: Mapping[str, float] = field(default_factory=dict)  # known ones, and their billions of parameters
    least: int = 1
    multiple: int = 16
    fps_name: str = ""
    frames_name: str = "num_frames"
    sound: str = ""
    rate: str = ""
    steps: int = 50
    guidance_name: str = "guidance_scale"  # "" where guidance is distilled or lies in a component
    negative: bool = True
    modular: bool = False
    shared: bool = False  # whether several GPUs can share out its steps
    mixed: bool = True  # whether the decoder may be float32 beside a bfloat16 transformer
    call: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ways(self) -> tuple[Way, ...]:
        return tuple(way for group in self.groups for way in group)

    @property
    def conditions(self) -> tuple[str, ...]:
        """All conditions that some checkpoint of this family takes."""
        return tuple(dict.fromkeys(role for way in self.ways for role in way.roles))

    def made(self, wanted: int) -> int:
        """The least number of frames that it makes which is not below `wanted`."""
        stride, offset = self.frames
        return max(self.least, max(0, -(-(wanted - offset) // stride)) * stride + offset)


IMAGE = {"first": "image"}
BOTH = {"first": "image", "last": "last_image"}
KEYFRAMES = {"first": "keyframe", "last": "keyframe", "continue": "keyframes"}
VACE = {"first": "vace", "last": "vace", "video": "vace", "mask": "vace", "reference": "references"}
FIRST = frozenset({"first"})
VIDEO = frozenset({"video"})
ENDLESS = {"last": ("image_dim", "pos_embed_seq_len")}  # their image encoder sees one image

FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "ltx-2", "LTX-2.x",
        ((Way("LTX2Pipeline"), Way("LTX2ConditionPipeline", KEYFRAMES), Way("LTX2ImageToVideoPipeline", IMAGE)),),
        (768, 512), (8, 1), 481, 24, "LTX-2.x Community License",
        "free below 10 million USD of revenue a year", {"Lightricks/LTX-2": 19, "Lightricks/LTX-2.5": 22},
        multiple=32, fps_name="frame_rate",
        sound="audio", rate="vocoder.config.output_sampling_rate", steps=30,
    ),
    Family(
        "minimax-h3", "MiniMax H3",
        ((Way("MiniMaxH3ModularPipeline", {"first": "image", "last": "last_image"}),),),
        (1344, 768), (17, 5), 345, 24, "MiniMax H3 Community License",
        "not for the EU, the UK, South Korea and the USA", {"MiniMaxAI/MiniMax-H3": 33}, least=124, multiple=32,
        sound="audio", rate="audio_sampling_rate", guidance_name="", negative=False, modular=True,
    ),
    Family(
        "cosmos-3", "Cosmos 3 omni",
        ((Way("Cosmos3OmniPipeline", {"first": "image", "video": "kept"}),),),
        (1280, 720), (4, 1), 189, 24, "see the model card", fps_name="fps",
        sound="sound", rate="sound_tokenizer.config.sampling_rate", steps=35,
        call={"enable_sound": True, "enable_safety_check": False},
    ),
    Family(
        "kandinsky-6", "Kandinsky 6", ((Way("Kandinsky6TI2VAPipeline", IMAGE),),),
        (768, 512), (4, 1), 121, 24, "see the model card", "",
        {"kandinskylab/Kandinsky-6.0-Pro-5s-Diffusers": 29}, fps_name="frame_rate",
        sound="audio", rate="audio_sample_rate",
    ),
    Family(
        "wan", "Wan 2.1 and 2.2",
        (
            (Way("WanPipeline"), Way("WanVideoToVideoPipeline", {"video": "video"}, VIDEO)),
            (Way("WanImageToVideoPipeline", BOTH, FIRST, ENDLESS),),
            (Way("WanVACEPipeline", VACE),),
        ),
        (832, 480), (4, 1), 121, 16, "Apache-2.0", "",
        {
            "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": 1.3, "Wan-AI/Wan2.1-T2V-14B-Diffusers": 14,
            "Wan-AI/Wan2.1-VACE-1.3B-diffusers": 1.3, "Wan-AI/Wan2.2-TI2V-5B-Diffusers": 5,
            "Wan-AI/Wan2.2-T2V-A14B-Diffusers": 27, "Wan-AI/Wan2.2-I2V-A14B-Diffusers": 27,
        },
        shared=True,
    ),
    Family(
        "hunyuan-video-1.5", "HunyuanVideo 1.5",
        ((Way("HunyuanVideo15Pipeline"),), (Way("HunyuanVideo15ImageToVideoPipeline", IMAGE, FIRST),)),
        (832, 480), (4, 1), 241, 24, "Tencent Hunyuan Community License", "not for the EU, the UK and South Korea",
        {"hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v": 8.3}, guidance_name="",
    ),
    Family(
        "ltx-video", "LTX-Video",
        ((Way("LTXPipeline"), Way("LTXConditionPipeline", KEYFRAMES), Way("LTXImageToVideoPipeline", IMAGE, FIRST)),),
        (704, 512), (8, 1), 257, 25, "LTXV Open Weights License", "",
        {"Lightricks/LTX-Video": 2}, multiple=32, fps_name="frame_rate",
    ),
    Family(
        "cogvideox", "CogVideoX",
        (
            (Way("CogVideoXPipeline"), Way("CogVideoXVideoToVideoPipeline", {"video": "video"}, VIDEO)),
            (Way("CogVideoXImageToVideoPipeline", IMAGE, FIRST),),
        ),
        (720, 480), (4, 1), 49, 8, "Apache-2.0 (2B), CogVideoX License (5B)", "",
        {"zai-org/CogVideoX-2b": 2, "zai-org/CogVideoX-5b": 5}, mixed=False,
    ),
    Family(
        "mochi", "Mochi 1", ((Way("MochiPipeline"),),), (848, 480), (6, 1), 163, 30, "Apache-2.0", "",
        {"genmo/mochi-1-preview": 10}, steps=64, mixed=False,
    ),
    Family(
        "sana-video", "SANA-Video",
        ((Way("SanaVideoPipeline"),), (Way("SanaImageToVideoPipeline", IMAGE, FIRST),)),
        (832, 480), (4, 1), 81, 16, "see the model card", "", {"Efficient-Large-Model/SANA-Video_2B_480p_diffusers": 2},
        multiple=32, frames_name="frames", call={"use_resolution_binning": False},
    ),
    Family(
        "skyreels-v2", "SkyReels V2",
        (
            (Way("SkyReelsV2Pipeline"),),
            (Way("SkyReelsV2ImageToVideoPipeline", BOTH, FIRST, ENDLESS),),
            (
                Way("SkyReelsV2DiffusionForcingPipeline"),
                Way("SkyReelsV2DiffusionForcingImageToVideoPipeline", BOTH, FIRST),
            ),
        ),
        (960, 544), (4, 1), 97, 24, "Skywork Community License", "",
        {"Skywork/SkyReels-V2-T2V-14B-540P-Diffusers": 14, "Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers": 1.3},
    ),
    Family(
        "helios", "Helios", ((Way("HeliosPipeline", IMAGE),),),
        (640, 384), (32, 1), 1441, 24, "Apache-2.0", "", {"BestWishYsh/Helios-Base": 14}, least=33,
    ),
)  # fmt: skip


def family_of(pipeline: str) -> Family | None:
    """The family that a pipeline class belongs to."""
    return next((f for f in FAMILIES if any(way.pipeline == pipeline for way in f.ways)), None)


def able(*roles: str) -> list[str]:
    """Names of the families that take all these conditions together."""
    wanted = set(roles)
    return [f.name for f in FAMILIES if any(wanted <= set(way.roles) for way in f.ways)]
