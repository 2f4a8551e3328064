from __future__ import annotations

import csv
import gzip
import json
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from headgate.router.offline import datasets, formats
from headgate.router.offline.datasets import DataError, Outcomes

MakeOutcomes = Callable[[int, int], Outcomes]
Files = tuple[Path, Path, Path]
REAL = Path(__file__).parents[4].parent / "shared" / "data"

needs_real_data = pytest.mark.skipif(
    not REAL.is_dir(),
    reason="reads ../shared/data, which holds published outcomes and is not in the repository",
)

QUERIES = """dataset,query_id,query,subject,flagged
sums,a,What is 1+1?,easy,
sums,b,What is 2+3?,hard,1
names,c,Who wrote it?,,0
"""
OUTCOMES = """dataset,query_id,model,score,score_again,prompt_tokens,completion_tokens
sums,a,small,1,0,7,1
sums,a,large,1,1,8,
sums,b,small,0,0.5,7,2
sums,b,large,1.0,1,8,3
names,c,small,0.25,,5,4
names,c,large,0,,6,5
"""


@pytest.fixture
def files(
    tmp_path: Path, make_outcomes: MakeOutcomes, write_files: Callable[[Path, Outcomes], Files]
) -> Files:
    return write_files(tmp_path, make_outcomes(1, 30))


def folder(path: Path, queries: str = QUERIES, outcomes: str = OUTCOMES, source: str = "") -> Path:
    """A folder with two tables."""
    stem = f"{source}." if source else ""
    (path / f"{stem}queries.csv").write_text(queries)
    (path / f"{stem}outcomes.csv").write_text(outcomes)
    return path


def lines(path: Path, records: Iterable[object]) -> Path:
    path.write_text("".join(f"{json.dumps(one)}\n" for one in records))
    return path


def refusal(path: Path, **choices: object) -> str:
    """The one sentence with which the path is refused."""
    with pytest.raises(DataError) as caught:
        formats.read(path, **choices)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Two tables


def test_two_tables_come_back_as_they_were(files: Files, make_outcomes: MakeOutcomes) -> None:
    there, back = make_outcomes(1, 30), formats.read(files[0].parent)
    assert back.models == there.models
    assert dict(zip(back.ids, back.texts, strict=True)) == dict(zip(there.ids, there.texts, strict=True))
    assert back.fingerprint == there.fingerprint
    assert back.completion_tokens.sum() == there.completion_tokens.sum()


def test_a_folder_gives_every_column_its_place(tmp_path: Path) -> None:
    found = formats.read(folder(tmp_path))
    assert found.ids == ("a", "b", "c")
    assert found.texts == ("What is 1+1?", "What is 2+3?", "Who wrote it?")
    assert found.models == ("small", "large")
    assert found.subjects == ("easy", "hard", "")
    assert found.score.tolist() == [[1, 1], [0, 1], [0.25, 0]]
    assert found.prompt_tokens.tolist() == [[7, 8], [7, 8], [5, 6]]
    assert np.isnan(found.completion_tokens[0, 1]), "where the file does not say"
    assert found.completion_tokens[2].tolist() == [4, 5]


@pytest.mark.parametrize("packed", ["queries.csv", "outcomes.csv"])
def test_a_packed_table_reads_the_same(tmp_path: Path, packed: str) -> None:
    plain = formats.read(folder(tmp_path))
    (tmp_path / f"{packed}.gz").write_bytes(gzip.compress((tmp_path / packed).read_bytes(), mtime=0))
    (tmp_path / packed).unlink()
    assert formats.read(tmp_path).fingerprint == plain.fingerprint


def test_of_a_table_packed_and_plain_the_plain_one_counts(tmp_path: Path) -> None:
    for name in ("queries.csv.gz", "outcomes.csv.gz"):
        (tmp_path / name).write_bytes(b"no gzip")
    assert len(formats.read(folder(tmp_path))) == 3


