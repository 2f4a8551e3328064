from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from headgate.router.bundle import Estimates
from headgate.router.calibrate import expected_calibration_error
from headgate.router.offline import findings
from headgate.router.offline.crossval import Told
from headgate.router.offline.datasets import Outcomes
from headgate.router.offline.findings import Findings, find

N = 600


@pytest.fixture(scope="module")
def told(seed: int) -> Told:
    """The truth is told; subjects "a" and "b" are large, "c" and "d" have three queries each."""
    rng = np.random.default_rng(seed)
    p = np.stack((0.9 - 0.6 * rng.random(N), np.full(N, 0.9) - 0.1 * rng.random(N)), axis=1)
    score = (rng.random((N, 2)) < p).astype(float)
    ids = tuple(f"q{i}" for i in range(N))
    texts = tuple("word " * int(1 + i % 40) + str(i) for i in range(N))
    subjects = tuple("c" if i < 3 else "d" if i < 6 else "ab"[i % 2] for i in range(N))
    blank = np.full((N, 2), np.nan)
    outcomes = Outcomes(ids, texts, ("small", "large"), score, blank, blank, subjects)
    expected = Estimates(p, 0.1 * p, blank, blank, np.zeros(N), p)
    return Told(outcomes, expected, {"random": rng.random((N, 2))}, 500)


@pytest.fixture(scope="module")
def found(told: Told, seed: int) -> Findings:
    return find(told, seed)


def test_the_default_point_saves_what_the_risk_target_allows(told: Told, found: Findings) -> None:
    point, score = found.point, told.outcomes.score
    assert point.regret <= findings.RISK_TARGET < point.regret + 2 / N
    assert point.quality >= score[:, 1].mean() - point.regret
    assert 0 < point.large_share < 1
    assert find(told, 1, target=0.02).point.large_share > point.large_share
    assert find(told, 1, target=1.0).point.large_share == 0


def test_bins_are_equally_filled_and_hold_the_means(told: Told) -> None:
    p, score = told.expected.p_correct[:, 0], told.outcomes.score[:, 0]
    bins = findings.reliability(p, score)
    assert [one.n for one in bins] == [60] * 10
    assert [one.p_correct for one in bins] == sorted(one.p_correct for one in bins)
    lowest = np.argsort(p)[:60]
    assert bins[0].p_correct == pytest.approx(p[lowest].mean())
    assert bins[0].quality.value == pytest.approx(score[lowest].mean())
    off = sum(one.n * abs(one.p_correct - one.quality.value) for one in bins) / N
    assert off == pytest.approx(expected_calibration_error(p, score, 10))
    assert len(findings.reliability(p[:45], score[:45])) == 2
    assert len(findings.reliability(p[:3], score[:3])) == 1


def test_wilson_intervals_are_those_of_the_books() -> None:
    found = findings.share_of(np.array([1.0] * 8 + [0.0] * 2))
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert findings.share_of(np.zeros(10)).low == 0.0


def test_subjects_are_slices_and_the_small_ones_stand_together(told: Told, found: Findings) -> None:
    assert found.by == "subject"
    assert [one.name for one in found.slices] == ["a", "b", "2 smaller ones"]
    assert sum(one.n for one in found.slices) == N
    a = np.array(told.outcomes.subjects) == "a"
    assert (found.slices[0].small, found.slices[0].large) == tuple(told.outcomes.score[a].mean(axis=0))


def test_the_slices_weighed_by_their_n_are_the_whole(found: Findings) -> None:
    assert sum(one.n * one.large_share for one in found.slices) / N == pytest.approx(found.point.large_share)
    assert sum(one.n * one.regret.value for one in found.slices) / N == pytest.approx(found.point.regret)


def test_without_subjects_the_slices_are_quarters_of_prompt_length(told: Told) -> None:
    plain = replace(told, outcomes=replace(told.outcomes, subjects=()))
    found = find(plain, 1)
    assert found.by == "prompt length"
    assert len(found.slices) == 4
    assert sum(one.n for one in found.slices) == N
    assert all(one.n > N / 8 for one in found.slices)
    same = replace(plain.outcomes, texts=("as long",) * N)
    assert [one.n for one in find(replace(plain, outcomes=same), 1).slices] == [N]


def test_regretted_keeps_are_losses_in_the_order_of_the_least_gain(told: Told, found: Findings) -> None:
    gain, score = findings.gains(told.expected.p_correct), told.outcomes.score
    place = {one: i for i, one in enumerate(told.outcomes.ids)}
    rows = [place[case.id] for case in found.regretted]
    assert len(rows) == 10
    assert gain[rows].tolist() == sorted(gain[rows])
    lost = np.flatnonzero(score[:, 0] < score[:, 1])
    assert set(rows) == set(lost[np.argsort(gain[lost])][:10].tolist())
    assert all(case.quality == (0.0, 1.0) for case in found.regretted)


def test_wasted_escalations_are_calls_for_what_small_had_right(told: Told, found: Findings) -> None:
    gain, score = findings.gains(told.expected.p_correct), told.outcomes.score
    right = np.flatnonzero(score[:, 0] == 1)
    best = right[np.argsort(-gain[right])][:10]
    assert [case.id for case in found.wasted] == [told.outcomes.ids[row] for row in best]
    assert [case.gain for case in found.wasted] == pytest.approx(gain[best].tolist())
    assert found.wasted[0].spread == pytest.approx(told.expected.spread[best[0]])


def test_where_nothing_is_kept_nothing_is_regretted(told: Told) -> None:
    assert find(told, 1, target=0.0).regretted == ()
    assert find(told, 1, target=1.0).wasted == ()


def test_as_json_there_is_no_text_of_a_query(found: Findings) -> None:
    shown = json.dumps(found.plain(), allow_nan=False)
    assert "word word" not in shown
    assert json.loads(shown)["regretted"] == [case.id for case in found.regretted]
    assert json.loads(shown)["kept"][0]["share"]["value"] == found.kept[0].share.value
