"""Promise 35, compressed: under clients that leave and come back, neither gateway nor workers grow.

Beside them a bare server of grpc.aio is left as often. grpcio 1.85 loses the operations of every batch that
is cancelled or fails, 96 bytes at a time, and no server on top of it can be flatter than that.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TypeAlias

import grpc.aio
import psutil

from headgate.router import decided
from headgate.v1 import router_pb2
from tests.bench.gateway import echo
from tests.faults.chain import ACME, Chain, chain
from tests.faults.figures import Form
from tests.faults.upstream import Call, Script, Upstream
from tests.integration.gateway_rig import Process, generate, metrics, query, streamed, stub

CLIENTS, CALLS_A_CHANNEL = 8, 50
MIB = 1 << 20
MODELS = ("small", "large")
BARE = "bare server"
"""The control: what its process grows by is grpcio's."""
LEAVING = 0.3
"""Share of calls that their client cancels."""
SLOPE_MIB = 2.0
"""Most growth of a process per 100,000 of its requests."""
SHORT_MIB = 2.0
"""Most growth in the short form, whose requests are too few for a slope."""
SPARE_FDS, SPARE_TASKS = 2 * CLIENTS, 4
"""What may be more, idle after the load, than idle before it: pools keep what their busiest moment took."""
SETTLED, IDLE_S = 3, 1.0
"""So many equal readings in a row, that far apart: a server sees a moment later that a client has gone."""
LITTLE = {"cache": {"ttl_s": 600, "memory_mb": 1}}
ANSWERS = 1_000
"""More than a megabyte of them."""
QUICK = Script(pieces=("one ", "two "), between_s=0.001)
SLOW = replace(QUICK, between_s=0.5)
"""For clients that leave: it is not over before they do."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a process held after so many requests. Of its tasks only the gateway tells."""

    requests: int
    rss: int
    fds: int
    tasks: int | None

    def __str__(self) -> str:
        return f"fds {self.fds}" + ("" if self.tasks is None else f", tasks {self.tasks}")


Readings: TypeAlias = Mapping[str, Reading]
"""One of each process, by its name."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A process idle before the load, under it and warm, and idle after it."""

    before: Reading
    warm: Sequence[Reading]
    after: Reading

    @property
    def flat(self) -> bool:
        """Whether it let go of what the load needed."""
        tasks = (self.after.tasks or 0) - (self.before.tasks or 0)
        return self.after.fds <= self.before.fds + SPARE_FDS and tasks <= SPARE_TASKS

    @property
    def grown_mib(self) -> float:
        """Growth of its resident memory under the load."""
        return (self.warm[-1].rss - self.warm[0].rss) / MIB

    @property
    def slope_mib(self) -> float:
        """Theil–Sen slope of it over requests, per 100,000: the median over all pairs of readings."""
        slopes = [
            (later.rss - earlier.rss) / MIB / (later.requests - earlier.requests) * 100_000
            for earlier, later in itertools.combinations(self.warm, 2)
            if later.requests > earlier.requests
        ]
        return statistics.median(slopes)

    def __str__(self) -> str:
        first, last = self.warm[0].rss // MIB, self.warm[-1].rss // MIB
        slope = f"{self.slope_mib:+.2f} MiB per 100,000, RSS {first} → {last} MiB"
        return f"{slope}, idle {self.before} → {self.after}"


