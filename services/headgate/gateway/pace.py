"""How long a model's answers take, seen from here: what the brain reads to keep deadlines."""

from __future__ import annotations

import statistics
from collections import deque
from typing import Final

from headgate.router.types import Pace

REMEMBERED: Final = 16
"""Answers that the medians are taken of: enough that one outlier says nothing."""
FRESH_S: Final = 60.0
"""Older answers are forgotten, so that a model left alone for its slowness is tried again."""


class PaceMeter:
    """The last answers of one model. Instants are of any one clock that only goes forward."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float, float]] = deque(maxlen=REMEMBERED)

    def finished(self, seconds: float, tokens: float, now: float) -> None:
        """An answer came to its end."""
        self._seen.append((now, seconds, tokens))

    def cut(self, seconds: float, tokens: float, now: float) -> None:
        """An answer was cut: it would have taken longer, which says something only where that is news."""
        known = self.pace(now)
        if known is None or seconds > known.seconds:
            self.finished(seconds, max(tokens, known.tokens if known else 0.0), now)

    def pace(self, now: float) -> Pace | None:
        """Of the fresh answers; None where there are none."""
        while self._seen and self._seen[0][0] < now - FRESH_S:
            self._seen.popleft()
        if not self._seen:
            return None
        return Pace(
            seconds=statistics.median(seconds for _, seconds, _ in self._seen),
            tokens=statistics.median(tokens for _, _, tokens in self._seen),
        )
