"""Each fault of the proxy does to a stream of bytes what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

import pytest

from tests.faults.proxy import NO_FAULT, Fault, FaultProxy


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    """In front of a server that sends everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, FaultProxy(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as running:
        yield running


async def connect(proxy: FaultProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = proxy.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def echoed(proxy: FaultProxy, data: bytes = b"hello") -> bytes:
    """What comes back of the data until the end of the connection."""
    reader, writer = await connect(proxy)
    writer.write(data)
    writer.write_eof()
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def silent(proxy: FaultProxy) -> bool:
    """Whether nothing comes back, not even an end."""
    reader, writer = await connect(proxy)
    writer.write(b"hello")
    try:
        async with asyncio.timeout(0.2):
            await reader.read(1)
    except TimeoutError:
        return True
    finally:
        writer.close()
    return False


async def test_without_a_fault_everything_passes(proxy: FaultProxy) -> None:
    assert await echoed(proxy, b"x" * 300_000) == b"x" * 300_000
    assert proxy.connections == 1


async def test_latency_delays_each_direction_and_keeps_the_order(proxy: FaultProxy) -> None:
    proxy.inject(Fault(latency_s=0.05, jitter_s=0.05, slice_bytes=3))
    began = monotonic()
    assert await echoed(proxy, bytes(range(256))) == bytes(range(256))
    assert monotonic() - began >= 0.1


async def test_a_narrow_line_takes_its_time(proxy: FaultProxy) -> None:
    proxy.to_client = Fault(bytes_per_s=10_000)
    began = monotonic()
    assert len(await echoed(proxy, b"x" * 2_000)) == 2_000
    assert monotonic() - began >= 0.2


async def test_a_black_hole_takes_and_says_nothing(proxy: FaultProxy) -> None:
    proxy.to_server = Fault(black_hole=True)
    assert await silent(proxy)
    proxy.inject(NO_FAULT)
    assert await echoed(proxy) == b"hello"


async def test_a_limit_ends_the_connection_in_the_middle(proxy: FaultProxy) -> None:
    proxy.to_client = Fault(limit_bytes=3)
    assert await echoed(proxy) == b"hel"


async def test_bytes_are_counted_from_the_injection_on(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    writer.write(b"x" * 100)
    assert await reader.readexactly(100) == b"x" * 100
    proxy.to_client = Fault(limit_bytes=50)
    writer.write(b"y" * 500)
    assert await reader.read() == b"y" * 50
    writer.close()


async def test_a_reset_is_one(proxy: FaultProxy) -> None:
    proxy.to_client = Fault(reset_after_bytes=3)
    with pytest.raises(ConnectionResetError):
        await echoed(proxy)
    proxy.inject(NO_FAULT)
    reader, writer = await connect(proxy)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await reader.read()


async def test_one_byte_is_corrupted(proxy: FaultProxy) -> None:
    proxy.to_server = Fault(corrupt_byte=1)
    assert await echoed(proxy) == b"h" + bytes([ord("e") ^ 0xFF]) + b"llo"


async def test_a_half_open_connection_hides_the_end(proxy: FaultProxy) -> None:
    proxy.to_client = Fault(half_open=True)
    reader, writer = await connect(proxy)
    writer.write(b"hello")
    writer.write_eof()
    assert await reader.readexactly(5) == b"hello"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.read(1)
    writer.close()


async def test_a_refusing_proxy_closes_at_once(proxy: FaultProxy) -> None:
    proxy.refusing = True
    assert await echoed(proxy, b"") == b""
