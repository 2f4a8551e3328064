"""Records hold facts and no text; the queue to the ledger is bounded, and drops are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from headgate.adapters.memory import MemoryLedger
from headgate.adapters.ports import SideRoomError
from headgate.gateway import records
from headgate.gateway.admission import Run
from headgate.gateway.records import MOST_WAITING, Ended, Recorder
from headgate.gateway.tickets import Ticket
from headgate.v1 import router_pb2, types_pb2


def test_a_request_s_record_says_what_was_decided_and_spent() -> None:
    decision = types_pb2.Decision(
        request_id="r", model="small", reason=types_pb2.REASON_POLICY, cost_nanousd=12,
        estimates=[types_pb2.ModelEstimate(model="small", p_correct=0.5, expected_cost_nanousd=9)],
        attempts=[types_pb2.Attempt(model="small", code=0, cost_nanousd=12)],
    )  # fmt: skip
    ended = Ended("OK", 0.25, "FINISH_REASON_STOP", types_pb2.Usage(prompt_tokens=3, completion_tokens=4))
    record = records.request("acme", decision, {"team": "blue"}, ended, 1.5)
    assert all(isinstance(value, str) for value in record.values())
    wanted = {
        "kind": "request", "tenant": "acme", "request_id": "r", "model": "small", "code": "OK", "at": "1.500",
        "reason": "REASON_POLICY", "cost_nanousd": "12", "prompt_tokens": "3", "completion_tokens": "4",
        "latency_ms": "250.000", "estimates": '[["small", 0.5, 9]]', "attempts": '[["small", 0, 12]]',
    }  # fmt: skip
    assert wanted.items() <= record.items()


@pytest.mark.parametrize(
    ("job", "said"), [("r", {"run": "3", "job_since": "1000"}), ("another", {})], ids=["its own", "another's"]
)
def test_a_job_s_record_says_which_run_it_was(job: str, said: dict[str, str]) -> None:
    run = Run(Ticket("acme", job, 1000, 2), 3)
    record = records.request("acme", types_pb2.Decision(request_id="r"), {}, Ended("OK", 1), 2, run)
    assert {name: record[name] for name in ("run", "job_since") if name in record} == said


def test_an_outcome_s_record_repeats_what_was_said() -> None:
    message = router_pb2.RecordOutcomeRequest(request_id="r", model="m", quality=1 / 3, source=3)
    record = records.outcome("acme", message, 2)
    assert (record["quality"], record["source"]) == (repr(1 / 3), "OUTCOME_SOURCE_CHECK")


def test_every_record_has_an_id_of_its_own() -> None:
    message = router_pb2.RecordOutcomeRequest(request_id="r", model="m")
    made = [records.outcome("acme", message, 2) for _ in range(2)]
    made += [records.request("acme", types_pb2.Decision(request_id="r"), {}, Ended("OK", 1), 2)] * 2
    ids = [record["record_id"] for record in made]
    assert len(set(ids)) == 3, "one for each record, and the same however often it is written"


class Late(MemoryLedger):
    """A ledger whose writes go on, whoever still waits for them, as on Redis."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.writes: list[asyncio.Task[None]] = []

    async def append(self, records: Sequence[Mapping[str, str]]) -> None:
        self.begun.set()
        self.writes.append(asyncio.create_task(self._write(records)))
        await asyncio.wait({self.writes[-1]})

    async def _write(self, records: Sequence[Mapping[str, str]]) -> None:
        await self.goes_on.wait()
        await super().append(records)


