"""Closed-loop load: a fixed number of calls at a fixed concurrency, and how long each took.

Unary calls come from h2load, which costs a few microseconds a call and so does not hide what the server costs;
without it from grpc.aio. Streams come from grpc.aio.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import grpc
import grpc.aio

T = TypeVar("T")
Metadata = tuple[tuple[str, str], ...]

CALL_S: Final = 30.0
"""Deadline of every call of ours."""
RUN_S: Final = 120.0
"""After that long a run of h2load is given up."""
HOW_TO_GET_H2LOAD: Final = (
    "h2load is not on PATH: install Debian's nghttp2-client (or your system's nghttp2), "
    "or pass --generator grpc, which costs more CPU than what it measures"
)


@dataclass(frozen=True, slots=True)
class Target:
    """One method of one server, with the bytes of the request."""

    address: str
    path: str
    body: bytes
    metadata: Metadata = ()


@dataclass(frozen=True, slots=True)
class Timing:
    """What the caller saw: milliseconds of every call, and seconds for all of them."""

    latencies_ms: tuple[float, ...]
    seconds: float
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Streamed:
    """One stream: milliseconds to the first text, the text, and how many messages carried it."""

    first_ms: float
    text: bytes
    messages: int


Generator = Callable[[Target, int, int, Path], Timing]
"""Sends n calls at a concurrency; may write files to the folder."""


def h2load(target: Target, calls: int, concurrency: int, folder: Path) -> Timing:
    """One connection for each call in flight. It sees the HTTP status only; `answer` sees the gRPC one."""
    body, log = folder / "body", folder / "h2load.log"
    body.write_bytes(b"\0" + len(target.body).to_bytes(4, "big") + target.body)
    log.unlink(missing_ok=True)
    headers = [("content-type", "application/grpc"), ("te", "trailers"), *target.metadata]
    command = ["h2load", f"-n{calls}", f"-c{concurrency}", "-m1", "-t1", f"-d{body}", f"--log-file={log}",
               *(f"-H{name}: {value}" for name, value in headers),
               f"http://{target.address}{target.path}"]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=RUN_S)
    return _logged(log.read_text().splitlines(), calls)


def _logged(lines: Sequence[str], calls: int) -> Timing:
    """A line is: start in microseconds since the epoch, HTTP status, microseconds taken."""
    entries = [tuple(map(int, line.split("\t"))) for line in lines]
    done = [(start, took) for start, status, took in entries if status == 200]
    seconds = (max(start + took for start, took in done) - min(start for start, _ in done)) / 1e6
    return Timing(tuple(took / 1e3 for _, took in done), seconds, calls - len(done))


def grpc_aio(target: Target, calls: int, concurrency: int, _folder: Path) -> Timing:
    """All on one connection, the way a Python caller does."""
    return asyncio.run(_grpc_aio(target, calls, concurrency))


async def _grpc_aio(target: Target, calls: int, concurrency: int) -> Timing:
    async with grpc.aio.insecure_channel(target.address) as channel:
        call = channel.unary_unary(target.path)

        async def one() -> float:
            started = time.perf_counter()
            await call(target.body, timeout=CALL_S, metadata=target.metadata)
            return 1e3 * (time.perf_counter() - started)

        latencies, seconds = await _in_flight(one, calls, concurrency)
    return Timing(tuple(latencies), seconds)


def generator(name: str) -> Generator:
    """The generator of that name; ends the program with a sentence when it is not installed."""
    if name == "grpc":
        return grpc_aio
    if shutil.which("h2load") is None:
        raise SystemExit(HOW_TO_GET_H2LOAD)
    return h2load


async def answer(target: Target) -> bytes:
    """One call's answer, for those who want to see what is in it. Raises AioRpcError unless it is OK."""
    async with grpc.aio.insecure_channel(target.address) as channel:
        call = channel.unary_unary(target.path)
        found: bytes = await call(target.body, timeout=CALL_S, metadata=target.metadata, wait_for_ready=True)
    return found


def streams(
    target: Target, calls: int, concurrency: int, text: Callable[[bytes], bytes]
) -> tuple[list[Streamed], float]:
    """n streams and the seconds for all; `text` is what a message carries of the answer."""
    return asyncio.run(_streams(target, calls, concurrency, text))


async def _streams(
    target: Target, calls: int, concurrency: int, text: Callable[[bytes], bytes]
) -> tuple[list[Streamed], float]:
    async with grpc.aio.insecure_channel(target.address) as channel:
        call = channel.unary_stream(target.path)

        async def one() -> Streamed:
            started, first, parts = time.perf_counter(), 0.0, []
            async for message in call(target.body, timeout=CALL_S, metadata=target.metadata):
                part = text(message)
                first = first or (1e3 * (time.perf_counter() - started) if part else 0.0)
                parts.append(part)
            return Streamed(first, b"".join(parts), sum(map(bool, parts)))

        return await _in_flight(one, calls, concurrency)


async def _in_flight(one: Callable[[], Awaitable[T]], calls: int, concurrency: int) -> tuple[list[T], float]:
    """What `calls` calls returned, `concurrency` at a time, and the seconds for all."""
    found: list[T] = []
    left = iter(range(calls))

    async def loop() -> None:
        for _ in left:
            found.append(await one())  # noqa: PERF401  (a comprehension would keep them until the end)

    started = time.perf_counter()
    await asyncio.gather(*(loop() for _ in range(concurrency)))
    return found, time.perf_counter() - started
