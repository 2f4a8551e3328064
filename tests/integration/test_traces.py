"""Traces end to end: a real collector, real processes, and an upstream behind real workers.

The bundle doubts a draft of small in which an equation fails, so that the upstream decides what is escalated.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headgate.v1 import jobs_pb2, jobs_pb2_grpc, router_pb2, types_pb2
from tests.faults.canaries import Canaries
from tests.faults.chain import Chain
from tests.faults.drafting import bundle
from tests.faults.upstream import Script, Upstream
from tests.integration.collector import Collector, Told
from tests.integration.gateway_rig import (
    PEPPER,
    SECRETS,
    Process,
    eventually,
    generate,
    key,
    metrics,
    query,
    refusal,
    streamed,
    stub,
    turn,
)
from tests.integration.job_rig import RUNNER_SECRET, Jobs, JobStack, settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACME = key("acme")
DOUBTFUL, WELL = Script(pieces=("2 + 2", " = 5")), Script(pieces=("2 + 2", " = 4"))
CASCADED = [
    ("headgate-gateway", "StreamGenerate"),
    ("headgate-gateway", "decide"),
    ("headgate-gateway", "look up"),
    ("headgate-gateway", "chat small"),
    ("headgate-worker", "chat small"),
    ("headgate-worker", "chat sim-small"),
    ("headgate-gateway", "chat large"),
    ("headgate-worker", "chat large"),
    ("headgate-worker", "chat sim-large"),
]
"""The hops of a request whose draft was not accepted, in the order in which they begin."""


class Traced(Chain, JobStack):
    """Real workers in front of an upstream, with jobs and their runner; each model by its own name there."""

    def _pool(self) -> dict[str, Any]:
        dear = {"input_nanousd": 8_000_000_000, "output_nanousd": 16_000_000_000}
        pool = {name: {**one, "source": f"sim-{name}"} for name, one in super()._pool().items()}
        return {**pool, "large": {**pool["large"], "price": dear}}


@dataclass
class Running:
    """What a test has to do with."""

    stack: Traced
    upstream: Upstream
    collector: Collector
    draw: random.Random

    def trace(self, *, kept: bool = True) -> tuple[str, tuple[tuple[str, str], ...]]:
        """A caller's own trace: its id, and the metadata of a call that is part of it."""
        trace_id, parent = f"{self.draw.getrandbits(128) | 1:032x}", f"{self.draw.getrandbits(64) | 1:016x}"
        return trace_id, (*ACME, ("traceparent", f"00-{trace_id}-{parent}-{int(kept):02x}"))

    def text(self) -> str:
        """A question that nobody asked yet."""
        return f"tell me now whether 2 + 2 = 4, {''.join(self.draw.choices(ascii_lowercase, k=12))}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory, seed: int) -> AsyncIterator[Running]:
    folder = tmp_path_factory.mktemp("traced")
    async with Upstream() as upstream, Collector() as collector:
        upstream.choose = lambda call: DOUBTFUL if call.body["model"] == "sim-small" else WELL
        told = {"telemetry": {"otlp_endpoint": collector.endpoint}, "jobs": settings()["jobs"]}
        policy = {"policy": {"bundle": str(bundle(folder / "drafts.bundle"))}}
        stack = await asyncio.to_thread(Traced, folder, upstream.base_url, {**told, **policy})
        try:
            await asyncio.to_thread(stack.start, "runner", "--concurrency", "1")
            yield Running(stack, upstream, collector, random.Random(f"traces {seed}"))
        finally:
            await asyncio.to_thread(stack.close)


def hops(spans: list[Told]) -> list[tuple[str, str]]:
    return [(one.service, one.name) for one in spans]


def lineage(spans: list[Told], last: Told) -> list[str]:
    """Names from a span up to the first that came."""
    by_id = {one.wire.span_id: one for one in spans}
    names, one = [], by_id.get(last.wire.span_id)
    while one is not None:
        names.append(one.name)
        one = by_id.get(one.wire.parent_span_id)
    return names


