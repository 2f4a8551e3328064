from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import time

import pytest

from headgate.adapters.job_queue import (
    CLASSES,
    LONGEST_RUN_S,
    PUT_S,
    TIME_LIMIT_S,
    VISIBILITY_S,
    JobQueue,
    make_app,
    queue_of,
)
from headgate.adapters.ports import SideRoomError

NOBODY = "redis://127.0.0.1:1"


def test_a_process_that_makes_no_queue_does_not_pay_for_celery() -> None:
    program = "import sys, headgate.adapters.job_queue; print(*({'celery', 'kombu'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_the_limits_stand_in_order() -> None:
    """A call ends by itself, then its process is killed, and then only is its task handed out again."""
    assert LONGEST_RUN_S < TIME_LIMIT_S <= VISIBILITY_S / 2


def test_the_app_takes_json_only_and_keeps_nothing_of_its_own() -> None:
    conf = make_app(NOBODY).conf
    assert (conf.accept_content, conf.task_serializer) == (["json"], "json")
    assert conf.task_ignore_result
    assert conf.task_acks_late
    assert not conf.task_reject_on_worker_lost
    assert not conf.worker_enable_remote_control
    assert conf.broker_transport_options["visibility_timeout"] == VISIBILITY_S
    assert [queue.name for queue in conf.task_queues] == [queue_of(one) for one in CLASSES]


def test_a_broker_behind_tls_must_show_its_certificate() -> None:
    assert make_app("rediss://127.0.0.1:1").conf.broker_use_ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    assert not make_app(NOBODY).conf.broker_use_ssl


async def test_a_broker_that_is_away_is_told_soon_and_holds_up_no_loop() -> None:
    queue = JobQueue(NOBODY)
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
