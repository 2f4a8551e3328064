"""What a container's health check asks with: real servers, and nobody at all."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headgate.adapters import probe
from headgate.adapters.health import HealthServicer

_STATES = health_pb2.HealthCheckResponse


@pytest.fixture
async def health() -> AsyncIterator[tuple[HealthServicer, str]]:
    servicer, server = HealthServicer(), grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, f"127.0.0.1:{port}"
    await server.stop(0)


@pytest.fixture
def page() -> Iterator[str]:
    class OnePage(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), OnePage) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address that is taken, and where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


async def _asked(*arguments: str) -> int:
    return await asyncio.to_thread(probe.main, arguments)


async def test_a_process_that_serves_is_zero(health: tuple[HealthServicer, str]) -> None:
    servicer, address = health
    assert await _asked(address) == 1
    servicer.set("", _STATES.SERVING)
    assert await _asked(address) == 0


async def test_a_process_that_drains_is_one(health: tuple[HealthServicer, str]) -> None:
    servicer, address = health
    servicer.set("", _STATES.SERVING)
    servicer.drain()
    assert await _asked(address) == 1


async def test_a_service_can_be_asked_by_name(health: tuple[HealthServicer, str]) -> None:
    servicer, address = health
    servicer.set("", _STATES.SERVING)
    servicer.set("some.Service", _STATES.NOT_SERVING)
    assert await _asked(address, "--service", "some.Service") == 1
    assert await _asked(address, "--service", "unknown.Service") == 1
    servicer.set("some.Service", _STATES.SERVING)
    assert await _asked(address, "--service", "some.Service") == 0


def test_a_page_is_zero_when_it_is_there(page: str) -> None:
    assert probe.main([f"{page}/metrics"]) == 0
    assert probe.main([f"{page}/nothing"]) == 1


def test_nobody_is_one_and_a_sentence(nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main([nobody]) == 1
    assert probe.main([f"http://{nobody}/metrics"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{nobody} does not serve",
        f"http://{nobody}/metrics does not serve",
    ]


def test_a_server_that_says_nothing_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert probe.main([address]) == 1
        assert probe.main([f"http://{address}/metrics"]) == 1
