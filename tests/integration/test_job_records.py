"""Records of jobs on a real Valkey: whatever happens to runners, a job is run by one at a time and ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from google.rpc.status_pb2 import Status
from redis.asyncio import Redis

from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_client import connect
from headgate.adapters.redis_jobs import ENDED, Lease, RedisJobs, State, Submission, Terms
from headgate.gateway.job_desk import JobDesk
from tests.integration.gateway_rig import Valkey, eventually

SHORT = Terms(lease_s=0.3, most_runs=3, grace_s=0.2, keep_s=60)
LONG = Terms()


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    one = Valkey(tmp_path_factory.mktemp("valkey"))
    yield one
    one.stop()


@pytest.fixture
async def client(valkey: Valkey) -> AsyncIterator[Redis]:
    one = connect(valkey.url, 5.0, 1.0)
    await one.flushall()
    yield one
    await one.aclose()


def submission(name: str = "j-1", tenant: str = "acme", **changes: object) -> Submission:
    plain = Submission(tenant, name, b"query", b"digest", "batch", "", time.time() + 600, "ticket")
    return replace(plain, **changes)  # type: ignore[arg-type]


async def claimed(jobs: RedisJobs, name: str = "j-1") -> Lease:
    lease = await jobs.claim("acme", name)
    assert lease is not None
    return lease


async def state(jobs: RedisJobs, name: str = "j-1") -> State:
    record = await jobs.read("acme", name)
    assert record is not None
    return record.state


async def told(jobs: RedisJobs, after: str = "", name: str = "j-1") -> list[State | bytes]:
    return [one.state or one.part async for one in jobs.happenings("acme", name, after, 0.01)]


async def test_a_job_is_written_once_however_often_it_is_submitted(client: Redis) -> None:
    jobs = RedisJobs(client)
    found = await asyncio.gather(*(jobs.submit(submission()) for _ in range(20)))
    assert sorted(found) == ["new"] + ["same"] * 19
    assert await jobs.submit(submission(digest=b"another query")) == "other"
    assert await jobs.submit(submission(tenant="beta", digest=b"another query")) == "new", (
        "a name is a tenant's"
    )
    record = await jobs.read("acme", "j-1")
    assert record is not None
    assert (record.state, record.query, record.runs) == (State.QUEUED, b"query", 0)
    assert abs(record.created - time.time()) < 5
    assert await jobs.read("acme", "j-2") is None


async def test_of_many_runners_one_gets_the_job(client: Redis) -> None:
    jobs = RedisJobs(client)
    await jobs.submit(submission())
    leases = [one for one in await asyncio.gather(*(jobs.claim("acme", "j-1") for _ in range(20))) if one]
    assert [(one.fence, one.query, one.ticket, one.runs) for one in leases] == [(1, b"query", "ticket", 1)]
    assert await state(jobs) is State.RUNNING


async def test_what_a_run_tells_comes_in_order_and_goes_on_after_what_was_seen(client: Redis) -> None:
    jobs = RedisJobs(client)
    await jobs.submit(submission())
    lease = await claimed(jobs)
    assert await jobs.append(lease, [b"a", b"b"])
    first = [one async for one in jobs.happenings("acme", "j-1", "", 0.01)]
    assert [one.state or one.part for one in first] == [State.QUEUED, State.RUNNING, b"a", b"b"]
    assert await jobs.append(lease, [b"c"])
    assert await jobs.end(lease, State.DONE, answer=b"answer")
    assert await told(jobs, first[-1].event_id) == [b"c", State.DONE]
    record = await jobs.read("acme", "j-1")
    assert record is not None
    assert (record.state, record.answer, record.ended >= record.created) == (State.DONE, b"answer", True)


async def test_a_run_that_lost_its_lease_writes_nothing(client: Redis) -> None:
    jobs = RedisJobs(client, SHORT)
    await jobs.submit(submission())
    lost = await claimed(jobs)
    await eventually(lambda: time.time() > record_of(lost), what="the lease to end")
    later = await claimed(jobs)
    assert later.fence == lost.fence + 1
    writes = (
        jobs.renew(lost),
        jobs.append(lost, [b"late"]),
        jobs.end(lost, State.DONE),
        jobs.put_back(lost, b"", 0),
    )
    assert [await one for one in writes] == [False] * 4
    assert await jobs.end(later, State.DONE, answer=b"once")
    assert b"late" not in await told(jobs)
    assert await claim_again(jobs) is None


def record_of(lease: Lease) -> float:
    """When its time is over at the latest, as seen from here."""
    return lease.expires - 600 + SHORT.lease_s + 0.1


async def claim_again(jobs: RedisJobs) -> Lease | None:
    return await jobs.claim("acme", "j-1")


async def test_a_lease_that_is_renewed_is_kept(client: Redis) -> None:
    jobs = RedisJobs(client, SHORT)
    await jobs.submit(submission())
    lease = await claimed(jobs)
    until = time.time() + 3 * SHORT.lease_s
    while time.time() < until:
        assert await jobs.renew(lease)
        assert await claim_again(jobs) is None
    assert await jobs.due() == []


async def test_a_job_whose_runner_vanished_is_due_and_after_three_runs_it_is_dead(client: Redis) -> None:
    jobs = RedisJobs(client, SHORT)
    await jobs.submit(submission())
    for run in (1, 2, 3):
        assert (await claimed(jobs)).runs == run
        assert await jobs.due() == [], "its runner may still be at work"
        await soon_due(jobs)
    assert await claim_again(jobs) is None
    assert await state(jobs) is State.DEAD
    assert [name for name, _ in await jobs.names("acme", 0, 10, dead=True)] == ["j-1"]
    assert await jobs.due() == []


async def soon_due(jobs: RedisJobs) -> None:
    found: list[tuple[str, str, str]] = []
    end = time.time() + 10
    while not found:
        assert time.time() < end, "never due"
        found = await jobs.due()
    assert found == [("acme", "j-1", "batch")]
    assert await jobs.due() == [], "two reconcilers queue it once"


async def test_a_dead_job_is_replayed_as_if_it_had_never_run_and_only_once(client: Redis) -> None:
    jobs = RedisJobs(client, replace(SHORT, most_runs=1))
    await jobs.submit(submission())
    lease = await claimed(jobs)
    assert await jobs.put_back(lease, b"no worker", 0)
    assert await claim_again(jobs) is None
    record = await jobs.read("acme", "j-1")
    assert record is not None
    assert (record.state, record.error) == (State.DEAD, b"no worker")
    assert sorted(await asyncio.gather(*(jobs.replay("acme", "j-1") for _ in range(5)))) == [False] * 4 + [
        True
    ]
    assert await jobs.names("acme", 0, 10, dead=True) == []
    assert (await claimed(jobs)).runs == 1


async def test_a_queued_job_that_is_cancelled_never_starts_and_a_running_one_loses_its_lease(
    client: Redis,
) -> None:
    jobs = RedisJobs(client)
    for name in ("waits", "runs"):
        await jobs.submit(submission(name))
    lease = await claimed(jobs, "runs")
    assert await jobs.cancel("acme", "waits")
    assert await jobs.cancel("acme", "runs")
    assert not await jobs.cancel("acme", "runs"), "it has ended"
    assert await jobs.claim("acme", "waits") is None
    assert not await jobs.held(lease)
    assert not await jobs.renew(lease)
    assert not await jobs.end(lease, State.DONE, answer=b"late")
    assert {await state(jobs, name) for name in ("waits", "runs")} == {State.CANCELLED}


async def test_a_run_that_was_none_is_not_counted(client: Redis) -> None:
    jobs = RedisJobs(client, SHORT)
    await jobs.submit(submission())
    for _ in range(2 * SHORT.most_runs):
        lease = await claimed(jobs)
        assert lease.runs == 1
        assert await jobs.held(lease)
        assert await jobs.put_back(lease, b"shed", 0, counted=False)
        assert not await jobs.held(lease)
    assert await state(jobs) is State.QUEUED


async def test_a_lease_says_how_much_time_is_left_by_the_servers_clock(client: Redis) -> None:
    jobs = RedisJobs(client)
    await jobs.submit(submission(expires=time.time() + 60))
    assert 50 < (await claimed(jobs)).left_s <= 60


async def test_a_job_whose_time_is_over_is_not_run(client: Redis) -> None:
    jobs = RedisJobs(client)
    await jobs.submit(submission(expires=time.time() - 1))
    assert await claim_again(jobs) is None
    assert await state(jobs) is State.FAILED


async def test_jobs_are_listed_page_by_page_the_newest_first_and_only_to_their_tenant(client: Redis) -> None:
    jobs = RedisJobs(client)
    for number in range(25):
        await jobs.submit(submission(f"j-{number}"))
    await jobs.submit(submission("theirs", tenant="beta"))
    found: list[str] = []
    before = 0.0
    while page := await jobs.names("acme", before, 10):
        found += [name for name, _ in page]
        before = page[-1][1]
    assert found == [f"j-{number}" for number in reversed(range(25))]


async def test_a_thousand_jobs_are_listed_in_a_few_round_trips_and_without_their_texts(
    client: Redis,
) -> None:
    jobs, desk = RedisJobs(client), JobDesk(RedisJobs(client), None, b"")
    for number in range(1_000):
        batch = "odd" if number % 2 else "even"
        await jobs.submit(submission(f"j-{number}", query=b"q" * 1_000, batch=batch))
    lease = await claimed(jobs, "j-999")
    assert await jobs.end(lease, State.FAILED, error=Status(message="why").SerializeToString())
    before = await reads(client)
    whole, token = await desk.page("acme", "", 1_000)
    assert [one.job_id for one in whole] == [f"j-{number}" for number in reversed(range(1_000))]
    assert whole[0].error.message == "why"
    even, _ = await desk.page("acme", "", 10, batch="even")
    assert [one.job_id for one in even] == [f"j-{number}" for number in range(998, 978, -2)]
    assert await reads(client) - before <= FEW
    assert await desk.page("acme", token, 1_000) == ([], "")
    assert [one.query for one in await jobs.listed("acme", ["j-1"]) if one] == [b""]


FEW = 100
"""A long command line is sent and read in pieces of some 6 kB. One by one they would be 2,000."""


async def reads(client: Redis) -> int:
    """How often the server has read from its clients."""
    return int((await client.info("stats"))["total_reads_processed"])


async def test_what_has_ended_is_forgotten_after_its_time(client: Redis) -> None:
    jobs = RedisJobs(client, replace(SHORT, keep_s=0.05))
    await jobs.submit(submission())
    await jobs.end(await claimed(jobs), State.DONE)
    end = time.time() + 10
    while await jobs.read("acme", "j-1"):
        assert time.time() < end
    assert [key async for key in client.scan_iter("headgate:job:*")] == []
    assert [key async for key in client.scan_iter("headgate:job-events:*")] == []


async def test_a_redis_that_is_away_is_told_as_a_side_room_that_failed() -> None:
    jobs = RedisJobs(connect("redis://127.0.0.1:1", 1.0, 1.0))
    with pytest.raises(SideRoomError):
        await jobs.submit(submission())


def test_every_end_is_one() -> None:
    assert {State.QUEUED, State.RUNNING} == set(State) - ENDED
