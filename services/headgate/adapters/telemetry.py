"""Metrics: one table of names, served for Prometheus on a port of their own by every process that has some.

Labels are bounded by construction: names of methods, codes, models, reasons and states, never anything a
caller wrote; and there is a limit all the same, should a name slip in that has none. Only an exemplar holds a
request's id, for who asks in the OpenMetrics format, and nothing else.

A process counts for itself and has its own port: with several of one kind, scrape each and add up.
"""

from __future__ import annotations

import heapq
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol, Self
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

NAMES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "headgate_requests_total": ("Requests by method and google.rpc.Code name.", ("method", "code")),
    "headgate_decisions_total": ("Decisions by chosen model and reason.", ("model", "reason")),
    "headgate_brain_failures_total": ("Faults of the brain, by what it was asked for.", ("over",)),
    "headgate_attempts_total": ("Calls of a worker, by google.rpc.Code name.", ("model", "code")),
    "headgate_fallbacks_total": ("Requests that another model answered because of a failure.", ("model",)),
    "headgate_escalations_total": (
        "Drafts that were not accepted, by whose, who went on, and why.",
        ("draft", "model", "reason"),
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
    "headgate_cache_total": (
        "What the answer cache had to do with answers, and who had the ones that it gave.",
        ("status", "source"),
    ),
    "headgate_semantic_total": (
        "Questions looked up among like ones, by what became of them; and audits: same or different.",
        ("result",),
    ),
    "headgate_semantic_dropped_total": ("Semantic events that other processes were not told.", ()),
    "headgate_cache_memory_bytes": ("What kept answers take in this process, about.", ()),
    "headgate_cost_nanousd_total": ("What calls of workers cost, in nano-dollars.", ("model",)),
    "headgate_reference_cost_nanousd_total": (
        "What the reference would have cost for the answers given, in nano-dollars, by who had them.",
        ("source",),
    ),
    "headgate_answer_seconds": ("From a request's arrival to its whole answer, by who answered.", ("model",)),
    "headgate_time_to_first_token_seconds": (
        "From a request's arrival to the first text that its caller was given, of streams.",
        ("model",),
    ),
    "headgate_certified_answers_total": ("Answers by whether a certificate covers them.", ("certified",)),
    "headgate_overhead_seconds": ("Time spent in the gateway itself, per request.", ()),
    "headgate_inside": ("Requests inside now.", ()),
    "headgate_tasks": ("Asyncio tasks that are alive.", ()),
    "headgate_loop_lag_seconds": ("How late the event loop was, looked at 20 times a second.", ()),
    "headgate_requests_limit": ("Requests that may be inside.", ()),
    "headgate_degraded": ("1 while requests lack it.", ("missing",)),
    "headgate_draining": ("1 from SIGTERM on.", ()),
    "headgate_risk_target": ("What is aimed at by default; absent where a budget is.", ()),
    "headgate_certificate_risk_target": ("The bound that the certificate in force promises.", ()),
    "headgate_certificate_confidence": ("With which it promises that.", ()),
    "headgate_certificate_created_timestamp_seconds": ("When it was made, in POSIX seconds.", ()),
    "headgate_certificate_expires_timestamp_seconds": ("When it expires; absent where never.", ()),
    "headgate_certificate_info": ("1, and which certificate is in force.", ("id", "reference")),
    "headgate_bundle_info": ("1, and which bundle is in force.", ("bundle_version", "policy_version")),
    "headgate_bundle_loaded_timestamp_seconds": ("When it was loaded, in POSIX seconds.", ()),
    "headgate_config_info": ("1, and the digest of the config in force.", ("digest",)),
    "headgate_config_loaded_timestamp_seconds": ("When it was loaded, in POSIX seconds.", ()),
    "headgate_spans_dropped_total": ("Spans of traces that the collector did not get.", ()),
    "headgate_ledger_dropped_total": ("Records that were not written.", ()),
    "headgate_redis_breaker_open": ("1 while Redis is left alone after failures.", ()),
    "headgate_shadow_samples_total": ("Requests that were drawn, by what became of them.", ("result",)),
    "headgate_shadow_calls_total": ("Shadow calls of a worker, by google.rpc.Code name.", ("model", "code")),
    "headgate_shadow_cost_nanousd_total": ("What shadow calls cost, in nano-dollars.", ("model",)),
    "headgate_budget_left_nanousd": (
        "What is left today (UTC) of a tenant's budget; of the hundred that have least left.",
        ("tenant", "budget"),
    ),
    "headgate_worker_serving": ("1 while the model's worker answers.", ("model",)),
    "headgate_breaker_open": ("1 while calls leave the model's worker alone after failures.", ("model",)),
    "headgate_retries_left": ("Second calls of the model's worker that may be made at once.", ("model",)),
    "headgate_model_calls": ("Calls of the model's worker that run now.", ("model",)),
    "headgate_worker_answers_total": ("Answers of a worker, by google.rpc.Code name.", ("model", "code")),
    "headgate_worker_first_token_seconds": ("From a call to its first token; waiting included.", ("model",)),
    "headgate_worker_answer_seconds": ("From a call to its last token; waiting included.", ("model",)),
    "headgate_worker_prompt_tokens_total": ("Tokens of prompts answered.", ("model",)),
    "headgate_worker_completion_tokens_total": ("Tokens written for them.", ("model",)),
    "headgate_worker_slots": ("Answers that it works on at the same time, at most.", ("model",)),
    "headgate_worker_busy": ("Answers in work now.", ("model",)),
    "headgate_worker_waiting": ("Answers that wait for a slot now.", ("model",)),
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
_ANSWER_BUCKETS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip
_JOB_BUCKETS: Final = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0,
    86_400.0,
)  # fmt: skip


