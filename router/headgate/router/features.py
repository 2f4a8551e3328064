"""Text and context counts to fixed arrays; every name and number of the feature schema lives here.

A query becomes three arrays:
    ngrams    hashed word, shape and byte n-grams, rows of an embedding table
    surface   counts that a reader would name: length, digits, operators, marks of code and LaTeX, context
    contexts  for every word, four hashed neighbourhoods: what `Familiarity` knows the calibration data by

A *shape* is a word without its letters: kind and length. Digits always become their shape, because
difficulty grows with the length of operands and not with their value. Nothing here depends on data; a
change of any number is a new SCHEMA.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from headgate.router.types import Query

SCHEMA = 1
BUCKETS = 1 << 14
"""Rows of the embedding table; row 0 is padding and is zero."""
CONTEXT_BITS = 20
CONTEXT_BUCKETS = 1 << CONTEXT_BITS

_BYTE_CLASSES = {
    "digits": b"0123456789",
    "letters": b"abcdefghijklmnopqrstuvwxyz",
    "capitals": b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "spaces": b" \t",
    "newlines": b"\n\r",
    "non_ascii": bytes(range(128, 256)),
    "plus": b"+",
    "minus": b"-",
    "times": b"*^",
    "slash": b"/%",
    "equals": b"=<>",
    "question": b"?",
    "comma": b",",
    "colon": b":",
    "period": b".!",
    "parentheses": b"()",
    "brackets": b"[]",
    "latex": b"\\$",
    "code": b"{};`_#",
    "quotes": b"'\"",
}
SURFACE = (
    *("bytes", "words", *_BYTE_CLASSES, "other"),
    *("numbers", "longest_number", "longest_word", "distinct_words", "distinct_bytes", "options"),
    *("system_bytes", "history_turns", "history_bytes"),
)
"""Names of the surface numbers, all log(1 + count)."""

_WORD = re.compile(rb"[0-9]+|[A-Za-z\x80-\xff]+|[^\sA-Za-z0-9\x80-\xff]")
_OPTION = re.compile(rb"(?:^|[\s(])[A-J][).:]\s", re.MULTILINE)
_WORDS_KEPT = 256
_BYTES_KEPT = 1024
_UINT = NDArray[np.uint32]


def _byte_classes() -> NDArray[np.intp]:
    """Number of every byte's class, in the order of `_BYTE_CLASSES`; the last one is "other"."""
    table = np.full(256, len(_BYTE_CLASSES), dtype=np.intp)
    for number, members in enumerate(_BYTE_CLASSES.values()):
        table[list(members)] = number
    return table


_CLASS_OF_BYTE = _byte_classes()
_LOWER = np.arange(256, dtype=np.uint32)
_LOWER[65:91] += 32

_KIND_BITS, _MARKS = 0xF0000, 0x50000
_EDGE = crc32(b"edge of the text")
_A, _B, _C = np.uint32(0x9E3779B1), np.uint32(0x85EBCA77), np.uint32(0xC2B2AE3D)
_MIX = np.uint32(0x2545F491)


@dataclass(frozen=True, slots=True)
class Features:
    """One query: `ngrams` (n,) int32 in [1, BUCKETS), `surface` (S,) float32, `contexts` (4, words) int64."""

    ngrams: NDArray[np.int32]
    surface: NDArray[np.float32]
    contexts: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """n queries: `ngrams` (n, longest) int32 padded with 0, `surface` (n, S) float32, n `contexts`."""

    ngrams: NDArray[np.int32]
    surface: NDArray[np.float32]
    contexts: tuple[NDArray[np.int64], ...]


def extract(query: Query) -> Features:
    """The arrays of one query; any text is fine, the empty one included. Microseconds for a line of text."""
    text = query.text.encode("utf-8", "replace")
    words = _words(text)
    raw, shape = _hashes(words)
    raw_bytes = np.frombuffer(text, dtype=np.uint8)
    return Features(
        _ngrams(raw, shape, raw_bytes), _surface(query, text, raw_bytes, words), _contexts(raw, shape)
    )


def pack(features: Sequence[Features]) -> Batch:
    """One batch of queries, at least one."""
    if len(features) == 1:
        only = features[0]
        return Batch(only.ngrams[None], only.surface[None], (only.contexts,))
    longest = max(len(one.ngrams) for one in features)
    ngrams = np.zeros((len(features), longest), dtype=np.int32)
    for row, one in zip(ngrams, features, strict=True):
        row[: len(one.ngrams)] = one.ngrams
    return Batch(ngrams, np.stack([one.surface for one in features]), tuple(one.contexts for one in features))


