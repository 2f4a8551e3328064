"""Promise 5: a deadline shrinks from hop to hop, and its end ends the work on every hop."""

from __future__ import annotations

import asyncio
import random
import uuid
from dataclasses import dataclass
from time import monotonic

import grpc
import grpc.aio
import pytest

from headgate.v1 import router_pb2_grpc
from tests.faults.chain import ACME, Chain
from tests.faults.figures import Form
from tests.faults.load import percentile
from tests.faults.upstream import Script, Upstream
from tests.integration.gateway_rig import generate, refusal, stack, stub

pytestmark = pytest.mark.asyncio(loop_scope="module")

LATE_S = 0.02
"""How much after its deadline a caller may hear of it."""
SHORTEST_S, LONGEST_S = 0.3, 0.7
HOP_S = 0.003
"""What a hop keeps, less what gRPC rounds up: 5 ms less a millisecond on each side."""


@dataclass(frozen=True, slots=True)
class Expired:
    """A call whose deadline passed. Seconds after the deadline; negative is before."""

    heard: float
    upstream_let_go: float


async def test_the_end_of_a_deadline_ends_the_work_upstream(
    running: Chain, upstream: Upstream, form: Form
) -> None:
    upstream.script = Script(stall_after=1)
    draw, n = random.Random(form.seed), form.count(10, 300)
    tried = [await expire(running, upstream, draw.uniform(SHORTEST_S, LONGEST_S)) for _ in range(n)]
    expired = [one for one in tried if one is not None]
    assert len(expired) >= n / 2, "the upstream was hardly ever reached in time"
    heard = [one.heard for one in expired]
    let_go = [one.upstream_let_go for one in expired]
    form.note(
        "5: the end of a deadline ends the call on every hop",
        target=f"all DEADLINE_EXCEEDED, heard by {LATE_S * 1e3:g} ms after it",
        measured=f"{len(expired)} of {len(expired)}; heard p99 {percentile(heard, 0.99) * 1e3:+.1f} ms, "
        f"most {max(heard) * 1e3:+.1f} ms; upstream let go p99 {percentile(let_go, 0.99) * 1e3:+.1f} ms",
        n=n,
        met=max(heard) <= LATE_S,
    )
    assert percentile(let_go, 0.5) < 1, "the upstream went on after the deadline"


async def expire(running: Chain, upstream: Upstream, seconds: float) -> Expired | None:
    """One call that takes longer than its deadline; None if that passed before the upstream was reached."""
    name = uuid.uuid4().hex
    async with running.channel() as channel:
        await channel.channel_ready()
        deadline = monotonic() + seconds
        request = generate("a long story", model="large", request_id=name)
        error = await refusal(stub(channel).Generate(request, metadata=ACME, timeout=seconds))
        heard = monotonic() - deadline
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    call = next((one for one in upstream.ledger if one.key == name), None)
    if call is None:
        return None
    async with asyncio.timeout(10):
        await call.over.wait()
    assert call.gone is not None
    return Expired(heard, call.gone - deadline)


async def test_each_hop_has_less_time_than_the_one_before(
    tmp_path_factory: pytest.TempPathFactory, form: Form
) -> None:
    """Also the calls that came without a deadline have one on the inner hop."""
    n = form.count(20, 250)
    with stack(tmp_path_factory) as one:
        async with one.channel() as channel:
            router = stub(channel)
            given = {uuid.uuid4().hex: seconds for seconds in ascending(n, form.seed)}
            answers = [await answered(router, name, seconds) for name, seconds in given.items()]
            without = uuid.uuid4().hex
            await router.Generate(generate(without, request_id=without), metadata=ACME)
        left = {name: one.journal(name)[0]["left_s"] for name in given if one.journal(name)}
        assert 0 < one.journal(without)[0]["left_s"] < 60
    assert sum(answers) >= n / 2
    assert all(0 < left_s < given[name] - HOP_S for name, left_s in left.items())
    form.note(
        "5: each hop has less time than the one before",
        target=f"all, {HOP_S * 1e3:g} ms less at least; none without a deadline",
        measured=f"{len(left)} of {len(left)}",
        n=len(left),
        met=True,
    )


async def answered(router: router_pb2_grpc.RouterServiceStub, name: str, seconds: float) -> bool:
    """Whether a short question is answered in time; a busy machine may be late."""
    try:
        await router.Generate(generate(name, request_id=name), metadata=ACME, timeout=seconds)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return False
        raise
    return True


def ascending(n: int, seed: int) -> list[float]:
    """Timeouts that gRPC sends as they are: whole milliseconds under a second, each longer than the last.

    Longer ones it rounds up to hundredths, and to save bytes it may send one that it has sent before instead,
    up to 3 % longer. That lengthens no call: the timer that counts is the caller's, and its end cancels the
    hop behind it.
    """
    return [one / 1000 for one in sorted(random.Random(seed).sample(range(700, 1_000), n))]
