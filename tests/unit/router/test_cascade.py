from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.router import bundle as bundles
from headgate.router.accept import Look
from headgate.router.bundle import Bundle
from headgate.router.cascade import (
    MOST_ATTEMPTS,
    Answer,
    CallModel,
    Cascade,
    Command,
    Failed,
    Finished,
    GiveUp,
    Received,
    Stopped,
    Unread,
)
from headgate.router.decide import decide
from headgate.router.types import Draft, Model, Pace, Pool, Price, Query, Reason
from tests import hand_made

Ask = Callable[..., Query]
NOW = 0.0


def called(command: Command) -> CallModel:
    assert isinstance(command, CallModel)
    return command


def fail(
    cascade: Cascade, model: str, retryable: bool = True, delivered: bool = False, again: bool = True
) -> Command:
    return cascade.feed(Failed(model, retryable, delivered, again))


GOOD, BAD = Draft("small", "1 + 1 = 2"), Draft("small", "1 + 1 = 3")


@pytest.fixture
def drafting(reading: Callable[..., Bundle], pool: Pool, ask: Ask) -> Cascade:
    """A request whose first call is for a draft of small."""
    one = Cascade(reading(), pool, now=NOW)
    call = called(one.feed(Received(ask())))
    assert (call.model, call.draft, call.escalation, call.repeats) == ("small", True, False, False)
    return one


def test_a_good_draft_is_the_answer(drafting: Cascade) -> None:
    answer = drafting.feed(Finished("small", GOOD))
    assert isinstance(answer, Answer)
    assert (answer.model, answer.draft, answer.decision.drafted_by) == ("small", True, "small")
    assert not answer.decision.escalated


def test_a_doubtful_draft_is_escalated_and_stays_covered(drafting: Cascade) -> None:
    call = called(drafting.feed(Finished("small", BAD)))
    assert (call.model, call.attempt) == ("large", 2)
    assert (call.draft, call.escalation, call.fallback, call.repeats) == (False, True, False, False)
    answer = drafting.feed(Finished("large"))
    assert isinstance(answer, Answer)
    assert (answer.model, answer.draft, answer.decision.escalated) == ("large", False, True)
    assert answer.decision.reason is Reason.POLICY
    assert answer.decision.certificate is not None


@pytest.mark.parametrize(("retryable", "calls"), [(True, 1), (False, 0)])
def test_where_the_escalation_fails_the_draft_is_better_than_an_error(
    drafting: Cascade, retryable: bool, calls: int
) -> None:
    drafting.feed(Finished("small", BAD))
    for _ in range(calls):
        again = called(fail(drafting, "large", retryable))
        assert (again.model, again.escalation, again.repeats) == ("large", False, True)
    answer = fail(drafting, "large", retryable)
    assert isinstance(answer, Answer)
    assert (answer.model, answer.draft) == ("small", True)


def test_a_draft_that_is_stopped_is_escalated_and_not_in_hand(drafting: Cascade) -> None:
    begun = replace(BAD, finished=False, tokens=4)
    assert drafting.look(begun) is Look.STOP
    assert drafting.look(replace(GOOD, finished=False, tokens=4)) is Look.WAIT
    call = called(drafting.feed(Stopped("small", begun)))
    assert (call.model, call.escalation, call.repeats) == ("large", True, False)
    assert call.decision.drafted_by == "small"
    assert "stopped after 4 tokens" in call.decision.explanation
    fail(drafting, "large", again=False)
    answer = drafting.feed(Finished("small"))
    assert isinstance(answer, Answer)
    assert (answer.model, answer.draft) == ("small", False), "written again, as a fallback"


def test_after_a_stopped_draft_the_last_call_is_the_fallback_s(drafting: Cascade) -> None:
    drafting.feed(Stopped("small", replace(BAD, finished=False, tokens=4)))
    call = called(fail(drafting, "large"))
    assert (call.model, call.attempt, call.fallback, call.draft) == ("small", 3, True, False)


def test_a_draft_that_could_not_be_read_is_escalated_and_in_hand(drafting: Cascade) -> None:
    call = called(drafting.feed(Unread("small", GOOD)))
    assert (call.model, call.escalation) == ("large", True)
    assert "could not be read" in call.decision.explanation
    answer = fail(drafting, "large", retryable=False)
    assert isinstance(answer, Answer)
    assert (answer.model, answer.draft) == ("small", True)


