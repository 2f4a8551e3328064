"""A cascade through the real gateway: drafts are held back, read, and accepted or escalated.

The scripted workers echo a question that is no script, and the hand-made bundle doubts small's draft where
one of its equations fails.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest

from headgate.gateway.entries import Entry, opened
from headgate.router import bundle as bundles
from headgate.router.offline import graph
from headgate.v1 import router_pb2, router_pb2_grpc, types_pb2
from tests import hand_made
from tests.integration.gateway_rig import (
    Stack,
    config,
    eventually,
    generate,
    key,
    metrics,
    stack,
    streamed,
    stub,
    text_of,
)

ACME = key("acme")
RIGHT, WRONG = "tell me now whether 2 + 2 = 4", "tell me now whether 2 + 2 = 5"
HELD_BACK = 8
LOOSE = 0.5
ENDS_BADLY = {"say": ["it is so. "] * 20 + ["2 + 2 = 5"]}
DOUBTFUL_AT_ONCE = "2 + 2 = 5, say so word by word"
SHORT = types_pb2.PolicyOverride(hold_back_tokens=HELD_BACK)
Stub = router_pb2_grpc.RouterServiceStub


def bundle(folder: Path) -> Path:
    """Certificates that speak of any version, and of any length: the workers are scripted. Small is expected
    to write much."""
    chatty = graph.build(hand_made.weights(easy=4.0, tokens=20.0))
    usual = hand_made.certificate(models=("small", "large"), settings={})
    loose = hand_made.certificate(risk_target=LOOSE, lam=1.2, models=("small", "large"), settings={})
    made = hand_made.reading(
        resolution=0.9, certificates=(usual, loose), graph=chatty, golden=graph.golden_vectors(chatty, 2)
    )
    made = hand_made.shortened(made, HELD_BACK, 0)
    path = folder / "drafts.bundle"
    path.write_bytes(bundles.dump(made))
    return path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    where = bundle(tmp_path_factory.mktemp("bundle"))
    with stack(tmp_path_factory, {**config(), "policy": {"bundle": str(where)}}) as one:
        yield one


@pytest.fixture
async def router(running: Stack) -> AsyncIterator[Stub]:
    async with running.channel() as channel:
        yield stub(channel)


async def events(
    router: Stub, text: str | dict[str, object], **fields: object
) -> list[router_pb2.StreamGenerateResponse]:
    return [event async for event in router.StreamGenerate(streamed(text, **fields), metadata=ACME)]


def kinds(told: list[router_pb2.StreamGenerateResponse]) -> list[str]:
    return [event.WhichOneof("event") or "" for event in told]


async def test_a_good_draft_is_the_answer_and_costs_one_call(router: Stub) -> None:
    answer = await router.Generate(generate(RIGHT, request_id="right-1"), metadata=ACME)
    decision = answer.decision
    assert text_of(answer) == f"small: {RIGHT}"
    assert (decision.model, decision.drafted_by, len(decision.attempts)) == ("small", "small", 1)
    assert decision.estimates[0].p_correct_after_draft > 0.9
    assert decision.certificate.id


async def test_a_doubtful_draft_is_escalated_paid_and_still_covered(router: Stub) -> None:
    answer = await router.Generate(generate(WRONG, request_id="wrong-1"), metadata=ACME)
    decision = answer.decision
    assert text_of(answer) == f"large: {WRONG}"
    assert (decision.model, decision.drafted_by) == ("large", "small")
    assert [attempt.model for attempt in decision.attempts] == ["small", "large"]
    assert decision.cost_nanousd == sum(attempt.cost_nanousd for attempt in decision.attempts)
    assert decision.certificate.id
    assert not decision.degraded


async def test_a_stream_shows_nothing_of_a_draft_that_was_not_accepted(router: Stub) -> None:
    told = await events(router, f"{WRONG}, streamed")
    assert kinds(told)[:2] == ["decision", "model_switched"]
    assert told[0].decision.model == "small"
    switched = told[1].model_switched
    assert (switched.from_model, switched.to_model, switched.escalation) == ("small", "large", True)
    text = "".join(event.delta.text for event in told)
    assert text == f"large: {WRONG}, streamed"
    assert kinds(told)[-1] == "finished"
    assert told[-1].finished.decision.drafted_by == "small"


async def test_a_stream_delivers_an_accepted_draft_whole(router: Stub) -> None:
    told = await events(router, f"{RIGHT}, streamed")
    assert kinds(told) == ["decision", "delta", "finished"]
    assert told[1].delta.text == f"small: {RIGHT}, streamed"


@pytest.mark.parametrize(("text", "model"), [(f"{RIGHT}, again", "small"), (f"{WRONG}, again", "large")])
async def test_what_became_of_a_draft_is_kept_with_the_answer(router: Stub, text: str, model: str) -> None:
    first = await router.Generate(generate(text), metadata=ACME)

    async def kept() -> bool:
        nonlocal again
        again = await router.Generate(generate(text), metadata=ACME)
        return again.decision.cache_status == types_pb2.CACHE_STATUS_HIT

    again = first
    for _ in range(100):
        if await kept():
            break
    assert again.decision.cache_status == types_pb2.CACHE_STATUS_HIT
    assert (again.decision.model, again.decision.drafted_by) == (model, "small")
    assert text_of(again) == text_of(first)
    assert again.decision.estimates == first.decision.estimates
    assert again.decision.cost_nanousd == 0


@pytest.mark.parametrize(("text", "model"), [(f"{RIGHT}, once", "small"), (f"{WRONG}, once", "large")])
async def test_a_kept_answer_is_judged_again_under_other_terms(
    running: Stack, router: Stub, text: str, model: str
) -> None:
    """As after a recalibration: the draft is read again, and the reference's answer holds anyway."""
    first = await router.Generate(generate(text, request_id=f"terms-{model}"), metadata=ACME)
    assert first.decision.model == model
    lam = getattr(first.decision, "lambda")
    dear = types_pb2.PolicyOverride(budget_nanousd=10**12)
    again = await router.Generate(
        generate(text, request_id=f"terms-{model}-2", policy_override=dear), metadata=ACME
    )
    assert getattr(again.decision, "lambda") != lam, "another λ, another judgement"
    assert again.decision.cache_status == types_pb2.CACHE_STATUS_HIT
    assert (again.decision.model, again.decision.drafted_by) == (model, "small")
    assert text_of(again) == text_of(first)
    assert again.decision.cost_nanousd == 0
    assert not running.events(f"terms-{model}-2")


