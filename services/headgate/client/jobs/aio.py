"""Jobs for asyncio; the same methods as `Jobs`, awaited.

async with AsyncClient("127.0.0.1:7070") as client:
    job = await client.jobs.submit("12 + 30 = ?")
    async with client.jobs.watch(job.job_id) as stream:
        async for text in stream.texts():
            print(text, end="")
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import datetime
from typing import Self, TypeVar, Unpack

import grpc
import grpc.aio

from headgate.client.channel import Connection
from headgate.client.errors import Cancelled, HeadgateError, Unavailable, from_call
from headgate.client.jobs import convert
from headgate.client.jobs.patience import Patience
from headgate.client.jobs.progress import WATCH_S, Following, Submission
from headgate.client.jobs.types import Job, JobClass, JobEvent, JobRequest, Refused
from headgate.client.link import AsyncLink
from headgate.client.types import Conversation, Delta, Options
from headgate.v1 import jobs_pb2

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_SubmitCall = grpc.aio.StreamStreamCall[jobs_pb2.SubmitJobsRequest, jobs_pb2.SubmitJobsResponse]
_WatchCall = grpc.aio.UnaryStreamCall[jobs_pb2.WatchJobRequest, jobs_pb2.WatchJobResponse]


class AsyncJobs:
    """`client.jobs`: queries that are answered later, and never lost. Every method raises HeadgateError."""

    def __init__(self, link: AsyncLink, connection: Connection) -> None:
        self._connection = connection
        self._link = link

    async def submit(
        self,
        conversation: Conversation,
        *,
        job_class: JobClass = "batch",
        batch: str = "",
        within_s: int = 0,
        not_before: datetime | None = None,
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> Job:
        """Queues one query. The option `request_id` names the job: submitting it again gives the same job."""
        job = JobRequest(conversation, job_class, batch, within_s, options, not_before)
        response = await self._call(lambda link: link.jobs_stub.SubmitJob, convert.to_submit(job), timeout_s)
        return convert.from_job(response.job)

    async def submit_many(
        self, jobs: Iterable[JobRequest] | AsyncIterable[JobRequest], *, timeout_s: float | None = None
    ) -> AsyncIterator[Job | Refused]:
        """Queues many, and says of each in turn what became of it. Reads `jobs` a bounded way ahead of that.

        After a broken connection it goes on by itself, and gives up `timeout_s` after the last sign of life.
        """
        submission = Submission(Patience(self._connection.deadline(timeout_s)))
        source = _each(jobs)
        while submission.waits or not submission.exhausted:
            async for outcome in self._submit_some(submission, source, timeout_s):
                yield outcome

    async def get(self, job_id: str, *, timeout_s: float | None = None) -> Job:
        """What became of a job; NotFound if there is none, or no longer."""
        request = jobs_pb2.GetJobRequest(job_id=job_id)
        return convert.from_job(
            (await self._call(lambda link: link.jobs_stub.GetJob, request, timeout_s)).job
        )

    def watch(self, job_id: str, *, after: str = "", timeout_s: float | None = None) -> AsyncJobStream:
        """A job's events as they come, until it has ended: from its beginning, or after the event `after`.

        After a broken connection it goes on by itself, and gives up `timeout_s` after that if nobody answers.
        """
        patience = Patience(self._connection.deadline(timeout_s))
        return AsyncJobStream(self._link.settle, self._watch, Following(job_id, after, patience))

    async def list(
        self, batch: str = "", *, page_size: int = 0, timeout_s: float | None = None
    ) -> AsyncIterator[Job]:
        """The tenant's jobs, or those of a batch, the newest first and without answers; page by page."""
        request = jobs_pb2.ListJobsRequest(batch_id=batch, page_size=page_size)
        while True:
            page = await self._call(lambda link: link.jobs_stub.ListJobs, request, timeout_s)
            for job in page.jobs:
                yield convert.from_job(job)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def cancel(self, job_id: str, *, timeout_s: float | None = None) -> Job:
        """Ends a job; one that has ended stays as it is."""
        request = jobs_pb2.CancelJobRequest(job_id=job_id)
        return convert.from_job(
            (await self._call(lambda link: link.jobs_stub.CancelJob, request, timeout_s)).job
        )

    async def dead(self, *, page_size: int = 0, timeout_s: float | None = None) -> AsyncIterator[Job]:
        """Jobs that were given up, with the reason, the newest first; page by page."""
        request = jobs_pb2.ListDeadJobsRequest(page_size=page_size)
        while True:
            page = await self._call(lambda link: link.jobs_stub.ListDeadJobs, request, timeout_s)
            for job in page.jobs:
                yield convert.from_job(job)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def replay(self, job_id: str, *, timeout_s: float | None = None) -> Job:
        """Queues a dead job again; any other stays as it is."""
        request = jobs_pb2.ReplayDeadJobRequest(job_id=job_id)
        return convert.from_job(
            (await self._call(lambda link: link.jobs_stub.ReplayDeadJob, request, timeout_s)).job
        )

    async def _submit_some(
        self, submission: Submission, source: AsyncIterator[JobRequest], timeout_s: float | None
    ) -> AsyncIterator[Job | Refused]:
        """One call's worth, or as far as it comes."""
        await self._link.settle()
        call: _SubmitCall = self._link.jobs_stub.SubmitJobs(
            timeout=self._connection.deadline(timeout_s), metadata=self._connection.metadata()
        )
        submission.begin()
        try:
            await _fill(call, submission, source)
            while submission.waits:
                response = await _next(call)
                if response is None or isinstance(response, HeadgateError):
                    await asyncio.sleep(submission.wait_s(response, time.monotonic()))
                    return
                yield submission.settle(response)
                await _fill(call, submission, source)
            await _next(call)
        except _BrokeError:
            broke = Unavailable("the connection broke", code=grpc.StatusCode.UNAVAILABLE)
            await asyncio.sleep(submission.wait_s(broke, time.monotonic()))
        finally:
            call.cancel()

    def _watch(self, request: jobs_pb2.WatchJobRequest) -> _WatchCall:
        timeout_s = self._connection.deadline(WATCH_S)
        return self._link.jobs_stub.WatchJob(request, timeout=timeout_s, metadata=self._connection.metadata())

    async def _call(
        self,
        choose: Callable[[AsyncLink], grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]],
        request: _Request,
        timeout_s: float | None,
    ) -> _Response:
        timeout = self._connection.deadline(timeout_s)
        try:
            return await self._link.unary(choose, request, timeout, self._connection.metadata())
        except grpc.aio.AioRpcError as error:
            raise from_call(error) from None


