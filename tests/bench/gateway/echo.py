"""What the gateway is measured against and in front of: `python -m tests.bench.gateway.echo ROLE READY_FILE …`.

    worker                  answers at once: as a bare echo, or when its caller says, and as the WorkerService
                            of small and of large;
                            "write 64 …" is answered with so many tokens, each in a message of its own,
                            and "pause 50 …" after so many milliseconds; as a collector it throws traces away
    router --worker ADDR    the bare chain's middle: hands bytes on and does nothing else

Both run on plain asyncio, or on uvloop with `--uvloop`. Where they listen stands in READY_FILE.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from importlib import resources
from pathlib import Path
from time import monotonic
from typing import Any, Final

import grpc
import grpc.aio
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from headgate.v1 import types_pb2, worker_pb2, worker_pb2_grpc
from headgate.worker.backends.builtin.engine import model_version

ONE: Final = "/bench.Echo/One"
MANY: Final = "/bench.Echo/Many"
LATER: Final = "/bench.Later/One"
THROWN_AWAY: Final = "/bench.Collector/ThrownAway"
COLLECTOR: Final = "opentelemetry.proto.collector.trace.v1.TraceService"
ANSWER: Final = "A 0 ms answer of 120 bytes, as short as many answers are: " + 62 * "x"
TOKENS: Final = 64
TOKEN: Final = b" token"
WRITE: Final = "write"
PAUSE: Final = "pause"
PRICES: Final = {"small": 1_000_000_000, "large": 8_000_000_000}
"""Nano-dollars a million tokens."""
_FREE: Final = "127.0.0.1:0"
_WEIGHTS: Final = Path(str(resources.files("headgate.worker.backends.builtin"))) / "weights"

Context = grpc.aio.ServicerContext


def tokens(count: int) -> list[str]:
    """What a model writes: words as long as those of most texts, and all of them different."""
    return [f"word{number} " for number in range(count)]


class Model(worker_pb2_grpc.WorkerServiceServicer):
    """Poses as the shipped model of its name, so that the shipped certificate covers it."""

    def __init__(self, name: str) -> None:
        manifest = json.loads((_WEIGHTS / "manifest.json").read_text())
        price = types_pb2.Price(input_nanousd=PRICES[name], output_nanousd=PRICES[name])
        self._description = worker_pb2.DescribeModelResponse(
            model=name, backend="echo", version=model_version(manifest[name]["sha256"]),
            context_tokens=100_000, slots=64, price=price, logprobs=True,
        )  # fmt: skip
        self._answer = worker_pb2.WorkerServiceGenerateResponse(
            text=ANSWER,
            finish_reason=types_pb2.FINISH_REASON_STOP,
            usage=types_pb2.Usage(prompt_tokens=17, completion_tokens=30),
        )

    async def DescribeModel(self, _request: object, _context: object) -> worker_pb2.DescribeModelResponse:  # type: ignore[override]
        return self._description

    async def Generate(  # type: ignore[override]
        self, request: worker_pb2.WorkerServiceGenerateRequest, context: Context[Any, Any]
    ) -> None:
        verb, number, *_ = request.messages[-1].parts[0].text.split(maxsplit=2)
        if verb == WRITE:
            await self._write(int(number), request.logprobs, context)
        else:
            if verb == PAUSE:
                await asyncio.sleep(int(number) / 1000)
            await context.write(self._answer)

    async def _write(self, count: int, logprobs: bool, context: Context[Any, Any]) -> None:
        told = [worker_pb2.Token(token_id=-1, logprob=-0.1)] if logprobs else []
        for token in tokens(count):
            await context.write(worker_pb2.WorkerServiceGenerateResponse(text=token, tokens=told))
        usage = types_pb2.Usage(prompt_tokens=17, completion_tokens=count)
        await context.write(
            worker_pb2.WorkerServiceGenerateResponse(finish_reason=types_pb2.FINISH_REASON_STOP, usage=usage)
        )


class Worker:
    """The bare chain's end, and a collector of traces."""

    def __init__(self) -> None:
        self._thrown_away = 0

    async def one(self, _request: bytes, _context: Context[Any, Any]) -> bytes:
        return ANSWER.encode()

    async def many(self, _request: bytes, _context: Context[Any, Any]) -> AsyncIterator[bytes]:
        for _ in range(TOKENS):
            yield TOKEN

    async def later(self, when: bytes, _context: Context[Any, Any]) -> bytes:
        await asyncio.sleep(float(when) - monotonic())
        return ANSWER.encode()

    async def export(self, _spans: bytes, _context: Context[Any, Any]) -> bytes:
        self._thrown_away += 1
        return b""

    async def thrown_away(self, _request: bytes, _context: Context[Any, Any]) -> bytes:
        return str(self._thrown_away).encode()


class Router:
    """The bare chain's middle: one call in, one call out, a message for every message."""

    def __init__(self, worker: str) -> None:
        channel = grpc.aio.insecure_channel(worker)
        self._one = channel.unary_unary(ONE)
        self._many = channel.unary_stream(MANY)

    async def one(self, request: bytes, _context: Context[Any, Any]) -> bytes:
        answer: bytes = await self._one(request)
        return answer

    async def many(self, request: bytes, _context: Context[Any, Any]) -> AsyncIterator[bytes]:
        async for token in self._many(request):
            yield token


async def serve(role: str, ready: Path, worker: str) -> None:
    """Serves until it is ended."""
    if role == "router":
        servers = {"echo": _echo_server(Router(worker))}
    else:
        servers = {"echo": _worker_server(Worker())}
        servers |= {name: await _model_server(name) for name in PRICES}
    addresses = {name: await _start(server) for name, server in servers.items()}
    draft = ready.with_suffix(".draft")
    draft.write_text(json.dumps(addresses))
    draft.replace(ready)
    await asyncio.Event().wait()


async def _start(server: grpc.aio.Server) -> str:
    port = server.add_insecure_port(_FREE)
    await server.start()
    return f"127.0.0.1:{port}"


def _worker_server(worker: Worker) -> grpc.aio.Server:
    server = _echo_server(worker)
    counts = {"ThrownAway": grpc.unary_unary_rpc_method_handler(worker.thrown_away)}
    takes = {"Export": grpc.unary_unary_rpc_method_handler(worker.export)}
    _add(server, "bench.Later", {"One": grpc.unary_unary_rpc_method_handler(worker.later)})
    _add(server, "bench.Collector", counts)
    _add(server, COLLECTOR, takes)
    return server


def _echo_server(bare: Worker | Router) -> grpc.aio.Server:
    server = grpc.aio.server()
    handlers = {
        "One": grpc.unary_unary_rpc_method_handler(bare.one),
        "Many": grpc.unary_stream_rpc_method_handler(bare.many),
    }
    _add(server, "bench.Echo", handlers)
    return server


def _add(server: grpc.aio.Server, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))


async def _model_server(name: str) -> grpc.aio.Server:
    server, state = grpc.aio.server(), health.aio.HealthServicer()
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(Model(name), server)
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    await state.set("headgate.v1.WorkerService", health_pb2.HealthCheckResponse.SERVING)
    return server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("worker", "router"))
    parser.add_argument("ready", type=Path)
    parser.add_argument("--worker", default="", help="where the router's worker listens")
    parser.add_argument("--uvloop", action="store_true")
    flags = parser.parse_args()
    run = uvloop.run if flags.uvloop else asyncio.run
    run(serve(flags.role, flags.ready, flags.worker))


if __name__ == "__main__":
    main()
