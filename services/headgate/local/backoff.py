"""How long to wait before a crashed child is started again."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S = 0.2
FACTOR = 2.0
LONGEST_S = 10.0
HEALTHY_S = 30.0
"""A child that was ready this long has earned a fresh start."""


@dataclass(slots=True)
class Backoff:
    """0.2 s, then twice as long each time, at most 10 s; a healthy life starts it over. It has no clock."""

    _next_s: float = FIRST_S

    def after(self, ready_s: float) -> float:
        """Seconds to wait, after a life that was ready for `ready_s`."""
        if ready_s >= HEALTHY_S:
            self._next_s = FIRST_S
        wait_s = self._next_s
        self._next_s = min(wait_s * FACTOR, LONGEST_S)
        return wait_s
