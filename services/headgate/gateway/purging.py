"""Takes kept answers away, in this process and in all others.

    order ─▶ Redis: written down and told ─▶ every process: none is given again ─▶ Redis: all are deleted

An order is in force in this process and in Redis when it is answered, and in the memory of the others when
they have heard of it: at once, or within 5 s, for who hears nothing for so long gives nothing from memory.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Final

from headgate.adapters.cache_news import KEPT_S, CacheNews, News
from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_client import connect
from headgate.adapters.redis_rooms import Rooms
from headgate.adapters.status_map import CacheUnavailableError
from headgate.gateway.answer_cache import AnswerCache, Key
from headgate.gateway.entries import FACTS_BYTES, facts
from headgate.gateway.purges import Scope
from headgate.gateway.semantic_cache import SemanticCache

REPLY_S: Final = 3.0
"""Longer than the server waits for news before it says that there is none."""


class Purging:
    """One gateway's part in it."""

    def __init__(
        self,
        rooms: Rooms | None,
        cache: AnswerCache,
        redis_url: str | None,
        semantic: SemanticCache | None = None,
    ) -> None:
        """Without a Redis there is nothing to purge, and nobody to hear of."""
        self._rooms = rooms
        self._cache = cache
        self._semantic = semantic
        self._news = None
        self._telling: set[asyncio.Task[None]] = set()
        if redis_url is not None:
            client = connect(redis_url, REPLY_S, REPLY_S)
            news = self._news = CacheNews(client, self._recall, self._hear, cache.forget_all)
            cache.hears = lambda: news.hears
            cache.replaced = self._tell

    def start(self) -> None:
        """Begins to hear."""
        if self._news is not None:
            self._news.start()

    async def purge(self, scope: Scope) -> int:
        """How many were deleted from Redis. Raises CacheUnavailableError."""
        if self._news is None or self._rooms is None:
            raise CacheUnavailableError("this gateway has no Redis, and so no answer cache")
        try:
            told = {"tenant": scope.tenant, "model": scope.model, "tag": scope.tag}
            self._cache.purge(scope, await self._news.order(told))
            await self._purge_like(scope)
            return await self._rooms.purging.purge(scope.tenant, FACTS_BYTES, self._falls)
        except SideRoomError as error:
            why = f"Redis does not take the order ({error}): give it again"
            raise CacheUnavailableError(why, retry_after_s=1.0) from None

    async def close(self) -> None:
        """Hears no more."""
        if self._news is not None:
            await asyncio.gather(*self._telling)
            await self._news.close()

    async def _purge_like(self, scope: Scope) -> None:
        """Of who has it switched off all is deleted: it would be found again when it is switched on."""
        on = self._semantic.tenants if self._semantic else frozenset[str]()
        if self._semantic is not None:
            for tenant in on & {scope.tenant} if scope.tenant else on:
                await self._semantic.purge(tenant, scope.model, scope.tag)
        if self._rooms is not None:
            await self._rooms.purging.delete_like(scope.tenant, on)

    def _recall(self, news: News) -> None:
        """An order that stands. Memory is not looked through for it: it is about to be cleared."""
        scope, at = _order(news)
        self._cache.purges.order(scope, at)
        self._cache.purges.forget(time.time() - KEPT_S)

    def _hear(self, news: News) -> None:
        if "replaced" in news:
            self._cache.forget(bytes.fromhex(news["replaced"]))
            return
        scope, at = _order(news)
        self._cache.purge(scope, at)
        self._cache.purges.forget(time.time() - KEPT_S)

    def _falls(self, key: str, begin: bytes) -> bool:
        """Whether this is an entry that is not to be given again; what is none is of no use to anybody."""
        try:
            _, tenant, digest = key.split(":")
            known = facts(bytes.fromhex(digest), begin)
        except ValueError:
            return True
        return known is None or self._cache.purges.cover(tenant, known)

    def _tell(self, at: Key) -> None:
        task = asyncio.create_task(self._told(at))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _told(self, at: Key) -> None:
        if self._news is None:
            return
        try:
            await self._news.tell({"replaced": at.digest.hex()})
        except SideRoomError:
            # The others give the first answer from memory until it expires: it was right to give then.
            self._cache.degraded = True


def _order(news: News) -> tuple[Scope, float]:
    """Raises ValueError for what is none."""
    told = [news.get(name) for name in ("tenant", "model", "tag", "at")]
    if not all(isinstance(one, str) for one in told):
        raise ValueError("no order")
    *scope, at = (str(one) for one in told)
    instant = float(at)
    if not math.isfinite(instant):
        raise ValueError("an order of no instant")
    return Scope(*scope), instant
