"""How much memory a training needs, estimated before anything is loaded.

Weights are counted from the architecture (QLoRA's storage: arXiv 2305.14314, section 3); what
backpropagation keeps is a formula over a Llama layer, checked by a test against autograd.
"""

from dataclasses import dataclass, fields

import psutil
import torch
from torch import nn
from transformers import LlavaConfig, LlavaForConditionalGeneration

from cocoift.core.files import DataError
from cocoift.tuning.checkpoints import is_adapted
from cocoift.tuning.model import Device

# NF4 with double quantisation: 4 bits, one 8-bit constant per 64 weights, and one 32-bit constant
# per 256 of those.
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# A CUDA context, kernels and the allocator's slack.
_GPU_RUNTIME = 1_500_000_000


@dataclass(frozen=True)
class Memory:
    """Bytes a training needs, by what they hold."""

    weights: int
    adapter: int
    optimiser: int
    activations: int
    runtime: int

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return sum(getattr(self, field.name) for field in fields(self))


def estimate(
    config: LlavaConfig,
    *,
    rank: int,
    batch_tokens: int,
    supervised_tokens: int,
    four_bit: bool = True,
    gradient_checkpointing: bool = True,
    device: Device = "cpu",
) -> Memory:
    """Estimate a training's memory; `supervised_tokens` is the most that one batch holds.

    What trains is float32 with a gradient (adapter) and AdamW's two moments (optimiser).
    """
    width = 2 if device == "cuda" else 4
    counts = parameter_counts(config, rank=rank)
    quantised = counts["language model, adapted layers"] if four_bit else 0
    frozen = sum(counts.values()) - counts["LoRA"]
    trained = counts["LoRA"] + counts["projector"]
    # Logits in float32, their softmax and their gradient.
    output = supervised_tokens * config.text_config.vocab_size * 4 * 3
    return Memory(
        weights=round(quantised * _NF4_BYTES + (frozen - quantised) * width),
        adapter=trained * 4 * 2,
        optimiser=trained * 4 * 2,
        activations=round(
            _kept(config, tokens=batch_tokens, width=width, checkpointing=gradient_checkpointing)
            + output
        ),
        runtime=_GPU_RUNTIME if device == "cuda" else 0,
    )


def parameter_counts(config: LlavaConfig, *, rank: int) -> dict[str, int]:
    """Return the parameters of each part of a tuned model; `LoRA` and `projector` train."""
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and is_adapted(name)
    ]
    adapted = sum(module.weight.numel() for module in layers)
    parts = {
        "vision tower": model.model.vision_tower,
        "projector": model.model.multi_modal_projector,
    }
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    everything = sum(parameter.numel() for parameter in model.parameters())
    counts["language model, adapted layers"] = adapted
    counts["language model, other"] = everything - sum(counts.values())
    counts["LoRA"] = sum(rank * (module.in_features + module.out_features) for module in layers)
    return counts


def _kept(config: LlavaConfig, *, tokens: int, width: int, checkpointing: bool) -> float:
    """Return the bytes kept for backpropagation through the language model.

    Per token and layer: what enters norms, projections and attention, `hidden` wide, and what
    enters the feed-forward part, `intermediate` wide, each with the copy that LoRA's dropout
    makes.  With checkpointing, only the input of each layer and all of one layer.
    """
    text = config.text_config
    layer = (20 * text.hidden_size + 5 * text.intermediate_size) * width
    if checkpointing:
        return tokens * (text.num_hidden_layers * text.hidden_size * width + layer)
    return tokens * text.num_hidden_layers * layer


def prompts_at_once(model: LlavaForConditionalGeneration, *, free: int, most: int = 64) -> int:
    """Return how many prompts a model answers at once in `free` bytes: a power of two.

    Half of the memory is for the key-value cache; the other half for reading the prompts.
    """
    prompts = most
    while prompts > 1 and prompts * _cache(model) > free / 2:
        prompts //= 2
    return prompts


def _cache(model: LlavaForConditionalGeneration) -> float:
    """Return the bytes of a prompt's key-value cache, its answer included: 2,048 tokens."""
    text, width = model.config.text_config, model.dtype.itemsize
    heads = text.num_key_value_heads / text.num_attention_heads
    return 2_048 * 2 * text.num_hidden_layers * text.hidden_size * heads * width


def dense_fits(model: LlavaForConditionalGeneration, *, prompts: int, free: int) -> bool:
    """Tell whether a four-bit model can be made dense and still answer `prompts` prompts at once.

    `free` is in bytes.
    """
    width = model.dtype.itemsize
    weights = sum(
        module.in_features * module.out_features * width
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and is_adapted(name)
    )
    return weights + prompts * _cache(model) <= free


def available(device: Device) -> int:
    """Return the bytes that are free on a device, those that torch holds in reserve included."""
    if device == "cuda":
        reserve = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + reserve
    return psutil.virtual_memory().available


def check_fits(memory: Memory, free: int) -> None:
    """Raise `DataError`, naming the largest part and its setting, if a training cannot fit."""
    if memory.total <= free:
        return
    knobs = {
        "weights": "set four_bit to true or take a smaller checkpoint",
        "adapter": "lower rank",
        "optimiser": "lower rank or set optimiser to paged_adamw_8bit",
        "activations": "lower batch_tokens or set gradient_checkpointing to true",
    }
    largest = max(knobs, key=lambda name: getattr(memory, name))
    raise DataError(
        f"training needs about {memory.total / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
        f"{largest} take {getattr(memory, largest) / 1e9:.1f} GB: {knobs[largest]}"
    )