def logged(process: Process, event: str, name: str) -> list[dict[str, Any]]:
    """Lines of a process's log about a request."""
    lines = (json.loads(line) for line in process.log.read_text().splitlines() if f'"{name}"' in line)
    return [one for one in lines if one["event"] == event]


async def ask(running: Running, as_caller: Any, text: str = "", **fields: Any) -> router_pb2.Finished:
    async with running.stack.channel() as channel:
        request = streamed(text or running.text(), **fields)
        told = [one async for one in stub(channel).StreamGenerate(request, metadata=as_caller, timeout=30)]
    return told[-1].finished


async def test_a_cascaded_streamed_request_shows_every_hop_the_decision_and_the_cost(
    running: Running,
) -> None:
    trace_id, metadata = running.trace()
    finished = await ask(running, metadata, request_id="cascaded-1")
    decision = finished.decision
    assert (decision.drafted_by, decision.model) == ("small", "large")
    spans = await running.collector.trace(trace_id, len(CASCADED))
    assert sorted(hops(spans)) == sorted(CASCADED)
    assert spans[0].wire.parent_span_id.hex() == metadata[-1][1].split("-")[2]
    root, draft = spans[0].attributes, next(one for one in spans if one.name == "chat small").attributes
    assert root["headgate.request_id"] == "cascaded-1"
    assert root["headgate.tenant"] == "acme"
    assert root["headgate.decision.reason"] == types_pb2.Reason.Name(decision.reason).removeprefix("REASON_")
    assert root["headgate.decision.lambda"] == pytest.approx(getattr(decision, "lambda"))
    assert root["headgate.decision.certificate"] == decision.certificate.id
    assert root["headgate.decision.drafted_by"] == "small"
    assert (root["gen_ai.operation.name"], root["gen_ai.response.model"]) == ("chat", "large")
    assert root["headgate.cost_nanousd"] == decision.cost_nanousd > 0
    assert root["headgate.cache.status"] == "MISS"
    assert root["gen_ai.usage.output_tokens"] == finished.usage.completion_tokens
    assert (draft["headgate.draft"], draft["gen_ai.request.model"]) == (True, "small")
    calls = [one for one in spans if one.service == "headgate-gateway" and one.name.startswith("chat")]
    assert [one.attributes["headgate.cost_nanousd"] for one in calls] == [
        one.cost_nanousd for one in decision.attempts
    ]
    told = spans[0].events
    assert [name for name, _ in told] == ["headgate.escalation", "headgate.first_text"]
    assert told[0][1] == {
        "headgate.from_model": "small", "headgate.to_model": "large", "headgate.why": "doubtful",
    }  # fmt: skip


async def test_the_upstream_is_called_within_the_trace_and_named(running: Running) -> None:
    trace_id, metadata = running.trace()
    before = len(running.upstream.ledger)
    await ask(running, metadata, request_id="upstream-1")
    spans = await running.collector.trace(trace_id, len(CASCADED))
    last = next(one for one in spans if one.name == "chat sim-large")
    assert lineage(spans, last) == ["chat sim-large", "chat large", "chat large", "StreamGenerate"]
    assert last.attributes["gen_ai.provider.name"] == "openai"
    assert last.attributes["gen_ai.request.model"] == "sim-large"
    assert last.attributes["gen_ai.response.model"] == "scripted"
    assert last.attributes["server.address"] == "127.0.0.1"
    assert last.attributes["gen_ai.usage.input_tokens"] == 7
    sent = [one.headers["traceparent"] for one in running.upstream.ledger[before:]]
    ids = {one.wire.span_id.hex() for one in spans if one.name.startswith("chat sim-")}
    assert {tuple(one.split("-")[1:3]) for one in sent} == {(trace_id, one) for one in ids}


