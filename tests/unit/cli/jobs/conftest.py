"""`headgate jobs …` as it is run, against a real server that keeps jobs in memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from headgate.cli import app
from tests.unit.job_rig import JobGateway, serving

Run = Callable[..., tuple[int, str, str]]
Started = subprocess.Popen[str]


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


@pytest.fixture
def started(
    gateway: JobGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., AbstractContextManager[Started]]:
    """Runs `headgate jobs` as a process of its own, in an empty folder, for the time of a `with` block."""
    monkeypatch.chdir(tmp_path)

    @contextmanager
    def start(*arguments: str) -> Iterator[Started]:
        with subprocess.Popen(
            [sys.executable, "-m", "headgate.cli", "jobs", *arguments, "--address", gateway.address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    return start
