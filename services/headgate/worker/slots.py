"""A bounded number of answers in work and a bounded queue in front, first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic

from headgate.worker.backends.base import DeadlinePassedError

_SMOOTHING = 0.2
_FIRST_GUESS_S = 0.1
_LEAST_RETRY_S = 0.05


class QueueFullError(Exception):
    """Slots and queue are full; about `retry_after_s` seconds from now a place should be free."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("all slots are busy and the queue is full")
        self.retry_after_s = retry_after_s


class Slots:
    """`count` answers at the same time, at most `queue` waiting."""

    def __init__(self, count: int, queue: int) -> None:
        self._free = count
        self._count = count
        self._queue = queue
        self._waiting: deque[_Waiter] = deque()
        self._held_s = _FIRST_GUESS_S

    @property
    def busy(self) -> int:
        """Answers in work."""
        return self._count - self._free

    @property
    def waiting(self) -> int:
        """Answers in the queue."""
        return len(self._waiting)

    @asynccontextmanager
    async def take(self, deadline: float) -> AsyncIterator[None]:
        """Holds a slot for the length of a block.

        Raises QueueFullError at once, or DeadlinePassedError when no slot is free before `deadline`, an
        instant of `time.monotonic()`. Who leaves the queue never takes a slot.
        """
        await self._acquire(deadline)
        started = monotonic()
        try:
            yield
        finally:
            self._held_s += _SMOOTHING * (monotonic() - started - self._held_s)
            self._release()

    async def _acquire(self, deadline: float) -> None:
        if self._free:
            self._free -= 1
            return
        if len(self._waiting) >= self._queue:
            raise QueueFullError(self._retry_after_s())
        await self._wait(deadline)

    async def _wait(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop.create_future(), deadline)
        self._waiting.append(waiter)
        alarm = loop.call_later(deadline - monotonic(), waiter.give_up)
        try:
            await waiter.turn
        except BaseException:
            self._leave(waiter)
            raise
        finally:
            alarm.cancel()

    def _leave(self, waiter: _Waiter) -> None:
        """Gives a slot on that was granted to someone who had already left."""
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        elif waiter.granted:
            self._release()

    def _release(self) -> None:
        while self._waiting:
            if self._waiting.popleft().grant():
                return
        self._free += 1

    def _retry_after_s(self) -> float:
        """When the queue's next place should be free, from the mean time an answer holds its slot."""
        return max(_LEAST_RETRY_S, self._held_s / self._count)


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """One who waits for a turn, but not beyond a deadline."""

    turn: asyncio.Future[None]
    deadline: float

    @property
    def granted(self) -> bool:
        return self.turn.done() and not self.turn.cancelled() and self.turn.exception() is None

    def grant(self) -> bool:
        """Whether the turn was taken: not by one who has left, nor too late."""
        if monotonic() >= self.deadline:
            self.give_up()
        if self.turn.done():
            return False
        self.turn.set_result(None)
        return True

    def give_up(self) -> None:
        if not self.turn.done():
            sentence = "the deadline passed while the request waited for a slot"
            self.turn.set_exception(DeadlinePassedError(sentence))
