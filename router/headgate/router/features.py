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
from functools import lru_cache
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

_BIT = np.array([0x80 >> place for place in range(8)], dtype=np.uint8)

_KIND_BITS, _NUMBER, _MARKS = 0xF0000, 0x10000, 0x50000
_EDGE = crc32(b"edge of the text")
_FACTORS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0], dtype=np.uint32)
"""What tells the places of an n-gram apart: A, B, C, and a place that is empty."""
_MIX = np.uint32(0x2545F491)
_13, _15 = np.uint32(13), np.uint32(15)


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
    hashes = _hashes(words)
    raw_bytes = np.frombuffer(text, dtype=np.uint8)
    ngrams, contexts = _keys(hashes, raw_bytes)
    return Features(ngrams, _surface(query, text, raw_bytes, words), contexts)


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


def _hashes(words: list[bytes]) -> _UINT:
    """Hashes of the words, of their shapes and of their kinds, with an edge on both sides: (3, words + 2)."""
    raw, shapes, kinds = [_EDGE], [_EDGE], [_EDGE]
    for word in words:
        shape = _shape(word)
        shapes.append(shape)
        raw.append(shape if shape < 2 * _NUMBER else crc32(word.lower()))
        kinds.append(shape & _KIND_BITS if shape < _MARKS else shape)
    for row in (raw, shapes, kinds):
        row.append(_EDGE)
    return np.array((raw, shapes, kinds), dtype=np.uint32)


def _shape(word: bytes) -> int:
    """Kind and length of a word as one number; a mark is its own shape."""
    if word.islower():
        return 0x20000 + min(len(word), 0xFFFF)
    if word.isdigit():
        return _NUMBER + min(len(word), 0xFFFF)
    if word.isupper():
        return 0x30000 + min(len(word), 0xFFFF)
    return 0x40000 + min(len(word), 0xFFFF) if word.isalpha() else _MARKS + word[0]


def _keys(hashes: _UINT, text: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The n-grams and the contexts."""
    words = hashes.shape[1] - 2
    summands = np.multiply.outer(_FACTORS, hashes).ravel().take(_places(words))
    mixed = _mix(np.concatenate((np.add.reduce(summands, dtype=np.uint32), _byte_triples(text))))
    contexts = mixed[: 4 * words] >> np.uint32(32 - CONTEXT_BITS)
    ngrams = (mixed[4 * words :] % np.uint32(BUCKETS - 1)).astype(np.int32)
    return ngrams + np.int32(1), contexts.astype(np.int64).reshape(4, words)


@lru_cache(maxsize=64)
def _places(words: int) -> NDArray[np.intp]:
    """Where a key's summands stand among the products of a hash and the factor of its place: (3, keys).

    Contexts of every word: with the one before, the one after, its shape between words, it between kinds.
    N-grams: words, shapes, pairs of either, word before shape, triples of shapes.
    A line of text is short: numpy's time goes by calls, and one `take` replaces twenty sums of slices.
    """
    place = np.arange(len(_FACTORS) * 3 * (words + 2)).reshape(len(_FACTORS), 3, words + 2)
    (raw_a, shape_a, _), (raw_b, shape_b, kind_b), (raw_c, shape_c, kind_c), (nothing, _, _) = place
    left, here, right, none = slice(None, -2), slice(1, -1), slice(2, None), nothing[1:-1]
    first, second, nil = slice(None, -1), slice(1, None), nothing[:-1]
    contexts = (
        (raw_a[left], raw_b[here], none),
        (raw_a[here], raw_b[right], none),
        (raw_a[left], shape_c[here], raw_b[right]),
        (kind_b[left], raw_a[here], kind_c[right]),
    )
    ngrams = (
        (raw_a[here], none, none),
        (shape_b[here], none, none),
        (raw_a[first], raw_c[second], nil),
        (shape_b[first], shape_c[second], nil),
        (raw_c[first], shape_a[second], nil),
        (shape_a[left], shape_b[here], shape_c[right]),
    )
    return np.concatenate([np.stack(summands) for summands in (*contexts, *ngrams)], axis=1)


def _byte_triples(text: NDArray[np.uint8]) -> _UINT:
    a, b, c, _ = np.multiply.outer(_FACTORS, _LOWER[text[:_BYTES_KEPT]])
    return np.asarray(a[:-2] + b[1:-1] + c[2:] + _MIX)


def _mix(keys: _UINT) -> _UINT:
    """Spreads neighbouring keys over all 32 bits."""
    keys = (keys ^ (keys >> _15)) * _MIX
    return np.asarray(keys ^ (keys >> _13))


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
