"""When jobs may run: not before their time, in the hours of their class, within a day's budget."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from redis.asyncio import Redis

from headgate.adapters.job_hours import Hours
from headgate.adapters.ledger import Fold
from headgate.adapters.redis_jobs import RedisJobs, State, Terms
from headgate.adapters.status_map import InvalidRequestError, JobExistsError
from headgate.gateway import tickets
from headgate.gateway.job_desk import JobDesk
from headgate.jobs.reconciler import Reconciler
from headgate.v1 import jobs_pb2
from tests.integration.gateway_rig import eventually, query
from tests.integration.job_rig import until
from tests.integration.test_job_records import claimed, state, submission

SHORT = Terms(lease_s=0.3, grace_s=0.2, keep_s=60)


class Heard:
    """A queue that remembers."""

    away = False

    def __init__(self) -> None:
        self.put_names: list[str] = []

    async def put(self, tenant: str, name: str, job_class: str) -> None:
        assert tenant
        assert job_class
        self.put_names.append(name)

    async def waiting(self, job_class: str) -> int:
        assert job_class
        return 0


def closed(seconds: float) -> Terms:
    """Hours that are closed now, and open within a minute or two after `seconds`."""
    begins = int((time.time() + seconds) // 60 + 1) % 1440
    return replace(SHORT, batch_hours=Hours(((begins, (begins + 1) % 1440),), UTC))


async def test_a_job_is_not_begun_before_its_time_and_then_without_being_asked(client: Redis) -> None:
    jobs, queue = RedisJobs(client, SHORT), Heard()
    begins = time.time() + 0.7
    await jobs.submit(submission(begins=begins))
    assert await jobs.claim("acme", "j-1") is None, "a stray task is too early"
    assert (await jobs.line(("batch",))).waiting["batch"] == 0, "it does not wait for a runner"
    reconciler = Reconciler(jobs, queue)

    async def queued() -> bool:
        await reconciler.look()
        return bool(queue.put_names)

    await until(queued, 30, "the job to be queued")
    assert time.time() >= begins - 0.01
    assert (await jobs.line(("batch",))).waiting["batch"] == 1
    assert (await claimed(jobs)).runs == 1
    assert (await jobs.line(("batch",))).waiting["batch"] == 0


async def test_outside_its_hours_a_batch_waits_and_others_do_not(client: Redis) -> None:
    jobs = RedisJobs(client, closed(3600))
    await jobs.submit(submission("batch", expires=time.time() + 90_000))
    await jobs.submit(submission("quick", job_class="interactive"))
    assert await jobs.claim("acme", "quick") is not None
    assert await jobs.claim("acme", "batch") is None
    record = await jobs.read("acme", "batch")
    assert record is not None
    assert (record.state, record.runs) == (State.QUEUED, 0)
    assert 3500 < record.begins - time.time() < 3700
    assert await RedisJobs(client, SHORT).claim("acme", "batch") is None, (
        "whatever another runner's config says"
    )


async def test_a_job_whose_time_is_over_before_its_hours_ends(client: Redis) -> None:
    jobs = RedisJobs(client, closed(3600))
    await jobs.submit(submission(expires=time.time() + 0.5))
    assert await jobs.claim("acme", "j-1") is None
    end = time.monotonic() + 10
    while await state(jobs) is not State.FAILED:
        assert time.monotonic() < end
        for tenant, name, _ in await jobs.due():
            await jobs.claim(tenant, name)


async def test_a_run_that_is_lost_outside_the_hours_waits_for_them(client: Redis) -> None:
    jobs = RedisJobs(client, SHORT)
    await jobs.submit(submission(expires=time.time() + 90_000))
    await claimed(jobs)
    late, end = RedisJobs(client, closed(3600)), time.monotonic() + 10
    while await state(jobs) is not State.QUEUED:
        assert time.monotonic() < end
        assert await late.claim("acme", "j-1") is None
    record = await jobs.read("acme", "j-1")
    assert record is not None
    assert record.begins > time.time() + 3000


async def test_a_day_s_budget_holds_and_the_rest_waits_for_the_next_day(client: Redis) -> None:
    jobs = RedisJobs(client, replace(SHORT, lease_s=30, batch_budget_nanousd=100))
    for number in range(8):
        await jobs.submit(submission(f"n-{number}", expires=time.time() + 200_000))
    first = await claimed(jobs, "n-0")
    assert await jobs.end(first, State.DONE, answer=b"a", cost_nanousd=30)
    together = [await jobs.claim("acme", f"n-{number}") for number in range(1, 8)]
    running = [one for one in together if one is not None]
    assert len(running) == 2, "30 were spent, and 30 are reserved for each"
    for one in running:
        assert await jobs.end(one, State.DONE, answer=b"a", cost_nanousd=20)
    assert await jobs.claim("acme", "n-7") is None, "it has been told to wait"
    record = await jobs.read("acme", "n-7")
    assert record is not None
    assert 500 < record.begins - time.time() <= 600
    await jobs.submit(submission("another", expires=time.time() + 200_000))
    dear = await claimed(jobs, "another")
    assert await jobs.end(dear, State.DONE, answer=b"a", cost_nanousd=45), "70 were spent, and 115 are now"
    await jobs.submit(submission("too-late", expires=time.time() + 200_000))
    assert await jobs.claim("acme", "too-late") is None
    record = await jobs.read("acme", "too-late")
    assert record is not None
    assert record.begins == (time.time() // 86_400 + 1) * 86_400
    await jobs.submit(submission("rich", tenant="beta"))
    assert await jobs.claim("beta", "rich") is not None, "a budget is a tenant's"


async def test_what_is_left_of_a_day_s_budgets_is_known_of_every_tenant(client: Redis) -> None:
    jobs = RedisJobs(client, replace(SHORT, lease_s=30, batch_budget_nanousd=100, upgrade_budget_nanousd=20))
    for name in ("first", "second"):
        await jobs.submit(submission(name))
    assert await jobs.end(await claimed(jobs, "first"), State.DONE, answer=b"a", cost_nanousd=30)
    await claimed(jobs, "second")
    today = int(time.time() // 86_400)
    assert await jobs.left(["acme", "beta"], today) == [
        ("acme", "batch", 40), ("beta", "batch", 100), ("acme", "escalation", 20), ("beta", "escalation", 20),
    ]  # fmt: skip
    assert await jobs.left(["acme"], today + 1) == [("acme", "batch", 100), ("acme", "escalation", 20)]
    assert await RedisJobs(client, SHORT).left(["acme"], today) == [], "there is no limit"


async def test_upgrades_have_a_budget_of_their_own(client: Redis) -> None:
    jobs = RedisJobs(client, replace(SHORT, lease_s=30, batch_budget_nanousd=1, upgrade_budget_nanousd=20))
    for name in ("first", "second"):
        await jobs.submit(submission(name, job_class="escalation"))
    assert await jobs.end(await claimed(jobs, "first"), State.DONE, answer=b"a", cost_nanousd=20)
    assert await jobs.claim("acme", "second") is None
    await jobs.submit(submission("batch"))
    assert await jobs.claim("acme", "batch") is not None


@pytest.mark.parametrize("ends", ["put_back", "cancel", "failed"])
async def test_what_was_reserved_for_a_run_without_an_answer_is_given_back(client: Redis, ends: str) -> None:
    jobs = RedisJobs(client, replace(SHORT, lease_s=30, batch_budget_nanousd=50))
    for name in ("dear", "fails", "last"):
        await jobs.submit(submission(name))
    assert await jobs.end(await claimed(jobs, "dear"), State.DONE, answer=b"a", cost_nanousd=25)
    lease = await claimed(jobs, "fails")
    if ends == "put_back":
        assert await jobs.put_back(lease, b"", 60)
    elif ends == "cancel":
        assert await jobs.cancel("acme", "fails")
    else:
        assert await jobs.end(lease, State.FAILED)
    assert await jobs.claim("acme", "last") is not None


def asked(**fields: object) -> jobs_pb2.SubmitJobRequest:
    return jobs_pb2.SubmitJobRequest(query=query("later", request_id="j-1"), **fields)  # type: ignore[arg-type]


def in_s(seconds: float) -> Timestamp:
    told = Timestamp()
    told.FromNanoseconds(round((time.time() + seconds) * 1e9))
    return told


async def test_the_desk_tells_from_when_on_a_job_may_run_and_queues_it_no_sooner(client: Redis) -> None:
    queue = Heard()
    desk = JobDesk(RedisJobs(client, closed(3600)), queue, b"")
    job = await desk.submit("acme", asked(not_before=in_s(60)))
    assert 3500 < job.not_before.seconds - time.time() < 3800, "both must have come"
    assert job.expire_time.seconds - job.not_before.seconds == pytest.approx(86_400, abs=2)
    assert queue.put_names == []
    assert datetime.fromtimestamp(job.not_before.seconds, UTC).second == 0


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"within_s": 60}, "within_s"), ({"not_before": in_s(8 * 86_400)}, "not_before")],
)
async def test_what_could_never_run_is_refused(client: Redis, fields: dict[str, object], field: str) -> None:
    desk = JobDesk(RedisJobs(client, closed(3600)), Heard(), b"")
    with pytest.raises(InvalidRequestError, match=field):
        await desk.submit("acme", asked(**fields))


async def test_what_was_accepted_is_accepted_again_when_hours_have_closed(client: Redis) -> None:
    request = asked(within_s=600)
    first = await JobDesk(RedisJobs(client, SHORT), Heard(), b"").submit("acme", request)
    again = await JobDesk(RedisJobs(client, closed(3600)), Heard(), b"").submit("acme", request)
    assert again == first
    other = jobs_pb2.SubmitJobRequest(query=query("another", request_id="j-1"), within_s=600)
    with pytest.raises(JobExistsError):
        await JobDesk(RedisJobs(client, closed(3600)), Heard(), b"").submit("acme", other)


async def test_a_job_that_is_replayed_is_told_and_charged_from_its_new_life(client: Redis) -> None:
    jobs, fold = RedisJobs(client, replace(SHORT, most_runs=1)), Fold()
    desk = JobDesk(jobs, Heard(), b"pepper")
    await desk.submit("acme", asked())
    for _ in range(2):
        lease = await claimed(jobs)
        run = str(lease.begun)
        since = str(tickets.read(b"pepper", lease.ticket, time.time()).since)
        job = {"tenant": "acme", "request_id": "j-1", "job_since": since}
        fold.take({**job, "run": run, "at": "1", "record_id": run, "cost_nanousd": "7"})
        if lease.begun == 1:
            await jobs.put_back(lease, b"", 0)
            assert await jobs.claim("acme", "j-1") is None
            await desk.replay("acme", "j-1")
        else:
            await jobs.end(lease, State.DONE, answer=b"")
    assert fold.lost == {"1": 7}, "the run before the replay is nobody's charge"
    told = [one.state async for one in jobs.happenings("acme", "j-1", "", 0.01)]
    assert told == [State.QUEUED, State.RUNNING, State.DONE]


async def gone(jobs: RedisJobs, name: str) -> bool:
    return await jobs.read("acme", name) is None


async def test_names_of_dead_jobs_go_with_their_records(client: Redis) -> None:
    jobs = RedisJobs(client, replace(SHORT, most_runs=1, keep_s=0.3))
    for name in ("old", "new"):
        await jobs.submit(submission(name))
        await jobs.put_back(await claimed(jobs, name), b"", 0)
        await jobs.claim("acme", name)
        await until(lambda name=name: gone(jobs, name), 30, "its record to go")  # type: ignore[misc]
    assert [name for name, _ in await jobs.names("acme", 0, 10, dead=True)] == ["new"]


@pytest.mark.parametrize("token", ["nan", "inf", "-inf", "x"])
async def test_a_page_token_of_somebody_else_is_named(client: Redis, token: str) -> None:
    with pytest.raises(InvalidRequestError, match="page_token"):
        await JobDesk(RedisJobs(client), Heard(), b"").page("acme", token, 10)


async def test_the_time_that_a_job_lay_dead_does_not_count(client: Redis) -> None:
    jobs = RedisJobs(client, replace(SHORT, most_runs=1))
    desk, expires = JobDesk(jobs, Heard(), b"pepper"), time.time() + 1.0
    await jobs.submit(submission(expires=expires))
    await jobs.put_back(await claimed(jobs), b"", 0)
    assert await jobs.claim("acme", "j-1") is None
    await eventually(lambda: time.time() > expires, what="the job's time to be over")
    job = await desk.replay("acme", "j-1")
    assert job.state == jobs_pb2.JOB_STATE_QUEUED
    lease = await claimed(jobs)
    assert 0 < lease.left_s < 1
    assert tickets.read(b"pepper", lease.ticket, time.time() - 1).job == "j-1"