def test_an_escalation_that_breaks_after_text_was_delivered_ends_with_an_error(drafting: Cascade) -> None:
    drafting.feed(Finished("small", BAD))
    assert isinstance(fail(drafting, "large", retryable=True, delivered=True), GiveUp)


def test_a_call_for_a_draft_is_retried_and_falls_back_as_any_other(drafting: Cascade) -> None:
    again = called(fail(drafting, "small"))
    assert (again.model, again.draft, again.repeats) == ("small", True, True)
    other = called(fail(drafting, "small"))
    assert (other.model, other.draft, other.fallback) == ("large", False, True)


def test_a_draft_that_does_not_come_is_a_mistake_of_the_caller(drafting: Cascade) -> None:
    with pytest.raises(ValueError, match="was for a draft"):
        drafting.feed(Finished("small"))


@pytest.fixture
def cascade(bundle: Bundle, pool: Pool) -> Cascade:
    return Cascade(bundle, pool, now=NOW)


def test_a_good_answer_takes_one_call(cascade: Cascade, bundle: Bundle, pool: Pool, ask: Ask) -> None:
    call = called(cascade.feed(Received(ask())))
    assert (call.model, call.attempt, call.fallback) == ("small", 1, False)
    assert call.decision == decide(bundle, ask(), pool, now=NOW)
    assert cascade.feed(Finished("small")) == Answer("small", call.decision)


def test_a_failure_is_retried_once_then_falls_back_then_ends(cascade: Cascade, ask: Ask) -> None:
    first = called(cascade.feed(Received(ask())))
    second = called(fail(cascade, "small"))
    third = called(fail(cascade, "small"))
    assert [(c.model, c.attempt, c.fallback) for c in (first, second, third)] == [
        ("small", 1, False), ("small", 2, False), ("large", 3, True),
    ]  # fmt: skip
    assert fail(cascade, "large") == GiveUp("large", first.decision)


def test_what_would_fail_again_goes_straight_to_the_fallback(cascade: Cascade, ask: Ask) -> None:
    cascade.feed(Received(ask()))
    call = called(fail(cascade, "small", again=False))
    assert (call.model, call.attempt, call.fallback) == ("large", 2, True)
    assert isinstance(fail(cascade, "large"), GiveUp)


def test_a_pinned_query_that_would_fail_again_ends(cascade: Cascade, ask: Ask) -> None:
    cascade.feed(Received(ask(pinned="small")))
    assert isinstance(fail(cascade, "small", again=False), GiveUp)


def test_a_fallbacks_answer_stands(cascade: Cascade, ask: Ask) -> None:
    cascade.feed(Received(ask()))
    fail(cascade, "small")
    fail(cascade, "small")
    assert isinstance(cascade.feed(Finished("large")), Answer)


@pytest.mark.parametrize(("retryable", "delivered"), [(False, False), (True, True), (False, True)])
def test_what_cannot_be_repeated_ends_at_once(
    cascade: Cascade, ask: Ask, retryable: bool, delivered: bool
) -> None:
    call = called(cascade.feed(Received(ask())))
    assert fail(cascade, "small", retryable, delivered) == GiveUp("small", call.decision)


def test_a_pinned_query_is_retried_but_never_moved(cascade: Cascade, ask: Ask) -> None:
    cascade.feed(Received(ask(pinned="small")))
    assert called(fail(cascade, "small")).model == "small"
    assert isinstance(fail(cascade, "small"), GiveUp)


def test_a_fallback_respects_what_the_tenant_may_use(cascade: Cascade, ask: Ask) -> None:
    cascade.feed(Received(ask(allowed=frozenset({"small"}))))
    fail(cascade, "small")
    assert isinstance(fail(cascade, "small"), GiveUp)


