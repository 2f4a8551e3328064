"""What a node does for a cluster: asks pods by their probes, gives Services' names the ready ones' addresses.

Runs by itself, in the cluster's network. It is told of pods on stdin and tells what became of them on stdout,
a JSON object a line:

    {"services": {"gateway": "gateway"}, "domain": "headgate.svc.cluster.local", "listen": "10.77.0.1"}
    {"pod": "gateway-1", "component": "gateway", "address": "10.77.0.2", "container": {...},
     "inside": ["nsenter", ...], "environ": {...}}
    {"leaves": "gateway-1"}

The first line says what it serves; a pod is asked from its line on, neither asked nor found once it leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import sys
from asyncio.subprocess import DEVNULL
from dataclasses import dataclass, field
from typing import Any

from headgate.adapters import probe

_A, _IN, _ANSWER, _NO_SUCH_NAME = 1, 1, 0x8580, 0x8583
_TTL_S = 5


@dataclass(slots=True)
class Pod:
    """One that runs."""

    component: str
    address: str
    container: dict[str, Any]
    inside: list[str]
    """What a command begins with that runs in the container."""
    environ: dict[str, str]
    ready: bool = False
    asking: list[asyncio.Task[None]] = field(default_factory=list)


class Node(asyncio.DatagramProtocol):
    """Also the DNS server."""

    def __init__(self, services: dict[str, str], domain: str) -> None:
        self._services = {f"{name}.{domain}": component for name, component in services.items()}
        self.pods: dict[str, Pod] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._transport.sendto(self._answer(data), addr)  # type: ignore[attr-defined]

    def _answer(self, query: bytes) -> bytes:
        name, end = _name(query)
        question = query[12 : end + 4]
        if name not in self._services:
            return query[:2] + struct.pack("!5H", _NO_SUCH_NAME, 1, 0, 0, 0) + question
        (kind,) = struct.unpack("!H", query[end : end + 2])
        found = [one.address for one in self.pods.values() if self._is_of(one, name)] if kind == _A else []
        records = b"".join(
            struct.pack("!HHHIH4B", 0xC00C, _A, _IN, _TTL_S, 4, *map(int, address.split(".")))
            for address in found
        )
        return query[:2] + struct.pack("!5H", _ANSWER, 1, len(found), 0, 0) + question + records

    def _is_of(self, pod: Pod, name: str) -> bool:
        return pod.ready and pod.component == self._services[name]

    def add(self, name: str, pod: Pod) -> None:
        """Asks it from now on, as its container's probes say."""
        self.pods[name] = pod
        pod.asking.append(asyncio.create_task(self._watch(name, pod)))

    def remove(self, name: str) -> None:
        """It is to end: nobody finds it any more."""
        pod = self.pods.pop(name)
        for task in pod.asking:
            task.cancel()

    async def _watch(self, name: str, pod: Pod) -> None:
        if not await self._started(pod):
            _tell(pod=name, dead="its startup probe failed")
            return
        pod.asking.append(asyncio.create_task(self._live(name, pod)))
        told, failed = pod.container["readinessProbe"], 0
        while True:
            failed = 0 if await _asked(pod, told) else failed + 1
            if pod.ready != (failed == 0) and failed in (0, told.get("failureThreshold", 3)):
                pod.ready = failed == 0
                _tell(pod=name, ready=pod.ready)
            # A kubelet looks again at once while a pod is not ready yet.
            await asyncio.sleep(told["periodSeconds"] if pod.ready else 1)

    async def _started(self, pod: Pod) -> bool:
        told = pod.container["startupProbe"]
        for _ in range(told["failureThreshold"]):
            if await _asked(pod, told):
                return True
            await asyncio.sleep(told["periodSeconds"])
        return False

    async def _live(self, name: str, pod: Pod) -> None:
        told, failed = pod.container["livenessProbe"], 0
        while failed < told["failureThreshold"]:
            await asyncio.sleep(told["periodSeconds"])
            failed = 0 if await _asked(pod, told) else failed + 1
        _tell(pod=name, dead="its liveness probe failed")


async def _asked(pod: Pod, told: dict[str, Any]) -> bool:
    """One probe, from where a kubelet asks: from outside, unless it is a command."""
    try:
        async with asyncio.timeout(told.get("timeoutSeconds", 1)):
            return await _ask(pod, told)
    except (TimeoutError, OSError):
        return False


async def _ask(pod: Pod, told: dict[str, Any]) -> bool:
    ports = {one["name"]: one["containerPort"] for one in pod.container["ports"]}
    if "grpc" in told:
        return await probe.serving(f"{pod.address}:{told['grpc']['port']}", told["grpc"].get("service", ""))
    if "exec" in told:
        return await _runs(pod, told["exec"]["command"])
    (kind,) = told.keys() & {"httpGet", "tcpSocket"}
    port = ports.get(told[kind]["port"], told[kind]["port"])
    if kind == "httpGet":
        url = f"http://{pod.address}:{port}{told[kind]['path']}"
        return await asyncio.to_thread(probe.answers, url)
    _, writer = await asyncio.open_connection(pod.address, port)
    writer.close()
    return True


async def _runs(pod: Pod, command: list[str]) -> bool:
    running = await asyncio.create_subprocess_exec(*pod.inside, *command, env=pod.environ, stderr=DEVNULL)
    try:
        return await running.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.kill()


def _name(query: bytes) -> tuple[str, int]:
    """The name asked for, and where it ends."""
    words, at = [], 12
    while length := query[at]:
        words.append(query[at + 1 : at + 1 + length].decode().lower())
        at += length + 1
    return ".".join(words), at + 1


def _tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


async def main() -> None:
    """Until stdin ends."""
    reader = asyncio.StreamReader(limit=1 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    first = json.loads(await reader.readline())
    node = Node(first["services"], first["domain"])
    await loop.create_datagram_endpoint(lambda: node, local_addr=(first["listen"], 53))
    _tell(listens=True)
    while line := await reader.readline():
        told = json.loads(line)
        if "leaves" in told:
            node.remove(told["leaves"])
        else:
            node.add(told.pop("pod"), Pod(**told))


if __name__ == "__main__":
    asyncio.run(main())