def test_a_source_names_its_tables_and_one_alone_needs_no_name(tmp_path: Path) -> None:
    folder(tmp_path, source="mine")
    (tmp_path / "notqueries.csv").write_text("x")
    assert len(formats.read(tmp_path)) == 3
    assert len(formats.read(tmp_path, source="mine")) == 3
    folder(tmp_path, outcomes=OUTCOMES.replace("names,c,large,0,,6,5\n", ""), source="yours")
    assert len(formats.read(tmp_path, source="yours")) == 2
    told = refusal(tmp_path)
    assert told.endswith("has several sources; choose one of mine, yours")
    assert refusal(tmp_path, source="yuors").endswith(
        "no source 'yuors'; the nearest is 'yours' of mine, yours"
    )
    assert list(formats.sources(folder(tmp_path))) == ["", "mine", "yours"]
    assert len(formats.read(tmp_path)) == 3, "plain names are the folder's own"


def test_a_folder_without_tables_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text("model\n")
    assert "has no tables: it needs queries.csv and outcomes.csv, or SOURCE." in refusal(tmp_path)
    (tmp_path / "my.queries.csv").write_text(QUERIES)
    assert refusal(tmp_path) == f"there is no file {tmp_path / 'my.outcomes.csv'}"


def test_models_and_datasets_can_be_chosen(tmp_path: Path) -> None:
    two = formats.read(folder(tmp_path), models=("large", "small"), datasets=("sums",))
    assert two.models == ("large", "small")
    assert two.score.tolist() == [[1, 1], [1, 0]]


def test_either_table_may_name_the_datasets(tmp_path: Path) -> None:
    bare = "\n".join(line.partition(",")[2] for line in QUERIES.splitlines())
    assert formats.read(folder(tmp_path, queries=bare), datasets=("names",)).ids == ("c",)
    bare = "\n".join(line.partition(",")[2] for line in OUTCOMES.splitlines())
    assert formats.read(folder(tmp_path, outcomes=bare), datasets=("names",)).ids == ("c",)


def test_the_datasets_of_a_source_are_told(tmp_path: Path, files: Files) -> None:
    assert formats.datasets(folder(tmp_path, source="mine"), "mine") == ("sums", "names")
    assert formats.datasets(files[0].parent) == ("planted",), "only its outcomes name them"
    for path in files[:2]:
        path.write_text(path.read_text().replace("dataset,", "group,"))
    assert formats.datasets(files[0].parent) == ("",)


def test_a_model_of_other_datasets_is_not_waited_for(tmp_path: Path) -> None:
    """The pools of two benchmarks differ; who chooses one gets all of its queries."""
    more = f"{OUTCOMES}names,c,third,1,,,\n"
    found = formats.read(folder(tmp_path, outcomes=more), datasets=("sums",))
    assert found.models == ("small", "large")
    assert found.ids == ("a", "b")


def test_another_label_is_taken_where_it_is_known(tmp_path: Path) -> None:
    found = formats.read(folder(tmp_path), label="score_again")
    assert found.ids == ("a", "b")
    assert found.score.tolist() == [[0, 1], [0.5, 1]]


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        (("subject=hard",), ("a", "c")),
        (("flagged=1",), ("a", "c")),
        (("flagged=1.0", "subject=easy"), ("c",)),
        (("query=What is 1+1?",), ("b", "c")),
        (("flagged=",), ("b", "c")),
        (("flagged=2",), ("a", "b", "c")),
    ],
)
def test_rules_leave_queries_out(tmp_path: Path, rules: tuple[str, ...], left: tuple[str, ...]) -> None:
    assert formats.read(folder(tmp_path), exclude=rules).ids == left


def test_only_what_every_model_answered_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    gaps = OUTCOMES.replace("sums,b,large,1.0,1,8,3\n", "").replace("names,c,small,0.25,,5,4\n", "")
    assert formats.read(folder(tmp_path, outcomes=gaps)).ids == ("a",)
    found = formats.read(tmp_path, complete=False)
    assert found.ids == ("a", "b", "c")
    assert np.isnan(found.score).tolist() == [[False, False], [False, True], [True, False]]
    assert np.isnan(found.prompt_tokens[1, 1])
    assert formats.read(tmp_path, models=("large", "small"), complete=False).score[2, 0] == 0


