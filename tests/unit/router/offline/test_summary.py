from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from headgate.router.bundle import Bundle, Estimates
from headgate.router.calibrate import brier, expected_calibration_error
from headgate.router.offline import curve, summary
from headgate.router.offline.crossval import Told
from headgate.router.offline.datasets import Outcomes
from headgate.router.policy import GRID, Policy

N = 4000
PAIR = ("small", "large")


@pytest.fixture(scope="module")
def told(seed: int) -> Told:
    """The truth is told with some noise; small is right the rarer, the harder a query is."""
    rng = np.random.default_rng(seed)
    hard = rng.random(N)
    truth = np.stack((0.98 - 0.8 * hard, 0.97 - 0.2 * hard), axis=1)
    score = (rng.random(truth.shape) < truth).astype(float)
    p = np.clip(truth + rng.normal(0, 0.05, truth.shape), 0.01, 0.99)
    blank = np.full((N, 2), np.nan)
    outcomes = Outcomes(tuple(map(str, range(N))), tuple(map(str, range(N))), PAIR, score, blank, blank)
    cost = np.broadcast_to((0.1, 1.0), (N, 2))
    expected = Estimates(p, np.full((N, 2), 0.05), np.ones((N, 2)), cost, np.zeros(N), p)
    return Told(outcomes, expected, {"random": rng.random((N, 2)), "truth": truth}, 800)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(PAIR, "large", 0.0, 0.5, GRID, np.zeros((len(GRID), 2, 2)), 0.5, 0.05)


@pytest.fixture(scope="module")
def found(told: Told) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as fewer:
        fewer.setattr(curve.interval, "__defaults__", (200,))
        return summary.pair(told, seed=1)


def test_the_figures_have_their_keys_and_are_json(told: Told, found: dict[str, Any]) -> None:
    assert {
        "apgr", "apgr_ci95", "cpt50", "cpt80", "auc", "ece", "brier",
        "n", "labels", "quality", "baselines", "oracle",
    } <= set(found)  # fmt: skip
    assert set(found["baselines"]) == set(told.rivals) == set(found["apgr_above"])
    for row in found["baselines"].values():
        assert {"apgr", "cpt50", "auc", "ece"} <= set(row)
    assert {"quality", "large_share", "apgr", "cpt50", "cpt80"} == set(found["oracle"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_figures_are_those_of_the_curve_and_of_small(told: Told, found: dict[str, Any]) -> None:
    p, score = told.expected.p_correct, told.outcomes.score
    assert (found["n"], found["labels"]) == (N, 800)
    assert found["apgr"] == curve.apgr(p[:, 1] - p[:, 0], score)
    assert found["apgr_ci95"][0] < found["apgr"] < found["apgr_ci95"][1]
    assert found["cpt50"] == curve.cpt(p[:, 1] - p[:, 0], score, 0.5)
    assert found["auc"] == curve.auc(p[:, 0], score[:, 0] == 1)
    assert found["ece"] == expected_calibration_error(p[:, 0], score[:, 0])
    assert found["brier"] == brier(p[:, 0], score[:, 0])
    assert found["quality"] == {"small": score[:, 0].mean(), "large": score[:, 1].mean()}


def test_headgate_stands_between_chance_and_the_oracle(found: dict[str, Any]) -> None:
    assert found["baselines"]["random"]["apgr"] == pytest.approx(0.5, abs=0.05)
    assert found["baselines"]["random"]["apgr"] < found["apgr"] <= found["oracle"]["apgr"]
    value, low, high = found["apgr_above"]["random"]
    assert 0 < low < value < high
    assert value == pytest.approx(found["apgr"] - found["baselines"]["random"]["apgr"])


def test_the_oracle_calls_large_only_where_it_alone_is_right(told: Told, found: dict[str, Any]) -> None:
    score, oracle = told.outcomes.score, found["oracle"]
    assert oracle["quality"] == score.max(axis=1).mean()
    assert oracle["large_share"] == (score[:, 1] > score[:, 0]).mean()


def too_often(cells: Sequence[dict[str, float]]) -> list[tuple[float, float]]:
    return [
        (one["n"], one["alpha"]) for one in cells if one["violation_share"] > one["delta"] + 3 * one["se"]
    ]


def test_every_cell_of_certificates_holds_and_none_saves_more_than_hindsight(
    told: Told, policy: Policy
) -> None:
    cells = summary.certificates(told, policy, seed=1, draws=200)
    assert {(one["n"], one["alpha"]) for one in cells} == {
        (n, alpha) for n in summary.CERTIFIED_N for alpha in summary.CERTIFIED_LEVELS
    }
    assert too_often(cells) == []
    assert all(one["cheap_share"] <= one["best_share"] + 0.02 for one in cells)
    assert max(one["cheap_share"] for one in cells) > 0.1, "they hold, and they save"
    assert [one["se"] for one in cells] == pytest.approx([(0.1 * 0.9 / 200) ** 0.5] * len(cells))


def test_a_naive_threshold_breaks_the_same_check(
    told: Told, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes the largest λ whose regret was within the level is wrong about every other time."""

    def naive(regret: np.ndarray, levels: Sequence[float], *rest: object) -> list[SimpleNamespace]:
        above = np.append(regret.mean(axis=0) > levels[0], True)
        return [SimpleNamespace(index=int(np.argmax(above)) - 1)] if not above[0] else []

    monkeypatch.setattr(summary.certify, "fixed_sequence", naive)
    assert len(too_often(summary.certificates(told, policy, seed=1, draws=100))) >= 6


def test_the_best_share_is_counted_by_hand(policy: Policy) -> None:
    score = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    p = np.array([[0.9, 0.9], [0.8, 0.9], [0.7, 0.9], [0.6, 0.9]])
    blank = np.full((4, 2), np.nan)
    outcomes = Outcomes(tuple("abcd"), tuple("abcd"), PAIR, score, blank, blank)
    expected = Estimates(p, np.zeros((4, 2)), blank, blank, np.zeros(4), p)
    shares = [summary._best_share(policy, expected, outcomes, alpha) for alpha in (0.0, 0.24, 0.25, 1.0)]
    assert shares == [0.5, 0.5, 1.0, 1.0]


def test_a_decision_is_timed_in_microseconds(trained: Bundle, outcomes: Outcomes) -> None:
    found = summary.decision_us(trained, outcomes.texts[:80])
    assert 1 < found["p50"] <= found["p99"] < 1e6
