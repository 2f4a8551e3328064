"""Every metric is in the table, and the table says every metric."""

from __future__ import annotations

import urllib.request

import pytest

from headgate.adapters.telemetry import NAMES, Metrics, PortInUseError, ReconcilerMetrics, RunnerMetrics


def test_the_table_is_complete() -> None:
    kinds = (Metrics(), RunnerMetrics(), ReconcilerMetrics())
    families = {family.name for one in kinds for family in one.registry.collect()}
    assert families == {name.removesuffix("_total") for name in NAMES}


def test_what_is_noted_is_counted_or_observed() -> None:
    metrics = RunnerMetrics()
    metrics.note("headgate_job_runs_begun_total", "batch")
    metrics.note("headgate_job_wait_seconds", "batch", value=2.5)
    value = metrics.registry.get_sample_value
    assert value("headgate_job_runs_begun_total", {"job_class": "batch"}) == 1
    assert value("headgate_job_wait_seconds_sum", {"job_class": "batch"}) == 2.5


def test_metrics_are_served_and_a_port_in_use_is_one_sentence() -> None:
    metrics = Metrics()
    metrics.requests.labels("Generate", "OK").inc()
    address = metrics.serve("127.0.0.1:0")
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        assert 'headgate_requests_total{code="OK",method="Generate"} 1.0' in page.read().decode()
    with pytest.raises(PortInUseError, match=address):
        Metrics().serve(address)
