"""Promise 35, compressed: under clients that leave and come back, nothing grows."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import statistics
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from urllib.request import urlopen

import grpc.aio
import psutil

from tests.faults.figures import Form
from tests.integration.gateway_rig import Process, Stack, eventually, generate, key, streamed, stub

ACME = key("acme")
CLIENTS, CALLS_A_CHANNEL = 8, 50
LEAVING = 0.3
"""Share of calls that their client cancels."""
SLOPE_MIB = 2.0
"""Most growth per 100,000 requests."""
SPARE = 4
"""File descriptors and tasks that may be more, idle after the load, than idle before it."""


class Quiet(Stack):
    """A stack whose workers keep no journal."""

    def start_worker(self, name: str, port: int = 0) -> Process:
        """A scripted worker."""
        ready = self.directory / f"{name}.ready"
        command = [
            sys.executable,
            "-m",
            "tests.integration.scripted_worker",
            name,
            os.devnull,
            str(port),
            str(ready),
        ]
        return Process(command, self.directory, name, {})


@dataclass(frozen=True, slots=True)
class Reading:
    """What the gateway held after so many requests."""

    requests: int
    rss: int
    fds: int
    tasks: int


async def test_nothing_grows_under_clients_that_leave_and_come_back(tmp_path: Path, form: Form) -> None:
    seconds, every_s = form.count(12, 600), form.count(1, 5)
    running = await asyncio.to_thread(Quiet, tmp_path)
    try:
        load = Load(running, form.seed)
        before = await idle_before(running, load)
        loading = [asyncio.ensure_future(load.client(number)) for number in range(CLIENTS)]
        readings, began = [], monotonic()
        while monotonic() - began < seconds:
            await asyncio.sleep(every_s)
            readings.append(read(running, load.requests))
        load.over = True
        await asyncio.gather(*loading)
        warm = readings[len(readings) // 5 :]
        # A connection that a client has closed is seen by the server a moment later.
        last = await eventually(lambda: idle(running, load.requests, before), 20, "everything to be let go")
    finally:
        await asyncio.to_thread(running.close)
    slope = growth_per_100k(warm)
    form.note(
        "35: nothing grows under cancels and reconnects",
        target=f"RSS ≤ {SLOPE_MIB:g} MiB per 100,000 requests after the warm-up; fds and tasks flat",
        measured=f"{load.left / load.requests:.0%} cancelled; {slope:+.2f} MiB per 100,000, "
        f"RSS {warm[0].rss >> 20} → {warm[-1].rss >> 20} MiB; "
        f"idle before → after: fds {before.fds} → {last.fds}, tasks {before.tasks} → {last.tasks}",
        n=load.requests,
        met=slope <= SLOPE_MIB and load.left >= 0.25 * load.requests,
    )
    assert load.failures == []
    assert load.left > 0.15 * load.requests
    assert warm[-1].rss - warm[0].rss < 48 << 20


class Load:
    """Clients that call one after the other, leave now and then, and come back on a new connection."""

    def __init__(self, running: Stack, seed: int) -> None:
        self.over = False
        self.requests = 0
        self.left = 0
        self.failures: list[str] = []
        self._running = running
        self._seed = seed

    async def client(self, number: int) -> None:
        draw = random.Random(self._seed + number)
        while not self.over:
            async with self._running.channel() as channel:
                for _ in range(CALLS_A_CHANNEL):
                    await self._call(channel, draw)

    async def _call(self, channel: grpc.aio.Channel, draw: random.Random) -> None:
        self.requests += 1
        leaving = draw.random() < LEAVING
        gap_s = 0.5 if leaving else 0.001
        script = {"say": ["one ", "two "], "gap_s": gap_s, "nonce": uuid.uuid4().hex}
        if draw.random() < 0.5:
            call = asyncio.ensure_future(
                _whole(stub(channel).Generate(generate(script), metadata=ACME, timeout=30))
            )
        else:
            call = asyncio.ensure_future(
                _all(stub(channel).StreamGenerate(streamed(script), metadata=ACME, timeout=30))
            )
        if leaving:
            await asyncio.sleep(draw.uniform(0, 0.01))
            self.left += call.cancel()
        try:
            await call
        except asyncio.CancelledError:
            pass
        except grpc.aio.AioRpcError as error:
            self.failures.append(f"{error.code()}: {error.details()}")


async def _whole(call: grpc.aio.UnaryUnaryCall) -> None:  # type: ignore[type-arg]
    await call


async def _all(call: grpc.aio.UnaryStreamCall) -> None:  # type: ignore[type-arg]
    async for _ in call:
        pass


def read(running: Stack, requests: int) -> Reading:
    """The gateway now."""
    process = psutil.Process(running.gateway.popen.pid)
    with urlopen(f"http://{running.addresses['metrics']}/metrics", timeout=30) as page:
        lines = dict(
            line.rsplit(" ", 1) for line in page.read().decode().splitlines() if not line.startswith("#")
        )
    return Reading(
        requests, process.memory_info().rss, process.num_fds(), int(float(lines["headgate_tasks"]))
    )


async def idle_before(running: Stack, load: Load) -> Reading:
    """The gateway before the load, once as many as will come have been there: its pools are filled then."""
    async with running.channel() as channel:
        requests = (
            stub(channel).Generate(generate(uuid.uuid4().hex), metadata=ACME) for _ in range(2 * CLIENTS)
        )
        await asyncio.gather(*requests)
    return await eventually(lambda: read(running, load.requests), what="a reading")


def idle(running: Stack, requests: int, before: Reading) -> Reading | None:
    """The gateway once it holds no more than before the load; None until then."""
    now = read(running, requests)
    return now if now.fds <= before.fds + SPARE and now.tasks <= before.tasks + SPARE else None


def growth_per_100k(readings: Sequence[Reading]) -> float:
    """Theil–Sen slope of resident memory over requests, in MiB per 100,000: the median over all pairs."""
    slopes = [
        (later.rss - earlier.rss) / 2**20 / (later.requests - earlier.requests) * 100_000
        for earlier, later in itertools.combinations(readings, 2)
        if later.requests > earlier.requests
    ]
    return statistics.median(slopes)
