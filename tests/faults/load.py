"""Open-loop load: requests leave when they are due, whether or not the earlier ones have come back.

A closed loop asks less of a slow system and so hides its slowness (coordinated omission). Here the arrivals
are drawn before the first request leaves, and a latency counts from the instant a request was due.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sample(Generic[T]):
    """One request. Seconds; `due` counts from the start of the load, `latency` from `due`."""

    due: float
    latency: float
    result: T


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Instants of a Poisson process with `rate` arrivals a second."""
    draw = random.Random(seed)
    instants, at = [], draw.expovariate(rate)
    while at < seconds:
        instants.append(at)
        at += draw.expovariate(rate)
    return instants


async def open_loop(
    call: Callable[[int], Awaitable[T]], due: Sequence[float], stop: asyncio.Event | None = None
) -> list[Sample[T]]:
    """Makes call number i at `due[i]`, until `stop` is set; a call must turn its errors into a result."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def one(number: int) -> Sample[T]:
        result = await call(number)
        return Sample(due[number], loop.time() - began - due[number], result)

    tasks = []
    for number, instant in enumerate(due):
        await asyncio.sleep(began + instant - loop.time())
        if stop is not None and stop.is_set():
            break
        tasks.append(asyncio.create_task(one(number)))
    return await asyncio.gather(*tasks)


def percentile(values: Iterable[float], share: float) -> float:
    """The least value that at least `share` of the values do not exceed; nan for none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
