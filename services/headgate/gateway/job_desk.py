"""Takes jobs in and tells of them: between the wire and the records. Nothing here runs a job.

submit ─▶ record, durable ─▶ queue, a hint: what it loses, the reconciler queues again
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from dataclasses import replace
from typing import Final, Protocol, TypeVar

import google.rpc.status_pb2 as status_pb2  # type: ignore[import-untyped]
import grpc
import structlog

from headgate.adapters import status_map, traces
from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_jobs import ENDED, Happening, Record, RedisJobs, State, Submission
from headgate.adapters.status_map import (
    InvalidRequestError,
    JobExistsError,
    JobRecordsUnavailableError,
    JobUnknownError,
    KeyInvalidError,
)
from headgate.adapters.telemetry import Note, unnoted
from headgate.gateway import tickets
from headgate.v1 import jobs_pb2, router_pb2, types_pb2

_LOG = structlog.get_logger(__name__)
WITHIN_S: Final = 86_400
"""What a job has that does not say: a day."""
MOST_AHEAD_S: Final = 7 * 86_400
"""As long as a job may take at most."""
AT_ONCE: Final = 1_000
"""Records that are read at once in the search for those of a batch."""
LOOK_S: Final = (0.05, 2.0)
"""How long a watcher waits between looks while nobody wakes him: longer the longer nothing comes."""
_CLASSES: Final = {
    jobs_pb2.JOB_CLASS_UNSPECIFIED: "batch",
    jobs_pb2.JOB_CLASS_BATCH: "batch",
    jobs_pb2.JOB_CLASS_INTERACTIVE: "interactive",
}
_STATES: Final = {state: jobs_pb2.JobState.Value(f"JOB_STATE_{state.name}") for state in State}

T = TypeVar("T")


class Queue(Protocol):
    """Where a job waits for its runner."""

    async def put(self, tenant: str, name: str, job_class: str) -> None:
        """Queues it. Raises SideRoomError."""


class JobDesk:
    """One gateway's. Methods raise JobRecordsUnavailableError where Redis does not answer."""

    def __init__(self, jobs: RedisJobs, queue: Queue | None, pepper: bytes, note: Note = unnoted) -> None:
        """Without a queue every job is left to the reconciler."""
        self._note = note
        self._jobs = jobs
        self._queue = queue
        self._pepper = pepper
        self._telling: set[asyncio.Task[None]] = set()

    async def submit(self, tenant: str, request: jobs_pb2.SubmitJobRequest) -> jobs_pb2.Job:
        """The job, as it is written or was before. Raises JobExistsError or InvalidRequestError."""
        query = types_pb2.Query()
        query.CopyFrom(request.query)
        query.request_id = query.request_id or uuid.uuid4().hex
        job_class = _CLASSES[request.job_class]
        try:
            begins, expires = self._times(request, job_class, time.time())
        except InvalidRequestError:
            # One that was accepted when there was time, and is submitted again.
            record = await self._asked(self._jobs.read(tenant, query.request_id))
            if record is None:
                raise
            begins, expires = record.begins, record.expires
        one = self._accepted(tenant, query, job_class, request.batch_id, expires, begins=begins)
        if not await self._written(one) or begins:
            return await self.job(tenant, one.name)
        # Both at once: whoever submits waits for the slower one only.
        job, _ = await asyncio.gather(self.job(tenant, one.name), self._enqueue(one))
        return job

    def _times(self, request: jobs_pb2.SubmitJobRequest, job_class: str, now: float) -> tuple[float, float]:
        """From when on the job may run, 0 from now on, and until when."""
        at = max(now, request.not_before.ToNanoseconds() / 1e9)
        if at > now + MOST_AHEAD_S:
            raise InvalidRequestError("not_before: at most a week ahead")
        if job_class == "batch":
            at += self._jobs.terms.batch_hours.wait_s(at)
        # A day is counted from when it may run; who says less means from now.
        expires = now + request.within_s if request.within_s else at + WITHIN_S
        if at >= expires:
            raise InvalidRequestError("within_s: is over before the job may run, by not_before or the hours "
                                      "that the operator has for its class")  # fmt: skip
        return (at if at > now else 0.0), expires

    def _accepted(
        self,
        tenant: str,
        query: types_pb2.Query,
        job_class: str,
        batch: str,
        expires: float,
        upgrades: str = "",
        begins: float = 0.0,
    ) -> Submission:
        name = query.request_id
        packed = query.SerializeToString(deterministic=True)
        same = hashlib.sha256(b"\0".join((packed, job_class.encode(), batch.encode()))).digest()
        ticket = tickets.sign(self._pepper, tenant, name, time.time(), expires)
        traceparent = traces.current().traceparent
        return Submission(
            tenant, name, packed, same, job_class, batch, expires, ticket, upgrades, begins, traceparent
        )

    async def _written(self, one: Submission) -> bool:
        """Whether the record is new. Raises JobExistsError where another job has the name."""
        try:
            told = await self._jobs.submit(one)
        except SideRoomError:
            raise _away() from None
        if told == "other":
            raise JobExistsError("query.request_id: another query has this name")
        if told == "new":
            self._note("headgate_jobs_accepted_total", one.job_class)
        return told == "new"

    async def upgrade(self, tenant: str, query: types_pb2.Query, within_s: int, upgrades: str) -> None:
        """Queues what was answered once already, for a better answer. Durable when it returns; the queue is
        told later, for an answer waits. Raises as `submit`."""
        one = self._accepted(tenant, query, "escalation", "", time.time() + within_s, upgrades)
        if await self._written(one):
            task = asyncio.create_task(self._enqueue(one))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def settle(self) -> None:
        """Waits for what the queue is being told; it takes a second at most."""
        await asyncio.gather(*self._telling)

    async def _enqueue(self, one: Submission) -> None:
        """A queue that is away costs the job some seconds, and nothing else."""
        if self._queue is None:
            return
        try:
            await self._queue.put(one.tenant, one.name, one.job_class)
        except SideRoomError as error:
            _LOG.warning("job not queued, left to the reconciler", job=one.name, because=str(error))

    async def job(self, tenant: str, name: str) -> jobs_pb2.Job:
        """The job with its answer. Raises JobUnknownError."""
        return _wire(await self._record(tenant, name))

    async def cancel(self, tenant: str, name: str) -> jobs_pb2.Job:
        """Ends it. Raises JobUnknownError."""
        await self._record(tenant, name)
        await self._asked(self._jobs.cancel(tenant, name))
        return await self.job(tenant, name)

    async def replay(self, tenant: str, name: str) -> jobs_pb2.Job:
        """Queues it again if it is dead: the time that it lay so does not count. Raises JobUnknownError."""
        record = await self._record(tenant, name)
        expires = record.expires + time.time() - record.ended
        try:
            ticket = tickets.prolonged(self._pepper, record.ticket, expires)
        except KeyInvalidError:
            # The pepper is another one by now.
            ticket = tickets.sign(self._pepper, tenant, name, record.created, expires)
        if await self._asked(self._jobs.replay(tenant, name, expires, ticket)):
            again = Submission(tenant, name, b"", b"", record.job_class, "", 0.0, "")
            await self._enqueue(again)
        return await self.job(tenant, name)

    async def page(
        self, tenant: str, token: str, size: int, *, batch: str = "", dead: bool = False
    ) -> tuple[list[jobs_pb2.Job], str]:
        """Jobs without their answers, the newest first, and where the next page begins."""
        found: list[jobs_pb2.Job] = []
        before, at_once = _place(token), AT_ONCE if batch else size
        while True:
            names = await self._asked(self._jobs.names(tenant, before, at_once, dead=dead))
            records = await self._asked(self._jobs.listed(tenant, [name for name, _ in names]))
            for record, (_, before) in zip(records, names, strict=True):
                if record is not None and batch in ("", record.batch):
                    found.append(_wire(record, whole=False))
                if len(found) == size:
                    return found, f"{before:.6f}"
            if len(names) < at_once:
                return found, ""

    async def watch(self, tenant: str, name: str, after: str) -> AsyncIterator[jobs_pb2.WatchJobResponse]:
        """The job's events until it has ended. Raises JobUnknownError."""
        record = await self._record(tenant, name)
        pause = LOOK_S[0]
        async with self._jobs.bell(tenant, name) as bell:
            while True:
                bell.clear()
                # Read before its events: they have told everything of a job that had ended by then.
                ended = pause == LOOK_S[1] and (await self._record(tenant, name)).state in ENDED
                came = [one async for one in self._happenings(tenant, name, after)]
                for one in came:
                    after = one.event_id
                    yield await self._told(record, one)
                if any(one.state in ENDED for one in came[-1:]):
                    return
                if ended and not came:
                    job = _wire(await self._record(tenant, name))
                    yield jobs_pb2.WatchJobResponse(event_id=after, job=job)
                    return
                pause = LOOK_S[0] if came else min(2 * pause, LOOK_S[1])
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await bell.wait()

    async def _happenings(self, tenant: str, name: str, after: str) -> AsyncIterator[Happening]:
        try:
            async for one in self._jobs.happenings(tenant, name, after, 0):
                yield one
        except SideRoomError:
            raise _away() from None

    async def _told(self, record: Record, one: Happening) -> jobs_pb2.WatchJobResponse:
        """The event; of the record, as it was, only what does not change counts until the job has ended."""
        if one.state is None:
            part = router_pb2.StreamGenerateResponse.FromString(one.part)
            return jobs_pb2.WatchJobResponse(event_id=one.event_id, answer=part)
        if one.state in ENDED:
            job = _wire(await self._record(record.tenant, record.name))
        else:
            job = _wire(replace(record, state=one.state, ended=0.0, error=b""), whole=False)
        job.state, job.runs = _STATES[one.state], one.runs
        return jobs_pb2.WatchJobResponse(event_id=one.event_id, job=job)

    async def _record(self, tenant: str, name: str) -> Record:
        record = await self._asked(self._jobs.read(tenant, name))
        if record is None:
            raise JobUnknownError("there is no such job, or no longer")
        return record

    async def _asked(self, command: Awaitable[T]) -> T:
        try:
            return await command
        except SideRoomError:
            raise _away() from None


