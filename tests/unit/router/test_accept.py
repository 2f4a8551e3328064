from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from headgate.router import accept
from headgate.router import bundle as bundles
from headgate.router.accept import Look
from headgate.router.bundle import Bundle
from headgate.router.decide import decide
from headgate.router.types import Certificate, Decision, Draft, Pace, Pool, Query, Reason

Ask, Reading = Callable[..., Query], Callable[..., Bundle]
NOW = 0.0
GOOD, BAD = Draft("small", "1 + 1 = 2"), Draft("small", "1 + 1 = 3")


def early(bundle: Bundle, query: Query, decision: Decision, draft: Draft, early_stop: bool = True) -> Look:
    """What a look before the end of the hold-back comes to, which never changes the decision."""
    found, after = accept.look(bundle, query.text, decision, draft, due=False, early_stop=early_stop)
    assert after is decision
    return found


def late(bundle: Bundle, query: Query, decision: Decision, draft: Draft) -> tuple[Look, Decision]:
    return accept.look(bundle, query.text, decision, draft, due=True, early_stop=True)


def decided(bundle: Bundle, query: Query, pool: Pool) -> Decision:
    decision = decide(bundle, query, pool, now=NOW)
    assert decision.prior is not None
    return decision


def test_a_draft_is_accepted_where_it_looks_right(reading: Reading, pool: Pool, ask: Ask) -> None:
    bundle, query = reading(), ask()
    before = decided(bundle, query, pool)
    assert (before.model, before.reason) == ("small", Reason.POLICY)
    assert "worth a look" in before.explanation
    after = accept.read(bundle, query.text, before, GOOD)
    assert (after.model, after.drafted_by, after.escalated, after.prior) == ("small", "small", False, None)
    assert after.estimates[0].p_after_draft == pytest.approx(0.982, abs=0.001)
    assert after.certificate is before.certificate


def test_a_doubtful_draft_goes_on_to_the_reference(reading: Reading, pool: Pool, ask: Ask) -> None:
    bundle, query = reading(), ask()
    after = accept.read(bundle, query.text, decided(bundle, query, pool), BAD)
    assert (after.model, after.drafted_by, after.escalated) == ("large", "small", True)
    assert after.explanation == (
        "The draft of small looks right with p = 0.02, large is expected to be with p = 0.88 and answers."
    )


@pytest.mark.parametrize(
    ("logprobs", "draft", "why"),
    [
        (True, GOOD, "came without log-probabilities"),
        (False, replace(GOOD, declined=True), "declines the query"),
    ],
)
def test_a_draft_that_cannot_be_judged_is_not_accepted(
    reading: Reading, pool: Pool, ask: Ask, logprobs: bool, draft: Draft, why: str
) -> None:
    bundle, query = reading(logprobs=logprobs), ask()
    telling = replace(pool, models=tuple(replace(one, logprobs=True) for one in pool.models))
    after = accept.read(bundle, query.text, decided(bundle, query, telling), draft)
    assert (after.model, after.escalated) == ("large", True)
    assert why in after.explanation
    assert after.certificate is not None


def test_drafts_are_not_asked_of_a_worker_that_tells_no_log_probabilities(
    reading: Reading, pool: Pool, ask: Ask
) -> None:
    decision = decide(reading(logprobs=True), ask(), pool, now=NOW)
    assert (decision.model, decision.reason, decision.prior) == ("large", Reason.OUTSIDE_CALIBRATION, None)
    assert "tells no log-probabilities" in decision.explanation


def test_where_nobody_could_be_escalated_to_nothing_is_covered(
    reading: Reading, pool: Pool, ask: Ask
) -> None:
    third = replace(pool, models=(*pool.models, replace(pool.models[1], name="third")))
    decision = decide(reading(), ask(allowed=frozenset({"small", "third"})), third, now=NOW)
    assert (decision.reason, decision.certificate, decision.prior) == (Reason.OUTSIDE_CALIBRATION, None, None)


@pytest.mark.parametrize("change", [{"pinned": "small"}, {"allowed": frozenset({"small"})}])
def test_an_answer_that_was_not_chosen_by_the_policy_is_no_draft(
    reading: Reading, pool: Pool, ask: Ask, change: dict[str, object]
) -> None:
    assert decide(reading(), ask(**change), pool, now=NOW).prior is None


