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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from headgate.router.types import Query

SCHEMA = 2
READ_BYTES = 4096
"""What is read from each end of a long turn."""
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
_OPTION_SIGNS = bytes.maketrans(b"BCDEFGHIJ.:", b"AAAAAAAAA))")
_WORDS_KEPT = 256
_FAR = 3
_LONGEST = 1 << 14
"""Bytes that are read of a text; twice what a Query holds."""
_TOGETHER, _FEW = 64, 4
"""Texts that are read together, as more would cost memory and save little; fewer than a few are not."""
_BORDER = b"\0"
"""Follows each of the texts that are read together: a space, so that no word runs over it."""

_UINT = NDArray[np.uint64]
_Places = NDArray[np.intp]
_T = TypeVar("_T", bound=np.generic)
_WORD_BITS = 1 << 64
_EDGE, _ONE, _BEYOND = np.uint64(0x9FB21C651E98DF25), np.int32(1), np.iinfo(np.int32).max
_NOWHERE = np.empty(0, dtype=np.intp)


def _table(values: dict[int, bytes], rest: int) -> NDArray[np.uint8]:
    """One number for every byte."""
    table = np.full(256, rest, dtype=np.uint8)
    for value, members in values.items():
        table[list(members)] = value
    return table


def _powers(base: int) -> _UINT:
    """base^0, base^1, … modulo 2^64, for every byte of the longest text and the border after it."""
    factors = np.full(_LONGEST + 1, base, dtype=np.uint64)
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
_ROW_MASK = np.int32((1 << ROW_BITS) - 1)
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


def ends(text: str) -> str:
    """What is read of a turn: all of it, of a long one the first and the last 4,096 bytes."""
    raw = text.encode()
    if len(raw) <= 2 * READ_BYTES:
        return text
    return raw[:READ_BYTES].decode("utf-8", "ignore") + raw[-READ_BYTES:].decode("utf-8", "ignore")


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


def extract_all(queries: Sequence[Query]) -> Batch:
    """`pack` of every query's `extract`, bit for bit, in a fraction of the time; at least one query."""
    parts = (queries[start : start + _TOGETHER] for start in range(0, len(queries), _TOGETHER))
    return pack([one for part in parts for one in _extract_part(part)])


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
    starts, lengths, kept = _runs(read)
    if len(kept) > 2 * _WORDS_KEPT:
        kept = np.concatenate((kept[:_WORDS_KEPT], kept[-_WORDS_KEPT:]))
    return starts.take(kept), lengths.take(kept)


def _runs(read: NDArray[np.uint8]) -> tuple[_Places, _Places, _Places]:
    """Where runs of one kind and single marks start, their lengths, and which of them are no spaces."""
    kinds = _KIND.take(read)
    begins = kinds == _MARK
    begins[0] = True
    begins[1:] |= kinds[1:] != kinds[:-1]
    starts = begins.nonzero()[0]
    lengths = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1] = len(read) - starts[-1]
    return starts, lengths, kinds.take(starts).nonzero()[0]


def _hashes(
    read: NDArray[np.uint8], starts: _Places, lengths: _Places, first: NDArray[np.uint8]
) -> tuple[_UINT, _UINT]:
    """Hashes of the words and of their shapes, each with an edge on both sides: (words + 2,) each."""
    raw, shape = np.full((2, len(starts) + 2), _EDGE)
    raw[1:-1] = _spelled(_READING.take(read) * _POWERS[: len(read)], starts, lengths, starts)
    shape[1:-1] = _FIRST.take(first) + lengths.astype(np.uint64)
    return raw, shape


def _spelled(terms: _UINT, starts: _Places, lengths: _Places, places: _Places) -> _UINT:
    """Hashes of words by the terms of all bytes; a word's `places` is its start in its own text."""
    sums = np.zeros(len(terms) + 1, dtype=np.uint64)
    terms.cumsum(out=sums[1:])
    return (sums.take(starts + lengths) - sums.take(starts)) * _INVERSES.take(places)


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
    return _once(rows) + _ONE


def _once(rows: NDArray[np.int32]) -> NDArray[np.int32]:
    """Each of the rows once, in order, but for the last, which is free; sorts in place."""
    rows[-1] = _BEYOND
    rows.sort()
    return np.asarray(rows[:-1][rows[1:] != rows[:-1]])


def _surface(
    query: Query, text: bytes, read: NDArray[np.uint8], lengths: _Places, first: NDArray[np.uint8]
) -> NDArray[np.float32]:
    classes = np.bincount(_CLASS.take(read), minlength=len(_BYTE_CLASSES) + 1)
    numbers = lengths[_IS_DIGIT.take(first)]
    named = (
        len(text), len(lengths), *classes.tolist(),
        len(numbers), int(numbers.max(initial=0)), int(lengths.max(initial=0)), _options(text),
        query.system_bytes, query.history_turns, query.history_bytes,
    )  # fmt: skip
    return np.log1p(np.array(named, dtype=np.float32))


