"""Fresh worksheets through the real gRPC path: answered by every model and under every policy, checked."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from headgate.client import AsyncClient, Decision, HeadgateError
from headgate.client.types import Options
from headgate.worker.backends.builtin.worksheets import Worksheet, check

TIMEOUT_S = 120.0
ROUTED = "cascade_early_stop"
"""The policy that is in force where a query asks for nothing else."""
OTHERS: Mapping[str, Options] = {"routing": {"hold_back_tokens": 0}, "cascade": {"early_stop": False}}
"""What queries ask for to be answered under the others: no draft read, and none stopped."""


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
    others: Mapping[str, tuple[Marked, ...]] = field(default_factory=dict)
    """Of the other policies that were asked for, by name."""
    routed_s: float = 0.0
    """How long all of `routed` took together."""


class Exam:
    """Sends worksheets, at most `concurrency` at a time."""

    def __init__(
        self,
        client: AsyncClient,
        sheets: Sequence[Worksheet],
        concurrency: int,
        step: Callable[[], None],
        others: Mapping[str, Options] | None = None,
    ) -> None:
        """`step` is called after every answer; `others` are further policies, by what they ask."""
        self._others = others or {}
        self._client = client
        self._sheets = sheets
        self._places = asyncio.Semaphore(concurrency)
        self._step = step
        self._failures: Counter[str] = Counter()

    async def take(self) -> Exercise:
        """One run after the other, so that no latency contains another run's load; the policy's is first."""
        decision = await self._client.route(self._sheets[0].question, timeout_s=TIMEOUT_S)
        models = tuple(estimate.model for estimate in decision.estimates)
        begun = time.perf_counter()
        routed = await self.answers("routed", {})
        routed_s = time.perf_counter() - begun
        await asyncio.gather(*(self._report(mark.decision, mark.quality) for mark in routed if mark.decision))
        others = {name: await self.answers(name, options) for name, options in self._others.items()}
        pinned = {model: await self.answers(model, {"model": model}) for model in models}
        return Exercise(models, routed, pinned, dict(self._failures), others, routed_s)

    async def answers(self, name: str, options: Options) -> tuple[Marked, ...]:
        """One run: every worksheet with these options, in the worksheets' order; failures go under `name`."""
        return tuple(await asyncio.gather(*(self._mark(sheet, name, options) for sheet in self._sheets)))

    async def _mark(self, sheet: Worksheet, name: str, options: Options) -> Marked:
        async with self._places:
            try:
                return await self._ask(sheet, options)
            except HeadgateError as error:
                self._failures[f"{name}: {type(error).__name__}: {error}"] += 1
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