_FACTS: Final = (
    "headgate_requests_limit",
    "headgate_degraded",
    "headgate_draining",
    "headgate_risk_target",
    "headgate_certificate_risk_target",
    "headgate_certificate_confidence",
    "headgate_certificate_created_timestamp_seconds",
    "headgate_certificate_expires_timestamp_seconds",
    "headgate_certificate_info",
    "headgate_bundle_info",
    "headgate_bundle_loaded_timestamp_seconds",
    "headgate_config_info",
    "headgate_config_loaded_timestamp_seconds",
    "headgate_breaker_open",
    "headgate_retries_left",
    "headgate_model_calls",
)
_EXEMPLAR_EVERY_S: Final = 1.0
"""One for each bucket and second is what a scrape can show at most, and what a request need not pay for."""
_LONGEST_ID: Final = 100
"""OpenMetrics allows 128 characters, the label's name and all."""

MOST_SERIES: Final = 1_000
"""Of one counter or histogram: hundreds of models, each with every code there is, need no more."""
MOST_BUDGETS: Final = 100
DAY_S: Final = 86_400

Fact = tuple[str, tuple[str, ...], float]
"""A name, its labels' values, and what it is now."""


class PortInUseError(Exception):
    """The metrics cannot be served where they should."""


class Note(Protocol):
    """How something is counted by who need not know where."""

    def __call__(self, name: str, *labels: str, value: float = 1.0) -> None:
        """Adds to a counter, or observes a value."""


def unnoted(name: str, *labels: str, value: float = 1.0) -> None:
    """Counts nothing."""


class Facts(Collector):
    """Gauges that are read when somebody looks, and cost nothing between; one that has no value is absent."""

    def __init__(self) -> None:
        self.source: Callable[[], Iterable[Fact]] = tuple

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Every fact's family, with a sample for each that holds."""
        families = {name: GaugeMetricFamily(name, NAMES[name][0], labels=NAMES[name][1]) for name in _FACTS}
        for name, labels, value in self.source():
            families[name].add_metric(labels, value)
        yield from families.values()


