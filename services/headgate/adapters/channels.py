"""Every gRPC default with its reason, for both ends of both hops.

Client and server constants stand side by side because they only work together: a client that pings more often
than the server allows loses its connection (`too_many_pings`).
"""

from __future__ import annotations

import asyncio
import json
from typing import Final

import grpc
import grpc.aio

PUBLIC_RECEIVE_BYTES: Final = 1 << 20
"""What a caller may send in one message."""
INNER_RECEIVE_BYTES: Final = 4 << 20
"""What gateway and worker may send each other."""
SEND_BYTES: Final = 8 << 20
"""What a server may answer; the client takes as much."""
METADATA_BYTES: Final = 8 << 10
"""Soft and hard limit alike: between two different limits gRPC drops requests at random."""
PUBLIC_STREAMS: Final = 128
"""On one connection: a caller that wants more opens another, and no single one can flood a process."""
INNER_STREAMS: Final = 8_192
"""More than slots and queue of a worker can be: its queue refuses at once and says when to come back, a full
connection lets calls wait, and the probe with them."""
HANDSHAKE_MS: Final = 3_000
"""Half-open connections are gone by then; without it they stay until the caller lets go."""

CLIENT_PING_MS: Final = 30_000
"""A peer that vanished is noticed after this and the timeout; gRPC allows no less than 10 s."""
CLIENT_PING_TIMEOUT_MS: Final = 10_000
SERVER_MIN_PING_MS: Final = 20_000
"""Strictly below the client's period, else the server hangs up."""
SERVER_PING_MS: Final = 60_000
SERVER_PING_TIMEOUT_MS: Final = 20_000
"""Callers that vanished without a word are let go after 80 s; less would cut those on a slow network."""
PING_STRIKES: Final = 2
"""A ping that the network delayed into the next is forgiven; a third in a row is no accident."""

CONNECTION_AGE_MS: Final = 600_000
"""Connections are renewed, so that a name is looked up again and load spreads over replicas added later."""
CONNECTION_GRACE_MS: Final = 610_000
"""Longer than the longest call, 600 s: a shorter grace would cut streams in which nothing is wrong."""
CONNECTION_IDLE_MS: Final = 300_000
"""Idle connections cost a descriptor each."""

RECONNECT_FIRST_MS: Final = 200
RECONNECT_LONGEST_MS: Final = 2_000
"""A worker that is back should be used at once: the default waits up to two minutes between attempts."""
RESOLVE_AGAIN_MS: Final = 2_000
"""A rollout replaces pods every few seconds: by gRPC's own 30 s all that a channel knows could be gone."""

Option = tuple[str, int | str]

NO_PROXY: Final[Option] = ("grpc.enable_http_proxy", 0)
"""Container engines hand on the machine's `http_proxy`, which leads outside and to no process of ours."""

_SERVER: Final[tuple[Option, ...]] = (
    ("grpc.keepalive_time_ms", SERVER_PING_MS),
    ("grpc.keepalive_timeout_ms", SERVER_PING_TIMEOUT_MS),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", SERVER_MIN_PING_MS),
    ("grpc.http2.min_ping_interval_without_data_ms", SERVER_MIN_PING_MS),
    ("grpc.http2.max_ping_strikes", PING_STRIKES),
    ("grpc.max_connection_age_ms", CONNECTION_AGE_MS),
    ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_MS),
    ("grpc.max_connection_idle_ms", CONNECTION_IDLE_MS),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    ("grpc.max_send_message_length", SEND_BYTES),
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES),
)

_CLIENT: Final[tuple[Option, ...]] = (
    ("grpc.keepalive_time_ms", CLIENT_PING_MS),
    ("grpc.keepalive_timeout_ms", CLIENT_PING_TIMEOUT_MS),
    # Pings without calls are what servers take for abuse first.
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.max_send_message_length", SEND_BYTES),
    ("grpc.max_receive_message_length", INNER_RECEIVE_BYTES),
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES),
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_FIRST_MS),
    ("grpc.min_reconnect_backoff_ms", RECONNECT_FIRST_MS),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_LONGEST_MS),
    ("grpc.dns_min_time_between_resolutions_ms", RESOLVE_AGAIN_MS),
    NO_PROXY,
    # Without a retryPolicy this resends only what no server has seen, such as a call that met the end of its
    # connection. Every other retry is the cascade's: exactly one layer retries.
    ("grpc.enable_retries", 1),
)


class NoLoopError(RuntimeError):
    """A channel was asked for where no event loop runs, such as at import."""


def server_options(*, public: bool = False, reuse_port: bool = False) -> list[Option]:
    """Options of a server; `public` is the caller-facing one.

    Without `reuse_port` a second process on the same port fails to start instead of silently sharing it.
    """
    return [
        *_SERVER,
        ("grpc.max_concurrent_streams", PUBLIC_STREAMS if public else INNER_STREAMS),
        ("grpc.max_receive_message_length", PUBLIC_RECEIVE_BYTES if public else INNER_RECEIVE_BYTES),
        ("grpc.so_reuseport", int(reuse_port)),
    ]


def channel(
    address: str, *, health_service: str | None = None, credentials: grpc.ChannelCredentials | None = None
) -> grpc.aio.Channel:
    """A long-lived channel to `host:port`; keep it, never open one per call.

    Calls spread over all addresses that the host's name has. With `health_service` the channel watches that
    service's health and sends nothing to a server that drains. Raises NoLoopError outside a running loop:
    gRPC would tie the channel to a loop that never runs, and its calls would wait for ever.
    """
    _require_loop()
    options = [*_CLIENT, ("grpc.service_config", _service_config(health_service))]
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)


def _require_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise NoLoopError(
            "a channel belongs to the event loop that uses it: make it inside of a coroutine"
        ) from None


def _service_config(health_service: str | None) -> str:
    # Client-side health checks need a balancing policy that honours them; pick_first does not.
    config: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if health_service is not None:
        config["healthCheckConfig"] = {"serviceName": health_service}
    return json.dumps(config)
