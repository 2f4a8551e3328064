"""Every metric is in the table, and the table says every metric."""

from __future__ import annotations

import re
import urllib.request

import pytest
from prometheus_client.openmetrics.exposition import generate_latest

from headgate.adapters.telemetry import (
    DAY_S,
    MOST_BUDGETS,
    MOST_SERIES,
    NAMES,
    BudgetsLeft,
    Fact,
    Metrics,
    PortInUseError,
    ReconcilerMetrics,
    RunnerMetrics,
    WorkerMetrics,
)


def test_the_table_is_complete() -> None:
    kinds = (Metrics(), RunnerMetrics(), ReconcilerMetrics(), WorkerMetrics("small"))
    families = {family.name for one in kinds for family in one.registry.collect()}
    assert families == {name.removesuffix("_total") for name in NAMES}


def test_what_is_noted_is_counted_or_observed() -> None:
    metrics = RunnerMetrics()
    metrics.note("headgate_job_runs_begun_total", "batch")
    metrics.note("headgate_job_wait_seconds", "batch", value=2.5)
    metrics.note("headgate_spans_dropped_total", value=3)
    value = metrics.registry.get_sample_value
    assert value("headgate_job_runs_begun_total", {"job_class": "batch"}) == 1
    assert value("headgate_job_wait_seconds_sum", {"job_class": "batch"}) == 2.5
    assert value("headgate_spans_dropped_total") == 3


def test_metrics_are_served_and_a_port_in_use_is_one_sentence() -> None:
    metrics = Metrics()
    metrics.requests.labels("Generate", "OK").inc()
    address = metrics.serve("127.0.0.1:0")
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        assert 'headgate_requests_total{code="OK",method="Generate"} 1.0' in page.read().decode()
    with pytest.raises(PortInUseError, match=address):
        Metrics().serve(address)


def test_a_bucket_names_a_request_and_an_id_that_is_too_long_none() -> None:
    metrics = Metrics()
    for name in ("first", "second", "x" * 101):
        metrics.answers.given("small", 0.3, name, 5, kept=False, certified=True)
    metrics.answers.given("small", 20.0, "y" * 101, 7, kept=True, certified=False)
    page = generate_latest(metrics.registry).decode()
    named = re.findall(r"^headgate_answer_seconds_bucket.*# (\{.*?\})", page, re.MULTILINE)
    assert named == ['{request_id="first"}']
    value = metrics.registry.get_sample_value
    assert value("headgate_answer_seconds_count", {"model": "small"}) == 4
    assert value("headgate_reference_cost_nanousd_total", {"source": "model"}) == 15
    assert value("headgate_reference_cost_nanousd_total", {"source": "cache"}) == 7
    assert value("headgate_certified_answers_total", {"certified": "yes"}) == 3


def test_over_the_limit_labels_are_counted_as_others() -> None:
    """Nothing that a caller says is a label; this is for what nobody thought of."""
    metrics = RunnerMetrics()
    for number in range(MOST_SERIES + 50):
        metrics.note("headgate_job_runs_begun_total", f"class-{number}")
        metrics.note("headgate_job_wait_seconds", f"class-{number}", value=2.5)
    metrics.note("headgate_job_runs_begun_total", "class-0")
    value = metrics.registry.get_sample_value
    for name in ("headgate_job_runs_begun_total", "headgate_job_wait_seconds_count"):
        [family] = [one for one in metrics.registry.collect() if name.startswith(one.name)]
        assert len({one.labels["job_class"] for one in family.samples}) == MOST_SERIES + 1
        assert value(name, {"job_class": "other"}) == 50
    assert value("headgate_job_runs_begun_total", {"job_class": "class-0"}) == 2


def test_what_was_left_yesterday_is_not_told_today_and_of_many_the_poorest_are() -> None:
    now = [10.5 * DAY_S]
    left = BudgetsLeft(lambda: now[0])
    left.tell("acme", "samples", 7, 10)
    left.tell("acme", "samples", 5, 10)
    left.tell("late", "samples", 1, 9)

    def told() -> dict[str, float]:
        [family] = left.collect()
        return {one.labels["tenant"]: one.value for one in family.samples}

    assert told() == {"acme": 5}
    for number in range(2 * MOST_BUDGETS):
        left.tell(f"tenant-{number}", "batch", 1_000 + number, 10)
    assert len(told()) == MOST_BUDGETS
    assert max(told().values()) == 1_000 + MOST_BUDGETS - 2
    now[0] = 11 * DAY_S
    assert told() == {}


def test_facts_are_read_when_somebody_looks() -> None:
    metrics = Metrics()
    read = [0]
    value = metrics.registry.get_sample_value
    assert value("headgate_config_info", {"digest": "d"}) is None

    def source() -> list[Fact]:
        read[0] += 1
        return [("headgate_config_info", ("d",), 1.0), ("headgate_risk_target", (), 0.05)]

    metrics.facts.source = source
    assert read == [0]
    assert value("headgate_config_info", {"digest": "d"}) == 1
    assert value("headgate_risk_target") == 0.05
    assert read == [2]
