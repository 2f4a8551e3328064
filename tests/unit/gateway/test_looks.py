from __future__ import annotations

import math

import pytest

from headgate.gateway.admission import Caller
from headgate.gateway.journey import Arrival, Journey
from headgate.gateway.looks import Looks, StoppedError
from headgate.router.accept import Look
from headgate.router.cascade import Cascade
from headgate.router.types import WHOLE, Decision, Draft, Pool, Prior, Reason
from headgate.v1 import types_pb2


class Recorded(Cascade):
    """A cascade that notes when it is asked, and says what it is told to."""

    def __init__(self, hold_back: int, says: Look = Look.WAIT) -> None:
        super().__init__(None, Pool((), ""), now=0.0)
        self._window, self._says = hold_back, says
        self.asked: list[tuple[int, bool]] = []

    @property
    def hold_back(self) -> int:
        return self._window

    def look(self, draft: Draft, *, overdue: bool = False) -> Look:
        self.asked.append((draft.tokens, overdue))
        return self._says


def journey(expected: float, patience: float = math.inf) -> Journey:
    prior = Prior((0.0,), (1.0,), expected)
    decision = Decision("small", Reason.POLICY, "", (), prior=prior)
    arrival = Arrival(Caller("acme"), 0.0, 60.0)
    return Journey(arrival, types_pb2.Query(), "r", decision=decision, holding=True, patience=patience)


@pytest.mark.parametrize(
    ("hold_back", "expected", "asked"),
    [
        (WHOLE, 24, [4, 5, 7, 9, 12, 15, 19]),
        (WHOLE, 7, []),
        (8, 24, [4, 5, 7, 8, 10, 13, 17]),
        (8, 5, [8]),
        (2, 3, [2]),
    ],
)
def test_a_look_is_taken_while_it_may_save_something_and_when_the_hold_back_is_over(
    hold_back: int, expected: float, asked: list[int]
) -> None:
    cascade = Recorded(hold_back)
    looks = Looks(cascade, journey(expected), "small")
    assert not any(looks.accepts(1) for _ in range(40))
    assert [tokens for tokens, _ in cascade.asked] == asked


def test_a_draft_that_is_late_is_looked_at_at_once_and_only_once_for_that() -> None:
    cascade = Recorded(WHOLE)
    looks = Looks(cascade, journey(5, patience=0.0), "small")
    for _ in range(10):
        looks.accepts(1)
    assert cascade.asked == [(1, True)]


def test_what_was_written_of_a_stopped_draft_is_counted() -> None:
    one = journey(50)
    looks = Looks(Recorded(WHOLE, Look.STOP), one, "small")
    looks.accepts(3)
    with pytest.raises(StoppedError) as stopped:
        looks.accepts(2)
    assert stopped.value.draft.tokens == one.usage.completion_tokens == 5


def test_a_brain_that_fails_over_a_beginning_lets_the_draft_go_on() -> None:
    looks = Looks(Cascade(None, Pool((), ""), now=0.0), journey(50), "small")
    assert not looks.accepts(10), "no call is running, says the cascade"
