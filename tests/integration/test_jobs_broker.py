"""A broker that stops, dies or loses its data under running jobs: no job is lost, and each ends once."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator

import amqp
import pytest

from headgate.adapters.job_brokers import DEAD, PUT_S, broker_of
from headgate.adapters.job_queue import CLASSES, queue_of
from headgate.adapters.redis_jobs import State
from headgate.v1 import jobs_pb2, jobs_pb2_grpc
from tests.integration.brokers import Broker, Node, OnRabbitMQ
from tests.integration.gateway_rig import eventually, key, query, text_of
from tests.integration.job_rig import Jobs, JobStack, answer_of, job_stack, kill, until

LONG: dict[str, object] = {"say": ["still "], "times": 60, "gap_s": 0.05}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, broker: Broker) -> Iterator[JobStack]:
    with job_stack(tmp_path_factory, broker) as running:
        running.start("reconciler")
        running.start("runner")
        yield running


@pytest.fixture
async def jobs(stack: JobStack) -> AsyncIterator[Jobs]:
    one = Jobs(stack)
    yield one
    await one.close()


async def submitted(stack: JobStack, name: str) -> float:
    """Submits a job as a client does; how long that took."""
    async with stack.channel() as channel:
        desk = jobs_pb2_grpc.JobServiceStub(channel)
        request = jobs_pb2.SubmitJobRequest(query=query(f"word {name}", request_id=name, model="small"))
        began = time.monotonic()
        await desk.SubmitJob(request, metadata=key("acme"))
        return time.monotonic() - began


async def test_a_broker_that_stops_and_starts_costs_no_job_and_no_submission(jobs: Jobs) -> None:
    stack, broker = jobs.stack, jobs.stack.broker
    full = ("under-way-0", "under-way-1")
    for name in full:
        # Two that ask the same would be one call of a worker.
        await jobs.submit(name, {**LONG, "nonce": name})
        await jobs.running(name)
    await asyncio.to_thread(broker.stop)
    took = [await submitted(stack, f"between-{number}") for number in range(5)]
    assert max(took) <= PUT_S + 0.5
    for name in full:
        assert text_of(answer_of(await jobs.ended(name))) == "still " * 60, "it needs no broker"
    await asyncio.to_thread(broker.start)
    await submitted(stack, "after")
    for name in ("after", *(f"between-{number}" for number in range(5))):
        assert text_of(answer_of(await jobs.ended(name))) == f"small: word {name}"
        assert stack.events(name).count("begun") == 1
    for name in full:
        assert ((await jobs.record(name)).runs, stack.events(name).count("begun")) == (1, 1)
    assert all(one.popen.poll() is None for one in stack.started), "the runner takes jobs again by itself"


async def test_a_broker_that_is_frozen_holds_up_no_submission(jobs: Jobs) -> None:
    await asyncio.to_thread(jobs.stack.broker.pause)
    try:
        assert await submitted(jobs.stack, "while-frozen") <= PUT_S + 0.5
    finally:
        await asyncio.to_thread(jobs.stack.broker.resume)
    assert text_of(answer_of(await jobs.ended("while-frozen"))) == "small: word while-frozen"


async def test_a_broker_that_dies_with_its_data_costs_no_job(jobs: Jobs) -> None:
    stack, broker = jobs.stack, jobs.stack.broker
    _, runner = stack.started
    runner.send(signal.SIGSTOP)
    names = [f"lost-{number}" for number in range(20)]
    for name in names:
        await submitted(stack, name)
    assert await jobs.queue.waiting("batch") > 0
    await asyncio.to_thread(broker.die)
    await asyncio.to_thread(broker.start)
    runner.send(signal.SIGCONT)
    for name in names:
        record = await jobs.ended(name)
        assert (text_of(answer_of(record)), record.runs) == (f"small: word {name}", 1)
        assert stack.events(name).count("begun") == 1


@pytest.fixture(scope="module")
def rabbit(rabbitmq: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobStack]:
    """A stack without runners and without a reconciler."""
    with job_stack(tmp_path_factory, rabbitmq.vhost()) as running:
        yield running


async def test_a_task_of_a_killed_runner_is_given_to_another_at_once(rabbit: JobStack) -> None:
    """RabbitMQ sees that the runner is gone; nobody waits for a clock, be it Redis's or a lease's."""
    jobs = Jobs(rabbit)
    doomed = rabbit.start("runner")
    await jobs.submit("orphan", LONG)
    await jobs.running("orphan")
    kill(doomed)

    async def waits() -> bool:
        return await jobs.queue.waiting("batch") == 1

    await until(waits, 5, "the task to be there again")
    assert (await jobs.record("orphan")).state is State.RUNNING, "its lease is for the reconciler to end"
    reconciler, other = rabbit.start("reconciler"), rabbit.start("runner")
    record = await jobs.ended("orphan")
    assert (text_of(answer_of(record)), record.runs) == ("still " * 60, 2)
    await jobs.close()
    assert (reconciler.stop(), other.stop()) == (0, 0)


async def test_a_runner_takes_as_many_tasks_as_it_has_places_and_leaves_no_queues_behind(
    rabbit: JobStack, rabbitmq: Node
) -> None:
    assert isinstance(rabbit.broker, OnRabbitMQ)
    vhost = rabbit.broker.vhost

    async def listed(*what: str) -> list[str]:
        text = await asyncio.to_thread(rabbitmq.ctl, *what[:1], "-p", vhost, "--no-table-headers", *what[1:])
        return sorted(text.splitlines())

    runner = rabbit.start("runner")
    mine = sorted(queue_of(one) for one in CLASSES)
    assert await listed("list_queues", "name", "type") == [f"{one}\tquorum" for one in sorted([*mine, DEAD])]
    consumers = ("list_consumers", "queue_name", "ack_required", "prefetch_count")
    assert await listed(*consumers) == [f"{one}\ttrue\t2" for one in mine]
    assert runner.stop() == 0
    assert await listed(*consumers) == []
    assert "delayed" not in runner.log.read_text(), "it has no right to what Celery wants for delays"


async def test_a_queue_that_rabbitmq_cannot_make_again_costs_no_job_once_the_node_starts_anew(
    rabbit: JobStack, rabbitmq: Node
) -> None:
    broker, jobs = rabbit.broker, Jobs(rabbit)
    assert isinstance(broker, OnRabbitMQ)
    reconciler, runner = rabbit.start("reconciler"), rabbit.start("runner")
    name = queue_of("batch")
    await asyncio.to_thread(broker.lose_sight_of, name)
    await submitted(rabbit, "stuck")

    def refused() -> bool:
        try:
            with rabbitmq.connection(broker.vhost) as connection:
                # As runners do: another kind of queue, if only for a moment, would end them.
                arguments = dict(broker_of(broker.url).queue)
                connection.channel().queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
        except amqp.InternalError as error:
            return "cluster_not_formed" in str(error)
        # While another one is being refused, the queue is listed.
        return False

    await eventually(refused, what=f"{name} to be refused")
    assert (await jobs.record("stuck")).state is State.QUEUED
    await asyncio.to_thread(broker.stop)
    await asyncio.to_thread(broker.start)
    record = await jobs.ended("stuck")
    assert (text_of(answer_of(record)), record.runs) == ("small: word stuck", 1)
    await jobs.close()
    assert (reconciler.stop(), runner.stop()) == (0, 0)


async def test_a_runner_that_may_not_log_in_ends_and_says_why(rabbit: JobStack, rabbitmq: Node) -> None:
    (rabbit.directory / "broker").write_text(rabbitmq.url("v0", password="wrong-canary"))
    try:
        with pytest.raises(AssertionError, match="ended"):
            rabbit.start("runner")
    finally:
        (rabbit.directory / "broker").write_text(rabbit.broker.url)
    runner = rabbit.started[-1]
    assert runner.popen.wait(20) == 1
    said = runner.log.read_text()
    assert "AccessRefused" in said
    assert "canary" not in said
