"""A sick Redis costs a bounded time, and a caller that leaves never mixes up the replies of others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from headgate.adapters import redis_client
from headgate.adapters.breaker import Breaker
from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_client import Guard
from headgate.adapters.redis_rooms import Rooms
from headgate.gateway.answer_cache import AnswerCache, Key
from headgate.gateway.records import Recorder
from headgate.gateway.sessions import Sessions
from headgate.v1 import types_pb2
from tests.integration.gateway_rig import Valkey

Reply = Callable[[asyncio.StreamWriter, list[bytes]], Awaitable[None]]


class FakeServer:
    """Speaks just enough of the protocol to reply late, or never."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.connections = 0

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return f"redis://127.0.0.1:{port}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while line := await reader.readline():
                arguments = []
                for _ in range(int(line[1:])):
                    size = int((await reader.readline())[1:])
                    arguments.append((await reader.readexactly(size + 2))[:-2])
                if arguments[0] in (b"HELLO", b"CLIENT"):
                    writer.write(b"-ERR unknown command\r\n")
                else:
                    await self._reply(writer, arguments)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def _never(_writer: asyncio.StreamWriter, _arguments: list[bytes]) -> None:
    await asyncio.Event().wait()


async def _echo_late(writer: asyncio.StreamWriter, arguments: list[bytes]) -> None:
    """Replies with the key that was asked for, a little late."""
    await asyncio.sleep(0.015)
    key = arguments[1]
    writer.write(b"$%d\r\n%s\r\n" % (len(key), key))


@pytest.fixture
async def silent() -> AsyncIterator[str]:
    async with FakeServer(_never) as url:
        yield url


OPTIONS = "socket_timeout=60&socket_connect_timeout=60&max_connections=1&timeout=60&retry_on_timeout=True"


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", f"redis://127.0.0.1:1?{OPTIONS}&protocol=3"])
async def test_the_client_has_short_timeouts_and_no_retries_whatever_its_url_says(url: str) -> None:
    client = redis_client.connect(url)
    pool = client.connection_pool
    assert (pool.max_connections, pool.timeout) == (redis_client.POOL_SIZE, redis_client.POOL_WAIT_S)
    connection = pool.make_connection()
    assert connection.socket_timeout == connection.socket_connect_timeout
    assert 0 < connection.socket_timeout <= 0.25
    assert connection.retry.get_retries() == 0
    assert not connection.retry_on_timeout
    await client.aclose()


async def test_who_may_wait_waits_for_a_free_connection_too() -> None:
    client = redis_client.connect("redis://127.0.0.1:1", 2.0, 3.0, 4.0)
    connection = client.connection_pool.make_connection()
    assert (connection.socket_timeout, connection.socket_connect_timeout) == (2.0, 3.0)
    assert client.connection_pool.timeout == 4.0
    await client.aclose()


async def test_the_url_still_says_where_and_as_whom() -> None:
    client = redis_client.connect("rediss://me:pass%2Fword@example.test:7/3?ssl_ca_certs=ca.pem")
    connection = client.connection_pool.make_connection()
    assert (connection.host, connection.port, connection.db) == ("example.test", 7, 3)
    assert (connection.username, connection.password) == ("me", "pass/word")
    assert connection.ca_certs == "ca.pem"
    await client.aclose()


async def test_a_silent_server_costs_the_cap_and_then_nothing(silent: str) -> None:
    rooms = Rooms(silent, 100)
    began = time.monotonic()
    for _ in range(5):
        with pytest.raises(SideRoomError):
            await rooms.store.get("k")
    assert time.monotonic() - began < 5 * 0.025 + 1
    assert rooms.breaker.open
    with pytest.raises(SideRoomError, match="left alone"):
        await rooms.store.get("k")
    await rooms.close()


async def test_failures_that_nobody_hears_of_open_the_breaker(silent: str) -> None:
    """Cache and sessions swallow every error: a Redis that is away must be left alone all the same."""
    rooms = Rooms(silent, 100)
    cache, sessions = AnswerCache(rooms.answers, 60), Sessions(rooms.store)
    for _ in range(3):
        found = await cache.find(Key("a", b"digest"), lambda _: True, 1)
        assert found.status == types_pb2.CACHE_STATUS_UNAVAILABLE
        cache.leave(found.flight, alone=True)
        assert await sessions.model("a", "s") is None
    assert rooms.breaker.open
    await rooms.close()


