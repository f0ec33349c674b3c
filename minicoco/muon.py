"""Muon in float32, with matrices of one shape stacked: a step is a few batched products.

`torch.optim.Muon` orthogonalises in bfloat16 whatever the weights are, which takes 24 times as
long on a processor without bfloat16.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# The quintic Newton-Schulz iteration of Muon (Keller Jordan, https://kellerjordan.github.io/posts/muon).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return matrices whose singular values are pushed towards 1, shape (count, rows, columns)."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    found = matrices.mT if tall else matrices
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = found @ found.mT
        found = torch.baddbmm(
            found, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), found, beta=a
        )
    return found.mT if tall else found


class StackedMuon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and steps of AdamW's size, as `adjust_lr_fn="match_rms_adamw"`.

    Takes two-dimensional parameters; those without a gradient stay as they are.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, momentum: float = 0.95):
        super().__init__(list(parameters), {"lr": 1e-3, "momentum": momentum})
        shapes: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in self.param_groups[0]["params"]:
            shapes.setdefault(parameter.shape, []).append(parameter)
        self.stacks = [(stack, torch.zeros(len(stack), *shape)) for shape, stack in shapes.items()]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every matrix by its gradient."""
        group = self.param_groups[0]
        for stack, buffer in self.stacks:
            gradient = torch.stack([zero_if_none(parameter) for parameter in stack])
            buffer.lerp_(gradient, 1 - group["momentum"])
            update = orthogonalised(gradient.lerp(buffer, group["momentum"]))
            size = 0.2 * max(update.shape[1:]) ** 0.5
            torch._foreach_add_(stack, list(update.unbind()), alpha=-group["lr"] * size)


def zero_if_none(parameter: nn.Parameter) -> Tensor:
    """Return a parameter's gradient, zeros where it has none."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
