"""Outcome tables."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest

from headgate.worker.backends.builtin.engine import MODELS, Engine, model_version
from headgate.worker.backends.builtin.train import outcomes
from headgate.worker.backends.builtin.worksheets import batch, check


@pytest.fixture(scope="module")
def engines() -> dict[str, Engine]:
    return {name: Engine.load(name) for name in MODELS}


def read(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


def test_both_tables(tmp_path: Path, seed: int, engines: dict[str, Engine]) -> None:
    sheets = batch(seed, 30, "router")
    prices = {"small": (1000, 2000), "large": (5000, 10_000)}
    outcomes.write(tmp_path, sheets, engines, prices)
    queries, rows = read(tmp_path / "queries.csv.gz"), read(tmp_path / "outcomes.csv.gz")
    assert [row["query"] for row in queries] == [sheet.question for sheet in sheets]
    assert [row["subject"] for row in queries] == [sheet.family for sheet in sheets]
    assert len({row["query_id"] for row in queries}) == 30
    assert [row["model"] for row in rows] == ["small"] * 30 + ["large"] * 30
    for sheet, row in zip([*sheets, *sheets], rows, strict=True):
        answer = engines[row["model"]].answer(sheet.question)
        assert row["query_id"] == outcomes.query_id(sheet.question)
        assert float(row["score"]) == check(sheet, answer.text)
        counts = answer.prompt_tokens, answer.completion_tokens
        assert (int(row["prompt_tokens"]), int(row["completion_tokens"])) == counts
        expected = (
            sum(count * price for count, price in zip(counts, prices[row["model"]], strict=True)) / 1e15
        )
        assert float(row["cost_usd"]) == pytest.approx(expected, rel=1e-3)


def test_the_same_outcomes_are_the_same_bytes(tmp_path: Path, seed: int, engines: dict[str, Engine]) -> None:
    sheets = batch(seed, 5, "router")
    for folder in ("first", "again"):
        outcomes.write(tmp_path / folder, sheets, engines, dict.fromkeys(MODELS, (1, 1)))
    for name in ("queries.csv.gz", "outcomes.csv.gz"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_prices_name_the_version_that_the_worker_will_name(tmp_path: Path) -> None:
    manifest = {"small": {"sha256": "ab" * 32, "price": {"input_nanousd": 500_000_000, "output_nanousd": 2}}}
    outcomes.write_prices(tmp_path / "prices.csv", manifest)
    row = next(csv.DictReader((tmp_path / "prices.csv").open(newline="")))
    assert (row["model"], row["version"]) == ("small", model_version("ab" * 32))
    assert (float(row["usd_per_m_input"]), float(row["usd_per_m_output"])) == (0.5, 2e-9)