def _options(text: bytes) -> int:
    """How often `_OPTION` is found, which is at most one byte before a letter and its sign, or later."""
    first = text.translate(_OPTION_SIGNS).find(b"A)")
    return len(_OPTION.findall(text, max(first - 1, 0))) if first >= 0 else 0


def _extract_part(queries: Sequence[Query]) -> Iterable[Features]:
    return map(extract, queries) if len(queries) < _FEW else _extract_together(queries)


def _extract_together(queries: Sequence[Query]) -> list[Features]:
    """`extract` of each, every step taken for all texts at once; at most `_TOGETHER` queries."""
    words = _Words.of([query.text.encode("utf-8", "replace")[:_LONGEST] for query in queries])
    slots = _Slots.of(words.counts)
    keys, whose = _keys_of_all(slots, *_hashes_of_all(words, slots))
    n, all_words = len(queries), len(words.starts)
    shapes, ngrams = 2 * all_words + n, 4 * all_words + 2 * n
    return list(
        map(
            Features,
            _rows_of_all(keys[:ngrams], whose[:ngrams], n),
            _surface_of_all(queries, words, slots),
            _contexts_of_all(keys[shapes:], whose[shapes:], words.counts),
        )
    )


@dataclass(frozen=True, slots=True)
class _Words:
    """n texts that are read together, a border after each, and the words that are kept of them."""

    texts: Sequence[bytes]
    read: NDArray[np.uint8]
    sizes: _Places
    """(n,) bytes of each text and its border."""
    counts: _Places
    """(n,) words of each."""
    starts: _Places
    """(words,) in `read`, as are their `lengths` and `first` bytes."""
    lengths: _Places
    first: NDArray[np.uint8]

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> _Words:
        """Of each text what `_words` gives."""
        read = np.frombuffer(_BORDER.join((*texts, b"")), dtype=np.uint8)
        sizes = np.array([len(text) + len(_BORDER) for text in texts])
        starts, lengths, kept = _runs(read)
        firsts = np.searchsorted(starts.take(kept), sizes.cumsum() - sizes)
        counts = np.diff(firsts, append=len(kept))
        if counts.max() > 2 * _WORDS_KEPT:
            place = np.arange(len(kept)) - firsts.repeat(counts)
            kept = kept[(place < _WORDS_KEPT) | (place >= (counts - _WORDS_KEPT).repeat(counts))]
            counts = np.minimum(counts, 2 * _WORDS_KEPT)
        starts = starts.take(kept)
        return cls(texts, read, sizes, counts, starts, lengths.take(kept), read.take(starts))


@dataclass(frozen=True, slots=True)
class _Slots:
    """Places of n texts' words in one array (s,) that has an edge before and after those of each text."""

    opening: _Places
    """(n,) the edge before each text."""
    words: _Places
    """(words,)"""
    text: NDArray[np.int32]
    """(s,) whose each slot is."""
    is_word: NDArray[np.bool_]
    """(s,)"""
    is_followed: NDArray[np.bool_]
    """(s,) by a slot of the same text."""

    @classmethod
    def of(cls, counts: _Places) -> _Slots:
        """For so many words of each text (n,)."""
        sizes = counts + 2
        ends = sizes.cumsum()
        opening = ends - sizes
        is_followed = np.ones(ends[-1], dtype=bool)
        is_followed[ends - 1] = False
        is_word = is_followed.copy()
        is_word[opening] = False
        text = np.arange(len(counts), dtype=np.int32).repeat(sizes)
        return cls(opening, is_word.nonzero()[0], text, is_word, is_followed)


def _hashes_of_all(words: _Words, slots: _Slots) -> tuple[_UINT, _UINT]:
    """As `_hashes`, by slot: (s,) each."""
    powers = np.concatenate([_POWERS[:size] for size in words.sizes.tolist()])
    begins = words.sizes.cumsum() - words.sizes
    places = words.starts - begins.repeat(words.counts)
    raw, shape = np.full((2, len(slots.text)), _EDGE)
    raw[slots.words] = _spelled(_READING.take(words.read) * powers, words.starts, words.lengths, places)
    shape[slots.words] = _FIRST.take(words.first) + words.lengths.astype(np.uint64)
    return raw, shape


