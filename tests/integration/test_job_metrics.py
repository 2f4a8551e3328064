"""What happened to jobs is counted once, whichever process it happened in, and whatever became of that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from headgate.adapters.redis_jobs import ENDED
from headgate.v1 import jobs_pb2, jobs_pb2_grpc
from tests.integration.gateway_rig import Process, eventually, key, metrics, query
from tests.integration.job_rig import Jobs, JobStack, children, job_stack, until

ACME = key("acme")
ENDLESS: dict[str, object] = {"say": ["on and on "], "times": 1_200, "gap_s": 0.05}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobStack]:
    with job_stack(tmp_path_factory) as running:
        yield running


@pytest.fixture
async def jobs(stack: JobStack) -> AsyncIterator[Jobs]:
    one = Jobs(stack)
    yield one
    await one.close()


def asked(
    name: str, text: str | dict[str, object], model: str = "small", **changes: object
) -> jobs_pb2.SubmitJobRequest:
    return jobs_pb2.SubmitJobRequest(query=query(text, request_id=name, model=model), **changes)  # type: ignore[arg-type]


async def test_every_job_and_every_run_is_counted_once(jobs: Jobs, stack: JobStack) -> None:
    gateway = stack.addresses["metrics"]
    reconciler = stack.start("reconciler").addresses()["metrics"]
    async with stack.channel() as channel:
        desk = jobs_pb2_grpc.JobServiceStub(channel)
        for number in range(6):
            await desk.SubmitJob(asked(f"plain-{number}", "word"), metadata=ACME)
        await desk.SubmitJob(asked("hopeless", "to nobody", model="nobody"), metadata=ACME)
        # The last one of its class: when its runner is killed, no other process is about to begin a run.
        await desk.SubmitJob(asked("killed", {"say": ["late "], "times": 60, "gap_s": 0.05}), metadata=ACME)
        await desk.SubmitJob(asked("unwanted", ENDLESS, job_class=1), metadata=ACME)
        await desk.SubmitJob(asked("plain-0", "word"), metadata=ACME)
        told = [one async for one in desk.SubmitJobs(_two_bad_ones(), metadata=ACME)]
        assert [one.WhichOneof("outcome") for one in told] == ["error"] * 2
        await eventually(lambda: metrics(reconciler)[_of("jobs_waiting", "batch")] == 8, what="the line")
        assert metrics(reconciler)[_of("jobs_waiting", "interactive")] == 1
        assert metrics(reconciler)[_of("jobs_oldest_seconds", "batch")] > 0

        runner = stack.start("runner")
        await jobs.running("killed")
        await jobs.running("unwanted")
        await desk.CancelJob(jobs_pb2.CancelJobRequest(job_id="unwanted"), metadata=ACME)
        stopped = _of("job_runs_ended_total", "interactive", became="stopped")
        scraped = runner.addresses()["metrics"]
        await eventually(lambda: metrics(scraped).get(stopped) == 1, what="the unwanted run to stop")
        await _kill_who_works(runner)
        names = ("killed", "hopeless", *(f"plain-{number}" for number in range(6)))
        for name in names:
            await jobs.ended(name)

    ran = _of("job_runs_ended_total", "batch", became="done")
    await eventually(lambda: metrics(scraped).get(ran) == 7, what="the last child to have told")
    seen, door = metrics(scraped), metrics(gateway)
    assert door[_of("jobs_accepted_total", "batch")] == 8
    assert door[_of("jobs_accepted_total", "interactive")] == 1
    assert door['headgate_jobs_refused_total{reason="INVALID_REQUEST"}'] == 2
    assert door[_of("jobs_ended_total", "interactive", state="cancelled")] == 1
    assert [seen[_of("jobs_ended_total", "batch", state=state)] for state in ("done", "failed")] == [7, 1]
    assert seen[_of("job_seconds_count", "batch")] == seen[_of("job_wait_seconds_count", "batch")] == 8
    runs = [await jobs.record(name) for name in names]
    assert all(one.state in ENDED for one in runs)
    assert seen[_of("job_runs_begun_total", "batch")] == sum(one.runs for one in runs) == 9
    assert seen[_of("job_runs_ended_total", "batch", became="lost")] == 1
    assert sum(n for name, n in seen.items() if name.startswith("headgate_job_runs_ended_total{")) == 10
    assert (seen["headgate_broker_away"], door["headgate_broker_away"]) == (0, 0)
    await eventually(lambda: metrics(reconciler)[_of("jobs_waiting", "batch")] == 0, what="an empty line")


async def _two_bad_ones() -> AsyncIterator[jobs_pb2.SubmitJobsRequest]:
    for _ in range(2):
        yield jobs_pb2.SubmitJobsRequest(job=jobs_pb2.SubmitJobRequest())


async def _kill_who_works(runner: Process) -> None:
    """All children: another works on `killed` later, and tells of it."""
    before = {one.pid for one in children(runner)}
    for one in children(runner):
        one.kill()

    async def replaced() -> bool:
        now = {one.pid for one in children(runner)}
        return len(now) == len(before) and not now & before

    await until(replaced, 30, "new children")


def _of(name: str, job_class: str, **labels: str) -> str:
    """A sample's name on a metrics page; labels are in the order of the alphabet there."""
    pairs = sorted({"job_class": job_class, **labels}.items())
    told = ",".join(f'{label}="{value}"' for label, value in pairs)
    return f"headgate_{name}{{{told}}}"
