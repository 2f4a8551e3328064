"""Queues again what makes no progress: jobs whose task got lost, and those whose runner did not come back.

It reads the records, which are the truth, and any number of it may run: each finds what the others have not
found just now.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from headgate.adapters.job_queue import CLASSES
from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_jobs import Line
from headgate.adapters.telemetry import DAY_S, ReconcilerMetrics

EVERY_S: Final = 0.5
"""A look costs two commands, and a job that lost its runner waits no longer for it."""
AT_ONCE: Final = 100
"""Jobs of one look. Where there were as many, the next look follows at once."""
BUDGETS_EVERY_S: Final = 5.0
"""As often as somebody may look at what is left of them."""
MOST_WAITING: Final = 1_000
"""Tasks in a queue, above which nothing is added: its jobs wait for runners and not for a task, and every
grace would add another task for each of them."""

_LOG = structlog.get_logger("headgate.jobs")


class Records(Protocol):
    """What it asks of `RedisJobs`."""

    async def due(self, most: int = AT_ONCE) -> list[tuple[str, str, str]]:
        """Tenant, name and class of jobs that are to be queued again."""

    async def line(self, classes: Sequence[str]) -> Line:
        """Who waits, and what was given up."""

    async def left(self, tenants: Sequence[str], day: int) -> list[tuple[str, str, int]]:
        """What is left of budgets."""


class Queue(Protocol):
    """What it asks of `JobQueue`."""

    async def put(self, tenant: str, name: str, job_class: str) -> None:
        """Tells runners of a job."""

    async def waiting(self, job_class: str) -> int:
        """Tasks that no runner has taken."""

    @property
    def away(self) -> bool:
        """Whether the broker is left alone after failures."""


class Reconciler:
    """Looks again and again, until it is stopped; a Redis or a broker that is away is waited for."""

    def __init__(
        self,
        records: Records,
        queue: Queue,
        metrics: ReconcilerMetrics | None = None,
        tenants: Sequence[str] = (),
    ) -> None:
        """`tenants`: those that may have budgets."""
        self._records = records
        self._queue = queue
        self._metrics = metrics or ReconcilerMetrics()
        self._metrics.broker_away.set_function(lambda: queue.away)
        self._tenants = tenants
        self._budgets_at = -BUDGETS_EVERY_S
        self._well = True

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set."""
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                if await self._looked() < AT_ONCE:
                    await asyncio.wait({stopped}, timeout=EVERY_S)
        finally:
            stopped.cancel()

    async def _looked(self) -> int:
        """How many jobs were due."""
        try:
            found = await self.look()
        except SideRoomError as error:
            if self._well:
                _LOG.warning("no jobs are queued again for now", why=str(error))
            self._well = False
            return 0
        if found and not self._well:
            _LOG.info("jobs are queued again")
        # A look that found nothing due has asked no broker.
        self._well = self._well or bool(found)
        return found

    async def look(self) -> int:
        """Queues what is due; how many jobs that were. Raises SideRoomError: then they are due again soon."""
        await self._measure()
        due = await self._records.due(AT_ONCE)
        full = {one for one in {job_class for _, _, job_class in due} if await self._full(one)}
        wanted = [one for one in due if one[2] not in full]
        for tenant, name, job_class in wanted:
            await self._queue.put(tenant, name, job_class)
        if wanted:
            _LOG.info("jobs queued again", count=len(wanted))
        return len(due)

    async def _measure(self) -> None:
        line = await self._records.line(CLASSES)
        self._metrics.dead.set(line.dead)
        for one in CLASSES:
            self._metrics.waiting.labels(one).set(line.waiting[one])
            self._metrics.oldest.labels(one).set(line.oldest_s[one])
        if time.monotonic() >= self._budgets_at + BUDGETS_EVERY_S:
            self._budgets_at, day = time.monotonic(), int(time.time() // DAY_S)
            for tenant, job_class, left in await self._records.left(self._tenants, day):
                self._metrics.budgets_left.tell(tenant, job_class, left, day)

    async def _full(self, job_class: str) -> bool:
        return await self._queue.waiting(job_class) >= MOST_WAITING
