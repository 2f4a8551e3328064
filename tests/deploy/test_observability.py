"""Rules and dashboards ask for what there is; each rule was seen to fire and be silent, and has its page."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from headgate.adapters.telemetry import NAMES

ROOT = Path(__file__).parents[2]
HERE = ROOT / "deploy/observability"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((HERE / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
BOARDS = sorted((HERE / "dashboards").glob("*.json"))
OF_HISTOGRAMS = ("_bucket", "_count", "_sum")


def promtool(*arguments: str) -> None:
    """Runs Debian's promtool; it must have nothing to object."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed; tests/system-packages.txt names what tests need")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def unknown(query: str) -> list[str]:
    """Metrics and labels in a query that no process has."""
    wrong = []
    for name, selected in re.findall(r"\b(headgate_\w+)(?:\{([^}]*)\})?", query):
        base = next(
            (name.removesuffix(end) for end in OF_HISTOGRAMS if name.removesuffix(end) in NAMES), name
        )
        labels = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selected)
        if base not in NAMES:
            wrong.append(name)
        elif not {*labels} <= {*NAMES[base][1], "instance", "job", "le"}:
            wrong.append(f"{name}{{{selected}}}")
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    return wrong + [name for name in re.findall(r"\bheadgate:[\w:]+", query) if name not in recorded]


def grouped(query: str) -> set[str]:
    """Labels that a query groups by."""
    return {one for found in re.findall(r"\b(?:by|ignoring) \(([^)]*)\)", query) for one in found.split(", ")}


def queries() -> list[tuple[str, str]]:
    """Every query of rules and panels, by where it stands."""
    of_rules = [(str(rule.get("alert", rule.get("record"))), rule["expr"]) for rule in RULES]
    panels = ((path, panel) for path in BOARDS for panel in json.loads(path.read_text())["panels"])
    of_panels = [
        (f"{path.stem}: {panel['title']}", one["expr"]) for path, panel in panels for one in panel["targets"]
    ]
    return of_rules + of_panels


@pytest.mark.parametrize(("where", "query"), queries())
def test_every_query_asks_for_what_there_is(where: str, query: str) -> None:
    assert unknown(query) == [], where
    labels = {label for name in NAMES for label in NAMES[name][1] if name in query}
    assert grouped(query) <= labels | {"instance", "job", "le"}, where


def test_a_misspelt_metric_or_label_is_found() -> None:
    assert unknown("sum(rate(headgate_request_total[5m]))") == ["headgate_request_total"]
    assert unknown('headgate_requests_total{status="OK"}') == ['headgate_requests_total{status="OK"}']
    assert unknown("headgate:no_rule > 0") == ["headgate:no_rule"]


def test_promtool_takes_rules_and_config() -> None:
    promtool("check", "rules", str(HERE / "alerts.yaml"))
    promtool("check", "config", str(HERE / "prometheus.yml"))


def test_rules_fire_and_stay_silent_as_they_should() -> None:
    promtool("test", "rules", str(HERE / "alerts_test.yaml"))


def test_every_alert_is_tried_both_ways_and_every_recording_once() -> None:
    tests = yaml.safe_load((HERE / "alerts_test.yaml").read_text())["tests"]
    tried = [one for test in tests for one in test.get("alert_rule_test", ())]
    fired = {one["alertname"] for one in tried if one.get("exp_alerts")}
    silent = {one["alertname"] for one in tried if not one.get("exp_alerts")}
    assert fired == silent == {rule["alert"] for rule in ALERTS}
    asked = {one["expr"] for test in tests for one in test.get("promql_expr_test", ())}
    assert asked == {rule["record"] for rule in RULES if "record" in rule}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_every_alert_has_its_page(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    titles = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in titles}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]


def test_the_dashboards_are_what_their_script_writes() -> None:
    written = runpy.run_path(str(HERE / "dashboards/boards.py"))["files"]()
    assert {path.name: path.read_text() for path in BOARDS} == written


def test_panels_do_not_overlap_and_name_the_chosen_datasource() -> None:
    for path in BOARDS:
        panels = json.loads(path.read_text())["panels"]
        places = {(one["gridPos"]["x"], one["gridPos"]["y"]) for one in panels}
        assert len(places) == len(panels) == len({one["title"] for one in panels})
        assert {one["datasource"]["uid"] for one in panels} == {"${datasource}"}