async def test_a_kept_draft_that_other_terms_refuse_is_escalated_without_being_written_again(
    router: Stub,
) -> None:
    text = f"{WRONG}, or cheap"
    cheap = types_pb2.PolicyOverride(risk_target=LOOSE)
    first = await router.Generate(generate(text, policy_override=cheap), metadata=ACME)
    assert (first.decision.model, first.decision.drafted_by) == ("small", "small")
    again = await router.Generate(generate(text), metadata=ACME)
    assert (again.decision.model, again.decision.drafted_by) == ("large", "small")
    assert [attempt.model for attempt in again.decision.attempts] == ["large"]
    assert text_of(again) == f"large: {text}"
    cheap_again = await router.Generate(generate(text, policy_override=cheap), metadata=ACME)
    assert text_of(cheap_again) == f"large: {text}", "the better answer has taken the place of the first"
    assert cheap_again.decision.cost_nanousd == 0


async def test_a_draft_that_is_read_again_is_as_old_as_it_was(running: Stack, router: Stub) -> None:
    text, client = f"{RIGHT}, no younger", running.valkey.client
    cheap = types_pb2.PolicyOverride(risk_target=LOOSE)

    def kept() -> list[Entry]:
        values = {one: client.get(one) or b"" for one in client.scan_iter("headgate:answer:*")}
        told = [
            opened(bytes.fromhex(one.decode().rpartition(":")[2]), value) for one, value in values.items()
        ]
        return [one for one in told if one is not None and text in str(one.answer.message)]

    await router.Generate(generate(text), metadata=ACME)
    [first] = await eventually(kept, what="it to be kept")
    again = await router.Generate(generate(text, policy_override=cheap), metadata=ACME)
    assert again.decision.cache_status == types_pb2.CACHE_STATUS_HIT
    [then] = await eventually(
        lambda: [one for one in kept() if one.terms != first.terms], what="the same again"
    )
    assert (then.made_at, then.expires_at, then.took_s) == (first.made_at, first.expires_at, first.took_s)


