"""What is kept of a finished request, and how it gets into the ledger without anybody waiting for it.

A record holds facts about a request, never its text.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from headgate.adapters.ports import Ledger, SideRoomError
from headgate.v1 import router_pb2, types_pb2

_LOG = structlog.get_logger(__name__)
MOST_WAITING: Final = 2_000
"""Records that wait to be written; further ones are dropped and counted."""
BATCH: Final = 100
GATHER_S: Final = 0.02
"""How long the first record of a batch waits for others: one round trip then carries many."""
INSIST_S: Final = 2.0
"""How long a record is tried whose caller waits for it."""
_AGAIN_S: Final = 0.1
_PAUSE_S: Final = 0.5

Record = Mapping[str, str]


def request(
    tenant: str, decision: types_pb2.Decision, labels: Mapping[str, str], ended: Ended, now: float
) -> Record:
    """The record of a finished request; `now` in POSIX seconds."""
    return {
        "kind": "request",
        "at": f"{now:.3f}",
        "tenant": tenant,
        "request_id": decision.request_id,
        "model": decision.model,
        "code": ended.code,
        "finish_reason": ended.finish_reason,
        "latency_ms": f"{ended.latency_s * 1000:.3f}",
        "labels": json.dumps(dict(labels)),
        **_decided(decision),
        **_spent(decision, ended.usage),
    }


def outcome(tenant: str, message: router_pb2.RecordOutcomeRequest, now: float) -> Record:
    """The record of what somebody says of an answer."""
    return {
        "kind": "outcome",
        "at": f"{now:.3f}",
        "tenant": tenant,
        "request_id": message.request_id,
        "model": message.model,
        "quality": repr(message.quality),
        "source": router_pb2.OutcomeSource.Name(message.source),
    }


class Ended:
    """How a request ended."""

    __slots__ = ("code", "finish_reason", "latency_s", "usage")

    def __init__(
        self, code: str, latency_s: float, finish_reason: str = "", usage: types_pb2.Usage | None = None
    ) -> None:
        """`code` is a google.rpc.Code name; `usage` is the delivered answer's."""
        self.code = code
        self.latency_s = latency_s
        self.finish_reason = finish_reason
        self.usage = usage or types_pb2.Usage()


def _decided(decision: types_pb2.Decision) -> Record:
    estimates = [
        [e.model, e.p_correct if e.HasField("p_correct") else None, e.expected_cost_nanousd]
        for e in decision.estimates
    ]
    return {
        "reason": types_pb2.Reason.Name(decision.reason),
        "lambda": repr(getattr(decision, "lambda")),
        "estimates": json.dumps(estimates),
        "bundle_version": decision.bundle_version,
        "policy_version": decision.policy_version,
        "certificate": decision.certificate.id,
        "cache": types_pb2.CacheStatus.Name(decision.cache_status),
        "degraded": ",".join(types_pb2.Degradation.Name(one) for one in decision.degraded),
        "out_of_distribution": repr(decision.out_of_distribution),
    }


def _spent(decision: types_pb2.Decision, usage: types_pb2.Usage) -> Record:
    attempts = [[one.model, one.code, one.cost_nanousd] for one in decision.attempts]
    return {
        "attempts": json.dumps(attempts),
        "expected_cost_nanousd": str(decision.expected_cost_nanousd),
        "cost_nanousd": str(decision.cost_nanousd),
        "prompt_tokens": str(usage.prompt_tokens),
        "completion_tokens": str(usage.completion_tokens),
        "overhead_ms": f"{decision.overhead.ToMicroseconds() / 1000:.3f}",
    }


class Recorder:
    """Writes records beside the requests, in order, from a bounded queue."""

    def __init__(self, ledger: Ledger | None, dropped: Callable[[int], None]) -> None:
        """Without a ledger every record is dropped. `dropped` is told how many were."""
        self._ledger = ledger
        self._dropped = dropped
        self._waiting: deque[Record] = deque()
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self.degraded = ledger is None
        """Whether records cannot be written now."""

    def start(self) -> None:
        """Begins to write."""
        if self._ledger is not None:
            self._writer = asyncio.create_task(self._write(self._ledger))

    def record(self, record: Record) -> None:
        """Hands a record over; drops it when too many wait."""
        if self._ledger is None or len(self._waiting) >= MOST_WAITING:
            self.degraded = True
            self._dropped(1)
            return
        self._waiting.append(record)
        self._wake.set()

    async def record_now(self, record: Record, within_s: float) -> None:
        """Writes a record before it returns, perhaps twice.

        Raises SideRoomError when that has not worked for `within_s`, at most 2 s. The ledger's own caps are
        short, since it stands beside requests; here the write is the request, and a hiccup is waited out.
        """
        if self._ledger is None:
            raise SideRoomError("no ledger")
        give_up_at = time.monotonic() + min(within_s, INSIST_S) - _AGAIN_S
        while True:
            try:
                return await self._ledger.append([record])
            except SideRoomError:
                if time.monotonic() >= give_up_at:
                    raise
            await asyncio.sleep(_AGAIN_S)

    async def close(self) -> None:
        """Writes what waits, in one more try, and stops."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        while self._ledger is not None and self._waiting:
            if not await self._append(self._ledger, self._next()):
                break
        if self._waiting:
            self._dropped(len(self._waiting))

    async def _write(self, ledger: Ledger) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(GATHER_S)
            while self._waiting:
                if not await self._append(ledger, self._next()):
                    await asyncio.sleep(_PAUSE_S)

    def _next(self) -> list[Record]:
        return [self._waiting[i] for i in range(min(BATCH, len(self._waiting)))]

    async def _append(self, ledger: Ledger, batch: list[Record]) -> bool:
        """Whether the batch is done with. One that failed is written again, perhaps twice."""
        try:
            await ledger.append(batch)
        except SideRoomError:
            self.degraded = True
            return False
        except Exception:
            # What no later try can mend must not end the ledger for all records after it.
            _LOG.exception("records dropped", count=len(batch))
            self._dropped(len(batch))
            self.degraded = True
        else:
            self.degraded = False
        for _ in batch:
            self._waiting.popleft()
        return True
