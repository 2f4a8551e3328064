"""The Grafana dashboards: `python deploy/observability/dashboards/boards.py` writes the JSON beside it.

Each board is a list of panels, each panel a title, a unit and its queries. A test compares both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT, COLUMNS = 8, 8, 3
RATE = "$__rate_interval"


@dataclass(frozen=True)
class Panel:
    """What one panel shows; `queries` are pairs of PromQL and legend, `unit` is Grafana's name for it."""

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]
    kind: str = "timeseries"
    says: str = ""


def share(counter: str, label: str) -> str:
    """Each label value's part of all that a counter counts."""
    return (
        f"sum by ({label}) (rate({counter}[{RATE}])) / ignoring ({label}) group_left ()"
        f" (sum(rate({counter}[{RATE}])) > 0)"
    )


def quantile(q: float, histogram: str, by: str = "") -> str:
    """A quantile of a histogram over all processes, perhaps by a label."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({histogram}_bucket[{RATE}])))"


def rate(counter: str, by: str) -> str:
    """What a counter counts in a second, by a label."""
    return f"sum by ({by}) (rate({counter}[{RATE}]))"


ROUTING = [
    Panel(
        "Share by model",
        "percentunit",
        [(share("headgate_answer_seconds_count", "model"), "{{model}}")],
        says="Of all answers, those from the cache among them.",
    ),
    Panel(
        "Saved against always asking the reference",
        "currencyUSD",
        [
            (
                "(sum(increase(headgate_reference_cost_nanousd_total[$__range]))"
                " - sum(increase(headgate_cost_nanousd_total[$__range]))"
                " - (sum(increase(headgate_shadow_cost_nanousd_total[$__range])) or vector(0))) / 1e9",
                "in the time shown",
            )
        ],
        "stat",
        "The reference model's price for the tokens of answers given, less what calls and samples cost.",
    ),
    Panel(
        "Cost, and the reference's",
        "currencyUSD",
        [
            (f"sum(rate(headgate_cost_nanousd_total[{RATE}])) * 3600 / 1e9", "paid in an hour"),
            (
                f"sum(rate(headgate_reference_cost_nanousd_total[{RATE}])) * 3600 / 1e9",
                "reference in an hour",
            ),
            (f"sum(rate(headgate_shadow_cost_nanousd_total[{RATE}])) * 3600 / 1e9", "samples in an hour"),
        ],
    ),
    Panel(
        "Risk: aimed at and certified",
        "percentunit",
        [
            ("max(headgate_risk_target)", "aimed at"),
            ("max(headgate_certificate_risk_target)", "certified bound"),
        ],
        says="The looser of both where processes differ. No line: no certificate in force.",
    ),
    Panel(
        "Answers that a certificate covers",
        "percentunit",
        [(share("headgate_certified_answers_total", "certified"), "covered: {{certified}}")],
    ),
    Panel(
        "Certificate expires in",
        "s",
        [("min(headgate_certificate_expires_timestamp_seconds) - time()", "left")],
        "stat",
    ),
    Panel(
        "Escalations",
        "percentunit",
        [
            (
                f"{rate('headgate_escalations_total', 'reason')} / ignoring (reason) group_left ()"
                f" (sum(rate(headgate_decisions_total[{RATE}])) > 0)",
                "{{reason}}",
            )
        ],
        says="Drafts not accepted, by why, over decisions.",
    ),
    Panel(
        "Decisions by reason", "percentunit", [(share("headgate_decisions_total", "reason"), "{{reason}}")]
    ),
    Panel(
        "Wasted tokens",
        "tps",
        [
            (rate("headgate_wasted_draft_tokens_total", "model"), "drafts of {{model}}"),
            (rate("headgate_wasted_hedge_tokens_total", "model"), "hedges of {{model}}"),
        ],
        says="Tokens in a second.",
    ),
    Panel(
        "Cache by kind",
        "percentunit",
        [
            (
                f"sum by (status, source) (rate(headgate_cache_total[{RATE}])) / ignoring (status, source)"
                f" group_left () (sum(rate(headgate_cache_total[{RATE}])) > 0)",
                "{{status}} {{source}}",
            )
        ],
    ),
    Panel("Like questions", "reqps", [(rate("headgate_semantic_total", "result"), "{{result}}")]),
    Panel(
        "In force",
        "short",
        [
            ("count by (bundle_version, policy_version) (headgate_bundle_info)", "bundle {{bundle_version}}"),
            ("count by (id) (headgate_certificate_info)", "certificate {{id}}"),
            ("count by (digest) (headgate_config_info)", "config {{digest}}"),
        ],
        "table",
        "How many processes have it.",
    ),
]

HEALTH = [
    Panel("Requests", "reqps", [(rate("headgate_requests_total", "method"), "{{method}}")]),
    Panel("How they end", "percentunit", [(share("headgate_requests_total", "code"), "{{code}}")]),
    Panel(
        "Time to the whole answer",
        "s",
        [
            (quantile(0.5, "headgate_answer_seconds", "model"), "{{model}} p50"),
            (quantile(0.99, "headgate_answer_seconds", "model"), "{{model}} p99"),
        ],
    ),
    Panel(
        "Time to the first text of a stream",
        "s",
        [
            (quantile(0.5, "headgate_time_to_first_token_seconds", "model"), "{{model}} p50"),
            (quantile(0.99, "headgate_time_to_first_token_seconds", "model"), "{{model}} p99"),
        ],
        says="As callers see it: the gateway, the decision and drafts held back are in it.",
    ),
    Panel(
        "Time in the gateway itself",
        "s",
        [
            (quantile(0.5, "headgate_overhead_seconds"), "p50"),
            (quantile(0.99, "headgate_overhead_seconds"), "p99"),
        ],
    ),
    Panel("Loop lag", "s", [(quantile(0.99, "headgate_loop_lag_seconds", "instance"), "{{instance}} p99")]),
    Panel(
        "Requests inside",
        "short",
        [
            ("sum by (instance) (headgate_inside)", "{{instance}}"),
            ("max(headgate_requests_limit)", "shed from, each"),
        ],
    ),
    Panel(
        "Calls of workers by code",
        "reqps",
        [(f"sum by (model, code) (rate(headgate_attempts_total[{RATE}]))", "{{model}} {{code}}")],
    ),
    Panel(
        "Breakers open",
        "short",
        [
            ("max by (model) (headgate_breaker_open)", "{{model}}"),
            ("max(headgate_redis_breaker_open)", "redis"),
        ],
    ),
    Panel("Retries left", "short", [("min by (model) (headgate_retries_left)", "{{model}}")]),
    Panel(
        "What requests lack",
        "short",
        [
            ("max by (missing) (headgate_degraded)", "{{missing}}"),
            ("sum by (model) (1 - headgate_worker_serving)", "{{model}} gone"),
        ],
    ),
    Panel(
        "Workers: busy and waiting",
        "short",
        [
            ("sum by (model) (headgate_worker_busy)", "{{model}} busy"),
            ("sum by (model) (headgate_worker_waiting)", "{{model}} waiting"),
            ("sum by (model) (headgate_worker_slots)", "{{model}} slots"),
        ],
    ),
    Panel(
        "Workers: answers by code",
        "reqps",
        [(rate("headgate_worker_answers_total", "model, code"), "{{model}} {{code}}")],
    ),
    Panel(
        "Workers: first token",
        "s",
        [
            (quantile(0.5, "headgate_worker_first_token_seconds", "model"), "{{model}} p50"),
            (quantile(0.99, "headgate_worker_first_token_seconds", "model"), "{{model}} p99"),
        ],
    ),
    Panel(
        "Workers: tokens written",
        "tps",
        [(rate("headgate_worker_completion_tokens_total", "model"), "{{model}}")],
    ),
    Panel("Faults of the brain", "cps", [(rate("headgate_brain_failures_total", "over"), "{{over}}")]),
    Panel("Spans lost", "cps", [(rate("headgate_spans_dropped_total", "job"), "{{job}}")]),
    Panel(
        "Records lost", "short", [("sum(increase(headgate_ledger_dropped_total[$__range]))", "lost")], "stat"
    ),
    Panel(
        "Left of today's budgets",
        "currencyUSD",
        [("min by (tenant, budget) (headgate_budget_left_nanousd) / 1e9", "{{tenant}} {{budget}}")],
        says="Of samples as of each tenant's last one. Days are those of UTC.",
    ),
    Panel("Tasks", "short", [("headgate_tasks", "{{instance}}")]),
]

JOBS = [
    Panel("Jobs that wait", "short", [("max by (job_class) (headgate_jobs_waiting)", "{{job_class}}")]),
    Panel(
        "The first of them waits for",
        "s",
        [("max by (job_class) (headgate_jobs_oldest_seconds)", "{{job_class}}")],
    ),
    Panel("Dead letters", "short", [("max(headgate_jobs_dead)", "kept")], "stat"),
    Panel("Accepted", "reqps", [(rate("headgate_jobs_accepted_total", "job_class"), "{{job_class}}")]),
    Panel("Refused", "reqps", [(rate("headgate_jobs_refused_total", "reason"), "{{reason}}")]),
    Panel("Ended", "reqps", [(rate("headgate_jobs_ended_total", "state"), "{{state}}")]),
    Panel("Runs begun", "reqps", [(rate("headgate_job_runs_begun_total", "job_class"), "{{job_class}}")]),
    Panel(
        "Runs by what became of them",
        "reqps",
        [(rate("headgate_job_runs_ended_total", "became"), "{{became}}")],
    ),
    Panel(
        "Wait in line",
        "s",
        [
            (quantile(0.5, "headgate_job_wait_seconds", "job_class"), "{{job_class}} p50"),
            (quantile(0.99, "headgate_job_wait_seconds", "job_class"), "{{job_class}} p99"),
        ],
    ),
    Panel(
        "From acceptance to end",
        "s",
        [
            (quantile(0.5, "headgate_job_seconds", "job_class"), "{{job_class}} p50"),
            (quantile(0.99, "headgate_job_seconds", "job_class"), "{{job_class}} p99"),
        ],
    ),
    Panel("Broker away", "short", [("max by (instance) (headgate_broker_away)", "{{instance}}")]),
    Panel("Upgrades", "reqps", [(rate("headgate_upgrades_total", "became"), "{{became}}")]),
]

BOARDS = {
    "routing": ("What routing does", ROUTING),
    "health": ("Is it well", HEALTH),
    "jobs": ("Jobs", JOBS),
}


def board(uid: str, title: str, panels: Sequence[Panel]) -> dict[str, Any]:
    """A board as Grafana reads it; `datasource` is chosen in it."""
    variable = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "uid": f"headgate-{uid}",
        "title": f"Headgate: {title}",
        "tags": ["headgate"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [variable]},
        "panels": [_panel(number, one) for number, one in enumerate(panels)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + n), "expr": query, "legendFormat": legend, "datasource": DATASOURCE,
         "instant": panel.kind != "timeseries", "exemplar": panel.kind == "timeseries" and "_bucket" in query,
         "format": "table" if panel.kind == "table" else "time_series"}
        for n, (query, legend) in enumerate(panel.queries)
    ]  # fmt: skip
    place = {"h": HEIGHT, "w": WIDTH, "x": number % COLUMNS * WIDTH, "y": number // COLUMNS * HEIGHT}
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": targets,
    }


def files() -> dict[str, str]:
    """Every file's name and text."""
    return {
        f"{uid}.json": json.dumps(board(uid, title, panels), indent=1) + "\n"
        for uid, (title, panels) in BOARDS.items()
    }


if __name__ == "__main__":
    for name, text in files().items():
        (HERE / name).write_text(text)
