"""Several gateway processes on one Valkey, which share its answer cache."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio

from headgate.v1 import admin_pb2, admin_pb2_grpc, router_pb2_grpc
from tests.integration.gateway_rig import Process, Stack, metrics, stub

PROCESSES = 4
Stub = router_pb2_grpc.RouterServiceStub


@contextmanager
def running(one: Stack, count: int = PROCESSES) -> Iterator[list[Process]]:
    """The stack's gateway and others beside it, `count` in all, for the time of a `with` block."""
    others: list[Process] = []
    try:
        others += (one.start_gateway(f"gateway-{number}") for number in range(1, count))
        for other in others:
            other.addresses()
        yield [one.gateway, *others]
    finally:
        for other in others:
            other.stop()


@asynccontextmanager
async def one_more(
    one: Stack, name: str, *extra: str, program: tuple[str, ...] = ("-m", "headgate.gateway")
) -> AsyncIterator[tuple[Process, Stub]]:
    """A gateway that a test may do anything to, and its stub."""
    process = one.start_gateway(name, *extra, program=program)
    try:
        addresses = await asyncio.to_thread(process.addresses)
        async with grpc.aio.insecure_channel(addresses["listen"]) as channel:
            yield process, stub(channel)
    finally:
        await asyncio.to_thread(process.stop)


@dataclass(frozen=True, slots=True)
class Gateways:
    """The processes, with a stub for each."""

    stack: Stack
    processes: Sequence[Process]
    stubs: Sequence[Stub]

    def admin(self, number: int) -> str:
        """The admin address of a process."""
        return self.processes[number].addresses()["admin"]

    def calls(self, nonce: str) -> int:
        """How often a worker began to answer requests whose name begins so."""
        lines = self.stack.lines()
        return sum(line["event"] == "begun" and line["request_id"].startswith(nonce) for line in lines)

    def told(self, sample: str) -> float:
        """What the metrics of all processes say together."""
        pages = (metrics(process.addresses()["metrics"]) for process in self.processes)
        return sum(page.get(sample, 0.0) for page in pages)

    async def inside(self, count: int) -> None:
        """Waits until at least so many requests are inside, all processes together."""
        await until(lambda: self.told("headgate_inside") >= count, what=f"{count} requests to be inside")


@asynccontextmanager
async def reached(one: Stack, processes: Sequence[Process]) -> AsyncIterator[Gateways]:
    """With channels to all of them."""
    async with AsyncExitStack() as channels:
        stubs = []
        for process in processes:
            channel = grpc.aio.insecure_channel(process.addresses()["listen"])
            stubs.append(stub(await channels.enter_async_context(channel)))
        yield Gateways(one, processes, stubs)


async def until(condition: Callable[[], bool], what: str) -> None:
    """As `eventually`, for a condition that blocks."""
    end = time.monotonic() + 30
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < end, f"waited in vain for {what}"
        await asyncio.sleep(0.02)


async def purge(address: str, **scope: Any) -> int:
    """Gives the order to the admin port; how many answers were deleted from Redis."""
    async with grpc.aio.insecure_channel(address) as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        return (await admin.PurgeCache(admin_pb2.PurgeCacheRequest(**scope), timeout=30)).removed
