"""A circuit breaker: what failed several times in a row is left alone for a while, then tried once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

FAILURES: Final = 5
"""In a row: what is left alone after one or two would be left alone for a hiccup. Not a share of all calls:
who fails every second one still answers the other, and the retry budget bounds what its failures cost."""
OPEN_S: Final = 1.0
"""A trial costs one request one attempt; waiting longer would cost every request its first model."""
LONGEST_S: Final = 8.0
"""A small pool cannot do long without one of its models, and workers that are gone show in their probe."""


class Breaker:
    """Opens after `failures` failures in a row for `open_s`, doubled at each failed trial up to `longest_s`.

    While it is open nothing passes; after that exactly one trial does, and its outcome closes or reopens it.
    Failures of tries that began before it opened change nothing: a burst of them is one event, not many.
    """

    def __init__(
        self,
        failures: int = FAILURES,
        open_s: float = OPEN_S,
        longest_s: float = LONGEST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._allowed = failures
        self._first_s = open_s
        self._longest_s = longest_s
        self._clock = clock
        self._failed = 0
        self._open_s = open_s
        self._closed_at = 0.0
        self._on_trial = False

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
        self._on_trial = True
        return True

    def succeeded(self) -> None:
        """A try succeeded."""
        self._failed = 0
        self._open_s = self._first_s
        self._on_trial = False

    def failed(self) -> None:
        """A try failed."""
        self._failed += 1
        if self._on_trial:
            self._on_trial = False
            self._open_s = min(2 * self._open_s, self._longest_s)
            self._closed_at = self._clock() + self._open_s
        elif self._failed == self._allowed:
            self._closed_at = self._clock() + self._open_s