def test_an_answer_said_twice_counts_once(tmp_path: Path) -> None:
    twice = f"{OUTCOMES}sums,a,small,1.0,0,7,1\n"
    assert formats.read(folder(tmp_path, outcomes=twice)).fingerprint == formats.read(tmp_path).fingerprint
    assert len(formats.read(folder(tmp_path, queries=f"{QUERIES}sums,a,What is 1+1?,easy,\n"))) == 3
    one_twice = OUTCOMES.replace("names,c,large,0,,6,5", "names,c,small,0.25,,5,4")
    assert formats.read(folder(tmp_path, outcomes=one_twice)).ids == ("a", "b"), "not for two models"


def test_answers_to_queries_that_are_not_there_are_passed_over(tmp_path: Path) -> None:
    other = f"{OUTCOMES}sums,z,small,1,1,1,1\nsums,z,third,what,,,\n"
    assert formats.read(folder(tmp_path, outcomes=other)).models == ("small", "large")


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        (
            {"models": ("smal", "large")},
            "outcomes.csv has no model 'smal'; the nearest is 'small' of small, large",
        ),
        ({"datasets": ("sum",)}, "outcomes.csv has no dataset 'sum'; the nearest is 'sums' of sums, names"),
        (
            {"label": "score_agian"},
            "outcomes.csv has no column 'score_agian'; the nearest is 'score_again' of",
        ),
        ({"exclude": ("subjct=easy",)}, "queries.csv has no column 'subjct'; the nearest is 'subject' of"),
        ({"exclude": ("subject",)}, "'subject' is no rule for what to exclude; write column=value"),
        ({"exclude": ("=easy",)}, "'=easy' is no rule for what to exclude; write column=value"),
        ({"models": ("small",)}, "outcomes.csv has answers of small alone; at least two are needed"),
        (
            {"exclude": ("subject=easy", "subject=hard"), "datasets": ("sums",)},
            "no query of queries.csv is left by what was chosen and excluded",
        ),
    ],
)
def test_a_wrong_choice_is_one_sentence(tmp_path: Path, choices: dict[str, object], sentence: str) -> None:
    assert refusal(folder(tmp_path), **choices).startswith(sentence)


def test_datasets_that_no_table_names_cannot_be_chosen(files: Files) -> None:
    files[1].write_text(files[1].read_text().replace("dataset,", "group,"))
    assert refusal(files[1].parent, datasets=("planted",)).endswith("no dataset 'planted'; it has none")


