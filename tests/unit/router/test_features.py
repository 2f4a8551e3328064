from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headgate.router import features
from headgate.router.features import BUCKETS, CONTEXT_BUCKETS, SURFACE, Batch, Familiarity
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
    assert (np.diff(one.ngrams) > 0).all(), "each row once"
    assert len(one.contexts) == 3 * surface_of(ask(text))["words"] + 1
    assert one.contexts.dtype == np.int64
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


@given(text=st.lists(st.sampled_from([*"AJKa).:( \n\t\0", "A) ", "(B.\n", " J:"]), max_size=20).map("".join))
@example(text="which: A) B) C) D) ")
@example(text="A)")
def test_options_are_counted_from_the_left_and_share_no_byte(ask: Ask, text: str) -> None:
    options = re.findall(r"(?:^|[ \t\n(])[A-J][).:][ \t\n]", text, re.MULTILINE)
    assert surface_of(ask(text))["options"] == len(options)


def test_numbers_of_equal_length_look_alike_and_longer_ones_do_not(ask: Ask) -> None:
    same, other, longer = (features.extract(ask(f"add {number}")) for number in ("12", "98", "123"))
    assert (same.ngrams.tolist(), same.contexts.tolist()) == (other.ngrams.tolist(), other.contexts.tolist())
    assert set(same.ngrams.tolist()) != set(longer.ngrams.tolist())


WORD = re.compile(rb"[0-9]+|[A-Za-z\x80-\xff]+|[^0-9A-Za-z\x80-\xff \t\n\r\x0b\x0c\0]")
MARKED = re.compile(rb"[A-Za-z\x80-\xff]")


def read_slowly(text: str) -> tuple[list[int], list[int]]:
    """Rows and contexts by the schema's own words, with a loop over words and none of numpy's tricks."""
    words = WORD.findall(text.encode("utf-8", "replace")[: 1 << 14])
    if len(words) > 512:
        words = words[:256] + words[-256:]
    edge, most = int(features._EDGE), 1 << 64
    a, b, c, d, mix = (int(getattr(features, f"_{name}")) for name in ("A", "B", "C", "D", "MIX"))

    def spelled(word: bytes) -> int:
        plain = re.sub(rb"[0-9]", b"0", word.lower())
        return sum((byte + 1) * pow(features._BASE, place, most) for place, byte in enumerate(plain)) % most

    def shaped(word: bytes) -> int:
        kind = 256 if word[:1].isdigit() else 257 if MARKED.match(word) else word[0]
        return ((258 if word[:1].isupper() else kind) << 20) + len(word)

    raw = [edge, *map(spelled, words), edge]
    shape = [edge, *map(shaped, words), edge]
    pairs, inner = range(len(raw) - 1), range(1, len(raw) - 1)

    def keys(sums: Iterable[int]) -> list[int]:
        return [(key % most ^ key % most >> 32) * mix % most for key in sums]

    of_shapes = keys([*(shape[i] * c for i in inner), *(shape[i] * c + shape[i + 1] * d for i in pairs)])
    of_words = keys([*(raw[i] for i in inner), *(raw[i] * a + raw[i + 1] * b for i in pairs)])
    between = keys(raw[i - 1] * a + shape[i] * c + raw[i + 1] * b for i in inner)
    rows = {(key >> (64 - features.ROW_BITS)) + 1 for key in of_shapes + of_words}
    return sorted(rows), [key >> (64 - features.CONTEXT_BITS) for key in of_words + between]


@given(text=st.text(max_size=120) | st.text(alphabet="aB1 9+é\n\0?", max_size=60))
@example(text="word, " * 600)
@example(text="é" * 20_000)
def test_the_fast_reading_is_the_slow_one(ask: Ask, text: str) -> None:
    one = features.extract(ask(text))
    assert (one.ngrams.tolist(), one.contexts.tolist()) == read_slowly(text)


