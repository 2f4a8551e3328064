"""One run of a job: from the right to run it to what became of it, in one function.

    claim ▶ StreamGenerate, as any client ▶ events into the job's stream ▶ done | failed | put back
            beside it: the lease is renewed, and looked after: a cancelled job ends its call at once

A run that fails in passing is put back; how often is for the record to count, which knows runs whose
runners did not live to tell. A run that the gateway never took up (no room, no gateway, a bad key) was none:
such a job waits for better times, until its own time is over. Records that are away for less than the time of
a lease cost nothing: what was to be written is held out to them again and again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import google.rpc.status_pb2 as status_pb2  # type: ignore[import-untyped]
import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from headgate.adapters import status_map, traces
from headgate.adapters import trace_words as words
from headgate.adapters.job_queue import LONGEST_RUN_S
from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_jobs import Lease, RedisJobs, State, new_fence
from headgate.adapters.telemetry import Note, unnoted
from headgate.jobs.heard import Heard
from headgate.jobs.relay import AGAIN_S, LostError, Relay
from headgate.v1 import router_pb2, router_pb2_grpc, types_pb2

LOOK_S: Final = 0.1
"""How often a run looks whether it still has its job: a cancel reaches the worker within a quarter second."""
RENEWALS: Final = 3
"""In the time of a lease: two may be lost."""
FIRST_PAUSE_S: Final = 5.0
GROWTH: Final = 4.0
LONGEST_PAUSE_S: Final = 60.0
MOST_GROWN: Final = 10
"""Between runs of a job, each pause so many times the one before: three runs outlast a worker's restart. What
the gateway says (RetryInfo) wins where it is longer."""

_FAILED: Final = ("failed", "again")
"""What a run became that has no answer, though nobody stopped it."""

_LOG = structlog.get_logger("headgate.jobs")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a run."""

    state: State
    """QUEUED is put back."""
    answer: bytes = b""
    error: bytes = b""
    pause_s: float = 0.0
    counted: bool = True
    became: str = "again"
    """For logs and counts."""
    cost_nanousd: int = 0
    """Of the answer."""


SENT_HOME: Final = Ending(State.QUEUED, counted=False, became="home")
"""Its runner is to stop: a deploy is no failure of the job's."""