@pytest.mark.parametrize(
    ("queries", "outcomes", "sentence"),
    [
        (
            "id,query\n",
            "query_id,model,score\n",
            "queries.csv has no column 'query_id'; the nearest is 'query' of id, query",
        ),
        (
            "query_id\n",
            "query_id,model,score\n",
            "queries.csv has no column 'query'; the nearest is 'query_id'",
        ),
        ("query_id,query\na,x\n", "query_id,model\n", "outcomes.csv has no column 'score'"),
        ("query_id,query\na,x\n", "query_id,score\n", "outcomes.csv has no column 'model'"),
        ("query_id,query\n", "query_id,model,score\n", "no query of queries.csv is left"),
        (
            "query_id,query\na,x\n",
            "query_id,model,score\n",
            "outcomes.csv has no score for any of the 1 queries",
        ),
        (
            "query_id,query\na,x\n",
            "query_id,model,score\na,only,1\n",
            "outcomes.csv has answers of only alone",
        ),
        (
            "query_id,query\nb,x\n",
            "query_id,model,score\na,x,1\na,y,1\n",
            "outcomes.csv has no score for any of the 1 queries; do their ids agree?",
        ),
        (
            "query_id,query\na,x\nb,x\n",
            "query_id,model,score\na,x,1\na,z,1\nb,y,1\nb,z,1\n",
            "outcomes.csv has no query that all of 3 models answered; choose fewer (x answered 1 of 2)",
        ),
        ("query_id,query\n,x\n", "query_id,model,score\n", "queries.csv:2: query_id: is empty, or no name"),
        (
            "query_id,query\na,x\nb,y\na,z\n",
            "query_id,model,score\n",
            "queries.csv:4: query: is another text than that of line 2, which has the same id",
        ),
        (
            "query_id,query\na,x\n",
            "query_id,model,score\na,,1\n",
            "outcomes.csv:2: model: is empty, or no name",
        ),
        (
            "query_id,query\na,x\n",
            "query_id,model,score\n,y,1\n",
            "outcomes.csv:2: query_id: is empty, or no name",
        ),
        (
            "query_id,query\na,x\n",
            "query_id,model,score\na,y,1\na,z,0\na,y,1\na,z,1\n",
            "outcomes.csv:5: score: is another score than that of line 3, the same model's for the same",
        ),
    ],
)
def test_tables_that_lack_or_contradict_something_say_what(
    tmp_path: Path, queries: str, outcomes: str, sentence: str
) -> None:
    assert refusal(folder(tmp_path, queries, outcomes)).startswith(sentence)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("n/a,1,1", "score: must be a number from 0 to 1"),
        ("1.01,1,1", "score: must be a number from 0 to 1"),
        ("-0.1,1,1", "score: must be a number from 0 to 1"),
        ("NaN,1,1", "score: must be a number from 0 to 1"),
        ("inf,1,1", "score: must be a number from 0 to 1"),
        (",1,1", "score: is empty; give a number from 0 to 1, or leave the answer out"),
        ("1,-,1", "prompt_tokens: must be a number of 0 or more"),
        ("1,nan,1", "prompt_tokens: must be a number of 0 or more"),
        ("1,1,-3", "completion_tokens: must be a number of 0 or more"),
        ("1,1,inf", "completion_tokens: must be a number of 0 or more"),
    ],
)
def test_a_bad_cell_is_named_by_its_place(tmp_path: Path, row: str, sentence: str) -> None:
    head = "query_id,model,score,prompt_tokens,completion_tokens"
    folder(tmp_path, "query_id,query\na,first\n", f"{head}\na,x,1,,\na,y,{row}\n")
    assert refusal(tmp_path) == f"outcomes.csv:3: {sentence}"


def test_a_bad_cell_of_what_is_not_wanted_does_not_matter(tmp_path: Path) -> None:
    bad = f"{OUTCOMES}names,c,third,bad,,,\nsums,a,fourth,,,,\n"
    found = formats.read(folder(tmp_path, outcomes=bad), models=("small", "large"))
    assert len(found) == 3


def test_an_error_quotes_no_query(tmp_path: Path) -> None:
    secret = "query_id,query\na,secret one\na,secret two\n"
    assert "secret" not in refusal(folder(tmp_path, queries=secret))
    bad = lines(tmp_path / "x.jsonl", [{"query": ["secret"], "model": "m", "score": 1}])
    assert refusal(bad) == "x.jsonl:1: query: must be text"


# One file


LONG = [
    {"query_id": 1, "query": "One?", "model": "small", "score": True, "prompt_tokens": 3, "subject": "easy"},
    {"query_id": 1, "query": "One?", "model": "large", "score": 0.5, "completion_tokens": None},
    {"query_id": 2, "query": "Two?", "model": "small", "score": 0, "prompt_tokens": 4, "subject": None},
    {"query_id": 2, "query": "Two?", "model": "large", "score": "1", "completion_tokens": 9},
]


def test_one_answer_a_line_is_read(tmp_path: Path) -> None:
    found = formats.read(lines(tmp_path / "x.jsonl", LONG))
    assert found.ids == ("1", "2")
    assert found.models == ("small", "large")
    assert found.score.tolist() == [[1, 0.5], [0, 1]]
    assert found.subjects == ("easy", "")
    assert found.prompt_tokens[:, 0].tolist() == [3, 4]
    assert found.completion_tokens[1, 1] == 9


