"""The worker program over real sockets: what the gateway may rely on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import (  # type: ignore[import-untyped]
    BadRequest,
    ErrorInfo,
    RetryInfo,
)
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from headgate.adapters import channels
from headgate.v1 import types_pb2, worker_pb2
from tests.faults.upstream import Call, Script, Upstream
from tests.integration.worker_process import WorkerProcess, ask, start, worker

Answer = aio.UnaryStreamCall[
    worker_pb2.WorkerServiceGenerateRequest, worker_pb2.WorkerServiceGenerateResponse
]
DRAIN = {"open": True, "lame_duck_s": 0, "drain_s": 10}
BUILTIN = {"gateway": DRAIN, "pool": {"small": {"source": "small"}}}
CANARY = "canary prompt 81d3"


def scripted(upstream: Upstream, **changes: object) -> dict[str, object]:
    model = {"backend": "openai", "source": "scripted", "base_url": upstream.base_url, **changes}
    return {"gateway": DRAIN, "pool": {"small": model}}


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as running:
        yield running


@pytest.fixture
async def builtin(tmp_path: Path) -> AsyncIterator[WorkerProcess]:
    async with worker(tmp_path, BUILTIN) as running:
        yield running


async def collect(
    call: Answer,
) -> list[worker_pb2.WorkerServiceGenerateResponse]:
    messages = []
    while isinstance(message := await call.read(), worker_pb2.WorkerServiceGenerateResponse):
        messages.append(message)
    return messages


async def first_text(call: Answer) -> str:
    message = await call.read()
    assert isinstance(message, worker_pb2.WorkerServiceGenerateResponse)
    return message.text


async def refused(
    call: Answer,
) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as failed:
        await collect(call)
    return failed.value


Detail = TypeVar("Detail", bound=Message)


def detail_of(error: aio.AioRpcError, kind: type[Detail]) -> Detail:
    status = rpc_status.from_call(error)
    for packed in status.details if status is not None else ():
        if packed.Is(kind.DESCRIPTOR):
            detail = kind()
            packed.Unpack(detail)
            return detail
    raise AssertionError(f"no {kind.__name__} in {status}")


async def test_describes_the_model(builtin: WorkerProcess) -> None:
    served = await builtin.stub.DescribeModel(worker_pb2.DescribeModelRequest(), timeout=5)
    assert (served.model, served.backend, served.slots, served.logprobs) == ("small", "builtin", 4, True)
    assert served.version.startswith("sha256:")
    assert served.context_tokens == 320


async def test_answers_in_several_messages_of_which_the_last_is_final(builtin: WorkerProcess) -> None:
    messages = await collect(builtin.stub.Generate(ask(logprobs=True, top_logprobs=2), timeout=10))
    assert len(messages) > 5
    assert all(message.text for message in messages[:-1])
    assert [message.finish_reason > 0 for message in messages] == [False] * (len(messages) - 1) + [True]
    tokens = [token for message in messages for token in message.tokens]
    assert len(tokens) == messages[-1].usage.completion_tokens >= 60
    assert all(len(token.alternatives) == 2 and token.logprob <= 0 for token in tokens)


async def test_declines_what_is_no_worksheet(builtin: WorkerProcess) -> None:
    messages = await collect(builtin.stub.Generate(ask("Who are you?"), timeout=5))
    assert [message.finish_reason for message in messages] == [types_pb2.FINISH_REASON_DECLINED]
    assert messages[0].text.startswith("I only answer worksheets")


async def test_the_first_message_arrives_before_the_engine_has_gone_on(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.script = Script(pieces=("first", "second"), stall_after=1)
    async with worker(tmp_path, scripted(upstream)) as running, asyncio.timeout(10):
        call = running.stub.Generate(ask(), timeout=10)
        assert await first_text(call) == "first"
        assert upstream.ledger[0].tokens == 1
        assert upstream.ledger[0].finished is None
        call.cancel()


async def test_what_the_config_omits_never_reaches_the_upstream(tmp_path: Path, upstream: Upstream) -> None:
    async with worker(tmp_path, scripted(upstream, omit=["temperature"])) as running:
        await collect(running.stub.Generate(ask(), timeout=10))
    assert "temperature" not in upstream.ledger[0].body


async def test_a_client_that_leaves_stops_the_engine(tmp_path: Path, upstream: Upstream) -> None:
    upstream.script = Script(pieces=("x",) * 10_000, between_s=0.002)
    async with worker(tmp_path, scripted(upstream)) as running, asyncio.timeout(20):
        for number in range(10):
            call = running.stub.Generate(ask(), timeout=20)
            await call.read()
            call.cancel()
            upstream_call = await upstream.call(number)
            await upstream_call.over.wait()
            assert upstream_call.gone is not None


async def test_a_client_that_leaves_frees_the_built_in_engine(tmp_path: Path) -> None:
    settings = {"gateway": DRAIN, "pool": {"small": {"source": "small", "slots": 1, "queue": 0}}}
    async with worker(tmp_path, settings) as running, asyncio.timeout(20):
        for _ in range(20):
            call = running.stub.Generate(ask(), timeout=10, wait_for_ready=True)
            await call.read()
            call.cancel()
            await served_again(running)


async def served_again(running: WorkerProcess) -> None:
    """Asks until the slot is free: cancelling is not instant on the wire."""
    while True:
        try:
            assert await collect(running.stub.Generate(ask("Who are you?"), timeout=5))
        except aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017
        else:
            return


async def test_over_slots_and_queue_it_refuses_with_advice_and_calls_nobody(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.script = Script(stall_after=1)
    async with worker(tmp_path, scripted(upstream, slots=2, queue=1)) as running, asyncio.timeout(20):
        calls = {name: running.stub.Generate(ask(request_id=name), timeout=20) for name in ("a", "b", "c")}
        await upstream.call(1)
        error = await eventually_refused(running)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        retry = detail_of(error, RetryInfo)
        assert retry.retry_delay.ToTimedelta().total_seconds() > 0
        assert len(upstream.ledger) == 2
        upstream.script = Script()
        in_work = [name_of(call) for call in upstream.ledger]
        calls[in_work[0]].cancel()
        assert {*in_work, name_of(await upstream.call(2))} == set(calls), "the one that waited is served next"


def name_of(call: Call) -> str:
    return call.headers["x-client-request-id"]


async def eventually_refused(running: WorkerProcess) -> aio.AioRpcError:
    """The refusal of a call made once the queue is full; until then calls wait past their short deadline."""
    while True:
        error = await refused(running.stub.Generate(ask(), timeout=0.2))
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            return error


async def test_who_waits_past_the_deadline_is_never_served(tmp_path: Path, upstream: Upstream) -> None:
    upstream.script = Script(stall_after=1)
    async with worker(tmp_path, scripted(upstream, slots=1, queue=4)) as running, asyncio.timeout(20):
        holder = running.stub.Generate(ask(), timeout=20)
        await holder.read()
        errors = await asyncio.gather(*(refused(running.stub.Generate(ask(), timeout=0.1)) for _ in range(3)))
        assert {error.code() for error in errors} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        upstream.script = Script()
        holder.cancel()
        assert await collect(running.stub.Generate(ask(), timeout=10))
        assert len(upstream.ledger) == 2, "the holder and the last one"


async def test_the_deadline_of_the_call_reaches_the_engine(tmp_path: Path, upstream: Upstream) -> None:
    upstream.script = Script(stall_after=1)
    async with worker(tmp_path, scripted(upstream)) as running, asyncio.timeout(40):
        await running.stub.DescribeModel(worker_pb2.DescribeModelRequest(), timeout=10)
        call = running.stub.Generate(ask(), timeout=3)
        await first_text(call)
        assert (await refused(call)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await upstream.ledger[0].over.wait()
        assert upstream.ledger[0].gone is not None
        assert upstream.ledger[0].gone - upstream.ledger[0].start < 10, "the engine's own limits are longer"


async def test_sigterm_lets_running_answers_end_and_refuses_new_ones(
    tmp_path: Path, upstream: Upstream
) -> None:
    refusing = asyncio.Event()
    upstream.script = Script(pieces=tuple("abcdefghij"), last_when=refusing)
    settings = {**scripted(upstream, idle_s=60), "gateway": {**DRAIN, "drain_s": 60}}
    async with worker(tmp_path, settings) as running, asyncio.timeout(60):
        call = running.stub.Generate(ask(), timeout=60)
        received = await first_text(call)
        async with channels.channel(running.address) as channel:
            health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
            assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
            running.drain()
            assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await refuses_everything(running)
        assert not call.done()
        refusing.set()
        rest = await collect(call)
        assert received + "".join(message.text for message in rest) == "abcdefghij"
        assert rest[-1].finish_reason == types_pb2.FINISH_REASON_STOP
        assert await running.exit_code() == 0


async def refuses_everything(running: WorkerProcess) -> None:
    """Asks until it is refused: calls are still taken until the lame-duck time is over.

    gRPC cancels a call that meets the stop itself; to the gateway both mean "try elsewhere".
    """
    while True:
        call = running.stub.Generate(ask(), timeout=5)
        try:
            await call.read()
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return
            assert error.code() is grpc.StatusCode.CANCELLED  # noqa: PT017
        call.cancel()


async def test_an_answer_that_outlasts_the_drain_is_ended_and_the_upstream_let_go(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.script = Script(stall_after=1)
    settings = {**scripted(upstream), "gateway": {**DRAIN, "drain_s": 0.2}}
    async with worker(tmp_path, settings) as running, asyncio.timeout(20):
        call = running.stub.Generate(ask(), timeout=20)
        await call.read()
        running.drain()
        assert (await refused(call)).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert await running.exit_code() == 0
        await upstream.ledger[0].over.wait()
        assert upstream.ledger[0].gone is not None


BAD_FIELDS = {
    "messages": worker_pb2.WorkerServiceGenerateRequest(),
    "messages[0].role": worker_pb2.WorkerServiceGenerateRequest(
        messages=[types_pb2.Message(parts=[types_pb2.Part(text="a")])]
    ),
    "messages[0].parts[0].kind": worker_pb2.WorkerServiceGenerateRequest(
        messages=[types_pb2.Message(role=types_pb2.ROLE_USER, parts=[types_pb2.Part()])]
    ),
    "sampling.temperature": ask(sampling=types_pb2.Sampling(temperature=3)),
    "sampling.top_p": ask(sampling=types_pb2.Sampling(top_p=0)),
    "sampling.stop[1]": ask(sampling=types_pb2.Sampling(stop=["a", ""])),
    "top_logprobs": ask(top_logprobs=9),
    "request_id": ask(request_id="x" * 129),
}


async def test_a_wrong_field_is_named(builtin: WorkerProcess) -> None:
    for field, message in BAD_FIELDS.items():
        error = await refused(builtin.stub.Generate(message, timeout=5))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (error.details() or "").startswith(f"{field}: ")
        bad = detail_of(error, BadRequest)
        assert [violation.field for violation in bad.field_violations] == [field]


async def test_a_question_that_does_not_fit_is_an_invalid_argument(builtin: WorkerProcess) -> None:
    error = await refused(builtin.stub.Generate(ask(CANARY * 30), timeout=5))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    info = detail_of(error, ErrorInfo)
    assert (info.reason, info.domain) == ("CONTEXT_TOO_LONG", "headgate")


async def test_bytes_that_are_no_message_are_an_invalid_argument_without_pythons_words(
    builtin: WorkerProcess,
) -> None:
    async with channels.channel(builtin.address) as channel:
        for method in ("Generate", "DescribeModel"):
            send: aio.UnaryStreamMultiCallable[bytes, bytes]
            send = channel.unary_stream(f"/headgate.v1.WorkerService/{method}")
            with pytest.raises(aio.AioRpcError) as failed:
                await send(b"\x0a\xff\xff\xff", timeout=5).read()
            assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert failed.value.details() == "the request is not a message of this method"


async def test_failures_of_the_upstream_have_their_status_and_keep_its_words(
    tmp_path: Path, upstream: Upstream
) -> None:
    expected = {
        400: grpc.StatusCode.INVALID_ARGUMENT,
        401: grpc.StatusCode.FAILED_PRECONDITION,
        429: grpc.StatusCode.RESOURCE_EXHAUSTED,
        500: grpc.StatusCode.UNAVAILABLE,
    }
    async with worker(tmp_path, scripted(upstream)) as running:
        for status, code in expected.items():
            upstream.script = Script(status=status, body=b'{"error": {"message": "canary body 77aa"}}')
            error = await refused(running.stub.Generate(ask(CANARY), timeout=5))
            assert error.code() is code
            assert "canary" not in str(error)
        upstream.script = Script(cut_after=1)
        assert (
            await refused(running.stub.Generate(ask(CANARY), timeout=5))
        ).code() is grpc.StatusCode.UNAVAILABLE
        running.drain()
        await running.exit_code()
        assert "canary" not in running.log.read_text()


async def test_an_unknown_recording_is_not_found(tmp_path: Path) -> None:
    recorded = tmp_path / "answers.jsonl"
    recorded.write_text(json.dumps({"query": "known", "answer": "yes, known"}), encoding="utf-8")
    settings = {"gateway": DRAIN, "pool": {"small": {"backend": "replay", "source": str(recorded)}}}
    async with worker(tmp_path, settings) as running:
        known = await collect(running.stub.Generate(ask("known"), timeout=5))
        assert "".join(message.text for message in known) == "yes, known"
        error = await refused(running.stub.Generate(ask(CANARY), timeout=5))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert CANARY not in str(error)


CANNOT_START = {
    "no such model": (
        {"gateway": DRAIN, "pool": {"large": {}}},
        "there is no model 'small'; there are: large",
    ),
    "no such backend": (
        {"gateway": DRAIN, "pool": {"small": {"backend": "bultin"}}},
        "there is no backend 'bultin'",
    ),
    "no such weights": (
        {"gateway": DRAIN, "pool": {"small": {"source": "medium"}}},
        "there are no such weights",
    ),
    "no such secret": (
        {
            "gateway": DRAIN,
            "pool": {"small": {"backend": "openai", "source": "m", "api_key": "env:HG_ABSENT"}},
        },
        "HG_ABSENT",
    ),
}


@pytest.mark.parametrize("why", CANNOT_START)
async def test_what_cannot_start_says_why_in_one_sentence(tmp_path: Path, why: str) -> None:
    settings, sentence = CANNOT_START[why]
    config, log = tmp_path / "headgate.yaml", tmp_path / "worker.log"
    config.write_text(json.dumps({"version": 1, **settings}), encoding="utf-8")
    process = await start(config, "small", log=log)
    assert await asyncio.wait_for(process.wait(), 30) == 1
    said = log.read_text().splitlines()
    assert len(said) == 1
    assert sentence in said[0]


async def test_a_port_in_use_is_one_sentence(tmp_path: Path, builtin: WorkerProcess) -> None:
    config, log = tmp_path / "headgate.yaml", tmp_path / "second.log"
    process = await start(config, "small", "--listen", builtin.address, log=log)
    assert await asyncio.wait_for(process.wait(), 30) == 1
    assert f"cannot listen on {builtin.address}" in log.read_text().splitlines()[-1]
