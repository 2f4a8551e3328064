from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.router.bundle import Bundle
from headgate.router.decide import decide
from headgate.router.errors import ContextError, ObjectiveError, PoolError
from headgate.router.features import Familiarity
from headgate.router.types import Certificate, Decision, Model, Objective, Pace, Pool, Price, Query, Reason

Ask, MakeBundle, MakeCertificate = Callable[..., Query], Callable[..., Bundle], Callable[..., Certificate]
NOW = 1_000_000.0
HARD = "12345678 and 87654321"


def uncovered(decision: Decision, reason: Reason) -> bool:
    return (decision.model, decision.reason, decision.certificate) == ("large", reason, None)


def test_an_easy_query_goes_to_small_and_a_hard_one_to_large(bundle: Bundle, pool: Pool, ask: Ask) -> None:
    easy, hard = decide(bundle, ask(), pool, now=NOW), decide(bundle, ask(HARD), pool, now=NOW)
    assert (easy.model, easy.reason) == ("small", Reason.POLICY)
    assert (hard.model, hard.reason) == ("large", Reason.POLICY)
    assert easy.certificate is hard.certificate is bundle.certificates[1]
    assert easy.lam == bundle.certificates[1].lam
    assert (easy.bundle_version, easy.policy_version) == (bundle.version, bundle.policy_version)


def test_estimates_follow_the_pool_and_its_prices(bundle: Bundle, pool: Pool, ask: Ask) -> None:
    twice = replace(pool, models=tuple(replace(m, price=Price(20_000_000, 80_000_000)) for m in pool.models))
    decision = decide(bundle, ask("abcd" * 5), twice, now=NOW)
    small, large = decision.estimates
    assert [small.model, large.model] == ["small", "large"]
    assert small.expected_cost_nanousd == (4 * 5 * 20_000_000 + 10 * 80_000_000) // 10**6
    assert large.expected_cost_nanousd == (4 * 5 * 20_000_000 + 5 * 80_000_000) // 10**6
    assert small.p_correct == pytest.approx(1 / (1 + np.exp(-3)), abs=0.005)
    assert small.spread is not None
    assert small.spread > 0


def test_no_bundle_means_the_reference(pool: Pool, ask: Ask) -> None:
    decision = decide(None, ask(), pool, now=NOW)
    assert uncovered(decision, Reason.NO_CERTIFICATE)
    assert decision.bundle_version == decision.policy_version == ""
    assert all(estimate.p_correct is None for estimate in decision.estimates)


def test_a_certificate_ends_when_it_expires(
    make_bundle: MakeBundle, make_certificate: MakeCertificate, pool: Pool, ask: Ask
) -> None:
    bundle = make_bundle(certificates=(make_certificate(expires=NOW),))
    assert decide(bundle, ask(), pool, now=NOW - 1).model == "small"
    assert uncovered(decide(bundle, ask(), pool, now=NOW), Reason.NO_CERTIFICATE)


def test_a_certificate_speaks_of_its_reference_only(bundle: Bundle, pool: Pool, ask: Ask) -> None:
    decision = decide(bundle, ask(), replace(pool, reference="small"), now=NOW)
    assert (decision.model, decision.reason, decision.certificate) == ("small", Reason.NO_CERTIFICATE, None)


@pytest.mark.parametrize("which", [0, 1])
def test_a_certificate_speaks_of_its_versions_only(bundle: Bundle, pool: Pool, ask: Ask, which: int) -> None:
    models = list(pool.models)
    models[which] = replace(models[which], version="retrained")
    decision = decide(bundle, ask(), replace(pool, models=tuple(models)), now=NOW)
    assert uncovered(decision, Reason.NO_CERTIFICATE)
    assert "not the version" in decision.explanation


def test_a_bare_name_in_a_certificate_fits_any_version(
    make_bundle: MakeBundle, make_certificate: MakeCertificate, pool: Pool, ask: Ask
) -> None:
    bundle = make_bundle(certificates=(make_certificate(models=("small", "large")),))
    assert decide(bundle, ask(), pool, now=NOW).reason is Reason.POLICY


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"temperature": 0.1}, "temperature"),
        ({"prompt_tokens": 41}, "prompt tokens"),
        ({"text": "word " * 40}, "prompt tokens"),
        ({"system_bytes": 1}, "system bytes"),
        ({"history_turns": 1}, "history turns"),
        ({"max_tokens": 19}, "max tokens"),
        ({"text_only": False}, "only text"),
    ],
)
def test_outside_the_calibrated_settings_the_reference_answers(
    bundle: Bundle, pool: Pool, ask: Ask, change: dict[str, object], named: str
) -> None:
    decision = decide(bundle, ask(**change), pool, now=NOW)
    assert uncovered(decision, Reason.OUTSIDE_CALIBRATION)
    assert named in decision.explanation.lower()


