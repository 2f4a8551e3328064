"""Metrics: one table of names, served for Prometheus on a port of their own by every process that has some.

Labels are bounded by construction: names of methods, codes, models, reasons and states, never anything a
caller wrote.
"""

from __future__ import annotations

from typing import Final, Protocol
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

NAMES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "headgate_requests_total": ("Requests by method and google.rpc.Code name.", ("method", "code")),
    "headgate_decisions_total": ("Decisions by chosen model and reason.", ("model", "reason")),
    "headgate_attempts_total": ("Calls of a worker, by google.rpc.Code name.", ("model", "code")),
    "headgate_fallbacks_total": ("Requests that another model answered because of a failure.", ("model",)),
    "headgate_escalations_total": (
        "Drafts that were not accepted, by whose and who went on.",
        ("draft", "model"),
    ),
    "headgate_stopped_drafts_total": ("Drafts that were cancelled as too doubtful.", ("model",)),
    "headgate_wasted_draft_tokens_total": ("Tokens of drafts that were not accepted.", ("model",)),
    "headgate_hedges_total": (
        "Answers begun beside a draft, by whether they were needed.",
        ("model", "needed"),
    ),
    "headgate_wasted_hedge_tokens_total": ("Tokens of answers begun beside a draft in vain.", ("model",)),
    "headgate_escalations_offered_total": (
        "Answers whose end was doubtful after they had begun.",
        ("model",),
    ),
    "headgate_upgrades_total": (
        "Upgrades of answers given at once: queued or unqueued, and once there, changed or same.",
        ("model", "became"),
    ),
    "headgate_cache_total": ("What the answer cache had to do with answers.", ("status",)),
    "headgate_cost_nanousd_total": ("What calls of workers cost, in nano-dollars.", ("model",)),
    "headgate_overhead_seconds": ("Time spent in the gateway itself, per request.", ()),
    "headgate_inside": ("Requests inside now.", ()),
    "headgate_tasks": ("Asyncio tasks that are alive.", ()),
    "headgate_loop_lag_seconds": ("How late the event loop was, looked at 20 times a second.", ()),
    "headgate_ledger_dropped_total": ("Records that were not written.", ()),
    "headgate_redis_breaker_open": ("1 while Redis is left alone after failures.", ()),
    "headgate_shadow_samples_total": ("Requests that were drawn, by what became of them.", ("result",)),
    "headgate_shadow_calls_total": ("Shadow calls of a worker, by google.rpc.Code name.", ("model", "code")),
    "headgate_shadow_cost_nanousd_total": ("What shadow calls cost, in nano-dollars.", ("model",)),
    "headgate_worker_serving": ("1 while the model's worker answers.", ("model",)),
    "headgate_jobs_accepted_total": ("Jobs that were accepted.", ("job_class",)),
    "headgate_jobs_refused_total": ("Jobs that were not accepted, by ErrorInfo's reason.", ("reason",)),
    "headgate_jobs_ended_total": ("Jobs by how they ended.", ("job_class", "state")),
    "headgate_job_wait_seconds": ("From a job's acceptance to its first run.", ("job_class",)),
    "headgate_job_seconds": ("From a job's acceptance to its end, whatever that was.", ("job_class",)),
    "headgate_job_runs_begun_total": ("Runs of jobs.", ("job_class",)),
    "headgate_job_runs_ended_total": ("Runs by what became of them.", ("job_class", "became")),
    "headgate_jobs_waiting": ("Jobs that wait for a runner now.", ("job_class",)),
    "headgate_jobs_oldest_seconds": ("How long the first of them has waited.", ("job_class",)),
    "headgate_jobs_dead": ("Jobs that were given up and are kept: dead letters.", ()),
    "headgate_broker_away": ("1 while the broker of jobs does not answer.", ()),
}

_OVERHEAD_BUCKETS: Final = (
    0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
)  # fmt: skip
_LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_JOB_BUCKETS: Final = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0,
    86_400.0,
)  # fmt: skip


class PortInUseError(Exception):
    """The metrics cannot be served where they should."""


class Note(Protocol):
    """How something is counted by who need not know where."""

    def __call__(self, name: str, *labels: str, value: float = 1.0) -> None:
        """Adds to a counter, or observes a value."""


def unnoted(name: str, *labels: str, value: float = 1.0) -> None:
    """Counts nothing."""


