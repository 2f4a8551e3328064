"""The defaults of both ends fit each other, and connections may end without a call noticing."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from headgate.adapters import channels
from headgate.adapters.config import ModelConfig
from headgate.client import channel as client
from headgate.gateway.visits import LONGEST_S

SERVICE = "a.Service"
PINGS = "grpc.http2.min_recv_ping_interval_without_data_ms"
Context = grpc.aio.ServicerContext[Any, Any]


def _value(options: list[channels.Option], name: str) -> int:
    return int(dict(options)[name])


def _most(model_field: str) -> int:
    limits = ModelConfig.model_fields[model_field].metadata
    return int(next(limit.le for limit in limits if hasattr(limit, "le")))


class Server:
    """Serves `Hold`, a stream until `release`, `Ask`, which answers at once, and `Fail`, which fails."""

    def __init__(self, **changes: int) -> None:
        options = dict(channels.server_options()) | changes
        self._server = grpc.aio.server(options=list(options.items()))
        self._health = health.aio.HealthServicer()
        self.release = asyncio.Event()
        self.peers: set[str] = set()
        self.failed = 0
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        handlers = {
            "Hold": grpc.unary_stream_rpc_method_handler(self._hold),
            "Ask": grpc.unary_unary_rpc_method_handler(self._ask),
            "Fail": grpc.unary_unary_rpc_method_handler(self._fail),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def _hold(self, _request: bytes, context: Context) -> None:
        await context.write(b"begun")
        await self.release.wait()
        await context.write(b"ended")

    async def _ask(self, request: bytes, context: Context) -> bytes:
        self.peers.add(context.peer())
        return request

    async def _fail(self, _request: bytes, context: Context) -> None:
        self.failed += 1
        await context.abort(grpc.StatusCode.UNAVAILABLE)

    @asynccontextmanager
    async def listening(self, address: str) -> AsyncIterator[int]:
        """Its port."""
        port = self._server.add_insecure_port(address)
        await self._server.start()
        await self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        try:
            yield port
        finally:
            await self._server.stop(0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[grpc.aio.Channel]:
        """A channel to it."""
        async with (
            self.listening("127.0.0.1:0") as port,
            channels.channel(f"127.0.0.1:{port}", health_service=SERVICE) as channel,
        ):
            yield channel


class Names(asyncio.DatagramProtocol):
    """A DNS server that knows one name, by whatever it is asked for."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        question = data[12 : data.index(b"\0", 12) + 5]
        hosts = self.hosts if question[-4:-2] == b"\0\1" else ()
        head = data[:2] + b"\x85\x80\0\1" + len(hosts).to_bytes(2, "big") + bytes(4)
        self._transport.sendto(head + question + b"".join(map(_record, hosts)), addr)


def _record(host: str) -> bytes:
    """An A record that nobody may keep."""
    return b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(host)


@asynccontextmanager
async def _answering(names: Names) -> AsyncIterator[str]:
    """The address of the DNS server."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: names, local_addr=("127.0.0.1", 0))
    try:
        yield "{}:{}".format(*transport.get_extra_info("sockname"))
    finally:
        transport.close()


async def _begun(channel: grpc.aio.Channel) -> grpc.aio.UnaryStreamCall[bytes, bytes]:
    call = channel.unary_stream(f"/{SERVICE}/Hold")(b"", timeout=60)
    assert await call.read() == b"begun"
    return call


async def _ask(channel: grpc.aio.Channel) -> None:
    assert await channel.unary_unary(f"/{SERVICE}/Ask")(b"x", timeout=10) == b"x"


async def _ask_until(channel: grpc.aio.Channel, enough: Callable[[], bool]) -> None:
    while not enough():
        await _ask(channel)


def test_clients_ping_more_rarely_than_servers_forbid() -> None:
    """Both clients against every server; with gRPC's own five minutes calls would die of too_many_pings."""
    for options in (channels.server_options(), channels.server_options(public=True)):
        least = _value(options, PINGS)
        assert _value(list(channels._CLIENT), "grpc.keepalive_time_ms") > least
        assert _value(list(client.OPTIONS), "grpc.keepalive_time_ms") > least
        assert _value(options, "grpc.http2.max_ping_strikes") > 0


def test_both_clients_ping_only_while_calls_run() -> None:
    for options in (list(channels._CLIENT), list(client.OPTIONS)):
        assert _value(options, "grpc.keepalive_permit_without_calls") == 0


def test_both_clients_look_a_name_up_again_while_a_rollout_goes_on() -> None:
    for options in (list(channels._CLIENT), list(client.OPTIONS)):
        assert _value(options, "grpc.dns_min_time_between_resolutions_ms") == channels.RESOLVE_AGAIN_MS


