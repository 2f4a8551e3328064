"""A cluster's caller (caller.py) in a namespace of its own, and what it has got so far."""

from __future__ import annotations

import json
from typing import Any

from tests.deploy.cluster import Cluster
from tests.deploy.manifests import Workload
from tests.deploy.pod import wait_for

KINDS = ("answer", "stream", "job")


def by(address: str, key: str, *more: str) -> Workload:
    """One that asks at an address; `more` is what its script is told besides."""
    container = {
        "image": "caller:1", "command": ["/app/bin/python", "/caller/caller.py"], "args": [address, *more],
        "env": [{"name": "HEADGATE_KEY", "value": key}],
    }  # fmt: skip
    spec = {
        "securityContext": {"runAsUser": 65532}, "containers": [container],
        "terminationGracePeriodSeconds": 60,
    }  # fmt: skip
    return Workload("caller", {"spec": {"template": {"metadata": {"labels": {}}, "spec": spec}}})


def told(cluster: Cluster) -> dict[str, Any]:
    """What the caller has got until now."""
    caller = cluster.pods["caller"]
    assert caller.popen.poll() is None, caller.said()
    lines = [line for line in caller.said().splitlines() if line.startswith("{") and line.endswith("}")]
    return dict(json.loads(lines[-1])) if lines else {}


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What came between, by kind, and what failed."""
    answers = {kind: after[kind] - before[kind] for kind in KINDS}
    return {**answers, "failed": after["failed"][len(before["failed"]) :]}


def goes_on(cluster: Cluster) -> dict[str, Any]:
    """What the caller has, once it has more of every kind."""
    than = told(cluster)
    wait_for(
        lambda: all(told(cluster)[kind] > than[kind] for kind in KINDS),
        lambda: f"nothing more is answered: {told(cluster)}",
    )
    return told(cluster)
