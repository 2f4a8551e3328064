"""The client for threads.

with Client("127.0.0.1:7070") as client:
    answer = client.generate("12 + 30 = ?")
    print(answer.text, answer.decision.model)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias, TypeVar, Unpack

import grpc

from headgate.client import convert
from headgate.client.channel import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S, Connection
from headgate.client.errors import from_call
from headgate.client.jobs.sync import Jobs
from headgate.client.link import Link, unseen
from headgate.client.progress import Progress
from headgate.client.types import Answer, Conversation, Decision, Delta, Options, OutcomeSource, StreamEvent
from headgate.v1 import router_pb2

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_StreamCall: TypeAlias = "grpc._CallIterator[router_pb2.StreamGenerateResponse]"


class Client:
    """One connection to a gateway, safe to share between threads; close it, or use it with `with`."""

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
        self._link = Link(self._connection)
        self.jobs = Jobs(self._link, self._connection)
        """Queries that are answered later."""

    def generate(
        self, conversation: Conversation, *, timeout_s: float | None = None, **options: Unpack[Options]
    ) -> Answer:
        """The whole answer. Raises HeadgateError."""
        request = router_pb2.GenerateRequest(query=convert.to_query(conversation, options))
        return convert.from_response(self._call(lambda link: link.router_stub.Generate, request, timeout_s))

    def stream(
        self,
        conversation: Conversation,
        *,
        timeout_s: float | None = None,
        watch: bool = False,
        **options: Unpack[Options],
    ) -> AnswerStream:
        """The answer token by token: iterate over the events, or over `.texts()`.

        With `watch` they tell log-probabilities of tokens, and drafts that were not accepted.
        """
        query = convert.to_query(conversation, options)
        request = router_pb2.StreamGenerateRequest(query=query, watch=watch)
        timeout, metadata = self._connection.deadline(timeout_s), self._connection.metadata()

        def begin() -> _StreamCall:
            left_s = self._link.settle(timeout)
            return self._link.router_stub.StreamGenerate(request, timeout=left_s, metadata=metadata)

        return AnswerStream(begin)

    def route(
        self, conversation: Conversation, *, timeout_s: float | None = None, **options: Unpack[Options]
    ) -> Decision:
        """The decision alone; no model is called."""
        request = router_pb2.RouteRequest(query=convert.to_query(conversation, options))
        return convert.from_decision(
            self._call(lambda link: link.router_stub.Route, request, timeout_s).decision
        )

    def record_outcome(
        self,
        request_id: str,
        model: str,
        quality: float,
        *,
        source: OutcomeSource = "user",
        timeout_s: float | None = None,
    ) -> None:
        """Says how good an answer was, from 0 (useless) to 1 (perfect)."""
        self._call(
            lambda link: link.router_stub.RecordOutcome,
            convert.to_outcome(request_id, model, quality, source),
            timeout_s,
        )

    def close(self) -> None:
        """Ends running calls and the connection."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self,
        choose: Callable[[Link], grpc.UnaryUnaryMultiCallable[_Request, _Response]],
        request: _Request,
        timeout_s: float | None,
    ) -> _Response:
        timeout = self._connection.deadline(timeout_s)
        try:
            return self._link.unary(choose, request, timeout, self._connection.metadata())
        except grpc.RpcError as error:
            raise from_call(error) from None


class AnswerStream:
    """The events of one answer; leaving it early, by `with` or `cancel`, ends the work upstream."""

    def __init__(self, begin: Callable[[], _StreamCall]) -> None:
        """Begins at once, and again where no server saw it."""
        self._begin, self._call = begin, begin()
        self._progress = Progress()

    @property
    def decision(self) -> Decision | None:
        """As far as it is known; None before the first event."""
        return self._progress.decision

    @property
    def answer(self) -> Answer:
        """The whole answer; RuntimeError before the end."""
        return self._progress.answer

    def __iter__(self) -> Iterator[StreamEvent]:
        for last in (False, True):
            try:
                for response in self._call:
                    event = self._progress.feed(response)
                    if event is not None:
                        yield event
                break
            except grpc.RpcError as error:
                if last or not unseen(error):
                    raise self._progress.failed(from_call(error)) from None
                self._call = self._begin()
        self._progress.ended()

    def texts(self) -> Iterator[str]:
        """Only the text, as it comes."""
        return (event.text for event in self if isinstance(event, Delta))

    def cancel(self) -> None:
        """Ends the call; harmless after its end."""
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