def _keys_of_all(slots: _Slots, raw: _UINT, shape: _UINT) -> tuple[_UINT, NDArray[np.int32]]:
    """As `_keys`, kind by kind for all texts, and whose each is; none spans the edges of two texts."""
    word, pair, text = slots.is_word[1:-1], slots.is_followed[:-1], slots.text
    within = np.concatenate((word, pair, word, pair, word)).nonzero()[0]
    whose = np.concatenate((text[1:-1], text[:-1], text[1:-1], text[:-1], text[1:-1]))
    return _keys(raw, shape).take(within), whose.take(within)


def _rows_of_all(keys: _UINT, whose: NDArray[np.int32], n: int) -> list[NDArray[np.int32]]:
    """As `_rows` for each of n texts; one sort does for all, with the text in the bits above the row's."""
    rows = np.empty(len(keys) + 1, dtype=np.int32)
    np.right_shift(keys, _TO_ROW, out=rows[:-1], casting="unsafe")
    rows[:-1] |= whose << ROW_BITS
    rows = _once(rows)
    return _split((rows & _ROW_MASK) + _ONE, np.bincount(rows >> ROW_BITS, minlength=n))


def _contexts_of_all(keys: _UINT, whose: NDArray[np.int32], counts: _Places) -> list[NDArray[np.int64]]:
    """The contexts of each text, out of keys that stand kind by kind."""
    order = whose.astype(np.uint8).argsort(kind="stable")
    return _split((keys >> _TO_CONTEXT).astype(np.int64).take(order), 3 * counts + 1)


def _split(array: NDArray[_T], sizes: _Places) -> list[NDArray[_T]]:
    """Pieces of these sizes."""
    return [array[start:end] for start, end in pairwise((0, *sizes.cumsum().tolist()))]


def _surface_of_all(queries: Sequence[Query], words: _Words, slots: _Slots) -> NDArray[np.float32]:
    """As `_surface` of each, (n, S)."""
    spans = np.zeros((2, len(slots.text)), dtype=np.intp)
    spans[:, slots.words] = words.lengths, words.lengths * _IS_DIGIT.take(words.first)
    longest_word, longest_number = np.maximum.reduceat(spans, slots.opening, axis=1)
    numbers = np.add.reduceat(spans[1] > 0, slots.opening, dtype=np.intp)
    options = list(map(_options, words.texts))
    told = np.array(
        [(query.system_bytes, query.history_turns, query.history_bytes) for query in queries],
        dtype=np.float32,
    )
    named = (
        words.sizes - len(_BORDER), words.counts, _classes_of_all(words),
        numbers, longest_number, longest_word, options,
        told,
    )  # fmt: skip
    return np.log1p(np.column_stack(named).astype(np.float32))


def _classes_of_all(words: _Words) -> _Places:
    """How many bytes of every class each text has, (n, classes)."""
    n, classes = len(words.texts), len(_BYTE_CLASSES) + 1
    places = np.arange(0, n * classes, classes).repeat(words.sizes)
    places += _CLASS.take(words.read)
    counts = np.bincount(places, minlength=n * classes).reshape(n, classes)
    counts[:, _CLASS[_BORDER[0]]] -= 1
    return counts


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

    def out_of_distribution_all(self, batch: Batch) -> NDArray[np.float64]:
        """`out_of_distribution` of every query, (n,)."""
        return np.maximum(self._unfamiliar_all(batch.contexts), self._far_all(batch.surface))

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

    def _unfamiliar_all(self, contexts: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """`unfamiliar` of each of n queries' contexts, (n,); those of w words are 3w + 1."""
        n, known = len(contexts), self._known.take(np.concatenate(contexts))
        words = np.array([len(one) // 3 for one in contexts])
        whose, before = np.arange(n).repeat(words), words.cumsum() - words
        itself = np.arange(len(whose)) + (2 * before + np.arange(n)).take(whose)
        pair = itself + words.take(whose)
        familiar = known.take(itself) | known.take(pair)
        familiar |= known.take(pair + 1)
        familiar |= known.take(pair + 1 + words.take(whose))
        found = np.bincount(whose[familiar], minlength=n)
        return np.asarray(1.0 - found / np.maximum(words, 1))

    def _far_all(self, surface: NDArray[np.float32]) -> NDArray[np.float64]:
        """`far` of each of the surfaces (n, S), (n,).

        One product for each row, because that of two matrices would round otherwise than `far`.
        """
        deviation = np.matmul((surface - self.centre)[:, None], self.whitening)[:, 0]
        squared = np.vecdot(deviation, deviation).astype(np.float64)
        return np.asarray(squared / (squared + _FAR * len(self.centre)))

    @cached_property
    def _known(self) -> NDArray[np.bool_]:
        return np.unpackbits(self.bits).astype(bool)
