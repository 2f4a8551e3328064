"""What is kept of a finished request, and how it gets into the ledger without anybody waiting for it.

A record holds facts about a request, never its text. Readers fold on `record_id`: a record may be written
more than once, because a write whose reply never came is made again. A job may be run more than once, and is
charged once: its records say which `run` each is, and `headgate.adapters.ledger` says which one counts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import structlog

from headgate.adapters.ports import Ledger, SideRoomError
from headgate.gateway.admission import Run
from headgate.v1 import router_pb2, types_pb2

_LOG = structlog.get_logger(__name__)
MOST_WAITING: Final = 2_000
"""Records that wait to be written; further ones are dropped and counted."""
BATCH: Final = 100
"""What one round trip carries: few trips for a full queue, and little to write again."""
GATHER_S: Final = 0.02
"""How long the first record of a batch waits for others: one round trip then carries many."""
INSIST_S: Final = 2.0
"""How long a record is tried whose caller waits for it."""
CLOSE_S: Final = 1.0
"""How long the end of the process waits for the ledger: operators give a drain two seconds to spare."""
_AGAIN_S: Final = 0.1
"""Between tries while a caller waits: soon enough for a hiccup."""
_PAUSE_S: Final = 0.5
"""Between tries while nobody waits: the queue bridges it."""

Record = Mapping[str, str]


def request(
    tenant: str,
    decision: types_pb2.Decision,
    labels: Mapping[str, str],
    ended: Ended,
    now: float,
    run: Run | None = None,
) -> Record:
    """The record of a finished request; `now` in POSIX seconds. `run` is a job's whose query this is."""
    return {
        "kind": "request",
        "record_id": _new_id(),
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
        **_ran(decision, run),
    }


def outcome(tenant: str, message: router_pb2.RecordOutcomeRequest, now: float) -> Record:
    """The record of what somebody says of an answer."""
    return {
        "kind": "outcome",
        "record_id": _new_id(),
        "at": f"{now:.3f}",
        "tenant": tenant,
        "request_id": message.request_id,
        "model": message.model,
        "quality": repr(message.quality),
        "source": router_pb2.OutcomeSource.Name(message.source),
    }


def log(record: Record) -> None:
    """A line for a finished request, at debug: operators have the ledger, the metrics and the traces."""
    if _LOG.is_enabled_for(logging.DEBUG):
        _LOG.debug("request ended", **{name: record[name] for name in _LOGGED})


_LOGGED: Final = (
    "request_id", "tenant", "code", "model", "reason", "drafted_by", "lambda", "certificate", "cache",
    "degraded", "cost_nanousd", "latency_ms",
)  # fmt: skip
"""Not the labels, which are a caller's own words."""


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


def _new_id() -> str:
    return uuid.uuid4().hex


def _decided(decision: types_pb2.Decision) -> Record:
    estimates = [
        [e.model, e.p_correct if e.HasField("p_correct") else None, e.expected_cost_nanousd]
        for e in decision.estimates
    ]
    return {
        "reason": types_pb2.Reason.Name(decision.reason),
        "drafted_by": decision.drafted_by,
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


def _ran(decision: types_pb2.Decision, run: Run | None) -> Record:
    # A ticket speaks of one job: what a runner asks beside it is a request as any other.
    if run is None or run.ticket.job != decision.request_id:
        return {}
    return {"run": str(run.number), "job_since": str(run.ticket.since)}


class Recorder:
    """Writes records beside the requests, in order, from a bounded queue."""

    def __init__(self, ledger: Ledger | None, dropped: Callable[[int], None]) -> None:
        """Without a ledger every record is dropped. `dropped` is told how many were."""
        self._ledger = ledger
        self._dropped = dropped
        self._waiting: deque[Record] = deque()
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
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
        """Writes a record before it returns.

        Raises SideRoomError when that has not worked for `within_s`, at most 2 s; it may be written all the
        same. Here the write is the request, and a hiccup is waited out.
        """
        if self._ledger is None:
            raise SideRoomError("no ledger")
        try:
            # Before the caller's own deadline, so that it hears why. What was sent is not taken back.
            async with asyncio.timeout(min(within_s, INSIST_S) - _AGAIN_S):
                await _insist(self._ledger, record)
        except TimeoutError:
            raise SideRoomError("not written in time") from None

    async def close(self) -> None:
        """Writes what waits, in one more try and within `CLOSE_S`, and stops.

        A write under way is waited for: cancelled, it would go on unseen, and its batch be written again.
        """
        self._closing.set()
        self._wake.set()
        if self._writer is not None:
            await asyncio.wait({self._writer}, timeout=CLOSE_S)
            self._writer.cancel()
        if self._waiting:
            self._dropped(len(self._waiting))

    async def _write(self, ledger: Ledger) -> None:
        while not self._closing.is_set():
            await self._wake.wait()
            self._wake.clear()
            await self._pause(GATHER_S)
            while self._waiting and not self._closing.is_set():
                if not await self._append(ledger, self._next()):
                    await self._pause(_PAUSE_S)
        while self._waiting and await self._append(ledger, self._next()):
            pass

    async def _pause(self, seconds: float) -> None:
        """Waits, but not on when the recorder closes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    def _next(self) -> list[Record]:
        return [self._waiting[i] for i in range(min(BATCH, len(self._waiting)))]

    async def _append(self, ledger: Ledger, batch: list[Record]) -> bool:
        """Whether the batch is done with. One that failed is written again, under the same ids."""
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


async def _insist(ledger: Ledger, record: Record) -> None:
    """Writes a record, for as long as it takes."""
    while True:
        try:
            return await ledger.append([record])
        except SideRoomError:
            await asyncio.sleep(_AGAIN_S)
