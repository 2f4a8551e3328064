"""The queue itself, on real brokers: what is put is there, and a sick broker holds up nobody for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import amqp
import pytest

from headgate.adapters.job_brokers import DEAD, DELIVERIES, PUT_S
from headgate.adapters.job_queue import CLASSES, JobQueue, queue_of
from headgate.adapters.ports import SideRoomError
from tests.faults.proxy import NO_FAULT, Fault, FaultProxy
from tests.integration.brokers import CERTIFICATE, RIGHTS, Broker, Node, OnRabbitMQ

SLACK_S = 0.3
"""Of two busy cores."""


@pytest.fixture
async def queue(broker: Broker) -> AsyncIterator[JobQueue]:
    one = JobQueue(broker.url)
    yield one
    one.close()


@pytest.fixture(scope="module")
def rabbit(rabbitmq: Node) -> OnRabbitMQ:
    return rabbitmq.vhost()


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began <= seconds + SLACK_S


async def usable(queue: JobQueue, seconds: float = 5.0) -> None:
    """Waits until it takes a task again."""
    until = time.monotonic() + seconds
    while True:
        try:
            return await queue.put("acme", "again", "batch")
        except SideRoomError:
            assert time.monotonic() < until, "the queue stays unusable"
        await asyncio.sleep(0.05)


async def test_what_is_put_waits_in_the_queue_of_its_class(queue: JobQueue) -> None:
    assert [await queue.waiting(one) for one in CLASSES] == [0] * len(CLASSES)
    for number in range(3):
        await queue.put("acme", f"j-{number}", "batch")
    await queue.put("acme", "urgent", "interactive")
    assert (await queue.waiting("batch"), await queue.waiting("interactive")) == (3, 1)


async def test_a_queue_that_is_gone_is_made_again(queue: JobQueue, broker: Broker) -> None:
    await queue.put("acme", "before", "batch")
    await asyncio.to_thread(broker.forget)
    assert await queue.waiting("batch") == 0
    await queue.put("acme", "after", "batch")
    assert await queue.waiting("batch") == 1


async def test_a_broker_that_is_frozen_or_away_holds_up_nobody_for_long(
    queue: JobQueue, broker: Broker
) -> None:
    """And who puts nothing meanwhile never learns of it."""
    idle = JobQueue(broker.url)
    for one in (queue, idle):
        await one.put("acme", "before", "batch")
    for ends, comes_back in ((broker.pause, broker.resume), (broker.stop, broker.start)):
        await asyncio.to_thread(ends)
        try:
            for _ in range(3):
                with at_most(PUT_S), pytest.raises(SideRoomError):
                    await queue.put("acme", "lost", "batch")
            with at_most(PUT_S):
                many = [queue.put("acme", f"lost-{number}", "batch") for number in range(20)]
                told = await asyncio.gather(*many, return_exceptions=True)
            assert all(isinstance(one, SideRoomError) for one in told)
        finally:
            # A session has one RabbitMQ node, which others need.
            await asyncio.to_thread(comes_back)
        await usable(queue)
    await idle.put("acme", "after", "batch")
    idle.close()


async def test_a_network_that_is_slow_or_swallows_everything_is_got_over(broker: Broker) -> None:
    port = urlsplit(broker.url).port
    async with FaultProxy(f"127.0.0.1:{port}") as proxy:
        queue = JobQueue(broker.url.replace(f":{port}", f":{proxy.address.rpartition(':')[2]}"))
        proxy.inject(Fault(latency_s=0.1))
        await usable(queue)
        for asked in (queue.put("acme", "lost", "batch"), queue.waiting("batch")):
            proxy.inject(Fault(black_hole=True))
            with at_most(PUT_S), pytest.raises(SideRoomError):
                await asked
            proxy.inject(NO_FAULT)
            await usable(queue)
        proxy.to_client = Fault(latency_s=PUT_S + 0.3)
        with pytest.raises(SideRoomError):
            await queue.put("acme", "confirmed too late", "batch")
        proxy.inject(Fault(black_hole=True))
        with pytest.raises(SideRoomError):
            await queue.put("acme", "not confirmed by another's word", "batch")
        queue.close()


async def test_a_rabbitmq_that_is_full_refuses_in_time_and_takes_again_later(rabbit: OnRabbitMQ) -> None:
    queue = JobQueue(rabbit.url)
    await queue.put("acme", "before", "batch")
    await asyncio.to_thread(rabbit.node.ctl, "set_vm_memory_high_watermark", "absolute", "1")
    try:
        with at_most(PUT_S), pytest.raises(SideRoomError):
            await queue.put("acme", "too much", "batch")
        assert await queue.waiting("batch") == 1
        other = JobQueue(rabbit.url)
        with at_most(PUT_S), pytest.raises(SideRoomError):
            await other.put("acme", "too much", "batch")
        other.close()
    finally:
        await asyncio.to_thread(rabbit.node.ctl, "set_vm_memory_high_watermark", "absolute", "2GB")
    await usable(queue)
    queue.close()


async def test_rabbitmq_gives_a_task_up_after_so_many_deliveries(rabbit: OnRabbitMQ) -> None:
    rabbit.forget()
    queue = JobQueue(rabbit.url)
    await queue.put("acme", "hot", "batch")
    queue.close()
    given = await asyncio.to_thread(_taken_and_dropped, rabbit)
    assert given == DELIVERIES + 1
    with rabbit.node.connection(rabbit.vhost) as connection:
        (message,) = _all_of(connection, DEAD)
    assert message.headers["x-death"][0]["reason"] == "delivery_limit"
    assert message.headers["argsrepr"] == "('acme', 'hot')"


def _taken_and_dropped(rabbit: OnRabbitMQ) -> int:
    """How often a task is given to runners who vanish with it."""
    for times in range(20):
        connection = rabbit.node.connection(rabbit.vhost)
        until = time.monotonic() + 5
        while (message := connection.channel().basic_get(queue_of("batch"))) is None:
            if rabbit.dead():
                return times
            assert time.monotonic() < until
        assert isinstance(message, amqp.Message)
        connection.collect()
    return 20


def _all_of(connection: amqp.Connection, queue: str) -> list[amqp.Message]:
    channel = connection.channel()
    return [one for one in iter(lambda: channel.basic_get(queue, no_ack=True), None) if one is not None]


async def test_a_queue_of_another_kind_is_refused_and_not_used(rabbit: OnRabbitMQ) -> None:
    rabbit.forget()
    with rabbit.node.connection(rabbit.vhost) as connection:
        connection.channel().queue_declare(queue_of("batch"), durable=True, auto_delete=False)
    queue = JobQueue(rabbit.url)
    with pytest.raises(SideRoomError, match="PreconditionFailed"):
        await queue.put("acme", "j-1", "batch")
    queue.close()
    rabbit.forget()


@pytest.mark.parametrize("wrong", ["password", "vhost"])
async def test_who_may_not_log_in_is_told_in_time(rabbit: OnRabbitMQ, wrong: str) -> None:
    url = rabbit.node.url(rabbit.vhost, password="no") if wrong == "password" else rabbit.node.url("none")
    queue = JobQueue(url)
    with at_most(PUT_S), pytest.raises(SideRoomError):
        await queue.put("acme", "j-1", "batch")
    queue.close()


async def test_rabbitmq_behind_tls_must_show_the_certificate_of_its_name(
    rabbitmq: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    vhost = rabbitmq.vhost().vhost
    for host, trusted, takes in (
        ("localhost", True, True),
        ("127.0.0.1", True, False),
        ("localhost", False, False),
    ):
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE) if trusted else "/dev/null")
        queue = JobQueue(rabbitmq.url(vhost, tls_host=host))
        if takes:
            await queue.put("acme", "j-1", "batch")
            assert await queue.waiting("batch") == 1
        else:
            with pytest.raises(SideRoomError):
                await queue.put("acme", "j-1", "batch")
        queue.close()


def test_operators_are_told_to_grant_what_these_tests_have() -> None:
    page = (Path(__file__).parents[2] / "docs/howto/queue-work.md").read_text()
    assert " ".join(f"'{RIGHTS[one]}'" for one in ("configure", "write", "read")) in page