def _away() -> JobRecordsUnavailableError:
    return JobRecordsUnavailableError("the records of jobs cannot be reached", retry_after_s=1.0)


def _place(token: str) -> float:
    try:
        place = float(token or 0)
        round(place)
    except (ValueError, OverflowError):
        raise InvalidRequestError("page_token: this is none of ours") from None
    return place


def _wire(record: Record, *, whole: bool = True) -> jobs_pb2.Job:
    job = jobs_pb2.Job(
        job_id=record.name,
        state=_STATES[record.state],
        job_class=jobs_pb2.JobClass.Value(f"JOB_CLASS_{record.job_class.upper()}"),
        batch_id=record.batch,
        runs=record.runs,
    )
    job.create_time.FromMilliseconds(round(record.created * 1000))
    job.expire_time.FromMilliseconds(round(record.expires * 1000))
    if record.state is State.QUEUED and record.begins > time.time():
        job.not_before.FromMilliseconds(round(record.begins * 1000))
    if record.ended:
        job.end_time.FromMilliseconds(round(record.ended * 1000))
    if whole and record.state is State.DONE:
        job.answer.ParseFromString(record.answer)
    if record.state in (State.FAILED, State.DEAD):
        job.error.CopyFrom(_why(record))
    return job


def _why(record: Record) -> status_pb2.Status:
    if record.error:
        return status_pb2.Status.FromString(record.error)
    if record.state is State.FAILED:
        return status_map.to_status(
            status_map.DeadlineError("the job's time was over before it was answered")
        )
    times = "once" if record.runs == 1 else f"{record.runs} times"
    message = f"given up: its runner was lost {times}"
    return status_map.status(grpc.StatusCode.ABORTED, "JOB_DEAD", message)