@pytest.mark.parametrize(
    "change", [{"temperature": 0.0, "top_p": 0.5}, {"prompt_tokens": 40}, {"max_tokens": 20}]
)
def test_at_the_edge_of_the_settings_the_policy_still_decides(
    bundle: Bundle, pool: Pool, ask: Ask, change: dict[str, object]
) -> None:
    assert decide(bundle, ask(**change), pool, now=NOW).reason is Reason.POLICY


def test_an_unfamiliar_text_goes_to_the_reference_and_says_how_unfamiliar(
    make_bundle: MakeBundle, stranger: Familiarity, pool: Pool, ask: Ask
) -> None:
    decision = decide(make_bundle(familiarity=stranger), ask(), pool, now=NOW)
    assert uncovered(decision, Reason.OUTSIDE_CALIBRATION)
    assert decision.out_of_distribution == 1.0


def test_a_text_of_known_words_and_a_strange_surface_goes_to_the_reference(
    make_bundle: MakeBundle, bundle: Bundle, pool: Pool, ask: Ask
) -> None:
    near = bundle.contents.familiarity
    far = replace(near, whitening=np.eye(len(near.centre), dtype=np.float32) * 100)
    decision = decide(make_bundle(familiarity=far), ask(), pool, now=NOW)
    assert uncovered(decision, Reason.OUTSIDE_CALIBRATION)
    assert 0.9 < decision.out_of_distribution < 1.0


def test_an_objective_that_no_certificate_meets_is_an_error(bundle: Bundle, pool: Pool, ask: Ask) -> None:
    with pytest.raises(ObjectiveError):
        decide(bundle, ask(risk_target=0.001), pool, now=NOW)


def test_a_budget_is_an_objective(bundle: Bundle, pool: Pool, ask: Ask) -> None:
    rich, poor = (
        decide(bundle, ask(objective=Objective(budget_nanousd=budget)), pool, now=NOW)
        for budget in (10**6, 1)
    )
    assert (rich.lam, poor.lam) == (0.05, 0.1)
    assert rich.certificate is bundle.certificates[0]
    assert poor.certificate is bundle.certificates[1]


def test_a_pin_is_obeyed_and_never_covered(bundle: Bundle, pool: Pool, ask: Ask) -> None:
    decision = decide(bundle, ask(HARD, pinned="small"), pool, now=NOW)
    assert (decision.model, decision.reason, decision.certificate) == ("small", Reason.PINNED, None)
    assert all(estimate.p_correct is None for estimate in decision.estimates)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"pinned": "huge"}, "no model 'huge'"),
        ({"pinned": "large", "allowed": frozenset({"small"})}, "not allowed for this tenant"),
        ({"allowed": frozenset()}, "not allowed for this tenant"),
        ({"prompt_tokens": 5000}, "longer than the model's context"),
        ({"required_capabilities": frozenset({"vision", "audio"})}, "without the capability audio, vision"),
        (
            {"pinned": "small", "required_capabilities": frozenset({"vision"})},
            "without the capability vision",
        ),
    ],
)
def test_demands_that_no_model_meets_are_errors(
    bundle: Bundle, pool: Pool, ask: Ask, change: dict[str, object], sentence: str
) -> None:
    with pytest.raises(PoolError, match=sentence):
        decide(bundle, ask(**change), pool, now=NOW)


@pytest.mark.parametrize("only", ["small", "large"])
def test_a_single_eligible_model_needs_no_policy(bundle: Bundle, pool: Pool, ask: Ask, only: str) -> None:
    for loaded in (bundle, None):
        decision = decide(loaded, ask(HARD, allowed=frozenset({only})), pool, now=NOW)
        assert (decision.model, decision.reason, decision.certificate) == (only, Reason.ONLY_ELIGIBLE, None)
        excluded = [e for e in decision.estimates if e.excluded_because]
        assert [e.excluded_because for e in excluded] == ["not allowed for this tenant"]


def test_a_context_that_is_too_short_excludes(bundle: Bundle, pool: Pool, ask: Ask) -> None:
    decision = decide(bundle, ask(prompt_tokens=30, max_tokens=250), pool, now=NOW)
    assert (decision.model, decision.reason) == ("large", Reason.ONLY_ELIGIBLE)
    own_count = ask(
        prompt_tokens=30, max_tokens=140
    )  # 30 estimated tokens are 120 of small's own, and 256 is its all
    assert decide(bundle, own_count, pool, now=NOW).model == "large"
    assert decide(None, own_count, pool, now=NOW).reason is Reason.NO_CERTIFICATE


