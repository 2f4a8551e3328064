"""Job runners and a reconciler beside a stack: real Celery processes, the records on the stack's Valkey."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.asyncio import Redis

from headgate.adapters.job_queue import TASK, JobQueue, make_app, queue_of
from headgate.adapters.redis_client import connect
from headgate.adapters.redis_jobs import ENDED, Happening, Record, RedisJobs, State, Submission, Terms
from headgate.adapters.redis_rooms import LEDGER_STREAM
from headgate.gateway import tickets
from headgate.gateway.admission import digest
from headgate.v1 import router_pb2, types_pb2
from tests.integration.brokers import Broker, OnValkey
from tests.integration.gateway_rig import PEPPER, Process, Stack, config, query

RUNNER_SECRET = "secret-of-runners"
TERMS = Terms(lease_s=1.0, grace_s=0.5)
"""A runner that is gone is missed after a second."""


def settings(**gateway: object) -> dict[str, Any]:
    """A config with jobs, and a key for their runners."""
    jobs = {
        "enabled": True, "key": {"id": "runner", "hmac_sha256": digest(PEPPER.encode(), RUNNER_SECRET).hex()},
        "runner_key": "env:RUNNER_KEY", "concurrency": 2, "metrics_listen": "127.0.0.1:0",
        "lease_s": TERMS.lease_s, "grace_s": TERMS.grace_s,
    }  # fmt: skip
    return config(drain_s=0.5, **gateway) | {"jobs": jobs}


class JobStack(Stack):
    """A stack that can start runners and reconcilers."""

    def __init__(
        self,
        directory: Path,
        config: dict[str, Any] | None = None,
        broker: Broker | None = None,
        **changes: object,
    ) -> None:
        """Without a broker jobs wait where their records are; `changes` are sections of the config."""
        given = (config or settings()) | changes
        if broker is not None:
            (directory / "broker").write_text(broker.url)
            given["jobs"]["broker"] = f"file:{directory / 'broker'}"
        super().__init__(directory, given)
        self.broker: Broker = broker or OnValkey(self.valkey)
        self.started: list[Process] = []

    def start(self, program: str, *extra: str, module: str = "headgate.jobs", **environ: str) -> Process:
        """A runner or a reconciler that is ready."""
        name = f"{program}-{len(self.started)}"
        command = [
            sys.executable, "-m", module, program, "--config", str(self.config_file),
            "--redis-url", self.valkey.url, "--ready-file", str(self.directory / f"{name}.ready"), *extra,
        ]  # fmt: skip
        if program == "runner":
            command += ["--gateway", self.addresses["listen"]]
        environ |= {"RUNNER_KEY": f"runner.{RUNNER_SECRET}", "TEST_PEPPER": PEPPER}
        one = Process(command, self.directory, name, environ)
        self.started.append(one)
        one.addresses()
        return one

    def close(self) -> None:
        """Ends everything."""
        for one in self.started:
            one.stop()
        super().close()


@contextmanager
def job_stack(
    factory: pytest.TempPathFactory, broker: Broker | None = None, **changes: object
) -> Iterator[JobStack]:
    """A stack for the time of a `with` block; `changes` are sections of its config."""
    running = JobStack(factory.mktemp("jobs"), broker=broker, **changes)
    try:
        yield running
    finally:
        running.close()


class Jobs:
    """What a test does with jobs: submits them as the gateway does, and waits for what becomes of them."""

    def __init__(self, stack: JobStack) -> None:
        self.stack = stack
        self.client: Redis = connect(stack.valkey.url, 5.0, 1.0)
        self.records = RedisJobs(self.client, TERMS)
        self.queue = JobQueue(stack.broker.url)

    async def submit(
        self, name: str, text: str | dict[str, object], *, model: str = "small", queue: bool = True
    ) -> None:
        """Writes the record, and tells the runners unless `queue` is false."""
        asked: types_pb2.Query = query(text, request_id=name, model=model)
        expires = time.time() + 120
        ticket = tickets.sign(PEPPER.encode(), "acme", name, time.time(), expires)
        packed = asked.SerializeToString()
        one = Submission("acme", name, packed, name.encode(), "batch", "", expires, ticket)
        assert await self.records.submit(one) == "new"
        if queue:
            await self.queue.put("acme", name, "batch")

    async def record(self, name: str) -> Record:
        """The job as it stands."""
        found = await self.records.read("acme", name)
        assert found is not None
        return found

    async def ended(self, name: str, seconds: float = 60.0) -> Record:
        """The job, once it has ended."""
        await until(lambda: self._is(name, *ENDED), seconds, f"{name} to end")
        return await self.record(name)

    async def running(self, name: str, run: int = 1) -> None:
        """Waits until a worker writes the answer of that run."""

        async def begun() -> bool:
            return self.stack.events(name).count("begun") >= run and (await self.record(name)).runs >= run

        await until(begun, 60, f"run {run} of {name}")

    async def _is(self, name: str, *states: State) -> bool:
        return (await self.record(name)).state in states

    async def told(self, name: str) -> list[Happening]:
        """The job's whole stream."""
        return [one async for one in self.records.happenings("acme", name, "", 0.01)]

    def ledger(self, name: str) -> list[Mapping[str, str]]:
        """The gateway's records of it: one for each run."""
        found = (one for _, one in self.stack.valkey.client.xrange(LEDGER_STREAM))
        told = ({key.decode(): value.decode() for key, value in one.items()} for one in found)
        return [one for one in told if one["request_id"] == name]

    async def close(self) -> None:
        """Lets go of Valkey."""
        self.queue.close()
        await self.client.aclose()


