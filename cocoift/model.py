"""Checkpoints and adapters: a LLaVA in four bits, LoRA on its language model, both in safetensors.

The recipe is LLaVA-1.5's LoRA recipe (`finetune_lora.sh` in haotian-liu/LLaVA) with the language
model quantised as in QLoRA (arXiv 2305.14314): NF4 with double quantisation.
"""

import shutil
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from safetensors import SafetensorError
from torch import nn
from transformers import BitsAndBytesConfig, LlavaForConditionalGeneration

from cocoift.files import DataError

Device = Literal["cpu", "cuda"]

# Full module paths: transformers 5 matches whole paths, and would quantise what it cannot find.
UNQUANTISED = ("model.vision_tower", "model.multi_modal_projector", "lm_head")
# The language model's linear layers, and no others: the tower has layers of the same names.
ADAPTED = (
    r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\."
    r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
)


def load_model(
    checkpoint: str | Path, *, four_bit: bool, device: Device = "cpu"
) -> LlavaForConditionalGeneration:
    """Load a LLaVA-1.5-style checkpoint: a local folder, or a name on the model hub.

    In four bits only the language model's linear layers are quantised; tower, projector and
    output layer stay as they are, in bfloat16 on a GPU and float32 on a CPU.  Raises `DataError`
    for a missing checkpoint, for one that has pickled weights only, for a GPU that is not there,
    and when anything but the language model came out quantised.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DataError("device 'cuda' was asked for, but there is no GPU; set device to 'cpu'")
    _check_files(checkpoint)
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
            device_map={"": device},
            use_safetensors=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"checkpoint {checkpoint}: {error}") from error
    if four_bit:
        check_quantised(model)
    return model


def _check_files(checkpoint: str | Path) -> None:
    """Refuse a local folder that is no checkpoint; a hub name is left to the hub."""
    folder = Path(checkpoint)
    looks_local = folder.is_absolute() or folder.exists() or len(folder.parts) != 2
    if not looks_local:
        return
    if not (folder / "config.json").is_file():
        raise DataError(f"checkpoint {checkpoint}: no config.json; run notebook 00_setup first")
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


def add_adapter(
    model: LlavaForConditionalGeneration,
    *,
    rank: int = 128,
    alpha: int = 256,
    dropout: float = 0.05,
    gradient_checkpointing: bool = False,
) -> PeftModel:
    """Return the model with a fresh adapter: LoRA on its language model, projector in full.

    The defaults are LLaVA-1.5's.  Everything else is frozen.
    """
    if getattr(model, "is_loaded_in_4bit", False):
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=gradient_checkpointing
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=ADAPTED,
        modules_to_save=["multi_modal_projector"],
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def trainable_parameters(model: nn.Module) -> dict[str, int]:
    """Return how many parameters train: LoRA's, the projector's, and any others."""
    counts = {"LoRA": 0, "projector": 0, "other": 0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = "LoRA" if "lora_" in name else "projector" if "projector" in name else "other"
            counts[part] += parameter.numel()
    return counts


def save_adapter(model: PeftModel, folder: Path) -> Path:
    """Save adapter and projector together in safetensors; an earlier one stays until this is whole.

    Raises `DataError` when the folder cannot be written, e.g. because the disk is full.
    """
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        model.save_pretrained(unfinished, safe_serialization=True)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    except Exception as error:  # safetensors reports a full disk with an error of its own
        shutil.rmtree(unfinished, ignore_errors=True)
        raise DataError(f"cannot save the adapter in {folder}: {error}; free space") from error
    return folder


def load_adapter(
    model: LlavaForConditionalGeneration, folder: Path, *, trainable: bool = False
) -> PeftModel:
    """Return a base model with a saved adapter; raises `DataError` when there is none."""
    if not (folder / "adapter_model.safetensors").is_file():
        raise DataError(f"no adapter in {folder} (adapter_model.safetensors); train it first")
    return PeftModel.from_pretrained(model, folder, is_trainable=trainable)
