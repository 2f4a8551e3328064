"""A small real gRPC server that keeps jobs in memory, as the gateway does in Redis.

A question says what becomes of it: `fail`, `die`, `wait` (stays queued); anything else is answered with its
words turned round, a word a chunk.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from headgate.v1 import jobs_pb2, jobs_pb2_grpc, router_pb2, types_pb2

BEGAN = 1_790_000_000
FAILURES = {
    "fail": (jobs_pb2.JOB_STATE_FAILED, 3, "the pinned model is not in the pool"),
    "die": (jobs_pb2.JOB_STATE_DEAD, 14, "given up after 5 runs: no worker could be reached"),
}
TERMINAL = {3, 4, 5, 6}


@dataclass
class Kept:
    """A job and its events."""

    request: jobs_pb2.SubmitJobRequest
    job: jobs_pb2.Job
    events: list[jobs_pb2.WatchJobResponse] = field(default_factory=list)

    def note(self, **event: object) -> None:
        self.events.append(jobs_pb2.WatchJobResponse(event_id=f"{len(self.events) + 1}-0", **event))

    def become(self, state: jobs_pb2.JobState, **fields: object) -> None:
        self.job.MergeFrom(jobs_pb2.Job(state=state, **fields))
        if state in TERMINAL:
            self.job.end_time.FromSeconds(BEGAN + 60)
        self.note(job=self.job)


@dataclass
class JobGateway(jobs_pb2_grpc.JobServiceServicer):
    """Ends each job as it is submitted; `cut` calls break off at random."""

    address: str = ""
    jobs: dict[str, Kept] = field(default_factory=dict)
    cuts: int = 0
    """So many streams will still be broken."""
    cut_by: grpc.StatusCode | None = grpc.StatusCode.UNAVAILABLE
    """None ends them as if they were over."""
    calls: list[str] = field(default_factory=list)
    unanswered: int = 0
    most_unanswered: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    news: threading.Condition = field(default_factory=threading.Condition)

    def SubmitJob(self, request, context):
        job, error = self._submit(request)
        if error is not None:
            abort(context, error)
        return jobs_pb2.SubmitJobResponse(job=job)

    def SubmitJobs(self, requests, context):
        self.calls.append("SubmitJobs")
        left = self._cut_after(400)
        for request in self._counted(requests):
            if left == 0:
                return self._cut(context)
            left = None if left is None else left - 1
            job, error = self._submit(request.job)
            self.unanswered -= 1
            yield jobs_pb2.SubmitJobsResponse(job=None if error else job, error=error)
        return None

    def GetJob(self, request, context):
        return jobs_pb2.GetJobResponse(job=self._kept(request.job_id, context).job)

    def WatchJob(self, request, context):
        self.calls.append("WatchJob")
        kept = self._kept(request.job_id, context)
        seen = int(request.after_event_id.partition("-")[0] or 0)
        left = self._cut_after(4)
        while context.is_active():
            for event in kept.events[seen:]:
                if left == 0:
                    return self._cut(context)
                left = None if left is None else left - 1
                seen += 1
                yield event
            if kept.job.state in TERMINAL:
                return None
            with self.news:
                self.news.wait(0.05)
        return None

    def ListJobs(self, request, context):
        self.calls.append("ListJobs")
        found = [one for one in self.jobs.values() if request.batch_id in ("", one.job.batch_id)]
        jobs, token = page([bare(one.job) for one in reversed(found)], request)
        return jobs_pb2.ListJobsResponse(jobs=jobs, next_page_token=token)

    def CancelJob(self, request, context):
        kept = self._kept(request.job_id, context)
        if kept.job.state not in TERMINAL:
            kept.become(jobs_pb2.JOB_STATE_CANCELLED)
        return jobs_pb2.CancelJobResponse(job=kept.job)

    def ListDeadJobs(self, request, context):
        dead = [one.job for one in self.jobs.values() if one.job.state == jobs_pb2.JOB_STATE_DEAD]
        jobs, token = page(dead[::-1], request)
        return jobs_pb2.ListDeadJobsResponse(jobs=jobs, next_page_token=token)

    def ReplayDeadJob(self, request, context):
        kept = self._kept(request.job_id, context)
        if kept.job.state == jobs_pb2.JOB_STATE_DEAD:
            kept.job.ClearField("error")
            kept.job.ClearField("end_time")
            kept.job.runs = 0
            kept.become(jobs_pb2.JOB_STATE_QUEUED)
        return jobs_pb2.ReplayDeadJobResponse(job=kept.job)

    def run(self, job_id: str, question: str | None = None) -> None:
        """Works on a job that waited."""
        kept = self.jobs[job_id]
        text = kept.request.query.messages[-1].parts[0].text if question is None else question
        kept.become(jobs_pb2.JOB_STATE_RUNNING, runs=1)
        if text in FAILURES:
            state, code, why = FAILURES[text]
            return kept.become(state, error=Status(code=code, message=why))
        model = kept.request.query.model or "small"
        kept.note(answer=router_pb2.StreamGenerateResponse(decision=decision(model, job_id)))
        answer = text.split()[::-1]
        for number, word in enumerate(answer):
            delta = router_pb2.Delta(text=f" {word}" if number else word)
            kept.note(answer=router_pb2.StreamGenerateResponse(delta=delta))
        return kept.become(jobs_pb2.JOB_STATE_DONE, answer=whole(" ".join(answer), model, job_id))

    def _submit(self, request: jobs_pb2.SubmitJobRequest) -> tuple[jobs_pb2.Job, Status | None]:
        name = request.query.request_id
        if request.query.sampling.temperature > 2:
            return jobs_pb2.Job(), refused("job.query.sampling.temperature", "must be at most 2")
        kept = self.jobs.get(name)
        if kept is not None and kept.request != request:
            return jobs_pb2.Job(), Status(code=6, message=f"job {name} was given to another query")
        if kept is None:
            job = jobs_pb2.Job(
                job_id=name,
                job_class=request.job_class,
                batch_id=request.batch_id,
                create_time=Timestamp(seconds=BEGAN),
                expire_time=Timestamp(seconds=BEGAN + (request.within_s or 86_400)),
            )
            kept = self.jobs[name] = Kept(request, job)
            kept.become(jobs_pb2.JOB_STATE_QUEUED)
            if request.query.messages[-1].parts[0].text != "wait":
                self.run(name)
        return bare(kept.job), None

    def _kept(self, job_id: str, context: grpc.ServicerContext) -> Kept:
        if job_id not in self.jobs:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no job {job_id}")
        return self.jobs[job_id]

    def _counted(
        self, requests: Iterator[jobs_pb2.SubmitJobsRequest]
    ) -> Iterator[jobs_pb2.SubmitJobsRequest]:
        for request in requests:
            self.unanswered += 1
            self.most_unanswered = max(self.most_unanswered, self.unanswered)
            yield request

    def _cut_after(self, most: int) -> int | None:
        """After how many events this stream is to break; None for never."""
        if self.cuts == 0:
            return None
        self.cuts -= 1
        return self.chance.randrange(most)

    def _cut(self, context: grpc.ServicerContext) -> None:
        self.unanswered = 0
        if self.cut_by is not None:
            context.abort(self.cut_by, "cut")


def decision(model: str, request_id: str) -> types_pb2.Decision:
    return types_pb2.Decision(
        request_id=request_id,
        model=model,
        reason=types_pb2.REASON_POLICY,
        cost_nanousd=1_250,
        certificate=types_pb2.Certificate(id="c-1", risk_target=0.05, confidence=0.95, n=10),
    )


def whole(text: str, model: str, request_id: str) -> router_pb2.GenerateResponse:
    return router_pb2.GenerateResponse(
        message=types_pb2.Message(role=types_pb2.ROLE_ASSISTANT, parts=[types_pb2.Part(text=text)]),
        finish_reason=types_pb2.FINISH_REASON_STOP,
        usage=types_pb2.Usage(prompt_tokens=3, completion_tokens=len(text.split())),
        decision=decision(model, request_id),
    )


def bare(job: jobs_pb2.Job) -> jobs_pb2.Job:
    """Without its answer."""
    copy = jobs_pb2.Job()
    copy.CopyFrom(job)
    copy.ClearField("answer")
    return copy


def page(jobs: list[jobs_pb2.Job], request: object) -> tuple[list[jobs_pb2.Job], str]:
    begin, size = int(request.page_token or 0), request.page_size or 100
    return jobs[begin : begin + size], str(begin + size) if len(jobs) > begin + size else ""


def refused(name: str, rule: str) -> Status:
    status = Status(code=3, message=f"{name}: {rule}")
    violations = [BadRequest.FieldViolation(field=name, description=rule)]
    status.details.add().Pack(BadRequest(field_violations=violations))
    return status


def abort(context: grpc.ServicerContext, status: Status) -> None:
    code = next(one for one in grpc.StatusCode if one.value[0] == status.code)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, status.message)


@contextmanager
def serving(*services: JobGateway) -> Iterator[str]:
    """The address of a server; without services it has none, as where jobs are off."""
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        for service in services:
            jobs_pb2_grpc.add_JobServiceServicer_to_server(service, server)
            service.address = address
        server.start()
        yield address
        server.stop(None).wait()
