"""Fresh worksheets through the real gRPC path, answered by every model and by the policy, and checked."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headgate.client import AsyncClient, Decision, HeadgateError
from headgate.client.types import Options
from headgate.worker.backends.builtin.worksheets import Worksheet, check

TIMEOUT_S = 120.0
POLICY = ""
"""The run in which nothing is pinned."""


@dataclass(frozen=True, slots=True)
class Marked:
    """One answer, checked. A failed call has no decision, quality 0 and costs nothing."""

    quality: float
    cost_nanousd: int = 0
    latency_s: float = 0.0
    decision: Decision | None = None


@dataclass(frozen=True, slots=True)
class Exercise:
    """What was measured: for every run, one mark per worksheet, in the same order."""

    models: tuple[str, ...]
    routed: tuple[Marked, ...]
    pinned: dict[str, tuple[Marked, ...]]
    failures: dict[str, int]
    """Calls that did not end well, those that report outcomes included: how often each thing happened."""


class Exam:
    """Sends worksheets, at most `concurrency` at a time."""

    def __init__(
        self, client: AsyncClient, sheets: Sequence[Worksheet], concurrency: int, step: Callable[[], None]
    ) -> None:
        """`step` is called after every answer."""
        self._client = client
        self._sheets = sheets
        self._places = asyncio.Semaphore(concurrency)
        self._step = step
        self._failures: Counter[str] = Counter()

    async def take(self) -> Exercise:
        """One run after the other, so that no latency contains another run's load; the policy's is first."""
        decision = await self._client.route(self._sheets[0].question, timeout_s=TIMEOUT_S)
        models = tuple(estimate.model for estimate in decision.estimates)
        routed = await self._run(POLICY)
        await asyncio.gather(*(self._report(mark.decision, mark.quality) for mark in routed if mark.decision))
        pinned = {model: await self._run(model) for model in models}
        return Exercise(models, routed, pinned, dict(self._failures))

    async def _run(self, model: str) -> tuple[Marked, ...]:
        return tuple(await asyncio.gather(*(self._mark(sheet, model) for sheet in self._sheets)))

    async def _mark(self, sheet: Worksheet, model: str) -> Marked:
        async with self._places:
            try:
                return await self._ask(sheet, {"model": model} if model else {})
            except HeadgateError as error:
                self._failures[f"{model or 'routed'}: {type(error).__name__}: {error}"] += 1
                return Marked(0.0)
            finally:
                self._step()

    async def _ask(self, sheet: Worksheet, options: Options) -> Marked:
        begun = time.perf_counter()
        answer = await self._client.generate(sheet.question, timeout_s=TIMEOUT_S, **options)
        latency_s = time.perf_counter() - begun
        return Marked(check(sheet, answer.text), answer.decision.cost_nanousd, latency_s, answer.decision)

    async def _report(self, decision: Decision, quality: float) -> None:
        """Tells the gateway how good the answer was."""
        async with self._places:
            try:
                await self._client.record_outcome(
                    decision.request_id, decision.model, quality, source="check"
                )
            except HeadgateError as error:
                self._failures[f"outcome: {type(error).__name__}: {error}"] += 1
