"""Deletes kept answers and like questions from Redis: walks through all keys in steps that nobody notices."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Final

from redis.asyncio import Redis

from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_client import PREFIX, Guard
from headgate.adapters.semantic_feed import STREAMS

_PAGE: Final = 500
"""Keys that a walk looks at in one step: few enough that the server's other users notice nothing."""
_AT_ONCE: Final = 100
"""Answers of which it reads the beginning in one step: at 8 KiB each, a few milliseconds of this process."""
_STEP_S: Final = 4.5
"""What connecting and the reply may take together."""
_TRIES: Final = 3
"""Of a step, so that a hiccup does not end a purge of a million answers."""


class RedisPurge:
    """It has a client that is patient, and a guard of its own: requests wait for neither."""

    def __init__(self, client: Redis, guard: Guard) -> None:
        self._client = client
        self._guard = guard

    async def purge(self, tenant: str, size: int, falls: Callable[[str, bytes], bool]) -> int:
        """Deletes the answers of the tenant, or of all, that `falls` says yes to; how many.

        `falls` gets key and the first `size` bytes of the value. Goes through the whole key space in small
        steps, each of which is tried again; what is deleted stays deleted. Raises SideRoomError.
        """
        removed = 0
        async for keys in self._walk(f"{PREFIX}answer:{tenant or '*'}:*"):
            for first in range(0, len(keys), _AT_ONCE):
                removed += await self._purge(keys[first : first + _AT_ONCE], size, falls)
        return removed

    async def delete_like(self, tenant: str, spared: Collection[str]) -> None:
        """Deletes the tenant's stream of like questions, or everybody's; none of the spared.

        Raises SideRoomError.
        """
        if tenant:
            names = [STREAMS + tenant]
        else:
            names = [key.decode() async for keys in self._walk(f"{STREAMS}*") for key in keys]
        gone = [name for name in names if name.removeprefix(STREAMS) not in spared]
        if gone:
            await self._step(functools.partial(self._client.unlink, *gone))

    async def _walk(self, match: str) -> AsyncIterator[Sequence[Any]]:
        cursor = 0
        while True:
            cursor, keys = await self._step(
                functools.partial(self._client.scan, cursor, match=match, count=_PAGE)
            )
            yield keys
            if not cursor:
                return

    async def _purge(self, keys: Sequence[Any], size: int, falls: Callable[[str, bytes], bool]) -> int:
        begins = await self._step(functools.partial(self._begins, keys, size))
        told = zip(keys, begins, strict=True)
        fallen = [key for key, begin in told if begin and falls(_named(key), begin)]
        if not fallen:
            return 0
        return int(await self._step(functools.partial(self._client.unlink, *fallen)))

    async def _begins(self, keys: Sequence[Any], size: int) -> list[bytes]:
        """How the values begin; nothing for what is gone, or is no text."""
        line = self._client.pipeline(transaction=False)
        for key in keys:
            line.getrange(key, 0, size - 1)
        begins = await line.execute(raise_on_error=False)
        for one in begins:
            if isinstance(one, Exception) and not str(one).startswith("WRONGTYPE"):
                raise one
        return [one if isinstance(one, bytes) else b"" for one in begins]

    async def _step(self, command: Callable[[], Any]) -> Any:
        for _ in range(_TRIES - 1):
            with suppress(SideRoomError):
                return await self._guard.run(command, _STEP_S)
        return await self._guard.run(command, _STEP_S)


def _named(key: bytes) -> str:
    return key.decode(errors="replace").removeprefix(PREFIX)
