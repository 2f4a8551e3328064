"""Samples to write, read, label and score in tests."""

from __future__ import annotations

from headgate.adapters import samples
from headgate.adapters.samples import Outcome, Sample, SampledAnswer, Settings, Source, Turn
from headgate.router.types import Price

CANARY = "canary-é-text"


def answer(model: str, propensity: float = 1.0, text: str = CANARY, **fields: object) -> SampledAnswer:
    """What a model said, at 3 nano-dollars for small and 30 for any other."""
    cost = 3 if model == "small" else 30
    told = {
        "version": "v1",
        "price": Price(60_000_000, 2_500_000_000),
        "prompt_tokens": 3,
        "completion_tokens": 4,
    }
    return SampledAnswer(
        model=model, propensity=propensity, text=text, cost_nanousd=cost, **{**told, **fields}
    )  # type: ignore[arg-type]


SAMPLE = Sample(
    record_id="r1", tenant="acme", request_id="q1", at=12.5, delivered="small", reference="large", share=0.25,
    bundle_version="b", policy_version="p", settings=Settings(),
    answers=(answer("small"), answer("large", 0.25)),
    conversation=(Turn("ROLE_USER", f"{CANARY}?"),), labels={"expected": CANARY},
)  # fmt: skip


def outcome(
    model: str, quality: float, source: Source = "check", at: float = 20.0, sample: Sample = SAMPLE
) -> Outcome:
    """What a scorer says of one of the sample's answers."""
    told = samples.outcome(samples.score(sample, model, quality, source, at))
    assert told is not None
    return told
