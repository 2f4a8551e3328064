"""What a query requires of the model that answers it: capabilities and time."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from headgate.adapters import status_map
from headgate.v1 import router_pb2, router_pb2_grpc, types_pb2
from tests.integration.gateway_rig import Stack, config, generate, key, refusal, stack, stub

ACME = key("acme")
SLOW_S, SHORT_S = 1.0, 0.6
Stub = router_pb2_grpc.RouterServiceStub


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    pool = {"small": {"source": "small"}, "large": {"source": "large", "capabilities": ["german"]}}
    with stack(tmp_path_factory, {**config(), "pool": pool}) as one:
        yield one


@pytest.fixture
async def router(running: Stack) -> AsyncIterator[Stub]:
    async with running.channel() as channel:
        yield stub(channel)


def barred(decision: types_pb2.Decision) -> dict[str, str]:
    return {one.model: one.excluded_because for one in decision.estimates if one.excluded_because}


def question() -> str:
    return uuid.uuid4().hex


async def test_a_query_gets_a_model_with_the_capability_it_requires(router: Stub) -> None:
    answer = await router.Generate(generate(question(), required_capabilities=["german"]), metadata=ACME)
    assert (answer.decision.model, answer.decision.reason) == ("large", types_pb2.REASON_ONLY_ELIGIBLE)
    assert barred(answer.decision) == {"small": "without the capability german"}


async def test_a_capability_that_no_model_has_is_refused_by_name(router: Stub) -> None:
    error = await refusal(
        router.Generate(generate(question(), required_capabilities=["vision"]), metadata=ACME)
    )
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "without the capability vision" in (error.details() or "")
    said = status_map.of_call(error)
    assert said is not None
    assert status_map.reason_of(said) == "NO_ELIGIBLE_MODEL"


async def test_a_capability_with_capitals_is_a_bad_field(router: Stub) -> None:
    error = await refusal(
        router.Generate(generate(question(), required_capabilities=["Vision"]), metadata=ACME)
    )
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "required_capabilities" in (error.details() or "")


async def test_a_model_that_was_too_slow_is_not_asked_in_a_hurry(router: Stub) -> None:
    """The query is like nothing calibrated, so that the reference, large, answers it for whom has time."""
    slow = {"say": ["a", "b"], "gap_s": SLOW_S / 2}

    async def hurried() -> types_pb2.Decision:
        scripts = (generate({**slow, "nonce": question()}, model="large") for _ in range(8))
        await asyncio.gather(*(router.Generate(script, metadata=ACME) for script in scripts))
        return (await router.Generate(generate(question()), metadata=ACME, timeout=SHORT_S)).decision

    end = time.monotonic() + 60
    while (decision := await hurried()).model != "small":
        assert time.monotonic() < end, "large is still asked"
    assert decision.reason == types_pb2.REASON_ONLY_ELIGIBLE
    assert barred(decision) == {"large": "likely to miss the deadline"}
    patient = await router.Generate(generate(question()), metadata=ACME, timeout=30)
    assert patient.decision.model == "large"
    alone = router_pb2.RouteRequest(query=generate(question()).query)
    assert (await router.Route(alone, metadata=ACME, timeout=SHORT_S)).decision.model == "large"