def test_where_no_model_has_room_for_max_tokens_room_for_the_prompt_is_enough(
    bundle: Bundle, pool: Pool, ask: Ask
) -> None:
    """The answer ends where the context does, as an answer that meets max_tokens does."""
    whole = decide(bundle, ask(), pool, now=NOW)
    assert decide(bundle, ask(max_tokens=32_768), pool, now=NOW).model == whole.model
    pinned = decide(bundle, ask(max_tokens=32_768, pinned="small"), pool, now=NOW)
    assert (pinned.model, pinned.reason) == ("small", Reason.PINNED)


@pytest.mark.parametrize("pinned", ["", "small"])
def test_a_prompt_that_no_context_holds_is_an_error_of_its_own(
    bundle: Bundle, pool: Pool, ask: Ask, pinned: str
) -> None:
    with pytest.raises(ContextError, match="longer than the model's context"):
        decide(bundle, ask(prompt_tokens=5000, pinned=pinned), pool, now=NOW)


def changed(pool: Pool, name: str, **fields: Any) -> Pool:
    models = tuple(replace(model, **fields) if model.name == name else model for model in pool.models)
    return replace(pool, models=models)


def test_only_a_model_with_every_required_capability_may_answer(bundle: Bundle, pool: Pool, ask: Ask) -> None:
    able = changed(pool, "large", capabilities=frozenset({"vision", "german"}))
    decision = decide(bundle, ask(required_capabilities=frozenset({"vision"})), able, now=NOW)
    assert (decision.model, decision.reason) == ("large", Reason.ONLY_ELIGIBLE)
    assert decision.estimates[0].excluded_because == "without the capability vision"
    assert decide(bundle, ask(), able, now=NOW).model == "small"


def test_a_model_that_is_likely_to_miss_the_deadline_may_not_answer(
    bundle: Bundle, pool: Pool, ask: Ask
) -> None:
    slow = changed(pool, "large", pace=Pace(seconds=2.0, tokens=20.0))
    late, in_time = (decide(bundle, ask(HARD, seconds_left=left), slow, now=NOW) for left in (1.9, 2.0))
    assert (late.model, late.reason, late.certificate) == ("small", Reason.ONLY_ELIGIBLE, None)
    assert [e.excluded_because for e in late.estimates] == ["", "likely to miss the deadline"]
    assert (in_time.model, in_time.reason) == ("large", Reason.POLICY)


def test_a_short_answer_takes_its_share_of_the_usual_time(bundle: Bundle, pool: Pool, ask: Ask) -> None:
    slow = changed(pool, "large", pace=Pace(seconds=4.0, tokens=80.0))
    for max_tokens, model in ((20, "large"), (21, "small"), (80, "small"), (200, "small")):
        query = ask(HARD, seconds_left=1.0, max_tokens=max_tokens)
        assert decide(bundle, query, slow, now=NOW).model == model, max_tokens


def test_where_every_model_is_too_slow_the_quickest_answers(bundle: Bundle, pool: Pool, ask: Ask) -> None:
    slow = changed(changed(pool, "large", pace=Pace(3.0, 9.0)), "small", pace=Pace(4.0, 9.0))
    decision = decide(bundle, ask(seconds_left=1.0), slow, now=NOW)
    assert (decision.model, decision.reason) == ("large", Reason.ONLY_ELIGIBLE)


def test_a_pinned_model_may_be_slow(bundle: Bundle, pool: Pool, ask: Ask) -> None:
    slow = changed(pool, "large", pace=Pace(3.0, 9.0))
    assert decide(bundle, ask(pinned="large", seconds_left=1.0), slow, now=NOW).reason is Reason.PINNED


def test_where_the_choice_is_too_slow_the_reference_answers_and_stays_covered(
    bundle: Bundle, pool: Pool, ask: Ask
) -> None:
    slow = changed(three(pool), "small", pace=Pace(3.0, 9.0))
    decision = decide(bundle, ask(seconds_left=1.0), slow, now=NOW)
    assert (decision.model, decision.reason) == ("large", Reason.POLICY)
    assert decision.certificate is bundle.certificates[1]


def three(pool: Pool) -> Pool:
    return replace(pool, models=(*pool.models, Model("extra", Price(1, 1))))


