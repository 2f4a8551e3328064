"""Jobs for threads.

with Client("127.0.0.1:7070") as client:
    job = client.jobs.submit("12 + 30 = ?")
    with client.jobs.watch(job.job_id) as stream:
        for text in stream.texts():
            print(text, end="")
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from datetime import datetime
from queue import SimpleQueue
from typing import Self, TypeVar, Unpack

import grpc

from headgate.client.channel import Connection
from headgate.client.errors import Cancelled, HeadgateError, from_call
from headgate.client.jobs import convert
from headgate.client.jobs.patience import Patience
from headgate.client.jobs.progress import WATCH_S, Following, Submission
from headgate.client.jobs.types import Job, JobClass, JobEvent, JobRequest, Refused
from headgate.client.link import Link
from headgate.client.types import Conversation, Delta, Options
from headgate.v1 import jobs_pb2

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Jobs:
    """`client.jobs`: queries that are answered later, and never lost. Every method raises HeadgateError."""

    def __init__(self, link: Link, connection: Connection) -> None:
        self._connection = connection
        self._link = link

    def submit(
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
        return convert.from_job(
            self._call(lambda link: link.jobs_stub.SubmitJob, convert.to_submit(job), timeout_s).job
        )

    def submit_many(
        self, jobs: Iterable[JobRequest], *, timeout_s: float | None = None
    ) -> Iterator[Job | Refused]:
        """Queues many, and says of each in turn what became of it. Reads `jobs` a bounded way ahead of that.

        After a broken connection it goes on by itself, and gives up `timeout_s` after the last sign of life.
        """
        submission = Submission(Patience(self._connection.deadline(timeout_s)))
        source = iter(jobs)
        while submission.waits or not submission.exhausted:
            yield from self._submit_some(submission, source, timeout_s)

    def get(self, job_id: str, *, timeout_s: float | None = None) -> Job:
        """What became of a job; NotFound if there is none, or no longer."""
        request = jobs_pb2.GetJobRequest(job_id=job_id)
        return convert.from_job(self._call(lambda link: link.jobs_stub.GetJob, request, timeout_s).job)

    def watch(self, job_id: str, *, after: str = "", timeout_s: float | None = None) -> JobStream:
        """A job's events as they come, until it has ended: from its beginning, or after the event `after`.

        After a broken connection it goes on by itself, and gives up `timeout_s` after that if nobody answers.
        """
        patience = Patience(self._connection.deadline(timeout_s))
        return JobStream(self._watch, Following(job_id, after, patience))

    def list(self, batch: str = "", *, page_size: int = 0, timeout_s: float | None = None) -> Iterator[Job]:
        """The tenant's jobs, or those of a batch, the newest first and without answers; page by page."""
        request = jobs_pb2.ListJobsRequest(batch_id=batch, page_size=page_size)
        while True:
            page = self._call(lambda link: link.jobs_stub.ListJobs, request, timeout_s)
            yield from map(convert.from_job, page.jobs)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def cancel(self, job_id: str, *, timeout_s: float | None = None) -> Job:
        """Ends a job; one that has ended stays as it is."""
        request = jobs_pb2.CancelJobRequest(job_id=job_id)
        return convert.from_job(self._call(lambda link: link.jobs_stub.CancelJob, request, timeout_s).job)

    def dead(self, *, page_size: int = 0, timeout_s: float | None = None) -> Iterator[Job]:
        """Jobs that were given up, with the reason, the newest first; page by page."""
        request = jobs_pb2.ListDeadJobsRequest(page_size=page_size)
        while True:
            page = self._call(lambda link: link.jobs_stub.ListDeadJobs, request, timeout_s)
            yield from map(convert.from_job, page.jobs)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def replay(self, job_id: str, *, timeout_s: float | None = None) -> Job:
        """Queues a dead job again; any other stays as it is."""
        request = jobs_pb2.ReplayDeadJobRequest(job_id=job_id)
        return convert.from_job(self._call(lambda link: link.jobs_stub.ReplayDeadJob, request, timeout_s).job)

    def _submit_some(
        self, submission: Submission, source: Iterator[JobRequest], timeout_s: float | None
    ) -> Iterator[Job | Refused]:
        """One call's worth, or as far as it comes."""
        outbox: SimpleQueue[jobs_pb2.SubmitJobsRequest | None] = SimpleQueue()
        submission.begin()
        _fill(outbox, submission, source)
        if not submission.waits:
            return
        self._link.settle()
        call = self._link.jobs_stub.SubmitJobs(
            iter(outbox.get, None),
            timeout=self._connection.deadline(timeout_s),
            metadata=self._connection.metadata(),
        )
        try:
            while submission.waits:
                response = _next(call)
                if response is None or isinstance(response, HeadgateError):
                    time.sleep(submission.wait_s(response, time.monotonic()))
                    return
                yield submission.settle(response)
                _fill(outbox, submission, source)
            _next(call)
        finally:
            outbox.put(None)
            call.cancel()

    def _watch(self, request: jobs_pb2.WatchJobRequest) -> grpc._CallIterator[jobs_pb2.WatchJobResponse]:
        self._link.settle()
        timeout_s = self._connection.deadline(WATCH_S)
        return self._link.jobs_stub.WatchJob(request, timeout=timeout_s, metadata=self._connection.metadata())

    def _call(
        self,
        choose: Callable[[Link], grpc.UnaryUnaryMultiCallable[_Request, _Response]],
        request: _Request,
        timeout_s: float | None,
    ) -> _Response:
        timeout = self._connection.deadline(timeout_s)
        try:
            return self._link.unary(choose, request, timeout, self._connection.metadata())
        except grpc.RpcError as error:
            raise from_call(error) from None


