"""Muon: its orthogonalisation against singular values, its step against a step by hand."""

import torch

from minicoco.pretrain import COEFFICIENTS, ITERATIONS, StackedMuon, orthogonalised


def test_the_iteration_moves_singular_values_and_keeps_singular_vectors():
    torch.manual_seed(0)
    matrices = torch.randn(3, 24, 10, dtype=torch.float64)
    u, values, vh = torch.linalg.svd(matrices, full_matrices=False)
    a, b, c = COEFFICIENTS
    values = values / values.norm(dim=1, keepdim=True)
    for _ in range(ITERATIONS):
        values = a * values + b * values**3 + c * values**5
    assert torch.allclose(orthogonalised(matrices), u * values[:, None] @ vh, atol=1e-8)


def test_a_step_follows_the_lookahead_of_the_momentum_and_has_adamws_size():
    torch.manual_seed(1)
    starts = [torch.randn(shape) for shape in ((8, 8), (8, 8), (4, 12))]
    parameters = [torch.nn.Parameter(start.clone()) for start in starts]
    optimiser = StackedMuon(parameters, momentum=0.9)
    optimiser.param_groups[0]["lr"] = 0.02
    gradients = [[torch.randn_like(start) for start in starts] for _ in range(2)]
    for each in gradients:
        for parameter, gradient in zip(parameters, each, strict=True):
            parameter.grad = gradient
        optimiser.step()
    for start, parameter, first, second in zip(starts, parameters, *gradients, strict=True):
        ahead = (
            0.1 * first + 0.9 * 0.1 * first,
            0.1 * second + 0.9 * (0.1 * second + 0.09 * first),
        )
        directions = sum(orthogonalised(gradient[None])[0] for gradient in ahead)
        size = 0.02 * 0.2 * max(start.shape) ** 0.5
        assert torch.allclose(parameter, start - size * directions, atol=1e-5)


def test_a_parameter_without_gradient_stays():
    still, moving = (torch.nn.Parameter(torch.ones(3, 3)) for _ in range(2))
    moving.grad = torch.eye(3)
    StackedMuon([still, moving]).step()
    assert torch.equal(still, torch.ones(3, 3)) and not torch.equal(moving, still)
