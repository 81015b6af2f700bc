"""Loading: a checkpoint becomes a pipeline of diffusers as the plan has it. The only place that imports diffusers."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from phonofilm.engines.open.families import Family
from phonofilm.engines.open.plan import QUANTISED, Plan
from phonofilm.engines.open.source import INSTALL, Source, header
from phonofilm.engines.open.watch import networks
from phonofilm.errors import CheckpointError, InputError
from phonofilm.request import Adapter

log = logging.getLogger(__name__)

EXACT: Final = ("vae", "audio_vae", "vocoder", "video_vae", "sound_tokenizer")  # stay float32 on a CPU


def pipeline_class(name: str) -> Any:
    """A pipeline class of diffusers. Raises InputError where it, or diffusers, is not installed."""
    try:
        diffusers = importlib.import_module("diffusers")
        logging.getLogger("torchao").setLevel(logging.ERROR)  # what it says of parts for other GPUs
        for library in ("diffusers", "transformers"):
            speech = importlib.import_module(f"{library}.utils.logging")
            speech.set_verbosity_error()
            speech.disable_progress_bar()
    except ImportError as error:
        raise InputError(f"open models need more packages: {INSTALL}", "model") from error
    found = getattr(diffusers, name, None)
    if found is None:
        raise CheckpointError(f"diffusers {diffusers.__version__} does not know the pipeline {name}: a newer one may")
    return found


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def load_pipeline(source: Source, name: str, plan: Plan, family: Family, other: Any = None) -> Any:
    """A pipeline of class `name`, in evaluation mode. other: one of the same group, whose parts are taken over.

    Raises CheckpointError with one line when the files and the class do not fit each other.
    """
    source.parts  # noqa: B018 (looks through it first)
    cls = pipeline_class(name)
    if other is not None and not family.modular:
        return cls.from_pipe(other)
    try:
        pipe = _load(source, cls, plan, family)
    except ImportError as error:
        raise InputError(f"{name} needs more packages ({error}): {INSTALL}", "model") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" in str(error):
            raise MemoryError(str(error)) from error
        raise CheckpointError(f"{source.folder}: cannot be loaded as {name}: {first_line(error)}") from error
    _check(source, pipe)
    return _place(pipe, plan)


def _load(source: Source, cls: Any, plan: Plan, family: Family) -> Any:
    import torch

    low = torch.float32 if plan.precision == "fp32" else torch.bfloat16
    types: dict[str, torch.dtype] = {"default": low}
    if plan.device == "cpu" and family.mixed:  # convolutions in float32 are as fast there, and exact
        types |= {part.name: torch.float32 for part in source.parts if part.name in EXACT}
    options: dict[str, Any] = {"local_files_only": True}
    if plan.precision == "int8":
        options["quantization_config"] = _quantisation(source)
    if family.modular:
        logging.getLogger("diffusers.modular_pipelines").setLevel(logging.CRITICAL)  # tracebacks of what is raised
        pipe = cls.from_pretrained(str(source.folder), local_files_only=True)
        pipe.load_components(dtype=types, **options)
        lacking = [
            part.name for part in source.parts if part.name in pipe.components and pipe.components[part.name] is None
        ]
        if lacking:
            raise ValueError(f"{lacking[0]} cannot be loaded")
        return pipe
    return cls.from_pretrained(str(source.folder), dtype=types, use_safetensors=True, **options)


def compile_blocks(pipe: Any) -> None:
    """Compile the blocks that a network repeats, once for all of them. Raises InputError where it names none."""
    for network in networks(pipe):
        try:
            network.compile_repeated_blocks(dynamic=True)
        except (ValueError, AttributeError) as error:
            raise InputError(f"{type(network).__name__} names no blocks that could be compiled", "compiled") from error


def adapt(pipe: Any, adapters: Sequence[Adapter], name: str) -> None:
    """Put LoRA on a pipeline, in place of those that were there. name: of the model, for messages.

    Raises CheckpointError with one line for a file that is missing, a pickle, or of another model.
    """
    if not hasattr(pipe, "load_lora_weights"):
        raise InputError(f"{type(pipe).__name__} of diffusers takes no LoRA", "adapters")
    pipe.unload_lora_weights()
    names = []
    for k, adapter in enumerate(adapters):
        if adapter.path is None:
            raise InputError(f"an adapter must be a file here, got the digest {adapter.digest}", "adapters")
        path = Path(adapter.path)
        if not path.is_file():
            raise CheckpointError(f"{path}: there is no such LoRA file")
        if path.suffix != ".safetensors":
            raise CheckpointError(f"{path}: only safetensors are accepted, other files can run code when they are read")
        header(path)  # that it is whole
        try:
            pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=f"lora{k}")
        except (ValueError, RuntimeError, KeyError, TypeError, OSError) as error:
            pipe.unload_lora_weights()
            raise CheckpointError(f"{path}: is no LoRA for {name}: {first_line(error)[:200]}") from error
        if not any(f"lora{k}" in found for found in pipe.get_list_adapters().values()):
            pipe.unload_lora_weights()
            raise CheckpointError(f"{path}: is no LoRA for {name}: none of its layers is there")
        names.append(f"lora{k}")
    if names:
        pipe.set_adapters(names, [adapter.strength for adapter in adapters])


def _check(source: Source, pipe: Any) -> None:
    """Weights that the files do not have would stay without values, silently."""
    for part, module in pipe.components.items():
        parameters = module.named_parameters() if hasattr(module, "named_parameters") else ()
        if missing := next((name for name, value in parameters if value.is_meta), None):
            raise CheckpointError(f"{source.folder / part}: has no weights for {missing}: its config.json is of others")


def _quantisation(source: Source) -> Any:
    """Weights as int8 where the parameters are, by torchao."""
    diffusers, transformers, quantization = (
        importlib.import_module(name) for name in ("diffusers", "transformers", "torchao.quantization")
    )
    mapping: dict[str, Any] = {}
    for part in source.parts:
        if part.name.startswith(QUANTISED):
            ours = source.index[part.name][0] == "diffusers"
            mapping[part.name] = (diffusers if ours else transformers).TorchAoConfig(
                quantization.Int8WeightOnlyConfig()
            )
    return diffusers.PipelineQuantizationConfig(quant_mapping=mapping)


def _place(pipe: Any, plan: Plan) -> Any:
    """On its device, with what is to be offloaded and tiled."""
    if plan.offload == "model":
        pipe.enable_model_cpu_offload()
    elif plan.offload == "group":
        import torch

        pipe.enable_group_offload(onload_device=torch.device(plan.device), offload_type="leaf_level", use_stream=True)
    elif plan.device != "cpu":
        pipe.to(plan.device)
    if plan.tiled:
        for name in ("vae", "video_vae"):
            part = getattr(pipe, name, None)
            if part is not None and hasattr(part, "enable_tiling"):
                part.enable_tiling()
    return pipe
