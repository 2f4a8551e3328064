"""Signals for processes on a schedule that is drawn from a seed before the first one is sent.

strikes = schedule(seed, seconds=10, victims=("small", "large"), signals=(KILL, STOP), every_s=2)
await perform(strikes, lambda strike: stack.strike(strike))
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from signal import Signals

KILL, STOP, CONTINUE, TERM = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT, signal.SIGTERM


@dataclass(frozen=True, slots=True)
class Strike:
    """A signal for a victim, `at` seconds after the start."""

    at: float
    victim: str
    signal: Signals


def schedule(
    seed: int, seconds: float, victims: Sequence[str], signals: Sequence[Signals], every_s: float
) -> list[Strike]:
    """About one strike each `every_s` seconds, at a random moment of its period."""
    draw = random.Random(seed)
    periods = range(int(seconds / every_s))
    return [
        Strike((period + draw.random()) * every_s, draw.choice(victims), draw.choice(signals))
        for period in periods
    ]


async def perform(strikes: Sequence[Strike], strike: Callable[[Strike], Awaitable[None]]) -> None:
    """Strikes on time, one after the other; one that takes long delays the next."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for one in strikes:
        await asyncio.sleep(began + one.at - loop.time())
        await strike(one)
