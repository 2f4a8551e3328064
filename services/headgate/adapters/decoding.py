"""Bytes that are no message end as INVALID_ARGUMENT; gRPC itself would say UNKNOWN, in Python's words."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from functools import lru_cache
from typing import Any, Final, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import aio

from headgate.adapters import status_map


class Undecodable:
    """Stands in a handler's request for bytes that are no message."""


UNDECODABLE: Final = Undecodable()

Decode = Callable[[bytes], object]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

Behaviour: TypeAlias = Callable[[Any, Any], Any]
Context: TypeAlias = "aio.ServicerContext[Any, Any]"
_OURS: Final = tuple(f"/headgate.v1.{name}/" for name in ("RouterService", "JobService", "WorkerService"))
"""Services that know the marker: they count what they refuse, and end a stream with an event."""


class Decoding(aio.ServerInterceptor):
    """Lets no request decoder raise, and drops unknown fields, so that nothing carries them on."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The method's handler with a decoder that returns UNDECODABLE instead of raising."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        return _guarded(handler, handler_call_details.method.startswith(_OURS))


@lru_cache(maxsize=256)
def _guarded(handler: Any, ours: bool) -> Handler:
    """gRPC's handlers are named tuples, which its stubs do not say, and live as long as their server."""
    guarded = handler._replace(request_deserializer=_guard(handler.request_deserializer))
    return cast("Handler", guarded if ours else _refusing(guarded))


def _refusing(handler: Any) -> Any:
    """The handler of a library's service, which knows no marker, spared from seeing it.

    gRPC's health and reflection services are coroutines for one request and generators for many.
    """
    if handler.request_streaming:
        return handler._replace(stream_stream=_refusing_many(handler.stream_stream))
    name = "unary_stream" if handler.response_streaming else "unary_unary"
    return handler._replace(**{name: _refusing_one(getattr(handler, name))})


def _refusing_one(behaviour: Behaviour) -> Behaviour:
    async def checked(request: object, context: Context) -> object:
        if request is UNDECODABLE:
            await status_map.abort(context, _unreadable())
        return await behaviour(request, context)

    return checked


def _refusing_many(behaviour: Behaviour) -> Behaviour:
    async def readable(requests: AsyncIterable[object], context: Context) -> AsyncIterator[object]:
        async for request in requests:
            if request is UNDECODABLE:
                await status_map.abort(context, _unreadable())
            yield request

    async def checked(requests: AsyncIterable[object], context: Context) -> AsyncIterator[object]:
        async for response in behaviour(readable(requests, context), context):
            yield response

    return checked


def _unreadable() -> status_map.InvalidRequestError:
    return status_map.InvalidRequestError("the request is not a message of this method")


def _guard(decode: Decode) -> Decode:
    def guarded(raw: bytes) -> object:
        try:
            message = decode(raw)
        except (DecodeError, RecursionError):
            return UNDECODABLE
        cast(Message, message).DiscardUnknownFields()
        return message

    return guarded
