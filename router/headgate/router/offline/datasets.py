"""Outcome tables: which model answered which query how well, and what keeps two parts of one honest.

`formats` reads them from files. Prices are read here, from a CSV file (plain or .gz) with the columns model,
usd_per_m_input, usd_per_m_output, and `version` where the model has one.

The *stem* of a query is its question without options, case and punctuation. Equal stems are one question, and
one question is never on two sides of a split, whatever file it came from.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
from numpy.typing import NDArray

from headgate.router import features
from headgate.router.cost import estimate_tokens
from headgate.router.features import Features
from headgate.router.types import Draft, Objective, Price, Query

_NANO = 10**9
_LEAST_QUERIES = 20
_NAMES_SHOWN = 12
_LONGEST_CELL = 1 << 26
_OPTIONS = re.compile(r"\n[ \t]*(?:\([A-H]\)|[A-H][.)]\s)")
"""Where the options begin. Not I: "I." and "II." are statements of the question."""
_ANSWER_FORM = re.compile(r"\n[^\n]*\\boxed\{[^\n]*\s*\Z")
"""A last line that says how the answer is to be written: the same question is asked without it elsewhere."""
_SIGNS = re.compile(r"[\W_]+")
_Array = NDArray[np.float64]
_Cells = Mapping[str, Any]


class DataError(Exception):
    """The files do not hold what was asked for; one sentence says what is missing, or which cell is wrong."""


def unknown(where: str, kind: str, name: str, known: Iterable[str]) -> DataError:
    """The error for a name that `where` does not have; it tells the nearest of those that are known."""
    names = list(known)
    lower = {one.lower(): one for one in names}
    close = get_close_matches(name.lower(), lower, n=1, cutoff=0.4)
    shown = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
    nearest = f"the nearest is {lower[close[0]]!r} of {shown}" if close else f"it has {shown or 'none'}"
    return DataError(f"{where} has no {kind} {name!r}; {nearest}")


def stem(text: str) -> str:
    """The question: no options, no line on the answer's form, lower case, one space for every run of signs.

    A text of nothing but options or signs is its own stem, so that such texts are not one question.
    """
    asked = _OPTIONS.split(_ANSWER_FORM.sub("", text), maxsplit=1)[0]
    return _SIGNS.sub(" ", asked.lower()).strip() or text


@lru_cache(maxsize=1 << 16)
def _features(text: str) -> Features:
    """Parts of a table share the features of its texts."""
    return features.extract(Query(text, Objective(risk_target=0.5)))


@dataclass(frozen=True)
class Outcomes:
    """n queries answered by M models; every array is (n, M), tokens are NaN where the files do not say.

    `score` is in [0, 1], and NaN where a model did not answer, which only `complete=False` lets in.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    models: tuple[str, ...]
    score: _Array
    prompt_tokens: _Array
    completion_tokens: _Array
    subjects: tuple[str, ...] = ()
    """Subject of every query, "" where unknown; left out, all are."""
    drafts: Mapping[str, tuple[Draft, ...]] = field(default_factory=dict)
    """What a model wrote to every query, for models whose answers are recorded."""

    def __post_init__(self) -> None:
        if not self.subjects:
            object.__setattr__(self, "subjects", ("",) * len(self.ids))

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
            subjects=tuple(self.subjects[row] for row in chosen),
            drafts={model: tuple(written[row] for row in chosen) for model, written in self.drafts.items()},
        )

    def with_models(self, models: Sequence[str]) -> Outcomes:
        """The same queries with these models, in this order; DataError if one is missing."""
        missing = [name for name in models if name not in self.models]
        if missing:
            raise unknown("the table of outcomes", "model", missing[0], self.models)
        columns = [self.models.index(name) for name in models]
        arrays = (self.score, self.prompt_tokens, self.completion_tokens)
        score, prompt, completion = (array[:, columns] for array in arrays)
        return replace(
            self, models=tuple(models), score=score, prompt_tokens=prompt, completion_tokens=completion
        )

    @cached_property
    def features(self) -> list[Features]:
        """Features of every query, taken as a single user turn."""
        return [_features(text) for text in self.texts]

    @cached_property
    def estimated_tokens(self) -> _Array:
        """(n,) what `estimate_tokens` says of every prompt."""
        return np.array([estimate_tokens(text) for text in self.texts], dtype=np.float64)

    @cached_property
    def stems(self) -> tuple[str, ...]:
        """Stem of every query."""
        return tuple(map(stem, self.texts))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids, models and scores, hexadecimal; the order of rows does not matter."""
        lines = sorted(f"{key}\t{row.tolist()}" for key, row in zip(self.ids, self.score, strict=True))
        return sha256("\n".join(("\t".join(self.models), *lines)).encode("utf-8", "replace")).hexdigest()


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of the price table; `version` is "" where it has none."""

    price: Price
    version: str


def read_prices(path: Path) -> dict[str, Listed]:
    """Prices by model, in nano-dollars per million tokens. DataError as `table`, and for a bad price."""
    prices = table(path, ("model", "usd_per_m_input", "usd_per_m_output"))
    listed = {}
    for line, cells in prices.rows:
        columns = ("usd_per_m_input", "usd_per_m_output")
        price = Price(*(_nano_dollars(cells[column], prices.at(line, column)) for column in columns))
        listed[cells["model"]] = Listed(price, cells.get("version", ""))
    return listed


def _nano_dollars(cell: str, place: str) -> int:
    """Exact, so not by way of a float."""
    try:
        price = Decimal(cell)
    except InvalidOperation:
        price = Decimal("NaN")
    if not price.is_finite() or price < 0:
        raise DataError(f"{place}: must be a number of 0 or more")
    return round(price * _NANO)