def test_metadata_has_one_limit() -> None:
    for options in (channels.server_options(), channels.server_options(public=True)):
        soft = _value(options, "grpc.max_metadata_size")
        assert soft == _value(options, "grpc.absolute_max_metadata_size") == channels.METADATA_BYTES


def test_ports_are_shared_only_when_asked() -> None:
    assert _value(channels.server_options(), "grpc.so_reuseport") == 0
    assert _value(channels.server_options(public=True), "grpc.so_reuseport") == 0
    assert _value(channels.server_options(reuse_port=True), "grpc.so_reuseport") == 1


def test_callers_may_send_less_than_workers() -> None:
    public = _value(channels.server_options(public=True), "grpc.max_receive_message_length")
    assert public == 1 << 20
    assert _value(channels.server_options(), "grpc.max_receive_message_length") == 4 << 20


def test_health_is_watched_where_a_service_is_named() -> None:
    config = json.loads(channels._service_config("a.Service"))
    assert config["healthCheckConfig"] == {"serviceName": "a.Service"}
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert "healthCheckConfig" not in json.loads(channels._service_config(None))


def test_the_python_client_balances_and_watches_health_too() -> None:
    config = json.loads(str(dict(client.OPTIONS)["grpc.service_config"]))
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert config["healthCheckConfig"] == {"serviceName": "headgate.v1.RouterService"}


@pytest.mark.parametrize("public", [True, False])
def test_every_connection_is_renewed_and_no_call_is_cut_by_that(public: bool) -> None:
    options = channels.server_options(public=public)
    assert 0 < _value(options, "grpc.max_connection_age_ms") <= 600_000
    assert _value(options, "grpc.max_connection_age_grace_ms") > LONGEST_S * 1000


async def test_calls_and_streams_outlive_their_connection() -> None:
    """Renewal every 50 ms: no call fails, and the stream of the first connection ends well."""
    server = Server(**{"grpc.max_connection_age_ms": 50})
    async with server.running() as channel, asyncio.timeout(60):
        stream = await _begun(channel)
        async with asyncio.TaskGroup() as callers:
            for _ in range(8):
                callers.create_task(_ask_until(channel, lambda: len(server.peers) > 40))
        server.release.set()
        assert await stream.read() == b"ended"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a second loopback address, as Linux has")
async def test_a_replica_added_later_gets_calls_and_no_call_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name gets a second address; the next renewal of the first connection finds it."""
    soon = ("grpc.dns_min_time_between_resolutions_ms", 100)
    monkeypatch.setattr(channels, "_CLIENT", (*channels._CLIENT, soon))
    first, second = (Server(**{"grpc.max_connection_age_ms": 200}) for _ in range(2))
    names = Names("127.0.0.1")
    async with (
        _answering(names) as dns,
        first.listening("127.0.0.1:0") as port,
        second.listening(f"127.0.0.2:{port}"),
        channels.channel(f"dns://{dns}/workers.test:{port}", health_service=SERVICE) as channel,
        asyncio.timeout(60),
    ):
        await _ask(channel)
        names.hosts = ("127.0.0.1", "127.0.0.2")
        while not second.peers:
            await _ask(channel)


def test_what_no_server_has_seen_may_be_sent_again() -> None:
    """A call can meet the end of its connection: without this one in five renewals failed one."""
    assert _value(list(channels._CLIENT), "grpc.enable_retries") == 1
    assert "grpc.enable_retries" not in dict(client.OPTIONS), "gRPC's default is the same"


async def test_what_a_server_has_seen_is_not_sent_again() -> None:
    """The one layer that retries is the cascade, which counts."""
    server = Server()
    async with server.running() as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(f"/{SERVICE}/Fail")(b"x", timeout=10)
    assert server.failed == 1
    for config in (channels._service_config("x"), str(dict(client.OPTIONS)["grpc.service_config"])):
        assert "retryPolicy" not in config


def test_a_worker_takes_more_calls_than_it_has_slots_and_queue() -> None:
    least = _most("slots") + _most("queue")
    assert _value(channels.server_options(), "grpc.max_concurrent_streams") > least


async def test_a_full_worker_still_answers_its_probe() -> None:
    server = Server()
    async with server.running() as channel, asyncio.timeout(30):
        streams = [await _begun(channel) for _ in range(2 * channels.PUBLIC_STREAMS)]
        await _ask(channel)
        for stream in streams:
            stream.cancel()


def test_no_channel_without_a_running_loop() -> None:
    """One made at import would belong to a loop that nobody runs."""
    with pytest.raises(channels.NoLoopError, match="inside of a coroutine"):
        channels.channel("127.0.0.1:1")


async def test_a_proxy_for_the_internet_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines give containers the proxy of their machine, by variables that gRPC reads."""
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{nobody.getsockname()[1]}")
        async with Server().running() as channel:
            await _ask(channel)
