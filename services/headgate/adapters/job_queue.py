"""The queue of jobs: Celery on a broker. It is a hint to runners; the truth is in the records.

A task names a job and holds nothing of it. A task that is lost is queued again by the reconciler, one that
comes twice finds that the job is taken or has ended: so nothing here tries or waits for long.

    headgate-interactive    tasks of the class that no runner has taken
    headgate-escalation     the same
    headgate-batch          the same

What differs from broker to broker stands in `job_brokers`. Celery is imported when the first app is made: a
gateway without jobs does not pay for it.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from headgate.adapters.job_brokers import DEAD, PUT_S, TIME_LIMIT_S, Broker, broker_of
from headgate.adapters.redis_client import Guard, NamedError

if TYPE_CHECKING:
    import celery

TASK: Final = "headgate.run"
CLASSES: Final = ("interactive", "escalation", "batch")
"""Tasks of an earlier one go first where a runner serves several."""

LONGEST_RUN_S: Final = 600.0
"""No call of the gateway may take longer, so no run does."""
RETRIES: Final = 10
"""A runner that finds no broker tries for two minutes; then it ends, and its supervisor starts another."""
TASKS_PER_PROCESS: Final = 500
KILOBYTES_PER_PROCESS: Final = 300_000
"""A process is replaced after either: what leaks, leaks no further."""


def queue_of(job_class: str) -> str:
    """Where tasks of the class wait."""
    return f"headgate-{job_class}"


def make_app(broker_url: str) -> celery.Celery:
    """The Celery app that queue and runners share; nothing connects before it is used."""
    import celery

    broker = broker_of(broker_url)
    app = celery.Celery("headgate", broker=broker.url, set_as_current=False, fixups=[])
    app.conf.update(
        task_queues=_queues(broker), task_default_queue=queue_of(CLASSES[-1]), **_SETTINGS, **broker.settings
    )
    return app


def _queues(broker: Broker) -> list[Any]:
    from kombu import Exchange, Queue

    # The default exchange needs no bindings: a broker that lost everything still takes tasks.
    direct = Exchange("", type="direct")
    dead = Queue(DEAD, direct, routing_key=DEAD, queue_arguments=broker.dead)

    class TaskQueue(Queue):  # type: ignore[misc]
        """Is not declared without the place that its dead go to."""

        def declare(self, nowait: bool = False, channel: Any = None) -> Any:
            if broker.dead is not None:
                dead(channel or self.channel).declare(nowait)
            return super().declare(nowait, channel)

    return [
        TaskQueue(queue_of(one), direct, routing_key=queue_of(one), queue_arguments=broker.queue)
        for one in CLASSES
    ]


_SETTINGS: Final[dict[str, Any]] = {
    # No pickle: who can write to the broker must not run code here.
    "task_serializer": "json",
    "accept_content": ["json"],
    "task_create_missing_queues": False,
    "task_ignore_result": True,
    "task_store_errors_even_if_ignored": False,
    # Acknowledged when it has ended, however: a task that kills its process is not run again because of
    # the broker. The record counts runs, and the reconciler queues what is to be run again.
    "task_acks_late": True,
    "task_reject_on_worker_lost": False,
    "task_time_limit": TIME_LIMIT_S,
    "worker_prefetch_multiplier": 1,
    "worker_consumer": "headgate.adapters.job_consumer:Consumer",
    # Children inherit settings and secrets, which then travel nowhere; they connect by themselves.
    "worker_pool_start_method": "fork",
    "worker_proc_alive_timeout": 30.0,
    "worker_max_tasks_per_child": TASKS_PER_PROCESS,
    "worker_max_memory_per_child": KILOBYTES_PER_PROCESS,
    # Each of these leaves keys behind that nothing ever removes, and nobody here reads.
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "task_send_sent_event": False,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": RETRIES,
    "broker_pool_limit": 1,
    "broker_connection_timeout": PUT_S,
    "task_publish_retry": False,
}


def waiting(connection: Any, job_class: str) -> int:
    """Tasks of the class that no runner has taken. Blocks, and raises what kombu and its transport raise."""
    from amqp import NotFound

    # Redis is asked without a check that the queue exists: an empty one does not.
    passive = connection.transport.driver_type == "amqp"
    try:
        with connection.channel() as channel:
            return int(channel.queue_declare(queue=queue_of(job_class), passive=passive).message_count)
    except NotFound:
        return 0


class JobQueue:
    """Puts tasks into their queue, from asyncio."""

    def __init__(self, broker_url: str) -> None:
        self._app = make_app(broker_url)
        broker = broker_of(broker_url)
        self._putting = broker.putting
        # Celery blocks, and its connections belong to one thread.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="job queue")
        self._connection = self._app.connection_for_write(transport_options=dict(broker.patience))
        self._guard = Guard()

    async def put(self, tenant: str, name: str, job_class: str) -> None:
        """Tells the class's runners of a job. Raises SideRoomError; then it may have been told."""
        await self._blocking(self._publish, tenant, name, job_class)

    async def waiting(self, job_class: str) -> int:
        """Tasks of the class that no runner has taken. Raises SideRoomError."""
        return int(await self._blocking(waiting, self._connection, job_class))

    @property
    def away(self) -> bool:
        """Whether the broker is left alone after failures."""
        return self._guard.breaker.open

    def close(self) -> None:
        """Lets go of the broker; what is being put is not waited for."""
        self._thread.submit(self._connection.release)
        self._thread.shutdown(wait=False)

    def _publish(self, tenant: str, name: str, job_class: str) -> None:
        self._app.send_task(
            TASK, args=(tenant, name), queue=queue_of(job_class), retry=False,
            connection=self._connection, **self._putting,
        )  # fmt: skip

    async def _blocking(self, work: Any, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        until = time.monotonic() + PUT_S
        return await self._guard.run(
            lambda: loop.run_in_executor(self._thread, self._told, until, work, *arguments), PUT_S
        )

    def _told(self, until: float, work: Any, *arguments: Any) -> Any:
        """The work's result; what nobody waits for any longer holds up nobody else.

        Tried once more, because a connection that died while nothing was put is only found out by putting.
        """
        failed = TimeoutError.__name__
        for _ in range(2):
            if time.monotonic() >= until:
                break
            try:
                return work(*arguments)
            except Exception as error:
                failed = type(error.__cause__ or error).__name__
                # After a failure nobody knows which answers are still to come on it.
                with suppress(Exception):
                    self._connection.collect()
        # Whatever kombu and its transports raise, to the guard it is a failure of its side room.
        raise NamedError(failed)
