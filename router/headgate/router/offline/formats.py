"""Outcomes from the files that users have; what a file holds is recognised by its columns.

file                     a row is   columns; those in brackets where known
a folder, two tables:
  [SOURCE.]queries.csv   a query    query_id, query, [dataset, subject, any others]
  [SOURCE.]outcomes.csv  an answer  query_id, model, score, [dataset, prompt_tokens, completion_tokens]
.csv                     an answer  query, model, score, [query_id and all of the above]
.jsonl .json .parquet    an answer  the same
                      or a query    query, outcomes, [query_id, dataset, subject]
RouterBench: .csv        a query    sample_id, prompt, eval_name, and of every model: MODEL, MODEL|total_cost
RouterArena: .json       an answer  global index, prompt, prediction, accuracy, [generated_result]
LLMRouter: .jsonl        an answer  query, model_name, performance, [task_name, input_tokens, output_tokens]

`outcomes` maps every model to its score, or to an object of score, [prompt_tokens, completion_tokens].
Text is UTF-8. Every file but Parquet may be packed (.gz). A .json file is a list of records. Without a
query_id the query's text is its id. What the last three call eval_name, task_name or the beginning of the
global index is dataset and subject here.

Scores are from 0 to 1. An empty `score` is refused: it may be a missing answer or a missing judgement. An
empty cell under another label says that the label does not know the answer. So do an empty score in
RouterBench's wide table and a null accuracy in RouterArena's predictions, which know several models of one
query in their entries for optimality only. RouterArena's data serves evaluation: never train on it.
"""

from __future__ import annotations

import ast
import json
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headgate.router.offline.datasets import DataError, Outcomes, Rows, opened, table, unknown

_LABEL = "score"
_QUERIES, _OUTCOMES = "queries.csv", "outcomes.csv"
_BATCH = 4096
"""Rows of a Parquet file that are held at a time."""
_Cells = Mapping[str, Any]


def read(
    path: Path,
    *,
    source: str = "",
    datasets: Sequence[str] = (),
    models: Sequence[str] = (),
    label: str = _LABEL,
    exclude: Sequence[str] = (),
    complete: bool = True,
) -> Outcomes:
    """The queries that every model answered, by id; models in the order asked for, or as the file has them.

    path      a folder or a file of the shapes above
    source    whose tables, where the folder has those of several
    datasets  only these; empty means all
    models    only these; empty means all
    label     the column that is taken for the score
    exclude   rules "column=value": queries with that value are left out
    complete  False keeps also what only some of the models answered; the other scores are NaN

    DataError with file, line and column if anything is missing, unknown, out of range or contradicts itself.
    """
    wanted = _Wanted(datasets, models, label, exclude, complete)
    if path.is_dir():
        return _joined(*_tables(path, source), wanted)
    if source:
        raise DataError(f"{path.name} is no folder with sources; leave the source {source!r} out")
    return _from_records(_records(path), wanted)


def sources(folder: Path) -> dict[str, Path]:
    """The queries of every source in a folder, by name; the source of a plain queries.csv is "".

    Where a table lies there packed and unpacked, the unpacked one counts.
    """
    packed, plain = folder.glob(f"*{_QUERIES}.gz"), folder.glob(f"*{_QUERIES}")
    named = {path.name.partition(_QUERIES)[0]: path for path in chain(packed, plain)}
    kept = {name.removesuffix("."): path for name, path in named.items() if name == "" or name.endswith(".")}
    return dict(sorted(kept.items()))


def datasets(folder: Path, source: str = "") -> tuple[str, ...]:
    """The datasets that a source's tables name, in their order; one, "", if they name none."""
    for path in _tables(folder, source):
        file = table(path, ())
        if "dataset" in file.columns:
            return tuple(dict.fromkeys(cells["dataset"] for _, cells in file.rows))
    return ("",)


