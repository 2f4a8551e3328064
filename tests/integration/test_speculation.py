"""A worker with a draft model behind a gateway: how speculation went reaches the caller."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from headgate.adapters import channels
from headgate.v1 import worker_pb2, worker_pb2_grpc
from headgate.worker.server import SERVICE
from tests.integration.gateway_rig import Process, Stack, config, generate, key, streamed, stub, text_of
from tests.integration.worker_process import LONG_QUESTION, ask

ACME = key("acme")
POOL = {"small": {"source": "small"}, "large": {"source": "large", "draft_source": "small"}}


class _Speculating(Stack):
    """With a real worker for `large`."""

    def start_worker(self, name: str, port: int = 0) -> Process:
        if name != "large":
            return super().start_worker(name, port)
        command = [sys.executable, "-m", "headgate.worker", "--model", name, "--listen", f"127.0.0.1:{port}"]
        command += ["--config", str(self.config_file), "--ready-file", str(self.directory / f"{name}.ready")]
        return Process(command, self.directory, name, {"OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    one = _Speculating(
        tmp_path_factory.mktemp("stack"), {**config(), "pool": POOL, "cache": {"enabled": False}}
    )
    try:
        yield one
    finally:
        one.close()


async def test_the_last_message_of_the_worker_alone_tells_how_it_went(running: Stack) -> None:
    async with channels.channel(running.worker_addresses["large"], health_service=SERVICE) as channel:
        call = worker_pb2_grpc.WorkerServiceStub(channel).Generate(ask(), timeout=10, wait_for_ready=True)
        messages = []
        while isinstance(message := await call.read(), worker_pb2.WorkerServiceGenerateResponse):
            messages.append(message)
    assert [one.HasField("speculation") for one in messages] == [False] * (len(messages) - 1) + [True]
    told, written = messages[-1].speculation, messages[-1].usage.completion_tokens
    assert 1 <= told.target_forwards <= 0.8 * written
    assert written - told.target_forwards <= told.accepted_tokens <= told.drafted_tokens


async def test_the_attempt_of_the_answer_tells_how_it_went(running: Stack) -> None:
    async with running.channel() as channel:
        whole = await stub(channel).Generate(generate(LONG_QUESTION, model="large"), metadata=ACME)
        call = stub(channel).StreamGenerate(streamed(LONG_QUESTION, model="large"), metadata=ACME)
        *_, last = [message async for message in call]
        other = await stub(channel).Generate(generate("anything", model="small"), metadata=ACME)
    [attempt], [again] = whole.decision.attempts, last.finished.decision.attempts
    assert attempt.speculation == again.speculation
    assert 1 <= attempt.speculation.target_forwards <= 0.8 * attempt.usage.completion_tokens
    assert 0 < attempt.speculation.accepted_tokens <= attempt.speculation.drafted_tokens
    assert text_of(whole).startswith("352 357 362")
    assert not other.decision.attempts[0].HasField("speculation")
