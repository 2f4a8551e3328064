"""A text to a unit vector by table: the weighted sum of its words' vectors, each word once.

The vectors were read off a sentence encoder, one word at a time (`offline/words.py`): model2vec's recipe
(Minish, 2024). They know what sounds alike, and not what is the same: the `guards` look at that, and a
bound measures what is left (`hits`).

A word that the table does not have is looked for without its ending; failing that it becomes a vector of
its own by hashing, so that different unknown words differ. Numbers, dates and negations are the guards' and
not the vector's: "3 days" and "three days" are one.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headgate.router.errors import EmbeddingError
from headgate.router.guards import Marks

SCHEMA = 1
_FIELDS = {"schema", "words", "rows", "scales", "known"}
_ENDINGS = (
    ("ies", "y"),
    ("es", ""),
    ("s", ""),
    ("ing", ""),
    ("ing", "e"),
    ("ed", ""),
    ("ed", "e"),
    ("ly", ""),
)
_LEAST_STEM = 3
_LARGEST_DIM = 512
"""Bits of one hash."""
_RARE = 0.9
"""A word that no table knows weighs as much as the rarest tenth does at least."""
_TINY = 1e-12


class Look(NamedTuple):
    """What a text looks like."""

    vector: NDArray[np.float32]
    """(dim,), of length 1; all 0 where no word is known."""
    facts: bytes
    """What must agree exactly, of a fixed size: see `guards.difference`."""


class Embedding:
    """The table of words."""

    def __init__(
        self,
        version: str,
        places: dict[str, int],
        rows: NDArray[np.int8],
        scales: NDArray[np.float32],
        known: list[int],
    ) -> None:
        self.version, self.dim = version, rows.shape[1]
        self._places, self._rows, self._scales, self._known = places, rows, scales, known
        lengths = scales * np.linalg.norm(rows.astype(np.float32), axis=1)
        self._unknown = np.float32(np.quantile(lengths, _RARE))

    @classmethod
    def read(cls, data: bytes) -> Embedding:
        """From the bytes of `words.npz`; EmbeddingError if they are no such file."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                fields = {name: file[name] for name in _FIELDS}
            words = bytes(fields["words"]).decode().split("\n")
            known = [int(flags) for flags in fields["known"]]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise EmbeddingError("the table of words cannot be read; rebuild it with `make words`") from error
        rows, scales = fields["rows"], fields["scales"].astype(np.float32)
        _check(int(fields["schema"]), words, rows, scales, known)
        version = f"{SCHEMA}-{blake2b(data, digest_size=6).hexdigest()}"
        return cls(version, {word: place for place, word in enumerate(words)}, rows, scales, known)

    def look(self, text: str) -> Look:
        """Any text is fine, the empty one included; the same text always looks the same."""
        marks = Marks(text, self._lookup)
        return Look(self._vector(marks.words), marks.facts)

    def _lookup(self, word: str) -> int:
        place = self._place(word)
        return 0 if place is None else self._known[place]

    def _place(self, word: str) -> int | None:
        """The row of a word, or of what is left without its ending."""
        place = self._places.get(word)
        if place is not None or len(word) <= _LEAST_STEM:
            return place
        for ending, instead in _ENDINGS:
            if word.endswith(ending) and len(word) - len(ending) >= _LEAST_STEM:
                place = self._places.get(word[: len(word) - len(ending)] + instead)
                if place is not None:
                    return place
        return None

    def _vector(self, words: list[str]) -> NDArray[np.float32]:
        found = {word: self._place(word) for word in words}
        places = [place for place in found.values() if place is not None]
        if not places:
            return np.zeros(self.dim, dtype=np.float32)
        total = self._scales.take(places) @ self._rows.take(places, axis=0).astype(np.float32)
        for word, place in found.items():
            if place is None:
                total += self._unknown * _hashed(word, self.dim)
        return np.asarray(total / max(float(np.sqrt(total.dot(total))), _TINY), dtype=np.float32)


def _hashed(word: str, dim: int) -> NDArray[np.float32]:
    """(dim,) of length 1 for a word that no table knows."""
    bits = np.frombuffer(blake2b(word.encode("utf-8", "replace")).digest(), dtype=np.uint8)
    signs = np.unpackbits(bits)[:dim].astype(np.float32)
    return np.asarray((2 * signs - 1) / np.sqrt(np.float32(dim)))


def _check(
    schema: int,
    words: list[str],
    rows: NDArray[np.int8],
    scales: NDArray[np.float32],
    known: list[int],
) -> None:
    if schema != SCHEMA:
        raise EmbeddingError(
            f"the table of words has schema {schema}, this version reads {SCHEMA}; rebuild it"
        )
    n = len(words)
    fits = rows.dtype == np.int8 and rows.ndim == 2 and 0 < rows.shape[1] <= _LARGEST_DIM
    if not fits or not len(rows) == len(scales) == len(known) == len(set(words)) == n or scales.ndim != 1:
        raise EmbeddingError(
            "the parts of the table of words do not fit each other; rebuild it with `make words`"
        )
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise EmbeddingError("the table of words has scales that are no positive numbers; rebuild it")
