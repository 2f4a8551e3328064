"""The watch over a worker goes on, whatever a look at it runs into, and whoever has its name by now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from headgate.adapters import channels
from headgate.adapters.config import ModelConfig
from headgate.adapters.health import HealthServicer
from headgate.gateway import workers
from headgate.gateway.workers import Worker, Workers
from headgate.v1 import types_pb2, worker_pb2, worker_pb2_grpc


async def test_an_unforeseen_error_does_not_end_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PROBE_EVERY_S", 0.01)
    looks: list[Worker] = []
    three = asyncio.Event()

    async def changed(worker: Worker) -> None:
        looks.append(worker)
        if len(looks) == 3:
            three.set()
        raise RuntimeError("nobody foresaw it")

    watched = Workers({"small": ModelConfig()}, {"small": "127.0.0.1:1"}, None, changed)
    with capture_logs() as logged:
        await watched.start(0)
        async with asyncio.timeout(30):
            await three.wait()
        await watched.close()
    assert [event["model"] for event in logged if event["event"] == "watching a worker failed"][:2] == [
        "small",
        "small",
    ]


class Peer(worker_pb2_grpc.WorkerServiceServicer):
    """A worker whose one answer takes until it is told."""

    def __init__(self) -> None:
        self.described = 0
        self.goes_on = asyncio.Event()
        self.health = HealthServicer()
        self.server = grpc.aio.server()
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, self.server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)

    async def start(self) -> str:
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        self.health.set(workers.HEALTH_SERVICE, health_pb2.HealthCheckResponse.SERVING)
        return f"127.0.0.1:{port}"

    async def DescribeModel(self, request: Any, context: Any) -> worker_pb2.DescribeModelResponse:
        self.described += 1
        price = types_pb2.Price(input_nanousd=1, output_nanousd=1)
        return worker_pb2.DescribeModelResponse(model="small", version="1", slots=1, price=price)

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield worker_pb2.WorkerServiceGenerateResponse()
        await self.goes_on.wait()
        yield worker_pb2.WorkerServiceGenerateResponse()


async def test_a_name_whose_worker_drains_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, not when the old one's connection ends; what the old one is answering comes to its end."""
    old, new, real = Peer(), Peer(), channels.channel
    known = [await old.start()]
    monkeypatch.setattr(channels, "channel", lambda _, **options: real(known[-1], **options))
    worker = Worker("small", "worker-small:7080", None)
    await worker.probe()
    assert worker.serving
    following = asyncio.create_task(worker.follow())
    answer = worker.stub.Generate(worker_pb2.WorkerServiceGenerateRequest())
    assert await answer.read()
    known.append(await new.start())
    old.health.drain()
    async with asyncio.timeout(30):
        while not new.described:
            await worker.probe()
            await asyncio.sleep(0.01)
    assert worker.serving
    old.goes_on.set()
    assert await answer.read()
    assert await answer.read() is grpc.aio.EOF
    following.cancel()
    await worker.close()
    await asyncio.gather(old.server.stop(0), new.server.stop(0))
