"""Shares, intervals and prices."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np
import pytest

from headgate.worker.backends import builtin
from headgate.worker.backends.builtin.engine import MODELS, Completion, Engine
from headgate.worker.backends.builtin.train.evaluate import (
    USD_PER_CPU_HOUR,
    Share,
    _price,
    prices,
    shares,
    total,
)
from headgate.worker.backends.builtin.worksheets import Worksheet, batch


def test_the_interval_is_wilsons() -> None:
    low, high = Share(8, 10).interval
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert Share(0, 20).interval[0] == pytest.approx(0, abs=1e-12)
    assert Share(0, 20).interval[1] == pytest.approx(0.1611, abs=1e-4)
    assert Share(0, 0).interval == (0.0, 1.0)
    assert math.isnan(Share(0, 0).mean)


def test_shares_add_up() -> None:
    sheets = [Worksheet("add", 0, "a", "1"), Worksheet("add", 1, "b", "1"), Worksheet("sub", 0, "c", "1")]
    cells = shares([*sheets, sheets[0]], [1.0, 0.0, 1.0, 0.0])
    assert cells["add", 0] == Share(1, 2)
    assert total(cells) == Share(2, 4)
    assert total(cells, "add") == Share(1, 3)
    assert total(cells, level=0) == Share(2, 3)


def test_a_price_gives_back_the_time_it_was_made_from(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(5, 60, (200, 2)).astype(float)
    seconds = np.tile(tokens @ np.array([2e-5, 3e-4]), (3, 1)) * rng.uniform(0.95, 1.05, (3, 1))
    price = _price(seconds, tokens)
    nano_per_second = USD_PER_CPU_HOUR / 3600 * 1e9
    assert price.input_nanousd == pytest.approx(2e-5 * 1e6 * nano_per_second, rel=0.06)
    assert price.output_nanousd == pytest.approx(3e-4 * 1e6 * nano_per_second, rel=0.06)
    cost = float((tokens @ [price.input_nanousd, price.output_nanousd]).mean()) / 1e6
    assert cost == pytest.approx(price.microseconds * 1e-6 * nano_per_second, rel=1e-3)


def test_a_measurement_finds_the_large_model_dearer(seed: int) -> None:
    """5.0 to 7.5 times were measured on 400 questions. Beside other tests their bursts can meet one model
    alone, and 3.9 times were seen: the five times are for the card, and for its prices below."""
    found = prices({name: Engine.load(name) for name in MODELS}, batch(seed, 40), runs=3)
    assert found["large"].microseconds > 2.5 * found["small"].microseconds
    assert found["large"].output_nanousd > found["small"].output_nanousd > 0


def test_at_the_shipped_prices_small_is_five_times_cheaper(seed: int) -> None:
    manifest = json.loads((resources.files(builtin) / "weights/manifest.json").read_text())
    questions = [sheet.question for sheet in batch(seed, 300)]
    cost = {
        name: cost_of(Engine.load(name).answer_batch(questions), manifest[name]["price"]) for name in MODELS
    }
    assert cost["large"] >= 5 * cost["small"]


def cost_of(completions: Sequence[Completion], price: Mapping[str, int]) -> int:
    """Of all of them, in nano-dollars per million."""
    read = sum(one.prompt_tokens for one in completions)
    written = sum(one.completion_tokens for one in completions)
    return read * price["input_nanousd"] + written * price["output_nanousd"]
