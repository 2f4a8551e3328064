"""Promise 6: who leaves is not worked for any more, on any hop."""

from __future__ import annotations

import asyncio
import random
import uuid
from dataclasses import dataclass
from time import monotonic

import grpc
import pytest

from headgate.v1 import router_pb2
from tests.faults.chain import ACME, PRICE, Chain
from tests.faults.figures import Form
from tests.faults.history import Entry, charged_otherwise
from tests.faults.load import percentile
from tests.faults.upstream import Script, Upstream
from tests.integration.gateway_rig import eventually, query, stub

pytestmark = pytest.mark.asyncio(loop_scope="module")

P99_S, MOST_S = 0.05, 0.25
WHEN = {
    "before the first token": Script(before_first_s=60),
    "in the middle": Script(pieces=("x ",) * 10_000, between_s=0.005),
}
REQUESTS = {
    "Generate": router_pb2.GenerateRequest,
    "StreamGenerate": router_pb2.StreamGenerateRequest,
}


@dataclass(frozen=True, slots=True)
class Left:
    """A client that left, and how long the upstream went on working."""

    request_id: str
    upstream_worked_s: float


@pytest.mark.parametrize("method", REQUESTS)
@pytest.mark.parametrize("when", WHEN)
async def test_a_cancel_reaches_the_upstream(
    running: Chain, upstream: Upstream, form: Form, when: str, method: str
) -> None:
    upstream.script = WHEN[when]
    n, draw = form.count(12, 250), random.Random(form.seed)
    left = [await leave(running, upstream, method, draw.uniform(0, 0.05)) for _ in range(n)]
    took = [one.upstream_worked_s for one in left]
    await each_recorded_once(running, left)
    form.note(
        f"6: a client's cancel reaches the upstream ({method}, {when})",
        target=f"all; p99 ≤ {P99_S * 1e3:g} ms, most {MOST_S * 1e3:g} ms",
        measured=f"{len(took)} of {n}; p50 {percentile(took, 0.5) * 1e3:.1f} ms, "
        f"p99 {percentile(took, 0.99) * 1e3:.1f} ms, most {max(took) * 1e3:.1f} ms",
        n=n,
        met=percentile(took, 0.99) <= P99_S and max(took) <= MOST_S,
    )


async def leave(running: Chain, upstream: Upstream, method: str, after_s: float) -> Left:
    """Asks, waits until the upstream is at work, and cancels a moment later."""
    name = uuid.uuid4().hex
    request = REQUESTS[method](query=query("a long story", model="large", request_id=name))
    async with running.channel() as channel:
        call = getattr(stub(channel), method)(request, metadata=ACME, timeout=120)
        reading = asyncio.ensure_future(_read(call))
        worked = await upstream.call_for(name)
        await asyncio.sleep(after_s)
        left_at = monotonic()
        call.cancel()
        await asyncio.wait({reading})
    async with asyncio.timeout(5):
        await worked.over.wait()
    assert worked.gone is not None, "the upstream finished an answer that nobody waits for"
    return Left(name, worked.gone - left_at)


async def _read(call: object) -> None:
    if hasattr(call, "read"):
        while await call.read():
            pass
    else:
        await call  # type: ignore[misc]


async def each_recorded_once(running: Chain, left: list[Left]) -> None:
    names = {one.request_id.encode() for one in left}

    def codes() -> list[bytes]:
        return [record[b"code"] for record in running.records() if record[b"request_id"] in names]

    await eventually(lambda: len(codes()) >= len(names), 10, "a record of each")
    assert codes() == [b"CANCELLED"] * len(names)


async def test_a_cancelled_answer_is_charged_for_what_was_written(running: Chain, upstream: Upstream) -> None:
    upstream.script = Script(pieces=("word ",) * 20, stall_after=20)
    name = uuid.uuid4().hex
    seen = Entry(name, code=grpc.StatusCode.CANCELLED)
    async with running.channel() as channel:
        request = router_pb2.StreamGenerateRequest(query=query("tell", model="large", request_id=name))
        call = stub(channel).StreamGenerate(request, metadata=ACME, timeout=60)
        while seen.text.count("word") < 20:
            seen.take(await call.read())
        call.cancel()

    def record() -> dict[bytes, bytes] | None:
        return next((one for one in running.records() if one[b"request_id"] == name.encode()), None)

    found = await eventually(record, what="the record")
    assert found is not None
    assert found[b"code"] == b"CANCELLED"
    assert charged_otherwise([seen], [found], upstream.ledger, PRICE) == [], found[b"cost_nanousd"]
