"""When an answer may be used again: every rule of the answer cache stands in this file.

1. Only greedy queries are looked up and only their answers kept: temperature 0.
2. Only an answer that ended by itself is kept: not a cut one, not a declined one (a decline is the model's
   excuse, not an answer), not a fallback's (its model is not the one in the key). Other degradations do not
   touch the text.
3. The key digests everything an answer depends on: tenant, every sampling field, every message, the model
   that answers, its version, policy and bundle, and where a draft is to be read λ and who may answer. They
   are known only after the decision, which is pure and takes a fraction of a millisecond: hence the brain
   decides first, then the cache is asked, the worker last.
4. A value carries its key's digest and is thrown away when read under another key.
5. Whatever goes wrong here costs the caller 25 ms at most, never the answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from headgate.adapters.ports import SideRoomError, Store
from headgate.router.types import Decision
from headgate.v1 import router_pb2, types_pb2

JITTER: Final = 0.1
"""Share by which a time to live varies, so that entries made together do not expire together."""
MOST_PENDING: Final = 64
"""Writes under way; further ones are skipped."""
_DIGEST_BYTES: Final = 32
_FORMAT: Final = b"headgate answer 2"


@dataclass(frozen=True, slots=True)
class Key:
    """Where an answer is kept: the tenant in clear, so that its answers can be found, and a digest."""

    tenant: str
    digest: bytes

    def __str__(self) -> str:
        return f"answer:{self.tenant}:{self.digest.hex()}"


def key(tenant: str, query: types_pb2.Query, decision: Decision, model_version: str) -> Key:
    """The key of the answer that `decision.model` gives to the tenant's query."""
    parts = [
        _FORMAT,
        tenant.encode(),
        decision.model.encode(),
        model_version.encode(),
        decision.policy_version.encode(),
        decision.bundle_version.encode(),
        _read_under(decision),
        query.sampling.SerializeToString(deterministic=True),
        *(message.SerializeToString(deterministic=True) for message in query.messages),
    ]
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big"))
        hashed.update(part)
    return Key(tenant, hashed.digest())


def _read_under(decision: Decision) -> bytes:
    """Whether a draft is accepted hangs on λ and the hold-back as well, and any model that may answer can be
    the one that does; who answers without a draft is in the key already, but where that may be upgraded, a
    better model's answer takes its place."""
    if decision.prior is None:
        return f"to be upgraded by {decision.upgrade} {decision.lam!r}".encode() if decision.upgrade else b""
    held_back = decision.certificate.hold_back if decision.certificate else "at once"
    may = sorted(one.model for one in decision.estimates if not one.excluded_because)
    return f"{decision.lam!r} {held_back} {' '.join(may)}".encode()


def repeatable(query: types_pb2.Query) -> bool:
    """Whether the same query gets the same answer again: rule 1."""
    return query.sampling.temperature == 0


def keepable(answer: router_pb2.GenerateResponse) -> bool:
    """Whether the answer may be given again: rule 2."""
    fallback = types_pb2.DEGRADATION_WORKER in answer.decision.degraded
    return answer.finish_reason == types_pb2.FINISH_REASON_STOP and not fallback


class AnswerCache:
    """Answers of earlier requests."""

    def __init__(
        self, store: Store | None, ttl_s: float, jitter: Callable[[], float] = random.random
    ) -> None:
        """Without a store nothing is looked up and nothing kept. `jitter` draws from [0, 1)."""
        self.ttl_s = ttl_s
        self.enabled = store is not None
        self._store = store
        self._jitter = jitter
        self._pending: set[asyncio.Task[None]] = set()
        self.degraded = False
        """Whether the last use failed."""

    async def look_up(
        self, at: Key
    ) -> tuple[types_pb2.CacheStatus.ValueType, router_pb2.GenerateResponse | None]:
        """HIT and the answer, else MISS, BYPASS or UNAVAILABLE and None.

        Of its decision only what became of a draft is kept: the rest is made anew, by the same policy.
        """
        if self._store is None or not self.enabled:
            return types_pb2.CACHE_STATUS_BYPASS, None
        try:
            value = await self._store.get(str(at))
        except SideRoomError:
            self.degraded = True
            return types_pb2.CACHE_STATUS_UNAVAILABLE, None
        self.degraded = False
        answer = _open(at, value)
        return (types_pb2.CACHE_STATUS_MISS if answer is None else types_pb2.CACHE_STATUS_HIT), answer

    def keep(self, at: Key, answer: router_pb2.GenerateResponse) -> None:
        """Keeps the answer if the rules allow it; the write goes on beside the request."""
        if (
            self._store is None
            or not self.enabled
            or not keepable(answer)
            or len(self._pending) >= MOST_PENDING
        ):
            return
        task = asyncio.create_task(self._write(self._store, at, _seal(at, answer)))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def settle(self) -> None:
        """Waits for the writes under way."""
        await asyncio.gather(*self._pending)

    async def _write(self, store: Store, at: Key, value: bytes) -> None:
        ttl_s = self.ttl_s * (1 - JITTER + 2 * JITTER * self._jitter())
        try:
            await store.put(str(at), value, ttl_s)
        except SideRoomError:
            self.degraded = True


def _seal(at: Key, answer: router_pb2.GenerateResponse) -> bytes:
    kept = router_pb2.GenerateResponse(
        message=answer.message, finish_reason=answer.finish_reason, usage=answer.usage
    )
    if answer.HasField("escalation_offered"):
        kept.escalation_offered.CopyFrom(answer.escalation_offered)
    if answer.decision.drafted_by:
        for name in ("model", "drafted_by", "explanation"):
            setattr(kept.decision, name, getattr(answer.decision, name))
        kept.decision.estimates.extend(answer.decision.estimates)
    return at.digest + kept.SerializeToString()


def _open(at: Key, value: bytes | None) -> router_pb2.GenerateResponse | None:
    if value is None or value[:_DIGEST_BYTES] != at.digest:
        return None
    try:
        return router_pb2.GenerateResponse.FromString(value[_DIGEST_BYTES:])
    except DecodeError:
        return None
