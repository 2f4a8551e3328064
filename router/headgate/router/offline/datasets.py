"""Outcome tables from files: which model answered which query how well.

Two CSV files (plain or .gz) joined on `query_id`:
    queries    query_id, query
    outcomes   query_id, model, score in [0, 1], prompt_tokens, completion_tokens (either may be empty)
and one of prices: model, usd_per_m_input, usd_per_m_output, and `version` where the model has one.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TextIO, cast

import numpy as np
from numpy.typing import NDArray

from headgate.router import features
from headgate.router.cost import estimate_tokens
from headgate.router.features import Features
from headgate.router.types import Objective, Price, Query

_NANO = 10**9
_Array = NDArray[np.float64]


class DataError(Exception):
    """The files do not hold what was asked for; one sentence says what is missing, or which cell is wrong."""


@dataclass(frozen=True)
class Outcomes:
    """n queries answered by M models; every array is (n, M), tokens are NaN where the files do not say."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    models: tuple[str, ...]
    score: _Array
    prompt_tokens: _Array
    completion_tokens: _Array

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.intp]) -> Outcomes:
        """The given rows, in that order."""
        chosen = rows.tolist()
        return replace(
            self,
            ids=tuple(self.ids[row] for row in chosen),
            texts=tuple(self.texts[row] for row in chosen),
            score=self.score[rows],
            prompt_tokens=self.prompt_tokens[rows],
            completion_tokens=self.completion_tokens[rows],
        )

    def with_models(self, models: Sequence[str]) -> Outcomes:
        """The same queries with these models, in this order; DataError if one is missing."""
        missing = [name for name in models if name not in self.models]
        if missing:
            raise DataError(f"the outcomes have no model {missing[0]!r}; they have {', '.join(self.models)}")
        columns = [self.models.index(name) for name in models]
        arrays = (self.score, self.prompt_tokens, self.completion_tokens)
        score, prompt, completion = (array[:, columns] for array in arrays)
        return replace(
            self, models=tuple(models), score=score, prompt_tokens=prompt, completion_tokens=completion
        )

    @cached_property
    def features(self) -> list[Features]:
        """Features of every query, taken as a single user turn."""
        return [features.extract(Query(text, Objective(risk_target=0.5))) for text in self.texts]

    @cached_property
    def estimated_tokens(self) -> _Array:
        """(n,) what `estimate_tokens` says of every prompt."""
        return np.array([estimate_tokens(text) for text in self.texts], dtype=np.float64)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids, models and scores, hexadecimal; the order of rows does not matter."""
        lines = sorted(f"{key}\t{row.tolist()}" for key, row in zip(self.ids, self.score, strict=True))
        return sha256("\n".join(("\t".join(self.models), *lines)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of the price table; `version` is "" where it has none."""

    price: Price
    version: str


def read(queries: Path, outcomes: Path, models: Sequence[str] = (), datasets: Sequence[str] = ()) -> Outcomes:
    """The queries that every model answered; `models` empty means all, `datasets` empty means all.

    DataError if a file lacks a column, a cell is no number in its range, a model is unknown, or nothing is
    left. Rows without a score are passed over.
    """
    texts = {row.text("query_id"): row.text("query") for row in _rows(queries, ("query_id", "query"))}
    wanted = set(datasets)
    cells: dict[str, dict[str, tuple[float, float, float]]] = {}
    found: dict[str, None] = dict.fromkeys(models)
    for row in _rows(outcomes, ("query_id", "model", "score")):
        model = row.text("model")
        if (
            (models and model not in found)
            or (wanted and row.text("dataset") not in wanted)
            or not row.text("score")
        ):
            continue
        found.setdefault(model)
        cell = (
            float(row.number("score", most=1)),
            row.tokens("prompt_tokens"),
            row.tokens("completion_tokens"),
        )
        cells.setdefault(row.text("query_id"), {})[model] = cell
    names = tuple(found)
    ids = sorted(key for key, cell in cells.items() if key in texts and len(cell) == len(names))
    if not ids or len(names) < 2:
        raise DataError(
            f"{outcomes.name} has no query that all of {len(names)} models answered; at least two are needed"
        )
    table = np.array([[cells[key][name] for name in names] for key in ids])
    return Outcomes(
        tuple(ids), tuple(texts[key] for key in ids), names, table[..., 0], table[..., 1], table[..., 2]
    )


def read_prices(path: Path) -> dict[str, Listed]:
    """Prices by model, in nano-dollars per million tokens. DataError as `read`."""
    listed = {}
    for row in _rows(path, ("model", "usd_per_m_input", "usd_per_m_output")):
        price = Price(*(round(row.number(f"usd_per_m_{side}") * _NANO) for side in ("input", "output")))
        listed[row.text("model")] = Listed(price, row.text("version"))
    return listed


def split(outcomes: Outcomes, seed: int, shares: Sequence[float]) -> list[Outcomes]:
    """Parts with the given shares (they sum to 1), drawn with `seed`; equal texts stay together."""
    texts = sorted(set(outcomes.texts))
    order = np.random.default_rng(seed).permutation(len(texts))
    ends = np.round(np.cumsum(shares) * len(texts)).astype(int)
    part_of = {
        texts[i]: int(np.searchsorted(ends, place, side="right")) for place, i in enumerate(order.tolist())
    }
    parts = np.array([part_of[text] for text in outcomes.texts])
    return [outcomes.take(np.flatnonzero(parts == part)) for part in range(len(shares))]


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of a file; `place` is the file's name and the line on which the row ends."""

    place: str
    cells: Mapping[str, str | None]

    def text(self, column: str) -> str:
        """The cell; "" where there is none."""
        return self.cells.get(column) or ""

    def number(self, column: str, most: int | None = None) -> Decimal:
        """The cell, 0 or more and at most `most`; a DataError names its place and never quotes it."""
        try:
            number = Decimal(self.text(column))
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite() or number < 0 or (most is not None and number > most):
            limits = "of 0 or more" if most is None else f"from 0 to {most}"
            raise DataError(f"{self.place}: {column}: must be a number {limits}")
        return number

    def tokens(self, column: str) -> float:
        """The count in the cell; NaN where there is none."""
        return float(self.number(column)) if self.text(column) else float("nan")


def _rows(path: Path, columns: Sequence[str]) -> Iterator[_Row]:
    csv.field_size_limit(1 << 26)
    with _open(path) as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{path.name} has no column {missing[0]!r}; it needs {', '.join(columns)}")
        for cells in reader:
            yield _Row(f"{path.name}:{reader.line_num}", cells)


def _open(path: Path) -> TextIO:
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    if path.suffix == ".gz":
        return cast("TextIO", gzip.open(path, "rt", encoding="utf-8", newline=""))
    return path.open(encoding="utf-8", newline="")
