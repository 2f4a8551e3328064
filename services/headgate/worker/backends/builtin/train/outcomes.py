"""Outcome tables of the pair: which model answered which worksheet rightly, for training the brain."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headgate.worker.backends.builtin.engine import Completion, Engine, model_version
from headgate.worker.backends.builtin.worksheets import Worksheet, check

DATASET = "worksheets"
_QUERY_COLUMNS = ("dataset", "query_id", "query", "subject", "level")
_OUTCOME_COLUMNS = (
    "dataset",
    "query_id",
    "model",
    "score",
    "cost_usd",
    "prompt_tokens",
    "completion_tokens",
    "response_chars",
)
_RESPONSE_COLUMNS = ("dataset", "query_id", "model", "response", "tokens", "finish_reason", "logprobs")
_PRICE_COLUMNS = ("model", "usd_per_m_input", "usd_per_m_output", "version")
_NANO_PER_MILLION = 1e15


def query_id(question: str) -> str:
    """A stable name of a question: the start of its SHA-256."""
    return f"{DATASET}/{hashlib.sha256(question.encode()).hexdigest()[:16]}"


def write(
    folder: Path,
    sheets: Sequence[Worksheet],
    engines: Mapping[str, Engine],
    prices: Mapping[str, tuple[int, int]],
) -> None:
    """Answers every worksheet with every engine; writes queries, outcomes and responses as `.csv.gz`.

    `prices` are (input, output) nano-dollars per million tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write(
        folder / "queries.csv.gz",
        _QUERY_COLUMNS,
        ((DATASET, query_id(sheet.question), sheet.question, sheet.family, sheet.level) for sheet in sheets),
    )
    answers = {
        name: engine.answer_batch([sheet.question for sheet in sheets]) for name, engine in engines.items()
    }
    outcomes = (row for name, said in answers.items() for row in _outcomes(name, said, sheets, prices[name]))
    _write(folder / "outcomes.csv.gz", _OUTCOME_COLUMNS, outcomes)
    responses = (row for name, said in answers.items() for row in _responses(name, said, sheets))
    _write(folder / "responses.csv.gz", _RESPONSE_COLUMNS, responses)


def write_prices(path: Path, manifest: Mapping[str, Any]) -> None:
    """Writes what each model of a manifest charges, and the version that its worker will name."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_PRICE_COLUMNS)
        for name, entry in manifest.items():
            usd = (entry["price"][side] / 1e9 for side in ("input_nanousd", "output_nanousd"))
            writer.writerow((name, *usd, model_version(entry["sha256"])))


def _responses(
    name: str, completions: Sequence[Completion], sheets: Sequence[Worksheet]
) -> Iterable[tuple[object, ...]]:
    for sheet, completion in zip(sheets, completions, strict=True):
        logprobs = json.dumps([round(min(0.0, one), 4) for one in completion.logprobs])
        tokens, ended = completion.completion_tokens, completion.finish_reason
        yield DATASET, query_id(sheet.question), name, completion.text, tokens, ended, logprobs


def _outcomes(
    name: str, completions: Sequence[Completion], sheets: Sequence[Worksheet], price: tuple[int, int]
) -> Iterable[tuple[object, ...]]:
    for sheet, completion in zip(sheets, completions, strict=True):
        read, written = completion.prompt_tokens, completion.completion_tokens
        cost = (read * price[0] + written * price[1]) / _NANO_PER_MILLION
        yield (
            DATASET,
            query_id(sheet.question),
            name,
            check(sheet, completion.text),
            f"{cost:.15f}",
            read,
            written,
            len(completion.text),
        )


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A gzip CSV whose bytes depend on its content alone."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as text,
    ):
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
