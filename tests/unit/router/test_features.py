from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.router import features
from headgate.router.features import BUCKETS, CONTEXT_BUCKETS, SURFACE, Familiarity
from headgate.router.types import Query

Ask = Callable[..., Query]


def surface_of(query: Query) -> dict[str, float]:
    values = np.expm1(features.extract(query).surface)
    return dict(zip(SURFACE, values.round(3).tolist(), strict=True))


@given(text=st.text(max_size=300))
def test_any_text_gives_arrays_in_range(ask: Ask, text: str) -> None:
    one = features.extract(ask(text))
    assert one.ngrams.dtype == np.int32
    assert one.ngrams.min() >= 1
    assert one.ngrams.max() < BUCKETS
    assert one.surface.shape == (len(SURFACE),)
    assert one.surface.dtype == np.float32
    assert np.isfinite(one.surface).all()
    assert one.contexts.shape[0] == 4
    assert ((one.contexts >= 0) & (one.contexts < CONTEXT_BUCKETS)).all()


def test_a_lone_surrogate_is_no_failure(ask: Ask) -> None:
    assert len(features.extract(ask("a \ud800 b")).ngrams) > 0


def test_surface_counts_what_its_names_say(ask: Ask) -> None:
    seen = surface_of(ask("What is 12 + 3456?\nA) x\nB) y", system_bytes=7, history_turns=2))
    expected = {
        "bytes": 28, "words": 12, "digits": 6, "letters": 7, "capitals": 3, "newlines": 2, "plus": 1,
        "question": 1, "parentheses": 2, "numbers": 2, "longest_number": 4, "longest_word": 4, "options": 2,
        "other": 0, "system_bytes": 7, "history_turns": 2, "history_bytes": 0,
    }  # fmt: skip
    assert {name: seen[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        ("latex", r"$\frac$", 3),
        ("code", "{x;}", 3),
        ("non_ascii", "é", 2),
        ("minus", "a-b", 1),
        ("other", "~@", 2),
    ],
)
def test_marks_are_counted_by_kind(ask: Ask, name: str, text: str, count: int) -> None:
    assert surface_of(ask(text))[name] == count


def test_numbers_of_equal_length_look_alike_and_longer_ones_do_not(ask: Ask) -> None:
    # Byte triples see the digits themselves, so they are taken off.
    words = [
        set(features.extract(ask(f"add {number}")).ngrams[:-5].tolist()) for number in ("12", "98", "123")
    ]
    assert words[0] == words[1] != words[2]


def test_pack_pads_with_zero_and_keeps_rows(ask: Ask) -> None:
    ones = [features.extract(ask(text)) for text in ("short", "rather a longer text")]
    batch = features.pack(ones)
    assert batch.ngrams.shape == (2, len(ones[1].ngrams))
    assert (batch.ngrams[0, len(ones[0].ngrams) :] == 0).all()
    assert (batch.ngrams[0, : len(ones[0].ngrams)] == ones[0].ngrams).all()
    assert (batch.surface[1] == ones[1].surface).all()


def test_the_schema_is_what_its_number_says(ask: Ask) -> None:
    """Weights are trained against these very numbers: whoever changes them raises SCHEMA and this digest."""
    one = features.extract(ask("Which is largest: 12, 345? Reverse abc; é $x$ {y}", history_turns=1))
    rounded = one.surface.round(4).astype("<f4")
    digest = sha256(
        one.ngrams.astype("<i4").tobytes() + rounded.tobytes() + one.contexts.astype("<i8").tobytes()
    )
    assert (features.SCHEMA, digest.hexdigest()[:16]) == (1, "1f15dc837c41d5e9")


def known_by(*texts: str, ask: Ask) -> Familiarity:
    seen = np.zeros(CONTEXT_BUCKETS, dtype=bool)
    for text in texts:
        seen[features.extract(ask(text)).contexts] = True
    return Familiarity(np.packbits(seen))


def test_familiarity_knows_its_texts_and_their_like(ask: Ask) -> None:
    known = known_by("Reverse abcde", "What is 12 + 345?", ask=ask)

    def unfamiliar(text: str) -> float:
        return known.unfamiliar(features.extract(ask(text)).contexts)

    assert unfamiliar("Reverse abcde") == 0.0
    assert unfamiliar("What is 98 + 761?") == 0.0
    assert unfamiliar("Reverse xyzuv") == 0.0
    assert unfamiliar("Who wrote the tragedy of Hamlet, and when") > 0.8
    assert unfamiliar("") == 1.0