def test_the_reference_is_the_first_fallback(bundle: Bundle, pool: Pool, ask: Ask) -> None:
    models = (Model("extra", Price(1, 1)), Model("other", Price(1, 1)), *pool.models)
    cascade = Cascade(bundle, Pool(models, "large"), now=NOW, max_attempts=1, max_fallbacks=2)
    cascade.feed(Received(ask()))
    assert called(fail(cascade, "small")).model == "large"
    assert called(fail(cascade, "large")).model == "extra", "unknown models in the operator's order"


@pytest.mark.parametrize(("attempts", "fallbacks"), [(9, 0), (9, 9), (1, 9), (2, 1), (1, 0)])
def test_failures_without_end_are_three_calls_at_most(
    bundle: Bundle, pool: Pool, ask: Ask, attempts: int, fallbacks: int
) -> None:
    models = (*pool.models, *(Model(f"extra{i}", Price(1, 1)) for i in range(9)))
    cascade = Cascade(bundle, Pool(models, "large"), now=NOW, max_attempts=attempts, max_fallbacks=fallbacks)
    calls, command = 0, cascade.feed(Received(ask()))
    while isinstance(command, CallModel):
        calls += 1
        command = fail(cascade, command.model)
    assert calls == min(MOST_ATTEMPTS, attempts + fallbacks)


@given(
    events=st.lists(st.sampled_from(["finish", "busy", "slow", "dead", "cut"]), min_size=8, max_size=8),
    attempts=st.integers(1, 5),
    fallbacks=st.integers(0, 3),
    pinned=st.sampled_from(["", "small", "large"]),
    loaded=st.booleans(),
)
def test_a_cascade_always_ends_and_never_starts_again_after_text_was_delivered(
    bundle: Bundle,
    pool: Pool,
    ask: Ask,
    events: list[str],
    attempts: int,
    fallbacks: int,
    pinned: str,
    loaded: bool,
) -> None:
    cascade = Cascade(
        bundle if loaded else None, pool, now=NOW, max_attempts=attempts, max_fallbacks=fallbacks
    )
    command = cascade.feed(Received(ask(pinned=pinned)))
    calls: list[CallModel] = []
    for event in events:
        if not isinstance(command, CallModel):
            break
        calls.append(command)
        model = command.model
        outcome = {
            "finish": Finished(model),
            "busy": Failed(model, True, False),
            "slow": Failed(model, True, False, again=False),
            "dead": Failed(model, False, False),
            "cut": Failed(model, True, True),
        }[event]  # fmt: skip
        command = cascade.feed(outcome)
        if event not in ("busy", "slow"):
            assert not isinstance(command, CallModel)
            assert isinstance(command, Answer) == (event == "finish")
    assert not isinstance(command, CallModel)
    assert 1 <= len(calls) <= min(MOST_ATTEMPTS, attempts + fallbacks)
    assert [call.attempt for call in calls] == list(range(1, len(calls) + 1))
    assert not pinned or {call.model for call in calls} == {pinned}
    assert len({call.model for call in calls}) <= 1 + fallbacks


def test_events_that_cannot_come_now_are_refused(cascade: Cascade, ask: Ask) -> None:
    with pytest.raises(ValueError, match="no call of 'small'"):
        cascade.feed(Finished("small"))
    cascade.feed(Received(ask()))
    with pytest.raises(ValueError, match="serves one request"):
        cascade.feed(Received(ask()))
    with pytest.raises(ValueError, match="no call of 'large'"):
        cascade.feed(Finished("large"))
    cascade.feed(Finished("small"))
    with pytest.raises(ValueError, match="no call of 'small'"):
        fail(cascade, "small")


@pytest.fixture
def committing(pool: Pool, ask: Ask) -> Cascade:
    """Waits for small's draft, of which four tokens are held back."""
    bundle = bundles.load(bundles.dump(hand_made.shortened(hand_made.reading(), 4, 0)))
    cascade = Cascade(bundle, pool, now=NOW)
    assert called(cascade.feed(Received(ask(hold_back=4)))).draft
    return cascade


BEGUN = replace(GOOD, finished=False, tokens=4)


