"""`headgate jobs …` as it is run, against a real server that keeps jobs in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headgate.cli import app
from tests.unit.job_rig import JobGateway, serving

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def gateway() -> Iterator[JobGateway]:
    served = JobGateway()
    with serving(served):
        yield served


@pytest.fixture
def jobs(
    gateway: JobGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs `headgate jobs` in an empty folder; its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def line(*arguments: str) -> tuple[int, str, str]:
        code = app.run(("jobs", *arguments), {"HEADGATE_GATEWAY__LISTEN": gateway.address})
        out, err = capsys.readouterr()
        return code, out, err

    return line