class Served:
    """One process's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._noted: dict[str, Counter | Histogram] = {}
        self._server: WSGIServer | None = None

    def note(self, name: str, *labels: str, value: float = 1.0) -> None:
        """Adds to a counter, or observes a value."""
        metric = self._noted[name].labels(*labels)
        if isinstance(metric, Counter):
            metric.inc(value)
        else:
            metric.observe(value)

    def serve(self, address: str) -> str:
        """Answers scrapes at `host:port` from a thread; returns the address taken. Raises PortInUseError."""
        host, _, port = address.rpartition(":")
        try:
            self._server, _ = start_http_server(int(port), host.strip("[]"), registry=self.registry)
        except OSError:
            raise PortInUseError(f"cannot serve metrics on {address}: the port is in use") from None
        return f"{host}:{self._server.server_port}"

    def leave(self) -> None:
        """Lets go of the port in a child that was forked: it would still be in use after the parent's end."""
        if self._server is not None:
            self._server.socket.close()

    def _counter(self, name: str) -> Counter:
        self._noted[name] = counter = Counter(name, *NAMES[name], registry=self.registry)
        return counter

    def _gauge(self, name: str) -> Gauge:
        return Gauge(name, *NAMES[name], registry=self.registry)

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        self._noted[name] = histogram = Histogram(name, *NAMES[name], buckets=buckets, registry=self.registry)
        return histogram


class Metrics(Served):
    """A gateway's."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = self._counter("headgate_requests_total")
        self.decisions = self._counter("headgate_decisions_total")
        self.attempts = self._counter("headgate_attempts_total")
        self.fallbacks = self._counter("headgate_fallbacks_total")
        self.escalations = self._counter("headgate_escalations_total")
        self.stopped_drafts = self._counter("headgate_stopped_drafts_total")
        self.wasted_draft_tokens = self._counter("headgate_wasted_draft_tokens_total")
        self.hedges = self._counter("headgate_hedges_total")
        self.wasted_hedge_tokens = self._counter("headgate_wasted_hedge_tokens_total")
        self.escalations_offered = self._counter("headgate_escalations_offered_total")
        self.upgrades = self._counter("headgate_upgrades_total")
        self.cache = self._counter("headgate_cache_total")
        self.cost = self._counter("headgate_cost_nanousd_total")
        self.ledger_dropped = self._counter("headgate_ledger_dropped_total")
        self.shadow_samples = self._counter("headgate_shadow_samples_total")
        self.shadow_calls = self._counter("headgate_shadow_calls_total")
        self.shadow_cost = self._counter("headgate_shadow_cost_nanousd_total")
        self.inside = self._gauge("headgate_inside")
        self.tasks = self._gauge("headgate_tasks")
        self.redis_breaker_open = self._gauge("headgate_redis_breaker_open")
        self.worker_serving = self._gauge("headgate_worker_serving")
        self.overhead = self._histogram("headgate_overhead_seconds", _OVERHEAD_BUCKETS)
        self.loop_lag = self._histogram("headgate_loop_lag_seconds", _LAG_BUCKETS)
        self.jobs_accepted = self._counter("headgate_jobs_accepted_total")
        self.jobs_refused = self._counter("headgate_jobs_refused_total")
        self.jobs_ended = self._counter("headgate_jobs_ended_total")
        self.job_seconds = self._histogram("headgate_job_seconds", _JOB_BUCKETS)
        self.broker_away = self._gauge("headgate_broker_away")


class RunnerMetrics(Served):
    """A job runner's, of all its processes."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs_ended = self._counter("headgate_jobs_ended_total")
        self.runs_begun = self._counter("headgate_job_runs_begun_total")
        self.runs_ended = self._counter("headgate_job_runs_ended_total")
        self.job_wait = self._histogram("headgate_job_wait_seconds", _JOB_BUCKETS)
        self.job_seconds = self._histogram("headgate_job_seconds", _JOB_BUCKETS)
        self.broker_away = self._gauge("headgate_broker_away")


class ReconcilerMetrics(Served):
    """A reconciler's: what waits, which the records tell and no other process knows."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = self._gauge("headgate_jobs_waiting")
        self.oldest = self._gauge("headgate_jobs_oldest_seconds")
        self.dead = self._gauge("headgate_jobs_dead")
        self.broker_away = self._gauge("headgate_broker_away")