def test_a_beginning_is_accepted_once_the_hold_back_is_over_and_stays_so(committing: Cascade) -> None:
    assert committing.look(replace(BEGUN, tokens=3)) is Look.WAIT
    assert committing.look(BEGUN) is Look.ACCEPT
    assert committing.look(replace(BAD, finished=False, tokens=5)) is Look.WAIT, "nothing is retracted"
    answer = committing.feed(Finished("small", GOOD))
    assert isinstance(answer, Answer)
    assert (answer.model, answer.draft, answer.offer) == ("small", False, None)
    assert answer.decision.certificate is not None
    assert answer.decision.drafted_by == "small"
    assert "After 4 tokens" in answer.decision.explanation


def test_a_beginning_that_ends_badly_is_the_answer_with_an_offer(committing: Cascade) -> None:
    committing.look(BEGUN)
    answer = committing.feed(Finished("small", BAD))
    assert isinstance(answer, Answer)
    assert (answer.model, answer.decision.escalated) == ("small", False)
    assert answer.offer is not None
    assert answer.offer.model == "large"
    assert answer.offer.gain > 0.5


def test_a_doubtful_beginning_is_stopped_once_the_hold_back_is_over(committing: Cascade) -> None:
    begun = replace(BAD, finished=False, tokens=4)
    assert committing.look(begun) is Look.STOP
    call = called(committing.feed(Stopped("small", begun)))
    assert (call.model, call.escalation, call.draft) == ("large", True, False)
    assert call.decision.explanation.startswith(
        "After 4 tokens: the draft of small looks right with p = 0.02"
    )


def test_a_draft_that_ends_within_the_hold_back_is_read_whole(committing: Cascade) -> None:
    answer = committing.feed(Finished("small", replace(GOOD, tokens=3)))
    assert isinstance(answer, Answer)
    assert (answer.draft, answer.offer) == (True, None)


def test_what_is_accepted_before_the_hold_back_is_over_is_not_covered(committing: Cascade) -> None:
    assert committing.look(replace(BEGUN, tokens=2), overdue=True) is Look.ACCEPT
    answer = committing.feed(Finished("small", GOOD))
    assert isinstance(answer, Answer)
    assert answer.decision.certificate is None


def test_an_end_that_cannot_be_read_changes_nothing_that_was_accepted(committing: Cascade) -> None:
    committing.look(BEGUN)
    answer = committing.feed(Unread("small", GOOD))
    assert isinstance(answer, Answer)
    assert (answer.model, answer.draft, answer.offer) == ("small", False, None)


def test_a_draft_is_written_anew_where_nobody_has_seen_the_one_that_was_accepted(committing: Cascade) -> None:
    committing.look(BEGUN)
    assert called(fail(committing, "small", again=True)).draft
    assert committing.look(replace(BAD, finished=False, tokens=4)) is Look.STOP
    committing.feed(Stopped("small", BAD))


def test_without_early_stop_a_draft_is_read_once_it_is_whole(
    reading: Callable[..., Bundle], pool: Pool, ask: Ask
) -> None:
    cascade = Cascade(reading(), pool, now=NOW)
    cascade.feed(Received(ask(early_stop=False)))
    assert cascade.look(replace(BAD, finished=False, tokens=4)) is Look.WAIT
    assert called(cascade.feed(Finished("small", BAD))).escalation


def test_without_a_hold_back_the_query_alone_decides(pool: Pool, ask: Ask) -> None:
    bundle = bundles.load(bundles.dump(hand_made.shortened(hand_made.reading(), 0)))
    call = called(Cascade(bundle, pool, now=NOW).feed(Received(ask(hold_back=0))))
    assert (call.model, call.draft) == ("small", False)
    assert call.decision.certificate is not None
    assert call.decision.certificate.hold_back == 0


def test_a_hedge_begins_the_reference_beside_the_first_draft_only(
    reading: Callable[..., Bundle], pool: Pool, ask: Ask
) -> None:
    cascade = Cascade(reading(), pool, now=NOW)
    assert called(cascade.feed(Received(ask(hedged=True)))).beside == "large"
    assert called(fail(cascade, "small")).beside == ""
    sure = Cascade(reading(), pool, now=NOW)
    assert called(sure.feed(Received(ask(hedged=True, pinned="small")))).beside == "", "nothing is read"


