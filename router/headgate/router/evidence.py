"""What a draft shows: its text's n-grams and numbers that a reader, or the model itself, would doubt it by.

    ngrams    as those of a query, of the draft's text
    numbers   length, numbers and where they come from, equations that fail, repetition, hedges, the form that
              was asked for; and where the worker tells them, log-probabilities of the draft's tokens

Like the query's features it depends on no data; a change of any number is a new SCHEMA.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import log, log1p

import numpy as np
from numpy.typing import NDArray

from headgate.router import features
from headgate.router.arithmetic import equations
from headgate.router.types import Draft, Objective, Query

SCHEMA = 1
_TEXT = (
    *("bytes", "words", "lines", "paragraphs", "query_bytes", "bytes_per_query_byte"),
    *("numbers", "new_numbers", "share_of_query_numbers", "longest_number"),
    *("last_number_digits", "last_number_decimal", "last_number_repeats", "last_number_in_query"),
    *("equals_signs", "equations_hold", "equations_fail", "an_equation_fails"),
    *("repeated", "hedges", "refuses", "names_an_answer", "boxes", "ends_closed"),
    *("options", "asked_options", "answers_an_option", "asked_json", "is_json"),
    *("finished", "tokens"),
)
_LOGPROB = (
    *("mean_logprob", "least_logprob", "logprob_q05", "logprob_q25", "logprob_q50", "sum_logprob"),
    *("last_logprob", "least_logprob_of_first", "share_unsure"),
)
NUMBERS = (*_TEXT, *_LOGPROB)
"""Names of the numbers; counts are log(1 + count), log-probabilities are natural."""

_READ_CHARS = 8192
"""Read from each end of a long draft."""
_GRAM = 4
_FIRST_TOKENS = 8
_UNSURE = log(0.5)
_LEAST_LOGPROB = -20.0
"""Below it a token is as unlikely as any: one of them must not outweigh all others."""

_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_HEDGE = re.compile(
    r"\b(?:however|but|wait|actually|maybe|perhaps|might|not sure|unclear|assum(?:e|ing)|seems?|probably"
    r"|approximately|about|mistake|let me|re-?check|closest|impossible)\b",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\b(?:sorry|apologi[sz]e|cannot|can't|unable|as an ai|not (?:enough|sufficient) information|not possible"
    r"|none of the (?:above|options|given|choices))\b",
    re.IGNORECASE,
)
_ANSWER = re.compile(
    r"answer is:?\s*\**\(?([A-J])?\b|####|\\boxed|\"answer\"|^answer:|final answer",
    re.IGNORECASE | re.MULTILINE,
)
_OPTION = re.compile(r"\(?\b([A-J])\)")
_TAIL_CHARS = 200


@dataclass(frozen=True, slots=True)
class Evidence:
    """`ngrams` (n,) int32 in [1, BUCKETS), `numbers` (len(NUMBERS),) float32."""

    ngrams: NDArray[np.int32]
    numbers: NDArray[np.float32]


def extract(question: str, draft: Draft) -> Evidence:
    """The evidence of a draft that answers `question`; any text is fine, the empty one included."""
    text = _ends(draft.text)
    ngrams = features.extract(Query(text, Objective(risk_target=0.5))).ngrams
    numbers = (*_text_numbers(question, text, draft), *_logprob_numbers(draft.logprobs))
    return Evidence(ngrams, np.array(numbers, dtype=np.float32))


def _ends(text: str) -> str:
    return text if len(text) <= 2 * _READ_CHARS else text[:_READ_CHARS] + text[-_READ_CHARS:]


def _text_numbers(question: str, text: str, draft: Draft) -> tuple[float, ...]:
    words = text.lower().split()
    lines = [line for line in text.splitlines() if line.strip()]
    return (
        *_logs(len(text), len(words), len(lines), text.count("\n\n"), len(question)),
        log1p(len(text)) - log1p(len(question)),
        *_of_numbers(_numbers(question), _numbers(text)),
        *_of_equations(text),
        _repeated(words),
        *_logs(len(_HEDGE.findall(text))),
        *_of_form(question, text),
        float(draft.finished),
        *_logs(draft.tokens),
    )


def _logs(*counts: int) -> list[float]:
    return [log1p(count) for count in counts]


def _numbers(text: str) -> list[str]:
    return [number.replace(",", "") for number in _NUMBER.findall(text)]


def _of_numbers(asked: list[str], said: list[str]) -> tuple[float, ...]:
    last = said[-1] if said else ""
    shared = set(asked) & set(said)
    return (
        *_logs(len(said), len(set(said) - set(asked))),
        len(shared) / max(len(set(asked)), 1),
        *_logs(max(map(len, said), default=0), len(last)),
        float("." in last),
        *_logs(said.count(last) - 1 if last else 0),
        float(last in asked),
    )


def _of_equations(text: str) -> tuple[float, ...]:
    hold, fail = equations(text)
    return (*_logs(text.count("="), hold, fail), float(fail > 0))


def _repeated(words: list[str]) -> float:
    """Share of runs of four words that were said before."""
    grams = [tuple(words[start : start + _GRAM]) for start in range(len(words) - _GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _of_form(question: str, text: str) -> tuple[float, ...]:
    named = _ANSWER.search(text[-_TAIL_CHARS:])
    asked_json = "json" in question.lower()
    return (
        float(bool(_REFUSAL.search(text))),
        float(bool(named)),
        *_logs(text.count("\\boxed")),
        float(text.rstrip()[-1:] in tuple(".!})*")),
        *_logs(len(set(_OPTION.findall(text)))),
        float(len(set(_OPTION.findall(question))) > 1),
        float(bool(named and named[1])),
        float(asked_json),
        float(asked_json and text.strip()[:1] in ("{", "[") and text.strip()[-1:] in ("}", "]")),
    )


def _logprob_numbers(logprobs: tuple[float, ...]) -> tuple[float, ...]:
    """All 0, as if every token had been certain, where the worker tells none."""
    if not logprobs:
        return (0.0,) * len(_LOGPROB)
    known = np.maximum(logprobs, _LEAST_LOGPROB)
    low, quarter, half = np.quantile(known, (0.05, 0.25, 0.5)).tolist()
    return (
        float(known.mean()), float(known.min()), low, quarter, half, float(known.sum()),
        float(known[-1]), float(known[:_FIRST_TOKENS].min()), float((known < _UNSURE).mean()),
    )  # fmt: skip