def check(outcomes: Outcomes) -> None:
    """DataError if nothing can be learned: too few queries, or a model whose scores are all alike."""
    n = len(outcomes)
    if n < _LEAST_QUERIES:
        few = "1 query is" if n == 1 else f"{n} queries are"
        raise DataError(f"{few} too few to learn from; bring {_LEAST_QUERIES} or more, better some thousands")
    for name, column in zip(outcomes.models, outcomes.score.T, strict=True):
        _check_scores(name, column[~np.isnan(column)])


def _check_scores(model: str, known: _Array) -> None:
    if not len(known):
        raise DataError(f"model {model!r} answered none of the queries; leave it out")
    if known.min() == known.max():
        does = {1.0: "is right", 0.0: "is wrong"}.get(float(known[0]), f"scores {known[0]:g}")
        alike = f"model {model!r} {does} on all {len(known):,} queries: there is nothing to learn"
        raise DataError(f"{alike}; leave it out, or bring queries of other difficulty")


def split(outcomes: Outcomes, seed: int, shares: Sequence[float]) -> list[Outcomes]:
    """Parts with the given shares of the questions (they sum to 1), drawn with `seed`.

    Equal stems stay together. Where no two texts share one, the parts are those of a split by text.
    """
    first: dict[str, str] = {}
    for one, text in zip(outcomes.stems, outcomes.texts, strict=True):
        first[one] = min(first.get(one, text), text)
    stems = sorted(first, key=first.__getitem__)
    order = np.random.default_rng(seed).permutation(len(stems))
    ends = np.round(np.cumsum(shares) * len(stems)).astype(int)
    part_of = {
        stems[i]: int(np.searchsorted(ends, place, side="right")) for place, i in enumerate(order.tolist())
    }
    parts = np.array([part_of[one] for one in outcomes.stems])
    return [outcomes.take(np.flatnonzero(parts == part)) for part in range(len(shares))]


def folds(outcomes: Outcomes, seed: int, k: int) -> NDArray[np.intp]:
    """(n,) the fold of every query, in [0, k): a hash of seed and stem, the same in every table."""
    digests = (sha256(f"{seed}\n{one}".encode("utf-8", "replace")).digest() for one in outcomes.stems)
    return np.array([int.from_bytes(digest[:8], "big") % k for digest in digests], dtype=np.intp)


def leaks(a: Outcomes, b: Outcomes) -> tuple[str, ...]:
    """Stems on both sides, sorted."""
    return tuple(sorted(set(a.stems) & set(b.stems)))


def refuse_leaks(train: Outcomes, test: Outcomes) -> None:
    """DataError if the two share questions: what was learned by heart would be measured as skill."""
    both = set(leaks(train, test))
    if both:
        queries = sum(one in both for one in test.stems)
        shared = f"{len(both):,} of their questions, which {queries:,} of {len(test):,} test queries ask"
        advice = "take them out of one side, or bring all as one table and let it be split"
        raise DataError(f"train and test share {shared}; {advice}")


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one file, each (its line, its cells); `kind` is what the file calls a cell's name."""

    name: str
    columns: tuple[str, ...]
    rows: Iterator[tuple[int, _Cells]]
    kind: str = "column"
    unit: str = "line"
    """What the numbers count."""

    def at(self, line: int, column: str) -> str:
        """Where a cell stands."""
        if self.unit == "line":
            return f"{self.name}:{line}: {column}"
        return f"{self.name}: {self.unit} {line}: {column}"

    def require(self, columns: Iterable[str]) -> None:
        """DataError if a column is missing."""
        for column in columns:
            if column not in self.columns:
                raise unknown(self.name, self.kind, column, self.columns)


def table(path: Path, needed: Iterable[str]) -> Rows:
    """A CSV file, plain or .gz, whose first line names its columns.

    DataError if it lacks one that is needed; on the way through the rows, if it is no whole file, no UTF-8,
    no CSV, or a row has more or fewer cells than there are columns.
    """
    lines = _lines(path)
    _, header = next(lines, (1, []))
    rows = ((line, dict(zip(header, cells, strict=True))) for line, cells in lines)
    found = Rows(path.name, tuple(header), rows)
    found.require(needed)
    return found


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The cells of every row, the header first, with the line on which the row ends; no empty lines."""
    csv.field_size_limit(_LONGEST_CELL)
    columns = ended = 0
    with opened(path) as file:
        reader = csv.reader(file, strict=True)  # or a quote that is never closed would swallow the rest
        try:
            for cells in reader:
                ended = reader.line_num
                columns = columns or len(cells)
                if cells and len(cells) != columns:
                    raise _torn(f"{path.name}:{ended}", len(cells), columns)
                if cells:
                    yield ended, cells
        except csv.Error as error:
            raise DataError(f"{path.name}:{ended + 1}: is no valid CSV ({error})") from error


def _torn(place: str, cells: int, columns: int) -> DataError:
    advice = "quote a text that holds commas or line breaks"
    return DataError(f"{place}: has {cells} cells where the first line has {columns}; {advice}")


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """The file as text, unpacked if its name ends in .gz; DataError, also while it is read, if it is none."""
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        with _open(path) as file:
            yield file
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}:{_undecodable(path)}: is not UTF-8; save the file as UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path.name}: is no gzip file, or not all of one; pack it again") from error
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read ({error.strerror})") from error


def _open(path: Path) -> TextIO:
    """A byte order mark, as spreadsheets write it, is no part of the text."""
    if path.suffix == ".gz":
        return cast("TextIO", gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def _undecodable(path: Path) -> int:
    """Number of the first line that is not UTF-8: text is decoded ahead of the line that is being read."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1
