"""The order of jobs' events, free of any transport: sync and aio feed the same machines."""

from __future__ import annotations

from collections import deque

import grpc

from headgate.client.errors import DeadlineExceeded, HeadgateError, StreamCut, cut_after
from headgate.client.jobs import convert
from headgate.client.jobs.patience import Patience
from headgate.client.jobs.types import Job, JobEvent, JobRequest, Refused
from headgate.client.types import Delta
from headgate.v1 import jobs_pb2

WINDOW = 128
"""So many of a submission may be unanswered: what is held on this side, and sent again after a cut."""
PER_CALL = 10_000
"""More is another call."""
WATCH_S = 300.0
"""A watch is renewed after that: no call without a deadline, though a job may wait for a week."""
_CONNECTED_S = 30.0
"""A call that lasted so long had reached somebody, though nothing happened to the job."""


class Submission:
    """Which of many requests are on their way.

    A call sends one and waits for its answer, which says that somebody is there, before it sends more.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._unanswered: deque[jobs_pb2.SubmitJobsRequest] = deque()
        self._on_the_way = 0
        self._sent = 0
        self._window = 1
        self.exhausted = False
        """Set by who reads the source."""

    @property
    def waits(self) -> bool:
        """Whether answers are to come."""
        return bool(self._unanswered)

    @property
    def all_is_sent(self) -> bool:
        """Whether this call sends no more."""
        return self._sent >= PER_CALL or (self.exhausted and self._on_the_way == len(self._unanswered))

    @property
    def may_send(self) -> bool:
        """Whether this call may send another one now."""
        return not self.all_is_sent and self._on_the_way < self._window

    def begin(self) -> None:
        """A new call begins; what earlier ones left unanswered goes first."""
        self._on_the_way, self._sent, self._window = 0, 0, 1

    def again(self) -> jobs_pb2.SubmitJobsRequest | None:
        """The next to send of what earlier calls left unanswered; None if there is none."""
        if self._on_the_way == len(self._unanswered):
            return None
        request = self._unanswered[self._on_the_way]
        self._count()
        return request

    def take(self, job: JobRequest) -> jobs_pb2.SubmitJobsRequest:
        """The next to send; ValueError or TypeError for what cannot be written on the wire."""
        request = jobs_pb2.SubmitJobsRequest(job=convert.to_submit(job))
        self._unanswered.append(request)
        self._count()
        return request

    def settle(self, response: jobs_pb2.SubmitJobsResponse) -> Job | Refused:
        """What became of the oldest: answers come in the order of requests."""
        self._patience.progressed()
        self._on_the_way -= 1
        self._window = WINDOW
        return convert.from_submitted(self._unanswered.popleft().job.query.request_id, response)

    def wait_s(self, error: HeadgateError | None, now: float) -> float:
        """How long to wait before the next call; raises the error if there shall be none."""
        return self._patience.wait_s(error or _early_end(), now)

    def _count(self) -> None:
        self._on_the_way += 1
        self._sent += 1


class Following:
    """What has arrived of one job's events."""

    def __init__(self, job_id: str, after: str, patience: Patience) -> None:
        self._job_id = job_id
        self._patience = patience
        self._pieces: list[str] = []
        self.after = after
        self.job: Job | None = None
        """Its latest state; None before the first event."""

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self.job is not None and self.job.has_ended

    @property
    def text(self) -> str:
        """The text of the latest run, as far as it was seen."""
        return "".join(self._pieces)

    def request(self) -> jobs_pb2.WatchJobRequest:
        """For what was not seen yet."""
        return jobs_pb2.WatchJobRequest(job_id=self._job_id, after_event_id=self.after)

    def feed(self, response: jobs_pb2.WatchJobResponse) -> JobEvent | None:
        """The event in the client's words; None for one that says nothing to this release."""
        self._patience.progressed()
        self.after = response.event_id
        event = convert.from_event(response)
        if event is not None and isinstance(event.what, Job):
            self.job = event.what
            if not self.job.has_ended:
                self._pieces.clear()
        elif event is not None and isinstance(event.what, Delta):
            self._pieces.append(event.what.text)
        return event

    def wait_s(self, error: HeadgateError | None, lasted_s: float, now: float) -> float:
        """How long to wait before the call that goes on; raises the error if there shall be none."""
        if lasted_s >= _CONNECTED_S:
            self._patience.progressed()
        if isinstance(error, DeadlineExceeded) and lasted_s >= _CONNECTED_S:
            return 0.0
        try:
            return self._patience.wait_s(error or _early_end(), now)
        except HeadgateError as given_up:
            raise cut_after(self.text, given_up) from None


def _early_end() -> HeadgateError:
    return StreamCut("the stream ended without its last event", code=grpc.StatusCode.UNAVAILABLE)
