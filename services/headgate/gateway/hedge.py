"""The reference's answer, begun beside a draft: a call whose chunks wait until somebody wants them."""

from __future__ import annotations

import asyncio
import time

import grpc
import grpc.aio

from headgate.gateway.worker_channel import Call
from headgate.gateway.workers import Worker
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
        self.code = grpc.StatusCode.CANCELLED
        """How the call ended by itself; as here, where it has not."""
        self._call = call
        self._ended: float | None = None
        self._read: asyncio.Queue[Chunk | BaseException | None] = asyncio.Queue()
        self._reading = asyncio.create_task(self._go_on())
        worker.calls.add(call)

    @property
    def seconds(self) -> float:
        """What the call took, however long nobody wanted its chunks."""
        return (self._ended or time.perf_counter()) - self.started

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
        try:
            while isinstance(chunk := await self._call.read(), Chunk):
                if chunk.finish_reason:
                    self._ended, self.usage = time.perf_counter(), chunk.usage
                    self.code = grpc.StatusCode.OK
                self.written += len(chunk.tokens) or estimate_tokens(chunk.text)
                self._read.put_nowait(chunk)
            self._read.put_nowait(None)
        except asyncio.CancelledError as ended:
            self._end_with(ended)
            raise
        except Exception as ended:
            if isinstance(ended, grpc.aio.AioRpcError):
                self.code = ended.code()
            self._end_with(ended)

    def _end_with(self, ended: BaseException) -> None:
        """Whoever reads gets to know it."""
        self._ended = self._ended or time.perf_counter()
        self._read.put_nowait(ended)
