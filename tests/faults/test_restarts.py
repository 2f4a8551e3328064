"""Promise 17: gateways and workers are replaced under load, and no request notices."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import grpc.aio
import pytest

from headgate.v1 import router_pb2_grpc
from tests.faults.chain import ACME
from tests.faults.figures import Form
from tests.faults.fleet import ANSWER, KINDS, fleet
from tests.faults.load import Sample, arrivals, open_loop, percentile
from tests.faults.upstream import Upstream
from tests.integration.gateway_rig import generate, streamed, stub

LOAD = 0.7
"""Share of capacity. In the short form less, for a core that stalls must not look like an overload."""
LONGEST_S = 900.0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_rolling_restart_under_load_fails_no_request(tmp_path: Path, form: Form, kind: str) -> None:
    restarts, slots = form.count(1, 10), form.count(24, 32)
    async with Upstream(ANSWER) as upstream, fleet(tmp_path, upstream, slots) as (running, channel):
        router, rate = stub(channel), (LOAD if form.long else LOAD / 2) * running.capacity
        stop = asyncio.Event()
        loading = asyncio.ensure_future(load_until(stop, router, rate, form.seed))
        exit_codes = [await running.replace(kind) for _ in range(restarts)]
        stop.set()
        samples = await loading
    failures = Counter(sample.result for sample in samples if sample.result)
    slowest = percentile((sample.latency for sample in samples), 0.99)
    form.note(
        f"17: rolling restart of the {kind} under load",
        target="0 failed requests at 0.7 of capacity, every process ends with code 0",
        measured=f"{restarts} restarts, {sum(failures.values())} of {len(samples)} failed "
        f"at {offered(samples):.0f} of {running.capacity:.0f}/s; p99 {slowest * 1e3:.0f} ms",
        n=len(samples),
        met=not failures and not any(exit_codes),
    )
    assert failures == Counter()
    assert exit_codes == [0] * restarts


def offered(samples: Sequence[Sample[str]]) -> float:
    """Requests a second that really left."""
    return len(samples) / samples[-1].due


async def load_until(
    stop: asyncio.Event, router: router_pb2_grpc.RouterServiceStub, rate: float, seed: int
) -> list[Sample[str]]:
    """Open-loop load until told to stop; mostly streams, for a unary call that is cut is made again."""

    async def one(number: int) -> str:
        name = uuid.uuid4().hex
        try:
            if number % 4 == 0:
                await router.Generate(generate(name), metadata=ACME, timeout=20)
                return ""
            call = router.StreamGenerate(streamed(name), metadata=ACME, timeout=20)
            kinds = [event.WhichOneof("event") async for event in call]
        except grpc.aio.AioRpcError as error:
            return f"{error.code()}: {error.details()}"
        return "" if kinds[-1] == "finished" else f"ended with {kinds[-1]}"

    return await open_loop(one, arrivals(rate, LONGEST_S, seed), stop)
