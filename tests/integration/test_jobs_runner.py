"""Job runners on a real broker, a real gateway and scripted workers: whatever dies, a job ends, and once."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from headgate.adapters.ledger import Fold
from headgate.adapters.redis_jobs import State
from headgate.v1 import router_pb2
from tests.integration.brokers import Broker, OnRabbitMQ
from tests.integration.gateway_rig import Process, eventually, text_of
from tests.integration.job_rig import (
    Jobs,
    JobStack,
    answer_of,
    children,
    event_of,
    job_stack,
    kill,
    put_rubbish,
    until,
)

ENDLESS: dict[str, object] = {"say": ["on and on "], "times": 1_200, "gap_s": 0.05}
CANCEL_S = 0.25


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, elsewhere: Broker | None) -> Iterator[JobStack]:
    with job_stack(tmp_path_factory, elsewhere) as running:
        running.start("reconciler")
        yield running


@pytest.fixture(scope="module")
def runner(stack: JobStack) -> Process:
    """One that all tests may use and none may hurt."""
    return stack.start("runner")


@pytest.fixture
async def jobs(stack: JobStack) -> AsyncIterator[Jobs]:
    one = Jobs(stack)
    yield one
    await one.close()


async def test_a_job_is_answered_and_its_stream_tells_how(jobs: Jobs, runner: Process) -> None:
    await jobs.submit("plain", {"say": ["twelve ", "and ", "thirty"]})
    record = await jobs.ended("plain")
    answer = answer_of(record)
    assert (text_of(answer), answer.decision.request_id, record.runs) == ("twelve and thirty", "plain", 1)
    assert answer.usage.completion_tokens == 3
    told = await jobs.told("plain")
    assert [event_of(one) for one in told] == [
        State.QUEUED, State.RUNNING, "decision", "delta", "delta", "delta", State.DONE,
    ]  # fmt: skip
    parts = [router_pb2.StreamGenerateResponse.FromString(one.part) for one in told if one.part]
    assert "".join(part.delta.text for part in parts) == "twelve and thirty"


async def test_many_jobs_are_each_run_once(jobs: Jobs, runner: Process) -> None:
    names = [f"many-{number}" for number in range(20)]
    for name in names:
        await jobs.submit(name, f"word {name}")
        await jobs.queue.put("acme", name, "batch")
    for name in names:
        assert text_of(answer_of(await jobs.ended(name))) == f"small: word {name}"
        assert jobs.stack.events(name).count("begun") == 1, "its tasks were two"


async def test_a_query_that_cannot_be_answered_fails_once(jobs: Jobs, runner: Process) -> None:
    await jobs.submit("hopeless", "to nobody", model="nobody")
    record = await jobs.ended("hopeless")
    assert (record.state, record.runs) == (State.FAILED, 1)
    assert record.error


async def test_a_cancelled_job_ends_at_its_worker_at_once(jobs: Jobs, runner: Process) -> None:
    for number in range(5):
        name = f"cancelled-{number}"
        await jobs.submit(name, ENDLESS)
        await jobs.running(name)
        began = time.monotonic()
        assert await jobs.records.cancel("acme", name)
        await eventually(lambda n=name: "cancelled" in jobs.stack.events(n), what=f"{name} to be cancelled")
        assert time.monotonic() - began <= CANCEL_S
        assert (await jobs.record(name)).state is State.CANCELLED


async def test_a_broker_that_forgot_everything_costs_no_job(jobs: Jobs, runner: Process) -> None:
    await jobs.submit("forgotten", "still here", queue=False)
    for _ in range(3):
        await asyncio.to_thread(jobs.stack.broker.forget)
    assert text_of(answer_of(await jobs.ended("forgotten", 20))) == "small: still here"


async def test_what_is_no_task_of_ours_neither_stops_a_runner_nor_comes_again(
    jobs: Jobs, runner: Process
) -> None:
    before = {one.pid for one in children(runner)}
    broker = jobs.stack.broker
    refused = await asyncio.to_thread(put_rubbish, broker)
    await jobs.submit("after-rubbish", "fine")
    assert text_of(answer_of(await jobs.ended("after-rubbish"))) == "small: fine"

    async def nothing_is_left() -> bool:
        if isinstance(broker, OnRabbitMQ) and await asyncio.to_thread(broker.dead) != refused:
            return False
        return await asyncio.to_thread(broker.held) == 0

    await until(nothing_is_left, 30, "the rubbish to be gone")
    assert {one.pid for one in children(runner)} == before
    assert runner.popen.poll() is None


async def test_a_runner_that_is_killed_in_the_middle_costs_a_run_and_no_job(jobs: Jobs) -> None:
    doomed = jobs.stack.start("runner")
    other = await _alone(jobs, doomed, "killed", {"say": ["late "], "times": 40, "gap_s": 0.05})
    kill(doomed)
    other.send(signal.SIGCONT)
    record = await jobs.ended("killed")
    assert (text_of(answer_of(record)), record.runs) == ("late " * 40, 2)
    states = [one.state for one in await jobs.told("killed") if one.state]
    assert states == [State.QUEUED, State.RUNNING, State.RUNNING, State.DONE]
    await eventually(lambda: len(jobs.ledger("killed")) == 2, what="a record of each run")
    fold = Fold()
    for one in jobs.ledger("killed"):
        fold.take(one)
    [charged] = [one for one in jobs.ledger("killed") if one["record_id"] not in fold.lost]
    assert (charged["code"], charged["run"]) == ("OK", "2")
    assert int(charged["cost_nanousd"]) == answer_of(record).decision.cost_nanousd
    assert fold.lost_nanousd > 0, "what the killed run had written was paid for"


async def _alone(jobs: Jobs, doomed: Process, name: str, text: dict[str, object]) -> Process:
    """Has that runner begin the job, and no other one."""
    (other,) = [
        one for one in jobs.stack.started if one.name.startswith("runner") and one.popen.poll() is None
        and one is not doomed
    ] or [jobs.stack.start("runner")]  # fmt: skip
    other.send(signal.SIGSTOP)
    await jobs.submit(name, text)
    await jobs.running(name)
    return other


async def test_a_job_that_kills_its_runner_each_time_is_given_up_after_three_runs(
    jobs: Jobs, runner: Process
) -> None:
    await jobs.submit("poison", ENDLESS)
    for run in (1, 2, 3):
        await jobs.running("poison", run)
        for one in children(runner):
            one.kill()
    record = await jobs.ended("poison")
    assert (record.state, record.runs) == (State.DEAD, 3)
    await jobs.submit("after-poison", "fine")
    assert text_of(answer_of(await jobs.ended("after-poison"))) == "small: fine"
    assert jobs.stack.events("poison").count("begun") == 3


async def test_a_runner_that_is_stopped_puts_its_job_back_uncounted(jobs: Jobs, runner: Process) -> None:
    runner.send(signal.SIGSTOP)
    try:
        stopped = jobs.stack.start("runner")
        await jobs.submit("sent-home", {"say": ["on "], "times": 100, "gap_s": 0.05})
        await jobs.running("sent-home")
        stopped.send(signal.SIGTERM)
        assert await asyncio.to_thread(stopped.popen.wait, 20) == 0
        record = await jobs.record("sent-home")
        assert (record.state, record.runs) == (State.QUEUED, 0), stopped.log.read_text()
    finally:
        runner.send(signal.SIGCONT)
    record = await jobs.ended("sent-home")
    assert (text_of(answer_of(record)), record.runs) == ("on " * 100, 1)


async def test_no_log_of_a_runner_holds_a_query_or_a_key(jobs: Jobs, runner: Process) -> None:
    await jobs.submit("secret", "canary-in-a-query")
    await jobs.ended("secret")
    for one in jobs.stack.started:
        text = one.log.read_text()
        assert "canary" not in text
        assert "Traceback (most" not in text, text


def test_logs_are_lines_of_json(runner: Process) -> None:
    lines = [json.loads(line) for line in runner.log.read_text().splitlines()]
    assert "taking jobs" in [line["event"] for line in lines]