def test_where_choice_and_reference_are_out_of_reach_another_model_answers_uncovered(
    bundle: Bundle, pool: Pool, ask: Ask
) -> None:
    """The pool names a reference whose worker was never reached, and so has no entry for it."""
    extra = (Model("extra", Price(10_000_000, 1)), Model("other", Price(20_000_000, 1)))
    decision = decide(bundle, ask(), replace(pool, models=extra), now=NOW)
    assert (decision.model, decision.certificate) == ("other", None)
    assert decision.expected_cost_nanousd >= 0


def test_where_the_choice_may_not_answer_the_reference_does_and_stays_covered(
    bundle: Bundle, pool: Pool, ask: Ask
) -> None:
    decision = decide(bundle, ask(allowed=frozenset({"large", "extra"})), three(pool), now=NOW)
    assert (decision.model, decision.reason) == ("large", Reason.POLICY)
    assert decision.certificate is bundle.certificates[1]
    assert "may not answer" in decision.explanation


def test_where_neither_choice_nor_reference_may_answer_nothing_is_covered(
    bundle: Bundle, pool: Pool, ask: Ask
) -> None:
    decision = decide(bundle, ask(HARD, allowed=frozenset({"small", "extra"})), three(pool), now=NOW)
    assert (decision.model, decision.reason, decision.certificate) == (
        "small",
        Reason.OUTSIDE_CALIBRATION,
        None,
    )


def test_a_session_keeps_its_model_but_may_move_up(bundle: Bundle, pool: Pool, ask: Ask) -> None:
    kept = decide(bundle, ask(session_model="large"), pool, now=NOW)
    assert (kept.model, kept.reason) == ("large", Reason.SESSION)
    assert kept.certificate is bundle.certificates[1], "the reference never regrets"
    moved = decide(bundle, ask(HARD, session_model="small"), pool, now=NOW)
    assert (moved.model, moved.reason) == ("large", Reason.POLICY)
    gone = decide(bundle, ask(session_model="retired"), pool, now=NOW)
    assert (gone.model, gone.reason) == ("small", Reason.POLICY)


def test_a_session_on_a_dear_model_that_is_not_the_reference_is_not_covered(
    bundle: Bundle, pool: Pool, ask: Ask
) -> None:
    dear = replace(pool, models=(*pool.models, Model("extra", Price(10**9, 10**9))))
    decision = decide(bundle, ask(session_model="extra"), dear, now=NOW)
    assert (decision.model, decision.reason, decision.certificate) == ("extra", Reason.SESSION, None)


class Broken:
    """A model whose output is never usable, in the place of a bundle's own."""

    def run_one(self, batch: object) -> None:
        from headgate.router.errors import EstimateError

        raise EstimateError("the uncertainty model's output is not finite or out of range")


def test_a_broken_model_means_the_reference(make_bundle: MakeBundle, pool: Pool, ask: Ask) -> None:
    bundle = make_bundle()
    bundle._model = Broken()  # type: ignore[assignment]
    decision = decide(bundle, ask(), pool, now=NOW)
    assert uncovered(decision, Reason.BRAIN_FAILED)
    assert decision.bundle_version == bundle.version
    assert decide(bundle, ask(pinned="small"), pool, now=NOW).model == "small"


@given(
    text=st.text(max_size=60),
    temperature=st.sampled_from([0.0, 0.7]),
    allowed=st.sampled_from(
        [None, frozenset({"small"}), frozenset({"large"}), frozenset({"small", "large"})]
    ),
    session=st.sampled_from(["", "small", "large"]),
    loaded=st.booleans(),
)
def test_every_decision_keeps_the_promises(
    bundle: Bundle, pool: Pool, ask: Ask, text: str, temperature: float, allowed: frozenset[str] | None,
    session: str, loaded: bool,
) -> None:  # fmt: skip
    query = ask(text, temperature=temperature, allowed=allowed, session_model=session)
    decision = decide(bundle if loaded else None, query, pool, now=NOW)
    assert decision.model in pool
    assert allowed is None or decision.model in allowed
    assert [estimate.model for estimate in decision.estimates] == [model.name for model in pool.models]
    assert decision.explanation.endswith(".")
    assert len(text) < 8 or text not in decision.explanation
    assert decision.expected_cost_nanousd >= 0
    if decision.certificate is not None:
        assert decision.reason in (Reason.POLICY, Reason.SESSION)
        assert decision.lam <= decision.certificate.lam
    elif decision.reason is not Reason.ONLY_ELIGIBLE and (allowed is None or "large" in allowed):
        assert decision.model == "large" or decision.reason is Reason.SESSION