def as_csv(records: list[dict[str, object]]) -> str:
    columns = list(records[0] | records[1])
    cells = [[one.get(column) for column in columns] for one in records]
    rows = [",".join("" if cell is None else str(cell).replace("True", "1") for cell in row) for row in cells]
    return "\n".join((",".join(columns), *rows))


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("x.json", json.dumps(LONG, indent=1)),
        ("X.JSONL", "\n\n".join(map(json.dumps, LONG))),
        ("x.csv", as_csv(LONG)),
    ],
)
@pytest.mark.parametrize("end", ["", ".gz"])
def test_the_name_tells_how_a_file_is_written(tmp_path: Path, name: str, written: str, end: str) -> None:
    plain, path = formats.read(lines(tmp_path / "plain.jsonl", LONG)), tmp_path / f"{name}{end}"
    path.write_bytes(gzip.compress(written.encode(), mtime=0) if end else written.encode())
    assert formats.read(path).fingerprint == plain.fingerprint


def test_one_query_a_line_is_read(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "x.jsonl",
        [
            {"query": "One?", "outcomes": {"small": 0, "large": {"score": 1, "prompt_tokens": 3}}},
            {"query": "Two?", "outcomes": {"large": {"score": 0.5, "completion_tokens": 7}, "small": 1}},
            {"query": "Three?", "outcomes": {"small": 1}},
        ],
    )
    found = formats.read(path)
    assert dict(zip(found.texts, found.score.tolist(), strict=True)) == {"One?": [0, 1], "Two?": [1, 0.5]}
    assert np.nansum(found.prompt_tokens) == 3
    assert np.nansum(found.completion_tokens) == 7
    assert len(formats.read(path, complete=False)) == 3


def test_one_query_a_line_may_hold_more_than_one_label(tmp_path: Path) -> None:
    said = {name: {"score": 1, "strict": 0.5} for name in ("small", "large")}
    path = lines(tmp_path / "x.jsonl", [{"query_id": "q", "query": "One?", "outcomes": said}])
    assert formats.read(path, label="strict").score.tolist() == [[0.5, 0.5]]
    assert refusal(path, label="other").startswith("x.jsonl has no other for any of the 1 queries")


def test_without_ids_equal_texts_are_one_query(tmp_path: Path) -> None:
    bare = [{key: value for key, value in one.items() if key != "query_id"} for one in LONG]
    found = formats.read(lines(tmp_path / "x.jsonl", bare))
    assert len(found) == 2
    assert len(set(found.ids)) == 2
    assert formats.read(tmp_path / "x.jsonl").ids == found.ids, "an id stays the same"