def test_pack_pads_with_zero_and_keeps_rows(ask: Ask) -> None:
    ones = [features.extract(ask(text)) for text in ("short", "rather a longer text")]
    batch = features.pack(ones)
    assert batch.ngrams.shape == (2, len(ones[1].ngrams))
    assert (batch.ngrams[0, len(ones[0].ngrams) :] == 0).all()
    assert (batch.ngrams[0, : len(ones[0].ngrams)] == ones[0].ngrams).all()
    assert (batch.surface[1] == ones[1].surface).all()


BORDERING = ("", "   \n", "\0", "?", "a", "7", "é", "A)", "\nB) ", "\ud800")
LONG = ("word, " * 600, "12 " * 6000, "é" * 20_000, "a" * (1 << 14), " " * 20_000)
TEXTS = (
    st.text(max_size=80) | st.text(alphabet="aB1 9+é\n\0?)", max_size=60) | st.sampled_from(BORDERING + LONG)
)
QUERIES = st.lists(st.tuples(TEXTS, *[st.integers(0, 1 << 40)] * 3), min_size=1, max_size=9)


def asked_of(ask: Ask, told: Iterable[tuple[str, int, int, int]]) -> list[Query]:
    names = ("system_bytes", "history_turns", "history_bytes")
    return [ask(text, **dict(zip(names, context, strict=True))) for text, *context in told]


def one_by_one(queries: Iterable[Query]) -> Batch:
    return features.pack([features.extract(query) for query in queries])


def assert_same(one: Batch, other: Batch) -> None:
    pairs = zip(
        (one.ngrams, one.surface, *one.contexts), (other.ngrams, other.surface, *other.contexts), strict=True
    )
    for array, twin in pairs:
        assert array.dtype == twin.dtype
        assert array.shape == twin.shape
        assert array.tobytes() == twin.tobytes()


@given(told=QUERIES)
@example(told=[("", 0, 0, 0)] * 9)
@example(told=[(text, 1, 2, 3) for text in BORDERING])
@example(told=[(text, 0, 0, 0) for text in (*LONG, "b", *LONG)])
def test_queries_read_together_are_to_the_bit_what_they_are_one_by_one(
    ask: Ask, told: list[tuple[str, int, int, int]]
) -> None:
    queries = asked_of(ask, told)
    assert_same(features.extract_all(queries), one_by_one(queries))


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 200])
def test_any_number_of_queries_keeps_its_order(ask: Ask, n: int) -> None:
    queries = [ask(f"{'word ' * (row % 7)}{'9' * row}", system_bytes=row) for row in range(n)]
    assert_same(features.extract_all(queries), one_by_one(queries))


def test_many_long_texts_need_little_more_memory_at_a_time_than_a_few(ask: Ask) -> None:
    def peak(n: int) -> int:
        queries = [ask("a " * 4096)] * n
        tracemalloc.start()
        features.extract_all(queries)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    assert peak(512) < 3 * peak(64)


def test_the_schema_is_what_its_number_says(ask: Ask) -> None:
    """Weights are trained against these very numbers: whoever changes them raises SCHEMA and this digest."""
    one = features.extract(ask("Which is largest: 12, 345? Reverse abc; é $x$ {y}", history_turns=1))
    rounded = one.surface.round(4).astype("<f4")
    digest = sha256(
        one.ngrams.astype("<i4").tobytes() + rounded.tobytes() + one.contexts.astype("<i8").tobytes()
    )
    assert (features.SCHEMA, digest.hexdigest()[:16]) == (2, "90741d784f39e54b")


def knowing(seen: np.ndarray) -> Familiarity:
    """Of the neighbourhoods that are set; a surface is measured as it is."""
    s = len(SURFACE)
    return Familiarity(np.packbits(seen), np.zeros(s, dtype=np.float32), np.eye(s, dtype=np.float32))


def known_by(*texts: str, ask: Ask) -> Familiarity:
    seen = np.zeros(CONTEXT_BUCKETS, dtype=bool)
    for text in texts:
        seen[features.extract(ask(text)).contexts] = True
    return knowing(seen)


