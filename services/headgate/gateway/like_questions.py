"""Where the semantic cache meets a request: its question is looked up, kept, and compared.

a miss ─▶ nearest question ─┬─ served ─▶ its answer, from the exact cache
                            └─ near, or drawn for an audit ─▶ a model answers ─▶ both answers are compared

Compared is what would have been given, read while the model answers, with what the question got. Of the
requests that end without an answer of the model's own nothing is known; they are counted apart, and a
declined or cut answer is a difference: to leave out what goes wrong would hide wrong hits.

Whatever goes wrong here is a miss, and never costs a request its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog

from headgate.adapters.ports import SideRoomError
from headgate.gateway import convert, semantic_cache
from headgate.gateway.answer_cache import AnswerCache, Key
from headgate.gateway.entries import Entry
from headgate.gateway.semantic_cache import Candidate, SemanticCache
from headgate.router.embedding import Embedding
from headgate.v1 import router_pb2, types_pb2

_LOG = structlog.get_logger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a query's question stands among others."""

    tenant: str
    scope: bytes
    route: bytes
    text: str


@dataclass(slots=True, eq=False)
class Comparison:
    """A candidate that is not served, and its answer as it is while the question is asked."""

    candidate: Candidate
    cached: asyncio.Task[Entry | None]
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Near:
    """What a look-up came to: an answer that may be given, or a comparison to be made, or neither."""

    candidate: Candidate | None = None
    entry: Entry | None = None
    comparison: Comparison | None = None


NOTHING: Final = Near()


class LikeQuestions:
    """One gateway's."""

    def __init__(self, semantic: SemanticCache, cache: AnswerCache, embedding: Embedding) -> None:
        self._semantic = semantic
        self._cache = cache
        self._embedding = embedding
        self._tasks: set[asyncio.Task[Any]] = set()

    def on(self, tenant: str) -> bool:
        """Whether the operator and the tenant want it."""
        return self._semantic.on(tenant)

    def place(
        self, tenant: str, query: types_pb2.Query, key_of: Callable[[types_pb2.Query], Key]
    ) -> Place | None:
        """The query's, where the tenant wants it and it asks something; `key_of` is the exact cache's."""
        if not self.on(tenant):
            return None
        try:
            text = semantic_cache.question(query)
            if text is None:
                return None
            rest = semantic_cache.without_question(query)
            scope = semantic_cache.scope(key_of(rest), self._embedding)
            return Place(tenant, scope, semantic_cache.route(rest), text)
        except Exception:
            self._failed("a question has no place among others")
            return None

    async def find(self, place: Place, at: Key, fits: Callable[[Entry], bool]) -> Near:
        """The nearest question's answer where that may be given; `at` is where the query's own would be."""
        try:
            candidate = self._semantic.look_up(place.scope, at, place.text)
            if candidate is None:
                return NOTHING
        except Exception:
            self._failed("a like question was not looked up")
            return NOTHING
        if not candidate.served:
            return Near(comparison=Comparison(candidate, self._beside(self._read(candidate, fits))))
        entry = await self._read(candidate, fits)
        if entry is None:
            return NOTHING
        self._semantic.count("served")
        return Near(candidate, entry)

    def keep(self, place: Place, at: Key, entry: Entry) -> None:
        """Lets the question be found by others that mean the same."""
        try:
            self._semantic.keep(
                place.scope, place.route, at, place.text, entry.model, entry.expires_at, entry.tags
            )
        except Exception:
            self._failed("a question was not kept")

    def compare(self, comparison: Comparison, fresh: router_pb2.GenerateResponse) -> None:
        """Audits the candidate, beside the request, by the answer that a model has just given instead."""
        comparison.ended = True
        ended = fresh.finish_reason == types_pb2.FINISH_REASON_STOP
        self._beside(self._compare(comparison, convert.text(fresh.message) if ended else None))

    def leave(self, comparison: Comparison) -> None:
        """The request is over; where nothing was compared, nothing is known."""
        if not comparison.ended:
            comparison.ended = True
            self._semantic.count("unknown")

    async def settle(self) -> None:
        """Waits for what is being read and compared."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def _read(self, candidate: Candidate, fits: Callable[[Entry], bool]) -> Entry | None:
        """What is given, or would be."""
        try:
            return self._fitting(candidate, await self._cache.peek(candidate.key, fits), fits)
        except SideRoomError:
            self._semantic.count("silent")
            return None
        except Exception:
            self._failed("a like question's answer was not read")
            return None

    def _fitting(
        self, candidate: Candidate, entry: Entry | None, fits: Callable[[Entry], bool]
    ) -> Entry | None:
        if entry is None:
            self._semantic.lost(candidate)
            return None
        if not fits(entry):
            self._semantic.count("gone")
            return None
        return entry

    async def _compare(self, comparison: Comparison, fresh: str | None) -> None:
        try:
            entry = await comparison.cached
            if entry is not None:
                self._semantic.audit(comparison.candidate, convert.text(entry.answer.message), fresh)
        except Exception:
            self._failed("two answers were not compared")

    def _beside(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _failed(self, what: str) -> None:
        _LOG.exception(what)
        self._semantic.count("failed")
