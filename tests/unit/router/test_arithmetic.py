from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.router.arithmetic import equations


@pytest.mark.parametrize(
    "text",
    [
        "3 * (4 + 1) = 15",
        "so $1,200 / 4 = $300 each",
        r"\[ 2 \times 3 = 6 \]",
        "2 × 3 = 6, then",
        "50% * 20 = 10",
        "5 / 20 = 25%",
        "10 - 2 - 3 = 5",
        "-(2) + 5 = 3",
        "2 * -3 = -6",
        "100 / 3 = 33.33",
        "0.5 * 20 = 10 apples",
    ],
)
def test_an_equation_that_holds_is_seen(text: str) -> None:
    assert equations(text) == (1, 0)


@pytest.mark.parametrize("text", ["2 + 2 = 5", "12 * 12 = 142.", "3 * 4 + 1 = 15", "5 / 20 = 20%"])
def test_an_equation_that_fails_is_seen(text: str) -> None:
    assert equations(text) == (0, 1)


@pytest.mark.parametrize(
    "text", ["", "x + 1 = 3", "3 = 3", "1 / 0 = 3", "(1 + 2 = 3", "3 * 4 = 2 * 6", "1 + 1 = 2/2", "1 + = 2"]
)
def test_what_is_no_equation_is_passed_over(text: str) -> None:
    assert equations(text) == (0, 0)


def test_all_equations_of_a_text_are_counted() -> None:
    assert equations("He has 3 * 5 = 15. She has 15 - 4 = 12, together 15 + 11 = 26.") == (2, 1)


@given(st.integers(0, 999), st.integers(1, 999), st.sampled_from("+-*/"))
def test_it_reckons_as_python_does(a: int, b: int, sign: str) -> None:
    value = {"+": a + b, "-": a - b, "*": a * b, "/": round(a / b, 4)}[sign]
    assert equations(f"{a} {sign} {b} = {value}") == (1, 0)
    assert equations(f"{a} {sign} {b} = {value + 1 + abs(value)}") == (0, 1)


@given(st.text(alphabet="0123456789.+-*/()=$%, x\n", max_size=200))
def test_any_text_is_fine(text: str) -> None:
    hold, fail = equations(text)
    assert min(hold, fail) >= 0


@pytest.mark.parametrize(
    "text",
    [
        "1" * 16_000,
        "(" * 16_000 + "=1",
        "1 +" * 5_000 + " = 1",
        "1=" * 8_000,
        "1+1=" + "9" * 16_000 + "+",
        "1+" * 38 + "1=" + "9" * 16_000 + "*",
        "1+1=1." + "9" * 16_000 + "(",
        "1,000" * 3_000,
    ],
)
def test_a_hostile_text_takes_no_longer_than_a_long_one(text: str) -> None:
    began = time.perf_counter()
    equations(text)
    assert time.perf_counter() - began < 1.0
