"""Only what nobody has judged is scored, and every score is kept at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from headgate.adapters import samples
from headgate.adapters.sample_reader import Found
from headgate.adapters.samples import Record, Sample, Source
from headgate.cli.outcomes import score
from headgate.cli.outcomes.score import Scored
from tests.unit.sample_rig import SAMPLE, outcome

OLD = replace(SAMPLE, record_id="r0", at=1.0)


@dataclass(frozen=True, slots=True)
class Generous:
    """Finds everything good, except what it has no word for."""

    silent_on: str = ""
    source: Source = "check"

    def score(self, sample: Sample) -> Mapping[str, float]:
        said = {one.model: 1.0 for one in sample.answers}
        return {} if sample.record_id == self.silent_on else said


def test_what_has_a_quality_for_every_answer_waits_for_nobody() -> None:
    told = (outcome("small", 1, sample=OLD), outcome("large", 0, sample=OLD), outcome("small", 1))
    found = Found((SAMPLE, OLD), told)
    assert score.waiting(found) == [SAMPLE]
    assert score.waiting(found, again=True) == [OLD, SAMPLE]


def test_what_has_no_texts_any_more_cannot_be_scored() -> None:
    assert score.waiting(Found((replace(SAMPLE, conversation=()),), ()), again=True) == []


def test_each_sample_is_kept_before_the_next_is_scored() -> None:
    kept: list[list[Record]] = []
    done = score.run(
        Generous(silent_on="r0"), [OLD, SAMPLE], lambda scores: kept.append(list(scores)), lambda: None
    )
    assert done == Scored(scored=1, without_verdict=1)
    [both] = kept
    told = [samples.outcome(one) for one in both]
    assert [(one.sample, one.model, one.quality, one.source) for one in told if one] == [
        ("r1", "small", 1.0, "check"),
        ("r1", "large", 1.0, "check"),
    ]
