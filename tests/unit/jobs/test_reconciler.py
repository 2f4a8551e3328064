from __future__ import annotations

import asyncio
from collections.abc import Sequence

from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_jobs import Line
from headgate.adapters.telemetry import ReconcilerMetrics
from headgate.jobs.reconciler import AT_ONCE, MOST_WAITING, Reconciler
from tests.integration.gateway_rig import eventually

Job = tuple[str, str, str]


class Records:
    def __init__(self, *looks: list[Job] | None) -> None:
        self.looks = list(looks)
        """What each look finds; None is a Redis that is away. After the last one nothing is due."""
        self.asked = 0
        self.days: list[int] = []

    async def due(self, most: int = AT_ONCE) -> list[Job]:
        self.asked += 1
        found = self.looks.pop(0) if self.looks else []
        if found is None:
            raise SideRoomError("away")
        return found[:most]

    async def line(self, classes: Sequence[str]) -> Line:
        return Line(2, dict.fromkeys(classes, 7), dict.fromkeys(classes, 1.5))

    async def left(self, tenants: Sequence[str], day: int) -> list[tuple[str, str, int]]:
        self.days.append(day)
        return [(tenant, "batch", 5) for tenant in tenants]


class Queue:
    def __init__(self) -> None:
        self.told: list[Job] = []
        self.waits = {"batch": 0, "interactive": 0}
        self.refuses = 0
        self.away = False

    async def put(self, tenant: str, name: str, job_class: str) -> None:
        if self.refuses:
            self.refuses -= 1
            raise SideRoomError("away")
        self.told.append((tenant, name, job_class))

    async def waiting(self, job_class: str) -> int:
        return self.waits[job_class]


def jobs(number: int, job_class: str = "batch") -> list[Job]:
    return [("acme", f"{job_class}-{one}", job_class) for one in range(number)]


async def test_what_is_due_is_queued() -> None:
    queue = Queue()
    assert await Reconciler(Records(jobs(3)), queue).look() == 3
    assert queue.told == jobs(3)


async def test_a_queue_that_is_long_is_not_made_longer_and_the_other_class_is_served() -> None:
    queue = Queue()
    queue.waits["batch"] = MOST_WAITING
    await Reconciler(Records(jobs(3) + jobs(2, "interactive")), queue).look()
    assert queue.told == jobs(2, "interactive")


async def test_it_outlives_a_redis_and_a_broker_that_are_away_and_stops_when_told() -> None:
    records, queue, stop = Records(None, jobs(1), jobs(2)), Queue(), asyncio.Event()
    queue.refuses = 1
    running = asyncio.create_task(Reconciler(records, queue).run(stop))
    await eventually(lambda: queue.told == jobs(2), what="the jobs to be queued")
    stop.set()
    await running


async def test_many_are_queued_without_a_pause() -> None:
    records, queue, stop = Records(*[jobs(AT_ONCE)] * 50), Queue(), asyncio.Event()
    running = asyncio.create_task(Reconciler(records, queue).run(stop))
    await eventually(lambda: len(queue.told) == 50 * AT_ONCE, seconds=5, what="all to be queued")
    stop.set()
    await running


async def test_each_look_tells_the_length_and_the_age_of_the_lines() -> None:
    metrics, queue = ReconcilerMetrics(), Queue()
    await Reconciler(Records(), queue, metrics).look()
    value = metrics.registry.get_sample_value
    assert value("headgate_jobs_waiting", {"job_class": "batch"}) == 7
    assert value("headgate_jobs_oldest_seconds", {"job_class": "interactive"}) == 1.5
    assert value("headgate_jobs_dead") == 2
    assert value("headgate_broker_away") == 0
    queue.away = True
    assert value("headgate_broker_away") == 1


async def test_what_budgets_have_left_is_told_and_not_asked_at_every_look() -> None:
    metrics, records = ReconcilerMetrics(), Records()
    one = Reconciler(records, Queue(), metrics, ["acme", "beta"])
    for _ in range(3):
        await one.look()
    assert len(records.days) == 1
    value = metrics.registry.get_sample_value
    for tenant in ("acme", "beta"):
        assert value("headgate_budget_left_nanousd", {"tenant": tenant, "budget": "batch"}) == 5
