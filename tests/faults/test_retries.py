"""Promise 15: a failing upstream is not asked much more often than a healthy one."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator

import grpc.aio
import pytest
import pytest_asyncio

from tests.faults.chain import ACME, Chain, chain
from tests.faults.figures import Form
from tests.faults.upstream import Call, Script, Upstream
from tests.integration.gateway_rig import generate, stub

pytestmark = pytest.mark.asyncio(loop_scope="module")

MOST = 1.10
BURST = 2 * 25
"""Second calls that the retry budgets of two models allow before they are earned."""
AT_ONCE = 3
"""Fewer than the failures in a row that open a breaker."""


@pytest_asyncio.fixture(loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> AsyncIterator[Chain]:
    """A chain with full retry budgets."""
    async with chain(tmp_path_factory.mktemp("chain"), upstream, {"cache": {"enabled": False}}) as one:
        yield one


@pytest.mark.parametrize("failing", [1.0, 0.5, 0.1])
async def test_a_failing_upstream_is_not_asked_much_more_often(
    running: Chain, upstream: Upstream, form: Form, failing: float
) -> None:
    draw = random.Random(form.seed)
    upstream.choose = lambda _call: Script(status=503) if draw.random() < failing else Script()
    await held(f"15: the upstream fails {failing:.0%} of its calls", running, upstream, form)


async def test_not_every_failure_is_worth_a_second_call(
    running: Chain, upstream: Upstream, form: Form
) -> None:
    """Each request's first call fails and its second would not, so that no breaker opens."""
    asked: set[str] = set()

    def choose(call: Call) -> Script:
        first = call.key not in asked
        asked.add(call.key)
        return Script(status=503) if first else Script()

    upstream.choose = choose
    await held("15: the upstream fails each first call", running, upstream, form)


async def held(promise: str, running: Chain, upstream: Upstream, form: Form) -> None:
    """Asks many times, and counts what reached the upstream."""
    n = form.count(400, 3_000)
    names = [uuid.uuid4().hex for _ in range(n)]
    try:
        async with running.channel() as channel:
            waiting = list(names)

            async def client() -> int:
                answers = 0
                while waiting:
                    answers += await asks(channel, waiting.pop())
                return answers

            answered = sum(await asyncio.gather(*(client() for _ in range(AT_ONCE))))
    finally:
        upstream.choose = None
    mine = set(names)
    calls = sum(call.key in mine for call in upstream.ledger)
    form.note(
        promise,
        target=f"calls ≤ {MOST:.2f} a request, and a burst of {BURST}",
        measured=f"{calls / n:.3f} calls a request; {answered / n:.1%} answered",
        n=n,
        met=calls <= MOST * n + BURST,
    )
    assert calls <= MOST * n + BURST


async def asks(channel: grpc.aio.Channel, name: str) -> bool:
    """Whether a request was answered."""
    try:
        await stub(channel).Generate(generate(name, request_id=name), metadata=ACME, timeout=20)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017  (the failure that was scripted)
        return False
    return True
