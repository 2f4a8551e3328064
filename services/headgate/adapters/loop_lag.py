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


def _nobody(_lag_s: float) -> None:
    pass


class LoopLag:
    """Looks at the running loop from `start` to `stop`."""

    def __init__(self, observe: Callable[[float], None] = _nobody) -> None:
        """`observe` gets every lag, in seconds; one above SLOW_S is logged as well."""
        self._observe = observe
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
        lag_s = max(0.0, monotonic() - self._due)
        self._observe(lag_s)
        if lag_s > SLOW_S:
            _LOG.warning("the event loop was blocked", lag_ms=round(lag_s * 1000))
        self.start()
