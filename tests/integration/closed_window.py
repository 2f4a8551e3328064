"""A client that watches health over HTTP/2 and never lets the server send: its window is closed."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from grpc_health.v1 import health_pb2

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_INITIAL_WINDOW_SIZE = 4
_REQUEST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/grpc.health.v1.Health/Watch"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


class Watching:
    """One call of `Watch` on a connection of its own."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def wait_for_headers(self) -> None:
        """Returns when the server has begun to answer, and so has something to say that it may not send."""
        with self._connection.makefile("rb") as frames:
            while True:
                head = frames.read(9)
                length, kind = int.from_bytes(head[:3], "big"), head[3]
                frames.read(length)
                if kind == _HEADERS:
                    return


@contextmanager
def watching(address: str, service: str) -> Iterator[Watching]:
    """A watcher for the time of a `with` block."""
    host, _, port = address.rpartition(":")
    body = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, struct.pack("!HI", _INITIAL_WINDOW_SIZE, 0))
            + _frame(_SETTINGS, _ACK, 0, b"")
            + _frame(_HEADERS, _END_HEADERS, 1, b"".join(_field(*field) for field in _REQUEST))
            + _frame(_DATA, _END_STREAM, 1, struct.pack("!?I", False, len(body)) + body)
        )
        yield Watching(connection)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _field(name: str, value: str) -> bytes:
    """HPACK: a literal that is not indexed, with a literal name; both shorter than 127 bytes."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