def test_a_hedge_leaves_time_for_a_draft(reading: Callable[..., Bundle], pool: Pool, ask: Ask) -> None:
    """Draft and escalation run side by side: the slower one decides, not both together."""
    slow = replace(pool, models=tuple(replace(one, pace=Pace(2.0, 10.0)) for one in pool.models))
    patient, hurried = (
        called(Cascade(reading(), slow, now=NOW).feed(Received(ask(seconds_left=3.0, hedged=hedged))))
        for hedged in (True, False)
    )
    assert (patient.model, patient.draft) == ("small", True)
    assert (hurried.model, hurried.draft) == ("large", False)


def test_a_hedge_leaves_no_time_for_two_drafts_one_after_the_other(
    three: Bundle, pool_of_three: Pool, ask: Ask
) -> None:
    slow = replace(
        pool_of_three, models=tuple(replace(one, pace=Pace(2.0, 10.0)) for one in pool_of_three.models)
    )
    calls = [
        called(Cascade(three, slow, now=NOW).feed(Received(ask(seconds_left=left, hedged=True))))
        for left in (3.0, 5.0)
    ]
    priors = [call.decision.prior for call in calls]
    assert [list(prior.further) for prior in priors if prior] == [[], ["mid"]]


@pytest.mark.parametrize(("loss", "covered"), [("regret", True), ("net", False)])
def test_an_overdue_draft_that_is_stopped_may_take_a_win_away(
    reading: Callable[..., Bundle], pool: Pool, ask: Ask, loss: str, covered: bool
) -> None:
    bundle = reading(certificates=(hand_made.certificate(loss=loss),))
    cascade = Cascade(bundle, pool, now=NOW)
    assert called(cascade.feed(Received(ask()))).draft
    begun = Draft("small", "2 + 2 = 5", finished=False, tokens=5, logprobs=(-0.1,) * 5)
    assert cascade.look(begun, overdue=True) is Look.STOP
    decision = called(cascade.feed(Stopped("small", begun))).decision
    assert (decision.model, decision.certificate is not None) == ("large", covered)


@pytest.fixture
def asking_two(three: Bundle, pool_of_three: Pool, ask: Ask) -> Cascade:
    """A request whose first draft was doubtful; a second one, of mid, is being written."""
    one = Cascade(three, pool_of_three, now=NOW)
    assert called(one.feed(Received(ask()))).draft
    call = called(one.feed(Finished("small", BAD)))
    assert (call.model, call.attempt, call.draft, call.escalation) == ("mid", 2, True, True)
    return one


def test_a_second_draft_may_be_the_answer(asking_two: Cascade) -> None:
    answer = asking_two.feed(Finished("mid", Draft("mid", "1 + 1 = 2")))
    assert isinstance(answer, Answer)
    assert (answer.model, answer.draft, answer.decision.drafted_by) == ("mid", True, "mid")


def test_after_two_doubtful_drafts_the_reference_answers_in_the_last_call(asking_two: Cascade) -> None:
    call = called(asking_two.feed(Finished("mid", Draft("mid", "1 + 1 = 3"))))
    assert (call.model, call.attempt, call.draft, call.escalation) == ("large", MOST_ATTEMPTS, False, True)
    answer = fail(asking_two, "large")
    assert isinstance(answer, Answer)
    assert (answer.model in ("small", "mid"), answer.draft) == (True, True)


@pytest.mark.parametrize("retryable", [True, False])
def test_where_the_second_draft_fails_the_reference_has_the_last_call(
    asking_two: Cascade, retryable: bool
) -> None:
    command = fail(asking_two, "mid", retryable)
    if retryable:
        call = called(command)
        assert (call.model, call.attempt, call.fallback, call.draft) == ("large", 3, True, False)
        command = fail(asking_two, "large")
    assert isinstance(command, Answer)
    assert (command.model, command.draft) == ("small", True)


def test_where_a_retry_took_the_call_there_is_no_second_draft(
    three: Bundle, pool_of_three: Pool, ask: Ask
) -> None:
    one = Cascade(three, pool_of_three, now=NOW)
    one.feed(Received(ask()))
    fail(one, "small")
    call = called(one.feed(Finished("small", BAD)))
    assert (call.model, call.attempt, call.draft) == ("large", MOST_ATTEMPTS, False)
    assert call.decision.certificate is not None


