from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest

from headgate.adapters.job_brokers import PUT_S
from headgate.adapters.job_queue import CLASSES, JobQueue, make_app, queue_of
from headgate.adapters.ports import SideRoomError

NOBODY = ("redis://127.0.0.1:1", "amqp://127.0.0.1:1")


def test_a_process_that_makes_no_queue_does_not_pay_for_celery() -> None:
    program = "import sys, headgate.adapters.job_queue; print(*({'celery', 'kombu'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


@pytest.mark.parametrize("url", NOBODY)
def test_the_app_takes_json_only_and_keeps_nothing_of_its_own(url: str) -> None:
    conf = make_app(url).conf
    assert (conf.accept_content, conf.task_serializer) == (["json"], "json")
    assert conf.task_ignore_result
    assert conf.task_acks_late
    assert not conf.task_reject_on_worker_lost
    assert not conf.worker_enable_remote_control
    assert conf.worker_prefetch_multiplier == 1
    assert [queue.name for queue in conf.task_queues] == [queue_of(one) for one in CLASSES]


@pytest.mark.parametrize("url", NOBODY)
async def test_a_broker_that_is_away_is_told_soon_and_holds_up_no_loop(url: str) -> None:
    queue = JobQueue(url)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0)
            beats += 1

    beating = asyncio.create_task(beat())
    began = time.monotonic()
    with pytest.raises(SideRoomError):
        await queue.put("acme", "j-1", "batch")
    with pytest.raises(SideRoomError):
        await queue.waiting("batch")
    assert time.monotonic() - began < 2 * PUT_S + 0.5
    beating.cancel()
    queue.close()
    assert beats > 0


async def test_what_nobody_waits_for_any_longer_is_not_tried() -> None:
    """Else the puts of a bad minute would stand before those of a good one."""
    queue = JobQueue(NOBODY[1])
    begun: list[int] = []

    def slow(number: int) -> None:
        begun.append(number)
        time.sleep(PUT_S + 0.3)

    told = await asyncio.gather(*(queue._blocking(slow, one) for one in range(4)), return_exceptions=True)
    assert all(isinstance(one, SideRoomError) for one in told)
    await queue._blocking(begun.append, 99)
    queue.close()
    assert begun == [0, 99]
