"""The client for asyncio; the same methods as `Client`, awaited.

async with AsyncClient("127.0.0.1:7070") as client:
    async with client.stream("12 + 30 = ?") as stream:
        async for text in stream.texts():
            print(text, end="")
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias, TypeVar, Unpack

import grpc
import grpc.aio

from headgate.client import convert
from headgate.client.channel import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S, Connection
from headgate.client.errors import from_call
from headgate.client.jobs.aio import AsyncJobs
from headgate.client.link import AsyncLink, unseen
from headgate.client.progress import Progress
from headgate.client.types import Answer, Conversation, Decision, Delta, Options, OutcomeSource, StreamEvent
from headgate.v1 import router_pb2

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_StreamCall: TypeAlias = (
    "grpc.aio.UnaryStreamCall[router_pb2.StreamGenerateRequest, router_pb2.StreamGenerateResponse]"
)
_Later: TypeAlias = Coroutine[None, None, _StreamCall]


class AsyncClient:
    """One connection to a gateway; make it inside the loop that uses it, and one is enough."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        key: str = "",
        root_certificate: str | Path | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        watch_health: bool = True,
    ) -> None:
        """See `Connection` for the arguments; nothing connects before the first call."""
        self._connection = Connection(address, key, root_certificate, timeout_s, watch_health)
        self._link = AsyncLink(self._connection)
        self.jobs = AsyncJobs(self._link, self._connection)
        """Queries that are answered later."""

    async def generate(
        self, conversation: Conversation, *, timeout_s: float | None = None, **options: Unpack[Options]
    ) -> Answer:
        """The whole answer. Raises HeadgateError."""
        request = router_pb2.GenerateRequest(query=convert.to_query(conversation, options))
        return convert.from_response(
            await self._call(lambda link: link.router_stub.Generate, request, timeout_s)
        )

    def stream(
        self,
        conversation: Conversation,
        *,
        timeout_s: float | None = None,
        watch: bool = False,
        **options: Unpack[Options],
    ) -> AsyncAnswerStream:
        """The answer token by token: iterate over the events, or over `.texts()`.

        With `watch` they tell log-probabilities of tokens, and drafts that were not accepted.
        """
        query = convert.to_query(conversation, options)
        request = router_pb2.StreamGenerateRequest(query=query, watch=watch)
        timeout, metadata = self._connection.deadline(timeout_s), self._connection.metadata()

        def begin(left_s: float) -> _StreamCall:
            return self._link.router_stub.StreamGenerate(request, timeout=left_s, metadata=metadata)

        async def later() -> _StreamCall:
            return begin(await self._link.settle(timeout))

        return AsyncAnswerStream(later() if self._link.failing else begin(timeout), later)

    async def route(
        self, conversation: Conversation, *, timeout_s: float | None = None, **options: Unpack[Options]
    ) -> Decision:
        """The decision alone; no model is called."""
        request = router_pb2.RouteRequest(query=convert.to_query(conversation, options))
        response = await self._call(lambda link: link.router_stub.Route, request, timeout_s)
        return convert.from_decision(response.decision)

    async def record_outcome(
        self,
        request_id: str,
        model: str,
        quality: float,
        *,
        source: OutcomeSource = "user",
        timeout_s: float | None = None,
    ) -> None:
        """Says how good an answer was, from 0 (useless) to 1 (perfect)."""
        request = convert.to_outcome(request_id, model, quality, source)
        await self._call(lambda link: link.router_stub.RecordOutcome, request, timeout_s)

    async def close(self) -> None:
        """Ends running calls and the connection."""
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(
        self,
        choose: Callable[[AsyncLink], grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]],
        request: _Request,
        timeout_s: float | None,
    ) -> _Response:
        timeout = self._connection.deadline(timeout_s)
        try:
            return await self._link.unary(choose, request, timeout, self._connection.metadata())
        except grpc.aio.AioRpcError as error:
            raise from_call(error) from None


class AsyncAnswerStream:
    """The events of one answer; leaving it early, by `async with` or `cancel`, ends the work upstream."""

    def __init__(self, call: _StreamCall | _Later, again: Callable[[], _Later]) -> None:
        """A call that may still have to begin is begun at once, and `again` where no server saw it."""
        self._again = again
        self._call = asyncio.create_task(call) if isinstance(call, Coroutine) else call
        self._progress = Progress()

    @property
    def decision(self) -> Decision | None:
        """As far as it is known; None before the first event."""
        return self._progress.decision

    @property
    def answer(self) -> Answer:
        """The whole answer; RuntimeError before the end."""
        return self._progress.answer

    async def __aiter__(self) -> AsyncIterator[StreamEvent]:
        for last in (False, True):
            try:
                call = await self._call if isinstance(self._call, asyncio.Task) else self._call
                async for response in call:
                    event = self._progress.feed(response)
                    if event is not None:
                        yield event
                break
            except grpc.aio.AioRpcError as error:
                if last or not unseen(error):
                    raise self._progress.failed(from_call(error)) from None
                self._call = asyncio.create_task(self._again())
        self._progress.ended()

    async def texts(self) -> AsyncIterator[str]:
        """Only the text, as it comes."""
        async for event in self:
            if isinstance(event, Delta):
                yield event.text

    def cancel(self) -> None:
        """Ends the call; harmless after its end."""
        call = self._call
        if not isinstance(call, asyncio.Task) or not call.done():
            call.cancel()
        elif not call.cancelled() and call.exception() is None:
            call.result().cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