def _tables(folder: Path, source: str) -> tuple[Path, Path]:
    """Queries and outcomes of the source."""
    found = sources(folder)
    if not found:
        either = f"{_QUERIES} and {_OUTCOMES}, or SOURCE.{_QUERIES} and SOURCE.{_OUTCOMES}"
        raise DataError(f"{folder} has no tables: it needs {either}, plain or .gz")
    if not source and "" not in found and len(found) > 1:
        raise DataError(f"{folder} has several sources; choose one of {', '.join(found)}")
    name = source or next(iter(found))
    if name not in found:
        raise unknown(str(folder), "source", name, found)
    plain = folder / (f"{name}.{_OUTCOMES}" if name else _OUTCOMES)
    packed = plain.with_name(f"{plain.name}.gz")
    return found[name], packed if packed.is_file() and not plain.is_file() else plain


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The choices of `read`."""

    datasets: Sequence[str]
    models: Sequence[str]
    label: str
    exclude: Sequence[str]
    complete: bool


def _joined(queries: Path, outcomes: Path, wanted: _Wanted) -> Outcomes:
    names, gathering = _Names(score=wanted.label), _Gathering(wanted)
    asked = table(queries, (names.query_id, names.query))
    for line, cells in asked.rows:
        gathering.ask(asked, line, names.asked(cells), cells)
    answers = table(outcomes, (names.query_id, names.model, names.score))
    for line, cells in answers.rows:
        gathering.answer(answers, line, cells[names.query_id], names.answer(cells))
    return gathering.outcomes(asked, answers)


def _from_records(file: Rows, wanted: _Wanted) -> Outcomes:
    shape, gathering = _shape(file, wanted.label), _Gathering(wanted)
    for line, cells in file.rows:
        asked = shape.asked(cells)
        if asked.query_id is None:
            asked = asked._replace(query_id=_digest(asked.text))
        if wanted.datasets and asked.dataset is None:  # no other table will tell it
            continue
        if gathering.ask(file, line, asked, cells):
            for answer in shape.answers(line, cells):
                gathering.answer(file, line, asked.query_id, answer)
    return gathering.outcomes(file, file)


class _Asked(NamedTuple):
    """A query as a file gives it, unchecked."""

    query_id: Any
    text: Any
    dataset: Any
    subject: Any
    fields: tuple[str, str]
    """What the file calls id and text."""


class _Answer(NamedTuple):
    """One model's answer to a query as a file gives it, unchecked."""

    model: Any
    score: Any
    tokens: tuple[Any, Any]
    dataset: Any
    fields: tuple[str, str, str, str]
    """What the file calls model, score, and tokens read and written."""


