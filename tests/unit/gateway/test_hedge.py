from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from headgate.adapters.config import ModelConfig
from headgate.gateway.hedge import Hedge
from headgate.gateway.workers import Worker, Workers
from headgate.v1 import types_pb2, worker_pb2

Chunk = worker_pb2.WorkerServiceGenerateResponse


class Scripted:
    """A call that brings chunks, then fails or is over."""

    def __init__(self, chunks: list[Chunk], fails: grpc.StatusCode | None = None) -> None:
        self._chunks, self._fails = chunks, fails

    async def read(self) -> object:
        if self._chunks:
            return self._chunks.pop(0)
        if self._fails is not None:
            raise AioRpcError(self._fails, Metadata(), Metadata())
        return grpc.aio.EOF

    def cancel(self) -> None: ...


def worker() -> Worker:
    async def changed(_worker: Worker) -> None: ...

    return Workers({"large": ModelConfig()}, {"large": "127.0.0.1:1"}, None, changed)["large"]


async def test_a_hedge_that_failed_says_so_and_when() -> None:
    one = worker()
    hedge = Hedge(one, Scripted([], grpc.StatusCode.UNAVAILABLE))  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    assert hedge.code is grpc.StatusCode.UNAVAILABLE
    assert hedge.seconds < 0.04
    with pytest.raises(AioRpcError):
        await hedge.read()
    await one.close()


async def test_a_hedge_takes_no_longer_than_its_call_though_nobody_reads_it_yet() -> None:
    one = worker()
    last = Chunk(text="so", finish_reason=types_pb2.FINISH_REASON_STOP, usage=types_pb2.Usage())
    hedge = Hedge(one, Scripted([last]))  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    assert (hedge.code, hedge.written) == (grpc.StatusCode.OK, 1)
    assert hedge.seconds < 0.04
    assert time.perf_counter() - hedge.started > 0.04
    assert await hedge.read() is last
    await one.close()


async def test_a_hedge_that_runs_is_cancelled_if_anything() -> None:
    one = worker()
    hedge = Hedge(one, Scripted([]))  # type: ignore[arg-type]
    assert hedge.code is grpc.StatusCode.CANCELLED
    hedge.cancel()
    assert not one.calls
    await one.close()