async def test_a_queued_job_keeps_the_trace_of_its_submission(running: Running) -> None:
    trace_id, metadata = running.trace()
    async with running.stack.channel() as channel:
        desk = jobs_pb2_grpc.JobServiceStub(channel)
        request = jobs_pb2.SubmitJobRequest(query=query(running.text(), request_id="queued-1"))
        await desk.SubmitJob(request, metadata=metadata, timeout=30)
        watch = jobs_pb2.WatchJobRequest(job_id="queued-1")
        told = [one async for one in desk.WatchJob(watch, metadata=metadata, timeout=30)]
    assert told[-1].job.state == jobs_pb2.JOB_STATE_DONE
    spans = await running.collector.trace(trace_id, len(CASCADED) + 2)
    assert hops(spans)[:3] == [
        ("headgate-gateway", "SubmitJob"),
        ("headgate-runner", "run job"),
        ("headgate-gateway", "StreamGenerate"),
    ]
    assert sorted(hops(spans)[2:]) == sorted(CASCADED)
    last = next(one for one in spans if one.name == "chat sim-large")
    assert lineage(spans, last)[-3:] == ["StreamGenerate", "run job", "SubmitJob"]
    run = spans[1].attributes
    assert (run["headgate.job.became"], run["headgate.request_id"], run["headgate.job.run"]) == (
        "done", "queued-1", 1,
    )  # fmt: skip
    assert run["headgate.cost_nanousd"] == told[-1].job.answer.decision.cost_nanousd
    (line,) = await eventually(
        lambda: logged(running.stack.started[0], "run ended", "queued-1"), what="a line"
    )
    assert (line["trace_id"], line["tenant"], line["became"]) == (trace_id, "acme", "done")


async def test_a_job_without_a_trace_is_not_part_of_the_one_before_it(running: Running) -> None:
    """Both are run by the same process."""
    before, metadata = running.trace()
    async with running.stack.channel() as channel:
        desk = jobs_pb2_grpc.JobServiceStub(channel)
        request = jobs_pb2.SubmitJobRequest(query=query(running.text(), request_id="traced-1"))
        await desk.SubmitJob(request, metadata=metadata, timeout=30)
        jobs = Jobs(running.stack)
        await eventually(lambda: logged(running.stack.started[0], "run ended", "traced-1"), what="its end")
        await jobs.submit("untraced-1", running.text())
        (line,) = await eventually(
            lambda: logged(running.stack.started[0], "run ended", "untraced-1"), what="the other's end"
        )
        await jobs.client.aclose()
    assert "trace_id" not in line
    (root,) = await eventually(
        lambda: [
            one for one in running.collector.spans
            if one.name == "StreamGenerate" and one.attributes["headgate.request_id"] == "untraced-1"
        ],
        what="the span of its call",
    )  # fmt: skip
    assert (root.wire.parent_span_id, root.trace_id == before) == (b"", False)


async def test_a_runner_whose_collector_is_away_goes_on_counting(running: Running) -> None:
    away = {"HEADGATE_TELEMETRY__OTLP_ENDPOINT": "http://127.0.0.1:9"}
    runner = await asyncio.to_thread(
        running.stack.start, "runner", "--class", "interactive", "--metrics-listen", "127.0.0.1:0", **away
    )
    try:
        where = (await asyncio.to_thread(runner.addresses))["metrics"]
        async with running.stack.channel() as channel:
            desk = jobs_pb2_grpc.JobServiceStub(channel)

            async def submit(number: int) -> None:
                asked = query(running.text(), request_id=f"away-{number}")
                request = jobs_pb2.SubmitJobRequest(query=asked, job_class=jobs_pb2.JOB_CLASS_INTERACTIVE)
                await desk.SubmitJob(request, metadata=running.trace()[1], timeout=30)
                watch = jobs_pb2.WatchJobRequest(job_id=asked.request_id)
                assert [one async for one in desk.WatchJob(watch, metadata=ACME, timeout=30)]

            def counted() -> tuple[float, float]:
                seen = metrics(where)
                return seen["headgate_spans_dropped_total"], sum(
                    value for name, value in seen.items() if name.startswith("headgate_jobs_ended_total")
                )

            before = 0.0
            for number in range(200):
                await submit(number)
                lost, ended = await asyncio.to_thread(counted)
                if lost and ended > before:
                    return
                before = before if lost else ended
            raise AssertionError("since spans were lost no job's end is counted")
    finally:
        await asyncio.to_thread(runner.stop)


