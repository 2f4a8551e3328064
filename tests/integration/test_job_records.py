"""Records of jobs on a real Valkey: whatever happens to runners, a job is run by one at a time and ends."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from google.rpc.status_pb2 import Status
from redis.asyncio import Redis

from headgate.adapters.breaker import Breaker
from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_client import connect
from headgate.adapters.redis_jobs import ENDED, Lease, Line, RedisJobs, State, Submission, Terms
from headgate.gateway.job_desk import JobDesk
from headgate.jobs.relay import AT_ONCE
from tests.integration.gateway_rig import Valkey, eventually

SHORT = Terms(lease_s=0.3, most_runs=3, grace_s=0.2, keep_s=60)
LONG = Terms()


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
    assert [(one.query, one.ticket, one.runs) for one in leases] == [(b"query", "ticket", 1)]
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


async def test_a_write_that_is_made_again_is_there_once_in_whatever_order_it_comes(client: Redis) -> None:
    jobs = RedisJobs(client)
    await jobs.submit(submission())
    lease = await claimed(jobs)
    assert await jobs.append(lease, [b"a", b"b"], 0) == 2
    assert await jobs.append(lease, [b"a", b"b"], 0) == 2
    assert await jobs.append(lease, [b"b", b"c"], 1) == 3
    assert await jobs.append(lease, [b"a"], 0) == 3, "one that came late"
    assert await told(jobs) == [State.QUEUED, State.RUNNING, b"a", b"b", b"c"]
    assert await jobs.put_back(lease, b"", 0)
    assert await jobs.append(await claimed(jobs), [b"a"], 0) == 1, "another run begins anew"


async def test_parts_that_the_server_forgot_are_asked_for_again_and_those_who_watch_know(
    client: Redis,
) -> None:
    jobs = RedisJobs(client)
    await jobs.submit(submission())
    lease = await claimed(jobs)
    await jobs.append(lease, [b"a"], 0)
    kept = [(key, await client.dump(key)) for key in await client.keys("headgate:job*acme:j-1")]
    assert len(kept) == 2
    await jobs.append(lease, [b"b", b"c"], 1)
    for key, value in kept:
        await client.restore(key, 0, value, replace=True)
    assert await jobs.append(lease, [b"d"], 3) == 0
    assert await jobs.append(lease, [b"a", b"b", b"c", b"d"], 0) == 4
    later = await told(jobs)
    assert later[later.index(State.RUNNING, 3) + 1 :] == [b"a", b"b", b"c", b"d"]


async def test_a_run_that_a_server_forgot_is_not_taken_for_the_next_one(client: Redis) -> None:
    """Its last second was lost: it would give the next run the same number."""
    jobs = RedisJobs(client)
    await jobs.submit(submission())
    before = await client.dump("headgate:job:acme:j-1")
    forgotten = await claimed(jobs)
    await client.restore("headgate:job:acme:j-1", 0, before, replace=True)
    assert await jobs.end(forgotten, State.DONE) is False
    later = await claimed(jobs)
    assert not await jobs.held(forgotten)
    assert not await jobs.end(forgotten, State.DONE, answer=b"of whom?")
    assert await jobs.held(later)


async def test_who_did_not_hear_that_it_has_the_job_has_it_all_the_same_and_it_counts_once(
    client: Redis,
) -> None:
    jobs = RedisJobs(client)
    await jobs.submit(submission())
    first, again = [await jobs.claim("acme", "j-1", "same") for _ in range(2)]
    assert first is not None
    assert again is not None
    assert (first.fence, first.runs, again.fence, again.runs) == ("same", 1, "same", 1)
    assert await jobs.claim("acme", "j-1") is None
    assert await told(jobs) == [State.QUEUED, State.RUNNING]


@pytest.fixture
async def full(client: Redis) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Fills the server, until the test has ended."""
    yield lambda: client.config_set("maxmemory", 1)
    await client.config_set("maxmemory", 0)


async def contents(client: Redis) -> dict[bytes, bytes]:
    return {key: await client.dump(key) for key in await client.keys("*")}


async def test_a_full_server_refuses_whole_steps_and_no_half_ones(
    client: Redis, full: Callable[[], Awaitable[object]]
) -> None:
    jobs = RedisJobs(client, replace(SHORT, most_runs=1))
    for name in ("waits", "dead"):
        await jobs.submit(submission(name))
    await jobs.put_back(await claimed(jobs, "dead"), b"why", 0)
    assert await jobs.claim("acme", "dead") is None
    await full()
    before = await contents(client)
    for step in (
        jobs.submit(submission("new")),
        jobs.claim("acme", "waits"),
        jobs.replay("acme", "dead", time.time() + 60, "ticket"),
    ):
        with pytest.raises(SideRoomError, match="OutOfMemory"):
            await step
    assert await contents(client) == before


async def test_a_full_server_lets_jobs_under_way_come_to_their_end(
    client: Redis, full: Callable[[], Awaitable[object]]
) -> None:
    jobs = RedisJobs(client, replace(SHORT, grace_s=0))
    leases = {}
    for name in ("ends", "goes-back", "waits"):
        await jobs.submit(submission(name))
        leases[name] = await claimed(jobs, name) if name != "waits" else None
    await full()
    ends, goes_back = leases["ends"], leases["goes-back"]
    assert ends is not None
    assert goes_back is not None
    assert await jobs.append(ends, [b"a"], 0) == 1
    assert await jobs.renew(ends)
    assert await jobs.end(ends, State.DONE, answer=b"answer")
    assert await jobs.put_back(goes_back, b"why", 0)
    assert sorted(name for _, name, _ in await jobs.due()) == ["goes-back", "waits"]
    assert await jobs.cancel("acme", "waits")
    assert [await state(jobs, name) for name in leases] == [State.DONE, State.QUEUED, State.CANCELLED]


