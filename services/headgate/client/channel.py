"""How the client reaches a gateway: address, key, transport security, deadlines."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import grpc

DEFAULT_ADDRESS = "127.0.0.1:7070"
DEFAULT_TIMEOUT_S = 60.0
MAX_TIMEOUT_S = 600.0

# A ping every 30 s while calls run: the gateway takes one every 20 s, so that no client is cut for asking.
KEEPALIVE_S = 30
KEEPALIVE_TIMEOUT_S = 10
# A gateway that is back is used within seconds, or the next one to be replaced takes every caller along: the
# default waits up to two minutes between attempts.
RECONNECT_FIRST_MS = 200
RECONNECT_LONGEST_MS = 2_000
CONNECT_MS = 5_000
"""How long one attempt may take: gRPC's name for it is the least backoff."""
# A rollout replaces pods every few seconds: by gRPC's own 30 s all that a channel knows could be gone.
RESOLVE_AGAIN_S = 2
_MAX_RECEIVE_BYTES = 8 << 20

# round_robin, because only it watches health: a gateway that drains gets no new calls. No retryPolicy: the
# one retry layer is the gateway's; gRPC itself resends only what no server has seen.
_BALANCED: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}]}
_WATCHED = {**_BALANCED, "healthCheckConfig": {"serviceName": "headgate.v1.RouterService"}}
OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.service_config", json.dumps(_WATCHED)),
    ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_FIRST_MS),
    ("grpc.min_reconnect_backoff_ms", CONNECT_MS),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_LONGEST_MS),
    ("grpc.dns_min_time_between_resolutions_ms", RESOLVE_AGAIN_S * 1000),
    ("grpc.max_receive_message_length", _MAX_RECEIVE_BYTES),
    ("grpc.primary_user_agent", f"headgate-python/{version('headgate')}"),
)
NO_PROXY = ("grpc.enable_http_proxy", 0)
"""For this machine's own addresses: its `http_proxy` leads outside, and gRPC would ask it for them too."""
_SCHEME = re.compile(r"^(dns:(///)?|ipv[46]:)")
_HERE = re.compile(r"(127\.[\d.]+|0\.0\.0\.0|localhost|\[::1?\])(:\d+)?")


@dataclass(frozen=True, slots=True)
class Connection:
    """What sync and aio share. A key without TLS belongs on loopback or a trusted network only."""

    address: str = DEFAULT_ADDRESS
    key: str = field(default="", repr=False)
    """`id.secret`; empty for a gateway that is open."""
    root_certificate: str | Path | None = None
    """PEM file of the authority that signed the gateway's certificate; None speaks plain text."""
    timeout_s: float = DEFAULT_TIMEOUT_S
    watch_health: bool = True
    """False asks also a gateway that says it can answer nothing, which then says why: for a single call."""

    def __post_init__(self) -> None:
        self.deadline(self.timeout_s)
        if self.key and not all(self.key.partition(".")):
            raise ValueError("a key looks like id.secret")

    def options(self) -> tuple[tuple[str, str | int], ...]:
        """The channel's."""
        here = all(_HERE.fullmatch(one) for one in _SCHEME.sub("", self.address).split(","))
        more = (NO_PROXY,) if here else ()
        if self.watch_health:
            return (*OPTIONS, *more)
        return (("grpc.service_config", json.dumps(_BALANCED)), *OPTIONS[1:], *more)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """TLS by the root certificate; None for plain text."""
        if self.root_certificate is None:
            return None
        return grpc.ssl_channel_credentials(Path(self.root_certificate).read_bytes())

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return (("authorization", f"Bearer {self.key}"),) if self.key else ()

    def deadline(self, timeout_s: float | None) -> float:
        """The call's timeout in seconds, the connection's where it names none: no call goes without."""
        chosen = self.timeout_s if timeout_s is None else timeout_s
        if not 0 < chosen <= MAX_TIMEOUT_S:
            raise ValueError(f"timeout_s must be above 0 and at most {MAX_TIMEOUT_S:g}")
        return chosen
