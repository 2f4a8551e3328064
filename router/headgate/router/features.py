"""Text and context counts to fixed arrays; every name and number of the feature schema lives here.

A query becomes three arrays:
    ngrams    hashed word and shape n-grams, each once: rows of the bundle's table
    surface   counts that a reader would name: length, digits, operators, marks of code and LaTeX, context
    contexts  hashed words and neighbourhoods of words: what `Familiarity` knows the training data by

A *shape* is a word without its letters: kind and length. Digits always become their shape, because
difficulty grows with the length of operands and not with their value. Nothing here depends on data; a
change of any number is a new SCHEMA.

There is no loop over words: a word's hash is a difference of prefix sums of byte · BASE^place, moved to place
0 by a power of BASE's inverse modulo 2^64 (Karp and Rabin 1987), so that a page costs little more than a
line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from headgate.router.types import Query

SCHEMA = 2
ROW_BITS = 16
BUCKETS = (1 << ROW_BITS) + 1
"""Rows of the table; row 0 is padding and is zero."""
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
    *("numbers", "longest_number", "longest_word", "options"),
    *("system_bytes", "history_turns", "history_bytes"),
)
"""Names of the surface numbers, all log(1 + count)."""

_OPTION = re.compile(rb"(?:^|[\s(])[A-J][).:]\s", re.MULTILINE)
_WORDS_KEPT = 256
_FAR = 3
_LONGEST = 1 << 14
"""Bytes that are read of a text; twice what a Query holds."""

_UINT = NDArray[np.uint64]
_Places = NDArray[np.intp]
_WORD_BITS = 1 << 64
_EDGE, _ONE = np.uint64(0x9FB21C651E98DF25), np.int32(1)
_NOWHERE = np.empty(0, dtype=np.intp)


def _table(values: dict[int, bytes], rest: int) -> NDArray[np.uint8]:
    """One number for every byte."""
    table = np.full(256, rest, dtype=np.uint8)
    for value, members in values.items():
        table[list(members)] = value
    return table


def _powers(base: int) -> _UINT:
    """base^0, base^1, … modulo 2^64."""
    factors = np.full(_LONGEST, base, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


_SPACE, _NUMBER, _LETTERS, _MARK = range(4)
_KIND = _table(
    {
        _SPACE: b" \t\n\r\x0b\x0c\0",
        _NUMBER: _BYTE_CLASSES["digits"],
        _LETTERS: _BYTE_CLASSES["letters"] + _BYTE_CLASSES["capitals"] + _BYTE_CLASSES["non_ascii"],
    },
    rest=_MARK,
)
_CLASS = _table(dict(enumerate(_BYTE_CLASSES.values())), rest=len(_BYTE_CLASSES)).astype(np.intp)
_IS_DIGIT = _KIND == _NUMBER


def _readings() -> _UINT:
    """What a byte counts in a word's hash: letters without case, all digits alike."""
    return (
        np.frombuffer(bytes(range(256)).lower().translate(_DIGITS_ALIKE), dtype=np.uint8).astype(np.uint64)
        + 1
    )


def _first_bytes() -> _UINT:
    """What a word's first byte tells of its shape: number, letters, capital, or which mark."""
    first = np.arange(256, dtype=np.uint64)
    first[_KIND == _NUMBER] = 256
    first[_KIND == _LETTERS] = 257
    first[list(_BYTE_CLASSES["capitals"])] = 258
    return first << np.uint64(_LENGTH_BITS)


_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"000000000")
_LENGTH_BITS = 20
_READING, _FIRST = _readings(), _first_bytes()
_BASE = 0x2545F4914F6CDD1D
_POWERS, _INVERSES = _powers(_BASE), _powers(pow(_BASE, -1, _WORD_BITS))
_A, _B, _C, _D, _MIX = (
    np.uint64(odd)
    for odd in (
        *(0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5),
        0xD6E8FEB86659FD93,
    )
)
"""What tells the places of an n-gram apart, and what spreads a hash over all bits."""
_32, _TO_ROW, _TO_CONTEXT = np.uint64(32), np.uint64(64 - ROW_BITS), np.uint64(64 - CONTEXT_BITS)


@dataclass(frozen=True, slots=True)
class Features:
    """`ngrams` (n,) int32 in [1, BUCKETS), `surface` (S,) float32, `contexts` (3 · words + 1,) int64."""

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
    """The arrays of one query; any text is fine, the empty one included. Microseconds, however long."""
    text = query.text.encode("utf-8", "replace")[:_LONGEST]
    read = np.frombuffer(text, dtype=np.uint8)
    starts, lengths = _words(read)
    first = read.take(starts)
    keys = _keys(*_hashes(read, starts, lengths, first))
    shapes, ngrams = 2 * len(starts) + 1, 4 * len(starts) + 2
    contexts = (keys[shapes:] >> _TO_CONTEXT).astype(np.int64)
    return Features(_rows(keys[:ngrams]), _surface(query, text, read, lengths, first), contexts)


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


