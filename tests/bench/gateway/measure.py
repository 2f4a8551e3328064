"""The runs: every side under every load, one after the other, round by round, in an order that the seed draws."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from headgate.router.cost import estimate_tokens
from headgate.router.decide import decide
from headgate.router.types import Objective, Query
from headgate.v1 import router_pb2, types_pb2
from tests.bench import certificate
from tests.bench.gateway import echo, load, queued, writing
from tests.bench.gateway.figures import Run, percentile
from tests.bench.gateway.load import Generator, Streamed, Target
from tests.bench.gateway.stage import RECORDED, SIDES, TRACED_SIDES, UNDER_TEST, Server, Stage, pinned
from tests.integration import gateway_rig

SHORT: Final = "Sort ascending: 48, 37, 291, 5, 86, 120, 77, 9, 64, 33, 18, 702 = ?"
"""17 tokens as `estimate_tokens` counts; a worksheet's question, longer than those that were calibrated."""
LONG: Final = "; ".join([SHORT] * 4)[:248]
"""62 tokens. Beyond what was calibrated, so large answers: the brain has done the same work by then."""
GENERATE: Final = "/headgate.v1.RouterService/Generate"
STREAMING_SIDES: Final = ("bare", "uvloop", "real")
DECISIONS: Final = 500
TRACED: Final = "c16 traced"
EXPORTED_S: Final = 0.7
"""So long after the last call an exporter has sent what waited."""
_IMPORT: Final = "import onnxruntime, grpc"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    rounds: int
    calls: int
    """At concurrency 16; a third of it at concurrency 1."""
    streams: int
    seed: int
    generator: Generator


def measure(stage: Stage, plan: Plan, say: Callable[[str], None]) -> list[Run]:
    """All runs. Raises AssertionError when a server does not answer as the benchmark takes for granted."""
    check(stage)
    _warm_up(stage, plan)
    runs, order = [], Random(plan.seed)
    for number in range(plan.rounds):
        say(f"round {number + 1} of {plan.rounds} …")
        for side, name, figures in _round(stage, plan, order):
            runs.append(Run(number, side, name, {**figures, "load_average": os.getloadavg()[0]}))
    return runs


def check(stage: Stage) -> None:
    """That calls end with OK, the policy decides, the cache hits, and streams are whole."""
    routed = _answered(stage, "gateway")
    assert (estimate_tokens(SHORT), estimate_tokens(LONG)) == (17, 62)
    # The whole brain runs for a question beyond calibration too; only the last step differs.
    assert routed.decision.reason == types_pb2.REASON_OUTSIDE_CALIBRATION, routed.decision
    assert routed.decision.cache_status == types_pb2.CACHE_STATUS_BYPASS, routed.decision
    assert not routed.decision.degraded, routed.decision
    asyncio.run(_check_traces(stage))
    for side in ("cached", "memory"):
        hit = _answered(stage, side)
        assert hit.decision.cache_status == types_pb2.CACHE_STATUS_HIT, hit.decision
    assert asyncio.run(load.answer(target(stage, "bare"))).decode() == echo.ANSWER
    writing.check(stage)


async def _check_traces(stage: Stage) -> None:
    """That the gateway which traces sends its spans, and the one that keeps none does not."""
    count = Target(stage.collector, echo.THROWN_AWAY, b"")
    for side, sends in (("unkept", False), ("traced", True)):
        await load.answer(target(stage, side))
        await asyncio.sleep(2 * EXPORTED_S)
        assert bool(int(await load.answer(count))) == sends, side


def _answered(stage: Stage, side: str) -> router_pb2.GenerateResponse:
    """The second answer: the first may have been kept."""
    answers = [asyncio.run(load.answer(target(stage, side))) for _ in range(2)]
    return router_pb2.GenerateResponse.FromString(answers[-1])


