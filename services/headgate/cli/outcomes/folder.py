"""Labelled samples as the tables that training reads."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

from headgate.adapters.samples import Sample
from headgate.cli.outcomes.labels import Labelled, Qualities
from headgate.cli.state import CommandError

QUERIES = ("query_id", "query")
OUTCOMES = ("query_id", "model", "score", "prompt_tokens", "completion_tokens", "propensity")
RESPONSES = ("query_id", "model", "response", "tokens")
PRICES = ("model", "usd_per_m_input", "usd_per_m_output", "version")


@dataclass(frozen=True, slots=True)
class Folder:
    """Where the tables are."""

    queries: Path
    outcomes: Path
    prices: Path
    responses: Path


def write(labelled: Labelled, out: Path) -> Folder:
    """Writes the tables into the folder `out`, readable by its owner alone: they hold what tenants asked.

    CommandError when there is nothing to write.
    """
    if not labelled.rows:
        raise CommandError("no sample has a quality for every answer: run `headgate outcomes score`")
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    names = ("queries", "outcomes", "prices", "responses")
    folder = Folder(*(out / f"{name}.csv" for name in names))
    _table(folder.queries, QUERIES, ((one.record_id, one.query) for one, _ in labelled.rows))
    _table(folder.outcomes, OUTCOMES, (row for one, given in labelled.rows for row in _outcomes(one, given)))
    responses = (row for one, _ in labelled.rows for row in _responses(one))
    _table(folder.responses, RESPONSES, responses)
    _table(folder.prices, PRICES, _prices(labelled.rows[-1][0]))
    return folder


@contextmanager
def temporary(labelled: Labelled) -> Iterator[Path]:
    """A folder with the tables for the time of a block, then no more. CommandError as `write`."""
    with TemporaryDirectory(prefix="headgate-labels-") as folder:
        write(labelled, Path(folder))
        yield Path(folder)


def _table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def _outcomes(sample: Sample, given: Qualities) -> Iterable[Sequence[object]]:
    for one in sample.answers:
        tokens = (one.prompt_tokens, one.completion_tokens)
        yield (sample.record_id, one.model, repr(given[one.model]), *tokens, repr(one.propensity))


def _responses(sample: Sample) -> Iterable[Sequence[object]]:
    """Of samples whose texts have not expired."""
    if sample.conversation:
        for one in sample.answers:
            yield (sample.record_id, one.model, one.text, one.completion_tokens)


def _prices(newest: Sample) -> Iterable[Sequence[object]]:
    for one in newest.answers:
        yield (one.model, _usd(one.price.input_nanousd), _usd(one.price.output_nanousd), one.version)


def _usd(nanousd: int) -> str:
    return f"{Decimal(nanousd).scaleb(-9):f}"
