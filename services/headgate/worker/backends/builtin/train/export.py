"""From a checkpoint to the ONNX file that is shipped."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from headgate.worker.backends.builtin.train.graph import build
from headgate.worker.backends.builtin.train.model import Network, Shape


def read(checkpoint: Path, shape: Shape) -> tuple[Network, float]:
    """The network of a checkpoint, on the CPU and as it is shipped, and the seconds it was trained."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    network = Network(shape)
    network.load_state_dict(content["network"])
    return shipped(network.eval()), content["seconds"]


def shipped(network: Network) -> Network:
    """The network as its ONNX file has it: matrices in fp16 precision, norm gains in fp32."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half().float())
    return network


def export(network: Network, path: Path) -> str:
    """Writes the network's ONNX file and returns its SHA-256."""
    weights = {name: tensor.numpy().astype(np.float32) for name, tensor in network.state_dict().items()}
    model = build(network.shape, weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return hashlib.sha256(path.read_bytes()).hexdigest()
