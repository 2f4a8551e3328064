"""`JobService`: wire in, wire out; `job_desk` does what is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

from headgate.adapters import status_map
from headgate.adapters.decoding import Undecodable
from headgate.adapters.status_map import InvalidRequestError, JobsOffError, ServiceError
from headgate.adapters.telemetry import Note, unnoted
from headgate.gateway.admission import CALLER, Context, Room
from headgate.gateway.drain import Drain
from headgate.gateway.job_desk import JobDesk
from headgate.gateway.visits import LONGEST_S, STREAM_S, UNARY_S, Visit, Visits, valid
from headgate.router.errors import RouterError
from headgate.v1 import jobs_pb2, jobs_pb2_grpc

SERVICE: Final = "headgate.v1.JobService"
MOST_AT_ONCE: Final = 10_000
"""Requests of one SubmitJobs: a call that breaks is made again from its beginning."""
PAGE: Final = 100
WATCH: Final = f"/{SERVICE}/WatchJob"
MOST_WATCHING: Final = 1_000
"""Watches at the same time. They wait and hardly work; counted as requests inside, those of one batch would
shut all others out."""


class JobServicer(jobs_pb2_grpc.JobServiceServicer):
    """jobs.proto says what each method promises."""

    def __init__(
        self, desk: JobDesk | None, visits: Visits, watching: Room, drain: Drain, note: Note = unnoted
    ) -> None:
        """Without a desk every method ends with JobsOffError."""
        self._own_desk = desk
        self._visits = visits
        self._watching = watching
        self._drain = drain
        self._note = note

    @property
    def _desk(self) -> JobDesk:
        if self._own_desk is None:
            raise JobsOffError("this gateway takes no jobs; its operator can set jobs.enabled")
        return self._own_desk

    async def SubmitJob(  # noqa: N802
        self, message: jobs_pb2.SubmitJobRequest | Undecodable, context: Context
    ) -> jobs_pb2.SubmitJobResponse:
        """Accepts one query."""

        async def submit(visit: Visit) -> jobs_pb2.SubmitJobResponse:
            with self._counted():
                request = valid(message, jobs_pb2.SubmitJobRequest)
                async with self._drain.limit(visit.arrival(UNARY_S).deadline):
                    return jobs_pb2.SubmitJobResponse(job=await self._desk.submit(_tenant(), request))

        return await self._visits.attend("SubmitJob", context, submit)

    async def SubmitJobs(  # type: ignore[override]  # noqa: N802
        self, messages: AsyncIterator[jobs_pb2.SubmitJobsRequest | Undecodable], context: Context
    ) -> None:
        """Accepts many, one response for each."""

        async def submit(visit: Visit) -> None:
            count, tenant = 0, _tenant()
            async with self._drain.limit(visit.arrival(LONGEST_S).deadline):
                async for message in messages:
                    count += 1
                    if count > MOST_AT_ONCE:
                        raise InvalidRequestError(f"at most {MOST_AT_ONCE:,} jobs can be submitted in a call")
                    await context.write(await self._one(tenant, message))

        await self._visits.attend("SubmitJobs", context, submit)

    async def _one(
        self, tenant: str, message: jobs_pb2.SubmitJobsRequest | Undecodable
    ) -> jobs_pb2.SubmitJobsResponse:
        desk = self._desk
        try:
            with self._counted():
                request = valid(message, jobs_pb2.SubmitJobsRequest)
                return jobs_pb2.SubmitJobsResponse(job=await desk.submit(tenant, request.job))
        except (ServiceError, RouterError) as error:
            return jobs_pb2.SubmitJobsResponse(error=status_map.to_status(error))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Counts what is refused within."""
        try:
            yield
        except (ServiceError, RouterError) as error:
            self._note("headgate_jobs_refused_total", status_map.code_of(error)[1])
            raise

    async def GetJob(  # noqa: N802
        self, message: jobs_pb2.GetJobRequest | Undecodable, context: Context
    ) -> jobs_pb2.GetJobResponse:
        """What became of a job."""

        async def get(_visit: Visit) -> jobs_pb2.GetJobResponse:
            request = valid(message, jobs_pb2.GetJobRequest)
            return jobs_pb2.GetJobResponse(job=await self._desk.job(_tenant(), request.job_id))

        return await self._visits.attend("GetJob", context, get)

    async def WatchJob(  # type: ignore[override]  # noqa: N802
        self, message: jobs_pb2.WatchJobRequest | Undecodable, context: Context
    ) -> None:
        """A job's events until it has ended."""

        async def watch(visit: Visit) -> None:
            request = valid(message, jobs_pb2.WatchJobRequest)
            async with self._drain.limit(visit.arrival(STREAM_S).deadline):
                async for event in self._desk.watch(_tenant(), request.job_id, request.after_event_id):
                    await context.write(event)

        await self._visits.attend("WatchJob", context, watch, room=self._watching)

    async def ListJobs(  # noqa: N802
        self, message: jobs_pb2.ListJobsRequest | Undecodable, context: Context
    ) -> jobs_pb2.ListJobsResponse:
        """The tenant's jobs."""

        async def page(_visit: Visit) -> jobs_pb2.ListJobsResponse:
            request = valid(message, jobs_pb2.ListJobsRequest)
            size = request.page_size or PAGE
            found = await self._desk.page(_tenant(), request.page_token, size, batch=request.batch_id)
            return jobs_pb2.ListJobsResponse(jobs=found[0], next_page_token=found[1])

        return await self._visits.attend("ListJobs", context, page)

    async def CancelJob(  # noqa: N802
        self, message: jobs_pb2.CancelJobRequest | Undecodable, context: Context
    ) -> jobs_pb2.CancelJobResponse:
        """Ends a job."""

        async def cancel(_visit: Visit) -> jobs_pb2.CancelJobResponse:
            request = valid(message, jobs_pb2.CancelJobRequest)
            return jobs_pb2.CancelJobResponse(job=await self._desk.cancel(_tenant(), request.job_id))

        return await self._visits.attend("CancelJob", context, cancel)

    async def ListDeadJobs(  # noqa: N802
        self, message: jobs_pb2.ListDeadJobsRequest | Undecodable, context: Context
    ) -> jobs_pb2.ListDeadJobsResponse:
        """Jobs that were given up."""

        async def page(_visit: Visit) -> jobs_pb2.ListDeadJobsResponse:
            request = valid(message, jobs_pb2.ListDeadJobsRequest)
            size = request.page_size or PAGE
            found = await self._desk.page(_tenant(), request.page_token, size, dead=True)
            return jobs_pb2.ListDeadJobsResponse(jobs=found[0], next_page_token=found[1])

        return await self._visits.attend("ListDeadJobs", context, page)

    async def ReplayDeadJob(  # noqa: N802
        self, message: jobs_pb2.ReplayDeadJobRequest | Undecodable, context: Context
    ) -> jobs_pb2.ReplayDeadJobResponse:
        """Queues a dead job again."""

        async def replay(_visit: Visit) -> jobs_pb2.ReplayDeadJobResponse:
            request = valid(message, jobs_pb2.ReplayDeadJobRequest)
            return jobs_pb2.ReplayDeadJobResponse(job=await self._desk.replay(_tenant(), request.job_id))

        return await self._visits.attend("ReplayDeadJob", context, replay)


def _tenant() -> str:
    return CALLER.get().tenant
