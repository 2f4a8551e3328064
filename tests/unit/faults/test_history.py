"""The checker notices each way in which a history can break its invariants."""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest

from tests.faults.history import Entry, charged_otherwise, not_recorded_once, silent_cuts, wrong_tokens
from tests.faults.upstream import Call

WHOLE = "0 1 2 3 "
PRICE = {"input_nanousd": 1_000_000, "output_nanousd": 10_000_000}
COST = 7 + 10 * 4
"""What the upstream reports of an answer: 7 tokens read, 4 written."""
GOOD = Entry("good", ["decision", "delta", "finished"], WHOLE, grpc.StatusCode.OK, cost_nanousd=COST)
CUT = Entry("cut", ["decision", "delta", "error"], "0 1 ", grpc.StatusCode.UNAVAILABLE)


def call(request_id: str, text: str = WHOLE, *, told: bool = True) -> Call:
    """A prompt of 2 tokens by the gateway's estimate, and 4 bytes of `text` a token."""
    usage = {"prompt_tokens": 7, "completion_tokens": 4} if told else None
    body = {"messages": [{"role": "user", "content": "question"}]}
    return Call(0.0, {"x-client-request-id": request_id}, body, text=text, usage=usage)


def record(request_id: str, cost: int = COST, kind: bytes = b"request") -> dict[bytes, bytes]:
    return {b"request_id": request_id.encode(), b"kind": kind, b"cost_nanousd": str(cost).encode()}


def test_an_end_that_is_told_is_no_silent_cut() -> None:
    assert silent_cuts([GOOD, CUT], WHOLE) == []


def test_silent_cuts_are_noticed() -> None:
    broken = [
        Entry("without end", ["decision", "delta"], "0 1 ", grpc.StatusCode.OK),
        Entry("swallowed", ["decision", "delta", "error"], "0 1 ", grpc.StatusCode.OK),
        Entry("finished too soon", ["decision", "finished"], "0 1 ", grpc.StatusCode.OK),
        Entry("nobody knows", ["decision"], "0 "),
        Entry("finished and failed", ["finished"], WHOLE, grpc.StatusCode.UNAVAILABLE),
    ]
    assert silent_cuts(broken, WHOLE) == broken


def test_lost_and_doubled_tokens_are_noticed() -> None:
    broken = [Entry("lost", text="0 2 "), Entry("doubled", text="0 1 1 "), Entry("foreign", text="x")]
    assert wrong_tokens([GOOD, CUT, *broken], WHOLE) == broken


def test_every_request_has_one_record() -> None:
    records = [record("good"), record("cut"), record("cut"), record("good", kind=b"outcome")]
    assert not_recorded_once([GOOD, CUT, Entry("lost")], records) == [CUT, Entry("lost")]


@pytest.mark.parametrize("cost", [0, 7, COST - 1, COST + 1, 2 * COST])
def test_a_finished_stream_costs_what_the_upstream_reported(cost: int) -> None:
    told = replace(GOOD, cost_nanousd=cost)
    assert charged_otherwise([GOOD], [record("good")], [call("good"), call("other")], PRICE) == []
    assert charged_otherwise([told], [record("good", cost)], [call("good")], PRICE) == [told]


def test_a_finished_stream_costs_what_its_client_was_told() -> None:
    told = replace(GOOD, cost_nanousd=2 * COST)
    assert charged_otherwise([told], [record("good")], [call("good")], PRICE) == [told]
    assert charged_otherwise([GOOD], [], [call("good")], PRICE) == [GOOD]


def test_a_finished_stream_pays_for_the_call_that_answered_it() -> None:
    lost = [call("good", "0 1 ", told=False), call("good", "")]
    assert charged_otherwise([GOOD], [record("good")], [*lost, call("good")], PRICE) == []
    assert charged_otherwise([GOOD], [record("good", 2 * COST)], [*lost, call("good")], PRICE) == [GOOD]


def test_a_finished_stream_that_asked_nobody_is_free() -> None:
    kept = replace(GOOD, cost_nanousd=0)
    assert charged_otherwise([kept], [record("good", 0)], [], PRICE) == []
    assert charged_otherwise([GOOD], [record("good")], [], PRICE) == [GOOD]


@pytest.mark.parametrize(
    ("cost", "fair"), [(0, False), (11, False), (12, True), (32, True), (33, False), (64, False)]
)
def test_a_cut_stream_costs_what_was_seen_to_what_was_written(cost: int, fair: bool) -> None:
    """Of 12 bytes that were written the client saw 4."""
    written = call("cut", "0 1 2 3 4 5 ", told=False)
    assert charged_otherwise([CUT], [record("cut", cost)], [written], PRICE) == ([] if fair else [CUT])


@pytest.mark.parametrize(("cost", "fair"), [(0, True), (12, True), (13, False)])
def test_a_stream_that_is_cut_before_its_text_may_be_free(cost: int, fair: bool) -> None:
    silent = replace(CUT, text="")
    written = call("cut", "0 1 ", told=False)
    assert charged_otherwise([silent], [record("cut", cost)], [written], PRICE) == ([] if fair else [silent])


def test_a_stream_that_is_cut_after_its_last_token_may_cost_what_was_reported() -> None:
    late = replace(CUT, text=WHOLE)
    assert charged_otherwise([late], [record("cut", COST)], [call("cut")], PRICE) == []
    assert charged_otherwise([late], [record("cut", 2 * COST)], [call("cut")], PRICE) == [late]