def test_a_draft_that_shows_a_fault_is_stopped_while_it_is_written(
    reading: Reading, pool: Pool, ask: Ask
) -> None:
    bundle, query = reading(), ask()
    decision = decided(bundle, query, pool)
    begun = replace(BAD, finished=False, tokens=4)
    assert early(bundle, query, decision, begun) is Look.STOP
    assert early(bundle, query, decision, begun, early_stop=False) is Look.WAIT
    assert early(bundle, query, decision, replace(GOOD, finished=False, tokens=4)) is Look.WAIT
    after = accept.left_to_the_reference(bundle, decision, begun, "was stopped")
    assert (after.model, after.escalated, after.prior) == ("large", True, None)
    assert after.explanation == "The draft of small was stopped, so large answers."
    assert after.certificate is decision.certificate


def test_a_draft_is_never_stopped_where_its_log_probabilities_are_needed_and_missing(
    reading: Reading, pool: Pool, ask: Ask
) -> None:
    bundle, query = reading(logprobs=True), ask()
    telling = replace(pool, models=tuple(replace(one, logprobs=True) for one in pool.models))
    decision = decided(bundle, query, telling)
    begun = replace(BAD, finished=False, tokens=4)
    assert early(bundle, query, decision, begun) is Look.WAIT
    assert late(bundle, query, decision, begun) == (Look.WAIT, decision)


def test_without_a_reader_of_beginnings_no_draft_is_stopped(reading: Reading, pool: Pool, ask: Ask) -> None:
    whole = reading().contents
    bundle = bundles.load(bundles.dump(replace(whole, readers=whole.readers[:1])))
    assert early(bundle, ask(), decided(bundle, ask(), pool), replace(BAD, tokens=4)) is Look.WAIT


def test_a_reader_sees_no_log_probabilities_that_it_was_not_trained_on(
    reading: Reading, pool: Pool, ask: Ask
) -> None:
    bundle, query = reading(), ask()
    decision = decided(bundle, query, pool)
    told, plain = (
        accept.read(bundle, query.text, decision, replace(GOOD, logprobs=logprobs))
        for logprobs in ((-9.0,) * 400, ())
    )
    assert told == plain


def test_a_draft_that_was_cut_is_not_accepted(reading: Reading, pool: Pool, ask: Ask) -> None:
    bundle, query = reading(), ask()
    after = accept.read(bundle, query.text, decided(bundle, query, pool), replace(GOOD, finished=False))
    assert after.escalated
    assert "was cut" in after.explanation


def test_under_a_certificate_of_net_quality_no_draft_is_stopped(
    reading: Reading, make_certificate: Callable[..., Certificate], pool: Pool, ask: Ask
) -> None:
    bundle, query = reading(certificates=(make_certificate(loss="net"),)), ask()
    assert early(bundle, query, decided(bundle, query, pool), replace(BAD, tokens=4)) is Look.WAIT


def test_where_draft_and_escalation_together_miss_the_deadline_the_reference_answers(
    reading: Reading, pool: Pool, ask: Ask
) -> None:
    slow = replace(pool, models=tuple(replace(one, pace=Pace(2.0, 9.0)) for one in pool.models))
    hurried, patient = (decide(reading(), ask(seconds_left=left), slow, now=NOW) for left in (3.9, 4.0))
    assert (hurried.model, hurried.reason, hurried.prior) == ("large", Reason.POLICY, None)
    assert hurried.certificate is not None
    assert (patient.model, patient.prior is None) == ("small", False)


def test_after_the_hold_back_the_beginning_is_accepted_or_stopped(
    reading: Reading, pool: Pool, ask: Ask
) -> None:
    bundle, query = reading(), ask()
    decision = decided(bundle, query, pool)
    assert late(bundle, query, decision, replace(BAD, finished=False, tokens=4))[0] is Look.STOP
    found, after = late(bundle, query, decision, replace(GOOD, finished=False, tokens=4))
    assert found is Look.ACCEPT
    assert (after.model, after.drafted_by, after.escalated, after.prior) == ("small", "small", False, None)
    assert after.certificate is decision.certificate
    assert after.estimates[0].p_after_draft == pytest.approx(0.982, abs=0.001)
    assert after.explanation == (
        "After 4 tokens: the draft of small looks right with p = 0.98, and no other model is worth more."
    )


@pytest.mark.parametrize("unread", [{"declined": True}, {"finished": False}])
def test_what_cannot_be_read_is_worth_nothing(
    reading: Reading, pool: Pool, ask: Ask, unread: dict[str, bool]
) -> None:
    bundle, query, draft = reading(), ask(), replace(GOOD, **unread)
    decision = decided(bundle, query, pool)
    assert (
        accept.gain(accept.read(bundle, query.text, decision, draft), draft)
        == decision.estimates[1].p_correct
    )


