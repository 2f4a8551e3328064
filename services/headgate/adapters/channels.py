"""Every gRPC default with its reason, for both ends of both hops.

Client and server constants stand side by side because they only work together: a client that pings more often
than the server allows loses its connection (`too_many_pings`).
"""

from __future__ import annotations

import json
from typing import Final

import grpc
import grpc.aio

PUBLIC_RECEIVE_BYTES: Final = 1 << 20
"""What a caller may send in one message."""
INNER_RECEIVE_BYTES: Final = 4 << 20
"""What gateway and worker may send each other."""
SEND_BYTES: Final = 8 << 20
METADATA_BYTES: Final = 8 << 10
"""Soft and hard limit alike: between two different limits gRPC drops requests at random."""
MAX_CONCURRENT_STREAMS: Final = 128

CLIENT_PING_MS: Final = 30_000
SERVER_MIN_PING_MS: Final = 20_000
"""Strictly below the client's period, else the server hangs up."""

Option = tuple[str, int | str]

_SERVER: Final[tuple[Option, ...]] = (
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", SERVER_MIN_PING_MS),
    ("grpc.http2.min_ping_interval_without_data_ms", SERVER_MIN_PING_MS),
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.max_concurrent_streams", MAX_CONCURRENT_STREAMS),
    ("grpc.server_handshake_timeout_ms", 3_000),
    ("grpc.max_send_message_length", SEND_BYTES),
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES),
)

# Connections of callers are renewed, so that load spreads over replicas that were added later.
_PUBLIC_SERVER: Final[tuple[Option, ...]] = (
    ("grpc.max_connection_age_ms", 600_000),
    ("grpc.max_connection_age_grace_ms", 60_000),
    ("grpc.max_connection_idle_ms", 300_000),
)

_CLIENT: Final[tuple[Option, ...]] = (
    ("grpc.keepalive_time_ms", CLIENT_PING_MS),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.max_send_message_length", SEND_BYTES),
    ("grpc.max_receive_message_length", INNER_RECEIVE_BYTES),
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES),
    # A worker that is back should be used at once: the default waits up to two minutes between attempts.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Retries are the cascade's: exactly one layer retries.
    ("grpc.enable_retries", 0),
)


def server_options(*, public: bool = False, reuse_port: bool = False) -> list[Option]:
    """Options of a server; `public` is the caller-facing one.

    Without `reuse_port` a second process on the same port fails to start instead of silently sharing it.
    """
    receive = PUBLIC_RECEIVE_BYTES if public else INNER_RECEIVE_BYTES
    return [
        *_SERVER,
        *(_PUBLIC_SERVER if public else ()),
        ("grpc.max_receive_message_length", receive),
        ("grpc.so_reuseport", int(reuse_port)),
    ]


def channel(
    address: str, *, health_service: str | None = None, credentials: grpc.ChannelCredentials | None = None
) -> grpc.aio.Channel:
    """A long-lived channel to `host:port`; keep it, never open one per call.

    With `health_service` the channel watches that service's health and sends nothing to a server that drains.
    """
    options = [*_CLIENT, ("grpc.service_config", _service_config(health_service))]
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)


def _service_config(health_service: str | None) -> str:
    # Client-side health checks need a balancing policy that honours them; pick_first does not.
    config: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if health_service is not None:
        config["healthCheckConfig"] = {"serviceName": health_service}
    return json.dumps(config)
