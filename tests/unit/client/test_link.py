"""A client that knows draining gateways alone looks their name up again, and fails no call meanwhile."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from headgate.client import AsyncClient, Client, HeadgateError, link
from headgate.client.channel import Connection
from headgate.v1 import router_pb2_grpc
from tests.unit.client.conftest import Gateway

SERVICE = "headgate.v1.RouterService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Peer(Gateway):
    """A gateway that says how it is."""

    def __init__(self, host: str, port: int, pool: ThreadPoolExecutor) -> None:
        super().__init__()
        self._health = health.HealthServicer()
        self.server = grpc.server(pool)
        router_pb2_grpc.add_RouterServiceServicer_to_server(self, self.server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        self.port = self.server.add_insecure_port(f"{host}:{port}")
        self.say(SERVING)
        self.server.start()

    def say(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        self._health.set(SERVICE, status)


class Names:
    """A DNS server that has one address for whatever it is asked."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.asked = socket.socket(type=socket.SOCK_DGRAM)
        self.asked.bind(("127.0.0.1", 0))
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        with suppress(OSError):  # it is closed
            while True:
                query, caller = self.asked.recvfrom(512)
                question = query[12 : query.index(b"\0", 12) + 5]
                found = question[-4:-2] == b"\0\1"
                record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(self.host) if found else b""
                head = query[:2] + b"\x85\x80\0\1\0" + bytes([found, 0, 0, 0, 0])
                self.asked.sendto(head + question + record, caller)


class Two:
    """Gateways behind one name, which is the old one's so far."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.old = Peer("127.0.0.1", 0, pool)
        self.new = Peer("127.0.0.2", self.old.port, pool)
        self.names = Names("127.0.0.1")
        self.address = "dns://{}:{}/gateway.test:{}".format(*self.names.asked.getsockname(), self.old.port)

    def replace(self) -> None:
        """The name is the new one's, and the old one drains; its connections stay."""
        self.names.host = "127.0.0.2"
        self.old.say(NOT_SERVING)


@pytest.fixture
def two() -> Iterator[Two]:
    with ThreadPoolExecutor(32) as pool:
        both = Two(pool)
        with closing(both.names.asked):
            yield both
            for peer in (both.old, both.new):
                peer.go_on.set()
                peer.server.stop(None).wait()


def until_new(two: Two) -> Iterator[None]:
    """Again and again, until the new one was asked."""
    end = time.monotonic() + 30
    while not two.new.seen:
        assert time.monotonic() < end, "the new one is not asked"
        yield


def test_threads_change_to_who_serves(two: Two) -> None:
    """What the old one is answering comes to its end."""
    with Client(two.address) as client, client.stream("hold") as stream:
        texts = stream.texts()
        assert next(texts) == "4"
        two.replace()
        for _ in until_new(two):
            assert client.generate("40 + 2 = ?").text == "42"
        two.old.go_on.set()
        assert list(texts) == ["2"]


@pytest.mark.parametrize("kind", ["answer", "stream"])
async def test_a_loop_changes_to_who_serves(two: Two, kind: str) -> None:
    async with AsyncClient(two.address) as client, client.stream("hold") as stream:
        texts = stream.texts()
        assert await anext(texts) == "4"
        two.replace()
        for _ in until_new(two):
            if kind == "answer":
                assert (await client.generate("40 + 2 = ?")).text == "42"
            else:
                async with client.stream("40 + 2 = ?") as another:
                    assert "".join([text async for text in another.texts()]) == "42"
        two.old.go_on.set()
        assert [text async for text in texts] == ["2"]