def _words(text: bytes) -> list[bytes]:
    """Words, numbers and single marks; of a long text the first and the last `_WORDS_KEPT`."""
    words = _WORD.findall(text)
    return words if len(words) <= 2 * _WORDS_KEPT else words[:_WORDS_KEPT] + words[-_WORDS_KEPT:]


def _hashes(words: list[bytes]) -> tuple[_UINT, _UINT]:
    """Hashes of the words and of their shapes, with an edge on both sides: two arrays of (words + 2,)."""
    raw, shape = [_EDGE], [_EDGE]
    for word in words:
        kind = _shape(word)
        shape.append(kind)
        raw.append(kind if word[0] < 58 and word.isdigit() else crc32(word.lower()))
    raw.append(_EDGE)
    shape.append(_EDGE)
    return np.array(raw, dtype=np.uint32), np.array(shape, dtype=np.uint32)


def _shape(word: bytes) -> int:
    """Kind and length of a word as one number; a mark is its own shape."""
    if word.isdigit():
        return 0x10000 + min(len(word), 0xFFFF)
    if word.islower():
        return 0x20000 + min(len(word), 0xFFFF)
    if word.isupper():
        return 0x30000 + min(len(word), 0xFFFF)
    return 0x40000 + min(len(word), 0xFFFF) if word.isalpha() else _MARKS + word[0]


def _ngrams(raw: _UINT, shape: _UINT, text: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Words, shapes, pairs of either, word before shape, triples of shapes, triples of bytes."""
    parts = (
        raw[1:-1] * _A,
        shape[1:-1] * _B,
        raw[:-1] * _A + raw[1:] * _C,
        shape[:-1] * _B + shape[1:] * _C,
        raw[:-1] * _C + shape[1:] * _A,
        shape[:-2] * _A + shape[1:-1] * _B + shape[2:] * _C,
        _byte_triples(text),
    )
    mixed = _mix(np.concatenate(parts))
    return (mixed % np.uint32(BUCKETS - 1)).astype(np.int32) + np.int32(1)


def _byte_triples(text: NDArray[np.uint8]) -> _UINT:
    low = _LOWER[text[:_BYTES_KEPT]]
    return np.asarray(low[:-2] * _A + low[1:-1] * _B + low[2:] * _C + _MIX)


def _contexts(raw: _UINT, shape: _UINT) -> NDArray[np.int64]:
    """Of every word: with the one before, with the one after, its shape between words, it between kinds."""
    left, here, right = raw[:-2], raw[1:-1], raw[2:]
    keys = np.empty((4, len(here)), dtype=np.uint32)
    keys[0] = left * _A + here * _B
    keys[1] = here * _A + right * _B
    keys[2] = left * _A + shape[1:-1] * _C + right * _B
    kind = np.where(shape < _MARKS, shape & np.uint32(_KIND_BITS), shape)
    keys[3] = kind[:-2] * _B + here * _A + kind[2:] * _C
    return (_mix(keys) >> np.uint32(32 - CONTEXT_BITS)).astype(np.int64)


def _mix(keys: _UINT) -> _UINT:
    """Spreads neighbouring keys over all 32 bits."""
    keys = (keys ^ (keys >> np.uint32(15))) * _MIX
    return np.asarray(keys ^ (keys >> np.uint32(13)))


def _surface(
    query: Query, text: bytes, raw_bytes: NDArray[np.uint8], words: list[bytes]
) -> NDArray[np.float32]:
    counts = np.bincount(raw_bytes, minlength=256)
    classes = np.bincount(_CLASS_OF_BYTE, weights=counts, minlength=len(_BYTE_CLASSES) + 1)
    numbers = [len(word) for word in words if word.isdigit()]
    named = (
        len(text), len(words), *classes.tolist(),
        len(numbers), max(numbers, default=0), max(map(len, words), default=0), len(set(words)),
        np.count_nonzero(counts), len(_OPTION.findall(text)),
        query.system_bytes, query.history_turns, query.history_bytes,
    )  # fmt: skip
    return np.log1p(np.array(named, dtype=np.float32))


@dataclass(frozen=True, slots=True)
class Familiarity:
    """Which neighbourhoods of words the training data had, one bit each.

    A word is familiar if one of its four neighbourhoods is; what is not familiar is out of distribution.
    """

    bits: NDArray[np.uint8]
    """(CONTEXT_BUCKETS / 8,), packed big-endian as `numpy.packbits` does."""

    def unfamiliar(self, contexts: NDArray[np.int64]) -> float:
        """Share of unfamiliar words in [0, 1]; 1 for a text without words."""
        if contexts.shape[1] == 0:
            return 1.0
        known = (self.bits[contexts >> 3] >> (7 - (contexts & 7))) & 1
        return float(1.0 - np.count_nonzero(known.any(axis=0)) / contexts.shape[1])