@pytest.fixture
def later(reading: Callable[..., Bundle], pool: Pool, ask: Ask) -> Cascade:
    """A request that is answered at once, and may be upgraded."""
    one = Cascade(reading(), pool, now=NOW)
    call = called(one.feed(Received(ask(upgrade_later=True, hedged=True))))
    assert (call.model, call.draft, call.at_once, call.beside) == ("small", True, True, "")
    assert call.decision.certificate is None, "it speaks of policies that deliver no doubtful draft"
    return one


def test_what_is_answered_at_once_and_looks_good_is_offered_nothing(later: Cascade) -> None:
    answer = later.feed(Finished("small", GOOD))
    assert isinstance(answer, Answer)
    assert (answer.model, answer.draft, answer.offer) == ("small", False, None)
    assert (answer.decision.drafted_by, answer.decision.upgrade) == ("small", "")
    assert answer.decision.certificate is None


@pytest.mark.parametrize("draft", [BAD, replace(GOOD, declined=True), replace(GOOD, finished=False)])
def test_what_is_answered_at_once_and_in_doubt_comes_with_an_offer(later: Cascade, draft: Draft) -> None:
    answer = later.feed(Finished("small", draft))
    assert isinstance(answer, Answer)
    assert (answer.model, answer.decision.model, answer.decision.upgrade) == ("small", "small", "large")
    assert answer.offer is not None
    assert answer.offer.model == "large"
    assert answer.offer.gain > 0.1
    assert "later" in answer.decision.explanation


def test_what_is_answered_at_once_and_cannot_be_read_stands(later: Cascade) -> None:
    answer = later.feed(Unread("small", GOOD))
    assert isinstance(answer, Answer)
    assert (answer.model, answer.offer) == ("small", None)


def test_what_is_answered_at_once_falls_back_as_any_other_and_needs_no_upgrade(later: Cascade) -> None:
    assert called(fail(later, "small")).at_once
    call = called(fail(later, "small"))
    assert (call.model, call.fallback, call.draft) == ("large", True, False)
    answer = later.feed(Finished("large"))
    assert isinstance(answer, Answer)
    assert answer.offer is None


def test_where_no_draft_is_read_the_query_alone_says_who_upgrades(
    bundle: Bundle, pool: Pool, ask: Ask
) -> None:
    hard = "12345678 and 87654321"
    assert decide(bundle, ask(text=hard), pool, now=NOW).model == "large"
    one = Cascade(bundle, pool, now=NOW)
    call = called(one.feed(Received(ask(text=hard, upgrade_later=True))))
    assert (call.model, call.draft, call.decision.certificate) == ("small", False, None)
    answer = one.feed(Finished("small"))
    assert isinstance(answer, Answer)
    assert answer.offer is not None
    assert (answer.offer.model, answer.offer.gain > 0) == ("large", True)


@pytest.mark.parametrize(
    ("change", "model"),
    [({"pinned": "large"}, "large"), ({"session_model": "large"}, "large"), ({"stops": 1}, "large"),
     ({"allowed": frozenset({"small"})}, "small")],
)  # fmt: skip
def test_only_what_the_policy_decides_is_upgraded_later(
    change: dict[str, object], model: str, reading: Callable[..., Bundle], pool: Pool, ask: Ask
) -> None:
    one = Cascade(reading(), pool, now=NOW)
    call = called(one.feed(Received(ask(upgrade_later=True, **change))))
    assert (call.model, call.at_once) == (model, False)
    answer = one.feed(Finished(model))
    assert isinstance(answer, Answer)
    assert answer.offer is None


def test_what_a_dearer_model_takes_is_no_reason_against_asking_it_later(
    reading: Callable[..., Bundle], pool: Pool, ask: Ask
) -> None:
    small, large = pool.models
    slow = Pool((small, replace(large, pace=Pace(8.0, 100.0))), "large")
    one = Cascade(reading(), slow, now=NOW)
    call = called(one.feed(Received(ask(upgrade_later=True, seconds_left=2.0))))
    assert (call.model, call.at_once) == ("small", True)
    answer = one.feed(Finished("small", BAD))
    assert isinstance(answer, Answer)
    assert answer.offer is not None
    assert answer.offer.model == "large"
