from __future__ import annotations

import json
import socket

import pytest

from headgate.adapters import channels
from headgate.client import AsyncClient, Client, channel
from headgate.client.channel import Connection


def options() -> dict[str, str | int]:
    return dict(channel.OPTIONS)


def test_the_client_pings_less_often_than_the_gateway_allows():
    assert options()["grpc.keepalive_time_ms"] > channels.SERVER_MIN_PING_MS


def test_the_client_takes_what_the_gateway_may_send():
    assert options()["grpc.max_receive_message_length"] >= channels.SEND_BYTES


def test_health_is_watched_and_nothing_is_retried():
    config = json.loads(options()["grpc.service_config"])
    assert config["healthCheckConfig"] == {"serviceName": "headgate.v1.RouterService"}
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert "methodConfig" not in config


def test_a_single_call_watches_no_health_and_is_else_the_same():
    assert Connection("gateway:7070").options() == channel.OPTIONS
    unwatched = dict(Connection("gateway:7070", watch_health=False).options())
    assert json.loads(unwatched.pop("grpc.service_config")) == {"loadBalancingConfig": [{"round_robin": {}}]}
    assert unwatched == {name: value for name, value in options().items() if name != "grpc.service_config"}


@pytest.mark.parametrize("watch_health", [True, False])
async def test_for_this_machine_no_proxy_is_asked(gateway, monkeypatch, watch_health):
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with Client(gateway.address, watch_health=watch_health) as client:
            assert client.generate("40 + 2 = ?").text == "42"
        many = f"ipv4:{gateway.address},{gateway.address}"
        async with AsyncClient(many, watch_health=watch_health) as aclient:
            assert (await aclient.generate("40 + 2 = ?")).text == "42"


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("localhost:7070", True), ("0.0.0.0:7070", True), ("[::1]:7070", True), ("dns:///127.0.0.1:7", True),
        ("gateway:7070", False), ("ipv4:127.0.0.1:7070,10.0.0.1:7070", False), ("10.127.0.0:7070", False),
    ],
)  # fmt: skip
def test_which_addresses_are_this_machine_s(address, here):
    assert (channel.NO_PROXY in Connection(address).options()) == here


@pytest.mark.parametrize("key", ["nodot", ".secret", "id."])
def test_a_key_has_two_parts_and_is_never_repeated(key):
    with pytest.raises(ValueError, match=r"id\.secret") as caught:
        Connection(key=key)
    assert key not in str(caught.value).replace("id.secret", "")


def test_the_key_stays_out_of_the_repr():
    assert "s3cret" not in repr(Connection(key="web.s3cret"))


def test_tls_needs_its_root_certificate(tmp_path):
    assert Connection().credentials() is None
    with pytest.raises(FileNotFoundError):
        Connection(root_certificate=tmp_path / "none.pem").credentials()


def test_a_gateway_that_is_back_is_found_within_seconds():
    """gRPC's default waits up to two minutes: by then the other gateway may have been replaced too."""
    assert (
        options()["grpc.initial_reconnect_backoff_ms"] <= options()["grpc.max_reconnect_backoff_ms"] <= 2_000
    )
    assert options()["grpc.min_reconnect_backoff_ms"] == 5_000, "how long a slow network may take to connect"
