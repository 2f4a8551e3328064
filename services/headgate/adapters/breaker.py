"""A circuit breaker: what failed several times in a row is left alone for a while, then tried once."""

from __future__ import annotations

import time
from collections.abc import Callable


class Breaker:
    """Opens after `failures` failures in a row for `open_s`, doubled at each failed trial up to `longest_s`.

    While it is open nothing passes; after that exactly one trial does, and its outcome closes or reopens it.
    """

    def __init__(
        self,
        failures: int = 5,
        open_s: float = 1.0,
        longest_s: float = 8.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._allowed = failures
        self._first_s = open_s
        self._longest_s = longest_s
        self._clock = clock
        self._failed = 0
        self._open_s = open_s
        self._closed_at = 0.0

    @property
    def open(self) -> bool:
        """Whether the last tries failed and no trial has succeeded since."""
        return self._failed >= self._allowed

    def allows(self) -> bool:
        """Whether a try may be made now. While open, a yes is given once per period: it is the trial."""
        if not self.open:
            return True
        now = self._clock()
        if now < self._closed_at:
            return False
        self._closed_at = now + self._open_s
        return True

    def succeeded(self) -> None:
        """A try succeeded."""
        self._failed = 0
        self._open_s = self._first_s

    def failed(self) -> None:
        """A try failed."""
        self._failed += 1
        if self._failed > self._allowed:
            self._open_s = min(2 * self._open_s, self._longest_s)
        if self.open:
            self._closed_at = self._clock() + self._open_s
