from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.router.cost import CostModel, ModelCost, call_cost, estimate_tokens, expected_cost, mean_costs
from headgate.router.types import Price

money = st.integers(0, 10**12)
tokens = st.integers(0, 10**7)


@given(money, money, tokens, tokens)
def test_a_call_costs_its_exact_price_rounded_half_up(
    read: int, written: int, prompt: int, answer: int
) -> None:
    exact = Fraction(prompt * read + answer * written, 10**6)
    cost = call_cost(Price(read, written), prompt, answer)
    assert exact - Fraction(1, 2) < cost <= exact + Fraction(1, 2)


@pytest.mark.parametrize(("tokens", "cost"), [(0, 0), (1, 1), (2, 1), (3, 2)])
def test_half_a_nano_dollar_is_rounded_up(tokens: int, cost: int) -> None:
    assert call_cost(Price(500_000, 0), tokens, 0) == cost


@pytest.mark.parametrize(
    ("text", "expected"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("日本語", 3), ("ab語", 2)]
)
def test_four_ascii_bytes_or_one_other_character_are_a_token(text: str, expected: int) -> None:
    assert estimate_tokens(text) == expected


def test_relative_cost_is_one_for_the_mean_reference_call() -> None:
    cheap, dear = ModelCost(Price(10**6, 0), 1.0, 5.0), ModelCost(Price(10**7, 2 * 10**7), 2.0, 5.0)
    unit = 10 * 2.0 * 10 + 5 * 20  # 10 estimated prompt tokens, 5 tokens of answer
    costs = CostModel((cheap, dear), float(unit))
    relative = costs.relative(np.array([10.0]), np.array([[5.0, 5.0]]))
    assert relative == pytest.approx(np.array([[10 / unit, 1.0]]))


def test_expected_cost_uses_the_model_s_own_tokens_and_todays_price() -> None:
    known = ModelCost(Price(1, 1), prompt_ratio=4.0, mean_completion=3.0)
    today = Price(1_000_000, 10_000_000)
    assert expected_cost(known, today, 10, 7.0) == 40 + 70
    assert expected_cost(known, today, 10, None) == 40 + 30
    assert expected_cost(None, today, 10, None) == 10


def test_mean_costs_prices_each_models_share() -> None:
    usage = np.array([[[100.0, 10.0], [0.0, 0.0]], [[50.0, 5.0], [50.0, 5.0]]])
    prices = (Price(1_000_000, 2_000_000), Price(10_000_000, 20_000_000))
    assert mean_costs(prices, usage) == pytest.approx([120.0, 60.0 + 600.0])
