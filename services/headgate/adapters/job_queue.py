"""The queue of jobs: Celery on a Redis broker. It is a hint to runners; the truth is in the records.

A task names a job and holds nothing of it. A task that is lost is queued again by the reconciler, one that
comes twice finds that the job is taken or has ended: so nothing here retries, and nothing waits long.

    headgate:broker:headgate-interactive    list: tasks of the class that no runner has taken
    headgate:broker:headgate-escalation     list: the same
    headgate:broker:headgate-batch          list: the same
    headgate:broker:unacked…                tasks that runners have taken, Celery's own account

Celery is imported when the first app is made: a gateway without jobs does not pay for it.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from headgate.adapters.redis_client import Guard

if TYPE_CHECKING:
    import celery

TASK: Final = "headgate.run"
CLASSES: Final = ("interactive", "escalation", "batch")
"""Tasks of an earlier one go first where a runner serves several."""
PREFIX: Final = "headgate:broker:"
"""Of everything that Celery keeps: the server may be the one of the records."""

LONGEST_RUN_S: Final = 600.0
"""No call of the gateway may take longer, so no run does."""
TIME_LIMIT_S: Final = 630
"""A runner's process that is at one task for longer hangs, and is killed. Celery has a softer limit as well,
which raises wherever the process stands, be it in the middle of the event loop: the call's own deadline is
the soft one here."""
VISIBILITY_S: Final = 2 * TIME_LIMIT_S
"""After that the broker hands a task out again. Nobody waits for it: leases are shorter."""

PUT_S: Final = 1.0
"""How long a submission waits for the broker; the record is written, and the reconciler queues it later."""
SOCKET_S: Final = 5.0
"""Longer than the second that the broker lets a runner wait for a task."""
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
    from kombu import Exchange, Queue
    from kombu.transport import TRANSPORT_ALIASES

    TRANSPORT_ALIASES[_ALIAS] = _TRANSPORT
    app = celery.Celery("headgate", broker=_kombus(broker_url), set_as_current=False, fixups=[])
    # The default exchange needs no bindings: a broker that lost everything still takes tasks.
    direct = Exchange("", type="direct")
    queues = [Queue(queue_of(one), direct, routing_key=queue_of(one)) for one in CLASSES]
    app.conf.update(task_queues=queues, task_default_queue=queue_of(CLASSES[-1]), **_SETTINGS)
    if broker_url.startswith("rediss://"):
        # Kombu's own default is to believe any certificate.
        app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    return app


def _kombus(url: str) -> str:
    """The URL in kombu's spelling, where a socket's has another scheme and another word for the database."""
    if not url.startswith("unix://"):
        return url
    return re.sub(r"([?&])db=", r"\1virtual_host=", f"{_ALIAS}+socket{url.removeprefix('unix')}")


_TRANSPORT: Final = "headgate.adapters.job_transport:Transport"
_ALIAS: Final = "headgate"

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
    # A task that waits behind a long one is better off with another runner.
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
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
    "broker_transport": _TRANSPORT,
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": RETRIES,
    # A broker that is full or read-only says so with such an error, and is one that is away.
    "broker_channel_error_retry": True,
    "broker_pool_limit": 1,
    "broker_connection_timeout": PUT_S,
    "task_publish_retry": False,
    "broker_transport_options": {
        "global_keyprefix": PREFIX,
        "visibility_timeout": VISIBILITY_S,
        # By default abandoned tasks are looked for every hundred seconds.
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "queue_order_strategy": "priority",
        "socket_timeout": SOCKET_S,
        "socket_connect_timeout": PUT_S,
        "health_check_interval": 10,
        # Without it who publishes tries for ever to connect, whatever is said about retries elsewhere.
        "max_retries": 0,
    },
}


def waiting(app: celery.Celery, job_class: str) -> int:
    """Tasks of the class that no runner has taken. Blocks, and raises what kombu and redis-py raise."""
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        # Asked without a check that the queue exists: an empty one does not.
        return int(channel.queue_declare(queue=queue_of(job_class), passive=False).message_count)


class JobQueue:
    """Puts tasks into their queue, from asyncio."""

    def __init__(self, broker_url: str) -> None:
        self._app = make_app(broker_url)
        # Celery blocks, and its connections belong to one thread.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="job queue")
        self._guard = Guard()

    async def put(self, tenant: str, name: str, job_class: str) -> None:
        """Tells the class's runners of a job. Raises SideRoomError; then it may have been told."""
        await self._blocking(self._publish, tenant, name, job_class)

    async def waiting(self, job_class: str) -> int:
        """Tasks of the class that no runner has taken. Raises SideRoomError."""
        return int(await self._blocking(waiting, self._app, job_class))

    def close(self) -> None:
        """Lets go of the broker; what is being put is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _publish(self, tenant: str, name: str, job_class: str) -> None:
        self._app.send_task(TASK, args=(tenant, name), queue=queue_of(job_class), retry=False)

    async def _blocking(self, work: Any, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await self._guard.run(
            lambda: loop.run_in_executor(self._thread, _told, work, *arguments), PUT_S
        )


def _told(work: Any, *arguments: Any) -> Any:
    from kombu.exceptions import KombuError

    try:
        return work(*arguments)
    except KombuError as error:
        # The guard counts failures of its side room, which it knows by the kinds of its own.
        raise ConnectionError(type(error).__name__) from None
