"""Traces: the hops of a request, told to a collector of OpenTelemetry where one is configured.

    caller ─▶ gateway ─▶ decide, look up ─▶ chat small ─▶ worker ─▶ upstream
    caller ─▶ SubmitJob ─▶ the job's record ─▶ run job ─▶ gateway ─▶ …

Only the gateway begins a trace, unless the caller's `traceparent` (W3C) says that it did; workers, upstreams
and job runners join one. So probes, health watches and shadow samples, which carry none, make no spans,
whatever their calls are. `tracestate` is a caller's own text and stays here.

Spans are made by hand at our own seams and not by interceptors: those of the instrumentation of gRPC break
the health service's Watch, by which channels find out who serves. Nothing of OpenTelemetry is imported, and a
seam costs a look at a name, until `setup` finds a collector in the settings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Protocol, Self

if TYPE_CHECKING:
    from headgate.adapters.config import TelemetryConfig

HEADER: Final = "traceparent"
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

Kind = Literal["internal", "server", "client", "consumer"]
"""Which end of a hop a span is. Words, for a member of an Enum costs as much to look up as a whole seam."""
Value = str | bool | int | float | Sequence[str]
Metadata = Iterable[tuple[str, str | bytes]] | None
Dropped = Callable[[int], None]


class Span:
    """A hop under way. This class itself is the span of a request that nobody traces: it does nothing."""

    __slots__ = ()

    recording: bool = False
    """Whether it is worth while to tell it anything; no longer after its end."""
    traceparent: str = ""
    """What the next hop is to know, as W3C's Trace Context has it; empty outside of a trace."""
    carried: tuple[tuple[str, str], ...] = ()
    """The same as metadata of a call."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits; empty outside of a trace."""
        return self.traceparent[3:35]

    def set(self, attributes: Mapping[str, Value]) -> None:
        """Adds attributes, named by `trace_words`."""

    def event(self, name: str, attributes: Mapping[str, Value] | None = None) -> None:
        """Something happened now."""

    def end(self, code: str = "OK") -> None:
        """It is over, with a google.rpc.Code name or another short word of ours. Harmless when repeated."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """The end of a span that is used as a `with` block."""


class Unsampled(Span):
    """Of a trace that is not kept: every hop after it is to know that."""

    __slots__ = ("carried", "traceparent")

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent
        self.carried = ((HEADER, traceparent),)


class Tracer(Protocol):
    """Makes spans."""

    def span(self, name: str, kind: Kind, parent: str | Span) -> Span:
        """One that begins now, under a span of this process or a `traceparent`; an empty one is none."""

    def close(self) -> None:
        """Tells the collector what is left, for a second at most."""


NONE: Final = Span()
_CURRENT: Final[ContextVar[Span]] = ContextVar("headgate_span", default=NONE)
tracer: Tracer | None = None
"""This process's; None while nobody traces, which is what a seam that is crossed often asks first."""


def setup(settings: TelemetryConfig, service: str, dropped: Dropped) -> None:
    """From now on spans go to the collector, if the settings name one. `dropped` is told of lost ones.

    Raises ConfigError where the packages for it are not installed. Starts a thread: not before a fork.
    """
    global tracer
    if settings.otlp_endpoint is not None:
        check(settings)
        from headgate.adapters.otlp import Otlp

        tracer = Otlp(settings.otlp_endpoint, settings.sample, service, dropped)


def check(settings: TelemetryConfig) -> None:
    """Raises ConfigError where the settings name a collector and the packages for it are not installed."""
    if settings.otlp_endpoint is None:
        return
    try:
        import headgate.adapters.otlp  # noqa: F401
    except ImportError:
        from headgate.adapters.settings import ConfigError

        raise ConfigError(
            'telemetry.otlp_endpoint: traces need more packages: pip install "headgate[traces]"'
        ) from None


def close() -> None:
    """Ends what `setup` began."""
    global tracer
    last, tracer = tracer, None
    if last is not None:
        last.close()


def current() -> Span:
    """The span of the call that this task serves."""
    return _CURRENT.get()


def entered(name: str, kind: Kind, told: Callable[[], Metadata], *, begins: bool = False) -> Span:
    """The span of a call that this task serves from now on; `told` gives the call's metadata.

    Without `begins` only a call that is part of a trace has one.
    """
    if tracer is None:
        return NONE
    parent = _parent(told())
    if not parent and not begins:
        return NONE
    left_out = parent and not int(parent[-2:], 16) & 1
    span = Unsampled(parent) if left_out else tracer.span(name, kind, parent)
    _CURRENT.set(span)
    return span


def begun(kind: Kind, name: str, of: str = "") -> Span:
    """The span of a hop that begins now, within the current one. `of` is the rest of its name."""
    if tracer is None:
        return NONE
    parent = _CURRENT.get()
    if not parent.recording:
        return parent if isinstance(parent, Unsampled) else NONE
    return tracer.span(f"{name} {of}" if of else name, kind, parent)


def _parent(told: Metadata) -> str:
    found = [value for name, value in told or () if name == HEADER]
    # Of several nobody can tell which is meant.
    if len(found) != 1 or not isinstance(found[0], str) or not _TRACEPARENT.fullmatch(found[0]):
        return ""
    return found[0]
