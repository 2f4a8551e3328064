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

from headgate.router import bundle as bundles
from headgate.v1 import router_pb2, router_pb2_grpc, types_pb2
from tests import hand_made
from tests.integration.gateway_rig import (
    Stack,
    config,
    eventually,
    generate,
    key,
    stack,
    streamed,
    stub,
    text_of,
)

ACME = key("acme")
RIGHT, WRONG = "tell me now whether 2 + 2 = 4", "tell me now whether 2 + 2 = 5"
Stub = router_pb2_grpc.RouterServiceStub


def bundle(folder: Path) -> Path:
    """Certificates that speak of any version, and of any length: the workers are scripted."""
    certificate = hand_made.certificate(models=("small", "large"), settings={})
    made = hand_made.reading(resolution=0.9, certificates=(certificate,))
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


async def events(router: Stub, text: str, **fields: object) -> list[router_pb2.StreamGenerateResponse]:
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
