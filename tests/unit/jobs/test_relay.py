from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_jobs import RedisJobs
from headgate.jobs.relay import LostError, Relay
from tests.unit.jobs.records import LEASE, FakeRecords


def relay(records: Any) -> Relay:
    return Relay(cast("RedisJobs", records), LEASE)


async def test_what_comes_while_a_write_is_out_goes_with_the_next() -> None:
    records = FakeRecords()
    records.open.clear()
    one = relay(records)
    one.add(b"a")
    await asyncio.sleep(0)
    for part in (b"b", b"c", b"d"):
        one.add(part)
    records.open.set()
    await one.flush()
    assert records.writes == [[b"a"], [b"b", b"c", b"d"]]


@pytest.mark.parametrize(("fault", "error"), [("lost", LostError), ("away", SideRoomError)])
async def test_a_write_that_failed_is_told_with_the_next_and_at_the_end(
    fault: str, error: type[Exception]
) -> None:
    records = FakeRecords()
    setattr(records, fault, True)
    one = relay(records)
    one.add(b"a")
    with pytest.raises(error):
        await one.flush()
    with pytest.raises(error):
        one.add(b"b")
    await one.close()


async def test_who_stops_waiting_stops_no_write() -> None:
    records = FakeRecords()
    records.open.clear()
    one = relay(records)
    one.add(b"a")
    waiting = asyncio.create_task(one.flush())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    records.open.set()
    await one.close()
    assert records.writes == [[b"a"]]


async def test_nothing_to_write_is_nothing_to_wait_for() -> None:
    one = relay(FakeRecords())
    await one.flush()
    await one.close()
