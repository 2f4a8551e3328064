"""`headgate up` with jobs: queued work on a laptop, answered by real models, still there after a restart."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from headgate.client import Client
from tests.e2e.conftest import CONFIG, Headgate
from tests.integration.gateway_rig import metrics, scrubbed

JOBS = f"{CONFIG}jobs: {{enabled: true, concurrency: 1, metrics_listen: '127.0.0.1:0'}}\n"


def _jobs(address: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "headgate.cli", "jobs", *arguments, "--address", address]
    return subprocess.run(
        command, env=scrubbed(), check=True, capture_output=True, text=True, timeout=120
    ).stdout


def test_jobs_are_answered_and_outlive_a_restart(
    up: Callable[..., Headgate], start: Callable[..., Headgate], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    first = up(JOBS)
    answer = _jobs(first.address, "submit", "4711 in words", "--wait")
    assert "four thousand seven hundred eleven" in answer
    with Client(first.address) as client:
        client.jobs.submit("Reverse stressed", request_id="kept")
        for _ in client.jobs.watch("kept"):
            pass
    for name in ("reconciler", "runner"):
        assert metrics(first.says(rf"^{name}: metrics http://(\S+)/metrics")[1])["headgate_broker_away"] == 0
    start("up").says("another `headgate up` keeps its jobs")
    assert first.interrupt() == 0
    with Client(up(JOBS).address) as client:
        job = client.jobs.get("kept")
    assert job.state == "done"
    assert job.answer is not None
