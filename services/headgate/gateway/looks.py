"""Looks at a draft while it is being written."""

from __future__ import annotations

import math
import time
from typing import Final

import structlog

from headgate.gateway.journey import Journey
from headgate.router.accept import Look
from headgate.router.cascade import Cascade
from headgate.router.types import Draft

_LOG = structlog.get_logger(__name__)
FIRST_LOOK: Final = 4
"""Tokens of a draft that is being written before the first look at it."""
LEAST_LEFT: Final = 4
"""Tokens that are expected to follow; a stop could not save more, and a look is not free."""
NEXT_LOOK: Final = 1.25
"""How much longer it is at the next: a look reads all that is written, and must not come ever so often."""


class StoppedError(Exception):
    """A draft is not worth its end."""

    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self.draft = draft


class Looks:
    """At the draft that is being written on a journey, by its cascade."""

    def __init__(self, cascade: Cascade, journey: Journey, model: str) -> None:
        self._cascade, self._journey, self._model = cascade, journey, model
        decision = journey.decision
        self._expected = decision.prior.tokens if decision and decision.prior else math.inf
        self._written = 0
        self._due = self._next(FIRST_LOOK)
        self._patient_until = time.perf_counter() + journey.patience

    def accepts(self, more: int) -> bool:
        """So many more tokens were written: whether the draft is the answer already.

        Raises StoppedError where no more should be written.
        """
        self._written += more
        overdue = time.perf_counter() >= self._patient_until
        if self._written < self._due and not overdue:
            return False
        self._due = self._next(max(NEXT_LOOK * self._written, self._written + 1))
        draft = Draft(
            self._model,
            "".join(self._journey.text),
            finished=False,
            tokens=self._written,
            logprobs=tuple(self._journey.logprobs),
        )
        found, self._patient_until = self._look(draft, overdue), math.inf if overdue else self._patient_until
        if found is Look.STOP:
            self._journey.usage = self._journey.estimated_usage(self._written)
            raise StoppedError(draft)
        return found is Look.ACCEPT

    def _next(self, wanted: float) -> float:
        """Tokens at which the next look is due: `wanted` while that may save something, and the hold-back."""
        due = wanted if self._expected - wanted >= LEAST_LEFT else math.inf
        return min(due, self._cascade.hold_back) if self._written < self._cascade.hold_back else due

    def _look(self, draft: Draft, overdue: bool) -> Look:
        """A brain that fails over a beginning lets the draft come to its end."""
        try:
            return self._cascade.look(draft, overdue=overdue)
        except Exception:
            _LOG.exception("the brain failed over a draft", request_id=self._journey.request_id)
            return Look.WAIT