@pytest.mark.parametrize("kind", ["answer", "stream"])
def test_a_call_that_meets_the_moment_of_the_last_drain_is_made_again(
    two: Two, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It has found the channel well, and the channel is so no more when it sends the call."""
    with Client(two.address) as client:
        client.generate("40 + 2 = ?")
        two.replace()
        failing, looks = client._link._failing, iter([False])
        wait_for(failing)
        monkeypatch.setattr(client._link, "_failing", lambda: next(looks, True) and failing())
        if kind == "answer":
            assert client.generate("40 + 2 = ?").text == "42"
        else:
            assert "".join(client.stream("40 + 2 = ?").texts()) == "42"
    assert two.new.seen


@pytest.mark.parametrize("kind", ["answer", "stream"])
async def test_a_call_of_a_loop_that_meets_it_is_made_again(
    two: Two, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    failing, looks = link.AsyncLink.failing, iter([False])
    async with AsyncClient(two.address) as client:
        await client.generate("40 + 2 = ?")
        two.replace()
        await asyncio.to_thread(wait_for, lambda: client._link.failing)
        look = failing.fget
        assert look is not None
        once = property(lambda self: next(looks, True) and look(self))
        monkeypatch.setattr(link.AsyncLink, "failing", once)
        if kind == "answer":
            assert (await client.generate("40 + 2 = ?")).text == "42"
        else:
            assert "".join([text async for text in client.stream("40 + 2 = ?").texts()]) == "42"
    assert two.new.seen


def wait_for(met: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not met():
        assert time.monotonic() < end, "nobody notices that the old one drains"
        time.sleep(0.001)


def test_to_close_ends_calls_of_a_channel_that_was_changed_too(two: Two) -> None:
    with Client(two.address) as client:
        texts = client.stream("hold").texts()
        assert next(texts) == "4"
        two.replace()
        for _ in until_new(two):
            client.generate("40 + 2 = ?")
    with pytest.raises(HeadgateError):
        list(texts)
    with pytest.raises(ValueError, match="closed"):
        client.generate("40 + 2 = ?")


async def test_to_close_in_a_loop_ends_them_too(two: Two) -> None:
    async with AsyncClient(two.address) as client:
        texts = client.stream("hold").texts()
        assert await anext(texts) == "4"
        two.replace()
        for _ in until_new(two):
            await client.generate("40 + 2 = ?")
    with pytest.raises(asyncio.CancelledError):
        _ = [text async for text in texts]


def test_where_nobody_serves_a_call_fails_soon_and_the_next_at_once(two: Two) -> None:
    with Client(two.address, timeout_s=20) as client:
        client.generate("40 + 2 = ?")
        two.old.say(NOT_SERVING)
        first = next(one for one in iter(lambda: _failed_s(client), None) if one)
        took = [first, *(_failed_s(client) for _ in range(40))]
    assert all(took)
    assert max(took) < 2 * link.RENEW_S
    assert sum(one > link.RENEW_S / 2 for one in took) <= 2


def test_the_search_for_who_serves_takes_of_the_call_s_own_time(two: Two) -> None:
    two.old.say(NOT_SERVING)
    with Client(two.address, timeout_s=0.2) as client:
        assert 0.1 < max(_failed_s(client) for _ in range(5)) < link.RENEW_S / 2


async def test_so_it_does_in_a_loop(two: Two) -> None:
    two.old.say(NOT_SERVING)
    took = []
    async with AsyncClient(two.address, timeout_s=0.2) as client:
        for _ in range(5):
            began = time.monotonic()
            with pytest.raises(HeadgateError):
                await client.generate("40 + 2 = ?")
            took.append(time.monotonic() - began)
    assert 0.1 < max(took) < link.RENEW_S / 2


def _failed_s(client: Client) -> float:
    began = time.monotonic()
    try:
        client.generate("40 + 2 = ?")
    except HeadgateError:
        return time.monotonic() - began
    return 0.0


async def test_a_stream_that_could_not_begin_can_be_left(two: Two) -> None:
    two.old.say(NOT_SERVING)
    client = AsyncClient(two.address, timeout_s=0.2)
    with pytest.raises(HeadgateError):
        await client.generate("40 + 2 = ?")
    stream = client.stream("40 + 2 = ?")
    assert isinstance(stream._call, asyncio.Task), "it waits for who serves"
    await client.close()
    await asyncio.wait({stream._call})
    stream.cancel()


def test_who_watches_no_health_changes_nothing(two: Two) -> None:
    """A single call asks also a gateway that says it can answer nothing."""
    two.old.say(NOT_SERVING)
    with Client(two.address, watch_health=False) as client:
        assert client.generate("40 + 2 = ?").text == "42"
    assert two.old.seen


def test_a_channel_s_state_is_to_be_had() -> None:
    """It is not gRPC's to promise: without it a client would go on as before, and nobody would notice."""
    with grpc.insecure_channel("127.0.0.1:1", Connection().options()) as channel:
        assert link._state(channel) is grpc.ChannelConnectivity.IDLE
