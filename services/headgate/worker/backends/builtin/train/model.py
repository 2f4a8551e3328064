"""The network: a byte-level decoder-only transformer with a 4-gram front end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from headgate.worker.backends.builtin.tokens import CONTEXT, VOCABULARY, WINDOW

ROPE_BASE = 1000.0
NORM_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of a network. `width` is a multiple of `heads`, and width / heads a multiple of 16."""

    layers: int
    width: int
    heads: int

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.width // self.heads


class Norm(nn.Module):
    """Root mean square norm with a learned gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        return functional.rms_norm(x, self.gain.shape, self.gain, NORM_EPSILON)


class Block(nn.Module):
    """Attention, then a squared-ReLU feed-forward of four times the width; both start as the identity."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.attention_norm, self.forward_norm = Norm(width), Norm(width)
        self.qkv = nn.Parameter(torch.randn(3, width, width) * width**-0.5)
        self.out = nn.Parameter(torch.zeros(width, width))
        self.up = nn.Parameter(torch.randn(4 * width, width) * width**-0.5)
        self.down = nn.Parameter(torch.zeros(width, 4 * width))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(batch, length, width) to the same; cos and sin are `rotary_tables` of the length."""
        x = x + self._attend(self.attention_norm(x), cos, sin)
        hidden = functional.linear(self.forward_norm(x), self.up)
        return x + functional.linear(functional.relu(hidden).square(), self.down)

    def _attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = functional.linear(x, self.qkv.flatten(0, 1))
        query, key, value = qkv.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return functional.linear(mixed.transpose(1, 2).reshape(batch, length, width), self.out)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on the halves of the last dimension; cos and sin are (length, head width / 2)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def rotary_tables(head_width: int, length: int = CONTEXT) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (length, head width / 2)."""
    rates = ROPE_BASE ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return angles.cos().float(), angles.sin().float()


class Network(nn.Module):
    """The language model. Attention is causal and padding stands on the right, so it needs no mask."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.cos: Tensor
        self.sin: Tensor
        self.offsets: Tensor
        self.tables = nn.Parameter(torch.randn(WINDOW * VOCABULARY, shape.width) * 0.1)
        blocks = [Block(shape) for _ in range(shape.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = Norm(shape.width)
        self.head = nn.Parameter(torch.zeros(VOCABULARY, shape.width))
        cos, sin = rotary_tables(shape.head_width)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.register_buffer("offsets", torch.arange(WINDOW) * VOCABULARY, persistent=False)

    def forward(self, windows: Tensor) -> Tensor:
        """Windows of ids (batch, length, 4) to logits (batch, length, 128)."""
        x = functional.embedding(windows + self.offsets, self.tables).sum(dim=-2)
        length = windows.shape[1]
        for block in self.blocks:
            x = block(x, self.cos[:length], self.sin[:length])
        return functional.linear(self.norm(x), self.head)
