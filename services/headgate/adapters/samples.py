"""What shadow sampling keeps of a request, as its writer and its readers spell it.

    facts   one record in the stream of samples: models, tokens, costs, propensities; no text
    texts   the conversation, its labels and the answers, under a key of the tenant's that expires

A score is an outcome record in the same stream; it names its sample. Readers fold on `record_id`, for a
record may be written more than once, and pass over what they cannot read.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from headgate.router.types import Price

Source = Literal["user", "judge", "check"]
Record = Mapping[str, str]
_SOURCES: Mapping[str, Source] = {
    "OUTCOME_SOURCE_USER": "user",
    "OUTCOME_SOURCE_JUDGE": "judge",
    "OUTCOME_SOURCE_CHECK": "check",
}


@dataclass(frozen=True, slots=True)
class SampledAnswer:
    """What one model said to a sampled query."""

    model: str
    version: str
    price: Price
    prompt_tokens: int
    completion_tokens: int
    cost_nanousd: int
    propensity: float
    """Probability with which this model's answer came to be seen: 1 for the delivered one, else the share."""
    text: str = ""
    """Empty once the texts have expired, and where the model said nothing."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the conversation; `role` as in the protos, such as `ROLE_USER`."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Settings:
    """What of a query a certificate may not cover."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 0
    stops: int = 0
    turns: int = 1
    """Messages of the conversation, system prompts included."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One request that was drawn, with the answers of all models that were asked."""

    record_id: str
    """That of the request's own record in the ledger."""
    tenant: str
    request_id: str
    at: float
    """When the request was answered, in POSIX seconds."""
    delivered: str
    """The model whose answer the caller got."""
    reference: str
    share: float
    """Probability with which the request was drawn."""
    bundle_version: str
    policy_version: str
    settings: Settings
    answers: tuple[SampledAnswer, ...]
    wasted_nanousd: int = 0
    """What a draft cost that was not accepted, beside the delivered answer."""
    conversation: tuple[Turn, ...] = ()
    """Oldest turn first. Empty once the texts have expired."""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def query(self) -> str:
        """The last turn, which is the one that was answered; empty once the texts have expired."""
        return self.conversation[-1].text if self.conversation else ""

    def answer(self, model: str) -> SampledAnswer:
        """What that model said; KeyError if it was not asked."""
        for one in self.answers:
            if one.model == model:
                return one
        raise KeyError(model)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How good somebody or something found one model's answer."""

    record_id: str
    tenant: str
    request_id: str
    model: str
    quality: float
    source: Source
    at: float
    sample: str = ""
    """The sample's `record_id`, where the one who says so knows it."""


def key(tenant: str, record_id: str) -> str:
    """Where a sample's texts are."""
    return f"sample:{tenant}:{record_id}"


def account(tenant: str, day: str) -> str:
    """Where the tenant's samples of a day (ISO, UTC) are charged."""
    return f"budget:{tenant}:shadow:{day}"


def facts(sample: Sample) -> Record:
    """The sample without its texts."""
    answers = [asdict(replace(one, text="")) for one in sample.answers]
    return {
        "kind": "sample",
        "record_id": sample.record_id,
        "tenant": sample.tenant,
        "request_id": sample.request_id,
        "at": f"{sample.at:.3f}",
        "delivered": sample.delivered,
        "reference": sample.reference,
        "share": repr(sample.share),
        "bundle_version": sample.bundle_version,
        "policy_version": sample.policy_version,
        "settings": json.dumps(asdict(sample.settings)),
        "answers": json.dumps(answers),
        "wasted_nanousd": str(sample.wasted_nanousd),
    }


def texts(sample: Sample) -> bytes:
    """The texts alone."""
    kept = {
        "conversation": [[turn.role, turn.text] for turn in sample.conversation],
        "labels": dict(sample.labels),
        "answers": {one.model: one.text for one in sample.answers},
    }
    return json.dumps(kept, ensure_ascii=False).encode()


def read(record: Record) -> Sample | None:
    """The sample of these facts, without texts; None for a record of another kind or shape."""
    if record.get("kind") != "sample":
        return None
    try:
        return _sample(record)
    except (KeyError, TypeError, ValueError):
        return None


def with_texts(sample: Sample, kept: bytes | None) -> Sample:
    """The sample with its texts; as it was where they have expired or cannot be read."""
    try:
        told = json.loads(kept or b"null")
        return replace(
            sample,
            conversation=tuple(Turn(role, text) for role, text in told["conversation"]),
            labels=dict(told["labels"]),
            answers=tuple(replace(one, text=told["answers"][one.model]) for one in sample.answers),
        )
    except (KeyError, TypeError, ValueError):
        return sample


def score(sample: Sample, model: str, quality: float, source: Source, now: float) -> Record:
    """The record of what a scorer says of one model's answer; `now` in POSIX seconds."""
    return {
        "kind": "outcome",
        "record_id": uuid.uuid4().hex,
        "at": f"{now:.3f}",
        "tenant": sample.tenant,
        "request_id": sample.request_id,
        "model": model,
        "quality": repr(quality),
        "source": f"OUTCOME_SOURCE_{source.upper()}",
        "sample": sample.record_id,
    }


def outcome(record: Record) -> Outcome | None:
    """What the record says of an answer; None for a record of another kind or shape."""
    if record.get("kind") != "outcome":
        return None
    try:
        return _outcome(record)
    except (KeyError, ValueError):
        return None


def _sample(record: Record) -> Sample:
    return Sample(
        record_id=record["record_id"],
        tenant=record["tenant"],
        request_id=record["request_id"],
        at=float(record["at"]),
        delivered=record["delivered"],
        reference=record["reference"],
        share=_share(record["share"]),
        bundle_version=record["bundle_version"],
        policy_version=record["policy_version"],
        settings=Settings(**json.loads(record["settings"])),
        answers=tuple(map(_answer, json.loads(record["answers"]))),
        wasted_nanousd=int(record.get("wasted_nanousd", "0")),
    )


def _answer(told: dict[str, Any]) -> SampledAnswer:
    return SampledAnswer(**{**told, "price": Price(**told["price"])})


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise ValueError("a share is above 0 and at most 1")
    return share


def _outcome(record: Record) -> Outcome:
    quality = float(record["quality"])
    if not 0 <= quality <= 1:
        raise ValueError("a quality is from 0 to 1")
    return Outcome(
        record_id=record["record_id"],
        tenant=record["tenant"],
        request_id=record["request_id"],
        model=record["model"],
        quality=quality,
        source=_SOURCES[record["source"]],
        at=float(record["at"]),
        sample=record.get("sample", ""),
    )
