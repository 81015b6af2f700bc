"""What lies where in the exported folder. It needs no diffusers, so that whoever exports needs none either.

diffusers runs `pipeline.py` first, and copies what that imports beside it. It loads each part afterwards, from a file
of code in the part's own folder; ours only points to the code that is there already.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

PIPELINE: Final = ("pipeline", "PhonofilmPipeline")  # module and class
PARTS: Final[Mapping[str, str]] = {
    "transformer": "PhonofilmTransformer",
    "text_encoder": "PhonofilmTextEncoder",
    "vae": "PhonofilmVideoCodec",
    "audio_vae": "PhonofilmAudioCodec",
    "timer": "PhonofilmTimer",
}
"""Folder and name in the pipeline → class."""
POINTER: Final = "phonofilm_part"  # module in each part's folder
PREFIX: Final = "phonofilm_"  # of the files beside pipeline.py
INDEX: Final = "model_index.json"
CONFIG: Final = "config.json"
WEIGHTS: Final = "diffusion_pytorch_model.safetensors"


def pointer(name: str, module: str) -> str:
    """The code in the folder of a part, whose class stands in `module` beside pipeline.py."""
    return (
        '"""Where the class of this part is: beside pipeline.py, which is loaded before it."""\n\n'
        f"from . import {module} as parts\n\n{PARTS[name]} = parts.{PARTS[name]}\n"
    )


def write_index(folder: Path, values: Mapping[str, Any]) -> None:
    """Write model_index.json: the pipeline, its parts, and `values` (plain JSON)."""
    parts = {name: [POINTER, kind] for name, kind in PARTS.items()}
    text = json.dumps({**values, "_class_name": list(PIPELINE), **parts}, indent=2, sort_keys=True)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")