async def test_many_parts_go_into_one_write(client: Redis) -> None:
    jobs = RedisJobs(client)
    await jobs.submit(submission())
    lease = await claimed(jobs)
    assert await jobs.append(lease, [b"a"] * AT_ONCE, 0) == AT_ONCE


async def test_a_run_that_lost_its_lease_writes_nothing(client: Redis) -> None:
    jobs = RedisJobs(client, SHORT)
    await jobs.submit(submission())
    lost = await claimed(jobs)
    await eventually(lambda: time.time() > record_of(lost), what="the lease to end")
    later = await claimed(jobs)
    assert later.fence != lost.fence
    writes = (
        jobs.renew(lost),
        jobs.append(lost, [b"late"]),
        jobs.end(lost, State.DONE),
        jobs.put_back(lost, b"", 0),
    )
    assert [bool(await one) for one in writes] == [False] * 4
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
    assert sorted(
        await asyncio.gather(*(jobs.replay("acme", "j-1", time.time() + 60, "another") for _ in range(5)))
    ) == [False] * 4 + [True]
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


async def test_the_line_tells_how_many_wait_and_for_how_long_and_what_was_given_up(client: Redis) -> None:
    jobs = RedisJobs(client, replace(SHORT, most_runs=1))
    for name, job_class in (("first", "batch"), ("second", "batch"), ("other", "interactive")):
        await jobs.submit(submission(name, job_class=job_class))
        await asyncio.sleep(0.02)
    line = await jobs.line(("batch", "interactive", "none"))
    assert (line.waiting, line.dead) == ({"batch": 2, "interactive": 1, "none": 0}, 0)
    assert 1 > line.oldest_s["batch"] > line.oldest_s["interactive"] > line.oldest_s["none"] == 0
    first = await claimed(jobs, "first")
    younger = await jobs.line(("batch",))
    assert younger.waiting["batch"] == 1
    assert await jobs.cancel("acme", "second")
    assert await jobs.put_back(first, b"why", 0)
    back = await jobs.line(("batch",))
    assert back.oldest_s["batch"] >= line.oldest_s["batch"], "it waits since it came"
    assert await jobs.claim("acme", "first") is None
    assert await jobs.line(("batch",)) == Line(1, {"batch": 0}, {"batch": 0})
    assert await jobs.replay("acme", "first", time.time() + 60, "ticket")
    again = await jobs.line(("batch",))
    assert (again.dead, again.waiting["batch"]) == (0, 1)
    assert again.oldest_s["batch"] < younger.oldest_s["batch"], "it waits since it was replayed"


async def test_what_a_step_makes_of_a_job_is_noted_once(client: Redis) -> None:
    noted: list[tuple[str, ...]] = []
    jobs = RedisJobs(client, SHORT, note=lambda name, *labels, value=1.0: noted.append((name, *labels)))
    for name in ("answered", "unwanted", "late"):
        await jobs.submit(submission(name, expires=time.time() + (-1 if name == "late" else 600)))
    lease = await claimed(jobs, "answered")
    await eventually(lambda: time.time() > record_of(lease), what="the lease to end")
    again = await claimed(jobs, "answered")
    for one in (lease, again, again):
        await jobs.end(one, State.DONE)
    assert await jobs.claim("acme", "late") is None
    for _ in range(2):
        await jobs.cancel("acme", "unwanted")
        await jobs.claim("acme", "unwanted")
    begun, ended = ("headgate_job_runs_begun_total", "batch"), "headgate_jobs_ended_total"
    assert [one for one in noted if one[0] != "headgate_job_seconds"] == [
        begun, ("headgate_job_wait_seconds", "batch"),
        ("headgate_job_runs_ended_total", "batch", "lost"), begun,
        (ended, "batch", "done"), (ended, "batch", "failed"), (ended, "batch", "cancelled"),
    ]  # fmt: skip
    assert noted.count(("headgate_job_seconds", "batch")) == 3


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


async def test_a_server_that_says_nothing_is_waited_for_a_few_times_only(
    client: Redis, valkey: Valkey
) -> None:
    patient = connect(valkey.url, 0.2, 0.2)
    breaker = Breaker(open_s=0.3, longest_s=0.3)
    jobs = RedisJobs(patient, SHORT, breaker)
    valkey.popen.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        for number in range(200):
            with pytest.raises(SideRoomError):
                await jobs.submit(submission(f"j-{number}"))
        assert time.monotonic() - began < 20, "each was waited for"
    finally:
        valkey.popen.send_signal(signal.SIGCONT)
    async with asyncio.timeout(10):
        while breaker.open:
            with suppress(SideRoomError):
                await jobs.submit(submission("later"))
            await asyncio.sleep(0.02)
    assert await state(jobs, "later") is State.QUEUED
    await patient.aclose()


async def test_a_server_that_says_no_is_there(client: Redis, full: Callable[[], Awaitable[object]]) -> None:
    jobs = RedisJobs(client, SHORT, Breaker())
    await jobs.submit(submission())
    await full()
    for number in range(20):
        with pytest.raises(SideRoomError, match="OutOfMemory"):
            await jobs.submit(submission(f"full-{number}"))
    assert await state(jobs) is State.QUEUED


def test_every_end_is_one() -> None:
    assert {State.QUEUED, State.RUNNING} == set(State) - ENDED