class BudgetsLeft(Collector):
    """What tenants have left of their days. What was told of a day is not told on the next one."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._left: dict[tuple[str, str], tuple[int, int]] = {}

    def tell(self, tenant: str, budget: str, nanousd: int, day: int) -> None:
        """So much is left on that day; days are counted from POSIX's first."""
        self._left[tenant, budget] = nanousd, day

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Those that have least left, for there may be more tenants than anybody can look at."""
        name, today = "headgate_budget_left_nanousd", int(self._now() // DAY_S)
        family = GaugeMetricFamily(name, NAMES[name][0], labels=NAMES[name][1])
        told = [(left, labels) for labels, (left, day) in tuple(self._left.items()) if day == today]
        for left, labels in heapq.nsmallest(MOST_BUDGETS, told):
            family.add_metric(labels, left)
        yield family


class CappedCounter(Counter):
    """One with a limit: what comes over it is counted as `other`."""

    def labels(self, *labelvalues: object, **labelkwargs: object) -> Self:
        """The series of these labels."""
        return super().labels(*_capped(self._metrics, labelvalues), **labelkwargs)


class CappedHistogram(Histogram):
    """The same."""

    def labels(self, *labelvalues: object, **labelkwargs: object) -> Self:
        """The series of these labels."""
        return super().labels(*_capped(self._metrics, labelvalues), **labelkwargs)


def _capped(there: Mapping[Sequence[str], object], values: tuple[object, ...]) -> tuple[object, ...]:
    return values if len(there) < MOST_SERIES or values in there else ("other",) * len(values)


class Latency:
    """A histogram's child whose buckets name a request each, now and then."""

    def __init__(self, histogram: Histogram, buckets: tuple[float, ...]) -> None:
        self._histogram = histogram
        self._buckets = buckets
        self._next = [0.0] * (len(buckets) + 1)

    def observe(self, seconds: float, request_id: str) -> None:
        """Counts it; the request becomes its bucket's exemplar where that has had none for a second."""
        bucket, now = bisect_left(self._buckets, seconds), time.monotonic()
        if now < self._next[bucket] or len(request_id) > _LONGEST_ID:
            self._histogram.observe(seconds)
            return
        self._next[bucket] = now + _EXEMPLAR_EVERY_S
        self._histogram.observe(seconds, {"request_id": request_id})


class Answers:
    """What is counted of every answer that a caller was given."""

    def __init__(self, seconds: Histogram, reference_cost: Counter, certified: Counter) -> None:
        self._seconds = seconds
        self._latency: dict[str, Latency] = {}
        self._reference_cost = {
            kept: reference_cost.labels("cache" if kept else "model") for kept in (False, True)
        }
        self._certified = {is_so: certified.labels("yes" if is_so else "no") for is_so in (False, True)}

    def given(
        self,
        model: str,
        seconds: float,
        request_id: str,
        reference_nanousd: int,
        *,
        kept: bool,
        certified: bool,
    ) -> None:
        """`reference_nanousd`: what the reference model would have charged. `kept`: nobody wrote it now."""
        latency = self._latency.get(model)
        if latency is None:
            latency = Latency(self._seconds.labels(model), _ANSWER_BUCKETS)
            self._latency[model] = latency
        latency.observe(seconds, request_id)
        self._reference_cost[kept].inc(reference_nanousd)
        self._certified[certified].inc()


