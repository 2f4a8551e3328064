from __future__ import annotations

import json

import psutil
import pytest

KEYS = {
    "queries", "failed", "models", "always_small", "always_large", "random_mix", "headgate", "oracle", "pgr",
    "latency_ms", "overhead_ms", "seed",
}  # fmt: skip
PATIENCE_S = 180.0
"""What `make run` promises: the table in three minutes."""
GONE_S = 30.0


def test_the_demo_prints_one_object_that_adds_up(start):
    headgate = start("demo", "--queries", "300", "--seed", "11", "--json")
    out, _ = headgate.process.communicate(timeout=PATIENCE_S)
    assert headgate.process.returncode == 0, headgate.lines
    data = json.loads(out)
    assert set(data) >= KEYS
    assert (data["queries"], data["failed"], data["seed"]) == (300, 0, 11), data["failures"]
    assert sum(model["share"] for model in data["models"].values()) == pytest.approx(1)
    assert data["headgate"]["large_share"] == data["models"]["large"]["share"]
    low, high = data["headgate"]["quality_ci95"]
    assert low <= data["headgate"]["quality"] <= high
    small, large, mix = data["always_small"], data["always_large"], data["random_mix"]
    assert 0 < small["cost_usd"] < large["cost_usd"]
    weight = (data["headgate"]["cost_usd"] - small["cost_usd"]) / (large["cost_usd"] - small["cost_usd"])
    assert mix["quality"] == pytest.approx((1 - weight) * small["quality"] + weight * large["quality"])
    assert data["oracle"]["quality"] >= max(small["quality"], large["quality"])
    assert 0 < data["overhead_ms"]["p50"] <= data["latency_ms"]["p50"]
    assert data["cache_hits"] == 0
    assert headgate.left_behind() == []
    routing_pays(data)


def test_queued_worksheets_survive_a_killed_runner_and_are_as_good(start):
    headgate = start("demo", "--jobs", "--queries", "80", "--seed", "11", "--json")
    out, _ = headgate.process.communicate(timeout=PATIENCE_S)
    assert headgate.process.returncode == 0, headgate.lines
    jobs = json.loads(out)["jobs"]
    assert (jobs["jobs"], jobs["states"], jobs["lost"], jobs["refused"]) == (80, {"done": 80}, 0, 0)
    # Whether the process had a job when it was killed hangs on the moment.
    assert 40 <= jobs["killed_after"] <= 80
    assert jobs["quality"] == jobs["interactive"]["quality"]
    # How much of a bad draft is written before it is stopped hangs on the moment.
    assert jobs["cost_usd"] == pytest.approx(jobs["interactive"]["cost_usd"], rel=0.05)
    assert jobs["jobs_per_s"] == pytest.approx(80 / jobs["seconds"])
    assert headgate.left_behind() == []


def test_ctrl_c_among_queued_jobs_leaves_no_process_and_no_folder(start, until):
    headgate = start("demo", "--jobs", "--queries", "5000")
    until(lambda: headgate.child("headgate.jobs", "runner"))
    processes = headgate.descendants()
    assert headgate.interrupt() == 130
    _, alive = psutil.wait_procs(processes, timeout=GONE_S)
    assert alive == []
    assert headgate.left_behind() == []


def routing_pays(data):
    """What the demo is there to show; docs/reference/demo.md has it for more seeds."""
    headgate, large = data["headgate"], data["always_large"]
    assert headgate["quality"] >= large["quality"] - 0.02
    assert headgate["cost_usd"] <= 0.65 * large["cost_usd"]
    assert data["gain_over_random_mix"]["ci95"][0] > 0


def test_ctrl_c_in_the_demo_leaves_no_process_and_no_folder(start, until):
    headgate = start("demo", "--queries", "5000")
    until(lambda: headgate.child("headgate.gateway"))
    processes = headgate.descendants()
    assert headgate.interrupt() == 130
    _, alive = psutil.wait_procs(processes, timeout=GONE_S)
    assert alive == []
    assert headgate.left_behind() == []
