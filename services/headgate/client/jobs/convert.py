"""The only place of the client that knows both the wire and its own words for jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast
from uuid import uuid4

from google.protobuf.timestamp_pb2 import Timestamp

from headgate.client import convert
from headgate.client.errors import from_status
from headgate.client.jobs.types import Job, JobClass, JobEvent, JobRequest, JobState, Refused
from headgate.client.types import Decision, Delta, EscalationOffered, ModelSwitched, Options
from headgate.v1 import jobs_pb2, router_pb2

_CLASSES = {"interactive": jobs_pb2.JOB_CLASS_INTERACTIVE, "batch": jobs_pb2.JOB_CLASS_BATCH}


def to_submit(job: JobRequest) -> jobs_pb2.SubmitJobRequest:
    """On the wire, always named: who sends it twice has one job. ValueError or TypeError as `to_query`."""
    if job.job_class not in _CLASSES:
        raise ValueError(f"a job's class is one of {', '.join(_CLASSES)}")
    options = Options(**job.options)
    options["request_id"] = options.get("request_id") or uuid4().hex
    return jobs_pb2.SubmitJobRequest(
        query=convert.to_query(job.conversation, options),
        job_class=_CLASSES[job.job_class],
        batch_id=job.batch,
        within_s=job.within_s,
        not_before=_timestamp(job.not_before) if job.not_before is not None else None,
    )


def from_job(job: jobs_pb2.Job) -> Job:
    """A job in the client's words."""
    return Job(
        job_id=job.job_id,
        state=cast(JobState, convert.word(jobs_pb2.JobState, job.state)),
        job_class=cast(JobClass, convert.word(jobs_pb2.JobClass, job.job_class)),
        batch=job.batch_id,
        created=convert.instant(job.create_time) if job.HasField("create_time") else None,
        ended=convert.instant(job.end_time) if job.HasField("end_time") else None,
        expires=convert.instant(job.expire_time) if job.HasField("expire_time") else None,
        runs=job.runs,
        answer=convert.from_response(job.answer) if job.HasField("answer") else None,
        error=from_status(job.error) if job.HasField("error") else None,
        not_before=convert.instant(job.not_before) if job.HasField("not_before") else None,
    )


def _timestamp(at: datetime) -> Timestamp:
    told = Timestamp()
    told.FromDatetime(at.astimezone(UTC))
    return told


def from_submitted(job_id: str, response: jobs_pb2.SubmitJobsResponse) -> Job | Refused:
    """What became of the request that was named so."""
    if response.WhichOneof("outcome") == "job":
        return from_job(response.job)
    return Refused(job_id, from_status(response.error))


def from_event(response: jobs_pb2.WatchJobResponse) -> JobEvent | None:
    """None for a kind unknown to this release, and for the run's own end: the job's state says that."""
    kind = response.WhichOneof("event")
    what = from_job(response.job) if kind == "job" else _said(response.answer) if kind == "answer" else None
    return None if what is None else JobEvent(response.event_id, what)


def _said(
    answer: router_pb2.StreamGenerateResponse,
) -> Decision | Delta | ModelSwitched | EscalationOffered | None:
    kind = answer.WhichOneof("event")
    if kind == "decision":
        return convert.from_decision(answer.decision)
    if kind == "delta":
        return convert.from_delta(answer.delta)
    if kind == "model_switched":
        return convert.from_switched(answer.model_switched)
    if kind == "escalation_offered":
        return convert.from_offered(answer.escalation_offered)
    return None
