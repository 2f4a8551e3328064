from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from headgate.adapters.redis_jobs import RedisJobs
from headgate.jobs.relay import AT_ONCE, LostError, Relay
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


async def test_a_lost_lease_is_told_with_the_next_and_at_the_end() -> None:
    records = FakeRecords()
    records.lost = True
    one = relay(records)
    one.add(b"a")
    with pytest.raises(LostError):
        await one.flush()
    with pytest.raises(LostError):
        one.add(b"b")
    await one.close()


async def test_a_write_that_failed_is_made_again_with_what_came_meanwhile() -> None:
    records = FakeRecords()
    records.away = True
    one = relay(records)
    one.add(b"a")
    await asyncio.sleep(0)
    one.add(b"b")
    records.away = False
    await one.flush()
    assert records.writes == [[b"a", b"b"]]


async def test_what_the_server_has_forgotten_is_told_from_the_beginning() -> None:
    records = FakeRecords()
    one = relay(records)
    one.add(b"a")
    await one.flush()
    records.forgets = True
    one.add(b"b")
    await one.flush()
    assert records.writes[1:] == [[b"b"], [b"a", b"b"]]


async def test_no_write_is_longer_than_a_script_can_take() -> None:
    records = FakeRecords()
    records.open.clear()
    one = relay(records)
    for _ in range(2 * AT_ONCE + 1):
        one.add(b"a")
    records.open.set()
    await one.flush()
    assert [len(write) for write in records.writes] == [AT_ONCE, AT_ONCE, 1]


async def test_a_relay_that_is_closed_asks_no_more() -> None:
    records = FakeRecords()
    records.away = True
    one = relay(records)
    one.add(b"a")
    await asyncio.sleep(0)
    await asyncio.wait_for(one.close(), 5)
    records.away = False
    await asyncio.sleep(0)
    assert records.writes == []


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
