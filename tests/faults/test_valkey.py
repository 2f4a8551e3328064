"""Promises 11 and 12: Valkey may die, freeze, crawl or forget; nobody loses an answer, and it is said."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic

import grpc.aio
import pytest
import pytest_asyncio

from headgate.v1 import router_pb2_grpc, types_pb2
from tests.faults.figures import Form
from tests.faults.load import Sample, arrivals, open_loop, percentile
from tests.faults.proxy import NO_FAULT, Fault, FaultProxy
from tests.integration.gateway_rig import Stack, generate, key, metrics, stack, stub, without_memory

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACME = key("acme")
ADDED_S, DEGRADED_S, CLEAN_S = 0.025, 2.0, 5.0
TARGET = "0 failures; p99 ≤ +25 ms; degraded in ≤ 2 s; clean in ≤ 5 s"


@dataclass(frozen=True, slots=True)
class Rig:
    """A stack whose gateway reaches its Valkey through a proxy."""

    stack: Stack
    proxy: FaultProxy
    router: router_pb2_grpc.RouterServiceStub
    metrics: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    with stack(tmp_path_factory, without_memory()) as running:
        async with FaultProxy(running.valkey.url.partition("://")[2]) as proxy:
            gateway = running.start_gateway("behind", "--redis-url", f"redis://{proxy.address}")
            addresses = await asyncio.to_thread(gateway.addresses)
            try:
                async with grpc.aio.insecure_channel(addresses["listen"]) as channel:
                    yield Rig(running, proxy, stub(channel), addresses["metrics"])
            finally:
                await asyncio.to_thread(gateway.stop)


@asynccontextmanager
async def killed(rig: Rig) -> AsyncIterator[None]:
    """Dead, then back without any of its keys."""
    rig.stack.valkey.stop()
    try:
        yield
    finally:
        await asyncio.to_thread(rig.stack.valkey.start)


@asynccontextmanager
async def frozen(rig: Rig) -> AsyncIterator[None]:
    rig.stack.valkey.popen.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        rig.stack.valkey.popen.send_signal(signal.SIGCONT)


def proxied(fault: Fault) -> Callable[[Rig], object]:
    @asynccontextmanager
    async def injected(rig: Rig) -> AsyncIterator[None]:
        rig.proxy.inject(fault)
        try:
            yield
        finally:
            rig.proxy.inject(NO_FAULT)
            rig.proxy.reset()

    return injected


FAULTS: dict[str, Callable[[Rig], object]] = {
    "killed and restarted empty": killed,
    "frozen": frozen,
    "slow by 200 ms": proxied(Fault(latency_s=0.2)),
    "a black hole": proxied(Fault(black_hole=True)),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_sick_valkey_costs_no_answer_and_is_said(rig: Rig, form: Form, fault: str) -> None:
    await until(lambda: cache_is(rig, types_pb2.CACHE_STATUS_HIT), 30)
    seconds, rate = form.count(2, 20), form.count(30, 60)
    healthy = await load(rig, rate, seconds, form.seed)
    began = monotonic()
    async with FAULTS[fault](rig):  # type: ignore[attr-defined]
        sick = asyncio.ensure_future(load(rig, rate, seconds, form.seed + 1))
        await until(lambda: cache_is(rig, types_pb2.CACHE_STATUS_UNAVAILABLE), 30)
        degraded_s = monotonic() - began
        await until(lambda: breaker_gauge_is(rig, 1), 10)
        samples = await sick
    healed = monotonic()
    await until(lambda: cache_is(rig, types_pb2.CACHE_STATUS_HIT), 30)
    clean_s = monotonic() - healed
    await until(lambda: breaker_gauge_is(rig, 0), 10)
    failures = [sample.result for sample in (*healthy, *samples) if sample.result]
    added_s = p99(samples) - p99(healthy)
    form.note(
        f"{11 if fault.startswith('killed') else 12}: Valkey is {fault}",
        target=TARGET,
        measured=f"{len(failures)} failures at {rate}/s; "
        f"p99 {p99(healthy) * 1e3:.1f} → {p99(samples) * 1e3:.1f} ms; "
        f"degraded after {degraded_s:.2f} s; clean after {clean_s:.2f} s",
        n=len(healthy) + len(samples),
        met=not failures and added_s <= ADDED_S and degraded_s <= DEGRADED_S and clean_s <= CLEAN_S,
    )
    assert failures == []
    assert p50(samples) < 0.25, "answers wait for a Valkey that does not answer"


async def load(rig: Rig, rate: float, seconds: float, seed: int) -> list[Sample[str]]:
    """Open-loop load of queries that were never asked before; a result is the failure, or empty."""

    async def one(_number: int) -> str:
        try:
            await rig.router.Generate(generate(uuid.uuid4().hex), metadata=ACME, timeout=10)
        except grpc.aio.AioRpcError as error:
            return f"{error.code()}: {error.details()}"
        return ""

    return await open_loop(one, arrivals(rate, seconds, seed))


async def cache_is(rig: Rig, status: types_pb2.CacheStatus.ValueType) -> bool:
    """Whether a question that was just asked meets the answer cache in this state."""
    request = generate(uuid.uuid4().hex)
    await rig.router.Generate(request, metadata=ACME, timeout=10)
    await asyncio.sleep(0.02)
    decision = (await rig.router.Generate(request, metadata=ACME, timeout=10)).decision
    sick = status == types_pb2.CACHE_STATUS_UNAVAILABLE
    assert not sick or decision.cache_status != status or types_pb2.DEGRADATION_CACHE in decision.degraded
    return decision.cache_status == status


async def breaker_gauge_is(rig: Rig, value: int) -> bool:
    """Whether the gateway's metrics say so of its breaker before Redis."""
    return (await asyncio.to_thread(metrics, rig.metrics))["headgate_redis_breaker_open"] == value


async def until(condition: Callable[[], Awaitable[bool]], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


def p99(samples: list[Sample[str]]) -> float:
    return percentile((sample.latency for sample in samples), 0.99)


def p50(samples: list[Sample[str]]) -> float:
    return percentile((sample.latency for sample in samples), 0.5)