async def test_escalations_and_wasted_tokens_are_counted(running: Stack, router: Stub) -> None:
    def counted(name: str) -> float:
        with urlopen(f"http://{running.addresses['metrics']}/metrics") as page:
            found = re.search(rf"^{name}_total{{[^}}]*}} (\S+)$", page.read().decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    before = [counted(name) for name in ("headgate_escalations", "headgate_wasted_draft_tokens")]
    fallbacks = counted("headgate_fallbacks")
    await router.Generate(generate(f"{WRONG}, counted"), metadata=ACME)
    after = [counted(name) for name in ("headgate_escalations", "headgate_wasted_draft_tokens")]
    assert after[0] == before[0] + 1
    assert after[1] > before[1]
    assert counted("headgate_fallbacks") == fallbacks


async def test_a_draft_that_shows_a_fault_early_is_cancelled_at_the_worker(
    running: Stack, router: Stub
) -> None:
    text = "tell me word by word whether 2 + 2 = 5"
    answer = await router.Generate(generate(text, request_id="early-1"), metadata=ACME)
    decision = answer.decision
    assert text_of(answer).startswith("large: ")
    assert (decision.model, decision.drafted_by) == ("large", "small")
    assert "was stopped after" in decision.explanation
    assert decision.certificate.id
    draft, whole = decision.attempts
    assert (draft.model, draft.code, whole.code) == ("small", grpc.StatusCode.CANCELLED.value[0], 0)
    assert 0 < draft.usage.completion_tokens < whole.usage.completion_tokens / 10
    assert draft.cost_nanousd > 0
    await eventually(lambda: "cancelled" in running.events("early-1"), what="the worker to stop")


async def test_where_the_escalation_finds_nobody_the_draft_is_the_answer(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    where = bundle(tmp_path_factory.mktemp("bundle"))
    with stack(tmp_path_factory, {**config(), "policy": {"bundle": str(where)}}) as one:
        async with one.channel() as channel:
            router = stub(channel)
            whole = await router.Generate(generate(WRONG), metadata=ACME)
            assert whole.decision.model == "large"
            one.workers["large"].stop()
            answer = await router.Generate(generate(f"{WRONG}, alone"), metadata=ACME)
    assert text_of(answer).startswith("small: ")
    assert (answer.decision.model, answer.decision.drafted_by) == ("small", "small")
    assert not answer.decision.certificate.id
    assert types_pb2.DEGRADATION_WORKER in answer.decision.degraded


@pytest.fixture(scope="module")
def hurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Its tenant acme has drafts held back for little, and hedged."""
    settings = {**config(), "policy": {"bundle": str(bundle(tmp_path_factory.mktemp("bundle")))}}
    settings["tenants"]["acme"]["cascade"] = {"hold_back_tokens": HELD_BACK, "hedge": True}
    with stack(tmp_path_factory, settings) as one:
        yield one


async def test_after_the_hold_back_a_draft_streams(router: Stub) -> None:
    text = "tell me word by word whether 2 + 2 = 4"
    told = await events(router, text, policy_override=SHORT)
    deltas = [event.delta.text for event in told if event.WhichOneof("event") == "delta"]
    assert kinds(told)[:2] == ["decision", "delta"]
    assert kinds(told)[-1] == "finished"
    assert len(deltas) > 100
    assert len(deltas[0].split()) == HELD_BACK, "the model's name and seven words"
    assert "".join(deltas) == "small: " + "".join(f"{word} " for word in text.split()) * 400
    decision = told[-1].finished.decision
    assert (decision.model, decision.drafted_by) == ("small", "small")
    assert "After 8 tokens" in decision.explanation
    assert decision.certificate.id.endswith("-8")
    assert decision.estimates[0].p_correct_after_draft > 0.9


async def test_a_bad_end_is_not_retracted_but_an_escalation_is_offered(running: Stack, router: Stub) -> None:
    before = metrics(running.addresses["metrics"])
    told = await events(router, ENDS_BADLY, policy_override=SHORT)
    assert kinds(told)[-2:] == ["escalation_offered", "finished"]
    assert "model_switched" not in kinds(told)
    offered, decision = told[-2].escalation_offered, told[-1].finished.decision
    assert (offered.model, decision.model, len(decision.attempts)) == ("large", "small", 1)
    assert 0.5 < offered.gain < 1
    assert "".join(event.delta.text for event in told).endswith("2 + 2 = 5")
    name = 'headgate_escalations_offered_total{model="small"}'
    assert metrics(running.addresses["metrics"])[name] == before.get(name, 0) + 1


async def test_what_does_not_stream_is_read_whole(hurried: Stack) -> None:
    async with hurried.channel() as channel:
        answer = await stub(channel).Generate(generate(ENDS_BADLY), metadata=ACME)
    assert (answer.decision.model, answer.decision.drafted_by) == ("large", "small")


async def test_a_doubtful_beginning_never_reaches_the_caller(router: Stub) -> None:
    told = await events(router, DOUBTFUL_AT_ONCE, policy_override=SHORT)
    assert kinds(told)[:3] == ["decision", "model_switched", "delta"]
    assert "small" not in "".join(event.delta.text for event in told)


async def test_without_a_hold_back_nothing_is_read_and_another_certificate_speaks(router: Stub) -> None:
    asked = types_pb2.PolicyOverride(hold_back_tokens=0)
    told = await events(router, "tell me now, unread", policy_override=asked)
    decision = told[-1].finished.decision
    assert kinds(told) == ["decision", "delta", "delta", "finished"]
    assert (decision.model, decision.drafted_by) == ("small", "")
    assert decision.certificate.id.endswith("-0")


async def test_without_early_stop_a_draft_is_written_to_its_end(router: Stub) -> None:
    asked = types_pb2.PolicyOverride(early_stop=False)
    text = "tell me word by word, to the end, whether 2 + 2 = 5"
    answer = await router.Generate(generate(text, policy_override=asked), metadata=ACME)
    assert answer.decision.model == "large"
    assert [attempt.code for attempt in answer.decision.attempts] == [0, 0]


async def test_a_hedge_runs_beside_the_draft_and_takes_over_at_once(hurried: Stack) -> None:
    async with hurried.channel() as channel:
        told = await events(stub(channel), DOUBTFUL_AT_ONCE, request_id="hedged-1")
    assert kinds(told)[:2] == ["decision", "model_switched"]
    assert "".join(event.delta.text for event in told).startswith("large: 2 + 2 = 5, say so word by word")
    decision = told[-1].finished.decision
    small, large = decision.attempts
    assert (small.model, small.code) == ("small", grpc.StatusCode.CANCELLED.value[0])
    assert (large.model, large.code) == ("large", 0)
    assert large.duration.ToNanoseconds() > small.duration.ToNanoseconds(), "it began with the draft"
    journal = [(line["model"], line["event"]) for line in hurried.journal("hedged-1")]
    assert journal.count(("large", "begun")) == 1
    assert decision.certificate.id


async def test_a_hedge_that_is_not_needed_is_cancelled_and_paid(hurried: Stack) -> None:
    before = metrics(hurried.addresses["metrics"])
    script = {"say": ["it is so. "] * 40, "gap_s": {"small": 0.01, "large": 0.1}}
    async with hurried.channel() as channel:
        told = await events(stub(channel), script, request_id="hedged-2")
    decision = told[-1].finished.decision
    assert (decision.model, decision.drafted_by) == ("small", "small")
    small, large = sorted(decision.attempts, key=lambda one: one.model, reverse=True)
    assert (small.code, large.model, large.code) == (0, "large", grpc.StatusCode.CANCELLED.value[0])
    assert large.usage.completion_tokens > 0
    assert large.usage.estimated
    assert decision.cost_nanousd == small.cost_nanousd + large.cost_nanousd
    assert decision.certificate.id, "a hedge changes no answer"
    await eventually(lambda: "cancelled" in hurried.events("hedged-2"), what="the hedge to stop")
    after = metrics(hurried.addresses["metrics"])
    wasted = 'headgate_wasted_hedge_tokens_total{model="large"}'
    assert after[wasted] - before.get(wasted, 0) == large.usage.completion_tokens
    assert after['headgate_hedges_total{model="large",needed="no"}'] >= 1


async def test_a_hedge_ends_when_the_beginning_of_the_draft_is_delivered(hurried: Stack) -> None:
    script = {"say": ["it is so. "] * 60, "gap_s": {"small": 0.02, "large": 0.02}}
    async with hurried.channel() as channel:
        told = await events(stub(channel), script, request_id="hedged-5")
    decision = told[-1].finished.decision
    [hedge] = [attempt for attempt in decision.attempts if attempt.model == "large"]
    assert decision.model == "small"
    assert HELD_BACK - 3 <= hedge.usage.completion_tokens <= HELD_BACK + 20, "not the whole draft's time"


async def test_a_hedge_that_has_ended_is_paid_as_its_worker_says(hurried: Stack) -> None:
    script = {"say": ["it is so. "] * 20, "gap_s": {"small": 0.1}}
    async with hurried.channel() as channel:
        told = await events(stub(channel), script)
    decision = told[-1].finished.decision
    [hedge] = [attempt for attempt in decision.attempts if attempt.model == "large"]
    assert decision.model == "small"
    assert (hedge.code, hedge.usage.completion_tokens, hedge.usage.estimated) == (0, 20, False)


async def test_a_caller_that_leaves_ends_the_draft_and_its_hedge(hurried: Stack) -> None:
    script = {"say": ["it is so. "] * 200, "gap_s": 0.05}
    async with hurried.channel() as channel:
        call = stub(channel).StreamGenerate(streamed(script, request_id="hedged-3"), metadata=ACME)
        await eventually(lambda: hurried.events("hedged-3").count("begun") == 2, what="both to begin")
        call.cancel()
        await eventually(lambda: hurried.events("hedged-3").count("cancelled") == 2, what="both to stop")


async def test_a_hedge_whose_draft_fails_is_the_fallback(hurried: Stack) -> None:
    script = {"say": ["it is so. "] * 3, "fail": "UNAVAILABLE", "only": "small"}
    async with hurried.channel() as channel:
        told = await events(stub(channel), script, request_id="hedged-4")
    assert told[-1].finished.decision.model == "large"
    begun = [line for line in hurried.journal("hedged-4") if line["event"] == "begun"]
    assert [line["model"] for line in begun].count("large") == 1


async def test_a_draft_that_takes_too_long_is_accepted_early_and_not_covered(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    policy = {"bundle": str(bundle(tmp_path_factory.mktemp("bundle"))), "cascade": {"hold_back_s": 0.2}}
    script = {"say": ["it is so. "] * 40, "gap_s": 0.05}
    with stack(tmp_path_factory, {**config(), "policy": policy}) as one:
        async with one.channel() as channel:
            told = await events(stub(channel), script)
            whole = await stub(channel).Generate(generate(script), metadata=ACME)
    deltas = [event.delta.text for event in told if event.WhichOneof("event") == "delta"]
    assert 10 < len(deltas) < 40
    decision = told[-1].finished.decision
    assert (decision.model, decision.drafted_by) == ("small", "small")
    assert not decision.certificate.id
    assert whole.decision.certificate.id, "nobody waits for its beginning"
    assert whole.decision.cache_status != types_pb2.CACHE_STATUS_HIT, "what is not covered is not kept"


async def test_beside_a_doubtful_draft_another_models_is_read_and_both_are_paid(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    certificate = hand_made.certificate(models=("small", "mid", "large"), settings={})
    where = tmp_path_factory.mktemp("bundle") / "three.bundle"
    where.write_bytes(bundles.dump(hand_made.three(certificates=(certificate,))))
    pool = {name: {"source": "small" if name == "mid" else name} for name in ("small", "mid", "large")}
    settings = {**config(), "policy": {"bundle": str(where)}, "pool": pool}
    with stack(tmp_path_factory, settings, ("small", "mid", "large")) as one:
        async with one.channel() as channel:
            told = await events(stub(channel), f"{WRONG}, of two")
        wasted = {model for model in ("small", "mid", "large") if _wasted(one, model)}
    assert kinds(told)[:3] == ["decision", "model_switched", "model_switched"]
    assert "".join(event.delta.text for event in told) == f"large: {WRONG}, of two"
    decision = told[-1].finished.decision
    assert [attempt.model for attempt in decision.attempts] == ["small", "mid", "large"]
    assert (decision.model, decision.drafted_by, bool(decision.certificate.id)) == ("large", "mid", True)
    assert wasted == {"small", "mid"}


def _wasted(running: Stack, model: str) -> bool:
    """Whether tokens of this model's drafts are counted as wasted."""
    with urlopen(f"http://{running.addresses['metrics']}/metrics") as page:
        return f'headgate_wasted_draft_tokens_total{{model="{model}"}}' in page.read().decode()


async def test_a_first_draft_that_is_kept_beside_a_second_is_no_failure(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # At this λ two wrong drafts are worth more than a call of large, and small's comes first.
    certificate = hand_made.certificate(lam=1.0, models=("small", "mid", "large"), settings={})
    where = tmp_path_factory.mktemp("bundle") / "three.bundle"
    where.write_bytes(bundles.dump(hand_made.three(certificates=(certificate,))))
    pool = {name: {"source": "small" if name == "mid" else name} for name in ("small", "mid", "large")}
    settings = {**config(), "policy": {"bundle": str(where)}, "pool": pool}
    with stack(tmp_path_factory, settings, ("small", "mid", "large")) as one:
        async with one.channel() as channel:
            told = await events(stub(channel), f"{WRONG}, of two")
    decision = told[-1].finished.decision
    assert (decision.model, [one.model for one in decision.attempts]) == ("small", ["small", "mid"])
    back = told[2].model_switched
    assert (back.from_model, back.to_model) == ("mid", "small")
    assert "failed" not in back.explanation
    assert back.explanation == decision.explanation
    assert not decision.degraded