async def test_the_log_names_request_tenant_decision_and_trace_but_no_label(running: Running) -> None:
    trace_id, metadata = running.trace()
    finished = await ask(running, metadata, request_id="logged-1", metadata={"note": "canary-of-the-label"})

    gateway = running.stack.gateway
    (line,) = await eventually(lambda: logged(gateway, "request ended", "logged-1"), what="its line")
    decision = finished.decision
    assert (line["level"], line["tenant"], line["trace_id"]) == ("debug", "acme", trace_id)
    assert (line["model"], line["drafted_by"], line["code"]) == ("large", "small", "OK")
    assert line["reason"] == types_pb2.Reason.Name(decision.reason)
    assert line["cost_nanousd"] == str(decision.cost_nanousd)
    assert "canary" not in gateway.log.read_text()


async def test_watches_of_health_and_of_jobs_go_on_and_make_no_span(running: Running) -> None:
    """The instrumentation of gRPC fails at the first and ends every call of a channel that watches health."""
    trace_id, metadata = running.trace()
    worker = running.stack.worker_addresses["large"]
    services = {running.stack.addresses["listen"]: "headgate.v1.RouterService",
                worker: "headgate.v1.WorkerService"}  # fmt: skip
    channels = [grpc.aio.insecure_channel(address) for address in services]
    try:
        desk = jobs_pb2_grpc.JobServiceStub(channels[0])
        request = jobs_pb2.SubmitJobRequest(query=query(running.text(), request_id="watched-1"))
        await desk.SubmitJob(request, metadata=ACME, timeout=30)
        watched = jobs_pb2.WatchJobRequest(job_id="watched-1")
        assert [one async for one in desk.WatchJob(watched, metadata=metadata, timeout=30)]
        begun = time.time_ns()
        watches = []
        for channel, service in zip(channels, services.values(), strict=True):
            asked = health_pb2.HealthCheckRequest(service=service)
            watch = health_pb2_grpc.HealthStub(channel).Watch(asked, metadata=metadata)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            watches.append(watch)
        assert [one async for one in desk.WatchJob(watched, metadata=metadata, timeout=30)]
        # Beside these the gateway watches its workers' health, and probes them once a second.
        asked = time.monotonic()
        await eventually(lambda: time.monotonic() > asked + 2.2, what="two probes of the workers")
        await ask(running, metadata)
        spans = await running.collector.trace(trace_id, len(CASCADED))
        assert not any(watch.done() for watch in watches)
    finally:
        for channel in channels:
            await channel.close()
    # A watch has ended by now, and its span would have come before those of one more request.
    last, metadata = running.trace()
    await ask(running, metadata)
    await running.collector.trace(last, len(CASCADED))
    assert sorted(hops(spans)) == sorted(CASCADED)
    told = (one for one in running.collector.spans if one.wire.start_time_unix_nano >= begun)
    assert {one.trace_id for one in told} == {trace_id, last}


async def _settled(running: Running) -> str:
    """The trace of one more request, once the collector has it: what ended before has been told as well."""
    trace_id, metadata = running.trace()
    async with running.stack.channel() as channel:
        request = router_pb2.RouteRequest(query=query(running.text()))
        await stub(channel).Route(request, metadata=metadata, timeout=30)
    await running.collector.trace(trace_id, 2)
    return trace_id


async def test_a_caller_that_keeps_no_trace_gets_none_and_every_hop_knows(running: Running) -> None:
    trace_id, metadata = running.trace(kept=False)
    before = len(running.upstream.ledger)
    await ask(running, metadata)
    await _settled(running)
    assert running.collector.of(trace_id) == []
    sent = {one.headers["traceparent"] for one in running.upstream.ledger[before:]}
    assert sent == {metadata[-1][1]}


