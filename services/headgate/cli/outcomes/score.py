"""Asks the scorer about samples that have answers without a quality, and writes down what it says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headgate.adapters import samples
from headgate.adapters.samples import Record, Sample
from headgate.cli.outcomes import labels
from headgate.cli.outcomes.scorers import Scorer

if TYPE_CHECKING:
    from headgate.adapters.sample_reader import Found


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of the samples that waited."""

    scored: int
    without_verdict: int


def waiting(found: Found, *, again: bool = False) -> list[Sample]:
    """Samples with texts and an answer that nobody judged yet, oldest first; with `again` all of them."""
    told = labels.qualities(found.samples, found.outcomes)
    open_ones = [
        sample
        for sample in found.samples
        if sample.conversation
        and (again or any(one.model not in told[sample.record_id] for one in sample.answers))
    ]
    return sorted(open_ones, key=lambda sample: sample.at)


def run(
    scorer: Scorer, todo: Iterable[Sample], keep: Callable[[Sequence[Record]], None], step: Callable[[], None]
) -> Scored:
    """Scores one sample after the other and keeps each at once: who stops it loses nothing."""
    scored = without = 0
    for sample in todo:
        given = scorer.score(sample)
        records = [
            samples.score(sample, model, quality, scorer.source, time.time())
            for model, quality in given.items()
        ]
        if records:
            keep(records)
        scored, without = scored + bool(records), without + (not records)
        step()
    return Scored(scored, without)
