"""Messages and metadata that nobody means well, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator

LENGTH = 2
"""The wire type of fields that say how long they are."""
GROUP_BEGINS, GROUP_ENDS = 0x7B, 0x7C
"""Field 15, wire types 3 and 4."""


def mutated(good: bytes, n: int, seed: int) -> Iterator[bytes]:
    """`n` times the message with a few bytes flipped, cut, doubled or made up."""
    draw = random.Random(seed)
    for _ in range(n):
        data = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            _MUTATIONS[draw.randrange(len(_MUTATIONS))](data, draw)
        yield bytes(data)


def nested(depth: int) -> bytes:
    """A group in a group in a group …, which a parser follows down although nobody knows the field."""
    return bytes([GROUP_BEGINS]) * depth + bytes([GROUP_ENDS]) * depth


def unknown_field(size: int) -> bytes:
    """A field that no version has, with `size` bytes in it."""
    return _varint((9_999 << 3) | LENGTH) + _varint(size) + bytes(size)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    out.append(value)
    return bytes(out)


def _flip(data: bytearray, draw: random.Random) -> None:
    if data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _cut(data: bytearray, draw: random.Random) -> None:
    del data[draw.randint(0, len(data)) :]


def _repeat(data: bytearray, draw: random.Random) -> None:
    begin = draw.randint(0, len(data))
    data[begin:begin] = data[begin : begin + draw.randint(0, 64)]


def _invent(data: bytearray, draw: random.Random) -> None:
    data[draw.randint(0, len(data)) :] = draw.randbytes(draw.randint(0, 64))


def _endless_varint(data: bytearray, draw: random.Random) -> None:
    begin = draw.randint(0, len(data))
    data[begin:begin] = b"\xff" * 11


_MUTATIONS = (_flip, _cut, _repeat, _invent, _endless_varint)
