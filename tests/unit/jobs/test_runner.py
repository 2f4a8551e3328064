"""One run of a job against a gateway that does what a test says, and records that a test can break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import google.rpc.status_pb2 as status_pb2  # type: ignore[import-untyped]
import grpc.aio
import pytest

from headgate.adapters import channels, status_map
from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_jobs import RedisJobs, State
from headgate.jobs.heard import Heard
from headgate.jobs.runner import FIRST_PAUSE_S, GROWTH, LONGEST_PAUSE_S, JobRunner
from headgate.v1 import router_pb2, router_pb2_grpc, types_pb2
from tests.integration.gateway_rig import eventually
from tests.unit.jobs.records import LEASE, FakeRecords

Event = router_pb2.StreamGenerateResponse
DECISION = Event(decision=types_pb2.Decision(request_id="j-1"))
FINISHED = Event(finished=router_pb2.Finished(finish_reason=types_pb2.FINISH_REASON_STOP))
QUERY = types_pb2.Query(request_id="j-1").SerializeToString()
Script = Callable[[grpc.aio.ServicerContext[Any, Any]], Awaitable[None]]


class Gateway(router_pb2_grpc.RouterServiceServicer):
    """Performs a script, and remembers who asked what."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.asked: list[router_pb2.StreamGenerateRequest] = []
        self.metadata: dict[str, str | bytes] = {}
        self.left_s = 0.0
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def StreamGenerate(  # type: ignore[override]
        self, request: router_pb2.StreamGenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        self.asked.append(request)
        self.metadata = dict(context.invocation_metadata() or ())
        self.left_s = context.time_remaining() or 0.0
        self.begun.set()
        try:
            await self._script(context)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def answers(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    for event in (DECISION, Event(delta=router_pb2.Delta(text="forty-two")), FINISHED):
        await context.write(event)


async def hangs(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await context.write(DECISION)
    await asyncio.Event().wait()


def fails(error: Exception, *events: Event) -> Script:
    async def script(context: grpc.aio.ServicerContext[Any, Any]) -> None:
        for event in events:
            await context.write(event)
        await status_map.abort(context, error)

    return script


@asynccontextmanager
async def run(
    script: Script, records: FakeRecords, key: str = "", leave: asyncio.Event | None = None
) -> AsyncIterator[tuple[Gateway, asyncio.Task[None]]]:
    """A gateway, and a run of the job that has begun."""
    gateway = Gateway(script)
    server = grpc.aio.server(options=channels.server_options())
    router_pb2_grpc.add_RouterServiceServicer_to_server(gateway, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = channels.channel(f"127.0.0.1:{port}")
    runner = JobRunner(cast("RedisJobs", records), channel, key, draw=lambda: 1.0)
    task = asyncio.create_task(runner.run("acme", "j-1", leave or asyncio.Event()))
    try:
        yield gateway, task
    finally:
        await channel.close()
        await server.stop(None)


def records(lease_s: float = 30.0, **changes: object) -> FakeRecords:
    return FakeRecords(replace(LEASE, **{"query": QUERY, **changes}), lease_s)  # type: ignore[arg-type]


def reason_of(error: bytes) -> str:
    return status_map.reason_of(status_pb2.Status.FromString(error))


async def test_an_answer_is_written_as_the_runner_of_the_tenant() -> None:
    kept = records()
    async with run(answers, kept, key="r-1.secret") as (gateway, task):
        await task
    assert [request.query.request_id for request in gateway.asked] == ["j-1"]
    assert gateway.metadata["authorization"] == "Bearer r-1.secret"
    assert gateway.metadata["headgate-ticket"] == "ticket"
    assert gateway.metadata["headgate-run"] == str(LEASE.begun)
    assert 50 < gateway.left_s <= 60
    assert kept.ended is not None
    state, answer, _ = kept.ended
    parts = router_pb2.GenerateResponse.FromString(answer).message.parts
    assert (state, [part.text for part in parts]) == (State.DONE, ["forty-two"])
    told = [Event.FromString(part).WhichOneof("event") for write in kept.writes for part in write]
    assert told == ["decision", "delta"], "the end becomes the job's state"


async def test_without_key_and_ticket_it_says_neither() -> None:
    async with run(answers, records(ticket="")) as (gateway, task):
        await task
    assert not {"authorization", "headgate-ticket", "headgate-run"} & set(gateway.metadata)


async def test_a_job_that_is_not_to_be_had_asks_nobody() -> None:
    async with run(answers, FakeRecords(None)) as (gateway, task):
        await task
    assert gateway.asked == []


async def test_what_no_asking_helps_fails() -> None:
    kept = records()
    async with run(fails(status_map.ModelUnknownError("no such model")), kept) as (_, task):
        await task
    assert kept.ended is not None
    state, _, error = kept.ended
    assert (state, status_map.reason_of(status_pb2.Status.FromString(error))) == (
        State.FAILED,
        "MODEL_UNKNOWN",
    )


async def test_a_query_that_nobody_can_read_fails() -> None:
    kept = records(query=b"\xff")
    async with run(answers, kept) as (gateway, task):
        await task
    assert gateway.asked == []
    assert kept.ended is not None
    assert kept.ended[0] is State.FAILED


@pytest.mark.parametrize(
    ("error", "events", "begun", "pause_s", "counted"),
    [
        (status_map.OverloadedError("full", retry_after_s=0.1), (), 1, FIRST_PAUSE_S, False),
        (status_map.OverloadedError("full", retry_after_s=30), (), 1, 30, False),
        (status_map.OverloadedError("full", retry_after_s=0.1), (), 9_000, LONGEST_PAUSE_S, False),
        (status_map.WorkerUnavailableError("gone"), (DECISION,), 1, FIRST_PAUSE_S, True),
        (status_map.WorkerUnavailableError("gone"), (DECISION,), 2, FIRST_PAUSE_S * GROWTH, True),
        (status_map.WorkerUnavailableError("gone"), (DECISION,), 9, LONGEST_PAUSE_S, True),
        (status_map.DeadlineError("late"), (DECISION,), 1, FIRST_PAUSE_S, True),
    ],
)
async def test_what_passes_is_put_back_and_counts_once_the_gateway_took_it_up(
    error: Exception, events: tuple[Event, ...], begun: int, pause_s: float, counted: bool
) -> None:
    kept = records(begun=begun)
    async with run(fails(error, *events), kept) as (_, task):
        await task
    assert kept.ended is None
    assert kept.back == (status_map.to_status(error).SerializeToString(), pause_s, counted)


async def test_a_job_whose_time_is_over_fails() -> None:
    kept = records(left_s=0.2)
    async with run(hangs, kept) as (_, task):
        await task
    assert kept.ended is not None
    state, _, error = kept.ended
    assert (state, reason_of(error)) == (State.FAILED, "DEADLINE_EXCEEDED")


async def test_a_job_that_is_lost_ends_its_call_and_writes_nothing() -> None:
    kept = records()
    async with run(hangs, kept) as (gateway, task):
        await gateway.begun.wait()
        kept.lost = True
        await asyncio.wait_for(gateway.cancelled.wait(), 5)
        await task
    assert (kept.ended, kept.back) == (None, None)


async def test_a_lease_is_renewed_and_one_that_could_not_be_kept_is_given_back_uncounted() -> None:
    kept = records(lease_s=0.9)
    async with run(hangs, kept) as (gateway, task):
        await eventually(lambda: kept.renewals >= 3, what="the lease to be renewed")
        assert not gateway.cancelled.is_set()
        kept.away = True
        await asyncio.wait_for(gateway.cancelled.wait(), 10)
        kept.away = False
        await task
    assert kept.back is not None
    error, pause_s, counted = kept.back
    assert (reason_of(error), pause_s, counted) == ("RECORDS_UNAVAILABLE", 0, False)


async def test_a_runner_that_leaves_puts_its_job_back_uncounted_and_takes_no_other() -> None:
    kept, leave = records(), asyncio.Event()
    async with run(hangs, kept, leave=leave) as (gateway, task):
        await gateway.begun.wait()
        leave.set()
        await task
        await asyncio.wait_for(gateway.cancelled.wait(), 5)
    assert kept.back == (b"", 0.0, False)
    async with run(answers, kept, leave=leave) as (gateway, task):
        await task
    assert gateway.asked == []


async def test_an_answer_is_held_out_until_the_records_are_back() -> None:
    kept = records()

    async def breaks(context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.write(DECISION)
        await eventually(lambda: bool(kept.writes), what="the decision to be written")
        kept.away = True
        await context.write(FINISHED)

    async with run(breaks, kept) as (gateway, task):
        await gateway.begun.wait()
        await eventually(lambda: kept.away, what="the records to be away")
        assert not task.done()
        kept.away = False
        await task
    assert kept.ended is not None
    assert kept.ended[0] is State.DONE


async def test_events_that_cannot_be_written_are_held_out_and_cost_no_run() -> None:
    kept = records()
    text = Event(delta=router_pb2.Delta(text="on "))

    async def goes_on(context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.write(DECISION)
        kept.away = True
        for _ in range(20):
            await context.write(text)
        kept.away = False
        await context.write(FINISHED)

    async with run(goes_on, kept) as (_, task):
        await asyncio.wait_for(task, 10)
    assert (kept.back, kept.told) == (None, 21)
    assert kept.ended is not None
    assert kept.ended[0] is State.DONE


async def test_who_does_not_hear_that_it_has_the_job_asks_again_as_the_same_run() -> None:
    kept = records()
    kept.away = True
    async with run(answers, kept) as (_, task):
        await eventually(lambda: len(kept.fences) >= 2, what="it to ask again")
        kept.away = False
        await task
    assert len(set(kept.fences)) == 1
    assert kept.fences[0]
    assert kept.ended is not None


@pytest.mark.parametrize("leaves", [False, True])
async def test_records_that_stay_away_leave_the_job_to_another_run(leaves: bool) -> None:
    kept, leave = records(lease_s=60 if leaves else 0.5), asyncio.Event()
    kept.away = True
    async with run(answers, kept, leave=leave) as (gateway, task):
        await eventually(lambda: bool(kept.fences), what="it to ask")
        if leaves:
            leave.set()
        with pytest.raises(SideRoomError):
            await asyncio.wait_for(task, 10)
    assert gateway.asked == []


async def test_a_run_that_breaks_is_put_back_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Heard, "add", breaks)
    kept = records()
    async with run(answers, kept) as (_, task):
        await task
    assert kept.back is not None
    error, _, counted = kept.back
    assert (reason_of(error), counted) == ("INTERNAL", True)
