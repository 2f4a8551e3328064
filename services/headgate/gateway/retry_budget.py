"""How much a failing worker may multiply its load: retries are paid from what successes earned."""

from __future__ import annotations

from typing import Final

EARNED: Final = 0.08
"""Tokens that a success earns: in the long run at most 8 calls in 100 are second calls."""
MOST: Final = 25.0
"""Tokens at the start and at most: a short failure is bridged at once."""


class RetryBudget:
    """A token bucket that successes fill and second calls empty."""

    def __init__(self) -> None:
        self._tokens = MOST

    @property
    def left(self) -> float:
        """Second calls that may be made now."""
        return self._tokens

    def earn(self) -> None:
        """A call succeeded."""
        self._tokens = min(MOST, self._tokens + EARNED)

    def spend(self) -> bool:
        """Whether a second call may be made; it is counted as made."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def take_back(self) -> None:
        """The second call was not made after all."""
        self._tokens += 1
