from __future__ import annotations

import json

import pytest

from headgate.adapters import channels
from headgate.client import channel
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
    assert Connection().options() == channel.OPTIONS
    unwatched = dict(Connection(watch_health=False).options())
    assert json.loads(unwatched.pop("grpc.service_config")) == {"loadBalancingConfig": [{"round_robin": {}}]}
    assert unwatched == {name: value for name, value in options().items() if name != "grpc.service_config"}


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