def test_familiarity_knows_its_texts_and_their_like(ask: Ask) -> None:
    known = known_by("Reverse abcde", "What is 12 + 345?", ask=ask)

    def unfamiliar(text: str) -> float:
        return known.unfamiliar(features.extract(ask(text)).contexts)

    assert unfamiliar("Reverse abcde") == 0.0
    assert unfamiliar("What is 98 + 761?") == 0.0
    assert unfamiliar("Reverse xyzuv") == 0.0
    assert unfamiliar("Who wrote the tragedy of Hamlet, and when") > 0.8
    assert unfamiliar("") == 1.0


@given(text=st.text(alphabet="ab 1+", max_size=40), seed=st.integers(0, 2**32 - 1))
def test_a_word_is_familiar_by_itself_or_its_neighbours(ask: Ask, text: str, seed: int) -> None:
    bits = np.random.default_rng(seed).random(CONTEXT_BUCKETS) < 0.3
    contexts = features.extract(ask(text)).contexts
    words = (len(contexts) - 1) // 3
    known = bits[contexts].tolist()
    itself, pairs, between = known[:words], known[words : 2 * words + 1], known[2 * words + 1 :]
    familiar = [any((itself[i], pairs[i], pairs[i + 1], between[i])) for i in range(words)]
    expected = 1 - sum(familiar) / words if words else 1.0
    assert knowing(bits).unfamiliar(contexts) == pytest.approx(expected)


def test_a_surface_is_the_farther_the_more_deviations_it_is_off(ask: Ask, seed: int) -> None:
    """A squared distance of S maps to 1 / (1 + _FAR), whatever the directions weigh."""
    rng, s = np.random.default_rng(seed), len(SURFACE)
    spread = rng.normal(size=(s, s))
    root = np.linalg.cholesky(spread @ spread.T + np.eye(s))
    centre = rng.normal(size=s).astype(np.float32)
    bits = np.zeros(CONTEXT_BUCKETS // 8, dtype=np.uint8)
    known = Familiarity(bits, centre, np.linalg.inv(root).T.astype(np.float32))
    step = rng.normal(size=s)
    step *= np.sqrt(s) / np.linalg.norm(step)
    far = [known.far((centre + root @ (step * times)).astype(np.float32)) for times in (0, 1, 2, 1000)]
    squared = [0.0, 1.0, 4.0, 1e6]
    assert far == pytest.approx([d / (d + features._FAR) for d in squared], abs=1e-3)
    assert far[-1] < 1.0


def test_what_is_unlike_in_words_or_in_surface_is_out_of_distribution(ask: Ask) -> None:
    one = features.extract(ask("Reverse abcde"))
    near, strange = replace(knowing_all(), whitening=np.zeros((len(SURFACE),) * 2, np.float32)), knowing_all()
    assert near.out_of_distribution(one.surface, one.contexts) == 0.0
    assert strange.out_of_distribution(one.surface, one.contexts) == strange.far(one.surface) > 0.1
    words = known_by("another text", ask=ask)
    assert words.out_of_distribution(one.surface, one.contexts) == words.unfamiliar(one.contexts) == 1.0


@given(told=QUERIES, seed=st.integers(0, 2**32 - 1))
@example(told=[("", 0, 0, 0)] * 4, seed=0)
def test_a_batch_is_as_strange_to_the_bit_as_its_queries_one_by_one(
    ask: Ask, told: list[tuple[str, int, int, int]], seed: int
) -> None:
    """Certificates are made from batches and speak of queries that are served one by one."""
    rng, s = np.random.default_rng(seed), len(SURFACE)
    batch = one_by_one(asked_of(ask, told))
    near = replace(knowing(rng.random(CONTEXT_BUCKETS) < 0.2), whitening=np.zeros((s, s), np.float32))
    far = replace(
        knowing_all(), centre=batch.surface[0], whitening=rng.normal(size=(s, s)).astype(np.float32)
    )
    for known in (near, far, replace(far, bits=near.bits), replace(far, whitening=far.whitening.T)):
        alone = map(known.out_of_distribution, batch.surface, batch.contexts)
        assert known.out_of_distribution_all(batch).tolist() == list(alone)


def knowing_all() -> Familiarity:
    return knowing(np.ones(CONTEXT_BUCKETS, dtype=bool))
