from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.router.offline import datasets
from headgate.router.offline.datasets import DataError, Outcomes
from headgate.router.types import Price

MakeOutcomes = Callable[[int, int], Outcomes]


def asked(*texts: str) -> Outcomes:
    """Two models that both answered these queries."""
    blank = np.full((len(texts), 2), np.nan)
    ids = tuple(f"q{i}" for i in range(len(texts)))
    return Outcomes(ids, texts, ("small", "large"), np.ones((len(texts), 2)), blank, blank)


def test_prices_are_exact_nano_dollars(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("model,usd_per_m_input,usd_per_m_output,version\nx,0.000000123,2.5,v9\ny,1,1,\n")
    found = datasets.read_prices(path)
    assert found["x"] == datasets.Listed(Price(123, 2_500_000_000), "v9")
    assert found["y"].version == ""


@pytest.mark.parametrize("price", ["$0.6", "", "-1", "NaN", "Infinity"])
def test_a_bad_price_is_named_by_its_place(tmp_path: Path, price: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f"model,usd_per_m_input,usd_per_m_output\nx,1,1\ny,1,{price}\n")
    with pytest.raises(DataError) as caught:
        datasets.read_prices(path)
    assert str(caught.value) == "p.csv:3: usd_per_m_output: must be a number of 0 or more"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        datasets.read_prices(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t.csv", b"", "t.csv has no column 'a'; it has none"),
        ("t.csv", b"A,b\n", "t.csv has no column 'a'; the nearest is 'A' of A, b"),
        ("t.csv", b"a,b\n1,2\n1,2,3\n", "t.csv:3: has 3 cells where the first line has 2; quote a text"),
        ("t.csv", b"a,b\n1\n", "t.csv:2: has 1 cells where the first line has 2; quote a text"),
        ("t.csv", b'a,b\n1,"2\n3,4\n', "t.csv:2: is no valid CSV (unexpected end of data)"),
        ("t.csv", b'a,b\n1,"2" 3\n', "t.csv:2: is no valid CSV (',' expected after '\"')"),
        ("t.csv", b"a,b\n1,2\n1,caf\xe9\n", "t.csv:3: is not UTF-8; save the file as UTF-8"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), "t.csv:1: is not UTF-8; save the file as UTF-8"),
        ("t.csv.gz", b"a,b\n1,2\n", "t.csv.gz: is no gzip file, or not all of one; pack it again"),
        (
            "t.csv.gz",
            gzip.compress(b"a,b\n1,2\n", mtime=0)[:-9],
            "t.csv.gz: is no gzip file, or not all of one",
        ),
        (
            "t.csv.gz",
            gzip.compress(b"a,b\n1,\xe9\n", mtime=0),
            "t.csv.gz:2: is not UTF-8; save the file as UTF-8",
        ),
    ],
)
def test_a_file_that_is_no_table_says_where_and_why(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(datasets.table(tmp_path / name, ("a",)).rows)
    assert str(caught.value).startswith(sentence)


def test_the_line_of_what_is_not_utf_8_is_right_far_down_in_a_file(tmp_path: Path) -> None:
    """Text is decoded some kilobytes ahead of the row that is read."""
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n" + b"1,2\n" * 9000 + b"1,\xff\n" + b"1,2\n" * 9000)
    with pytest.raises(DataError, match=r"t\.csv:9002: is not UTF-8"):
        list(datasets.table(path, ()).rows)


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text("a\n1\n")

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(datasets, "_open", refuse)  # root may read everything, so no mode can make it refuse
    with pytest.raises(DataError, match=r"t\.csv: cannot be read \(Permission denied\)"):
        datasets.table(tmp_path / "t.csv", ())


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_spreadsheets_byte_order_mark_and_empty_lines_do_no_harm(tmp_path: Path, name: str) -> None:
    content = "\ufeffa,b\r\n\r\n1,2\r\n\r\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    assert list(datasets.table(tmp_path / name, ("a", "b")).rows) == [(3, {"a": "1", "b": "2"})]


def test_models_are_reordered_by_name(make_outcomes: MakeOutcomes) -> None:
    plain = make_outcomes(1, 5)
    turned = plain.with_models(("big", "tiny"))
    assert (turned.score == plain.score[:, [2, 0]]).all()
    with pytest.raises(DataError, match="no model 'huge'"):
        plain.with_models(("huge",))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gpt4", "has no model 'gpt4'; the nearest is 'GPT-4' of GPT-4, mixtral-8x7b"),
        ("Mixtral", "has no model 'Mixtral'; the nearest is 'mixtral-8x7b' of GPT-4, mixtral-8x7b"),
        ("zzz", "has no model 'zzz'; it has GPT-4, mixtral-8x7b"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(name: str, told: str) -> None:
    assert told in str(datasets.unknown("it", "model", name, ("GPT-4", "mixtral-8x7b")))


def test_of_many_names_some_are_shown() -> None:
    told = str(datasets.unknown("it", "model", "zzz", [f"m{i}" for i in range(40)]))
    assert told.endswith("m10, m11, …")


def test_subjects_follow_their_rows_and_are_empty_where_unknown() -> None:
    plain = asked("first", "second", "third")
    assert plain.subjects == ("", "", "")
    told = replace(plain, subjects=("a", "b", "c"))
    assert told.take(np.array([2, 0])).subjects == ("c", "a")
    assert told.with_models(("large",)).subjects == ("a", "b", "c")
    assert plain.take(np.array([], dtype=np.intp)).subjects == ()


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("How much is 2 + 2?\nPut your final answer in \\boxed{...}.", "how much is 2 2"),
        ("Fill in \\boxed{x} = 3.\nWhat is x?", "fill in boxed x 3 what is x"),
        ("What is  2+2?", "what is 2 2"),
        ("Which one?\nA. this\nB. that\nAnswer:", "which one"),
        ("Which one?\n(A) this\n(B) that", "which one"),
        ("Which one?\n (B)this", "which one"),
        ("Which one?\r\nA) this\r\nB) that", "which one"),
        ("Which are true?\nI. this\nII. that\nA. I only", "which are true i this ii that"),
        ("Talk:\nA: hello\nB: well", "talk a hello b well"),
        ("At 3 A.M. by A. Smith", "at 3 a m by a smith"),
        ("snake_case ÄÖ 東京", "snake case äö 東京"),
        ("???", "???"),
        ("\nA. this\nB. that", "\nA. this\nB. that"),
        ("", ""),
    ],
)
def test_a_stem_is_the_question_without_options_case_and_signs(text: str, stem: str) -> None:
    assert asked(text).stems == (stem,)


