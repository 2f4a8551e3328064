"""The planted world as files, and a bundle that `headgate train` made of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from headgate.cli import app
from tests.planted import planted, write

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in an empty folder; its exit code, stdout and stderr on lines of any length."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")

    def line(*arguments: object) -> tuple[int, str, str]:
        code = app.run([str(one) for one in arguments], {})
        out, err = capsys.readouterr()
        return code, out, err

    return line


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Queries, outcomes and prices of tiny, mid and big."""
    path = tmp_path_factory.mktemp("planted")
    write(path, planted(4, 1000))
    return path


@pytest.fixture(scope="session")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "new" / "a.bundle"
    options = (
        *(
            "train",
            "--outcomes",
            folder,
            "--reference",
            "big",
            "--out",
            out,
            "--seed",
            2,
            "--difficulty",
            "none",
        ),
        *("--held-out", 0.2, "--risk-target", 0.1, "--created", "2026-01-02", "--expires", "2027-01-02"),
    )
    assert app.run([str(one) for one in options], {}) == 0
    return out