class Served:
    """One process's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._noted: dict[str, Counter | Histogram] = {}
        self._server: WSGIServer | None = None

    def note(self, name: str, *labels: str, value: float = 1.0) -> None:
        """Adds to a counter, or observes a value."""
        noted = self._noted[name]
        # The library refuses to be asked for no labels.
        metric = noted.labels(*labels) if labels else noted
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
        self._noted[name] = counter = CappedCounter(name, *NAMES[name], registry=self.registry)
        return counter

    def _gauge(self, name: str) -> Gauge:
        return Gauge(name, *NAMES[name], registry=self.registry)

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        self._noted[name] = histogram = CappedHistogram(
            name, *NAMES[name], buckets=buckets, registry=self.registry
        )
        return histogram


class Metrics(Served):
    """A gateway's."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = self._counter("headgate_requests_total")
        self.decisions = self._counter("headgate_decisions_total")
        self.attempts = self._counter("headgate_attempts_total")
        self.brain_failures = self._counter("headgate_brain_failures_total")
        for what in ("decision", "draft"):
            # From nothing to the first one is no increase to Prometheus.
            self.brain_failures.labels(what)
        self.fallbacks = self._counter("headgate_fallbacks_total")
        self.escalations = self._counter("headgate_escalations_total")
        self.stopped_drafts = self._counter("headgate_stopped_drafts_total")
        self.wasted_draft_tokens = self._counter("headgate_wasted_draft_tokens_total")
        self.hedges = self._counter("headgate_hedges_total")
        self.wasted_hedge_tokens = self._counter("headgate_wasted_hedge_tokens_total")
        self.escalations_offered = self._counter("headgate_escalations_offered_total")
        self.upgrades = self._counter("headgate_upgrades_total")
        self.cache = self._counter("headgate_cache_total")
        self.semantic = self._counter("headgate_semantic_total")
        self.semantic_dropped = self._counter("headgate_semantic_dropped_total")
        self.cache_memory = self._gauge("headgate_cache_memory_bytes")
        self.cost = self._counter("headgate_cost_nanousd_total")
        self.answers = Answers(
            self._histogram("headgate_answer_seconds", _ANSWER_BUCKETS),
            self._counter("headgate_reference_cost_nanousd_total"),
            self._counter("headgate_certified_answers_total"),
        )
        self.first_token = self._histogram("headgate_time_to_first_token_seconds", _ANSWER_BUCKETS)
        self.facts = Facts()
        self.registry.register(self.facts)
        self.ledger_dropped = self._counter("headgate_ledger_dropped_total")
        self.spans_dropped = self._counter("headgate_spans_dropped_total")
        self.shadow_samples = self._counter("headgate_shadow_samples_total")
        self.shadow_calls = self._counter("headgate_shadow_calls_total")
        self.shadow_cost = self._counter("headgate_shadow_cost_nanousd_total")
        self.budgets_left = BudgetsLeft()
        self.registry.register(self.budgets_left)
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


class WorkerMetrics(Served):
    """A worker's."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self._answers = self._counter("headgate_worker_answers_total")
        self._model = model
        buckets = _ANSWER_BUCKETS
        self.first_token = self._histogram("headgate_worker_first_token_seconds", buckets).labels(model)
        self.answer = self._histogram("headgate_worker_answer_seconds", buckets).labels(model)
        self.prompt_tokens = self._counter("headgate_worker_prompt_tokens_total").labels(model)
        self.completion_tokens = self._counter("headgate_worker_completion_tokens_total").labels(model)
        self.slots = self._gauge("headgate_worker_slots").labels(model)
        self.busy = self._gauge("headgate_worker_busy").labels(model)
        self.waiting = self._gauge("headgate_worker_waiting").labels(model)
        self.spans_dropped = self._counter("headgate_spans_dropped_total")
        self.tasks = self._gauge("headgate_tasks")
        self.loop_lag = self._histogram("headgate_loop_lag_seconds", _LAG_BUCKETS)

    def ended(self, code: str) -> None:
        """An answer ended, with this google.rpc.Code name."""
        self._answers.labels(self._model, code).inc()


class RunnerMetrics(Served):
    """A job runner's, of all its processes."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs_ended = self._counter("headgate_jobs_ended_total")
        self.runs_begun = self._counter("headgate_job_runs_begun_total")
        self.runs_ended = self._counter("headgate_job_runs_ended_total")
        self.spans_dropped = self._counter("headgate_spans_dropped_total")
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
        self.budgets_left = BudgetsLeft()
        self.registry.register(self.budgets_left)
        self.broker_away = self._gauge("headgate_broker_away")
