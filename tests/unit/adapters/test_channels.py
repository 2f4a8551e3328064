"""The defaults of both ends fit each other."""

from __future__ import annotations

import json

from headgate.adapters import channels


def _value(options: list[channels.Option], name: str) -> int | str:
    return dict(options)[name]


def test_clients_ping_more_rarely_than_servers_forbid() -> None:
    assert channels.CLIENT_PING_MS > channels.SERVER_MIN_PING_MS


def test_metadata_has_one_limit() -> None:
    for options in (channels.server_options(), channels.server_options(public=True)):
        soft = _value(options, "grpc.max_metadata_size")
        assert soft == _value(options, "grpc.absolute_max_metadata_size") == channels.METADATA_BYTES


def test_ports_are_shared_only_when_asked() -> None:
    assert _value(channels.server_options(), "grpc.so_reuseport") == 0
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
