"""What the client takes and gives: plain frozen values, no protobuf.

Money is int nano-dollars (10⁻⁹ USD), as on the wire; `usd` turns it into an exact decimal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypedDict

Role = Literal["system", "user", "assistant"]
OutcomeSource = Literal["user", "judge", "check"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    text: str


Conversation = str | Sequence[Message | Mapping[str, str]]
"""One question, or turns, oldest first; a mapping has the keys `role` and `content`."""


class Options(TypedDict, total=False):
    """What a query may say beyond its text. Leaving a key out means the model's or the tenant's default."""

    model: str
    """Pins a model of the pool."""
    risk_target: float
    """Largest share of requests, in (0, 1), that may lose quality against the reference model."""
    budget_nanousd: int
    """Mean spend per request; not together with `risk_target`."""
    hold_back_tokens: int
    """How much of a draft is read before it is an answer, at most: 0 reads none, 32,768 whole ones."""
    early_stop: bool
    """Whether a draft is stopped while it is being written, where it is not worth its end."""
    upgrade_later: bool
    """Whether the cheapest model answers at once, and a dearer one later, as a job, where it is in doubt."""
    temperature: float
    """0 (greedy) to 2."""
    top_p: float
    """Above 0, at most 1."""
    max_tokens: int
    """1 to 32,768."""
    stop: Sequence[str]
    """At most 8."""
    seed: int
    session: str
    """Keeps the model over several queries."""
    request_id: str
    """1 to 128 of [A-Za-z0-9._:-]; made by the gateway when left out."""
    metadata: Mapping[str, str]
    """Labels for the record."""
    required_capabilities: Sequence[str]
    """Tags that the model which answers must have; at most 16."""
    cache_tags: Sequence[str]
    """Mark the kept answer, so that it can be purged with others; at most 8."""
    cache_bypass: bool
    """Whether the answer is neither taken from the cache nor kept there."""
    exact_only: bool
    """Whether answers to other queries that mean the same are refused."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the delivered answer."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool


@dataclass(frozen=True, slots=True)
class ModelEstimate:
    """What was expected of one model."""

    model: str
    expected_cost_nanousd: int
    p_correct: float | None
    """Calibrated probability that this model's answer is good; None when nothing was estimated."""
    spread: float | None
    """Epistemic standard deviation of `p_correct`."""
    excluded_because: str
    """Empty when the model could be chosen."""
    p_correct_after_draft: float | None = None
    """As `p_correct`, once a draft was read; None when none was."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """With `confidence`, at most `risk_target` of covered requests lose quality against `reference_model`,

    counted over `window` of them.
    """

    id: str
    loss: str
    risk_target: float
    confidence: float
    n: int
    data_fingerprint: str
    created: datetime | None
    expires: datetime | None
    reference_model: str
    window: int
    """Over how many covered requests that can be checked; 0 means only in the long run."""
    slices: tuple[str, ...] = ()
    """Kinds of queries in each of which it holds by itself; empty where it speaks of all of them together."""
    semantic_wrong_hits: float = 0.0
    """What of `risk_target` is the semantic cache's; 0 where that is off."""


@dataclass(frozen=True, slots=True)
class SemanticHit:
    """Why the answer to another question was given."""

    similarity: float
    """Cosine of the two questions' vectors, in [-1, 1]."""
    wrong_hits: float
    """The largest share of such answers, in (0, 1), that differ from what the question would have got."""
    confidence: float
    """How sure that is, in (0, 1)."""


@dataclass(frozen=True, slots=True)
class Speculation:
    """How speculative decoding of an answer went; the answer is the target model's own."""

    drafted_tokens: int
    accepted_tokens: int
    target_forwards: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of a worker."""

    model: str
    code: int
    """A google.rpc.Code; 0 is OK."""
    cost_nanousd: int
    duration_s: float
    speculation: Speculation | None = None
    """None where the worker has no draft model."""
    completion_tokens: int = 0
    """What it wrote, delivered or not; an estimate where it did not come to its end."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Which model, why, how sure, at what cost."""

    request_id: str
    model: str
    reason: str
    """`policy`, `pinned`, `no_certificate`, `outside_calibration`, `brain_failed`, `session`,
    `only_eligible`."""
    explanation: str
    estimates: tuple[ModelEstimate, ...]
    lam: float
    expected_cost_nanousd: int
    cost_nanousd: int
    """All attempts; 0 until the answer is finished, and on a hit of either kind."""
    bundle_version: str
    policy_version: str
    certificate: Certificate | None
    """None when this decision is not covered."""
    cache_status: str
    """`hit`, `semantic_hit`, `miss`, `bypass` or `unavailable`; empty when not known yet. `renewed` is
    only in records."""
    attempts: tuple[Attempt, ...]
    degraded: tuple[str, ...]
    """Parts that were missing: `cache`, `ledger`, `brain`, `worker`, `certificate`."""
    overhead_s: float
    """Time in the gateway itself."""
    out_of_distribution: float | None
    drafted_by: str = ""
    """The model whose draft was read first; empty where none was."""
    semantic_hit: SemanticHit | None = None
    """Set exactly if `cache_status` is `semantic_hit`."""

    @property
    def escalated(self) -> bool:
        """Whether a draft was not accepted."""
        return self.drafted_by not in ("", self.model)


@dataclass(frozen=True, slots=True)
class Delta:
    """More text."""

    text: str
    logprobs: tuple[float, ...] = ()
    """Natural logarithms of its tokens' probabilities; empty unless watched, and where nobody tells them."""


@dataclass(frozen=True, slots=True)
class ModelSwitched:
    """Another model goes on with the answer, from its beginning."""

    from_model: str
    to_model: str
    escalation: bool
    """True from uncertainty, false from failure (fallback)."""
    explanation: str = ""
    """Why, in one sentence; empty from a gateway that does not say."""
    draft: tuple[Delta, ...] = ()
    """What was written and not accepted; empty unless watched."""


@dataclass(frozen=True, slots=True)
class EscalationOffered:
    """The policy doubts the answer that it has delivered; pin `model` to ask the dearer one."""

    model: str
    gain: float
    """How much better it is expected to be, in [-1, 1]."""
    job_id: str = ""
    """The job that asks it already, for `jobs.watch`; empty where nobody does."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, and the last event of a good stream."""

    text: str
    finish_reason: str
    """`stop`, `length` or `declined`."""
    usage: Usage
    decision: Decision
    escalation_offered: EscalationOffered | None = None
    """Where the policy doubts it."""


StreamEvent = Decision | Delta | ModelSwitched | EscalationOffered | Answer
"""One decision, then deltas with switches and offers between them, then the answer."""


def usd(nanousd: int) -> Decimal:
    """Dollars, exactly.

    >>> usd(1_250)
    Decimal('0.00000125')
    """
    return Decimal(nanousd).scaleb(-9).normalize() if nanousd else Decimal(0)
