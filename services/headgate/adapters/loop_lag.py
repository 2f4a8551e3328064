"""Tells when the event loop was held up: one call that blocks holds up every request of the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

import structlog

_LOG = structlog.get_logger(__name__)
EVERY_S: Final = 0.05
"""What blocks for this much longer than SLOW_S is always told; 20 looks a second cost next to nothing."""
SLOW_S: Final = 0.1
"""A reader notices a pause from here on."""
TELL_EVERY_S: Final = 10.0
"""On a busy machine the loop is late many times a second: the log gets one line for all of them."""


def _nobody(_lag_s: float) -> None:
    pass


class LoopLag:
    """Looks at the running loop from `start` to `stop`."""

    def __init__(self, observe: Callable[[float], None] = _nobody) -> None:
        """`observe` gets every lag, in seconds; those above SLOW_S are logged as well."""
        self._observe = observe
        self._tell = Told()
        self._due = 0.0
        self._next: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to look."""
        self._due = monotonic() + EVERY_S
        self._next = asyncio.get_running_loop().call_later(EVERY_S, self._look)

    def stop(self) -> None:
        """Ends it."""
        if self._next is not None:
            self._next.cancel()

    def _look(self) -> None:
        now = monotonic()
        lag_s = max(0.0, now - self._due)
        self._observe(lag_s)
        self._tell(lag_s, now)
        self.start()


class Told:
    """Logs lags above SLOW_S: the first at once, then all of TELL_EVERY_S in one line."""

    def __init__(self) -> None:
        self._not_before = float("-inf")
        self._times = 0
        self._longest_s = 0.0

    def __call__(self, lag_s: float, now: float) -> None:
        """Takes one lag, seen at the instant `now`."""
        if lag_s > SLOW_S:
            self._times += 1
            self._longest_s = max(self._longest_s, lag_s)
        if self._times and now >= self._not_before:
            _LOG.warning(
                "the event loop was blocked", lag_ms=round(self._longest_s * 1000), times=self._times
            )
            self._not_before, self._times, self._longest_s = now + TELL_EVERY_S, 0, 0.0