async def test_nothing_grows_under_clients_that_leave_and_come_back(tmp_path: Path, form: Form) -> None:
    seconds, every_s, least = form.count(12, 600), form.count(1, 5), form.count(1_000, 50_000)
    async with (
        Upstream() as upstream,
        chain(tmp_path, upstream, LITTLE) as running,
        bare_server(tmp_path) as bare,
    ):
        upstream.choose = choose
        load = Load(running, bare, form.seed)
        await load.begin()
        before = await settled(load)
        loading = [asyncio.ensure_future(load.client(number)) for number in range(CLIENTS)]
        readings, began = [], monotonic()
        while monotonic() - began < seconds or load.requests < least:
            await asyncio.sleep(every_s)
            readings.append(await asyncio.to_thread(read, load))
            # This process is not what is watched, but it must not eat the machine either.
            upstream.ledger.clear()
        load.over = True
        await asyncio.gather(*loading)
        after = await settled(load)
    warm = readings[len(readings) // 5 :]
    watched = {name: Watched(before[name], [one[name] for one in warm], after[name]) for name in before}
    control = watched.pop(BARE)
    form.note(
        "35: nothing grows under cancels and reconnects",
        target=f"RSS of each process ≤ {SLOPE_MIB:g} MiB per 100,000 of its requests after the warm-up; "
        f"idle fds ≤ +{SPARE_FDS}, tasks ≤ +{SPARE_TASKS}",
        measured=f"{load.left / load.requests:.0%} cancelled; "
        + "; ".join(f"{name} {one}" for name, one in watched.items())
        + f"; a {BARE}, left as often, {control.slope_mib:+.2f} MiB per 100,000",
        n=load.requests,
        met=all(one.flat and one.slope_mib <= SLOPE_MIB for one in watched.values())
        and load.left >= 0.25 * load.requests,
    )
    assert load.failures == []
    assert load.left > 0.15 * load.requests
    assert [str(one) for one in watched.values() if not one.flat] == []
    grown = {name: one.grown_mib for name, one in watched.items() if one.grown_mib > SHORT_MIB}
    assert form.long or not grown, grown


def choose(call: Call) -> Script:
    """As the prompt says whether its client will leave."""
    return SLOW if call.body["messages"][-1]["content"].startswith("slow") else QUICK


class Load:
    """Clients that call one after the other, leave now and then, and come back on a new connection."""

    def __init__(self, running: Chain, bare: Process, seed: int) -> None:
        self.over = False
        self.running = running
        self.bare = bare
        self.asked: Counter[str] = Counter()
        """Requests by the process that they went to."""
        self.left = 0
        self.failures: list[str] = []
        self._seed = seed

    @property
    def requests(self) -> int:
        return self.asked["gateway"]

    async def begin(self) -> None:
        """Fills all that has a limit: pools, answers in memory, and decisions that are remembered."""
        texts = [f"quick {uuid.uuid4().hex}" for _ in range(max(ANSWERS, decided.MOST))]
        requests = [generate(one, model=MODELS[n % 2]) for n, one in enumerate(texts[:ANSWERS])]
        routes = [router_pb2.RouteRequest(query=query(one)) for one in texts[: decided.MOST]]
        async with self.running.channel() as channel:
            asked, at_once = stub(channel), asyncio.Semaphore(len(MODELS) * CLIENTS)

            async def ask(call: Callable[..., Awaitable[object]], request: object) -> None:
                async with at_once:
                    await call(request, metadata=ACME, timeout=30)

            await asyncio.gather(*(ask(asked.Generate, one) for one in requests))
            await asyncio.gather(*(ask(asked.Route, one) for one in routes))

    async def client(self, number: int) -> None:
        draw = random.Random(self._seed + number)
        while not self.over:
            async with (
                self.running.channel() as channel,
                grpc.aio.insecure_channel(self.bare.addresses()["echo"]) as beside,
            ):
                for _ in range(CALLS_A_CHANNEL):
                    await asyncio.gather(self._call(channel, draw), self._call_beside(beside, draw))

    async def _call(self, channel: grpc.aio.Channel, draw: random.Random) -> None:
        leaving, model = draw.random() < LEAVING, draw.choice(MODELS)
        self.asked.update(("gateway", model))
        said = f"{'slow' if leaving else 'quick'} {uuid.uuid4().hex}"
        if draw.random() < 0.5:
            request = generate(said, model=model)
            call = asyncio.ensure_future(_whole(stub(channel).Generate(request, metadata=ACME, timeout=30)))
        else:
            asked = streamed(said, model=model)
            call = asyncio.ensure_future(_all(stub(channel).StreamGenerate(asked, metadata=ACME, timeout=30)))
        left = await self._end(call, draw if leaving else None)
        self.left += left

    async def _call_beside(self, channel: grpc.aio.Channel, draw: random.Random) -> None:
        leaving = draw.random() < LEAVING
        self.asked.update((BARE,))
        call = asyncio.ensure_future(_all(channel.unary_stream(echo.MANY)(b"", timeout=30)))
        await self._end(call, draw if leaving else None)

    async def _end(self, call: asyncio.Future[None], leaving: random.Random | None) -> bool:
        """Waits for a call, or leaves it after a moment; whether it was still running then."""
        left = False
        if leaving is not None:
            await asyncio.sleep(leaving.uniform(0, 0.01))
            left = call.cancel()
        try:
            await call
        except asyncio.CancelledError:
            pass
        except grpc.aio.AioRpcError as error:
            self.failures.append(f"{error.code()}: {error.details()}")
        return left


async def _whole(call: grpc.aio.UnaryUnaryCall) -> None:  # type: ignore[type-arg]
    await call


async def _all(call: grpc.aio.UnaryStreamCall) -> None:  # type: ignore[type-arg]
    async for _ in call:
        pass


@asynccontextmanager
async def bare_server(directory: Path) -> AsyncIterator[Process]:
    """A server of plain grpc.aio that answers 64 tokens at once."""
    ready = str(directory / "bare.ready")
    command = [sys.executable, "-m", "tests.bench.gateway.echo", "worker", ready]
    server = Process(command, directory, "bare", {})
    try:
        await asyncio.to_thread(server.addresses)
        yield server
    finally:
        await asyncio.to_thread(server.stop)


def read(load: Load) -> Readings:
    """Every process now."""
    running, asked = load.running, load.asked
    tasks = int(metrics(running.addresses["metrics"])["headgate_tasks"])
    found = {"gateway": read_one(running.gateway.popen.pid, asked["gateway"], tasks)}
    others = {**running.workers, BARE: load.bare}
    return found | {name: read_one(one.popen.pid, asked[name]) for name, one in others.items()}


def read_one(pid: int, requests: int, tasks: int | None = None) -> Reading:
    process = psutil.Process(pid)
    return Reading(requests, process.memory_info().rss, process.num_fds(), tasks)


async def settled(load: Load) -> Readings:
    """What the processes hold once they hold the same for a while."""
    held: list[str] = []
    async with asyncio.timeout(60):
        while len(held) < SETTLED or len(set(held[-SETTLED:])) > 1:
            await asyncio.sleep(IDLE_S)
            found = await asyncio.to_thread(read, load)
            held.append(str([str(one) for one in found.values()]))
    return found