def test_choices_hold_for_records_too(tmp_path: Path) -> None:
    marked = [{**one, "dataset": one["query"], "judge": "a"} for one in LONG]
    other = [{**one, "score": 0.25, "judge": "b"} for one in marked]
    path = lines(tmp_path / "x.jsonl", [*marked, *other, *LONG])
    assert formats.read(path, datasets=("Two?",), exclude=("judge=b",)).score.tolist() == [[0, 1]]
    assert formats.read(path, datasets=("Two?",), exclude=("judge=a",)).score.tolist() == [[0.25, 0.25]]
    assert refusal(path, exclude=("juge=b",)).startswith(
        "x.jsonl has no field 'juge'; the nearest is 'judge'"
    )
    assert refusal(path, datasets=("Three?",)).startswith("x.jsonl has no dataset 'Three?'; the nearest is")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"query": "One?",', "x.jsonl:2: is no valid JSON at column 18 (Expecting"),
        ("[1, 2]", "x.jsonl:2: must be a JSON object"),
        ("[" * 100_000, "x.jsonl:2: holds JSON that is too deep, or a number that is too long"),
        (
            f'{{"score": {"1" * 5000}}}',
            "x.jsonl:2: holds JSON that is too deep, or a number that is too long",
        ),
        ('{"model": "m", "score": 1}', "x.jsonl:2: query: must be text"),
        ('{"query": 7, "model": "m", "score": 1}', "x.jsonl:2: query: must be text"),
        ('{"query": "One?", "score": 1}', "x.jsonl:2: model: is empty, or no name"),
        ('{"query": "One?", "model": ["m"], "score": 1}', "x.jsonl:2: model: is empty, or no name"),
        ('{"query": "One?", "model": "m"}', "x.jsonl:2: score: is empty; give a number from 0 to 1"),
        ('{"query": "One?", "model": "m", "score": null}', "x.jsonl:2: score: is empty; give a number"),
        ('{"query": "One?", "model": "m", "score": NaN}', "x.jsonl:2: score: must be a number from 0 to 1"),
        (
            '{"query": "One?", "model": "m", "score": Infinity}',
            "x.jsonl:2: score: must be a number from 0 to 1",
        ),
        ('{"query": "One?", "model": "m", "score": [1]}', "x.jsonl:2: score: must be a number from 0 to 1"),
        (f'{{"query": "One?", "model": "m", "score": {10**400}}}', "x.jsonl:2: score: must be a number from"),
        ('{"query_id": 1, "query": "Two?", "model": "m", "score": 1}', "x.jsonl:2: query: is another text"),
        (
            '{"query_id": 1, "query": "One?", "model": "small", "score": 0}',
            "x.jsonl:2: score: is another score",
        ),
        (
            '{"query_id": {}, "query": "One?", "model": "m", "score": 0}',
            "x.jsonl:2: query_id: is empty, or no",
        ),
    ],
)
def test_a_bad_line_of_json_is_named(tmp_path: Path, line: str, sentence: str) -> None:
    path = lines(tmp_path / "x.jsonl", LONG[:1])
    path.write_text(f"{path.read_text()}{line}\n")
    assert refusal(path).startswith(sentence)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.jsonl", b"", "x.jsonl holds no records"),
        ("x.json", b"[]", "x.json holds no records"),
        (
            "x.json",
            b'{"query": "One?"}',
            "x.json: must be a list of records; a file with one record a line is",
        ),
        ("x.json", b'[\n{"query": 1},\n{"a" 1}]', "x.json:3: is no valid JSON at column 6"),
        (
            "x.json",
            b'[{"query": "One?", "model": "m", "score": 1}, 7]',
            "x.json: entry 2: must be a JSON object",
        ),
        (
            "x.json",
            b'[{"query": "One?", "model": "m", "score": 2}]',
            "x.json: entry 1: score: must be a number",
        ),
        ("x.jsonl", b'{"query": "\xff"}', "x.jsonl:1: is not UTF-8"),
        ("x.jsonl.gz", b"{}", "x.jsonl.gz: is no gzip file"),
        (
            "x.jsonl",
            b'{"query": "One?", "outcomes": [1]}',
            "x.jsonl:1: outcomes: must be an object from model",
        ),
        (
            "x.jsonl",
            b'{"query": "One?", "outcomes": {"m": {"score": 2}}}',
            "x.jsonl:1: outcomes.m.score: must be a number from 0 to 1",
        ),
        (
            "x.jsonl",
            b'{"query": "One?", "outcomes": {"m": {"score": 1, "prompt_tokens": "many"}}}',
            "x.jsonl:1: outcomes.m.prompt_tokens: must be a number of 0 or more",
        ),
        (
            "x.jsonl",
            b'{"prompt": "One?"}',
            "x.jsonl is of no known shape: it has the fields prompt, and needs query, model and score; a",
        ),
        ("x.csv", b"", "x.csv is of no known shape: it has the columns none"),
        (
            "x.csv",
            b"query,model,scor\n",
            "x.csv has no column 'score'; the nearest is 'scor' of query, model, scor",
        ),
        ("x.txt", b"", "x.txt is none of .csv, .jsonl, .json, .parquet"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path / name).startswith(sentence)


def test_only_a_folder_has_sources_and_what_is_absent_is_named(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", LONG)
    assert refusal(path, source="mine") == "x.jsonl is no folder with sources; leave the source 'mine' out"
    assert refusal(tmp_path / "y.jsonl") == f"there is no file or folder {tmp_path / 'y.jsonl'}"


# Parquet


@pytest.mark.parametrize("by_query", [False, True])
def test_a_parquet_file_reads_as_the_same_lines(tmp_path: Path, by_query: bool) -> None:
    records = [{"query": "One?", "outcomes": {"small": 0.5, "large": {"score": 1}}}] if by_query else LONG
    if by_query:  # a column of Parquet has one type
        records = [{"query": "One?", "outcomes": {"small": {"score": 0.5}, "large": {"score": 1}}}]
    records = [{**one, "score": float(one["score"])} if "score" in one else one for one in records]
    plain, path = formats.read(lines(tmp_path / "x.jsonl", records)), tmp_path / "x.parquet"
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(records), path)
    assert formats.read(path).fingerprint == plain.fingerprint
    path.write_bytes(path.read_bytes()[:-9])
    assert refusal(path) == "x.parquet: is no Parquet file, or not all of one"