def test_the_gain_of_an_escalation_is_what_the_draft_shows(reading: Reading, pool: Pool, ask: Ask) -> None:
    bundle, query = reading(), ask()
    after = accept.read(bundle, query.text, decided(bundle, query, pool), BAD)
    small, large = (one.p_after_draft or 0.0 for one in after.estimates)
    assert accept.gain(after, BAD) == large - small > 0.5


def first_look(three: Bundle, pool: Pool, query: Query, draft: Draft = BAD) -> Decision:
    return accept.read(three, query.text, decided(three, query, pool), draft)


def test_beside_a_doubtful_draft_that_of_another_model_may_be_worth_a_look(
    three: Bundle, pool_of_three: Pool, ask: Ask
) -> None:
    after = first_look(three, pool_of_three, ask())
    assert (after.model, after.drafted_by) == ("mid", "small")
    assert after.prior is not None
    assert (after.prior.shown is not None, dict(after.prior.further)) == (True, {})
    assert after.explanation == (
        "The draft of small looks right with p = 0.02, and a draft of mid is worth a look."
    )
    assert after.certificate is not None


@pytest.mark.parametrize(("equation", "model"), [("1 + 1 = 2", "mid"), ("1 + 1 = 3", "large")])
def test_a_second_draft_is_read_as_the_first(
    three: Bundle, pool_of_three: Pool, ask: Ask, equation: str, model: str
) -> None:
    query = ask()
    after = accept.read(three, query.text, first_look(three, pool_of_three, query), Draft("mid", equation))
    assert (after.model, after.drafted_by, after.prior) == (model, "mid", None)
    assert after.certificate is not None
    assert after.estimates[0].p_after_draft == pytest.approx(0.039, abs=0.001), "small's draft still counts"


def test_after_two_drafts_the_first_may_be_the_answer(three: Bundle, pool_of_three: Pool, ask: Ask) -> None:
    """Both look alike, the first a little better: what was paid for is at hand."""
    query, first = ask(), first_look(three, pool_of_three, ask())
    assert first.prior is not None
    assert first.prior.shown is not None
    likely = replace(first.prior.shown, p_correct=(0.9, 0.5, 0.9))
    again = replace(first, prior=replace(first.prior, shown=likely))
    after = accept.read(three, query.text, again, Draft("mid", "1 + 1 = 3"))
    assert (after.model, after.drafted_by, after.escalated) == ("small", "mid", True)


@pytest.mark.parametrize("change", [{"allowed": frozenset({"small", "large"})}, {"seconds_left": 4.0}])
def test_where_the_best_model_may_not_go_on_the_reference_does(
    three: Bundle, pool_of_three: Pool, ask: Ask, change: dict[str, object]
) -> None:
    """Mid is not allowed, or three calls would miss the deadline. No other choice was certified."""
    slow = replace(
        pool_of_three, models=tuple(replace(one, pace=Pace(1.5, 9.0)) for one in pool_of_three.models)
    )
    after = first_look(three, slow, ask(**change))
    assert (after.model, after.prior) == ("large", None)
    assert "mid may not go on, so large does" in after.explanation
    assert after.certificate is not None


def test_a_model_without_a_reader_answers_after_a_draft_if_it_may(
    three: Bundle, pool_of_three: Pool, ask: Ask
) -> None:
    contents = three.contents
    policy = replace(contents.policy, resolution=(0.9, 0.0, 0.0))
    one = bundles.load(bundles.dump(replace(contents, policy=policy, readers=contents.readers[:1])))
    likely = replace(contents.readers[0].calibrators[1], bias=4.0)
    lines = (contents.readers[0].calibrators[0], likely, contents.readers[0].calibrators[2])
    sure = replace(one.contents, readers=(replace(one.contents.readers[0], calibrators=lines),))
    after = [
        first_look(bundles.load(bundles.dump(sure)), pool_of_three, ask(**change))
        for change in ({}, {"allowed": frozenset({"small", "large"})})
    ]
    assert [(one.model, one.prior) for one in after] == [("mid", None), ("large", None)]


def test_a_second_draft_is_never_stopped(three: Bundle, pool_of_three: Pool, ask: Ask) -> None:
    beginnings = tuple(replace(one, left=0.3) for one in three.contents.readers)
    contents = replace(three.contents, readers=(*three.contents.readers, *beginnings))
    both, query = bundles.load(bundles.dump(contents)), ask()
    first = decided(both, query, pool_of_three)
    assert early(both, query, first, replace(BAD, finished=False, tokens=4)) is Look.STOP
    second = accept.read(both, query.text, first, BAD)
    begun = Draft("mid", "1 + 1 = 3", finished=False, tokens=4)
    assert early(both, query, second, begun) is Look.WAIT
