"""Failure modes of the libraries, on real processes; docs/reference/failure-modes.md lists all."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import psutil
import pytest

from headgate.adapters import channels
from headgate.adapters.diagnosis import CORE_BYTES
from headgate.adapters.loop_lag import EVERY_S, SLOW_S
from headgate.v1 import router_pb2, worker_pb2, worker_pb2_grpc
from tests.integration.gateway_rig import (
    Process,
    Stack,
    eventually,
    generate,
    key,
    metrics,
    query,
    refusal,
    stack,
    streamed,
    stub,
    wait_for,
)
from tests.integration.worker_process import worker

ACME = key("acme")
SERVICE = "headgate.v1.WorkerService"
CANARY = "canary-prompt-7d20"
BUILTIN = {"gateway": {"open": True}, "pool": {"small": {"source": "small"}}}
BLOCKED = "the event loop was blocked"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory) as one:
        yield one


async def test_a_server_s_own_cancel_is_answered_by_another_model(running: Stack) -> None:
    """What a draining gRPC server says to calls that it cuts (row 19); the caller cancelled nothing."""
    script = {"say": [], "fail": "CANCELLED", "nonce": uuid.uuid4().hex, "only": "large"}
    async with running.channel() as channel:
        router = stub(channel)
        routed = await router.Route(router_pb2.RouteRequest(query=query(script)), metadata=ACME, timeout=30)
        chosen = routed.decision.model
        answer = await router.Generate(generate({**script, "only": chosen}), metadata=ACME, timeout=30)
    tried = [attempt.model for attempt in answer.decision.attempts]
    assert tried[0] == chosen
    assert tried[-1] == answer.decision.model != chosen


async def test_a_server_s_own_cancel_after_text_is_an_error_and_no_cancel(running: Stack) -> None:
    script = {"say": ["half"], "fail": "CANCELLED", "nonce": uuid.uuid4().hex}
    async with running.channel() as channel:
        call = stub(channel).StreamGenerate(streamed(script), metadata=ACME, timeout=30)
        kinds = [(await call.read()).WhichOneof("event") for _ in range(3)]  # type: ignore[union-attr]
        error = await refusal(call.read())
    assert kinds == ["decision", "delta", "error"]
    assert error.code() is grpc.StatusCode.UNAVAILABLE


class Replicas:
    """Two worker processes behind one address; each answers under a name of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes = {name: self._start(name, 0) for name in ("small", "large")}
        self._ports = {
            name: int(one.addresses()["listen"].rpartition(":")[2]) for name, one in self._processes.items()
        }
        self.address = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in self._ports.values())

    def kill(self, name: str) -> None:
        self._processes[name].popen.kill()
        self._processes[name].popen.wait(20)

    def revive(self, name: str) -> None:
        """Brings it back to its port."""

        def comes_up() -> bool:
            self._processes[name] = self._start(name, self._ports[name])
            return self._processes[name].serves()

        wait_for(comes_up, what=f"{name} to have its port again")

    def close(self) -> None:
        for process in self._processes.values():
            process.stop()

    def _start(self, name: str, port: int) -> Process:
        where = [str(self._directory / "journal.jsonl"), str(port), str(self._directory / f"{name}.ready")]
        command = [sys.executable, "-m", "tests.integration.scripted_worker", name, *where]
        return Process(command, self._directory, name, {})


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Replicas]:
    both = Replicas(tmp_path)
    yield both
    both.close()


async def test_replicas_come_and_go_behind_one_channel(replicas: Replicas) -> None:
    """Calls spread; one replica dies and the other carries on; it comes back and gets its share (row 22)."""
    async with channels.channel(replicas.address, health_service=SERVICE) as channel:
        ask = worker_pb2_grpc.WorkerServiceStub(channel)
        await _until_seen(ask, {"small", "large"})
        shares = Counter([await _replica(ask) for _ in range(40)])
        assert shares.keys() == {"small", "large"}
        assert min(shares.values()) >= 15
        replicas.kill("small")
        await _until_seen(ask, {"large"})
        assert {await _replica(ask) for _ in range(20)} == {"large"}
        await asyncio.to_thread(replicas.revive, "small")
        await _until_seen(ask, {"small", "large"})


async def _until_seen(ask: worker_pb2_grpc.WorkerServiceStub, expected: set[str]) -> None:
    """Waits until exactly these answer four calls in a row."""
    async with asyncio.timeout(60):
        while {await _replica(ask) for _ in range(4)} != expected:
            await asyncio.sleep(0.01)


async def _replica(ask: worker_pb2_grpc.WorkerServiceStub) -> str:
    """Who answers a call; "" for one that dies with its server."""
    try:
        described = await ask.DescribeModel(worker_pb2.DescribeModelRequest(), timeout=10)
    except grpc.aio.AioRpcError:
        return ""
    return str(described.model)


def _blocks(pid: int) -> None:
    """Holds the process up for long enough to be told."""
    process, until = psutil.Process(pid), time.monotonic() + EVERY_S + SLOW_S + 0.1
    process.suspend()
    wait_for(lambda: time.monotonic() > until)
    process.resume()


def _lags_above(address: str, bucket: str) -> float:
    found = metrics(address)
    within = found[f'headgate_loop_lag_seconds_bucket{{le="{bucket}"}}']
    return found["headgate_loop_lag_seconds_count"] - within


async def test_a_gateway_whose_loop_is_blocked_says_so(running: Stack) -> None:
    before = _lags_above(running.addresses["metrics"], "0.1")
    _blocks(running.gateway.popen.pid)
    await eventually(lambda: _lags_above(running.addresses["metrics"], "0.1") > before)
    await eventually(lambda: BLOCKED in running.gateway.log.read_text())


async def test_a_gateway_shows_its_tasks_and_threads_but_no_prompt(running: Stack) -> None:
    name = uuid.uuid4().hex
    script = {"say": [CANARY, "never"], "gap_s": 60, "nonce": name}
    async with running.channel() as channel:
        call = stub(channel).StreamGenerate(streamed(script, request_id=name), metadata=ACME, timeout=60)
        await eventually(lambda: "begun" in running.events(name))
        running.gateway.send(signal.SIGUSR1)
        said = await eventually(lambda: _shown(running.gateway.log, "conductor.py:"))
        call.cancel()
    assert "Current thread" in said or "Thread 0x" in said
    assert CANARY not in said
    assert running.gateway.popen.poll() is None


async def test_a_worker_shows_its_tasks_leaves_no_core_and_says_when_it_is_blocked(tmp_path: Path) -> None:
    async with worker(tmp_path, BUILTIN) as one:
        _leaves_no_core(one.process.pid)
        one.process.send_signal(signal.SIGUSR1)
        await eventually(lambda: _shown(one.log, "process.py:"))
        await asyncio.to_thread(_blocks, one.process.pid)
        await eventually(lambda: BLOCKED in one.log.read_text())
        assert await one.stub.DescribeModel(worker_pb2.DescribeModelRequest(), timeout=10)


def test_a_gateway_leaves_no_core(running: Stack) -> None:
    _leaves_no_core(running.gateway.popen.pid)


def _leaves_no_core(pid: int) -> None:
    if sys.platform == "linux":  # Elsewhere psutil cannot ask; tests/unit/adapters asks from inside.
        assert psutil.Process(pid).rlimit(psutil.RLIMIT_CORE)[1] in {0, CORE_BYTES}


def _shown(log: Path, place: str) -> str:
    """The log once it shows a task that waits there; "" before."""
    text = log.read_text()
    shown = any('"event": "task"' in line and place in line for line in text.splitlines())
    return text if shown else ""