class _Gathering:
    """Takes queries and answers row by row, keeps what is wanted, and joins them.

    A query comes before its answers; an answer to a query that was not kept is passed over. The first bad
    cell among what is wanted raises DataError. Answers are flat numbers: a million of them take 48 MB.
    """

    def __init__(self, wanted: _Wanted) -> None:
        """DataError if an exclusion is no rule."""
        self._wanted = wanted
        self._rules = [_rule(one) for one in wanted.exclude]
        self._queries: dict[str, int] = {}
        self._texts: list[str] = []
        self._subjects: list[str] = []
        self._lines: list[int] = []
        self._models = {name: number for number, name in enumerate(dict.fromkeys(wanted.models))}
        self._met_columns: set[str] = set()
        self._met_datasets: dict[str, bool] = {}
        self._met_models: dict[str, bool] = {}
        """Of everything that is met: is it wanted?"""
        self._places = array("q")
        """Line, query and model of one answer after another."""
        self._values = array("d")
        """Score, tokens read and tokens written."""

    def ask(self, file: Rows, line: int, asked: _Asked, cells: _Cells) -> bool:
        """Keeps a query unless a rule or the choice of datasets leaves it out, and says if it did."""
        query_id, text, dataset, subject, (in_id, in_text) = asked
        key = _name(file, line, in_id, query_id)
        if not isinstance(text, str):
            raise DataError(f"{file.at(line, in_text)}: must be text")
        if (self._rules and self._excluded(cells)) or not self._in_datasets(dataset):
            return False
        number = self._queries.setdefault(key, len(self._texts))
        if number == len(self._texts):
            self._texts.append(text)
            self._subjects.append(str(subject or ""))
            self._lines.append(line)
        elif self._texts[number] != text:
            place, first = file.at(line, in_text), f"{file.unit} {self._lines[number]}"
            raise DataError(f"{place}: is another text than that of {first}, which has the same id")
        return True

    def answer(self, file: Rows, line: int, query_id: Any, answer: _Answer) -> None:
        """Keeps an answer if its query was kept and its model is wanted."""
        model, score, (read, written), dataset, (in_model, in_score, in_read, in_written) = answer
        query = self._queries.get(_name(file, line, "query_id", query_id))
        wanted = self._wants(_name(file, line, in_model, model), dataset)
        if query is None or not wanted or (self._wanted.label != _LABEL and _empty(score)):
            return
        number = self._models.setdefault(str(model), len(self._models))
        self._places.extend((line, query, number))
        self._values.append(_score(file, line, in_score, score))
        self._values.append(_tokens(file, line, in_read, read))
        self._values.append(_tokens(file, line, in_written, written))

    def _wants(self, model: str, dataset: Any) -> bool:
        return self._in_datasets(dataset) and self._met_models.setdefault(
            model, not self._wanted.models or model in self._models
        )

    def _excluded(self, cells: _Cells) -> bool:
        there = [(column, value) for column, value in self._rules if column in cells]
        self._met_columns.update(column for column, _ in there)
        return any(_equal(cells[column], value) for column, value in there)

    def _in_datasets(self, dataset: Any) -> bool:
        """True where a table has no such column: then the other one decides."""
        if dataset is None:
            return True
        name, chosen = str(dataset), self._wanted.datasets
        return self._met_datasets.setdefault(name, not chosen or name in chosen)

    def outcomes(self, asked: Rows, answers: Rows) -> Outcomes:
        """What these files gave, as one table."""
        self._refuse_unknown(asked, answers)
        label, n = self._wanted.label, len(self._texts)
        if not n:
            raise DataError(f"no query of {asked.name} is left by what was chosen and excluded")
        if not self._places:
            raise DataError(
                f"{answers.name} has no {label} for any of the {n:,} queries; do their ids agree?"
            )
        first = self._first_answers(answers)
        if len(self._models) < 2:
            only = next(iter(self._models))
            raise DataError(f"{answers.name} has answers of {only} alone; at least two are needed")
        return self._table(first, self._kept(first, answers))

    def _refuse_unknown(self, asked: Rows, answers: Rows) -> None:
        asked.require(column for column, _ in self._rules if column not in self._met_columns)
        for kind, names, met in (
            ("dataset", self._wanted.datasets, self._met_datasets),
            ("model", self._wanted.models, self._met_models),
        ):
            for name in names:
                if name not in met:
                    raise unknown(answers.name, kind, name, met)

    def _numbers(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(3, answers): line, query, model; (3, answers): score, tokens read, tokens written."""
        places = np.frombuffer(self._places, dtype=np.int64)
        return places.reshape(-1, 3).T, np.frombuffer(self._values, dtype=np.float64).reshape(-1, 3).T

    def _first_answers(self, file: Rows) -> NDArray[np.intp]:
        """Places of the answers that do not repeat an earlier one; DataError if one contradicts it."""
        (line, query, model), (score, _, _) = self._numbers()
        cell = query * len(self._models) + model
        order = np.argsort(cell, kind="stable")
        again = np.diff(cell[order], prepend=-1) == 0
        wrong = np.flatnonzero(again & (np.diff(score[order], prepend=0.0) != 0))
        if len(wrong):
            place, first = file.at(line[order[wrong[0]]], self._wanted.label), line[order[wrong[0] - 1]]
            same = f"{file.unit} {first}, the same model's for the same query"
            raise DataError(f"{place}: is another score than that of {same}")
        return np.asarray(order[~again])

    def _kept(self, first: NDArray[np.intp], file: Rows) -> list[int]:
        """Numbers of the queries that enough models answered, in the order of their ids."""
        _, query, model = self._numbers()[0][:, first]
        least = len(self._models) if self._wanted.complete else 1
        kept = np.flatnonzero(np.bincount(query, minlength=len(self._texts)) >= least)
        if not len(kept):
            answered = np.bincount(model, minlength=len(self._models))
            rarest = f"{list(self._models)[int(answered.argmin())]} answered {answered.min():,}"
            of_all = f"{file.name} has no query that all of {len(self._models)} models answered"
            raise DataError(f"{of_all}; choose fewer ({rarest} of {len(self._texts):,})")
        return sorted(kept.tolist(), key=list(self._queries).__getitem__)

    def _table(self, first: NDArray[np.intp], kept: list[int]) -> Outcomes:
        places, values = (numbers[:, first] for numbers in self._numbers())
        row_of = np.full(len(self._texts), -1)
        row_of[kept] = np.arange(len(kept))
        row, model = row_of[places[1]], places[2]
        filled = np.full((3, len(kept), len(self._models)), np.nan)
        filled[:, row[row >= 0], model[row >= 0]] = values[:, row >= 0]
        columns = (list(self._queries), self._texts, self._subjects)
        ids, texts, subjects = (tuple(column[number] for number in kept) for column in columns)
        return Outcomes(ids, texts, tuple(self._models), filled[0], filled[1], filled[2], subjects)


def _rule(text: str) -> tuple[str, str]:
    column, sign, value = text.partition("=")
    if not sign or not column:
        raise DataError(f"{text!r} is no rule for what to exclude; write column=value")
    return column, value


def _equal(cell: Any, value: str) -> bool:
    """As text, or else as numbers: a table that went through pandas says 1.0 for 1."""
    return str(cell) == value or _number(cell) == _number(value)


def _empty(cell: Any) -> bool:
    return cell is None or cell == ""


def _name(file: Rows, line: int, field: str, cell: Any) -> str:
    if isinstance(cell, str) and cell:
        return cell
    if isinstance(cell, int):
        return str(cell)
    raise DataError(f"{file.at(line, field)}: is empty, or no name")


def _score(file: Rows, line: int, field: str, cell: Any) -> float:
    score = _number(cell)
    if 0 <= score <= 1:
        return score
    if _empty(cell):
        advice = "give a number from 0 to 1, or leave the answer out"
        raise DataError(f"{file.at(line, field)}: is empty; {advice}")
    raise DataError(f"{file.at(line, field)}: must be a number from 0 to 1")


def _tokens(file: Rows, line: int, field: str, cell: Any) -> float:
    """NaN where the file does not say."""
    if _empty(cell):
        return np.nan
    tokens = _number(cell)
    if 0 <= tokens <= sys.float_info.max:
        return tokens
    raise DataError(f"{file.at(line, field)}: must be a number of 0 or more")


def _number(cell: Any) -> float:
    """NaN, which equals nothing, if it is none."""
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return np.nan


@dataclass(frozen=True, slots=True)
class _Names:
    """What a file calls the columns."""

    query_id: str = "query_id"
    query: str = "query"
    model: str = "model"
    score: str = _LABEL
    prompt_tokens: str = "prompt_tokens"
    completion_tokens: str = "completion_tokens"
    dataset: str = "dataset"
    subject: str = "subject"

    def asked(self, cells: _Cells) -> _Asked:
        get, fields = cells.get, (self.query_id, self.query)
        return _Asked(get(self.query_id), get(self.query), get(self.dataset), get(self.subject), fields)

    def answer(self, cells: _Cells) -> _Answer:
        get, fields = cells.get, (self.model, self.score, self.prompt_tokens, self.completion_tokens)
        tokens = get(self.prompt_tokens), get(self.completion_tokens)
        return _Answer(get(self.model), get(self.score), tokens, get(self.dataset), fields)


@dataclass(frozen=True, slots=True)
class _Shape:
    """How the records of a file are read; answers are told their line for what they refuse."""

    asked: Callable[[_Cells], _Asked]
    answers: Callable[[int, _Cells], Iterable[_Answer]]


def _shape(file: Rows, label: str) -> _Shape:
    """The shape that the file's columns tell; DataError if they tell none."""
    for columns, make in _SHAPES:
        if columns <= set(file.columns):
            return make(file, label)
    has = f"it has the {file.kind}s {', '.join(file.columns) or 'none'}, and needs query, model and {label}"
    advice = "a table of queries and one of outcomes are read as a folder"
    raise DataError(f"{file.name} is of no known shape: {has}; {advice}")


def _long(file: Rows, label: str) -> _Shape:
    names = _Names(score=label)
    file.require((label,))
    return _Shape(names.asked, lambda line, cells: (names.answer(cells),))


def _by_query(file: Rows, label: str) -> _Shape:
    def answers(line: int, cells: _Cells) -> Iterator[_Answer]:
        outcomes = cells.get("outcomes")
        if not isinstance(outcomes, Mapping):
            raise DataError(f"{file.at(line, 'outcomes')}: must be an object from model to score")
        for model, said in outcomes.items():
            yield _said(model, said if isinstance(said, Mapping) else {_LABEL: said}, label)

    return _Shape(_Names().asked, answers)


def _said(model: str, said: _Cells, label: str) -> _Answer:
    here = f"outcomes.{model}"
    fields = ("outcomes", f"{here}.{label}", f"{here}.prompt_tokens", f"{here}.completion_tokens")
    tokens = said.get("prompt_tokens"), said.get("completion_tokens")
    return _Answer(model, said.get(label), tokens, None, fields)


def _routerbench(file: Rows, label: str) -> _Shape:
    _only_score(file, label)
    there = set(file.columns)
    models = [one for one in file.columns if there & {f"{one}|total_cost", f"{one}|model_response"}]

    def asked(cells: _Cells) -> _Asked:
        text, task = _first_turn(cells["prompt"]), cells["eval_name"]
        return _Asked(cells["sample_id"], text, task, task, ("sample_id", "prompt"))

    def answers(line: int, cells: _Cells) -> Iterator[_Answer]:
        for model in models:
            if not _empty(cells[model]):
                yield _Answer(model, cells[model], (None, None), None, (model, model, "", ""))

    return _Shape(asked, answers)


def _first_turn(prompt: Any) -> Any:
    """RouterBench writes the turns of a conversation as a Python list; a router sees the first."""
    if not isinstance(prompt, str) or not prompt.startswith(("['", '["')):
        return prompt
    try:
        return ast.literal_eval(prompt)[0]
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return prompt


def _routerarena(file: Rows, label: str) -> _Shape:
    _only_score(file, label)
    fields = ("prediction", "accuracy", "input_tokens", "output_tokens")

    def asked(cells: _Cells) -> _Asked:
        key = cells.get("global index")
        benchmark = str(key).rpartition("_")[0]
        return _Asked(key, cells.get("prompt"), benchmark, benchmark, ("global index", "prompt"))

    def answers(line: int, cells: _Cells) -> Iterator[_Answer]:
        usage = _inner(_inner(cells, "generated_result"), "token_usage")
        tokens = usage.get("input_tokens"), usage.get("output_tokens")
        if not _empty(cells.get("accuracy")):
            yield _Answer(cells.get("prediction"), cells["accuracy"], tokens, None, fields)

    return _Shape(asked, answers)


def _inner(cells: _Cells, name: str) -> _Cells:
    """The object under a name; an empty one where there is none."""
    found = cells.get(name)
    return found if isinstance(found, Mapping) else {}


def _llmrouter(file: Rows, label: str) -> _Shape:
    _only_score(file, label)
    names = _Names(
        model="model_name",
        score="performance",
        prompt_tokens="input_tokens",
        completion_tokens="output_tokens",
        dataset="task_name",
        subject="task_name",
    )

    def asked(cells: _Cells) -> _Asked:
        """Options are not part of the query here, so equal texts can be two questions."""
        told = [cells.get(name) for name in ("task_name", "query", "choices", "ground_truth")]
        return names.asked(cells)._replace(query_id=_digest(told))

    return _Shape(asked, lambda line, cells: (names.answer(cells),))


def _only_score(file: Rows, label: str) -> None:
    if label != _LABEL:
        raise unknown(file.name, "label", label, (_LABEL,))


def _digest(value: object) -> str:
    """An id for what has none."""
    return sha256(str(value).encode("utf-8", "replace")).hexdigest()[:16]


_SHAPES: tuple[tuple[set[str], Callable[[Rows, str], _Shape]], ...] = (
    ({"query", "outcomes"}, _by_query),
    ({"query", "model_name", "performance"}, _llmrouter),
    ({"prompt", "global index", "prediction"}, _routerarena),
    ({"prompt", "sample_id", "eval_name"}, _routerbench),
    ({"query", "model"}, _long),
)


def _records(path: Path) -> Rows:
    """The rows of one file, read as its name says."""
    if not path.is_file():
        raise DataError(f"there is no file or folder {path}")
    end = Path(path.name.lower().removesuffix(".gz")).suffix
    if end not in _READERS:
        raise DataError(f"{path.name} is none of {', '.join(_READERS)}, and no folder with tables")
    return _READERS[end](path)


def _json_lines(path: Path) -> Rows:
    name = path.name

    def records() -> Iterator[tuple[int, _Cells]]:
        with opened(path) as file:
            for line, text in enumerate(file, 1):
                if not text.isspace():
                    cells = _json(text.rstrip(), name, line)
                    if not isinstance(cells, dict):
                        raise _no_object(f"{name}:{line}")
                    yield line, cells

    return _with_fields(name, records(), "line")


def _json_list(path: Path) -> Rows:
    with opened(path) as file:
        entries = _json(file.read(), path.name, 1)
    if not isinstance(entries, list):
        raise DataError(f"{path.name}: must be a list of records; a file with one record a line is .jsonl")
    for n, one in enumerate(entries, 1):
        if not isinstance(one, dict):
            raise _no_object(f"{path.name}: entry {n}")
    return _with_fields(path.name, enumerate(entries, 1), "entry")


def _json(text: str, name: str, line: int) -> Any:
    """`line` is where the text begins in the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{name}:{line + error.lineno - 1}"
        raise DataError(f"{place}: is no valid JSON at column {error.colno} ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{name}:{line}: holds JSON that is too deep, or a number that is too long"
        ) from error


def _no_object(place: str) -> DataError:
    return DataError(f"{place}: must be a JSON object")


def _with_fields(name: str, records: Iterator[tuple[int, _Cells]], unit: str) -> Rows:
    """The first record tells the fields."""
    first = next(records, None)
    if first is None:
        raise DataError(f"{name} holds no records")
    return Rows(name, tuple(first[1]), chain((first,), records), "field", unit)


def _parquet(path: Path) -> Rows:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(f'{path.name} needs pyarrow to be read: pip install "headgate[parquet]"') from error

    def records() -> Iterator[_Cells]:
        try:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=_BATCH):
                    yield from batch.to_pylist()
        except (ValueError, OSError) as error:  # what pyarrow raises is one of the two
            raise DataError(f"{path.name}: is no Parquet file, or not all of one") from error

    return _with_fields(path.name, enumerate(records(), 1), "row")


def _pickle(path: Path) -> Rows:
    """Never opened: to open a pickle is to run it."""
    convert = f"import pandas; pandas.read_pickle('{path.name}').to_csv('{path.stem}.csv', index=False)"
    why = f"{path.name} is a pickle, and to open one runs whatever it holds"
    raise DataError(f'{why}; if you trust where it comes from, convert it: python -c "{convert}"')


_READERS: dict[str, Callable[[Path], Rows]] = {
    ".csv": lambda path: table(path, ()),
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".parquet": _parquet,
    ".pkl": _pickle,
    ".pickle": _pickle,
}
