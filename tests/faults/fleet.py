"""Two replicas of everything, replaced one by one: a new one starts before an old one drains.

Clients and gateways know the addresses of three places, of which two are taken. The workers are bound by
their slots, not by this machine's cores: `capacity` requests a second are all that they can do.
"""

from __future__ import annotations

import asyncio
import random
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc.aio
import psutil
import yaml

from headgate.adapters import channels
from tests.faults.chain import PRICE
from tests.faults.upstream import Script, Upstream
from tests.integration.gateway_rig import PEPPER, Process, Valkey, config, eventually

SERVICE_S = 0.8
"""How long the upstream takes for an answer: so long that each replica is in the middle of several."""
ANSWER = Script(pieces=("one ", "two"), before_first_s=SERVICE_S / 4, between_s=SERVICE_S * 3 / 4)
REPLICAS, PLACES = 2, 3
QUEUE = 256
"""Long enough that a machine that stalls for a moment does not look like an overload."""
KINDS = ("worker", "gateway")


class Fleet:
    """Replicas of a gateway in front of replicas of one worker, in front of the upstream."""

    def __init__(self, directory: Path, base_url: str, slots: int) -> None:
        self.capacity = REPLICAS * slots / SERVICE_S
        self._directory = directory
        self._config = directory / "headgate.yaml"
        model = {"backend": "openai", "source": "sim", "base_url": base_url, "price": PRICE}
        pool = {"large": {**model, "slots": slots, "queue": QUEUE}}
        settings = {**config(lame_duck_s=1, drain_s=5), "pool": pool, "cache": {"enabled": False}}
        settings["tenants"] = {"acme": settings["tenants"]["acme"]}
        self._config.write_text(yaml.safe_dump(settings))
        self._valkey = Valkey(directory)
        self._ports = {kind: [free_port() for _ in range(PLACES)] for kind in KINDS}
        self._replicas: dict[str, dict[int, Process]] = {kind: {} for kind in KINDS}

    def start(self) -> None:
        """Returns when two of each serve."""
        for kind in KINDS:
            for port in self._ports[kind][:REPLICAS]:
                self._replicas[kind][port] = self._start(kind, port)
            for process in self._replicas[kind].values():
                process.addresses()

    def address(self, kind: str) -> str:
        """All places of a kind as one gRPC target."""
        return "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in self._ports[kind])

    async def replace(self, kind: str) -> int:
        """Starts one and, once it is in use, drains the oldest; returns that one's exit code."""
        replicas = self._replicas[kind]
        old, free = next(iter(replicas)), next(port for port in self._ports[kind] if port not in replicas)
        replicas[free] = self._start(kind, free)
        await asyncio.to_thread(replicas[free].addresses)
        await eventually(lambda: _in_use(replicas[free], free), what=f"the new {kind} to be in use")
        return await asyncio.to_thread(replicas.pop(old).stop)

    async def settled(self) -> None:
        """Waits until every gateway has a connection to every worker."""
        for port, process in self._replicas["worker"].items():
            await eventually(lambda: _in_use(process, port), what="the gateways to know the workers")  # noqa: B023

    def close(self) -> None:
        """Ends everything."""
        for kind in reversed(KINDS):
            for process in self._replicas[kind].values():
                process.stop()
        self._valkey.stop()

    def _start(self, kind: str, port: int) -> Process:
        name = f"{kind}-{port}"
        command = [sys.executable, "-m", f"headgate.{kind}", "--config", str(self._config)]
        command += ["--listen", f"127.0.0.1:{port}", "--ready-file", str(self._directory / f"{name}.ready")]
        if kind == "worker":
            command += ["--model", "large"]
        else:
            command += ["--admin-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
            command += ["--redis-url", self._valkey.url, "--worker", f"large={self.address('worker')}"]
        return Process(command, self._directory, name, {"TEST_PEPPER": PEPPER})


@asynccontextmanager
async def fleet(
    directory: Path, upstream: Upstream, slots: int
) -> AsyncIterator[tuple[Fleet, grpc.aio.Channel]]:
    """A running fleet, and a channel to it that watches health."""
    running = await asyncio.to_thread(Fleet, directory, upstream.base_url, slots)
    try:
        await asyncio.to_thread(running.start)
        target, service = running.address("gateway"), "headgate.v1.RouterService"
        async with channels.channel(target, health_service=service) as channel:
            await running.settled()
            yield running, channel
    finally:
        await asyncio.to_thread(running.close)


def _in_use(process: Process, port: int) -> bool:
    connections = psutil.Process(process.popen.pid).net_connections("tcp")
    return any(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port for one in connections)


def free_port() -> int:
    """One that no client's connection is ever given, so that it is still free after a restart."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
