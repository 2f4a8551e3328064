"""A job all the way: submitted over gRPC, queued by Celery, run through the gateway, watched, listed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headgate.client import AsyncClient
from headgate.v1 import jobs_pb2, jobs_pb2_grpc
from tests.integration.brokers import Broker
from tests.integration.gateway_rig import SECRETS, eventually, key, query, text_of
from tests.integration.job_rig import JobStack, job_stack

ACME = key("acme")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, elsewhere: Broker | None) -> Iterator[JobStack]:
    with job_stack(tmp_path_factory, elsewhere) as one:
        one.start("runner")
        one.start("reconciler")
        yield one


async def test_a_job_is_queued_run_for_its_tenant_watched_and_answered(running: JobStack) -> None:
    async with running.channel() as channel:
        desk = jobs_pb2_grpc.JobServiceStub(channel)
        request = jobs_pb2.SubmitJobRequest(query=query("tell me now", request_id="whole", model="small"))
        await desk.SubmitJob(request, metadata=ACME)
        events = [one async for one in desk.WatchJob(jobs_pb2.WatchJobRequest(job_id="whole"), metadata=ACME)]
        job = (await desk.GetJob(jobs_pb2.GetJobRequest(job_id="whole"), metadata=ACME)).job
    assert (job.state, job.runs) == (jobs_pb2.JOB_STATE_DONE, 1)
    assert text_of(job.answer) == "small: tell me now"
    assert "".join(one.answer.delta.text for one in events) == "small: tell me now"
    assert events[-1].job.state == jobs_pb2.JOB_STATE_DONE

    def recorded() -> list[bytes]:
        found = running.valkey.client.xrange("headgate:ledger")
        return [one[b"tenant"] for _, one in found if one[b"request_id"] == b"whole"]

    assert await eventually(recorded, what="its record") == [b"acme"]


async def test_two_hundred_jobs_of_the_client_are_all_answered(running: JobStack) -> None:
    async with AsyncClient(running.addresses["listen"], key=f"acme-1.{SECRETS['acme']}") as client:
        names = [f"many-{number}" for number in range(200)]
        for name in names:
            await client.jobs.submit(f"word {name}", request_id=name, model="small")
        for name in names:
            async for _ in client.jobs.watch(name):
                pass
            job = await client.jobs.get(name)
            assert job.state == "done"
            assert job.answer is not None
            assert job.answer.text == f"small: word {name}"
