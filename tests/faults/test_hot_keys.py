"""Promise 24: an answer that everybody asks for expires and is renewed under load, and nobody notices."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from math import inf
from time import monotonic
from typing import NamedTuple, TypeAlias

import grpc.aio
import pytest

from headgate.v1 import router_pb2
from tests.faults.figures import Form
from tests.faults.load import Sample, arrivals, open_loop
from tests.faults.naming_worker import question
from tests.faults.shared_cache import HIT, NamingStack, ask, away, call, unique
from tests.integration import many_gateways
from tests.integration.gateway_rig import Process
from tests.integration.many_gateways import Gateways, reached

PROCESSES = 2
TTL_S, LEAST_S = 2, 1.8
"""For how long an answer is kept: what is set, and the least that jitter makes of it."""
RATE = 100.0
MS = 800
"""Of the model whose answer is renewed."""

Answer = router_pb2.GenerateResponse
Asked: TypeAlias = tuple[float, Answer]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NamingStack, list[Process]]]:
    one = NamingStack(tmp_path_factory.mktemp("stack"), ("acme",), ttl_s=TTL_S)
    try:
        with many_gateways.running(one, PROCESSES) as processes:
            yield one, processes
    finally:
        one.close()


@pytest.fixture
async def gateways(running: tuple[NamingStack, list[Process]]) -> AsyncIterator[Gateways]:
    async with reached(*running) as found:
        yield found


async def test_a_hot_key_that_expires_fails_nobody_and_is_asked_for_once(
    gateways: Gateways, form: Form
) -> None:
    """Its model is quick: an early renewal has hardly a chance."""
    zone, seconds = unique(), form.count(5, 60)
    samples = await load(gateways, question("Cairo", zone), zone, seconds, form.seed)
    answers, failures = parted(samples)
    calls = gateways.calls(f"acme.{zone}")
    most = seconds / LEAST_S + seconds / TTL_S + 1
    form.note(
        f"24: a hot key expires every {TTL_S} s under {RATE:.0f} requests a second",
        target=f"0 failures; ≤ {most:.0f} calls in {seconds} s",
        measured=f"{len(failures)} failures; {calls} calls, {away(answers)} because Redis did not reply",
        n=len(samples),
        met=not failures and calls <= most,
    )
    assert failures == []
    assert seconds / TTL_S - 1 <= calls <= most + away(answers)


async def test_nobody_waits_for_a_renewal_and_there_is_one_at_a_time(gateways: Gateways, form: Form) -> None:
    """Who waits gets an answer that was not there yet when it asked."""
    zone, seconds = unique(), form.count(5, 60)
    text = question("Quito", zone, ms=MS)
    await ask(gateways.stubs[0], "acme", text, zone)
    samples = await load(gateways, text, zone, seconds, form.seed)
    answers, failures = parted(samples)
    calls = by_call(gateways, f"acme.{zone}")
    waited = [
        begun
        for begun, answer in (sample.result for sample in samples if not isinstance(sample.result, str))
        if begun < calls[call(answer)].ended - MS / 2000
    ]
    misses = sum(answer.decision.cache_status != HIT for answer in answers)
    renewals = sorted(one for one in calls.values() if one.renews)
    beside = sum(later.begun < earlier.ended for earlier, later in pairwise(renewals))
    form.note(
        f"24: an answer that takes {MS} ms is renewed under {RATE:.0f} requests a second",
        target="0 failures, 0 requests wait, one renewal at a time",
        measured=f"{len(renewals)} renewals in {seconds} s, {beside} beside another one; "
        f"{len(failures)} failures, {misses} misses, {len(waited)} waited",
        n=len(samples),
        met=not failures and not waited and not misses and not beside,
    )
    assert failures == []
    assert len(waited) + misses <= 2 * away(answers), "somebody waited"
    assert beside == 0, "two renewals at a time"
    assert len(renewals) >= seconds / TTL_S - 1


async def load(
    gateways: Gateways, text: str, label: str, seconds: float, seed: int
) -> list[Sample[Asked | str]]:
    """Open-loop load of one question on all processes; a result is when it was asked and the answer, or the
    failure."""

    async def one(number: int) -> Asked | str:
        begun = monotonic()
        try:
            return begun, await ask(gateways.stubs[number % PROCESSES], "acme", text, label)
        except grpc.aio.AioRpcError as error:
            return f"{error.code()}: {error.details()}"

    return await open_loop(one, arrivals(RATE, seconds, seed))


def parted(samples: list[Sample[Asked | str]]) -> tuple[list[Answer], list[str]]:
    """The answers, and the failures."""
    results = [sample.result for sample in samples]
    return [one[1] for one in results if not isinstance(one, str)], [
        one for one in results if isinstance(one, str)
    ]


class Call(NamedTuple):
    """Of a worker; instants of the clock that all processes share."""

    begun: float
    ended: float
    renews: bool


def by_call(gateways: Gateways, label: str) -> dict[int, Call]:
    """The calls for requests whose id begins so, by number."""
    lines = [line for line in gateways.stack.lines() if line["request_id"].startswith(label)]
    at = {(line["call"], line["event"] == "begun"): line["at"] for line in lines}
    renews = {line["call"]: line["request_id"].endswith(".renewal") for line in lines}
    return {number: Call(at[number, True], at.get((number, False), inf), renews[number]) for number in renews}
