"""Bells of watched jobs on a real Valkey: each rings for its job, and again after a connection is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from headgate.adapters.redis_client import connect
from headgate.adapters.redis_jobs import Lease, RedisJobs, Submission
from tests.integration.gateway_rig import Valkey
from tests.integration.job_rig import until

RUNG_S = 10.0


@pytest.fixture
async def jobs(valkey: Valkey) -> AsyncIterator[RedisJobs]:
    one = RedisJobs(connect(valkey.url, 5.0, 1.0))
    yield one
    await one.close()


async def run(jobs: RedisJobs, name: str) -> Lease:
    plain = Submission("acme", name, b"query", b"digest", "batch", "", time.time() + 600, "ticket")
    assert await jobs.submit(plain) == "new"
    lease = await jobs.claim("acme", name)
    assert lease is not None
    return lease


async def listens(client: Redis, name: str, count: int = 1) -> None:
    """Waits until the server knows that so many listen."""
    channel = f"headgate:job-events:acme:{name}"

    async def known() -> bool:
        return bool(await client.pubsub_numsub(channel) == [(channel.encode(), count)])

    await until(known, 30, f"{count} to listen for {name}")


async def test_everyone_who_watches_a_job_is_woken_by_it_and_by_no_other(
    jobs: RedisJobs, client: Redis
) -> None:
    mine, other = await run(jobs, "mine"), await run(jobs, "other")
    async with jobs.bell("acme", "mine") as one, jobs.bell("acme", "mine") as two:
        async with jobs.bell("acme", "other") as silent:
            await listens(client, "mine")
            await listens(client, "other")
            await jobs.append(mine, [b"a"])
            await asyncio.wait_for(asyncio.gather(one.wait(), two.wait()), RUNG_S)
            assert not silent.is_set()
            await jobs.append(other, [b"b"])
            await asyncio.wait_for(silent.wait(), RUNG_S)
        await listens(client, "other", 0)
        one.clear()
        await jobs.append(mine, [b"c"])
        await asyncio.wait_for(one.wait(), RUNG_S)
    await listens(client, "mine", 0)


async def test_after_a_connection_is_lost_it_is_listened_again(jobs: RedisJobs, client: Redis) -> None:
    lease = await run(jobs, "kept")
    async with jobs.bell("acme", "kept") as bell:
        for _ in range(3):
            await listens(client, "kept")
            assert await client.client_kill_filter(_type="pubsub")
            bell.clear()

            async def rings() -> bool:
                await jobs.append(lease, [b"part"])
                await asyncio.sleep(0.05)
                return bell.is_set()

            await until(rings, 30, "the bell to ring again")


async def test_a_user_who_may_not_publish_has_jobs_all_the_same(client: Redis, valkey: Valkey) -> None:
    await client.acl_setuser("quiet", enabled=True, nopass=True, keys=["*"], commands=["+@all"], channels=[])
    jobs = RedisJobs(connect(valkey.url.replace("//", "//quiet:none@"), 5.0, 1.0))
    lease = await run(jobs, "quiet")
    assert await jobs.append(lease, [b"part"])
    assert len([one async for one in jobs.happenings("acme", "quiet", "", 0)]) == 3
    await jobs.close()
