"""Answers for questions that mean what an earlier one meant, and how seldom that is wrong.

An answer stays in the exact cache; here is only where to find it: the earlier question's vector and facts,
within a scope that holds everything else the answer depends on. The nearest entry whose facts do not differ
is a candidate. It is served where the audits of its route bound the share of wrong hits by what the operator
asks for. Audits cost nothing before that, for a candidate that is not served is compared with the answer
that its question gets anyway; of those that would be served a share, drawn at random, is not, and is audited.

Everything that is known comes from the tenant's stream (`adapters.semantic_feed`), in its order, so all
processes serve the same; while the stream is not heard there are no candidates, for a purge may be missed.
Nothing here waits: no method but `purge` asks anything of anybody.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import structlog

from headgate.adapters.config import OPEN_TENANT, Config, SemanticConfig
from headgate.adapters.semantic_events import Added, Audited, Begin, Purged
from headgate.adapters.semantic_feed import MOST_TENANTS, SemanticFeed
from headgate.adapters.semantic_stream import Told
from headgate.gateway import answer_cache, same_answer
from headgate.gateway.neighbours import Entry, Neighbours, Vector, is_meant, is_unit
from headgate.gateway.purges import SKEW_S
from headgate.router import guards
from headgate.router.embedding import Embedding
from headgate.router.hits import GRID, Audit, HitBound
from headgate.v1 import admin_pb2, types_pb2

_LOG = structlog.get_logger(__name__)
LONGEST: Final = 8_192
"""Characters of a question; longer ones, which are documents with a question, are only looked up exactly."""
LATE: Final = 64
"""Purges that are remembered: an entry may have been made before one and be written after it."""
MOST_BOUNDS: Final = 256
"""Routes of a tenant whose bound is kept at hand; others are made of their audits when they are asked for."""
_FORMAT: Final = b"headgate scope 1"
_ROUTE_BYTES: Final = 16
_ID_BYTES: Final = 16
_FLOATS: Final = np.dtype("<f4")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer that a question may be given."""

    entry: Entry
    similarity: float
    served: bool
    """Whether it may be given. Where not, it is to be compared with the answer that the question gets."""
    wrong_hits: float
    """The bound that it is served under: the largest share of wrong ones among those that are."""

    @property
    def key(self) -> answer_cache.Key:
        """Where the exact cache has it."""
        return answer_cache.Key(self.entry.tenant, self.entry.answer)


@dataclass(slots=True)
class _Known:
    """What a tenant's stream says besides its entries."""

    audits: dict[bytes, list[Audit]] = field(default_factory=dict)
    """By route, in the stream's order."""
    wrong: dict[bytes, list[Audited]] = field(default_factory=dict)
    """By route, too old to count: entries that are there still were found wrong by them."""
    bounds: OrderedDict[bytes, HitBound] = field(default_factory=OrderedDict)
    """Of the routes that were asked for last: what their audits come to."""
    serving: set[bytes] = field(default_factory=set)
    """Routes of which it was told that they serve."""
    noted: int = 0
    different: int = 0
    purges: deque[Purged] = field(default_factory=lambda: deque(maxlen=LATE))


def question(query: types_pb2.Query) -> str | None:
    """The last message's text, if a user asks and it is not too long."""
    if not query.messages or query.messages[-1].role != types_pb2.ROLE_USER:
        return None
    text = "\n".join(part.text for part in query.messages[-1].parts)
    return text if 0 < len(text) <= LONGEST else None


def without_question(query: types_pb2.Query) -> types_pb2.Query:
    """The query without its last message's text: what a scope and a route are made of."""
    rest = types_pb2.Query()
    rest.CopyFrom(query)
    if rest.messages:
        rest.messages[-1].ClearField("parts")
    return rest


def scope(rest: answer_cache.Key, embedding: Embedding) -> bytes:
    """32 bytes, from the exact cache's key of the query without its question.

    So a scope holds whatever an answer depends on, by the same rule as the exact cache.
    """
    hashed = hashlib.sha256(_FORMAT)
    for part in (embedding.version.encode(), rest.tenant.encode(), rest.digest):
        hashed.update(len(part).to_bytes(8, "big") + part)
    return hashed.digest()


def route(rest: types_pb2.Query) -> bytes:
    """16 bytes: errors are counted over all questions after the same messages, whichever model answers."""
    hashed = hashlib.blake2b(digest_size=_ROUTE_BYTES)
    for message in rest.messages:
        part = message.SerializeToString(deterministic=True)
        hashed.update(len(part).to_bytes(8, "big") + part)
    return hashed.digest()


def opted_in(config: Config) -> frozenset[str]:
    """Tenants that may be answered so; with an open gateway also who calls without a key."""
    named = {name for name, tenant in config.tenants.items() if tenant.semantic_cache}
    return frozenset(named | ({OPEN_TENANT} if config.gateway.open else set()))


