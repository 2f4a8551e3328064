"""A trained network made larger, without a change of what it computes.

After Net2Net (Chen, Goodfellow and Shlens, 2016): the old weights are a corner of the new ones. What is new
reads with random weights, so that it can learn, and writes with zeros, so that at first it changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headgate.worker.backends.builtin.train.model import Block, Network, Norm, Shape


def grown(old: Network, shape: Shape) -> Network:
    """The network in another shape, with its logits. Random weights come from torch's generator.

    ValueError if `shape` has fewer layers, less width or heads of another width.
    """
    was = old.shape
    if shape.head_width != was.head_width or shape.layers < was.layers or shape.width < was.width:
        raise ValueError(f"a network of {was} cannot grow to {shape}")
    new = Network(shape).to(old.head.device)
    with torch.no_grad():
        new.tables.zero_()
        _corner(new.tables, old.tables)
        _corner(new.head, old.head)
        _norm(new.norm, old.norm)
        for target, source in zip(new.blocks, old.blocks, strict=False):
            assert isinstance(target, Block) and isinstance(source, Block)  # noqa: S101, PT018
            _norm(target.attention_norm, source.attention_norm)
            _norm(target.forward_norm, source.forward_norm)
            for name in ("qkv", "out", "up", "down"):
                _corner(getattr(target, name), getattr(source, name))
    return new


def _corner(target: Tensor, source: Tensor) -> None:
    target[tuple(slice(size) for size in source.shape)] = source


def _norm(target: Norm, source: Norm) -> None:
    """The same gain on a stream whose new part is zero, and so makes its mean square smaller."""
    share = len(source.gain) / len(target.gain)
    target.gain.fill_(share**0.5)
    target.gain[: len(source.gain)] = source.gain * share**0.5
