"""Bytes as tokens: what the models of the built-in pair read and write.

A token is one ASCII byte, so the vocabulary has 128 entries; a byte outside ASCII becomes `UNKNOWN`. A text
is `question \\n answer \\n`: the first end byte asks for the answer, the second ends it. Each position also
sees the three bytes before it, as a row `(byte, one back, two back, three back)`, 0 where there is none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

VOCABULARY = 128
END = 10
UNKNOWN = 127
WINDOW = 4
CONTEXT = 320
"""Longest question and answer together, both end bytes included."""


def encode(text: str) -> list[int]:
    """Token ids of a text; a newline in it becomes a space, since it would end the text."""
    return [_token(byte) for byte in text.encode()]


def _token(byte: int) -> int:
    if byte == END:
        return ord(" ")
    return byte if byte < VOCABULARY else UNKNOWN


def decode(ids: list[int]) -> str:
    """The text of token ids, end bytes left out."""
    return bytes(token for token in ids if token != END).decode("ascii")


def windows(ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """Ids of shape (..., length) as windows of shape (..., length, 4)."""
    rows = np.zeros((*ids.shape, WINDOW), np.int32)
    for back in range(WINDOW):
        rows[..., back:, back] = ids[..., : ids.shape[-1] - back]
    return rows
