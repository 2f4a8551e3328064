from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headgate.router.bundle import Bundle, Contents
from headgate.router.offline import build, evaluate
from headgate.router.offline.datasets import Outcomes
from headgate.router.offline.evaluate import Evaluation


@pytest.fixture(scope="module")
def found(trained: Bundle, fresh: Outcomes, seed: int) -> Evaluation:
    return evaluate.evaluate(trained, fresh, seed, redrawn=50)


def test_rivals_are_what_the_data_says(found: Evaluation, fresh: Outcomes) -> None:
    rows = {row.name: row for row in found.rows}
    for m, name in enumerate(fresh.models):
        assert rows[f"always {name}"].quality.value == pytest.approx(fresh.score[:, m].mean())
    assert rows["always big"].cost == pytest.approx(1.0)
    assert rows["always tiny"].cost == pytest.approx(
        (fresh.prompt_tokens[:, 0] + fresh.completion_tokens[:, 0]).sum()
        / (20 * (fresh.prompt_tokens[:, 2] + fresh.completion_tokens[:, 2])).sum()
    )
    assert rows["oracle"].quality.value == pytest.approx(fresh.score.max(axis=1).mean())
    assert rows["oracle"].cost < 0.5


def test_headgate_beats_a_random_mix_and_keeps_to_its_targets(found: Evaluation) -> None:
    routed = [row for row in found.rows if row.name.startswith("Headgate")]
    assert routed
    best = routed[-1]
    assert best.above_random is not None
    assert best.above_random.low > 0.02
    assert best.cost < 0.8
    assert [row.cost for row in routed] == sorted((row.cost for row in routed), reverse=True)
    assert all(abs(sum(row.share) - 1) < 1e-9 for row in found.rows)


def test_intervals_hold_their_values(found: Evaluation) -> None:
    for row in found.rows:
        assert row.quality.low <= row.quality.value <= row.quality.high
        assert row.quality.high - row.quality.low < 0.05


def test_levels_hold_on_re_drawn_data(found: Evaluation) -> None:
    assert any(hold.certified == hold.seeds for hold in found.holds)
    for hold in found.holds:
        assert hold.held >= 0.95 * hold.seeds - 2, hold


def test_p_correct_is_near_frequencies(found: Evaluation) -> None:
    tiny = next(one for one in found.estimation if one.model == "tiny")
    assert tiny.auc > 0.75
    assert all(one.ece < 0.05 for one in found.estimation)
    assert found.apgr.low > 0.5


@pytest.mark.parametrize(("spend", "quality"), [(0.1, 0.5), (0.55, 0.7), (1.0, 0.9), (2.0, 0.9), (0.05, 0.5)])
def test_a_random_mix_is_the_line_between_two_models(spend: float, quality: float) -> None:
    assert evaluate._random_mix(np.array([0.5, 0.9, 0.4]), np.array([0.1, 1.0, 0.6]), spend) == pytest.approx(
        quality
    )


def test_queries_that_are_not_covered_go_to_the_reference(contents: Contents, fresh: Outcomes) -> None:
    strict = replace(contents, policy=replace(contents.policy, max_out_of_distribution=-1.0))
    open_case, strict_case = (
        evaluate._case(build.loaded(one), fresh.take(np.arange(100))) for one in (contents, strict)
    )
    cheapest = contents.policy.grid[-1]
    assert (strict_case.chosen(cheapest)[0] == contents.policy.reference_index).all()
    assert (open_case.chosen(cheapest)[0] != contents.policy.reference_index).mean() > 0.9