async def test_nobody_listening_is_a_side_room_error() -> None:
    rooms = Rooms("redis://127.0.0.1:1", 100)
    with pytest.raises(SideRoomError):
        await rooms.store.put("k", b"v", 1)
    with pytest.raises(SideRoomError):
        await rooms.ledger.append([{"a": "b"}])
    await rooms.close()


async def test_a_ledger_that_replies_late_is_not_asked_again() -> None:
    """Three times the time limit of a request's own commands: the record is written, once."""
    written: list[bytes] = []  # and what the library asks by itself

    async def reply(writer: asyncio.StreamWriter, arguments: list[bytes]) -> None:
        written.append(arguments[0])
        await asyncio.sleep(3 * redis_client.SOCKET_S)
        writer.write(b"$3\r\n1-1\r\n")

    async with FakeServer(reply) as url:
        rooms = Rooms(url, 100)
        recorder = Recorder(rooms.ledger, pytest.fail)
        recorder.start()
        recorder.record({"kind": "request"})
        await recorder.record_now({"kind": "outcome"}, 10)
        await recorder.close()
        await rooms.close()
    assert written.count(b"XADD") == 2


async def test_callers_that_leave_never_shift_the_replies(seed: int) -> None:
    """300 cancelled reads at changing moments: each later reader still gets its own value."""
    async with FakeServer(_echo_late) as url:
        client = redis_client.connect(url)
        guard = Guard(Breaker(failures=10**9))
        for number in range(300):
            leaving = asyncio.ensure_future(guard.run(lambda: client.get("cancelled"), 0.05))
            await asyncio.sleep(0.001 * ((number + seed) % 17))
            leaving.cancel()
            await asyncio.wait({leaving})
            key = f"mine-{number}"
            try:
                assert await guard.run(lambda: client.get(key), 0.5) == key.encode()  # noqa: B023
            except SideRoomError:
                continue  # A busy machine: late is allowed, wrong is not.
        await client.aclose()


async def test_a_cancel_does_not_stop_the_command_itself() -> None:
    finished = asyncio.Event()

    async def command() -> None:
        await asyncio.sleep(0.02)
        finished.set()

    waiting = asyncio.ensure_future(Guard().run(command, 1))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(finished.wait(), 1)


async def test_a_caller_waits_no_longer_than_the_cap() -> None:
    guard = Guard()
    began = time.monotonic()
    with pytest.raises(SideRoomError, match="no reply in time"):
        async with asyncio.timeout(5):
            await guard.run(asyncio.Event().wait, 0.025)
    assert time.monotonic() - began < 1


async def test_a_reply_is_not_late_because_its_own_process_is() -> None:
    """One that needs four turns of a loop that takes 30 ms for each, as in a burst of requests."""

    async def command() -> str:
        for _ in range(4):
            await asyncio.sleep(0)
        return "there"

    async def busy() -> None:
        while True:
            time.sleep(0.03)  # noqa: ASYNC251
            await asyncio.sleep(0)

    burst = asyncio.create_task(busy())
    guard = Guard()
    try:
        assert await guard.run(command, 0.025) == "there"
    finally:
        burst.cancel()


@pytest.mark.parametrize("error", [TimeoutError, ConnectionResetError, RedisError, RuntimeError])
async def test_whatever_a_command_fails_with_is_a_side_room_error(error: type[Exception]) -> None:
    """uvloop says RuntimeError when a connection is written to that the server has just closed."""

    async def command() -> None:
        raise error("the handler is closed")

    guard = Guard(Breaker(failures=1))
    with pytest.raises(SideRoomError, match=error.__name__):
        await guard.run(command, 1)
    assert guard.breaker.open


async def test_a_loop_that_is_busy_is_not_taken_for_a_slow_server(tmp_path: Path) -> None:
    server = Valkey(tmp_path)
    try:
        client, guard = redis_client.connect(server.url), Guard()
        await guard.run(client.ping, 5.0)
        for _ in range(20):
            asking = [asyncio.create_task(guard.run(lambda: client.get("k"), 0.02)) for _ in range(5)]
            await asyncio.sleep(0)
            time.sleep(0.1)  # noqa: ASYNC251  (the loop is to be busy)
            assert await asyncio.gather(*asking) == [None] * 5
        await client.aclose()
    finally:
        server.stop()