@settings(deadline=None)
@given(draw=st.integers(0, 2**31), held_out=st.sampled_from([0.0, 0.2, 0.5]))
def test_parts_never_share_a_stem_and_lose_none(
    make_outcomes: MakeOutcomes, draw: int, held_out: float
) -> None:
    plain = make_outcomes(1, 60)
    again = plain.take(np.arange(20))  # twenty questions stand there two times, in other words
    texts = (*plain.texts, *(f"{text.upper()}?\nA. yes\nB. no" for text in again.texts))
    twice = replace(plain.take(np.array([*range(60), *range(20)])), texts=texts)
    shares = [0.5 * (1 - held_out), 0.5 * (1 - held_out), held_out]
    found = datasets.split(twice, draw, shares)
    stems = [set(part.stems) for part in found]
    assert not stems[0] & stems[1] | stems[0] & stems[2] | stems[1] & stems[2]
    assert set().union(*stems) == set(plain.stems)
    assert sum(map(len, found)) == 80
    assert len(stems[2]) == round(60 * held_out)
    evaluated = datasets.split(twice, draw, [1 - held_out, held_out])
    assert set(evaluated[1].texts) == set(found[2].texts), "evaluate finds what train held out"


def test_without_shared_stems_the_parts_are_drawn_by_text(make_outcomes: MakeOutcomes, seed: int) -> None:
    plain = make_outcomes(seed, 50)
    mixed = (text.upper() if i % 2 else text for i, text in enumerate(plain.texts))
    plain = replace(plain, texts=tuple(mixed))  # in another order than their stems
    assert len(set(plain.stems)) == 50
    order = np.random.default_rng(seed).permutation(50)
    texts = sorted(plain.texts)
    assert set(datasets.split(plain, seed, [0.4, 0.6])[0].texts) == {texts[i] for i in order[:20]}