async def test_with_a_sample_of_nothing_no_trace_begins(running: Running) -> None:
    start = running.stack.start_gateway
    quiet = await asyncio.to_thread(start, "quiet", environ={"HEADGATE_TELEMETRY__SAMPLE": "0"})
    try:
        addresses = await asyncio.to_thread(quiet.addresses)
        before = len(running.upstream.ledger)
        async with grpc.aio.insecure_channel(addresses["listen"]) as channel:
            for _ in range(20):
                await stub(channel).Generate(generate(running.text()), metadata=ACME, timeout=30)
        await _settled(running)
        sent = {one.headers["traceparent"].split("-")[1] for one in running.upstream.ledger[before:]}
        assert len(sent) == 20
        assert not sent & {one.trace_id for one in running.collector.spans}
    finally:
        await asyncio.to_thread(quiet.stop)


async def test_nothing_that_was_asked_answered_or_is_secret_is_in_a_span(running: Running, seed: int) -> None:
    canaries = Canaries(seed)
    fresh = [f"{canaries.prompt} {number}" for number in range(3)]
    broken = Script(status=500, body=canaries.upstream_body.encode())
    scripts = [
        Script(pieces=(canaries.answer, " 2 + 2 = 5")),
        broken,
        Script(raw=canaries.upstream_body.encode()),
    ]
    usual, running.upstream.choose = running.upstream.choose, None
    told = (*running.trace()[1], ("tracestate", f"vendor={canaries.label}"), ("baggage", canaries.label))
    begun = len(running.collector.raw)
    try:
        async with running.stack.channel() as channel:
            for script, text in zip(scripts, fresh, strict=True):
                running.upstream.script = script
                said = [turn(canaries.system, types_pb2.ROLE_SYSTEM), turn(text)]
                asked = types_pb2.Query(messages=said, session=canaries.session,
                                        metadata={"note": canaries.label})  # fmt: skip
                call = stub(channel).Generate(
                    router_pb2.GenerateRequest(query=asked), metadata=told, timeout=30
                )
                if script.status == 200 and script.raw is None:
                    await call
                else:
                    await refusal(call)
            await refusal(
                stub(channel).Generate(generate("hi", model=canaries.label), metadata=told, timeout=30)
            )
            bad = (("authorization", f"Bearer acme-1.{canaries.key}"), *told[1:])
            await refusal(stub(channel).Generate(generate("hi"), metadata=bad, timeout=30))
    finally:
        running.upstream.choose = usual
    await _settled(running)
    raw = running.collector.raw[begun:]
    assert len(b"".join(raw)) > 2_000
    assert canaries.found(*raw) == []
    for secret in (*SECRETS.values(), PEPPER, RUNNER_SECRET):
        assert not any(secret.encode() in one for one in running.collector.raw)


async def test_a_frozen_collector_costs_no_request_anything(running: Running) -> None:
    async with running.stack.channel() as channel:
        took: dict[bool, list[float]] = {True: [], False: []}
        try:
            for block in range(6):
                frozen = block % 2 == 1
                (running.collector.goes_on.clear if frozen else running.collector.goes_on.set)()
                for _ in range(100):
                    begun = time.perf_counter()
                    request = router_pb2.RouteRequest(query=query(running.text()))
                    await stub(channel).Route(request, metadata=ACME, timeout=30)
                    took[frozen].append(time.perf_counter() - begun)
            running.collector.goes_on.clear()

            def lost() -> float:
                return metrics(running.stack.addresses["metrics"])["headgate_spans_dropped_total"]

            while not await asyncio.to_thread(lost):
                request = router_pb2.RouteRequest(query=query(running.text()))
                await stub(channel).Route(request, metadata=ACME, timeout=30)
        finally:
            running.collector.goes_on.set()
    p99 = {frozen: sorted(times)[int(0.99 * len(times))] for frozen, times in took.items()}
    print(f"p99 of 300 decisions each: {p99[False]:.4f} s, with a frozen collector {p99[True]:.4f} s")
    # A request that waited for the collector would take seconds.
    assert p99[True] < 2 * p99[False] + 0.05
    trace_id, metadata = running.trace()
    await ask(running, metadata)
    await running.collector.trace(trace_id, len(CASCADED))
