"""An OpenAI-compatible server that misbehaves on request and keeps a ledger of what really happened.

    async with Upstream(Script(pieces=("4", "2"), stall_after=1)) as upstream:
        ... POST f"{upstream.base_url}/chat/completions" ...
        call = await upstream.call(0)
        await call.over.wait()
        call.gone, call.tokens       # when the caller hung up, and how many tokens it had been sent by then

A real HTTP/1.1 server on a free port of 127.0.0.1, so that timeouts, cancellations and broken connections are
those of real sockets. Times are seconds, instants those of `time.monotonic()`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Self

LOGPROB = -0.25
PROMPT_TOKENS = 7


@dataclass(frozen=True, slots=True)
class Script:
    """What a call gets: by default the pieces, a finish reason, the usage and `[DONE]`.

    `stall_after` and `cut_after` count the pieces that come before silence, or before the connection closes.
    The last piece waits for `last_when`. `raw` is sent as it is after the pieces, in place of finish reason
    and usage. A `status` other than 200 is answered with `headers` and `body`.
    """

    pieces: tuple[str, ...] = ("4", "2")
    finish_reason: str | None = "stop"
    usage: bool = True
    done: bool = True
    honours_stop: bool = True
    before_headers_s: float = 0.0
    before_first_s: float = 0.0
    between_s: float = 0.0
    before_usage_s: float = 0.0
    stall_after: int | None = None
    cut_after: int | None = None
    last_when: asyncio.Event | None = None
    raw: bytes | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"


@dataclass(slots=True)
class Call:
    """What happened in one call. None for what did not; `gone`: the caller hung up before the end.

    `text` is what was sent of the answer, `tokens` its pieces, `usage` what the caller was told of both.
    """

    start: float
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    first_byte: float | None = None
    tokens: int = 0
    text: str = ""
    usage: Mapping[str, int] | None = None
    gone: float | None = None
    finished: float | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def key(self) -> str:
        """The idempotency key: the name of the request that it was made for, or ""."""
        return self.headers.get("x-client-request-id", "")


class Upstream:
    """The server. `script` answers every call unless `choose` picks one for it."""

    def __init__(self, script: Script = Script()) -> None:
        self.script = script
        self.choose: Callable[[Call], Script] | None = None
        self.ledger: list[Call] = []
        self.connections = 0
        self._arrived = asyncio.Condition()
        self._handlers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: asyncio.StreamReaderProtocol(_Reader(), self._serve, loop=loop), "127.0.0.1", 0
        )
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for handler in tuple(self._handlers):
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def call(self, number: int) -> Call:
        """The call with that number, from 0 on, as soon as it has arrived."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.ledger) > number)
        return self.ledger[number]

    async def call_for(self, key: str) -> Call:
        """The first call with that idempotency key, as soon as it has arrived. TimeoutError after 30 s."""
        async with asyncio.timeout(30), self._arrived:
            await self._arrived.wait_for(lambda: any(call.key == key for call in self.ledger))
        return next(call for call in self.ledger if call.key == key)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(reader, _Reader)
        connection = asyncio.create_task(self._converse(reader, writer))
        self.connections += 1
        self._handlers.add(connection)
        connection.add_done_callback(self._handlers.discard)

    async def _converse(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError):
                while (call := await _read_call(reader)) is not None:
                    async with self._arrived:
                        self.ledger.append(call)
                        self._arrived.notify_all()
                    if not await self._attend(call, reader, writer):
                        return
        finally:
            writer.close()

    async def _attend(self, call: Call, reader: _Reader, writer: asyncio.StreamWriter) -> bool:
        """Answers one call while watching the caller; whether the connection may be used again."""
        script = self.script if self.choose is None else self.choose(call)
        answering = asyncio.create_task(_answer(call, script, writer))
        hanging_up = asyncio.create_task(reader.hung_up.wait())
        try:
            await asyncio.wait({answering, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
            if hanging_up.done():
                call.gone = monotonic()
                return False
            return answering.result()
        finally:
            answering.cancel()
            hanging_up.cancel()
            call.over.set()


class _Reader(asyncio.StreamReader):
    """Tells when the peer hangs up, also while nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.hung_up = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.hung_up.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.hung_up.set()


async def _read_call(reader: asyncio.StreamReader) -> Call | None:
    """The next request of a connection, or None when the caller has closed it."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = [line.partition(":") for line in head.split("\r\n")[1:] if line]
        headers = {name.strip().lower(): value.strip() for name, _, value in lines}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except asyncio.IncompleteReadError:
        return None
    return Call(monotonic(), headers, json.loads(body or b"{}"))


async def _answer(call: Call, script: Script, writer: asyncio.StreamWriter) -> bool:
    """Writes the answer; False where the script cuts the connection."""
    await asyncio.sleep(script.before_headers_s)
    if script.status != 200:
        writer.write(_refusal(script))
    else:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        await asyncio.sleep(script.before_first_s)
        pieces, reason = _written(call.body, script)
        if not await _say(call, script, pieces, writer):
            return False
        await _close(call, script, reason, writer)
    call.finished = monotonic()
    await writer.drain()
    return True


async def _say(call: Call, script: Script, pieces: list[str], writer: asyncio.StreamWriter) -> bool:
    for number in range(len(pieces) + 1):
        if number == script.cut_after:
            return False
        if number == script.stall_after:
            await asyncio.Event().wait()
        if number < len(pieces):
            await asyncio.sleep(script.between_s if number else 0)
            if script.last_when is not None and number == len(pieces) - 1:
                await script.last_when.wait()
            call.first_byte = call.first_byte or monotonic()
            _send(writer, _event(_choice(pieces[number], call.body)))
            call.tokens += 1
            call.text += pieces[number]
            await writer.drain()
    return True


async def _close(call: Call, script: Script, reason: str | None, writer: asyncio.StreamWriter) -> None:
    if script.raw is not None:
        _send(writer, script.raw)
    elif reason is not None:
        _send(writer, _event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}))
    await asyncio.sleep(script.before_usage_s)
    if script.usage and script.raw is None:
        call.usage = _usage(call.tokens)
        _send(writer, _event({"choices": [], "usage": call.usage}))
    if script.done:
        _send(writer, b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")


def _refusal(script: Script) -> bytes:
    sent = {"content-type": "application/json", **script.headers, "content-length": str(len(script.body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    return f"HTTP/1.1 {script.status} No\r\n{head}\r\n".encode() + script.body


def _written(asked: Mapping[str, Any], script: Script) -> tuple[list[str], str | None]:
    """The pieces after `max_tokens` and `stop` of the request, and the finish reason."""
    limit = asked.get("max_tokens") or asked.get("max_completion_tokens") or len(script.pieces)
    pieces = list(script.pieces[:limit])
    reason = script.finish_reason if limit >= len(script.pieces) else "length"
    text = "".join(pieces)
    ends = [text.find(stop) for stop in asked.get("stop", ()) if stop in text]
    if not script.honours_stop or not ends:
        return pieces, reason
    return list(_up_to(pieces, min(ends))), "stop"


def _up_to(pieces: list[str], size: int) -> Iterator[str]:
    for piece in pieces:
        if size > 0:
            yield piece[:size]
        size -= len(piece)


def _choice(piece: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
    if asked.get("logprobs"):
        others = [
            {"token": f"~{rank}", "logprob": LOGPROB - rank, "bytes": None}
            for rank in range(asked["top_logprobs"])
        ]
        told = {"token": piece, "logprob": LOGPROB, "bytes": list(piece.encode()), "top_logprobs": others}
        choice["logprobs"] = {"content": [told], "refusal": None}
    return {"choices": [choice]}


def _usage(tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": tokens,
        "total_tokens": PROMPT_TOKENS + tokens,
    }


def _event(content: Mapping[str, Any]) -> bytes:
    event = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "scripted",
        **content,
    }
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
