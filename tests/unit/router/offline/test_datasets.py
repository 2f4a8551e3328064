from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.router.offline import datasets
from headgate.router.offline.datasets import DataError, Outcomes
from headgate.router.types import Price

MakeOutcomes = Callable[[int, int], Outcomes]
Files = tuple[Path, Path, Path]


@pytest.fixture
def files(
    tmp_path: Path, make_outcomes: MakeOutcomes, write_files: Callable[[Path, Outcomes], Files]
) -> Files:
    return write_files(tmp_path, make_outcomes(1, 30))


def test_files_come_back_as_they_were(files: Files, make_outcomes: MakeOutcomes) -> None:
    there, back = make_outcomes(1, 30), datasets.read(files[0], files[1])
    assert back.models == there.models
    assert dict(zip(back.ids, back.texts, strict=True)) == dict(zip(there.ids, there.texts, strict=True))
    assert back.fingerprint == there.fingerprint
    assert back.completion_tokens.sum() == there.completion_tokens.sum()


def test_a_packed_file_reads_the_same(files: Files) -> None:
    packed = files[0].with_suffix(".csv.gz")
    packed.write_bytes(gzip.compress(files[0].read_bytes()))
    assert datasets.read(packed, files[1]).texts == datasets.read(files[0], files[1]).texts


def test_models_and_datasets_can_be_chosen(files: Files) -> None:
    two = datasets.read(files[0], files[1], models=("big", "tiny"), datasets=("planted",))
    assert two.models == ("big", "tiny")
    assert len(two) == 30


def test_queries_that_a_model_left_out_are_left_out(files: Files) -> None:
    lines = files[1].read_text().splitlines()
    kept = [line for line in lines if ",q3,mid," not in line and ",q4,tiny," not in line]
    files[1].write_text("\n".join(kept) + "\n")
    assert {"q3", "q4"}.isdisjoint(datasets.read(files[0], files[1]).ids)
    assert len(datasets.read(files[0], files[1])) == 28


def test_missing_tokens_are_nan_and_missing_scores_no_rows(tmp_path: Path) -> None:
    queries, outcomes = tmp_path / "q.csv", tmp_path / "o.csv"
    queries.write_text("query_id,query\na,first\nb,second\n")
    outcomes.write_text("query_id,model,score,prompt_tokens\na,x,1,7\na,y,0.5,\nb,x,1,7\nb,y,,\n")
    found = datasets.read(queries, outcomes)
    assert found.ids == ("a",)
    assert found.score.tolist() == [[1.0, 0.5]]
    assert found.prompt_tokens[0, 0] == 7
    assert np.isnan(found.prompt_tokens[0, 1])
    assert np.isnan(found.completion_tokens).all()


def test_prices_are_exact_nano_dollars(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("model,usd_per_m_input,usd_per_m_output,version\nx,0.000000123,2.5,v9\ny,1,1,\n")
    found = datasets.read_prices(path)
    assert found["x"] == datasets.Listed(Price(123, 2_500_000_000), "v9")
    assert found["y"].version == ""


@pytest.mark.parametrize(
    ("queries", "outcomes", "sentence"),
    [
        ("id,query\n", "query_id,model,score\n", "no column 'query_id'"),
        ("query_id,query\na,x\n", "query_id,model\n", "no column 'score'"),
        ("query_id,query\na,x\n", "query_id,model,score\na,only,1\n", "at least two"),
        ("query_id,query\nb,x\n", "query_id,model,score\na,x,1\na,y,1\n", "no query that all"),
    ],
)
def test_files_that_lack_something_say_what(
    tmp_path: Path, queries: str, outcomes: str, sentence: str
) -> None:
    (tmp_path / "q.csv").write_text(queries)
    (tmp_path / "o.csv").write_text(outcomes)
    with pytest.raises(DataError, match=sentence):
        datasets.read(tmp_path / "q.csv", tmp_path / "o.csv")


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("n/a,1,1", "score: must be a number from 0 to 1"),
        ("1.01,1,1", "score: must be a number from 0 to 1"),
        ("-0.1,1,1", "score: must be a number from 0 to 1"),
        ("NaN,1,1", "score: must be a number from 0 to 1"),
        ("1,-,1", "prompt_tokens: must be a number of 0 or more"),
        ("1,1,-3", "completion_tokens: must be a number of 0 or more"),
        ("1,1,inf", "completion_tokens: must be a number of 0 or more"),
    ],
)
def test_a_bad_cell_is_named_by_its_place(tmp_path: Path, row: str, sentence: str) -> None:
    (tmp_path / "q.csv").write_text("query_id,query\na,first\n")
    head = "query_id,model,score,prompt_tokens,completion_tokens"
    (tmp_path / "o.csv").write_text(f"{head}\na,x,1,,\na,y,{row}\n")
    with pytest.raises(DataError) as caught:
        datasets.read(tmp_path / "q.csv", tmp_path / "o.csv")
    assert str(caught.value) == f"o.csv:3: {sentence}"


@pytest.mark.parametrize("price", ["$0.6", "", "-1", "NaN", "Infinity"])
def test_a_bad_price_is_named_by_its_place(tmp_path: Path, price: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f"model,usd_per_m_input,usd_per_m_output\nx,1,1\ny,1,{price}\n")
    with pytest.raises(DataError) as caught:
        datasets.read_prices(path)
    assert str(caught.value) == "p.csv:3: usd_per_m_output: must be a number of 0 or more"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        datasets.read_prices(tmp_path / "absent.csv")


def test_models_are_reordered_by_name(make_outcomes: MakeOutcomes) -> None:
    plain = make_outcomes(1, 5)
    turned = plain.with_models(("big", "tiny"))
    assert (turned.score == plain.score[:, [2, 0]]).all()
    with pytest.raises(DataError, match="no model 'huge'"):
        plain.with_models(("huge",))


@given(draw=st.integers(0, 2**31), held_out=st.sampled_from([0.0, 0.2, 0.5]))
def test_parts_never_share_a_text_and_lose_none(
    make_outcomes: MakeOutcomes, draw: int, held_out: float
) -> None:
    plain = make_outcomes(1, 60)
    twice = plain.take(np.array([*range(60), *range(20)]))  # twenty texts stand there two times
    shares = [0.5 * (1 - held_out), 0.5 * (1 - held_out), held_out]
    found = datasets.split(twice, draw, shares)
    texts = [set(part.texts) for part in found]
    assert not texts[0] & texts[1] | texts[0] & texts[2] | texts[1] & texts[2]
    assert set().union(*texts) == set(plain.texts)
    assert sum(map(len, found)) == 80
    assert len(texts[2]) == round(60 * held_out)
    again = datasets.split(twice, draw, [1 - held_out, held_out])
    assert set(again[1].texts) == texts[2], "evaluate finds what train held out"


def test_the_fingerprint_sees_scores_and_not_the_order(make_outcomes: MakeOutcomes) -> None:
    plain = make_outcomes(1, 20)
    assert plain.take(np.arange(20)[::-1]).fingerprint == plain.fingerprint
    plain.score[7, 1] = 1 - plain.score[7, 1]
    assert plain.take(np.arange(20)).fingerprint != make_outcomes(1, 20).fingerprint
