from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from headgate.cli import app


def _outcomes(folder: Path, first: int, n: int) -> Path:
    """Sums that both models answer, small the worse the longer they are."""
    folder.mkdir()
    rng = np.random.default_rng(first)
    queries, outcomes = [("query_id", "query")], [("query_id", "model", "score")]
    for i in range(first, first + n):
        digits = 1 + i % 5
        queries.append((f"q{i}", f"add {10**digits + i} and {3 * i}"))
        for model, chance in (("mini", 1 - 0.2 * digits), ("big", 0.95)):
            outcomes.append((f"q{i}", model, str(int(rng.random() < chance))))
    for name, rows in (("queries", queries), ("outcomes", outcomes)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return folder


def _evaluate(*more: str) -> int:
    return app.run(["evaluate", "--small", "mini", "--large", "big", *more], {})


def test_a_report_is_a_page_with_pictures_and_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = _outcomes(tmp_path / "train", 0, 120), _outcomes(tmp_path / "test", 1000, 80)
    report, figures = tmp_path / "new" / "report", tmp_path / "figures.json"
    asked = ("--train", str(train), "--test", str(test), "--report", str(report), "--json", str(figures))
    assert _evaluate(*asked) == 0
    assert sorted(path.name for path in report.iterdir()) == [
        "cost-quality.png", "figures.json", "index.html", "reliability.png", "risk-coverage.png",
    ]  # fmt: skip
    assert f"the report is {report / 'index.html'}" in capsys.readouterr().err
    written, told = json.loads((report / "figures.json").read_text()), json.loads(figures.read_text())
    assert {key: written[key] for key in told} == told
    assert "Routing between mini and big" in (report / "index.html").read_text()


def test_a_report_on_a_file_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    assert _evaluate("--outcomes", str(tmp_path / "none"), "--report", str(taken)) != 0
    assert f"--report takes a folder, and {taken} is a file" in capsys.readouterr().err
    assert taken.read_text() == "mine"


def test_a_report_of_a_bundle_is_refused_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--bundle", str(tmp_path / "b"), "--outcomes", str(tmp_path), "--report", str(tmp_path / "r"))
    assert _evaluate(*asked) != 0
    assert "with --bundle give --out" in capsys.readouterr().err
