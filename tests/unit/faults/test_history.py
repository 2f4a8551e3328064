"""The checker notices each way in which a history can break its invariants."""

from __future__ import annotations

import grpc

from tests.faults.history import Entry, charged_otherwise, not_recorded_once, silent_cuts, wrong_tokens

WHOLE = "0 1 2 3 "
GOOD = Entry("good", ["decision", "delta", "finished"], WHOLE, grpc.StatusCode.OK, cost_nanousd=7)
CUT = Entry("cut", ["decision", "delta", "error"], "0 1 ", grpc.StatusCode.UNAVAILABLE)


def record(request_id: str, cost: int = 7, kind: bytes = b"request") -> dict[bytes, bytes]:
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


def test_the_charge_is_what_the_client_was_told() -> None:
    assert charged_otherwise([GOOD, CUT], [record("good", 7)]) == []
    assert charged_otherwise([GOOD], [record("good", 14)]) == [GOOD]
    assert charged_otherwise([GOOD], []) == [GOOD]
