"""Muon's update."""

from __future__ import annotations

import pytest
import torch

from headgate.worker.backends.builtin.train.muon import Muon, orthogonalise


def test_singular_values_come_near_one(seed: int) -> None:
    torch.manual_seed(seed)
    update = orthogonalise(torch.randn(3, 16, 48), steps=6)
    values = torch.linalg.svdvals(update)
    assert values.min() > 0.5
    assert values.max() < 1.5


@pytest.mark.parametrize("shape", [(8, 8), (8, 32), (32, 8), (3, 8, 8)])
def test_a_step_goes_down_and_keeps_shapes(seed: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(seed)
    parameter = torch.nn.Parameter(torch.randn(shape))
    target = torch.randn(shape)
    muon = Muon([parameter], lr=0.05)
    losses = []
    for _ in range(150):
        loss = (parameter - target).square().mean()
        muon.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        muon.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


def test_alike_matrices_are_updated_as_if_alone(seed: int) -> None:
    torch.manual_seed(seed)
    together = [torch.nn.Parameter(torch.randn(6, 6)) for _ in range(3)]
    alone = [torch.nn.Parameter(parameter.detach().clone()) for parameter in together]
    for parameter in (*together, *alone):
        parameter.grad = parameter.detach().sin()
    Muon(together, lr=0.1).step()
    for parameter in alone:
        Muon([parameter], lr=0.1).step()
    for first, second in zip(together, alone, strict=True):
        assert torch.allclose(first, second, atol=1e-5)
