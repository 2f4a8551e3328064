"""The one factory of Redis clients, and the guard that keeps a sick Redis from slowing a request.

Two time limits work together. A command never waits longer than the client's socket timeout; its caller
never waits longer than the cap. A caller that stops waiting, because of the cap or because its request was
cancelled, leaves the command running to its end: a connection whose reply was never read would hand that
reply to the next user.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from headgate.adapters.breaker import Breaker
from headgate.adapters.ports import SideRoomError

SOCKET_S: Final = 0.05
"""The library's default would stall a minute on a frozen server."""
POOL_SIZE: Final = 50
POOL_WAIT_S: Final = 0.02

T = TypeVar("T")


def connect(url: str) -> Redis:
    """A client with short timeouts and no retries; it connects when it is first used."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=POOL_SIZE,
        timeout=POOL_WAIT_S,
        socket_timeout=SOCKET_S,
        socket_connect_timeout=SOCKET_S,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        health_check_interval=10,
    )
    return Redis(connection_pool=pool)


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
        done, _ = await asyncio.wait({task}, timeout=cap_s)
        if not done:
            self.breaker.failed()
            raise SideRoomError("no reply in time")
        return self._result(task)

    def _result(self, task: asyncio.Future[T]) -> T:
        try:
            result = task.result()
        except (TimeoutError, RedisError, OSError) as error:
            self.breaker.failed()
            raise SideRoomError(type(error).__name__) from None
        self.breaker.succeeded()
        return result

    def _settle(self, task: asyncio.Future[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # Marks it as seen: whoever waited has been told.