class SemanticCache:
    """Candidates for questions, and what audits say of them."""

    def __init__(
        self,
        embedding: Embedding,
        feed: SemanticFeed,
        config: Config,
        count: Callable[[str], None] = lambda what: None,
        clock: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`count` is told what became of each question and audit, in the words of `headgate_semantic_total`.

        `clock` is POSIX time, in seconds; `draw` draws from [0, 1).
        """
        self.count = count
        self._embedding = embedding
        self._feed = feed
        self._clock = clock
        self._draw = draw
        self._neighbours = Neighbours(guards.difference, guards.shared)
        self._known: dict[str, _Known] = {}
        self._settings = SemanticConfig()
        self._pattern: re.Pattern[str] | None = None
        self._tenants: frozenset[str] = frozenset()
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Takes the settings as they are now; a new bound holds for the audits that there are."""
        new = config.cache.semantic
        if (new.wrong_hits, new.confidence) != (self._settings.wrong_hits, self._settings.confidence):
            for known in self._known.values():
                known.bounds.clear()
        self._settings = new
        self._pattern = re.compile(new.answer) if new.answer else None
        self._tenants = opted_in(config)
        for sentence in self.warnings:
            _LOG.warning(sentence)

    def start(self) -> None:
        """Begins to follow the streams."""
        self._feed.start(self._fold)

    async def close(self) -> None:
        """Follows no more."""
        await self._feed.close()

    @property
    def degraded(self) -> bool:
        """Whether it is on and cannot hear or say anything."""
        return self._settings.enabled and self._feed.degraded

    @property
    def warnings(self) -> list[str]:
        """What the operator should know of the settings, a sentence each."""
        if len(self.tenants) <= MOST_TENANTS:
            return []
        return [
            f"{len(self.tenants)} tenants have the semantic cache on; a gateway process serves it to "
            f"{MOST_TENANTS} of them at a time"
        ]

    @property
    def tenants(self) -> frozenset[str]:
        """Who may be answered so, where the operator wants it."""
        return self._tenants if self._settings.enabled else frozenset()

    def on(self, tenant: str) -> bool:
        """Whether the operator and the tenant want it."""
        return self._settings.enabled and tenant in self._tenants

    def look_up(self, scope: bytes, at: answer_cache.Key, text: str) -> Candidate | None:
        """The answer that the text may be given, or one to compare its own with; None where there is none.

        `at` is where the exact cache has the text's own answer, which is no candidate: the exact cache has
        refused to give it, and to compare it with what takes its place would show nothing.
        """
        tenant = at.tenant
        if not self.on(tenant):
            return None
        if not self._feed.hears(tenant):
            self.count("silent" if self._feed.follows(tenant) else "crowded")
            return None
        look = self._embedding.look(text)
        near = self._neighbours.nearest(scope, look.vector, look.facts, self._clock(), at.digest)
        # The scope holds the tenant; to look again costs nothing. What is too far away is never served, so
        # to compare it says nothing.
        if near is None or near.entry.tenant != tenant or near.similarity < GRID[-1]:
            self.count("none")
            return None
        served = self._bound(tenant, near.entry.route).serves(near.similarity, near.entry.id)
        drawn = served and self._draw() < self._settings.audit
        if drawn or not served:
            self.count("drawn" if drawn else "near")
        return Candidate(near.entry, near.similarity, served and not drawn, self._settings.wrong_hits)

    def keep(
        self,
        scope: bytes,
        route: bytes,
        key: answer_cache.Key,
        text: str,
        model: str,
        expires_at: float,
        tags: tuple[str, ...] = (),
    ) -> None:
        """Tells all processes of an answer that the exact cache has under the key until `expires_at`, in

        POSIX seconds: for so long at most the question is found.
        """
        if not self.on(key.tenant):
            return
        look, now = self._embedding.look(text), self._clock()
        if not is_unit(look.vector):
            return
        vector = look.vector.astype(_FLOATS).tobytes()
        added = Added(
            key.digest[:_ID_BYTES], scope, route, key.digest, vector, look.facts, model, tags,
            now, min(now + self._settings.ttl_s, expires_at),
        )  # fmt: skip
        self._feed.say(key.tenant, added)

    def audit(self, candidate: Candidate, cached: str, fresh: str | None) -> bool:
        """Tells all processes, and returns, whether a candidate that was not served would have been right.

        `fresh` is None where the question got an answer that is no other's: a declined one, or one cut off.
        """
        same = fresh is not None and same_answer.same_answer(cached, fresh, self._pattern)
        entry = candidate.entry
        self.count("same" if same else "different")
        self._feed.say(entry.tenant, Audited(entry.route, entry.id, candidate.similarity, same))
        return same

    def lost(self, candidate: Candidate) -> None:
        """The exact cache has no such answer any more."""
        self.count("gone")
        self._neighbours.forget(candidate.entry.id)

    async def purge(self, tenant: str, model: str = "", tag: str = "") -> None:
        """Forgets the tenant's entries, or a model's, or those with a tag, here and everywhere.

        Raises SideRoomError where that could not be told; then other processes may still have them.
        """
        purged = Purged(model, tag, self._clock())
        self._purge(tenant, purged)
        await self._feed.purge(tenant, purged)

    def standing(self, tenant: str) -> admin_pb2.SemanticStatus:
        """What is known of the tenant's hits; of bounds only those that are at hand."""
        known = self._known.get(tenant) or _Known()
        bounds = list(known.bounds.values())
        serving = [bound for bound in bounds if bound.threshold is not None]
        most = max(serving or bounds, key=lambda bound: bound.audits, default=None)
        return admin_pb2.SemanticStatus(
            tenant=tenant,
            heard=self._feed.hearing(tenant),
            audits=known.noted,
            different=known.different,
            kinds=len(known.audits),
            serving=len(serving),
            similarity=min((one.threshold for one in serving if one.threshold is not None), default=None),
            wrong_at_most=most.wrong_at_most if most is not None else None,
            wrong_hits=self._settings.wrong_hits,
            confidence=self._settings.confidence,
        )

    def _bound(self, tenant: str, route: bytes) -> HitBound:
        known = self._known.setdefault(tenant, _Known())
        bound = known.bounds.get(route)
        if bound is None:
            bound = known.bounds[route] = HitBound(self._settings.wrong_hits, self._settings.confidence)
            for wrong in known.wrong.get(route, ()):
                bound.bar(wrong.entry, wrong.similarity)
            bound.note_all(known.audits.get(route, ()))
            _tell(tenant, route, bound, known.serving)
            if len(known.bounds) > MOST_BOUNDS:
                known.bounds.popitem(last=False)
        known.bounds.move_to_end(route)
        return bound

    def _fold(self, tenant: str, told: Told) -> None:
        known = self._known.setdefault(tenant, _Known())
        match told:
            case Begin():
                del self._known[tenant]
                self._neighbours.purge(tenant)
            case Added():
                self._add(tenant, told, known)
            case Purged():
                self._purge(tenant, told)
            case Audited():
                self._note(tenant, known, told)
            case _:
                self._neighbours.forget(*told.gone)
                known.audits.clear()
                known.wrong.clear()
                known.bounds.clear()
                known.noted = known.different = 0
                for one in told.wrong:
                    known.wrong.setdefault(one.route, []).append(one)
                for audited in told.audits:
                    self._note(tenant, known, audited)

    def _add(self, tenant: str, added: Added, known: _Known) -> None:
        vector = _vector(added.vector)
        if vector is None:
            return
        entry = Entry(
            added.id, added.scope, tenant, added.route, added.answer, vector, added.facts, added.model,
            added.tags, added.made_at, added.expires_at,
        )  # fmt: skip
        late = (one for one in known.purges if added.made_at <= one.until + SKEW_S)
        if not any(is_meant(entry, one.model, one.tag) for one in late):
            self._neighbours.add(entry, self._clock())

    def _purge(self, tenant: str, purged: Purged) -> None:
        self._known.setdefault(tenant, _Known()).purges.append(purged)
        self._neighbours.purge(tenant, purged.model, purged.tag)

    def _note(self, tenant: str, known: _Known, audited: Audited) -> None:
        known.noted += 1
        known.different += not audited.same
        audit = Audit(audited.entry, audited.similarity, audited.same)
        known.audits.setdefault(audited.route, []).append(audit)
        bound = known.bounds.get(audited.route)
        if bound is not None:
            bound.note(audit)
            _tell(tenant, audited.route, bound, known.serving)


def _tell(tenant: str, route: bytes, bound: HitBound, serving: set[bytes]) -> None:
    """Logs when a route begins to serve, and when it is withdrawn."""
    serves = bound.threshold is not None
    if serves == (route in serving):
        return
    found = {"audits": bound.audits, "wrong_at_most": round(bound.wrong_at_most, 5)}
    about = {"tenant": tenant, "route": route.hex(), **found}
    if serves:
        serving.add(route)
        _LOG.info("answers of like questions are served", similarity=bound.threshold, **about)
    else:
        serving.discard(route)
        _LOG.warning("answers of like questions are served no more", **about)


def _vector(data: bytes) -> Vector | None:
    if len(data) % _FLOATS.itemsize:
        return None
    return np.frombuffer(data, _FLOATS).astype(np.float32)
