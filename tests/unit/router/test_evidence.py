from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.router import evidence, features
from headgate.router.evidence import NUMBERS
from headgate.router.types import Draft, Objective, Query

QUESTION = "Tom has 3 boxes of 12 eggs. How many eggs has he?"
RIGHT = "He has 3 * 12 = 36 eggs.\nThe answer is 36."


def number(name: str, text: str, question: str = QUESTION, **fields: object) -> float:
    draft = Draft("small", text, **fields)  # type: ignore[arg-type]
    return float(evidence.extract(question, draft).numbers[NUMBERS.index(name)])


def test_names_are_told_apart_and_every_one_has_a_number() -> None:
    assert len(set(NUMBERS)) == len(NUMBERS)
    assert evidence.extract(QUESTION, Draft("small", RIGHT)).numbers.shape == (len(NUMBERS),)


def test_the_n_grams_are_those_of_a_query_of_the_same_text() -> None:
    seen = evidence.extract(QUESTION, Draft("small", RIGHT))
    asked = features.extract(Query(RIGHT, Objective(risk_target=0.5)))
    assert seen.ngrams.tolist() == asked.ngrams.tolist()


@pytest.mark.parametrize(
    ("name", "more", "less"),
    [
        ("an_equation_fails", "3 * 12 = 35", "3 * 12 = 36"),
        ("equations_hold", "3 * 12 = 36", "36"),
        ("share_of_query_numbers", "3 and 12", "7"),
        ("new_numbers", "7 and 8", "3 and 12"),
        ("last_number_repeats", "36, so 36", "36"),
        ("last_number_decimal", "3.5", "35"),
        ("last_number_in_query", "12", "36"),
        ("repeated", "we add it up and we add it up and we add it up", "we add it up and then we are done"),
        ("hedges", "Maybe 36, but wait", "36"),
        ("refuses", "I cannot say", "36"),
        ("names_an_answer", "The answer is 36", "36"),
        ("boxes", r"\boxed{36}", "36"),
        ("ends_closed", "It is 36.", "It is 3"),
        ("answers_an_option", "The answer is (B)", "The answer is 36"),
    ],
)
def test_a_number_tells_what_its_name_says(name: str, more: str, less: str) -> None:
    assert number(name, more) > number(name, less)


def test_json_is_only_judged_where_it_was_asked_for() -> None:
    asked = "Give the eggs as JSON."
    assert number("is_json", '{"eggs": 36}', asked) == 1
    assert number("is_json", "eggs: 36", asked) == 0
    assert number("is_json", '{"eggs": 36}') == 0


def test_a_draft_that_was_cut_is_not_finished() -> None:
    assert [number("finished", RIGHT, finished=finished) for finished in (True, False)] == [1, 0]


def test_log_probabilities_are_summed_up_and_bounded() -> None:
    told = {"tokens": 4, "logprobs": (-0.1, -0.2, -3.0, -200.0)}
    assert number("least_logprob", RIGHT, **told) == -20
    assert number("mean_logprob", RIGHT, **told) == pytest.approx(-23.3 / 4)
    assert number("sum_logprob", RIGHT, **told) == pytest.approx(-23.3)
    assert number("share_unsure", RIGHT, **told) == 0.5
    assert number("last_logprob", RIGHT, **told) == -20
    assert number("mean_logprob", RIGHT) == 0


@given(st.text(max_size=400), st.text(max_size=400), st.lists(st.floats(-100, 0), max_size=9))
def test_any_draft_has_finite_numbers(question: str, text: str, logprobs: list[float]) -> None:
    seen = evidence.extract(question, Draft("small", text, logprobs=tuple(logprobs)))
    assert np.isfinite(seen.numbers).all()
    assert (seen.ngrams >= 1).all()
    assert (seen.ngrams < features.BUCKETS).all()


def test_a_draft_keeps_its_text_out_of_its_repr() -> None:
    assert "secret" not in repr(Draft("small", "secret"))
