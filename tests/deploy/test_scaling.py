"""What KEDA's queries come to, by Debian's promtool: also before a job has ended, and beside other cells."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.deploy.manifests import OVERLAYS, load, of_kind
from tests.deploy.test_observability import promtool

WAITS = 'headgate_jobs_waiting{namespace="headgate", job_class="batch", pod="%s"}'
BEGUN = 'headgate_job_runs_begun_total{namespace="headgate", job_class="batch", pod="runner-1"}'
ENDED = BEGUN.replace("begun", "ended").replace("pod=", 'became="%s", pod=')
WORK = 'headgate_worker_%s{namespace="%s", model="%s", pod="worker-1"}'
CASES = {
    "nobody has begun": ("runner", {WAITS % "gateway-1": 8, WAITS % "gateway-2": 8}, 8),
    "nothing has ended": ("runner", {WAITS % "gateway-1": 8, BEGUN: 3}, 11),
    "the queue is away": ("runner", {BEGUN: 3, ENDED % "done": 1, ENDED % "lost": 1}, 2),
    "another cell": ("runner", {BEGUN: 3, ENDED % "done": 1, BEGUN.replace('="headgate', '="b'): 9}, 2),
    "small": (
        "worker-small",
        {WORK % ("busy", "headgate", "small"): 2, WORK % ("waiting", "headgate", "small"): 1},
        3,
    ),
    "large": (
        "worker-large",
        {
            WORK % ("busy", "headgate", "large"): 2,
            WORK % ("waiting", "headgate", "large"): 0,
            WORK % ("busy", "cell-2", "large"): 9,
            WORK % ("busy", "headgate", "small"): 9,
        },
        2,
    ),
}


@pytest.mark.parametrize("overlay", [one for one in OVERLAYS if of_kind(load(one), "ScaledObject")])
@pytest.mark.parametrize("case", CASES)
def test_a_scaler_counts_what_there_is_to_do(case: str, overlay: str, tmp_path: Path) -> None:
    name, series, comes_to = CASES[case]
    (trigger,) = of_kind(load(overlay), "ScaledObject")[name]["spec"]["triggers"]
    asked = {
        "expr": trigger["metadata"]["query"], "eval_time": "1m",
        "exp_samples": [{"labels": "{}", "value": comes_to}],
    }  # fmt: skip
    told = [{"series": one, "values": f"{value} {value}"} for one, value in series.items()]
    test = {"tests": [{"interval": "1m", "input_series": told, "promql_expr_test": [asked]}]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    promtool("test", "rules", str(tmp_path / "test.yaml"))
