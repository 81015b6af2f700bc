"""The model card of the exported pipeline: README.md with the header that the Hub reads."""

from __future__ import annotations

from phonofilm.engines.engine import Capabilities
from phonofilm.playhouse.captions import EXAMPLES

HEADER = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-video
language:
- en
tags:
- text-to-video
- image-to-video
- text-to-audio
- audio-video
- flow-matching
- diffusers
- phonofilm
---
"""

BODY = """
# Phonofilm

Type a sentence; get a short film whose picture and sound were made together. One small transformer denoises picture and
sound as one sequence of tokens on one clock. {millions:.1f} million parameters in all: it runs on a laptop.

## Use

    pip install diffusers transformers accelerate

This repository brings its own code (`pipeline.py` and the files `phonofilm_*.py`): `trust_remote_code=True` is needed,
and nothing else has to be installed.

```python
import torch
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("THIS_REPOSITORY_OR_FOLDER", trust_remote_code=True)
made = pipe("{prompt}", seconds=3.0, generator=torch.Generator().manual_seed(7))
made.frames             # (1, frames, height, width, 3) float32 in [0, 1]
made.audio              # (1, 1, samples) float32 in [-1, 1]
made.audio_sample_rate  # {rate} Hz
```

| argument | what it takes |
|---|---|
| `seconds` | {low:g} to {high:g} in steps of {step:g}, at {fps:g} frames a second |
| `width`, `height` | {sizes} |
| `image`, `last_image` | the first and the last frame |
| `negative_prompt`, `guidance_scale`, `num_inference_steps` | as usual; None for the model's own |
| `generator` | an untouched one makes the film of its seed |
| `output_type` | `np`, `pt` or `pil` |

Other prompts: {prompts}.

## Limits

The published weights were trained on a procedural world of simple scenes with exact sounds, not on recordings of people
or places. They know the words of that world; others are read as well as can be. The precision is the model's own
(bfloat16 where the machine is fast in it, float32 for what is sensitive), and `to(dtype)` changes only what bears it.
It is too small to be worth offloading: `enable_model_cpu_offload` is not provided for.

## Source

The code here is copied from the package `phonofilm` (Apache-2.0), which also trains, measures, serves and signs.
"""


def card(able: Capabilities, values: int) -> str:
    """README.md for a model of `values` parameters."""
    first, *others = EXAMPLES[:4]
    body = BODY.format(
        millions=values / 1e6, prompt=first, rate=able.sample_rate, low=able.seconds[0], high=able.seconds[1],
        step=able.seconds_step, fps=able.fps, sizes=", ".join(f"{w}x{h}" for w, h in able.sizes),
        prompts="; ".join(f"*{text}*" for text in others),
    )  # fmt: skip
    return HEADER + body
