"""The tables are those that training reads, and nobody else can read them."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from headgate.cli.outcomes import folder
from headgate.cli.outcomes.labels import Labelled
from headgate.cli.state import CommandError
from headgate.router.offline import datasets
from headgate.router.types import Price
from tests.unit.sample_rig import CANARY, SAMPLE

ODD = replace(SAMPLE, record_id="r2", conversation=(replace(SAMPLE.conversation[0], text='a "b",\n\r c\té'),))
LABELLED = Labelled(((SAMPLE, {"small": 0.5, "large": 1.0}), (ODD, {"small": 0.0, "large": 1.0})))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_answer_is_a_row_with_its_tokens_and_its_propensity(tmp_path: Path) -> None:
    written = folder.write(LABELLED, tmp_path / "labels")
    assert [row["query"] for row in _rows(written.queries)] == [SAMPLE.query, ODD.query]
    first, second, *_ = _rows(written.outcomes)
    assert first == {
        "query_id": "r1", "model": "small", "score": "0.5", "prompt_tokens": "3", "completion_tokens": "4",
        "propensity": "1.0",
    }  # fmt: skip
    assert (second["model"], second["propensity"]) == ("large", "0.25")


def test_answers_are_drafts_to_learn_from_while_their_texts_are_kept(tmp_path: Path) -> None:
    expired = replace(SAMPLE, record_id="r3", conversation=())
    rows = (*LABELLED.rows, (expired, {"small": 0.0, "large": 1.0}))
    written = _rows(folder.write(Labelled(rows), tmp_path).responses)
    assert [(row["query_id"], row["model"]) for row in written] == [
        (one, model) for one in ("r1", "r2") for model in ("small", "large")
    ]
    assert (written[0]["response"], written[0]["tokens"]) == (CANARY, "4")


def test_training_reads_the_prices_of_the_newest_sample(tmp_path: Path) -> None:
    read = datasets.read_prices(folder.write(LABELLED, tmp_path).prices)
    assert {name: (listed.price, listed.version) for name, listed in read.items()} == {
        name: (Price(60_000_000, 2_500_000_000), "v1") for name in ("small", "large")
    }


def test_the_tables_are_their_owner_s_alone(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "queries.csv").touch(mode=0o644)
    written = folder.write(LABELLED, tmp_path / "labels")
    for path in (written.queries, written.outcomes, written.prices, written.responses):
        assert path.stat().st_mode & 0o077 == 0
    fresh = folder.write(LABELLED, tmp_path / "fresh").queries.parent
    assert fresh.stat().st_mode & 0o077 == 0


def test_where_nothing_is_labelled_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="run `headgate outcomes score`"):
        folder.write(Labelled(()), tmp_path / "labels")
    assert not (tmp_path / "labels").exists()


def test_a_temporary_folder_is_gone_after_its_block() -> None:
    with folder.temporary(LABELLED) as where:
        assert len(_rows(where / "queries.csv")) == 2
        assert where.stat().st_mode & 0o077 == 0
    assert not where.exists()
