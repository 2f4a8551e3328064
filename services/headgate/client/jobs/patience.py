"""When to ask again after a connection broke, and when no more."""

from __future__ import annotations

import random

import grpc

from headgate.client.errors import HeadgateError

FIRST_S = 0.05
LONGEST_S = 2.0
_BROKEN = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        # Not by us: somebody between here and the gateway ended the stream.
        grpc.StatusCode.CANCELLED,
    }
)


class Patience:
    """Waits ever longer between tries; gives up `limit_s` after the first that led to nothing."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._failed_at: float | None = None
        self._tries = 0

    def progressed(self) -> None:
        """Something arrived: the row is over."""
        self._failed_at, self._tries = None, 0

    def wait_s(self, error: HeadgateError, now: float) -> float:
        """How long to wait before the next try; raises `error` if there shall be none."""
        if not _passes(error):
            raise error
        self._failed_at = now if self._failed_at is None else self._failed_at
        wait_s = random.uniform(0.5, 1) * min(FIRST_S * 2.0**self._tries, LONGEST_S)
        wait_s = max(wait_s, error.retry_after_s or 0.0)
        if now + wait_s > self._failed_at + self._limit_s:
            raise error
        self._tries += 1
        return wait_s


def _passes(error: HeadgateError) -> bool:
    """A full gateway says when to come back; a message that is too long stays so."""
    shed = error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and error.retry_after_s is not None
    return shed or error.code in _BROKEN
