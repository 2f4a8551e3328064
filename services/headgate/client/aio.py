"""The client for asyncio; the same methods as `Client`, awaited.

async with AsyncClient("127.0.0.1:7070") as client:
    async with client.stream("12 + 30 = ?") as stream:
        async for text in stream.texts():
            print(text, end="")
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
import grpc.aio

from headgate.client import convert
from headgate.client.channel import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S, Connection
from headgate.client.errors import from_call
from headgate.client.jobs.aio import AsyncJobs
from headgate.client.progress import Progress
from headgate.client.types import Answer, Conversation, Decision, Delta, Options, OutcomeSource, StreamEvent
from headgate.v1 import router_pb2, router_pb2_grpc

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


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
        credentials = self._connection.credentials()
        self._channel = (
            grpc.aio.insecure_channel(address, self._connection.options())
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, self._connection.options())
        )
        self._stub = router_pb2_grpc.RouterServiceStub(self._channel)
        self.jobs = AsyncJobs(self._channel, self._connection)
        """Queries that are answered later."""

    async def generate(
        self, conversation: Conversation, *, timeout_s: float | None = None, **options: Unpack[Options]
    ) -> Answer:
        """The whole answer. Raises HeadgateError."""
        request = router_pb2.GenerateRequest(query=convert.to_query(conversation, options))
        return convert.from_response(await self._call(self._stub.Generate, request, timeout_s))

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
        return AsyncAnswerStream(
            self._stub.StreamGenerate(
                request, timeout=self._connection.deadline(timeout_s), metadata=self._connection.metadata()
            )
        )

    async def route(
        self, conversation: Conversation, *, timeout_s: float | None = None, **options: Unpack[Options]
    ) -> Decision:
        """The decision alone; no model is called."""
        request = router_pb2.RouteRequest(query=convert.to_query(conversation, options))
        response = await self._call(self._stub.Route, request, timeout_s)
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
        await self._call(self._stub.RecordOutcome, request, timeout_s)

    async def close(self) -> None:
        """Ends running calls and the connection."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout_s: float | None,
    ) -> _Response:
        timeout = self._connection.deadline(timeout_s)
        try:
            return await method(request, timeout=timeout, metadata=self._connection.metadata())
        except grpc.aio.AioRpcError as error:
            raise from_call(error) from None


class AsyncAnswerStream:
    """The events of one answer; leaving it early, by `async with` or `cancel`, ends the work upstream."""

    def __init__(
        self,
        call: grpc.aio.UnaryStreamCall[router_pb2.StreamGenerateRequest, router_pb2.StreamGenerateResponse],
    ) -> None:
        self._call = call
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
        try:
            async for response in self._call:
                event = self._progress.feed(response)
                if event is not None:
                    yield event
        except grpc.aio.AioRpcError as error:
            raise self._progress.failed(from_call(error)) from None
        self._progress.ended()

    async def texts(self) -> AsyncIterator[str]:
        """Only the text, as it comes."""
        async for event in self:
            if isinstance(event, Delta):
                yield event.text

    def cancel(self) -> None:
        """Ends the call; harmless after its end."""
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