def _words(read: NDArray[np.uint8]) -> tuple[_Places, _Places]:
    """Where numbers, runs of letters and single marks start, and their lengths in bytes.

    Of a long text the first and the last `_WORDS_KEPT`.
    """
    if not len(read):
        return _NOWHERE, _NOWHERE
    kinds = _KIND.take(read)
    begins = kinds == _MARK
    begins[0] = True
    begins[1:] |= kinds[1:] != kinds[:-1]
    starts = begins.nonzero()[0]
    lengths = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1] = len(read) - starts[-1]
    kept = kinds.take(starts).nonzero()[0]
    if len(kept) > 2 * _WORDS_KEPT:
        kept = np.concatenate((kept[:_WORDS_KEPT], kept[-_WORDS_KEPT:]))
    return starts.take(kept), lengths.take(kept)


def _hashes(
    read: NDArray[np.uint8], starts: _Places, lengths: _Places, first: NDArray[np.uint8]
) -> tuple[_UINT, _UINT]:
    """Hashes of the words and of their shapes, each with an edge on both sides: (words + 2,) each."""
    sums = np.zeros(len(read) + 1, dtype=np.uint64)
    (_READING.take(read) * _POWERS[: len(read)]).cumsum(out=sums[1:])
    raw, shape = np.full((2, len(starts) + 2), _EDGE)
    raw[1:-1] = (sums.take(starts + lengths) - sums.take(starts)) * _INVERSES.take(starts)
    shape[1:-1] = _FIRST.take(first) + lengths.astype(np.uint64)
    return raw, shape


def _keys(raw: _UINT, shape: _UINT) -> _UINT:
    """Keys of shapes, pairs of shapes, words, pairs of words; then of shapes between two words."""
    first, second, third = raw * _A, raw * _B, shape * _C
    keys = np.concatenate(
        (
            third[1:-1],
            third[:-1] + (shape * _D)[1:],
            raw[1:-1],
            first[:-1] + second[1:],
            first[:-2] + third[1:-1] + second[2:],
        )
    )
    keys ^= keys >> _32
    keys *= _MIX
    return keys


def _rows(keys: _UINT) -> NDArray[np.int32]:
    """The rows of the table that the keys fall into, each once."""
    rows = np.empty(len(keys) + 1, dtype=np.int32)
    np.right_shift(keys, _TO_ROW, out=rows[:-1], casting="unsafe")
    rows[-1] = BUCKETS
    rows.sort()
    return np.asarray(rows[:-1][rows[1:] != rows[:-1]] + _ONE)


def _surface(
    query: Query, text: bytes, read: NDArray[np.uint8], lengths: _Places, first: NDArray[np.uint8]
) -> NDArray[np.float32]:
    classes = np.bincount(_CLASS.take(read), minlength=len(_BYTE_CLASSES) + 1)
    numbers = lengths[_IS_DIGIT.take(first)]
    named = (
        len(text), len(lengths), *classes.tolist(),
        len(numbers), int(numbers.max(initial=0)), int(lengths.max(initial=0)), len(_OPTION.findall(text)),
        query.system_bytes, query.history_turns, query.history_bytes,
    )  # fmt: skip
    return np.log1p(np.array(named, dtype=np.float32))


@dataclass(frozen=True)
class Familiarity:
    """What the training data was like, words and surface; what is unlike either is out of distribution.

    A word is familiar if it is known, or with the word before, or with the word after, or if its shape is
    between these two. The surface's distance is Mahalanobis's, from the mean in units of the covariance.
    """

    bits: NDArray[np.uint8]
    """(CONTEXT_BUCKETS / 8,), packed big-endian as `numpy.packbits` does: one bit for each neighbourhood."""
    centre: NDArray[np.float32]
    """(S,)"""
    whitening: NDArray[np.float32]
    """(S, S), by which a deviation from the centre becomes one of unit covariance."""

    def out_of_distribution(self, surface: NDArray[np.float32], contexts: NDArray[np.int64]) -> float:
        """The larger of the two, in [0, 1], of `surface` (S,) and `contexts`."""
        return max(self.unfamiliar(contexts), self.far(surface))

    def unfamiliar(self, contexts: NDArray[np.int64]) -> float:
        """Share of unfamiliar words in [0, 1]; 1 for a text without words."""
        words = (len(contexts) - 1) // 3
        if words == 0:
            return 1.0
        known = self._known.take(contexts)
        familiar = known[:words] | known[words : 2 * words]
        familiar |= known[words + 1 : 2 * words + 1]
        familiar |= known[2 * words + 1 :]
        return 1.0 - int(np.count_nonzero(familiar)) / words

    def far(self, surface: NDArray[np.float32]) -> float:
        """Squared distance of a surface (S,), mapped to [0, 1): a typical one is near 1 / 4."""
        deviation = (surface - self.centre).dot(self.whitening)
        squared = float(deviation.dot(deviation))
        return squared / (squared + _FAR * len(self.centre))

    @cached_property
    def _known(self) -> NDArray[np.bool_]:
        return np.unpackbits(self.bits).astype(bool)