def test_a_fold_is_the_same_in_every_table(make_outcomes: MakeOutcomes, seed: int) -> None:
    plain = make_outcomes(1, 400)
    other = replace(plain.take(np.arange(400)[::-1]), texts=tuple(f"{t}!\nA. x" for t in plain.texts[::-1]))
    here, there = datasets.folds(plain, seed, 5), datasets.folds(other, seed, 5)
    assert (here == there[::-1]).all()
    assert (datasets.folds(plain, seed + 1, 5) != here).mean() > 0.6, "another seed, other folds"
    assert np.bincount(here, minlength=5).tolist() == pytest.approx([80] * 5, abs=40)


def test_a_fold_of_today_is_the_fold_of_tomorrow() -> None:
    """Folds that moved would make yesterday's figures and today's answer different questions."""
    assert datasets.folds(asked("What is 2+2?", "Name it.", "Why?"), 1, 1000).tolist() == [163, 20, 235]


def test_leaks_are_the_questions_on_both_sides() -> None:
    train, test = asked("One?", "Two?", "Three?"), asked("four", "TWO", "two\nA. x", "one")
    assert datasets.leaks(train, test) == ("one", "two")
    assert datasets.leaks(train, asked("five")) == ()


def test_train_and_test_that_share_questions_are_refused_with_their_count() -> None:
    train, test = asked("secret one?", "two", "three"), asked("four", "Secret one", "secret one!")
    with pytest.raises(DataError) as caught:
        datasets.refuse_leaks(train, test)
    assert "share 1 of their questions, which 2 of 3 test queries ask" in str(caught.value)
    assert "secret" not in str(caught.value), "an error quotes no query"
    datasets.refuse_leaks(train, asked("four"))


@pytest.mark.parametrize(("n", "sentence"), [(1, "1 query is too few"), (19, "19 queries are too few")])
def test_too_few_queries_are_no_data_to_train_on(make_outcomes: MakeOutcomes, n: int, sentence: str) -> None:
    with pytest.raises(DataError, match=f"^{sentence}.* bring 20 or more"):
        datasets.check(make_outcomes(1, n))


@pytest.mark.parametrize(("score", "does"), [(1.0, "is right"), (0.0, "is wrong"), (0.5, r"scores 0\.5")])
def test_scores_of_one_kind_teach_nothing(make_outcomes: MakeOutcomes, score: float, does: str) -> None:
    plain = make_outcomes(1, 40)
    datasets.check(plain)
    plain.score[:30, 1], plain.score[30:, 1] = score, np.nan
    with pytest.raises(DataError, match=f"model 'mid' {does} on all 30 queries: there is nothing to learn"):
        datasets.check(plain)
    plain.score[:, 1] = np.nan
    with pytest.raises(DataError, match="model 'mid' answered none of the queries"):
        datasets.check(plain)


def test_the_fingerprint_sees_scores_and_not_the_order(make_outcomes: MakeOutcomes) -> None:
    plain = make_outcomes(1, 20)
    assert plain.take(np.arange(20)[::-1]).fingerprint == plain.fingerprint
    plain.score[7, 1] = 1 - plain.score[7, 1]
    assert plain.take(np.arange(20)).fingerprint != make_outcomes(1, 20).fingerprint