class Flaky(MemoryLedger):
    """A ledger that the test breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False
        self.hiccups = 0
        self.chokes_on = ""
        self.tried = asyncio.Event()

    async def append(self, records: Sequence[Mapping[str, str]]) -> None:
        self.tried.set()
        if self.broken or self.hiccups > 0:
            self.hiccups -= 1
            raise SideRoomError("gone")
        if any(record.get("n") == self.chokes_on for record in records):
            raise TypeError("no such thing is ever written")
        await super().append(records)


async def _written(ledger: Flaky, count: int) -> None:
    """Returns when so many records are there; a test that waits in vain fails by its time limit."""
    async with asyncio.timeout(10):
        while len(ledger.records) < count:
            await asyncio.sleep(0.005)


async def test_records_are_written_in_order_beside_the_requests() -> None:
    ledger = Flaky()
    recorder = Recorder(ledger, pytest.fail)
    recorder.start()
    for number in range(250):
        recorder.record({"n": str(number)})
    await _written(ledger, 250)
    assert [record["n"] for record in ledger.records] == [str(number) for number in range(250)]
    await recorder.close()


async def test_nothing_is_lost_in_a_short_failure() -> None:
    ledger = Flaky()
    ledger.broken = True
    recorder = Recorder(ledger, pytest.fail)
    recorder.start()
    recorder.record({"n": "1"})
    await ledger.tried.wait()
    await asyncio.sleep(0)
    assert recorder.degraded
    ledger.broken = False
    await _written(ledger, 1)
    assert not recorder.degraded
    await recorder.close()


async def test_what_waits_too_long_is_dropped_and_counted() -> None:
    ledger = Flaky()
    ledger.broken = True
    dropped: list[int] = []
    recorder = Recorder(ledger, dropped.append)
    for number in range(MOST_WAITING + 7):
        recorder.record({"n": str(number)})
    assert sum(dropped) == 7
    assert recorder.degraded
    await recorder.close()
    assert sum(dropped) == MOST_WAITING + 7


async def test_closing_writes_what_waits() -> None:
    ledger = Flaky()
    recorder = Recorder(ledger, pytest.fail)
    recorder.start()
    recorder.record({"n": "1"})
    await recorder.close()
    assert len(ledger.records) == 1


async def test_closing_waits_for_a_write_under_way_and_makes_none_twice() -> None:
    ledger = Late()
    recorder = Recorder(ledger, pytest.fail)
    recorder.start()
    for number in range(90):
        recorder.record({"n": str(number)})
    await ledger.begun.wait()
    closing = asyncio.create_task(recorder.close())
    await asyncio.sleep(0)
    ledger.goes_on.set()
    await closing
    await asyncio.gather(*ledger.writes)
    assert len(ledger.records) == 90


async def test_closing_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "CLOSE_S", 0.05)
    dropped: list[int] = []
    ledger = Late()
    recorder = Recorder(ledger, dropped.append)
    recorder.start()
    recorder.record({"n": "1"})
    await ledger.begun.wait()
    async with asyncio.timeout(5):
        await recorder.close()
    assert dropped == [1]
    ledger.goes_on.set()
    await asyncio.gather(*ledger.writes)


async def test_without_a_ledger_nothing_can_be_recorded_now() -> None:
    dropped: list[int] = []
    recorder = Recorder(None, dropped.append)
    recorder.record({})
    assert (dropped, recorder.degraded) == ([1], True)
    with pytest.raises(SideRoomError):
        await recorder.record_now({}, 10)


async def test_a_hiccup_does_not_fail_whose_whole_purpose_is_the_write() -> None:
    ledger = Flaky()
    ledger.hiccups = 3
    await Recorder(ledger, pytest.fail).record_now({"n": "1"}, 10)
    assert list(ledger.records) == [{"n": "1"}]


async def test_a_late_ledger_is_asked_once_and_told_of_in_the_caller_s_time() -> None:
    ledger = Late()
    async with asyncio.timeout(10):
        with pytest.raises(SideRoomError):
            await Recorder(ledger, pytest.fail).record_now({"n": "1"}, 0.4)
    ledger.goes_on.set()
    await asyncio.gather(*ledger.writes)
    assert len(ledger.records) == 1


@pytest.mark.parametrize("within_s", [0.0, 60.0])
async def test_a_ledger_that_stays_away_is_said_within_the_caller_s_time(
    within_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "INSIST_S", 0.3)
    ledger = Flaky()
    ledger.broken = True
    async with asyncio.timeout(10):
        with pytest.raises(SideRoomError):
            await Recorder(ledger, pytest.fail).record_now({"n": "1"}, within_s)


async def test_a_record_that_cannot_be_written_does_not_end_the_ledger() -> None:
    ledger = Flaky()
    ledger.chokes_on = "bad"
    dropped: list[int] = []
    recorder = Recorder(ledger, dropped.append)
    recorder.start()
    recorder.record({"n": "bad"})
    await ledger.tried.wait()
    recorder.record({"n": "good"})
    await _written(ledger, 1)
    await recorder.close()
    assert ([record["n"] for record in ledger.records], dropped) == (["good"], [1])