def test_a_bad_cell_of_a_parquet_file_is_named_by_its_row(tmp_path: Path) -> None:
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    records = [{"query": "One?", "model": name, "score": score} for name, score in (("m", 1.0), ("n", 1.5))]
    parquet.write_table(arrow.Table.from_pylist(records), tmp_path / "x.parquet")
    assert refusal(tmp_path / "x.parquet") == "x.parquet: row 2: score: must be a number from 0 to 1"


def test_without_pyarrow_a_parquet_file_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refusal(tmp_path / "x.parquet") == (
        'x.parquet needs pyarrow to be read: pip install "headgate[parquet]"'
    )


# Others' files


def routerbench(path: Path, **changes: str) -> Path:
    rows = [
        {
            "sample_id": "mmlu.1",
            "prompt": "['One?\\nA. x', 'And then?']",
            "eval_name": "mmlu",
            "gpt": "1.0",
            "phi": "0.0",
        },
        {"sample_id": "gsm.2", "prompt": "Two?", "eval_name": "gsm", "gpt": "0.5", "phi": "1.0"},
        {"sample_id": "gsm.3", "prompt": "['broken", "eval_name": "gsm", "gpt": "", "phi": "1.0"},
    ]
    for row in rows:
        row |= {
            "gpt|total_cost": "0.1",
            "phi|model_response": "text, with a comma",
            "oracle_model_to_route_to": "gpt",
        }
    rows[1] |= changes
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_routerbenchs_wide_table_is_read(tmp_path: Path) -> None:
    found = formats.read(routerbench(tmp_path / "routerbench.csv"))
    assert found.models == ("gpt", "phi")
    assert found.ids == ("gsm.2", "mmlu.1")
    assert found.texts == ("Two?", "One?\nA. x"), "the first turn of a conversation"
    assert found.score.tolist() == [[0.5, 1], [1, 0]]
    assert found.subjects == ("gsm", "mmlu")
    assert (
        formats.read(tmp_path / "routerbench.csv", datasets=("gsm",), complete=False).texts[1] == "['broken"
    )


def test_a_bad_cell_of_routerbenchs_table_is_named(tmp_path: Path) -> None:
    path = routerbench(tmp_path / "rb.csv", phi="7")
    assert refusal(path) == "rb.csv:3: phi: must be a number from 0 to 1"
    assert refusal(path, label="cost") == "rb.csv has no label 'cost'; the nearest is 'score' of score"


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "routerbench_0shot.pkl").write_bytes(b"cposix\nsystem\n(S'false'\ntR.")
    told = refusal(tmp_path / "routerbench_0shot.pkl")
    assert "to open one runs whatever it holds" in told
    assert "pandas.read_pickle('routerbench_0shot.pkl').to_csv('routerbench_0shot.csv', index=False)" in told


def test_routerarenas_predictions_are_read(tmp_path: Path) -> None:
    usage = {
        "generated_answer": "x",
        "token_usage": {"input_tokens": 11, "output_tokens": 22, "total_tokens": 33},
    }
    entries = [
        {
            "global index": "MMLU_7",
            "prompt": "One?",
            "prediction": model,
            "accuracy": accuracy,
            "generated_result": said,
        }
        for model, accuracy, said in (("gpt", 1.0, usage), ("phi", 0.0, None))
    ]
    waiting = {**entries[0], "global index": "Arc_1", "accuracy": None}
    (tmp_path / "router.json").write_text(json.dumps([*entries, waiting]))
    found = formats.read(tmp_path / "router.json")
    assert found.ids == ("MMLU_7",)
    assert found.subjects == ("MMLU",)
    assert found.models == ("gpt", "phi")
    assert found.score.tolist() == [[1, 0]]
    assert found.prompt_tokens[0, 0] == 11
    assert found.completion_tokens[0, 0] == 22
    assert np.isnan(found.prompt_tokens[0, 1])


