from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest

from headgate.router.embedding import Embedding
from headgate.router.errors import EmbeddingError

WORDS = ("cancel", "stop", "rain", "snow")
Fields = dict[str, np.ndarray]


def fields() -> Fields:
    rows = np.random.default_rng(1).integers(-127, 128, (len(WORDS), 16)).astype(np.int8)
    return {
        "schema": np.array(1),
        "words": np.frombuffer("\n".join(WORDS).encode(), dtype=np.uint8),
        "rows": rows,
        "scales": np.ones(len(WORDS), dtype=np.float32),
        "known": np.ones(len(WORDS), dtype=np.uint8),
    }


def packed(parts: Fields) -> bytes:
    file = io.BytesIO()
    np.savez(file, **parts)
    return file.getvalue()


def test_a_look_is_a_unit_vector_and_always_the_same(words: Embedding) -> None:
    look, again = (words.look("How do I bake bread?") for _ in range(2))
    assert look.vector.shape == (words.dim,)
    assert look.vector.dtype == np.float32
    assert np.linalg.norm(look.vector) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(look.vector, again.vector)


@pytest.mark.parametrize("text", ["", "?!", "2 + 2", "北京有多少人"])
def test_a_text_without_known_words_is_zero(words: Embedding, text: str) -> None:
    assert not words.look(text).vector.any()


def test_likeness_is_that_of_meaning(words: Embedding) -> None:
    asked = words.look("How do I bake bread?").vector
    near, far = (words.look(text).vector for text in ("baking a loaf of bread", "the orbit of a planet"))
    assert asked @ near > 0.7 > 0.3 > asked @ far


def test_a_word_without_its_ending_is_found_and_unknown_words_differ(words: Embedding) -> None:
    table = Embedding.read(packed(fields()))
    assert np.array_equal(table.look("raining").vector, table.look("rain").vector)
    one, other = (table.look(f"rain {unknown}").vector for unknown in ("frobnix", "blargle"))
    assert 0.99 > one @ other > -0.99


def test_the_version_is_that_of_the_bytes() -> None:
    other = fields() | {"scales": np.full(len(WORDS), 2, dtype=np.float32)}
    assert Embedding.read(packed(fields())).version != Embedding.read(packed(other)).version


def without(name: str) -> Callable[[Fields], bytes]:
    return lambda parts: packed({key: value for key, value in parts.items() if key != name})


BAD: dict[str, Callable[[Fields], bytes]] = {
    "nothing": lambda parts: b"",
    "no archive": lambda parts: b"words",
    "cut": lambda parts: packed(parts)[:-40],
    "no rows": without("rows"),
    "no letters": lambda parts: packed(parts | {"words": np.full(9, 255, dtype=np.uint8)}),
    "another schema": lambda parts: packed(parts | {"schema": np.array(2)}),
    "a row too few": lambda parts: packed(parts | {"rows": parts["rows"][1:]}),
    "floats": lambda parts: packed(parts | {"rows": parts["rows"].astype(np.float32)}),
    "a scale of nothing": lambda parts: packed(parts | {"scales": np.full(len(WORDS), np.nan)}),
    "pickles": lambda parts: packed(parts | {"known": np.array([None] * len(WORDS))}),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_data_is_one_sentence(kind: str) -> None:
    with pytest.raises(EmbeddingError, match="table of words"):
        Embedding.read(BAD[kind](fields()))
