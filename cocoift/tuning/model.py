"""Checkpoints and adapters: a LLaVA in four bits, LoRA on its language model, both in safetensors.

The recipe is LLaVA-1.5's LoRA recipe (`finetune_lora.sh` in haotian-liu/LLaVA) with the language
model quantised as in QLoRA (arXiv 2305.14314): NF4 with double quantisation.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoProcessor,
    BitsAndBytesConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedConfig,
)
from transformers.utils import logging

from cocoift.core.files import DataError

Device = Literal["cpu", "cuda"]

# Full module paths: transformers 5 matches whole paths, and would quantise what it cannot find.
UNQUANTISED = ("model.vision_tower", "model.multi_modal_projector", "lm_head")


def pick_device(name: str) -> Device:
    """Return the device a parameter names; `auto` is the GPU where there is one.

    Raises `DataError` for a GPU that is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise DataError("device 'cuda' was asked for, but there is no GPU; set device to 'cpu'")
    if name == "cuda":
        return "cuda"
    if name == "cpu":
        return "cpu"
    raise DataError(f"device {name!r} is not known; it may be auto, cpu or cuda")


def load_processor(checkpoint: str | Path) -> LlavaProcessor:
    """Return a checkpoint's processor, images by PIL; raises `DataError` when it has none."""
    check_files(checkpoint)
    try:
        processor = AutoProcessor.from_pretrained(checkpoint)
        # Loaded separately: given to the processor, `backend` would reach the tokenizer too.
        processor.image_processor = AutoImageProcessor.from_pretrained(checkpoint, backend="pil")
        return processor
    except (OSError, ValueError) as error:
        raise DataError(f"checkpoint {checkpoint}: no processor ({error})") from error


def load_config(checkpoint: str | Path) -> LlavaConfig:
    """Return a checkpoint's configuration; raises `DataError` for anything but a LLaVA-1.5."""
    check_files(checkpoint)
    try:
        config = AutoConfig.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        raise DataError(f"checkpoint {checkpoint}: {error}") from error
    if not isinstance(config, LlavaConfig):
        raise DataError(f"checkpoint {checkpoint}: a {config.model_type} model, expected llava")
    return config


def load_model(
    checkpoint: str | Path, *, four_bit: bool, device: Device = "cpu"
) -> LlavaForConditionalGeneration:
    """Load a LLaVA-1.5-style checkpoint: a local folder, or a name on the model hub.

    In four bits only the language model's linear layers are quantised; tower, projector and
    output layer stay as they are, in bfloat16 on a GPU and float32 on a CPU.  Raises `DataError`
    for a missing checkpoint, for one that has pickled weights only, for a GPU that is not there,
    and when anything but the language model came out quantised.
    """
    device = pick_device(device)
    check_files(checkpoint)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(UNQUANTISED),
    )
    try:
        model = LlavaForConditionalGeneration.from_pretrained(
            checkpoint,
            quantization_config=quantisation if four_bit else None,
            dtype=dtype,
            device_map={"": _place(device)},
            use_safetensors=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"checkpoint {checkpoint}: {error}") from error
    if four_bit:
        check_quantised(model)
        _compute_in_float32(model)
    return model


def dense(model: LlavaForConditionalGeneration) -> LlavaForConditionalGeneration:
    """Return the model with each four-bit weight replaced by the value that it stands for.

    Nothing changes but time and memory: four-bit layers dequantise their weights at every step.
    In bfloat16 on a GPU and float32 on a CPU.  A model without four-bit layers stays as it is.
    """
    if not any(quantised_modules(model).values()):
        return model
    with quietly():  # it warns of the loss in precision, which is QLoRA's own
        return model.dequantize(dtype=model.dtype)


@contextmanager
def quietly() -> Iterator[None]:
    """Silence transformers' messages below errors."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _compute_in_float32(model: nn.Module) -> None:
    """Keep 4-bit layers on a CPU in float32, whatever the processor offers.

    Where it has AVX512-BF16, bitsandbytes answers in bfloat16 without being asked; an answer then
    differs from machine to machine, and a near tie with the batch it was given in.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def computes_in_float32(model: nn.Module) -> bool:
    """Tell whether a model's weights are float32, so that merging an adapter loses nothing."""
    return all(parameter.dtype == torch.float32 for parameter in model.parameters())


def release() -> None:
    """Give back the memory of models that nobody refers to any more, on a GPU too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def use_threads(count: int) -> None:
    """Compute with this many threads from now on, in one of several parallel processes."""
    torch.set_num_threads(count)


def _place(device: Device) -> str | int:
    """Return where this process's copy of a model goes: one GPU for each of them."""
    return int(os.environ.get("LOCAL_RANK", 0)) if device == "cuda" else device


def check_files(
    checkpoint: str | Path, *, remedy: str = "run notebook 00_setup first, or name another one"
) -> None:
    """Raise `DataError` for a local folder that is no checkpoint; a hub name is left to the hub."""
    folder = Path(checkpoint)
    looks_local = folder.is_absolute() or folder.exists() or len(folder.parts) != 2
    if not looks_local:
        return
    if not (folder / "config.json").is_file():
        raise DataError(f"checkpoint {checkpoint}: no config.json; {remedy}")
    if not list(folder.glob("*.safetensors")):
        raise DataError(
            f"checkpoint {checkpoint}: no *.safetensors; pickled weights are not loaded, "
            "convert them with transformers' save_pretrained"
        )


def quantised_modules(model: nn.Module) -> dict[str, bool]:
    """Return, for every linear layer by its path, whether it is held in four bits."""
    from bitsandbytes.nn import Linear4bit

    return {
        name: isinstance(module, Linear4bit)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }


def check_quantised(model: nn.Module) -> None:
    """Raise `DataError` unless exactly the language model's linear layers are quantised."""
    for name, quantised in quantised_modules(model).items():
        if quantised != name.startswith("model.language_model."):
            state = "was" if quantised else "was not"
            raise DataError(f"layer {name} {state} quantised; this architecture is not LLaVA-1.5's")


def image_tokens(config: LlavaConfig) -> int:
    """Return how many tokens one image becomes: its patches, and the class token if kept."""
    vision, whole = config.vision_config, config.vision_feature_select_strategy == "full"
    patches = (vision.image_size // vision.patch_size) ** 2
    return patches + (class_tokens(vision) if whole else 0)


def class_tokens(vision: PreTrainedConfig) -> int:
    """Return how many tokens a tower adds to those of its patches: CLIP one, SigLIP none."""
    return 0 if vision.model_type.startswith("siglip") else 1


def check_image_tokens(config: LlavaConfig, expected: int) -> None:
    """Raise `DataError` unless one image gives the model as many tokens as the data assume."""
    given, vision = image_tokens(config), config.vision_config
    if given != expected:
        raise DataError(
            f"the checkpoint makes {given} tokens of an image ({vision.image_size} px in patches "
            f"of {vision.patch_size} px), the parameters say {expected}; "
            f"set image_tokens to {given} and run notebook 02_merge again"
        )