class JobStream:
    """The events of one job; leaving it early, by `with` or `cancel`, does nothing to the job."""

    def __init__(
        self,
        open_call: Callable[[jobs_pb2.WatchJobRequest], grpc._CallIterator[jobs_pb2.WatchJobResponse]],
        following: Following,
    ) -> None:
        self._open = open_call
        self._following = following
        self._call: grpc._CallIterator[jobs_pb2.WatchJobResponse] | None = None
        self._left = threading.Event()

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

    def __iter__(self) -> Iterator[JobEvent]:
        while not self._following.ended:
            began = time.monotonic()
            error = yield from self._once()
            if self._left.is_set():
                raise Cancelled("the watch was left", code=grpc.StatusCode.CANCELLED)
            if not self._following.ended:
                now = time.monotonic()
                self._left.wait(self._following.wait_s(error, now - began, now))

    def texts(self) -> Iterator[str]:
        """Only the text, as it comes; where a run failed, the next one begins from the beginning."""
        return (event.what.text for event in self if isinstance(event.what, Delta))

    def cancel(self) -> None:
        """Ends the watch; harmless after its end."""
        self._left.set()
        if self._call is not None:
            self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def _once(self) -> Generator[JobEvent, None, HeadgateError | None]:
        """The events of one call, and how it broke; None if it ended by itself."""
        call = self._call = self._open(self._following.request())
        if self._left.is_set():
            # `cancel` came while it was opened, and knew no call.
            call.cancel()
        try:
            for response in call:
                event = self._following.feed(response)
                if event is not None:
                    yield event
                if self._following.ended:
                    break
        except grpc.RpcError as error:
            return from_call(error)
        finally:
            call.cancel()
        return None


def _fill(
    outbox: SimpleQueue[jobs_pb2.SubmitJobsRequest | None],
    submission: Submission,
    source: Iterator[JobRequest],
) -> None:
    """Sends as much as may be on its way."""
    while submission.may_send:
        request = submission.again()
        if request is None:
            job = next(source, None)
            if job is None:
                submission.exhausted = True
                break
            request = submission.take(job)
        outbox.put(request)
    if submission.all_is_sent:
        outbox.put(None)


def _next(call: Iterator[_Response]) -> _Response | HeadgateError | None:
    """The next answer, how the call broke, or None where it ended."""
    try:
        return next(call, None)
    except grpc.RpcError as error:
        return from_call(error)
