"""What trains in a model, counted from its parameters."""

from torch import nn


def trainable_parameters(model: nn.Module) -> dict[str, int]:
    """Return how many parameters train: LoRA's, the projector's, and any others."""
    counts = {"LoRA": 0, "projector": 0, "other": 0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = "LoRA" if "lora_" in name else "projector" if "projector" in name else "other"
            counts[part] += parameter.numel()
    return counts