class AsyncJobStream:
    """The events of one job; leaving it early, by `async with` or `cancel`, does nothing to the job."""

    def __init__(
        self,
        settle: Callable[[], Awaitable[object]],
        open_call: Callable[[jobs_pb2.WatchJobRequest], _WatchCall],
        following: Following,
    ) -> None:
        self._settle, self._open = settle, open_call
        self._following = following
        self._call: _WatchCall | None = None
        self._left = asyncio.Event()

    @property
    def job(self) -> Job | None:
        """Its latest state, with answer or error at the end; None before the first event."""
        return self._following.job

    @property
    def text(self) -> str:
        """The text of the latest run, as far as it was seen."""
        return self._following.text

    @property
    def last_event_id(self) -> str:
        """For a `watch` that goes on after what was seen, in another process even."""
        return self._following.after

    async def __aiter__(self) -> AsyncIterator[JobEvent]:
        while not self._following.ended:
            began = time.monotonic()
            error: HeadgateError | None = None
            await self._settle()
            call = self._call = self._open(self._following.request())
            if self._left.is_set():
                # `cancel` came while it settled, and knew no call.
                call.cancel()
            try:
                async for response in call:
                    event = self._following.feed(response)
                    if event is not None:
                        yield event
                    if self._following.ended:
                        return
            except grpc.aio.AioRpcError as failure:
                error = from_call(failure)
            except asyncio.CancelledError:
                # By `cancel`; where the task itself was cancelled, that goes on.
                if not self._left.is_set():
                    raise
            finally:
                call.cancel()
            await self._pause(error, began)

    async def texts(self) -> AsyncIterator[str]:
        """Only the text, as it comes; where a run failed, the next one begins from the beginning."""
        async for event in self:
            if isinstance(event.what, Delta):
                yield event.what.text

    def cancel(self) -> None:
        """Ends the watch; harmless after its end."""
        self._left.set()
        if self._call is not None:
            self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    async def _pause(self, error: HeadgateError | None, began: float) -> None:
        now = time.monotonic()
        if not self._left.is_set():
            wait_s = self._following.wait_s(error, now - began, now)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), wait_s)
        if self._left.is_set():
            raise Cancelled("the watch was left", code=grpc.StatusCode.CANCELLED)


async def _each(jobs: Iterable[JobRequest] | AsyncIterable[JobRequest]) -> AsyncIterator[JobRequest]:
    if isinstance(jobs, AsyncIterable):
        async for job in jobs:
            yield job
    else:
        for job in jobs:
            yield job


class _BrokeError(Exception):
    """The call could not be written to. gRPC hides how it ended; the next call's first answer tells."""


async def _fill(call: _SubmitCall, submission: Submission, source: AsyncIterator[JobRequest]) -> None:
    """Sends as much as may be on its way."""
    while submission.may_send:
        request = submission.again()
        if request is None:
            job = await anext(source, None)
            if job is None:
                submission.exhausted = True
                break
            request = submission.take(job)
        await _written(call.write(request))
    if submission.all_is_sent:
        await _written(call.done_writing())


async def _written(writing: Awaitable[None]) -> None:
    try:
        await writing
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        raise _BrokeError from None


async def _next(call: _SubmitCall) -> jobs_pb2.SubmitJobsResponse | HeadgateError | None:
    """The next answer, how the call broke, or None where it ended."""
    try:
        response = await call.read()
    except grpc.aio.AioRpcError as error:
        return from_call(error)
    return response if isinstance(response, jobs_pb2.SubmitJobsResponse) else None