def test_a_bad_entry_of_routerarenas_predictions_is_named(tmp_path: Path) -> None:
    entry = {"global index": "MMLU_7", "prompt": "One?", "prediction": "gpt", "accuracy": 3}
    (tmp_path / "r.json").write_text(json.dumps([entry]))
    assert refusal(tmp_path / "r.json") == "r.json: entry 1: accuracy: must be a number from 0 to 1"
    (tmp_path / "r.json").write_text(json.dumps([{**entry, "prediction": None, "accuracy": 1}]))
    assert refusal(tmp_path / "r.json") == "r.json: entry 1: prediction: is empty, or no name"


def routed(query: str, model: str, performance: object, **more: object) -> dict[str, object]:
    return {
        "task_name": "arc",
        "query": query,
        "ground_truth": "A",
        "choices": None,
        "model_name": model,
        "response": "A",
        "token_num": 30,
        "input_tokens": 10,
        "output_tokens": 20,
        "performance": performance,
        **more,
    }


def test_llmrouters_routing_data_is_read(tmp_path: Path) -> None:
    other = {"task_name": "mmlu", "choices": ["x", "y"]}
    records = [
        *(routed("Which?", model, 1.0) for model in ("gpt", "phi")),
        *(routed("Which?", model, 0.0, **other) for model in ("gpt", "phi")),
    ]
    found = formats.read(lines(tmp_path / "routing.jsonl", records))
    assert sorted(zip(found.subjects, found.score.tolist(), strict=True)) == [
        ("arc", [1, 1]),
        ("mmlu", [0, 0]),
    ]
    assert (found.prompt_tokens == 10).all()
    assert (found.completion_tokens == 20).all()
    assert formats.read(tmp_path / "routing.jsonl", datasets=("mmlu",)).subjects == ("mmlu",)


def test_a_bad_line_of_llmrouters_data_is_named(tmp_path: Path) -> None:
    path = lines(tmp_path / "r.jsonl", [routed("One?", "gpt", 1), routed("One?", "phi", "high")])
    assert refusal(path) == "r.jsonl:2: performance: must be a number from 0 to 1"


# Published outcomes

PAIR = ("mixtral-8x7b-instruct-v0.1", "gpt-4-1106-preview")


@needs_real_data
@pytest.mark.parametrize(
    ("source", "choices", "n"),
    [
        ("routellm", {"datasets": ("mmlu",), "models": PAIR, "exclude": ("routellm_contaminated=1",)}, 9856),
        (
            "routellm",
            {"datasets": ("gsm8k",), "label": "score_reparsed", "exclude": ("routellm_contaminated=1",)},
            923,
        ),
        ("mmlu_pro", {"models": (PAIR[0], "gemini-1.5-pro-002")}, 8473),
        ("zeroeval", {"datasets": ("zeroeval-math-l5",)}, 492),
        ("llmrouter", {}, 3894),
    ],
)
def test_published_outcomes_are_read_whole(source: str, choices: dict[str, tuple[str, ...]], n: int) -> None:
    found = formats.read(REAL, source=source, **choices)  # type: ignore[arg-type]
    assert len(found) == n
    datasets.check(found)
    assert not np.isnan(found.score).any()
    assert all(found.subjects)


@needs_real_data
def test_published_benchmarks_that_share_questions_are_told_apart() -> None:
    here = formats.read(REAL, source="routellm", datasets=("gsm8k",))
    there = formats.read(REAL, source="zeroeval", datasets=("zeroeval-gsm",))
    assert len(datasets.leaks(here, there)) == len(here) == len(there)
    with pytest.raises(DataError, match="share 931 of their questions, which 931 of 931 test queries ask"):
        datasets.refuse_leaks(here, there)
    folds = (dict(zip(one.stems, datasets.folds(one, 1, 5).tolist(), strict=True)) for one in (here, there))
    assert next(folds) == next(folds)
