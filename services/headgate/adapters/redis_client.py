"""The one factory of Redis clients, and the guard that keeps a sick Redis from slowing a request.

Two time limits work together. A command never waits longer than the client's socket timeout; its caller
never waits longer than the cap, in which the lateness of its own process does not count. A caller that stops
waiting, because of the cap or because its request was cancelled, leaves the command running to its end: a
connection whose reply was never read would hand that reply to the next user.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from headgate.adapters import settings
from headgate.adapters.breaker import Breaker
from headgate.adapters.ports import SideRoomError
from headgate.adapters.settings import ConfigError

SOCKET_S: Final = 0.25
"""The library's default would stall a minute on a frozen server. No shorter than a burst of requests keeps
the loop busy, for the library takes that for a slow server."""
POOL_SIZE: Final = 50
"""Commands last a millisecond or two: this is thousands a second, and few descriptors on a shared server."""
POOL_WAIT_S: Final = 0.02
"""Below the cap of a read: who finds no free connection by then goes on without."""
PING_AFTER_S: Final = 10
"""A connection that was idle for longer is tried before it is used."""
READ_CAP_S: Final = 0.025
"""A caller waits for it, and a cache that takes longer saves little."""
WRITE_CAP_S: Final = 0.1
"""Nobody waits for it; what takes longer counts as a failure of the server."""
SLICES: Final = 5
"""Of a cap; each counts as much as it was meant to take. While the loop is late nobody hears a reply, and
from the socket to its caller one takes three or four turns of it: a burst of requests is no sick server."""
PREFIX: Final = "headgate:"
"""Of all keys that the gateway's rooms use."""
PROTOCOL: Final = 2
"""Every server speaks it; with 3 the library lets a server's notices stretch the timeouts."""

_OURS: Final[Mapping[str, Any]] = {
    "max_connections": POOL_SIZE,
    "retry_on_timeout": False,
    "retry_on_error": [],
    "health_check_interval": PING_AFTER_S,
    "protocol": PROTOCOL,
    "decode_responses": False,
}

FAILURES: Final = (TimeoutError, RedisError, OSError, RuntimeError)
"""How a command can fail. RuntimeError is uvloop's word for a connection that was closed just now."""

T = TypeVar("T")


def connect(
    url: str, reply_s: float = SOCKET_S, connect_s: float = SOCKET_S, free_s: float = POOL_WAIT_S
) -> Redis:
    """A client with short timeouts and no retries; it connects when it is first used, within `connect_s`.

    A reply that takes longer than `reply_s` ends its connection; whether a write was made is then not known.
    A command waits for a free connection, of which there are 50, for `free_s`.

    The URL says where and as whom. What it says about timeouts, retries or the pool is passed over: to the
    library's own `from_url` it would be the last word.
    """
    retry = Retry(NoBackoff(), 0)
    waits = {"socket_timeout": reply_s, "socket_connect_timeout": connect_s, "timeout": free_s}
    options = {**parse_url(url), **_OURS, **waits, "retry": retry}
    return Redis(connection_pool=BlockingConnectionPool(**options))


def is_url(text: str) -> bool:
    """Whether `connect` takes this URL; nothing is asked of the network."""
    try:
        connect(text).connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError):
        return False
    return True


def resolved_url(
    setting: str,
    url: str | None,
    environ: Mapping[str, str],
    takes: Callable[[str], bool] = is_url,
    schemes: str = "redis://, rediss:// or unix://",
) -> str | None:
    """The URL of a setting, its secret resolved; ConfigError if it is none that its client `takes`.

    redis-py's own errors quote the URL, password included: hence it is tried here.
    """
    what = "this"
    if url is not None and url.startswith(("env:", "file:")):
        url, what = settings.resolve_secret(url, environ), "the secret it refers to"
    if url is not None and not takes(url):
        raise ConfigError(
            f"{setting}: {what} is no {schemes} URL; write special characters of a password percent-encoded"
        )
    return url


class NamedError(ConnectionError):
    """A failure whose message is its kind, where another library's errors had to be told apart first."""


class Guard:
    """Runs commands behind a breaker and a time cap."""

    def __init__(self, breaker: Breaker | None = None) -> None:
        self.breaker = breaker or Breaker()
        self._running: set[asyncio.Future[Any]] = set()

    async def run(self, command: Callable[[], Awaitable[T]], cap_s: float) -> T:
        """The command's result; SideRoomError when it fails, takes over `cap_s`, or the breaker is open."""
        if not self.breaker.allows():
            raise SideRoomError("left alone after repeated failures")
        task = asyncio.ensure_future(command())
        self._running.add(task)
        task.add_done_callback(self._settle)
        for _ in range(SLICES):
            done, _ = await asyncio.wait({task}, timeout=cap_s / SLICES)
            if done:
                return self._result(task)
        self.breaker.failed()
        raise SideRoomError("no reply in time")

    def _result(self, task: asyncio.Future[T]) -> T:
        try:
            result = task.result()
        except FAILURES as error:
            self.breaker.failed()
            kind = str(error) if isinstance(error, NamedError) else type(error).__name__
            raise SideRoomError(kind) from None
        self.breaker.succeeded()
        return result

    def _settle(self, task: asyncio.Future[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # Marks it as seen: whoever waited has been told.
