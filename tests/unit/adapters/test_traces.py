"""Seams make spans where a collector is configured and where a call is part of a trace, else nothing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from headgate.adapters import trace_words, traces
from headgate.adapters.config import TelemetryConfig
from headgate.adapters.otlp import CLOSE_S, Bounded, Otlp
from headgate.adapters.settings import ConfigError, read
from headgate.adapters.traces import HEADER, NONE, Metadata, Span, Unsampled

NOWHERE = "http://127.0.0.1:9"
ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
KEPT, LEFT = f"00-{ID}-{PARENT}-01", f"00-{ID}-{PARENT}-00"
BROKEN = (
    "", "x", KEPT[:-1], f"{KEPT}0", KEPT.upper(), f"ff{KEPT[2:]}", KEPT.replace(ID, "0" * 32),
    KEPT.replace(PARENT, "0" * 16), f"{KEPT}-more", f"{KEPT}\n", f" {KEPT}",
)  # fmt: skip
ROOT = Path(__file__).parents[3]


@pytest.fixture
def on() -> Iterator[None]:
    """A process with a collector that nobody hears from."""
    traces.setup(TelemetryConfig(otlp_endpoint=NOWHERE), "tests", lambda _: None)
    # Tests share a context, calls of a server do not.
    traces._CURRENT.set(NONE)
    yield
    traces.close()
    traces._CURRENT.set(NONE)


def carrying(*values: str | bytes) -> Metadata:
    return tuple((HEADER, value) for value in values)


def entered(*values: str | bytes, begins: bool = True) -> Span:
    return traces.entered("call", "server", lambda: carrying(*values), begins=begins)


def test_where_nothing_is_configured_nothing_is_asked_or_made() -> None:
    assert traces.entered("call", "server", lambda: 1 / 0, begins=True) is NONE  # type: ignore[arg-type,return-value]
    assert traces.begun("client", "chat", "small") is NONE
    assert (NONE.carried, NONE.trace_id, NONE.recording) == ((), "", False)


@pytest.mark.usefixtures("on")
async def test_a_caller_s_trace_is_gone_on_with_and_handed_on() -> None:
    span = entered(KEPT)
    assert span.recording
    assert span.trace_id == ID
    hop = traces.begun("client", "chat", "small")
    ((name, carried),) = hop.carried
    assert name == HEADER
    assert carried.startswith(f"00-{ID}-")
    assert carried.endswith("-01")
    assert len({PARENT, span.traceparent[36:52], carried[36:52]}) == 3


@pytest.mark.usefixtures("on")
@pytest.mark.parametrize("value", BROKEN)
async def test_what_is_no_traceparent_begins_another_trace(value: str) -> None:
    span = entered(value)
    assert span.recording
    assert span.trace_id not in ("", ID)
    assert entered(value[:-1] + "0" if value else "", begins=False) is NONE


@pytest.mark.usefixtures("on")
async def test_of_two_traceparents_and_of_bytes_none_counts() -> None:
    assert entered(KEPT, KEPT).trace_id != ID
    assert entered(KEPT.encode()).trace_id != ID


@pytest.mark.usefixtures("on")
async def test_who_may_not_begin_a_trace_only_joins_one() -> None:
    assert entered(begins=False) is NONE
    assert entered("x", begins=False) is NONE
    assert traces.current() is NONE
    assert traces.begun("client", "chat") is NONE
    assert entered(KEPT, begins=False).trace_id == ID


@pytest.mark.usefixtures("on")
async def test_a_trace_that_is_not_kept_is_handed_on_as_it_came() -> None:
    assert isinstance(entered(LEFT), Unsampled)
    hop = traces.begun("client", "chat")
    assert not hop.recording
    assert hop.carried == ((HEADER, LEFT),)


@pytest.mark.usefixtures("on")
async def test_after_its_end_a_span_takes_nothing_and_has_no_hops() -> None:
    """A renewal, or whatever else goes on for nobody, is no part of the request any more."""
    span = entered(KEPT)
    span.end()
    span.set({trace_words.COST: 1})
    span.event(trace_words.FIRST_TEXT)
    span.end("INTERNAL")
    assert traces.begun("client", "chat") is NONE


@pytest.mark.usefixtures("on")
async def test_calls_that_run_side_by_side_have_spans_of_their_own() -> None:
    async def call() -> tuple[str, str]:
        own = entered()
        await asyncio.sleep(0)
        return own.trace_id, traces.begun("client", "chat").trace_id

    found = await asyncio.gather(*(call() for _ in range(8)))
    assert len({own for own, _ in found}) == 8
    assert all(own == hop for own, hop in found)


def test_the_share_that_is_kept_is_the_one_asked_for() -> None:
    kept = {}
    for share in (0.0, 0.25, 1.0):
        tracer = Otlp(NOWHERE, share, "tests", lambda _: None)
        kept[share] = sum(tracer.span("call", "server", "").recording for _ in range(2_000))
        tracer.close()
    assert (kept[0.0], kept[1.0]) == (0, 2_000)
    # Six standard deviations of a share of a quarter.
    assert abs(kept[0.25] - 500) < 6 * 19.4


class Asleep(SpanExporter):
    """A collector that is frozen until it is let go on."""

    def __init__(self) -> None:
        self.awake = threading.Event()
        self.got: list[str] = []

    def export(self, spans: object) -> SpanExportResult:
        self.awake.wait()
        assert isinstance(spans, list)
        self.got += [one.name for one in spans]
        return SpanExportResult.SUCCESS


def _ended(provider: TracerProvider, count: int) -> None:
    tracer = provider.get_tracer("tests")
    for number in range(count):
        tracer.start_span(str(number)).end()


def test_what_a_frozen_collector_does_not_take_is_dropped_counted_and_waited_for_by_nobody() -> None:
    dropped: list[int] = []
    frozen = Asleep()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Bounded(frozen, dropped.append, most=32))
    begun = time.perf_counter()
    _ended(provider, 500)
    took = time.perf_counter() - begun
    assert sum(dropped) == 500 - 32
    assert took < 2.0, "a span waited for the collector"
    frozen.awake.set()
    provider.force_flush()
    assert sorted(map(int, frozen.got)) == list(range(32))
    _ended(provider, 32)
    provider.force_flush()
    assert (len(frozen.got), sum(dropped)) == (64, 468)
    provider.shutdown()


class Fails(SpanExporter):
    def export(self, spans: object) -> SpanExportResult:
        raise RuntimeError(f"never said: {spans}")


def test_a_failed_export_is_counted_and_ends_nothing() -> None:
    dropped: list[int] = []
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Bounded(Fails(), dropped.append, most=32))
    for _ in range(3):
        _ended(provider, 20)
        provider.force_flush()
    assert sum(dropped) == 60
    provider.shutdown()


def test_a_dead_collector_holds_up_neither_a_span_nor_the_end_of_the_process() -> None:
    dropped: list[int] = []
    tracer = Otlp(NOWHERE, 1.0, "tests", dropped.append)
    begun = time.perf_counter()
    for _ in range(100):
        tracer.span("call", "server", "").end()
    assert time.perf_counter() - begun < 1.0
    begun = time.perf_counter()
    tracer.close()
    assert time.perf_counter() - begun < CLOSE_S + 1.0


def test_an_error_is_told_by_its_name_and_never_by_its_words() -> None:
    ended: list[ReadableSpan] = []

    class Keeps(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            assert isinstance(spans, list)
            ended.extend(spans)
            return SpanExportResult.SUCCESS

    tracer = Otlp(NOWHERE, 1.0, "tests", lambda _: None)
    tracer._provider.add_span_processor(Bounded(Keeps(), lambda _: None))
    for error in (ValueError("canary-7f3a"), asyncio.CancelledError(), GeneratorExit()):
        with pytest.raises(type(error)), tracer.span("call", "client", ""):
            raise error
    tracer._provider.force_flush(1)
    tracer.close()
    types = [(one.attributes or {})[trace_words.ERROR_TYPE] for one in ended]
    assert types == ["ValueError", "CANCELLED", "CANCELLED"]
    assert not any("canary" in one.to_json() for one in ended)


IMPORTED = """
import sys
from headgate.adapters import traces
from headgate.adapters.config import TelemetryConfig
import headgate.gateway.server, headgate.worker.servicer, headgate.jobs.runner
traces.setup(TelemetryConfig(), "tests", print)
ours = "headgate.adapters.otlp"
print(*(name for name in sys.modules if name.startswith("opentelemetry.exporter") or name == ours))
"""
MISSING = """
import sys
sys.modules["opentelemetry.exporter"] = None
from headgate.adapters import settings, traces
from headgate.adapters.config import TelemetryConfig
try:
    traces.setup(TelemetryConfig(otlp_endpoint="http://127.0.0.1:4317"), "tests", print)
except settings.ConfigError as error:
    print(error)
"""


def _said(program: str) -> str:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_a_collector_nothing_of_the_exporter_is_imported() -> None:
    assert _said(IMPORTED) == ""


def test_who_names_a_collector_without_the_packages_is_told_what_to_install() -> None:
    assert _said(MISSING).endswith('pip install "headgate[traces]"')


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:4317", "http://user:word@host:4317", "http://host", "grpc://h:1"]
)
def test_an_endpoint_is_a_url_with_a_port_and_no_secret(endpoint: str) -> None:
    text = f"version: 1\ngateway: {{open: true}}\ntelemetry: {{otlp_endpoint: '{endpoint}'}}\n"
    with pytest.raises(ConfigError, match=r"telemetry\.otlp_endpoint") as refused:
        read(text, None, {})
    assert "word" not in str(refused.value)
