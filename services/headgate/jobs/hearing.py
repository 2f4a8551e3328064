"""Whether a runner still takes tasks. A process that is there proves nothing.

Celery's consumers have been seen to stay up and take nothing after their broker was away. Such a runner has a
free place while tasks wait in its queue: a broker gives a task to who waits for one at once, so that both
together for half a minute mean that nobody listens. It needs no task of its own to find out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

DEAF_S: Final = 30.0
"""Many times what a task waits for a free place, and what a broker's restart takes."""
LOOK_S: Final = 5.0


class Hearing:
    """Fed with what is seen, it says when a runner is deaf."""

    def __init__(self, places: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._places = places
        self._clock = clock
        self._since: float | None = None

    def took(self) -> None:
        """A task was taken."""
        self._since = None

    def deaf(self, waiting: int | None, taken: int) -> bool:
        """Whether nothing was taken for too long, with a free place and tasks that wait.

        None tasks wait where the broker could not be asked: then nobody is to blame.
        """
        if not waiting or taken >= self._places:
            self._since = None
        elif self._since is None:
            self._since = self._clock()
        return self._since is not None and self._clock() - self._since >= DEAF_S
