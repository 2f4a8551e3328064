"""Who says how good an answer was, and which samples can be used."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headgate.adapters.sample_reader import Found
from headgate.adapters.samples import Outcome, Sample, Settings, Turn
from headgate.cli.outcomes import labels
from tests.unit.sample_rig import SAMPLE, answer, outcome


def _quality(*outcomes: Outcome, model: str = "small") -> float:
    return labels.qualities([SAMPLE], outcomes)["r1"][model]


def _by_request(quality: float, at: float, request_id: str = "q1", tenant: str = "acme") -> Outcome:
    """As RecordOutcome writes it: the caller does not know of samples."""
    told = outcome("small", quality, "user", at)
    return replace(told, sample="", request_id=request_id, tenant=tenant)


def test_a_user_s_word_wins_over_a_later_scorer_s() -> None:
    assert _quality(_by_request(1.0, 15), outcome("small", 0.0, "judge", 99)) == 1.0
    assert _quality(outcome("small", 0.0, "check", 99), _by_request(1.0, 15)) == 1.0


@pytest.mark.parametrize("source", ["user", "judge", "check"])
def test_of_several_words_the_latest_counts(source) -> None:  # type: ignore[no-untyped-def]
    told = [outcome("small", quality, source, at) for quality, at in ((0.1, 30), (0.9, 40), (0.5, 20))]
    assert _quality(*told) == 0.9


def test_an_outcome_belongs_to_its_tenant_and_its_request() -> None:
    strangers = [_by_request(1.0, 15, tenant="beta"), _by_request(1.0, 15, request_id="q2")]
    assert labels.qualities([SAMPLE], strangers) == {"r1": {}}


def test_a_request_id_that_was_used_twice_means_the_last_answer_before() -> None:
    later = replace(SAMPLE, record_id="r2", at=100.0)
    told = labels.qualities(
        [SAMPLE, later], [_by_request(0.1, 50), _by_request(0.9, 150), _by_request(0.5, 1)]
    )
    assert told == {"r1": {"small": 0.1}, "r2": {"small": 0.9}}


def _label(sample: Sample, *more: Sample) -> labels.Labelled:
    every = (sample, *more)
    told = tuple(outcome(one.model, 1.0, sample=s) for s in every for one in s.answers)
    return labels.label(Found(every, told))


def test_a_sample_with_a_quality_for_every_answer_is_used() -> None:
    labelled = _label(SAMPLE)
    assert labelled.rows == ((SAMPLE, {"small": 1.0, "large": 1.0}),)
    assert not labelled.left_out
    assert labelled.newest == SAMPLE


def test_a_sample_with_one_quality_missing_is_not() -> None:
    labelled = labels.label(Found((SAMPLE,), (outcome("small", 1.0),)))
    assert (labelled.rows, labelled.left_out) == ((), {labels.UNLABELLED: 1})


OLD = replace(SAMPLE, record_id="r0", at=1.0)


@pytest.mark.parametrize(
    ("old", "reason"),
    [
        (replace(OLD, conversation=()), labels.EXPIRED),
        (replace(OLD, answers=(answer("small"), answer("huge"))), labels.OTHER_MODELS),
        (replace(OLD, answers=(answer("small"), answer("large", version="v0"))), labels.OTHER_VERSIONS),
        (replace(OLD, settings=Settings(temperature=0.1)), labels.UNCOVERED),
        (replace(OLD, settings=Settings(stops=1)), labels.UNCOVERED),
        (replace(OLD, settings=Settings(turns=2)), labels.UNCOVERED),
        (replace(OLD, settings=Settings(max_tokens=4)), labels.UNCOVERED),
    ],
)
def test_what_cannot_be_used_is_left_out_with_its_reason(old: Sample, reason: str) -> None:
    labelled = _label(old, SAMPLE)
    assert [sample.record_id for sample, _ in labelled.rows] == ["r1"]
    assert labelled.left_out == {reason: 1}


def test_only_the_period_is_used_and_its_newest_sample_sets_the_models() -> None:
    other = replace(SAMPLE, record_id="r2", at=100.0, answers=(answer("small"), answer("huge")))
    told = tuple(outcome(one.model, 1.0, sample=s) for s in (OLD, SAMPLE, other) for one in s.answers)
    found = Found((OLD, SAMPLE, other), told)
    for since, until, used in ((0.0, 100.0, ["r0", "r1"]), (12.5, 100.0, ["r1"]), (50.0, 200.0, ["r2"])):
        assert [sample.record_id for sample, _ in labels.label(found, since, until).rows] == used
    assert labels.label(found, 500.0).rows == ()


def test_a_limit_that_no_answer_met_is_no_other_setting() -> None:
    assert len(_label(replace(SAMPLE, settings=Settings(max_tokens=5))).rows) == 1


def test_the_last_turn_is_the_query() -> None:
    assert replace(SAMPLE, conversation=(Turn("ROLE_USER", "a"), Turn("ROLE_USER", "b"))).query == "b"


def test_nothing_at_all_is_no_row() -> None:
    empty = labels.Labelled(())
    assert empty.newest is None