async def until(condition: Callable[[], Awaitable[bool]], seconds: float, what: str) -> None:
    """Waits for a condition that has to ask."""
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain for {what}"


def children(runner: Process) -> list[psutil.Process]:
    """The processes that work on a runner's jobs."""
    return psutil.Process(runner.popen.pid).children()


def kill(runner: Process) -> None:
    """SIGKILL for a runner and for all of its processes, as the end of a machine is."""
    parent = psutil.Process(runner.popen.pid)
    parent.suspend()
    for one in (*parent.children(), parent):
        with suppress(psutil.NoSuchProcess):
            one.kill()
    runner.popen.wait(20)


def put_rubbish(broker: Broker) -> int:
    """Into the queue: tasks with wrong arguments, of an unknown name, unreadable, or none. Returns
    how many are none at all."""
    app = make_app(broker.url)
    with app.connection_for_write() as connection:
        for arguments in (
            (),
            ("acme",),
            ("acme", "j-1", "of a later one"),
            (1, {"a": 2}),
            ("acme", "unknown"),
        ):
            app.send_task(TASK, args=arguments, queue=queue_of("batch"), connection=connection)
        app.send_task("headgate.unheard-of", queue=queue_of("batch"), connection=connection)
        producer = connection.Producer()
        for body, kind in ((b"\xff\x00", "application/x-python-serialize"), (b"{", "application/json")):
            producer.publish(
                body, routing_key=queue_of("batch"), content_type=kind, content_encoding="binary",
                headers={"task": TASK, "id": "rubbish"},
            )  # fmt: skip
        producer.publish({"no": "task"}, routing_key=queue_of("batch"))
    return 4 + broker.put_rubbish()


def answer_of(record: Record) -> router_pb2.GenerateResponse:
    """The answer of a job that is done."""
    assert record.state is State.DONE, (record.state, record.error)
    return router_pb2.GenerateResponse.FromString(record.answer)


def event_of(one: Happening) -> str | State:
    """A change of state, or the kind of an event."""
    if one.state is not None:
        return one.state
    return str(router_pb2.StreamGenerateResponse.FromString(one.part).WhichOneof("event"))
