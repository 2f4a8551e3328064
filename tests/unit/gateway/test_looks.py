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
        self.seen: list[Draft] = []

    @property
    def hold_back(self) -> int:
        return self._window

    def look(self, draft: Draft, *, overdue: bool = False) -> Look:
        self.asked.append((draft.tokens, overdue))
        self.seen.append(draft)
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
    assert not any(looks.accepts(1, 2) for _ in range(40))
    assert [tokens for tokens, _ in cascade.asked] == asked


def test_a_draft_that_is_late_is_looked_at_at_once_and_only_once_for_that() -> None:
    cascade = Recorded(WHOLE)
    looks = Looks(cascade, journey(5, patience=0.0), "small")
    for _ in range(10):
        looks.accepts(1, 2)
    assert cascade.asked == [(1, True)]


def test_what_was_written_of_a_stopped_draft_is_counted() -> None:
    one = journey(50)
    looks = Looks(Recorded(WHOLE, Look.STOP), one, "small")
    looks.accepts(3, 6)
    with pytest.raises(StoppedError) as stopped:
        looks.accepts(2, 4)
    assert stopped.value.draft.tokens == one.usage.completion_tokens == 5


def test_a_brain_that_fails_over_a_beginning_lets_the_draft_go_on() -> None:
    looks = Looks(Cascade(None, Pool((), ""), now=0.0), journey(50), "small")
    assert not looks.accepts(10, 20), "no call is running, says the cascade"


@pytest.mark.parametrize("sizes", [[1] * 12, [3] * 4, [1, 5, 6], [7, 5], [12]])
def test_a_draft_is_read_where_the_hold_back_ends_however_its_worker_joins_tokens(sizes: list[int]) -> None:
    cascade, one = Recorded(8), journey(5)
    looks = Looks(cascade, one, "small")
    place = 0
    for size in sizes:
        one.text.append("".join(f"{place + token:02d}" for token in range(size)))
        one.logprobs.extend(-float(place + token) for token in range(size))
        place += size
        looks.accepts(size, 2 * size)
    [seen] = cascade.seen
    assert (seen.tokens, seen.text, len(seen.logprobs)) == (8, "0001020304050607", 8)


@pytest.mark.parametrize(("used", "looks_taken"), [(8, 1), (9, 1), (7, 0)])
def test_a_draft_that_ends_in_the_chunk_in_which_the_hold_back_does_is_read_there(
    used: int, looks_taken: int
) -> None:
    cascade, one = Recorded(8), journey(5)
    looks = Looks(cascade, one, "small")
    looks.accepts(4, 8)
    looks.ends(8, used)
    assert len(cascade.seen) == looks_taken


def test_beside_a_draft_at_hand_nobody_is_impatient() -> None:
    cascade, one = Recorded(WHOLE), journey(5, patience=0.0)
    one.hold("mid")
    assert not Looks(cascade, one, "small").accepts(1, 2)
    assert cascade.asked == []