def _warm_up(stage: Stage, plan: Plan) -> None:
    for side in SIDES:
        plan.generator(target(stage, side), plan.calls // 3, 16, stage.folder)
    for side in STREAMING_SIDES:
        streams(stage, side, plan.streams // 2, 8)


def _round(stage: Stage, plan: Plan, order: Random) -> Iterator[tuple[str, str, Mapping[str, float]]]:
    for name, calls, concurrency in (("c1", plan.calls // 3, 1), ("c16", plan.calls, 16)):
        for side in _shuffled(SIDES, order):
            yield side, name, _unary(stage, plan, target(stage, side), side, calls, concurrency)
    for side in _shuffled(TRACED_SIDES, order):
        yield side, TRACED, _traced(stage, plan, side)
    yield from writing.rounds(stage, plan.streams, order)
    count = max(4, plan.calls // 15)
    yield from queued.rounds(stage, queued.Plan(count, count, plan.calls // 6, plan.generator), order)
    long = target(stage, "gateway", LONG)
    yield "gateway", "c16 long", _unary(stage, plan, long, "gateway", plan.calls, 16)
    for name, count, concurrency in (("1 stream", plan.streams // 4, 1), ("8 streams", plan.streams, 8)):
        for side in _shuffled(STREAMING_SIDES, order):
            yield side, name, _streamed(stage, side, count, concurrency)
    yield "gateway", "decide", _decisions()
    yield "gateway", "start", _start(stage)


def _shuffled(sides: tuple[str, ...], order: Random) -> list[str]:
    return order.sample(sides, len(sides))


def target(stage: Stage, side: str, question: str = SHORT) -> Target:
    """The unary call of a side: the same bytes to all of them."""
    server = stage.servers[side]
    path = echo.ONE if side in ("bare", "uvloop") else GENERATE
    body = gateway_rig.generate(question).SerializeToString()
    return Target(server.address, path, body, server.metadata)


def stream_target(stage: Stage, side: str) -> Target:
    """The streaming call of a side."""
    server = stage.servers[side]
    path = writing.STREAM if side == "real" else echo.MANY
    return Target(server.address, path, gateway_rig.streamed(SHORT).SerializeToString(), server.metadata)


def _text(side: str) -> Callable[[bytes], bytes]:
    return _delta if side == "real" else bytes


def _delta(message: bytes) -> bytes:
    return router_pb2.StreamGenerateResponse.FromString(message).delta.text.encode()


def _unary(
    stage: Stage, plan: Plan, at: Target, side: str, calls: int, concurrency: int
) -> Mapping[str, float]:
    server = stage.servers[side]
    refused, before = _refused(server), server.cpu_s()
    timing = plan.generator(at, calls, concurrency, stage.folder)
    cpu_s = max(writing.TICK_S, server.cpu_s() - before)
    return {
        "calls": calls,
        "failed": timing.failed + _refused(server) - refused,
        "p50_ms": percentile(timing.latencies_ms, 0.50),
        "p99_ms": percentile(timing.latencies_ms, 0.99),
        "per_s": calls / timing.seconds,
        "cpu_us": 1e6 * cpu_s / calls,
    }


def _traced(stage: Stage, plan: Plan, side: str) -> Mapping[str, float]:
    """As `_unary`, with the CPU time that spans take after their request."""
    server = stage.servers[side]
    before, lost = server.cpu_s(), _counted(server, "headgate_spans_dropped_total")
    found = _unary(stage, plan, target(stage, side), side, plan.calls, 16)
    time.sleep(EXPORTED_S)
    cpu_us = 1e6 * (server.cpu_s() - before) / plan.calls
    return {**found, "cpu_us": cpu_us, "spans_lost": _counted(server, "headgate_spans_dropped_total") - lost}


def _refused(server: Server) -> float:
    """Calls that did not end with OK, by the gateway's own count: h2load does not see it."""
    return _counted(server, "headgate_requests_total{", but='code="OK"') if server.metrics else 0.0


def _counted(server: Server, name: str, but: str = "\n") -> float:
    """The sum of a counter of the gateway's page, without the lines that hold `but`."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name) and but not in line)


def streams(stage: Stage, side: str, count: int, concurrency: int) -> tuple[list[Streamed], float]:
    """Streams of a side, and the seconds for all."""
    return load.streams(stream_target(stage, side), count, concurrency, _text(side))


def _streamed(stage: Stage, side: str, count: int, concurrency: int) -> Mapping[str, float]:
    server, whole = stage.servers[side], _whole(side)
    before = server.cpu_s()
    found, seconds = streams(stage, side, count, concurrency)
    cpu_s = max(writing.TICK_S, server.cpu_s() - before)
    tokens = count * echo.TOKENS
    return {
        "calls": count,
        "failed": sum(one.text != whole for one in found),
        "first_p50_ms": percentile([one.first_ms for one in found], 0.50),
        "messages": sum(one.messages for one in found) / count,
        "tokens_per_s": tokens / seconds,
        "cpu_us": 1e6 * cpu_s / tokens,
    }


def _whole(side: str) -> bytes:
    return RECORDED.encode() if side == "real" else echo.TOKENS * echo.TOKEN


def _decisions() -> Mapping[str, float]:
    """CPU time of a decision alone, in a loop: caches are warmer there than in a busy gateway."""
    bundle, pool = certificate.shipped_bundle(), certificate.shipped_pool()
    objective = Objective(risk_target=bundle.default_risk_target)

    def microseconds(question: str) -> float:
        query = Query(question, objective, prompt_tokens=estimate_tokens(question))
        started = time.process_time()
        for _ in range(DECISIONS):
            decide(bundle, query, pool, now=0.0)
        return 1e6 * (time.process_time() - started) / DECISIONS

    with pinned(UNDER_TEST):
        return {"decide_17_us": microseconds(SHORT), "decide_62_us": microseconds(LONG)}


def _start(stage: Stage) -> Mapping[str, float]:
    """From the start of a gateway to its first answer, and what a gateway weighs that has served."""
    with pinned(UNDER_TEST):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", _IMPORT], check=True)
        import_s = time.perf_counter() - started
    started = time.perf_counter()
    server = stage.gateway("started", "gateway")
    at = target(stage, "gateway")
    asyncio.run(load.answer(Target(server.address, at.path, at.body, at.metadata)))
    start_s = time.perf_counter() - started
    stage.end(server)
    return {"import_s": import_s, "start_s": start_s, "pss_mb": stage.servers["gateway"].pss_mb()}
