"""The reference's answer, begun beside a draft: a call whose chunks wait until somebody wants them."""

from __future__ import annotations

import asyncio
import time

import grpc.aio

from headgate.gateway.workers import Call, Worker
from headgate.router.cost import estimate_tokens
from headgate.v1 import types_pb2, worker_pb2

Chunk = worker_pb2.WorkerServiceGenerateResponse


class Hedge:
    """Reads as its call would. Every way of it ends with `cancel`."""

    def __init__(self, worker: Worker, call: Call) -> None:
        """Takes over a call that has just begun."""
        self.worker = worker
        self.started = time.perf_counter()
        self.written = 0
        """Tokens so far."""
        self.usage: types_pb2.Usage | None = None
        """What the worker says of the whole answer, once that has ended."""
        self._call = call
        self._read: asyncio.Queue[Chunk | BaseException | None] = asyncio.Queue()
        self._reading = asyncio.create_task(self._go_on())
        worker.calls.add(call)

    async def read(self) -> Chunk | None:
        """The next chunk, None after the last; raises what the call's own `read` raises."""
        found = await self._read.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def cancel(self) -> None:
        """Ends the call; harmless after its end."""
        self._call.cancel()
        self.worker.calls.discard(self._call)

    async def _go_on(self) -> None:
        while True:
            try:
                chunk = await self._call.read()
            except (grpc.aio.AioRpcError, asyncio.CancelledError) as ended:
                self._read.put_nowait(ended)
                return
            if not isinstance(chunk, Chunk):
                self._read.put_nowait(None)
                return
            if chunk.finish_reason:
                self.usage = chunk.usage
            self.written += len(chunk.tokens) or estimate_tokens(chunk.text)
            self._read.put_nowait(chunk)
