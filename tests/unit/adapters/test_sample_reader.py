"""What the gateway wrote to a real server is read again: once each, page by page, tenant by tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from headgate.adapters import sample_reader, samples
from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_rooms import SAMPLE_STREAM, Rooms
from headgate.adapters.sample_reader import SampleReader, reader
from headgate.adapters.samples import Sample
from tests.integration.gateway_rig import Valkey
from tests.unit.sample_rig import SAMPLE

DAY = "2026-11-25"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture
def server(started: Valkey) -> Valkey:
    started.client.flushall()
    return started


@pytest.fixture
async def rooms(server: Valkey) -> AsyncIterator[Rooms]:
    made = Rooms(server.url, 1000)
    yield made
    await made.close()


@pytest.fixture
async def reading(server: Valkey) -> AsyncIterator[SampleReader]:
    async with reader(server.url) as one:
        yield one


async def _write(rooms: Rooms, *kept: Sample) -> None:
    for one in kept:
        await rooms.texts.put(samples.key(one.tenant, one.record_id), samples.texts(one), 600)
    await rooms.samples.append([samples.facts(one) for one in kept])


async def test_samples_come_back_with_their_texts_each_once(rooms: Rooms, reading: SampleReader) -> None:
    await _write(rooms, SAMPLE)
    await rooms.samples.append([samples.facts(SAMPLE)])
    assert (await reading.found()).samples == (SAMPLE,)


async def test_more_than_a_page_is_read(
    rooms: Rooms, reading: SampleReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_reader, "BATCH", 3)
    monkeypatch.setattr(sample_reader, "TEXTS", 2)
    many = [replace(SAMPLE, record_id=str(number)) for number in range(7)]
    await _write(rooms, *many)
    assert (await reading.found()).samples == tuple(many)


async def test_a_tenant_sees_only_its_own(rooms: Rooms, reading: SampleReader) -> None:
    await _write(rooms, SAMPLE, replace(SAMPLE, tenant="beta", record_id="r2"))
    found = await reading.found(["beta"])
    assert [one.tenant for one in found.samples] == ["beta"]
    assert (await reading.found()).tenants == ["acme", "beta"]


async def test_texts_that_expired_leave_facts(rooms: Rooms, reading: SampleReader, server: Valkey) -> None:
    await _write(rooms, SAMPLE)
    server.client.delete(f"headgate:{samples.key('acme', 'r1')}")
    [bare] = (await reading.found()).samples
    assert (bare.query, bare.delivered) == ("", "small")


async def test_a_tenant_is_forgotten_and_no_other(rooms: Rooms, reading: SampleReader) -> None:
    other = replace(SAMPLE, tenant="acme-2", record_id="r2")
    await _write(rooms, SAMPLE, other)
    assert await reading.forget("acme") == 1
    assert [bool(one.query) for one in (await reading.found()).samples] == [False, True]
    assert await reading.forget("acme") == 0


async def test_outcomes_come_from_the_ledger_and_from_scorers(rooms: Rooms, reading: SampleReader) -> None:
    await rooms.ledger.append([samples.score(SAMPLE, "small", 1, "user", 1.0)])
    await reading.append([samples.score(SAMPLE, "large", 0, "check", 2.0)])
    told = (await reading.found()).outcomes
    assert {(one.model, one.source) for one in told} == {("small", "user"), ("large", "check")}


async def test_draws_are_counted_and_strangers_passed_over(
    rooms: Rooms, reading: SampleReader, server: Valkey
) -> None:
    await rooms.ledger.append(
        [
            {"kind": "request", "record_id": str(n), "tenant": "acme", "drawn": str(int(n < 2))}
            for n in range(5)
        ]
    )
    await rooms.ledger.append([{"kind": "request", "record_id": "x", "tenant": "acme"}, {"no": "id"}])
    server.client.xadd(SAMPLE_STREAM, {b"\xff": b"\xfe"})
    found = await reading.found()
    assert (found.samples, found.eligible, found.drawn) == ((), 5, 2)


async def test_a_job_is_one_request_however_often_it_was_run(rooms: Rooms, reading: SampleReader) -> None:
    runs = [
        {
            "kind": "request", "record_id": f"r{run}", "tenant": "acme", "request_id": "j", "at": "1.0",
            "job_since": "99", "run": str(run), "cost_nanousd": str(run * 10), "drawn": "1",
        }
        for run in (2, 1, 3)
    ]  # fmt: skip
    await rooms.ledger.append(runs)
    await _write(rooms, *(replace(SAMPLE, record_id=f"r{run}") for run in (1, 3)))
    found = await reading.found()
    assert [one.record_id for one in found.samples] == ["r3"]
    assert (found.eligible, found.drawn) == (1, 1)
    assert (found.lost_runs, found.lost_nanousd) == (2, 30)


async def test_what_a_day_cost_is_what_was_taken(rooms: Rooms, reading: SampleReader) -> None:
    account = samples.account("acme", DAY)
    assert await rooms.budget.reserve(account, 700, 1000)
    await rooms.budget.give_back(account, 200)
    assert await reading.spent(["acme", "beta"], DAY) == {"acme": 500, "beta": 0}


async def test_a_server_that_is_away_is_said() -> None:
    async with reader("redis://127.0.0.1:1") as gone:
        for asked in (gone.found(), gone.spent(["acme"], DAY), gone.append([{"a": "b"}]), gone.forget("a")):
            with pytest.raises(SideRoomError):
                await asked
