"""A TCP proxy that misbehaves on request, for any hop: to Valkey, to a worker, to an upstream.

    async with FaultProxy("127.0.0.1:6379") as proxy:
        ... connect to proxy.address ...
        proxy.inject(Fault(latency_s=0.2))      # from now on, also on connections that are open
        proxy.inject(NO_FAULT)
        proxy.reset()                           # every open connection ends with RST

The faults are those of toxiproxy; they need no root and no kernel module. Times are seconds.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

_NO_LINGER = struct.pack("ii", 1, 0)
_TICK_S = 1e-6
"""Keeps pieces in order that are due at the same instant."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the bytes of one direction; by default nothing.

    Counts of bytes are per connection and direction, from the injection on.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    """Up to so much more latency; bytes stay in order."""
    bytes_per_s: float | None = None
    slice_bytes: int | None = None
    """Bytes are passed on in pieces of this size, each with the latency of its own."""
    black_hole: bool = False
    """Bytes are taken and never passed on; nothing is closed."""
    half_open: bool = False
    """The peer's end is not passed on."""
    limit_bytes: int | None = None
    """After so many bytes both ends are closed in the middle of whatever it was."""
    reset_after_bytes: int | None = None
    """The same, with RST."""
    corrupt_byte: int | None = None
    """All bits of the byte with this number are flipped."""


NO_FAULT = Fault()


class FaultProxy:
    """Passes bytes on between whoever connects and `target`, a `host:port`."""

    def __init__(self, target: str, seed: int = 0) -> None:
        self.target = target
        self.to_server = NO_FAULT
        self.to_client = NO_FAULT
        self.refusing = False
        """New connections are closed at once."""
        self.connections = 0
        self._random = random.Random(seed)
        self._open: set[_Connection] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.reset()

    def inject(self, fault: Fault) -> None:
        """Puts the fault on both directions."""
        self.to_server = self.to_client = fault

    def reset(self) -> None:
        """Ends every open connection with RST, on both sides."""
        for connection in tuple(self._open):
            connection.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            writer.close()
            return
        host, _, port = self.target.rpartition(":")
        try:
            there, to_there = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        connection = _Connection(writer, to_there)
        self._open.add(connection)
        with suppress(ConnectionError):
            await asyncio.gather(
                self._pass_on(reader, to_there, connection, lambda: self.to_server),
                self._pass_on(there, writer, connection, lambda: self.to_client),
            )
        self._open.discard(connection)
        connection.close()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        connection: _Connection,
        fault: Callable[[], Fault],
    ) -> None:
        lane = _Lane(writer, self._random)
        while not connection.over.is_set() and (data := await reader.read(1 << 16)):
            _send(lane, connection, data, fault())
        if fault().half_open:
            await connection.over.wait()
        if not connection.over.is_set():
            await lane.end()


def _send(lane: _Lane, connection: _Connection, data: bytes, fault: Fault) -> None:
    lane.meet(fault)
    if fault.black_hole:
        return
    begin, limit = lane.passed, _least(fault.limit_bytes, fault.reset_after_bytes)
    lane.write(_corrupted(data, begin, fault.corrupt_byte)[: None if limit is None else limit - begin], fault)
    if limit is not None and lane.passed >= limit:
        connection.close() if limit == fault.limit_bytes else connection.reset()


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _corrupted(data: bytes, begin: int, number: int | None) -> bytes:
    if number is None or not begin <= number < begin + len(data):
        return data
    at = number - begin
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


@dataclass(eq=False, slots=True)
class _Lane:
    """One direction of one connection: writes in order, each piece when it is due."""

    writer: asyncio.StreamWriter
    random: random.Random
    passed: int = 0
    """Bytes since the fault that is now was injected."""
    due: float = 0.0
    fault: Fault = NO_FAULT

    def meet(self, fault: Fault) -> None:
        if fault is not self.fault:
            self.fault, self.passed = fault, 0

    def write(self, data: bytes, fault: Fault) -> None:
        size = fault.slice_bytes or len(data) or 1
        for at in range(0, len(data), size):
            self._write(data[at : at + size], fault)
        self.passed += len(data)

    def _write(self, piece: bytes, fault: Fault) -> None:
        now = asyncio.get_running_loop().time()
        travel = fault.latency_s + fault.jitter_s * self.random.random()
        pace = len(piece) / fault.bytes_per_s if fault.bytes_per_s else 0.0
        self._at(max(now + travel, self.due) + pace, lambda: self.writer.write(piece))

    async def end(self) -> None:
        """Passes the end on after everything before it."""
        await asyncio.sleep(self.due + _TICK_S - asyncio.get_running_loop().time())
        if not self.writer.is_closing():
            self.writer.write_eof()

    def _at(self, due: float, action: Callable[[], object]) -> None:
        loop = asyncio.get_running_loop()
        if due <= loop.time():
            action()
            return
        self.due = max(due, self.due + _TICK_S)
        loop.call_at(self.due, self._if_open, action)

    def _if_open(self, action: Callable[[], object]) -> None:
        if not self.writer.is_closing():
            action()


@dataclass(eq=False, slots=True)
class _Connection:
    """Both ends of a connection that is passed on."""

    here: asyncio.StreamWriter
    there: asyncio.StreamWriter
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def close(self) -> None:
        self.over.set()
        self.here.close()
        self.there.close()

    def reset(self) -> None:
        self.over.set()
        for writer in (self.here, self.there):
            sock = writer.get_extra_info("socket")
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            writer.transport.abort()
