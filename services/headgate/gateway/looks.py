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
        self._written = self._chars = 0
        self._due = self._next(FIRST_LOOK)
        # With a draft at hand somebody has waited already, and the second is read whole beside it.
        patience = math.inf if journey.held else journey.patience
        self._patient_until = time.perf_counter() + patience

    def accepts(self, tokens: int, chars: int) -> bool:
        """So many more tokens and characters were written: whether the draft is the answer already.

        Raises StoppedError where no more should be written.
        """
        before = self._count(tokens, chars)
        overdue = time.perf_counter() >= self._patient_until
        if self._written < self._due and not overdue:
            return False
        self._due = self._next(max(NEXT_LOOK * self._written, self._written + 1))
        found = self._look(self._draft(*before), overdue)
        if overdue:
            self._patient_until = math.inf
        if found is Look.STOP:
            self._journey.usage = self._journey.estimated_usage(self._written)
        return self._told(found)

    def ends(self, chars: int, used: int) -> bool:
        """The last characters were written of a draft of `used` tokens, the hold-back being over among them:
        whether its beginning was the answer. Raises StoppedError where it was not.
        """
        hold_back = self._cascade.hold_back
        if self._written >= hold_back or used < hold_back:
            return False
        before = self._count(used - self._written, chars)
        return self._told(self._look(self._draft(*before), overdue=False))

    def _count(self, tokens: int, chars: int) -> tuple[int, int]:
        """Adds what was written; returns what there was before."""
        before = self._written, self._chars
        self._written, self._chars = self._written + tokens, self._chars + chars
        return before

    def _draft(self, tokens: int, chars: int) -> Draft:
        """What there is to look at. Workers write several tokens at once, and what was certified is a look at
        the end of the hold-back: where that is among the last ones, what came after it is left out.
        """
        text, logprobs = "".join(self._journey.text), tuple(self._journey.logprobs)
        hold_back, written = self._cascade.hold_back, self._written
        if tokens < hold_back <= written:
            share = (hold_back - tokens) / (written - tokens)
            text = text[: chars + math.ceil(share * (self._chars - chars))]
            written, logprobs = hold_back, logprobs[:hold_back]
        return Draft(self._model, text, finished=False, tokens=written, logprobs=logprobs)

    def _told(self, found: Look) -> bool:
        if found is Look.STOP:
            raise StoppedError(self._draft(self._written, self._chars))
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
