"""Muon: momentum whose update is made orthogonal, for the matrices inside the blocks.

Newton-Schulz iteration after K. Jordan et al., "Muon: An optimizer for hidden layers" (2024).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int) -> Tensor:
    """A stack of matrices (n, rows, columns), rows <= columns, with all singular values near 1."""
    a, b, c = _COEFFICIENTS
    x: Tensor = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Matrices of one shape, (rows, columns) or stacked (n, rows, columns), are updated in one go."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, steps: int = 4) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "steps": steps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for param in group["params"]:
                by_shape[tuple(param.shape)].append(param)
            for params in by_shape.values():
                self._update(params, **{key: group[key] for key in ("lr", "momentum", "steps")})

    def _update(self, params: list[Tensor], lr: float, momentum: float, steps: int) -> None:
        gradients = [param.grad for param in params if param.grad is not None]
        buffers = [self.state[param].setdefault("momentum", torch.zeros_like(param)) for param in params]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        nesterov = torch._foreach_lerp(gradients, buffers, momentum)
        rows, columns = params[0].shape[-2:]
        stack = torch.cat([update.reshape(-1, rows, columns) for update in nesterov])
        stack = stack if rows <= columns else stack.mT
        update = orthogonalise(stack, steps)
        update = (update if rows <= columns else update.mT) * max(1.0, rows / columns) ** 0.5
        for param, part in zip(params, update.split(params[0].numel() // (rows * columns)), strict=True):
            param.sub_(part.reshape(param.shape), alpha=lr)
