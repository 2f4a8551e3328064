"""The checker notices each way in which a cascade's stream can break its invariants."""

from __future__ import annotations

import random
from collections.abc import Callable

import grpc
import pytest

from headgate.v1 import router_pb2, types_pb2
from tests.faults.counting_worker import TOKENS, length, question, tokens, whole
from tests.faults.told import Told, broken, failed

QUESTION = question("doubted", random.Random(1))
Event = router_pb2.StreamGenerateResponse
COST = 24


def decision(model: str, *attempts: types_pb2.Attempt) -> types_pb2.Decision:
    cost = sum(one.cost_nanousd for one in attempts)
    return types_pb2.Decision(model=model, attempts=attempts, cost_nanousd=cost)


def deltas(model: str) -> list[Event]:
    return [Event(delta=router_pb2.Delta(text=token)) for token in tokens(model, QUESTION)]


def escalated() -> list[Event]:
    """Small drafts, large answers."""
    usage = types_pb2.Usage(prompt_tokens=10, completion_tokens=TOKENS)
    attempts = [
        types_pb2.Attempt(model=one, usage=usage, cost_nanousd=COST // 2) for one in ("small", "large")
    ]
    ended = router_pb2.Finished(usage=usage, decision=decision("large", *attempts))
    switched = router_pb2.ModelSwitched(from_model="small", to_model="large", escalation=True)
    head = [Event(decision=decision("small")), Event(model_switched=switched)]
    return [*head, *deltas("large"), Event(finished=ended)]


def told(events: list[Event], code: grpc.StatusCode | None = grpc.StatusCode.OK) -> Told:
    one = Told(QUESTION, code=code)
    for event in events:
        one.take(event)
    return one


def record(code: str = "OK", **changes: str) -> dict[bytes, bytes]:
    fields = {"code": code, "model": "large", "cost_nanousd": str(COST), **changes}
    return {name.encode(): value.encode() for name, value in fields.items()}


def cut(events: list[Event], last: Event | None = None) -> list[Event]:
    return [*events[:8], *([last] if last else [])]


def test_a_whole_answer_and_a_stream_that_says_how_it_broke_break_nothing() -> None:
    assert broken(told(escalated()), record()) == []
    error = Event(error={"code": 14})
    assert broken(told(cut(escalated(), error), grpc.StatusCode.UNAVAILABLE), record("UNAVAILABLE")) == []
    assert broken(told([error], grpc.StatusCode.UNAVAILABLE), record("UNAVAILABLE")) == []


def swapped(events: list[Event]) -> list[Event]:
    return [*events[:4], events[5], events[4], *events[6:]]


PLANTED: dict[str, Callable[[list[Event]], list[Event]]] = {
    "silent cut": lambda events: cut(events),
    "more than one end": lambda events: [*events, events[-1]],
    "text taken back": lambda events: [events[0], deltas("small")[0], *events[1:]],
    "wrong tokens": swapped,
    "missing tokens": lambda events: [*events[:4], *events[5:]],
    "other figures": lambda events: [events[0], *events[2:]],
}


@pytest.mark.parametrize("name", PLANTED)
def test_each_fault_is_noticed(name: str) -> None:
    assert name in broken(told(PLANTED[name](escalated())), record())


def test_a_doubled_token_is_a_wrong_one() -> None:
    events = escalated()
    assert "wrong tokens" in broken(told([*events[:4], events[3], *events[4:]]), record())


@pytest.mark.parametrize("other", [record("UNAVAILABLE"), None])
def test_the_ledger_says_the_same_end(other: dict[bytes, bytes] | None) -> None:
    assert "another end than recorded" in broken(told(escalated()), other)


@pytest.mark.parametrize("other", [record(model="small"), record(cost_nanousd="12")])
def test_the_ledger_says_the_same_model_and_cost(other: dict[bytes, bytes]) -> None:
    assert broken(told(escalated()), other) == ["other figures"]


def test_a_call_that_failed_on_the_way_is_found() -> None:
    tried = {b"attempts": b'[["small", 14, 0], ["large", 0, 5]]'}
    assert (failed(tried, "small"), failed(tried, "large")) == (True, False)


def test_every_token_of_every_model_and_question_is_another() -> None:
    draw = random.Random(2)
    asked = [question(kind, draw) for kind in ("kept", "doubted", "stopped", "plain") for _ in range(3)]
    said = [token for text in asked for model in ("small", "large") for token in tokens(model, text)]
    assert (
        len(set(said))
        == len(said)
        == sum(length(model, text) for text in asked for model in ("small", "large"))
    )


def test_a_draft_without_an_end_has_no_whole() -> None:
    with pytest.raises(ValueError, match="small never ends"):
        whole("small", question("held", random.Random(3)))