class JobRunner:
    """Runs jobs; belongs to the event loop that it was made in."""

    def __init__(
        self,
        jobs: RedisJobs,
        channel: grpc.aio.Channel,
        key: str = "",
        draw: Callable[[], float] = random.random,
        note: Note = unnoted,
    ) -> None:
        self._jobs = jobs
        self._stub = router_pb2_grpc.RouterServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self._draw = draw
        self._note = note

    async def run(self, tenant: str, name: str, leave: asyncio.Event) -> None:
        """Runs the job if it is to be had; once `leave` is set it is put back. Raises SideRoomError."""
        if leave.is_set():
            return
        fence = new_fence()
        lease = await self._held_out(lambda: self._jobs.claim(tenant, name, fence), leave)
        if lease is None:
            # It has ended, is being run or was given up now; or there is no such job.
            _LOG.info("nothing to run", tenant=tenant, job=name)
            return
        with _entered(lease) as span:
            ending = await self._ending(lease, leave)
            written = ending is not None and await self._held_out(partial(self._written, lease, ending))
            became = ending.became if ending is not None and written else "stopped"
            self._note("headgate_job_runs_ended_total", lease.job_class, became)
            why = _reason(ending) if ending is not None else ""
            _LOG.info("run ended", tenant=tenant, job=name, run=lease.runs, became=became, why=why)
            if span.recording:
                span.set({words.JOB_BECAME: became, words.COST: ending.cost_nanousd if ending else 0})
                span.end(became if became in _FAILED else "OK")

    async def _ending(self, lease: Lease, leave: asyncio.Event) -> Ending | None:
        """How the run ends, the first of: its answer, its lease, its runner. None where it lost the job."""
        over = asyncio.Event()
        answer = asyncio.create_task(self._answered(lease))
        lost = asyncio.create_task(self._until_lost(lease, over))
        left = asyncio.create_task(leave.wait())
        try:
            await asyncio.wait({answer, lost, left}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            return lost.result() if lost.done() else SENT_HOME
        finally:
            over.set()
            answer.cancel()
            left.cancel()
            await asyncio.wait({answer, lost, left})

    async def _answered(self, lease: Lease) -> Ending | None:
        relay = Relay(self._jobs, lease)
        try:
            return await self._stream(lease, relay)
        except DecodeError:
            return _failed(status_map.to_status(status_map.InvalidRequestError("the query cannot be read")))
        except LostError:
            return None
        except Exception:
            # A fault of ours, or a process without memory: it may be the job's doing, and is counted.
            _LOG.exception("run broke", tenant=lease.tenant, job=lease.name, run=lease.runs)
            return self._again(_BROKE, lease, counted=True)
        finally:
            await relay.close()

    async def _stream(self, lease: Lease, relay: Relay) -> Ending:
        heard, begun = Heard(), time.monotonic()
        request = router_pb2.StreamGenerateRequest(query=types_pb2.Query.FromString(lease.query))
        # Waiting for a gateway that restarts is no failure of the job's.
        call = self._stub.StreamGenerate(
            request, timeout=_timeout(lease), metadata=self._credentials(lease), wait_for_ready=True
        )
        error = None
        try:
            async for event in call:
                if heard.add(event):
                    relay.add(event.SerializeToString())
        except grpc.aio.AioRpcError as failed:
            error = failed
        finally:
            call.cancel()
        await relay.flush()
        answer = heard.answer()
        if answer is not None:
            cost = answer.decision.cost_nanousd
            return Ending(State.DONE, answer.SerializeToString(), became="done", cost_nanousd=cost)
        why, passing = heard.failure(error)
        if not passing or time.monotonic() >= begun + lease.left_s:
            return _failed(why)
        return self._again(why, lease, counted=heard.begun)

    def _credentials(self, lease: Lease) -> tuple[tuple[str, str], ...]:
        metadata = self._metadata + traces.current().carried
        if not lease.ticket:
            return metadata
        said = (("headgate-ticket", lease.ticket), ("headgate-run", str(lease.begun)))
        return metadata + said + ((("headgate-upgrades", lease.upgrades),) if lease.upgrades else ())

    def _again(self, why: status_pb2.Status, lease: Lease, *, counted: bool) -> Ending:
        told = status_map.retry_after_s(why) or 0.0
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * GROWTH ** min(lease.begun - 1, MOST_GROWN))
        pause_s *= 0.5 + self._draw() / 2
        return Ending(
            State.QUEUED, error=why.SerializeToString(), pause_s=max(told, pause_s), counted=counted
        )

    async def _until_lost(self, lease: Lease, over: asyncio.Event) -> Ending | None:
        """Keeps the lease until the run is `over` or loses the job, or the records are away for its time.

        It is told and not cancelled: a command to Redis is let come to its end, and redis-py has been seen to
        keep a cancellation to itself.
        """
        ended = asyncio.create_task(over.wait())
        lease_s = self._jobs.terms.lease_s
        renewed = time.monotonic()
        while True:
            await asyncio.wait({ended}, timeout=LOOK_S)
            if over.is_set() or (now := time.monotonic()) >= renewed + lease_s:
                break
            renew = now >= renewed + lease_s / RENEWALS
            try:
                if not await (self._jobs.renew(lease) if renew else self._jobs.held(lease)):
                    return None
            except SideRoomError:
                renew = False
            renewed = now if renew else renewed
        ended.cancel()
        return _UNKEPT

    async def _held_out(self, ask: Callable[[], Awaitable[T]], leave: asyncio.Event | None = None) -> T:
        """What the records say, asked again and again for the time of a lease. Raises SideRoomError."""
        until = time.monotonic() + self._jobs.terms.lease_s
        while True:
            try:
                return await ask()
            except SideRoomError:
                if time.monotonic() > until or (leave is not None and leave.is_set()):
                    raise
            await asyncio.sleep(AGAIN_S)

    def _written(self, lease: Lease, ending: Ending) -> Awaitable[bool]:
        if ending.state is State.QUEUED:
            return self._jobs.put_back(lease, ending.error, ending.pause_s, counted=ending.counted)
        return self._jobs.end(
            lease, ending.state, answer=ending.answer, error=ending.error, cost_nanousd=ending.cost_nanousd
        )


_UNWRITTEN: Final = status_map.status(
    grpc.StatusCode.UNAVAILABLE, "RECORDS_UNAVAILABLE", "the job's events could not be written"
)
_UNKEPT: Final = Ending(State.QUEUED, error=_UNWRITTEN.SerializeToString(), counted=False)
"""That Redis was away for so long is no failure of the job's."""
_BROKE: Final = status_map.status(grpc.StatusCode.INTERNAL, "INTERNAL", "the job's runner failed")


def _entered(lease: Lease) -> traces.Span:
    """The run, as a part of the trace of the job's submission."""
    carried = ((traces.HEADER, lease.traceparent),)
    span = traces.entered(words.RUN_JOB, "consumer", lambda: carried)
    if span.recording:
        span.set({words.REQUEST_ID: lease.name, words.TENANT: lease.tenant, words.JOB_CLASS: lease.job_class,
                  words.JOB_RUN: lease.begun})  # fmt: skip
    return span


def _timeout(lease: Lease) -> float:
    """Seconds: a call of no time at all is refused where it is made, and not as one that came too late."""
    return max(0.001, min(lease.left_s, LONGEST_RUN_S))


def _reason(ending: Ending) -> str:
    """Why there is no answer, for a log: one of the house's words, never a text."""
    return status_map.reason_of(status_pb2.Status.FromString(ending.error))


def _failed(why: Any) -> Ending:
    return Ending(State.FAILED, error=why.SerializeToString(), became="failed")
