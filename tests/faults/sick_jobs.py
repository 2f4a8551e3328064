"""A stack with jobs whose records and broker can fall ill: each is a Valkey with an AOF behind a proxy.

async with sick_jobs(directory, "the broker") as house:
    async with frozen(house.patient): ...
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.faults.proxy import NO_FAULT, Fault, FaultProxy
from tests.integration.gateway_rig import Valkey, wait_for
from tests.integration.job_rig import JobStack, settings

LEASE_S: Final = 8.0
"""Longer than any server here is ill."""
LOST: Final = 3_000
"""Bytes of an AOF: some events of a job."""
WHO: Final = ("one server", "the broker", "the records")
"""Who falls ill: both on one server, or one of two."""


@dataclass(frozen=True, slots=True)
class Server:
    """A Valkey and the proxy in front of it, whose address is in its URL."""

    directory: Path
    valkey: Valkey
    proxy: FaultProxy


Illness = Callable[[Server], AbstractAsyncContextManager[None]]


class SickStack(JobStack):
    """Its processes see their servers through proxies."""

    def __init__(self, directory: Path, records: Server, broker: Server) -> None:
        self._records = records.valkey
        config = settings(max_concurrent=256)
        jobs = {"broker": broker.valkey.url, "lease_s": LEASE_S, "concurrency": 4}
        super().__init__(directory, config | {"jobs": config["jobs"] | jobs})

    def start_valkey(self) -> Valkey:
        """The records' server."""
        return self._records


@dataclass(frozen=True, slots=True)
class House:
    """The stack, with a runner and a reconciler, and who falls ill in it."""

    stack: SickStack
    patient: Server


@asynccontextmanager
async def sick_jobs(directory: Path, who: str) -> AsyncIterator[House]:
    """A house for the time of an `async with` block."""
    async with AsyncExitStack() as leave:
        records = await _server(directory / "records", leave)
        broker = records if who == "one server" else await _server(directory / "broker", leave)
        stack = await asyncio.to_thread(SickStack, directory, records, broker)
        leave.push_async_callback(asyncio.to_thread, stack.close)
        for program in ("runner", "reconciler"):
            await asyncio.to_thread(stack.start, program)
        yield House(stack, broker if who == "the broker" else records)


async def _server(directory: Path, leave: AsyncExitStack) -> Server:
    directory.mkdir()
    valkey = await asyncio.to_thread(Valkey, directory, keeps=True)
    leave.push_async_callback(asyncio.to_thread, valkey.stop)
    proxy = await leave.enter_async_context(FaultProxy(valkey.url.partition("://")[2]))
    valkey.url = f"redis://{proxy.address}"
    return Server(directory, valkey, proxy)


@asynccontextmanager
async def full(server: Server) -> AsyncIterator[None]:
    """It has no room for anything."""
    await asyncio.to_thread(server.valkey.client.config_set, "maxmemory", 1)
    try:
        yield
    finally:
        await asyncio.to_thread(server.valkey.client.config_set, "maxmemory", 0)


@asynccontextmanager
async def read_only(server: Server) -> AsyncIterator[None]:
    """As a primary is that was made a replica."""
    client: Any = server.valkey.client
    await asyncio.to_thread(client.replicaof, "127.0.0.1", 1)
    try:
        yield
    finally:
        await asyncio.to_thread(client.replicaof, "NO", "ONE")


@asynccontextmanager
async def restarting(server: Server) -> AsyncIterator[None]:
    """Stopped as one stops a server; it comes back with its AOF."""
    server.valkey.popen.send_signal(signal.SIGTERM)
    await asyncio.to_thread(server.valkey.popen.wait, 20)
    try:
        yield
    finally:
        await asyncio.to_thread(server.valkey.start)


@asynccontextmanager
async def killed(server: Server) -> AsyncIterator[None]:
    """Killed; it comes back with its AOF. Where a disk is slow, that lacks what was not written yet."""
    await asyncio.to_thread(wait_for, lambda: _all_is_written(server), what="the AOF to be written")
    await asyncio.to_thread(server.valkey.stop)
    try:
        yield
    finally:
        await asyncio.to_thread(server.valkey.start)


def _all_is_written(server: Server) -> bool:
    told: Any = server.valkey.client.info("persistence")
    return not told["aof_buffer_length"] and not told["aof_pending_bio_fsync"]


@asynccontextmanager
async def robbed(server: Server) -> AsyncIterator[None]:
    """Killed, and back without what it wrote last, as after a power cut."""
    (log,) = (server.directory / "appendonlydir").glob("*.incr.aof")
    await asyncio.to_thread(wait_for, lambda: _all_is_written(server), what="the AOF to be written")
    size = log.stat().st_size
    if server.valkey.client.exists("headgate:jobs:acme"):
        await asyncio.to_thread(wait_for, lambda: log.stat().st_size > size + LOST, what="a job to go on")
    async with killed(server):
        os.truncate(log, size)
        yield


@asynccontextmanager
async def slow(server: Server) -> AsyncIterator[None]:
    """200 ms away, and 200 ms back."""
    server.proxy.inject(Fault(latency_s=0.2))
    try:
        yield
    finally:
        server.proxy.inject(NO_FAULT)


@asynccontextmanager
async def frozen(server: Server) -> AsyncIterator[None]:
    """It says nothing."""
    server.valkey.popen.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.valkey.popen.send_signal(signal.SIGCONT)
