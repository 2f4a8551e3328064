"""The same worksheets as a batch of queued jobs, with one of the runner's processes killed midway."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from headgate.cli.demo.exercise import TIMEOUT_S
from headgate.client import AsyncClient
from headgate.client.jobs.types import Job, JobRequest, Refused
from headgate.worker.backends.builtin.worksheets import Worksheet, check

BATCH = "demo"
LOOK_S = 0.25
PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Queued:
    """What became of the batch."""

    states: Mapping[str, int]
    """Jobs that were accepted, by how they ended."""
    refused: int
    seconds: float
    """From the first submission to the last end."""
    ran_again: int
    """Jobs that were begun more than once."""
    killed_after: int | None
    """Jobs that had ended when a process was killed; None where none was."""
    quality: float
    cost_nanousd: int

    @property
    def jobs(self) -> int:
        """That were accepted."""
        return sum(self.states.values())


class Batch:
    """Submits, looks on, kills."""

    def __init__(
        self, client: AsyncClient, sheets: Sequence[Worksheet], runner: int, step: Callable[[int, str], None]
    ) -> None:
        """`runner` is its process id; `step` is told how many have ended, and what there is to say."""
        self._client = client
        self._sheets = {f"{BATCH}-{number}": sheet for number, sheet in enumerate(sheets)}
        self._runner = runner
        self._step = step
        self._killed_after: int | None = None

    async def take(self) -> Queued:
        """Until every job has ended. Raises HeadgateError."""
        begun = time.perf_counter()
        refused = await self._submit()
        jobs = await self._listed()
        while not all(job.has_ended for job in jobs):
            await self._looked(sum(job.has_ended for job in jobs))
            await asyncio.sleep(LOOK_S)
            jobs = await self._listed()
        seconds = time.perf_counter() - begun
        self._step(len(jobs), "queued jobs")
        answers = [(job, await self._client.jobs.get(job.job_id, timeout_s=TIMEOUT_S)) for job in jobs]
        marks = [self._marked(job) for _, job in answers]
        return Queued(
            states=dict(Counter(job.state for job in jobs)), refused=refused, seconds=seconds,
            ran_again=sum(job.runs > 1 for job in jobs), killed_after=self._killed_after,
            quality=sum(quality for quality, _ in marks) / len(self._sheets),
            cost_nanousd=sum(cost for _, cost in marks),
        )  # fmt: skip

    async def _submit(self) -> int:
        """How many were refused."""
        requests = (
            JobRequest(sheet.question, batch=BATCH, options={"request_id": name})
            for name, sheet in self._sheets.items()
        )
        told = self._client.jobs.submit_many(requests, timeout_s=TIMEOUT_S)
        return sum([isinstance(one, Refused) async for one in told])

    async def _listed(self) -> list[Job]:
        return [job async for job in self._client.jobs.list(BATCH, page_size=PAGE, timeout_s=TIMEOUT_S)]

    async def _looked(self, ended: int) -> None:
        if self._killed_after is None and ended >= len(self._sheets) // 2 and await _kill_one(self._runner):
            self._killed_after = ended
        killed = "" if self._killed_after is None else ", one runner killed"
        self._step(ended, f"queued jobs{killed}")

    def _marked(self, job: Job) -> tuple[float, int]:
        if job.answer is None:
            return 0.0, 0
        return check(self._sheets[job.job_id], job.answer.text), job.answer.decision.cost_nanousd


async def _kill_one(parent: int) -> bool:
    """Kills one of the processes that a runner works with, as the kernel does that has no memory left."""
    for child in await _children(parent):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
            return True
    return False


async def _children(parent: int) -> list[int]:
    """Process ids; none where the system has no `ps`."""
    try:
        asked = await asyncio.create_subprocess_exec(
            "ps", "-A", "-o", "pid=", "-o", "ppid=", stdout=asyncio.subprocess.PIPE
        )
    except FileNotFoundError:
        return []
    told, _ = await asked.communicate()
    return [pid for pid, ppid in _pairs(told.decode()) if ppid == parent]


def _pairs(told: str) -> Iterator[tuple[int, int]]:
    for line in told.splitlines():
        pid, ppid = line.split()
        yield int(pid), int(ppid)
