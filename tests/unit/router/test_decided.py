from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.router.bundle import Bundle
from headgate.router.decide import decide
from headgate.router.decided import Decided
from headgate.router.errors import ContextError, EstimateError
from headgate.router.types import Certificate, Decision, Objective, Pace, Pool, Query, Reason

Ask, MakeBundle, MakeCertificate = Callable[..., Query], Callable[..., Bundle], Callable[..., Certificate]
NOW = 1_000_000.0


def paced(pool: Pool, seconds: float | None) -> Pool:
    """The pool, every model of which takes so long for an answer of 100 tokens."""
    pace = Pace(seconds, 100) if seconds is not None else None
    return replace(pool, models=tuple(replace(one, pace=pace) for one in pool.models))


def renamed(pool: Pool, version: str) -> Pool:
    return replace(pool, models=tuple(replace(one, version=version) for one in pool.models))


def test_the_same_query_gets_the_same_decision_without_an_estimate(
    bundle: Bundle, pool: Pool, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided = Decided()
    first = decided.decide(bundle, ask(), pool, now=NOW)
    monkeypatch.setattr(Bundle, "estimate_one", pytest.fail)
    assert decided.decide(bundle, ask(), paced(pool, 1.0), now=NOW + 1) is first
    assert decided.decide(bundle, ask(seconds_left=30.0), paced(pool, 2.0), now=NOW + 2) is first


def test_a_deadline_that_could_rule_a_model_out_is_looked_at_anew(
    bundle: Bundle, pool: Pool, ask: Ask
) -> None:
    decided = Decided()
    small, large = pool.models
    slow = Pool((small, replace(large, pace=Pace(8.0, 100))), "large")
    hard = "12345678 and 87654321"
    assert decided.decide(bundle, ask(hard), slow, now=NOW).model == "large"
    assert decided.decide(bundle, ask(hard, seconds_left=2.0), slow, now=NOW).model == "small"
    assert decided.decide(bundle, ask(hard, seconds_left=60.0), slow, now=NOW).model == "large"


def test_a_certificate_that_has_expired_covers_no_decision_that_was_made_before(
    make_bundle: MakeBundle, make_certificate: MakeCertificate, pool: Pool, ask: Ask
) -> None:
    bundle, decided = make_bundle(certificates=(make_certificate(expires=NOW),)), Decided()
    assert decided.decide(bundle, ask(), pool, now=NOW - 1).certificate is not None
    assert decided.decide(bundle, ask(), pool, now=NOW).reason is Reason.NO_CERTIFICATE
    assert decided.decide(bundle, ask(), pool, now=NOW - 1).certificate is not None, "the clock went back"


def test_another_version_of_a_model_is_another_pool(bundle: Bundle, pool: Pool, ask: Ask) -> None:
    decided = Decided()
    first = decided.decide(bundle, ask(), pool, now=NOW)
    assert decided.decide(bundle, ask(), renamed(pool, "2"), now=NOW) is not first


def test_another_reference_is_another_pool(bundle: Bundle, pool: Pool, ask: Ask) -> None:
    decided = Decided()
    assert decided.decide(bundle, ask(), pool, now=NOW).certificate is not None
    turned = Pool(pool.models, "small")
    assert decided.decide(bundle, ask(), turned, now=NOW).reason is Reason.NO_CERTIFICATE


def test_another_bundle_knows_nothing_of_an_earlier_one_which_is_let_go(
    make_bundle: MakeBundle, pool: Pool, ask: Ask
) -> None:
    decided, one, other = Decided(), make_bundle(), make_bundle(certificates=())
    decided.decide(one, ask(), pool, now=NOW)
    assert decided.decide(other, ask(), pool, now=NOW).reason is Reason.NO_CERTIFICATE
    earlier = weakref.ref(one)
    del one
    gc.collect()
    assert earlier() is None


def test_whatever_the_query_differs_in_counts(bundle: Bundle, pool: Pool, ask: Ask) -> None:
    decided = Decided()
    queries = [
        ask(), ask("12345678 and 87654321"), ask(session_model="large"), ask(pinned="large"),
        ask(allowed=frozenset({"large"})), ask(objective=Objective(budget_nanousd=10_000)), ask(stops=1),
        ask(temperature=2.0), ask(system_bytes=10**9), ask(history_turns=10**6), ask(upgrade_later=True),
    ]  # fmt: skip
    first = [decided.decide(bundle, query, pool, now=NOW) for query in queries]
    assert first == [decide(bundle, query, pool, now=NOW) for query in queries]
    again = [decided.decide(bundle, query, pool, now=NOW) for query in queries]
    assert all(one is other for one, other in zip(first, again, strict=True))


def test_an_error_is_raised_each_time_and_no_bundle_is_no_reason(pool: Pool, ask: Ask) -> None:
    decided = Decided()
    narrow = replace(pool, models=tuple(replace(one, context_tokens=10) for one in pool.models))
    for _ in range(2):
        with pytest.raises(ContextError):
            decided.decide(None, ask(prompt_tokens=1_000), narrow, now=NOW)
    assert decided.decide(None, ask(), pool, now=NOW).reason is Reason.NO_CERTIFICATE


def test_an_estimate_that_failed_is_made_anew(
    bundle: Bundle, pool: Pool, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise EstimateError("no memory")

    decided = Decided()
    with monkeypatch.context() as broken:
        broken.setattr(Bundle, "estimate_one", fail)
        assert decided.decide(bundle, ask(), pool, now=NOW).reason is Reason.BRAIN_FAILED
    assert decided.decide(bundle, ask(), pool, now=NOW).reason is Reason.POLICY


def test_the_decision_unused_for_longest_goes_first(bundle: Bundle, pool: Pool, ask: Ask) -> None:
    decided = Decided(most=2)

    def told(text: str) -> Decision:
        return decided.decide(bundle, ask(text), pool, now=NOW)

    first, second = told("a"), told("b")
    assert told("a") is first
    told("c")
    assert told("a") is first
    assert told("b") is not second


@settings(max_examples=25)
@given(data=st.data())
def test_what_is_remembered_is_what_would_be_decided(
    make_bundle: MakeBundle,
    make_certificate: MakeCertificate,
    reading: Callable[..., Bundle],
    pool: Pool,
    ask: Ask,
    data: st.DataObject,
) -> None:
    bundles = (
        make_bundle(certificates=(make_certificate(expires=NOW), make_certificate(risk_target=0.2))),
        reading(),
    )
    pools = [paced(one, seconds) for one in (pool, Pool(pool.models, "small")) for seconds in (None, 3.0)]
    queries = [
        ask(text, objective=Objective(0.3), seconds_left=left, hedged=hedged)
        for text in ("1 + 1", "12345678 and 87654321")
        for left in (1.0, 5.0, 60.0)
        for hedged in (False, True)
    ]
    decided = Decided(most=3)
    for _ in range(40):
        bundle, now = data.draw(st.sampled_from(bundles)), data.draw(st.sampled_from([NOW - 1, NOW]))
        at, query = data.draw(st.sampled_from(pools)), data.draw(st.sampled_from(queries))
        assert decided.decide(bundle, query, at, now=now) == decide(bundle, query, at, now=now)
