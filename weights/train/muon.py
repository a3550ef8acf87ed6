"""Muon for weight matrices, AdamW for the rest, as one optimiser.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces the momentum of a matrix by the nearest
orthogonal matrix, so that all directions learn at one speed; five steps of a Newton-Schulz iteration come near enough.
A convolution's kernel is the matrix [out, in * 3 * 3]. The update is scaled by 0.2 sqrt(max(rows, columns)) so that its
mean square is that of AdamW's updates and one learning rate serves both (Liu et al. 2025, arXiv:2502.16982).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from device import USE_BFLOAT16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the iteration's fifth-order polynomial, by Jordan
ITERATIONS = 5


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Nearly orthogonal matrices [n, rows, columns] from any: singular values end up between about 0.7 and 1.2."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16() if USE_BFLOAT16 else matrices
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay; parameters of one shape are updated together.

    The learning rate may be a tensor on the parameters' device.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        lr: torch.Tensor | float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: defaultdict[torch.Size, list[torch.nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for shape, parameters in shapes.items():
                self._update(group, shape, parameters)

    def _update(self, group: dict, shape: torch.Size, parameters: list[torch.nn.Parameter]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, buffers, group["momentum"])
        updates = orthogonalise(torch.stack(ahead).flatten(2))
        scale = 0.2 * max(updates.shape[1:]) ** 0.5
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_sub_(parameters, list((updates * (group["lr"] * scale)).reshape(-1, *shape)))


def split_parameters(module: torch.nn.Module) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """(matrices inside the network for Muon, the rest for AdamW: embeddings, first and last layers, biases, norms)."""
    outer = ("conv_in", "conv_out", "embedding", "quant_conv")
    matrices, rest = [], []
    for name, parameter in module.named_parameters():
        inner = parameter.ndim >= 2 and not any(word in name for word in outer)
        (matrices if inner else rest).append(parameter)
    return matrices, rest
