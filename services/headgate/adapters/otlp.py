"""The way of spans to their collector. Imported only where the settings name one.

request ─▶ queue of a bounded size ─▶ a thread ─▶ OTLP over gRPC

A request ends its spans and goes on; it never waits. What does not fit into the queue, because the collector
is dead, frozen or slow, is dropped and counted.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, get_args

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan

from headgate.adapters import trace_words as words
from headgate.adapters.traces import HEADER, Dropped, Kind, Span, Unsampled, Value

MOST_WAITING: Final = 4_096
"""Spans that wait: those of two or three seconds at 300 requests a second, and some MiB."""
BATCH: Final = 256
"""What one export carries. Its encoding holds the interpreter for a few ms; more would hold up the loop."""
GATHER_MS: Final = 500
"""How long the first spans wait for others. Whoever looks for a trace finds it within a second."""
EXPORT_S: Final = 5.0
"""A collector that takes longer is away; meanwhile the queue fills, and then spans are dropped."""
CLOSE_S: Final = 1.0
"""As for records: operators give a drain two seconds to spare."""
LONGEST: Final = 256
"""Characters of an attribute: names and words of ours, no content."""

_LEFT: Final = ("CancelledError", "GeneratorExit")
"""Who waited for the hop has gone."""
_LOG = structlog.get_logger(__name__)
_KINDS: Final[dict[Kind, SpanKind]] = {kind: SpanKind[kind.upper()] for kind in get_args(Kind)}


class Otlp:
    """The Tracer of a process."""

    def __init__(self, endpoint: str, sample: float, service: str, dropped: Dropped) -> None:
        """`endpoint`: `http(s)://host:port`; `sample`: the share of traces begun here that are kept."""
        # The library tells of every failed export, quoting where to; what is worth knowing is said below.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample)),
            resource=Resource.create({"service.name": service}),
            span_limits=SpanLimits(max_attribute_length=LONGEST),
            shutdown_on_exit=False,
        )
        insecure = endpoint.startswith("http://")
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=insecure, timeout=EXPORT_S)
        self._provider.add_span_processor(Bounded(exporter, dropped))
        self._tracer = self._provider.get_tracer("headgate")

    def span(self, name: str, kind: Kind, parent: str | Span) -> Span:
        """As Tracer says."""
        if isinstance(parent, Live):
            context = set_span_in_context(parent.inner, Context())
        else:
            context = _remote(parent) if isinstance(parent, str) and parent else Context()
        inner = self._tracer.start_span(name, context, _KINDS[kind])
        if inner.is_recording():
            return Live(inner)
        return Unsampled(_traceparent(inner.get_span_context()))

    def close(self) -> None:
        """As Tracer says. A collector that does not answer is left behind, with the thread that waits."""
        closing = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        closing.start()
        closing.join(CLOSE_S)


class Live(Span):
    """One that is recorded."""

    __slots__ = ("carried", "inner", "recording", "traceparent")

    def __init__(self, inner: OtelSpan) -> None:
        self.inner = inner
        self.recording = True
        self.traceparent = _traceparent(inner.get_span_context())
        self.carried = ((HEADER, self.traceparent),)

    def set(self, attributes: Mapping[str, Value]) -> None:
        """As of every span."""
        if self.recording:
            self.inner.set_attributes(attributes)

    def event(self, name: str, attributes: Mapping[str, Value] | None = None) -> None:
        """As of every span."""
        if self.recording:
            self.inner.add_event(name, attributes)

    def end(self, code: str = "OK") -> None:
        """As of every span."""
        if not self.recording:
            return
        self.recording = False
        if code != "OK":
            self.inner.set_attribute(words.ERROR_TYPE, code)
            self.inner.set_status(Status(StatusCode.ERROR))
        self.inner.end()

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        # Never the message: it may quote what a caller wrote.
        code = "OK" if kind is None else kind.__name__
        self.end("CANCELLED" if code in _LEFT else code)


class Bounded(SpanProcessor):
    """Hands spans to a thread that exports them; drops those that would wait behind too many."""

    def __init__(self, exporter: SpanExporter, dropped: Dropped, most: int = MOST_WAITING) -> None:
        self._dropped = dropped
        self._most = most
        # Each is written by one thread only, so no lock is needed: requests end spans, exports take them.
        self._came = 0
        self._counting = _Counting(exporter, dropped)
        self._batches = BatchSpanProcessor(
            self._counting,
            # Above `most`: the queue itself would drop the oldest, without a word.
            max_queue_size=2 * most,
            schedule_delay_millis=GATHER_MS,
            max_export_batch_size=min(BATCH, most),
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Called by whoever ends a span: it takes some microseconds, whatever becomes of the collector."""
        if self._came - self._counting.went >= self._most:
            self._dropped(1)
            return
        self._came += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        """Exports what waits."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Exports what waits."""
        return self._batches.force_flush(timeout_millis)


class _Counting(SpanExporter):
    """Counts what goes, and what is lost on the way; says once when that begins and when it ends."""

    def __init__(self, exporter: SpanExporter, dropped: Dropped) -> None:
        self.went = 0
        self._exporter = exporter
        self._dropped = dropped
        self._away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        except Exception:
            _LOG.exception("spans cannot be exported")
        finally:
            self.went += len(spans)
        away = result is not SpanExportResult.SUCCESS
        if away:
            self._dropped(len(spans))
        if away != self._away:
            _LOG.warning("the collector takes no spans: they are lost" if away else "spans are taken again")
        self._away = away
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _remote(traceparent: str) -> Context:
    _, trace_id, span_id, flags = traceparent.split("-")
    # Of the flags only the first is known here: whether the trace is kept.
    kept = TraceFlags(int(flags, 16) & TraceFlags.SAMPLED)
    context = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=kept)
    return set_span_in_context(NonRecordingSpan(context), Context())


def _traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
