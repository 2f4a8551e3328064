"""Promise 10: a job that ends its runner each time is given up, says why, and costs the others nothing."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import psutil
import pytest
import pytest_asyncio

from headgate.adapters import status_map
from headgate.adapters.job_brokers import PREFIX
from headgate.adapters.job_queue import queue_of
from headgate.adapters.redis_client import connect
from headgate.adapters.redis_jobs import Record, RedisJobs, State
from headgate.v1 import jobs_pb2, jobs_pb2_grpc
from tests.faults.figures import Form
from tests.faults.load import arrivals, open_loop
from tests.faults.poisoned_runner import KINDS
from tests.integration.gateway_rig import Process, eventually, key, query
from tests.integration.job_rig import TERMS, JobStack, children, job_stack, put_rubbish

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACME = key("acme")
RUNNERS, PLACES = 2, 4
ANSWER_S: Final = 0.05
RATE: Final = 12.0
"""Jobs a second: a tenth of the places is taken."""
RUBBISH: Final = 13
"""Pieces of it that the rig has."""
REPLACED_S: Final = 4.0
"""Celery's own round comes after five."""
REASONS: Final = {
    "kill": "JOB_DEAD", "hang": "JOB_DEAD", "spin": "JOB_DEAD", "eat": "INTERNAL", "raise": "INTERNAL",
}  # fmt: skip
MOST_RUNS, RATIO = TERMS.most_runs, 1.2
TOLD: Final = (
    "Task %", "dropped", "unregistered", "invalid task", "unknown message", "refused", "nothing to run",
)  # fmt: skip
"""How a runner tells of what is no task of a job."""


@dataclass(frozen=True, slots=True)
class House:
    """A stack whose runners have faults, and what a test asks of it."""

    stack: JobStack
    desk: jobs_pb2_grpc.JobServiceStub
    records: RedisJobs

    async def submit(self, text: dict[str, object], name: str = "") -> str:
        """The job's name, also kept in its text: no two answers are the same."""
        name = name or uuid.uuid4().hex
        asked = query({**text, "name": name}, request_id=name, model="small")
        await self.desk.SubmitJob(jobs_pb2.SubmitJobRequest(query=asked), metadata=ACME, timeout=30)
        return name

    async def poisoned(self, kind: str) -> str:
        """A job that brings a fault out."""
        return await self.submit({"say": [f"poison:{kind} "]}, f"{kind}-{uuid.uuid4().hex}")

    async def ended(self, name: str, seconds: float = 60) -> Record:
        """The record of a job that has ended."""
        end = time.monotonic() + seconds
        while True:
            record = await self.records.read("acme", name)
            if record is not None and record.ended:
                return record
            assert time.monotonic() < end, f"waited in vain for {name}: {record}"
            await asyncio.sleep(0.02)

    async def dead(self, name: str) -> jobs_pb2.Job:
        """As its tenant sees a job that was given up."""
        await self.ended(name)
        return (await self.desk.GetJob(jobs_pb2.GetJobRequest(job_id=name), metadata=ACME)).job

    @property
    def runners(self) -> list[Process]:
        """Their parents."""
        return [one for one in self.stack.started if one.name.startswith("runner")]

    def processes(self) -> set[int]:
        """Those that work on jobs."""
        return {one.pid for runner in self.runners for one in children(runner)}

    def replaced(self, pid: int) -> bool:
        """Whether there are as many as there should be, and that one is gone."""
        now = self.processes()
        return pid not in now and len(now) == RUNNERS * PLACES

    def dropped(self) -> list[str]:
        """What the runners said of tasks that name no job to be had."""
        lines = (line for runner in self.runners for line in runner.log.read_text().splitlines())
        return [line for line in lines if any(told in line for told in TOLD)]

    def charged(self, name: str) -> int:
        """How often the ledger has the job."""
        found = self.stack.valkey.client.xrange("headgate:ledger")
        return sum(one[b"request_id"] == name.encode() for _, one in found)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    with job_stack(tmp_path_factory) as stack:
        for _ in range(RUNNERS):
            flags = ("--concurrency", str(PLACES))
            await asyncio.to_thread(
                lambda f=flags: stack.start("runner", *f, module="tests.faults.poisoned_runner")
            )
        await asyncio.to_thread(stack.start, "reconciler")
        records = RedisJobs(connect(stack.valkey.url, 5.0, 5.0, 5.0), TERMS)
        async with stack.channel() as channel:
            yield House(stack, jobs_pb2_grpc.JobServiceStub(channel), records)
        await records.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_poison_is_given_up_after_three_runs_and_says_why(house: House, kind: str) -> None:
    job = await house.dead(await house.poisoned(kind))
    assert (job.state, job.runs) == (jobs_pb2.JOB_STATE_DEAD, MOST_RUNS)
    assert status_map.reason_of(job.error) == REASONS[kind]
    stood_still = any("Timeout (" in one.log.read_text() for one in house.runners)
    assert kind != "hang" or stood_still, "Celery's limit, which is far longer, had to end it"
    listed = await house.desk.ListDeadJobs(jobs_pb2.ListDeadJobsRequest(), metadata=ACME)
    assert [one.job_id for one in listed.jobs].count(job.job_id) == 1


async def test_a_process_that_grows_too_large_is_replaced_after_its_answer(house: House) -> None:
    before = house.processes()
    record = await house.ended(await house.submit({"say": ["poison:leak "]}))
    assert (record.state, record.runs) == (State.DONE, 1)
    await eventually(
        lambda: len(house.processes()) == len(before) and house.processes() != before, what="another process"
    )


