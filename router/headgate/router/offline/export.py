"""From the trained network to the graph of a bundle, with a parity check against torch.

Scaling of the surface numbers is folded into the first layer; trained and frozen units lie side by side.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from headgate.router.bundle import Golden
from headgate.router.offline import graph
from headgate.router.offline.graph import Weights
from headgate.router.offline.train import Network

_PARITY = 1e-4


def export(network: Network) -> tuple[bytes, Golden]:
    """The graph and its golden vectors; ArithmeticError if ONNX Runtime and torch differ by over 1e-4."""
    _round_table(network)
    weights = _weights(network)
    built = graph.build(weights)
    golden = graph.golden_vectors(built, weights.out.shape[2])
    difference = float(np.abs(golden.heads - run_torch(network, golden.ngrams, golden.surface)).max())
    if not difference <= _PARITY:
        raise ArithmeticError(f"ONNX Runtime and torch differ by {difference:.2g}")
    return built, golden


def run_torch(
    network: Network, ngrams: NDArray[np.int32], surface: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The network's own heads for padded arrays, as `UncertaintyModel.raw` gives them."""
    bags = [row[row > 0] for row in ngrams]
    offsets = np.cumsum([0, *(len(bag) for bag in bags[:-1])])
    flat = torch.from_numpy(np.concatenate(bags).astype(np.int64))
    with torch.no_grad():
        heads = network(flat, torch.from_numpy(offsets), torch.from_numpy(surface))
    return np.asarray(heads.numpy())


def _round_table(network: Network) -> None:
    with torch.no_grad():
        network.table.copy_(network.table.half().float())
        network.table[0] = 0.0


def _weights(network: Network) -> Weights:
    with torch.no_grad():
        units = torch.cat((network.hidden, network.prior_in), dim=2).double()
        bias = torch.cat((network.hidden_bias, torch.zeros_like(network.prior_in[0])), dim=1).double()
        columns = network.table.shape[1]
        scaled = units[columns:] / network.std.double()[:, None, None]
        shifted = bias - torch.einsum("s,shu->hu", network.mean.double(), scaled)
        return Weights(
            table=network.table.half().numpy(),
            hidden=torch.cat((units[:columns], scaled), dim=0).float().numpy(),
            hidden_bias=shifted.float().numpy(),
            out=torch.cat((network.out, network.prior_out), dim=1).numpy(),
            out_bias=network.out_bias.detach().numpy(),
        )
