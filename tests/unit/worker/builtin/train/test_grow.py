"""A network that grows goes on computing what it did, and can learn more."""

from __future__ import annotations

import pytest
import torch

from headgate.worker.backends.builtin.train.grow import grown
from headgate.worker.backends.builtin.train.model import Network, Shape

SMALL, LARGE = Shape(layers=2, width=32, heads=2), Shape(layers=3, width=64, heads=4)


def trained(seed: int) -> Network:
    """A network without a zero in it, as training leaves one."""
    torch.manual_seed(seed)
    network = Network(SMALL)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def windows() -> torch.Tensor:
    return torch.randint(0, 128, (3, 17, 4))


@pytest.mark.parametrize("shape", [LARGE, Shape(2, 64, 4), Shape(5, 32, 2)], ids=["both", "wider", "deeper"])
def test_logits_stay(seed: int, shape: Shape) -> None:
    old, asked = trained(seed), windows()
    torch.testing.assert_close(grown(old, shape)(asked), old(asked), rtol=1e-4, atol=1e-4)


def test_every_new_weight_is_reached_by_two_steps_of_training(seed: int) -> None:
    """What writes learns first; what reads can once something is written."""
    network, asked = grown(trained(seed), LARGE), windows()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(3):
        network(asked).logsumexp(-1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for was, parameter in zip(before, network.parameters(), strict=True):
        rows = (parameter != was).reshape(-1, parameter.shape[-1])
        assert rows.any(dim=0).all()


@pytest.mark.parametrize("shape", [Shape(1, 64, 4), Shape(2, 16, 1), Shape(2, 64, 2)])
def test_a_network_does_not_shrink(seed: int, shape: Shape) -> None:
    with pytest.raises(ValueError, match="cannot grow"):
        grown(trained(seed), shape)