async def test_a_process_that_is_killed_is_replaced_at_once(house: House, form: Form) -> None:
    count, longest = form.count(10, 50), 0.0
    for _ in range(count):
        before = house.processes()
        victim = random.Random(form.seed).choice(sorted(before))
        began = time.monotonic()
        psutil.Process(victim).kill()
        await eventually(lambda v=victim: house.replaced(v), what="another process")
        longest = max(longest, time.monotonic() - began)
        assert longest < REPLACED_S
    form.note(
        "10: a runner's killed process is replaced",
        target=f"within {REPLACED_S:g} s",
        measured=f"after {longest:.1f} s at most",
        n=count,
        met=True,
    )


async def test_what_names_no_job_is_dropped_with_a_line_each(house: House) -> None:
    before = len(house.dropped())
    await asyncio.to_thread(put_rubbish, house.stack.broker)

    def nothing_waits() -> bool:
        client = house.stack.valkey.client
        return not client.llen(f"{PREFIX}{queue_of('batch')}") and not client.hlen(f"{PREFIX}unacked")

    await eventually(nothing_waits, what="the rubbish to be gone")
    await eventually(lambda: len(house.dropped()) >= before + RUBBISH, what="a line for each")
    record = await house.ended(await house.submit({"say": ["fine"]}))
    assert record.state is State.DONE
    assert len(house.dropped()) == before + RUBBISH


async def test_a_dead_job_that_is_replayed_twice_at_once_runs_once_more(house: House) -> None:
    name = await house.poisoned("raise")
    await house.dead(name)
    await eventually(lambda: house.charged(name) == MOST_RUNS, what="the runs' records")
    # Its cause is mended.
    request = jobs_pb2.ReplayDeadJobRequest(job_id=name)
    house.stack.valkey.client.hset(f"headgate:job:acme:{name}", "query", _mended(name))
    both = await asyncio.gather(*(house.desk.ReplayDeadJob(request, metadata=ACME) for _ in range(2)))
    assert {one.job.job_id for one in both} == {name}
    record = await house.ended(name)
    assert (record.state, record.runs) == (State.DONE, 1)
    await eventually(lambda: house.charged(name) == MOST_RUNS + 1, what="the record of the new run")
    again = await house.desk.ReplayDeadJob(request, metadata=ACME)
    assert again.job.state == jobs_pb2.JOB_STATE_DONE
    listed = await house.desk.ListJobs(jobs_pb2.ListJobsRequest(page_size=1000), metadata=ACME)
    assert [one.job_id for one in listed.jobs].count(name) == 1
    dead = await house.desk.ListDeadJobs(jobs_pb2.ListDeadJobsRequest(), metadata=ACME)
    assert name not in [one.job_id for one in dead.jobs]
    assert house.charged(name) == MOST_RUNS + 1


def _mended(name: str) -> bytes:
    return query({"say": ["fine"], "name": name}, request_id=name, model="small").SerializeToString()


async def test_poison_costs_the_other_jobs_nothing(house: House, form: Form) -> None:
    draw = random.Random(form.seed)
    await _phase(house, 2 * RUNNERS * PLACES, (), draw)
    clean: list[float] = []
    beside: list[float] = []
    for phase in range(form.count(2, 20)):
        poison = KINDS if phase % 2 else ()
        spans = await _phase(house, form.count(30, 120), poison, draw)
        (beside if poison else clean).extend(spans)
    ratio = percentile(beside) / percentile(clean)
    low, high = _interval(clean, beside, form.seed)
    form.note(
        "10: jobs beside poison",
        target=f"every poisonous job dead after {MOST_RUNS} runs; p99 of the others ≤ {RATIO} ×",
        measured=f"p99 from submit to end {percentile(clean) * 1e3:.0f} → {percentile(beside) * 1e3:.0f} ms, "
        f"{ratio:.2f} × (95 %: {low:.2f} to {high:.2f})",
        n=len(clean) + len(beside),
        met=ratio <= RATIO,
    )


async def _phase(house: House, count: int, poison: Sequence[str], draw: random.Random) -> list[float]:
    """Seconds from submit to end of so many jobs, poison strewn among them; it is dead at the end."""
    due = arrivals(RATE, count / RATE, draw.randrange(1 << 30))
    strewn = dict(zip(draw.sample(range(len(due)), len(poison)), poison, strict=True))
    names: list[str] = []
    poisoned: list[str] = []

    async def one(number: int) -> None:
        if number in strewn:
            poisoned.append(await house.poisoned(strewn[number]))
        names.append(await house.submit({"say": ["fine"], "gap_s": ANSWER_S}))

    await open_loop(one, due)
    ends = [await house.ended(name) for name in names]
    assert {end.state for end in ends} == {State.DONE}
    for name in poisoned:
        assert (await house.ended(name)).state is State.DEAD
    return [end.ended - end.created for end in ends]


def percentile(spans: Sequence[float]) -> float:
    """The 99th."""
    return float(np.percentile(spans, 99))


def _interval(clean: Sequence[float], beside: Sequence[float], seed: int) -> tuple[float, float]:
    """Of the ratio of both p99, by drawing again."""
    generator = np.random.default_rng(seed)
    ratios = [
        percentile(generator.choice(beside, len(beside))) / percentile(generator.choice(clean, len(clean)))
        for _ in range(1000)
    ]
    return float(np.percentile(ratios, 2.5)), float(np.percentile(ratios, 97.5))
