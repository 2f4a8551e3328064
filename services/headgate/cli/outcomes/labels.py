"""Samples joined with outcomes: a quality for each answer, or the reason why a sample cannot be used.

Rule 1: what a user says of an answer wins over every scorer; of several, the latest counts.
Rule 2: a sample is used when it has answers of the same models, in the same versions, as the newest one, and
a quality for each.
Rule 3: only queries that a certificate can cover are used: one turn, greedy, uncut, without stop strings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from headgate.adapters.samples import Outcome, Sample

if TYPE_CHECKING:
    from headgate.adapters.sample_reader import Found

EXPIRED = "texts have expired"
OTHER_MODELS = "other models"
OTHER_VERSIONS = "other versions of the models"
UNCOVERED = "settings that no certificate covers"
UNLABELLED = "no quality for every answer"

SKEW_S = 1.0
"""How far the clocks of two gateways may differ."""
Qualities = Mapping[str, float]
"""Quality by model."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Samples that can be used, oldest first, and how many cannot, by reason."""

    rows: tuple[tuple[Sample, Qualities], ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def newest(self) -> Sample | None:
        """The last one; None when there is none."""
        return self.rows[-1][0] if self.rows else None


def label(found: Found, since: float = 0.0, until: float = inf) -> Labelled:
    """Joins samples and outcomes by the rules above.

    Only requests answered from `since` on and before `until`, in POSIX seconds: what a bundle is certified on
    must be newer than what it was trained on.
    """
    given = qualities(found.samples, found.outcomes)
    ordered = sorted((one for one in found.samples if since <= one.at < until), key=lambda sample: sample.at)
    reasons = [_unusable(sample, given[sample.record_id], ordered[-1]) for sample in ordered]
    rows = [
        (sample, given[sample.record_id]) for sample, why in zip(ordered, reasons, strict=True) if not why
    ]
    return Labelled(tuple(rows), Counter(filter(None, reasons)))


def qualities(samples: Iterable[Sample], outcomes: Iterable[Outcome]) -> dict[str, dict[str, float]]:
    """Quality by the sample's `record_id` and by model; answers that nobody judged have none."""
    known = {sample.record_id: sample for sample in samples}
    by_request = _by_request(known.values())
    told: dict[str, dict[str, float]] = {record_id: {} for record_id in known}
    for one in sorted(outcomes, key=lambda outcome: (outcome.source == "user", outcome.at)):
        sample = known.get(one.sample) or _meant(by_request.get((one.tenant, one.request_id), []), one)
        if sample is not None:
            told[sample.record_id][one.model] = one.quality
    return told


def _by_request(samples: Iterable[Sample]) -> dict[tuple[str, str], list[Sample]]:
    """The samples of each request id, latest first: callers may use one twice."""
    found: dict[tuple[str, str], list[Sample]] = {}
    for sample in sorted(samples, key=lambda one: -one.at):
        found.setdefault((sample.tenant, sample.request_id), []).append(sample)
    return found


def _meant(candidates: Iterable[Sample], outcome: Outcome) -> Sample | None:
    """The last one that was answered when the outcome was told."""
    return next((sample for sample in candidates if sample.at <= outcome.at + SKEW_S), None)


def _unusable(sample: Sample, given: Qualities, newest: Sample) -> str:
    """Why the sample cannot be used; empty when it can."""
    versions, wanted = _versions(sample), _versions(newest)
    checks = {
        EXPIRED: not sample.conversation,
        OTHER_MODELS: versions.keys() != wanted.keys(),
        OTHER_VERSIONS: versions != wanted,
        UNCOVERED: not _coverable(sample),
        UNLABELLED: not given.keys() >= versions.keys(),
    }
    return next((reason for reason, holds in checks.items() if holds), "")


def _versions(sample: Sample) -> dict[str, str]:
    return {answer.model: answer.version for answer in sample.answers}


def _coverable(sample: Sample) -> bool:
    settings = sample.settings
    longest = max(answer.completion_tokens for answer in sample.answers)
    uncut = not settings.max_tokens or longest < settings.max_tokens
    return settings.turns == 1 and settings.temperature == 0 and not settings.stops and uncut
