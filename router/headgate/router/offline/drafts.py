"""Recorded drafts: what the models of a table wrote, beside how good it was.

    [SOURCE.]responses.csv   query_id, model, response, [dataset, tokens, finish_reason, logprobs]

plain or .gz, beside the tables of the same source. `finish_reason` is "stop" unless the answer was cut;
`logprobs` is a JSON list of the log-probabilities of its tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headgate.router import evidence, features
from headgate.router.cost import estimate_tokens
from headgate.router.evidence import Evidence
from headgate.router.offline.datasets import DataError, Outcomes, Rows, table, unknown
from headgate.router.types import Draft

FILE = "responses.csv"


def read(folder: Path, source: str, outcomes: Outcomes, models: Sequence[str]) -> Outcomes:
    """The queries of which drafts of all these models are recorded, with them.

    DataError if there is no file of responses, a cell of it is wrong, or it has no draft of one of the
    models.
    """
    file = table(_path(folder, source), ("query_id", "model", "response"))
    wanted = set(outcomes.ids)
    found: dict[str, dict[str, Draft]] = {model: {} for model in models}
    named: set[str] = set()
    for line, cells in file.rows:
        named.add(cells["model"])
        if cells["model"] in found and cells["query_id"] in wanted:
            found[cells["model"]][cells["query_id"]] = _draft(file, line, cells)
    for model, by_id in found.items():
        if not by_id:
            raise unknown(file.name, "model", model, sorted(named))
    rows = [row for row, one in enumerate(outcomes.ids) if all(one in by_id for by_id in found.values())]
    kept = outcomes.take(np.array(rows, dtype=np.intp))
    drafts = {model: tuple(by_id[one] for one in kept.ids) for model, by_id in found.items()}
    return replace(kept, drafts=drafts)


def _path(folder: Path, source: str) -> Path:
    if not folder.is_dir():
        raise DataError(f"drafts are read from {FILE} in a folder of tables, and {folder} is none")
    plain = folder / (f"{source}.{FILE}" if source else FILE)
    packed = plain.with_name(f"{plain.name}.gz")
    if not plain.is_file() and not packed.is_file():
        raise DataError(f"there is no {plain}: drafts need query_id, model, response")
    return plain if plain.is_file() else packed


def _draft(file: Rows, line: int, cells: Mapping[str, Any]) -> Draft:
    text, logprobs = cells["response"], _logprobs(file, line, cells.get("logprobs") or "[]")
    tokens = cells.get("tokens") or ""
    if tokens and not tokens.isdecimal():
        raise DataError(f"{file.at(line, 'tokens')}: must be a count")
    return Draft(
        model=cells["model"],
        text=text,
        finished=(cells.get("finish_reason") or "stop") == "stop",
        tokens=int(tokens) if tokens else len(logprobs) or estimate_tokens(text),
        logprobs=logprobs,
    )


def _logprobs(file: Rows, line: int, cell: str) -> tuple[float, ...]:
    try:
        found = json.loads(cell)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(x, int | float) and x <= 0 for x in found):
        raise DataError(f"{file.at(line, 'logprobs')}: must be a JSON list of numbers of at most 0")
    return tuple(map(float, found))


def seen(outcomes: Outcomes, model: str, logprobs: bool) -> list[Evidence]:
    """The evidence of every draft of the model, of its log-probabilities too if `logprobs`.

    DataError if the table has no drafts of it.
    """
    if model not in outcomes.drafts:
        raise DataError(f"the bundle looks at drafts of {model!r}, and the table has none: add {FILE}")
    pairs = zip(outcomes.texts, outcomes.drafts[model], strict=True)
    return [_seen(features.ends(text), draft if logprobs else silent(draft)) for text, draft in pairs]


def begun(outcomes: Outcomes, model: str, tokens: NDArray[np.intp]) -> Outcomes:
    """With the model's drafts when so many of their tokens (n,), at least 1, were written."""
    pairs = zip(outcomes.drafts[model], tokens.tolist(), strict=True)
    return replace(outcomes, drafts={model: tuple(_begun(*pair) for pair in pairs)})


def _begun(draft: Draft, tokens: int) -> Draft:
    """Where nobody recorded which characters a token has, all have as many."""
    tokens = max(1, min(tokens, draft.tokens))
    chars = math.ceil(len(draft.text) * tokens / max(draft.tokens, 1))
    return replace(
        draft, text=draft.text[:chars], finished=False, tokens=tokens, logprobs=draft.logprobs[:tokens]
    )


def silent(draft: Draft) -> Draft:
    """The draft without log-probabilities: a reader that was not trained on them must not see them."""
    return replace(draft, logprobs=())


@lru_cache(maxsize=1 << 15)
def _seen(text: str, draft: Draft) -> Evidence:
    """Parts of a table share the evidence of its drafts."""
    return evidence.extract(text, draft)


def have_logprobs(outcomes: Outcomes, model: str) -> bool:
    """Whether every draft of the model that is not empty has the log-probabilities of its tokens."""
    return all(draft.logprobs for draft in outcomes.drafts[model] if draft.text)
