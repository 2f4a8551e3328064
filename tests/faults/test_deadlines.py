"""Promise 5: a deadline shrinks from hop to hop, and its end ends the work on every hop."""

from __future__ import annotations

import asyncio
import math
import random
import uuid
from collections.abc import Iterator
from contextlib import suppress
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
from tests.integration.gateway_rig import Stack, generate, refusal, stack, stub

pytestmark = pytest.mark.asyncio(loop_scope="module")

LATE_S, LET_GO_S = 0.02, 0.05
"""How much after its deadline a caller may hear of it, and the upstream go on in 99 of 100 calls."""
SHORTEST_S, LONGEST_S = 0.3, 0.7
MOST_S = 600
"""What router.proto gives any call at most."""
HOP_S = 0.003
"""What a hop keeps, less what gRPC rounds up: 5 ms less a millisecond on each side."""


@dataclass(frozen=True, slots=True)
class Expired:
    """A call whose deadline passed. Seconds after the deadline; negative is before."""

    code: grpc.StatusCode
    heard: float
    let_go: float | None
    """None if the upstream was not reached in time, infinite if it never let go."""


async def test_the_end_of_a_deadline_ends_the_work_upstream(
    running: Chain, upstream: Upstream, form: Form
) -> None:
    upstream.script = Script(stall_after=1)
    draw, n = random.Random(form.seed), form.count(10, 300)
    tried = [await expire(running, upstream, draw.uniform(SHORTEST_S, LONGEST_S)) for _ in range(n)]
    expired = sum(one.code is grpc.StatusCode.DEADLINE_EXCEEDED for one in tried)
    heard = [one.heard for one in tried]
    let_go = [one.let_go for one in tried if one.let_go is not None]
    form.note(
        "5: the end of a deadline ends the call on every hop",
        target=f"all DEADLINE_EXCEEDED, heard by {LATE_S * 1e3:g} ms after it; "
        f"upstream lets go by {LET_GO_S * 1e3:g} ms (p99)",
        measured=f"{expired} of {n}; heard p99 {percentile(heard, 0.99) * 1e3:+.1f} ms, "
        f"most {max(heard) * 1e3:+.1f} ms; "
        f"upstream let go of {len(let_go)}, p99 {percentile(let_go, 0.99) * 1e3:+.1f} ms",
        n=n,
        met=expired == n and max(heard) <= LATE_S and percentile(let_go, 0.99) <= LET_GO_S,
    )
    assert expired == n
    assert len(let_go) >= n / 2, "the upstream was hardly ever reached in time"
    assert max(let_go) < math.inf, "the upstream went on and on"
    assert percentile(let_go, 0.5) < 1, "the upstream went on after the deadline"


async def expire(running: Chain, upstream: Upstream, seconds: float) -> Expired:
    """One call that takes longer than its deadline."""
    name = uuid.uuid4().hex
    async with running.channel() as channel:
        await channel.channel_ready()
        deadline = monotonic() + seconds
        request = generate("a long story", model="large", request_id=name)
        error = await refusal(stub(channel).Generate(request, metadata=ACME, timeout=seconds))
        heard = monotonic() - deadline
    call = next((one for one in upstream.ledger if one.key == name), None)
    if call is None:
        return Expired(error.code(), heard, None)
    with suppress(TimeoutError):
        async with asyncio.timeout(10):
            await call.over.wait()
    return Expired(error.code(), heard, (call.gone or math.inf) - deadline)


@pytest.fixture(scope="module")
def journaled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose workers note the time that their calls have left."""
    with stack(tmp_path_factory) as one:
        yield one


async def test_each_hop_has_less_time_than_the_one_before(journaled: Stack, form: Form) -> None:
    """Also the calls that came without a deadline have one on the inner hop."""
    n = form.count(20, 250)
    given = {uuid.uuid4().hex: seconds for seconds in ascending(n, form.seed)}
    async with journaled.channel() as channel:
        answers = [await answered(stub(channel), name, seconds) for name, seconds in given.items()]
    left = {name: left_s for name in given for left_s in noted_by_the_worker(journaled, name)}
    less = sum(0 < left_s < given[name] - HOP_S for name, left_s in left.items())
    without_s = await time_at_the_next_hop(journaled, None)
    form.note(
        "5: each hop has less time than the one before",
        target=f"all, {HOP_S * 1e3:g} ms less at least; none without a deadline",
        measured=f"{less} of {n}; {without_s:.1f} s for a call without",
        n=n,
        met=less == n and 0 < without_s < 60,
    )
    assert sum(answers) >= n / 2
    assert less == len(left)
    assert 0 < without_s < 60


async def test_a_longer_deadline_than_any_call_may_take_is_cut_at_the_next_hop(journaled: Stack) -> None:
    left_s = await time_at_the_next_hop(journaled, 6 * MOST_S)
    assert 0 < left_s <= MOST_S


async def time_at_the_next_hop(journaled: Stack, seconds: float | None) -> float:
    """The time that the worker had for a call with this timeout."""
    name = uuid.uuid4().hex
    async with journaled.channel() as channel:
        await stub(channel).Generate(generate(name, request_id=name), metadata=ACME, timeout=seconds)
    (left_s,) = noted_by_the_worker(journaled, name)
    return left_s


def noted_by_the_worker(journaled: Stack, name: str) -> list[float]:
    """The time that the worker had for the request's call; empty if it was never called."""
    return [line["left_s"] for line in journaled.journal(name) if line["event"] == "begun"]


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
