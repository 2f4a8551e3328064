"""The values that flow through the brain: one type per arrow, all frozen.

    Query → features → estimates → Decision

Money is int nano-dollars, probabilities lie in [0, 1], instants are POSIX seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

WHOLE = 32_768
"""Tokens of the longest answer: a draft held back for so many is read whole."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a model charges, in nano-dollars per million tokens."""

    input_nanousd: int
    output_nanousd: int


@dataclass(frozen=True, slots=True)
class Pace:
    """How a model has been answering of late: medians, 0 or more."""

    seconds: float
    """From the call to the end of the answer."""
    tokens: float

    def expected_seconds(self, max_tokens: int) -> float:
        """What an answer is likely to take, less where `max_tokens` cuts the usual one short; 0 does not."""
        if 0 < max_tokens < self.tokens:
            return self.seconds * max_tokens / self.tokens
        return self.seconds


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of the pool."""

    name: str
    price: Price
    context_tokens: int = 0
    """Longest prompt and answer together; 0 means unknown, never excluded."""
    version: str = ""
    capabilities: frozenset[str] = frozenset()
    """What it can do beyond text, in the operator's words."""
    pace: Pace | None = None
    """None means unknown, never excluded."""
    logprobs: bool = False
    """Whether its worker tells the log-probabilities of tokens."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The models a request may use, in the operator's order; at least one.

    `reference` is the model that regret compares with: the dearest unless the operator says otherwise.
    """

    models: tuple[Model, ...]
    reference: str

    def __getitem__(self, name: str) -> Model:
        """The model of that name; KeyError if the pool has none."""
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(model.name == name for model in self.models)


@dataclass(frozen=True, slots=True)
class Objective:
    """What the policy aims at: exactly one of a risk target in (0, 1) or a budget.

    A budget is the mean spend per request in nano-dollars.
    """

    risk_target: float | None = None
    budget_nanousd: int | None = None

    def __post_init__(self) -> None:
        if (self.risk_target is None) == (self.budget_nanousd is None):
            raise ValueError("an objective is either a risk target or a budget")


@dataclass(frozen=True, slots=True)
class Query:
    """What the brain reads of a request; never the whole conversation."""

    text: str
    """The last user turn; of a long one the first and last 4,096 bytes."""
    objective: Objective
    system_bytes: int = 0
    history_turns: int = 0
    history_bytes: int = 0
    prompt_tokens: int = 0
    """Estimated length of the whole conversation in tokens."""
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 0
    """0 means the model's own limit."""
    stops: int = 0
    """Stop strings that were asked for: they may cut a right answer."""
    text_only: bool = True
    pinned: str = ""
    allowed: frozenset[str] | None = None
    """Models that the tenant may use; None means all."""
    required_capabilities: frozenset[str] = frozenset()
    """What the model that answers must be able to do."""
    seconds_left: float = math.inf
    """Until the caller's deadline."""
    hold_back: int = WHOLE
    """Tokens of a draft, at most, that may be written before it is an answer; 0: no draft is read."""
    early_stop: bool = True
    """Whether a draft may be stopped before, where it is not worth its end."""
    hedged: bool = False
    """Whether the reference starts beside a draft: quicker where that is not accepted, and dearer."""
    upgrade_later: bool = False
    """Whether the cheapest model answers at once, and who would have answered instead is named."""
    session_model: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """A model's text before it is accepted. It stays out of the repr, and so out of logs."""

    model: str
    text: str = field(repr=False)
    finished: bool = True
    """The model ended it by itself; else it is still being written, or was cut."""
    declined: bool = False
    """The model said that it does not answer such queries."""
    tokens: int = 0
    logprobs: tuple[float, ...] = ()
    """Of the tokens drawn, natural, at most 0; empty where the worker tells none."""


class Reason(Enum):
    """Why a decision chose its model; the wire has the same names."""

    POLICY = "policy"
    PINNED = "pinned"
    NO_CERTIFICATE = "no_certificate"
    OUTSIDE_CALIBRATION = "outside_calibration"
    BRAIN_FAILED = "brain_failed"
    SESSION = "session"
    ONLY_ELIGIBLE = "only_eligible"


@dataclass(frozen=True, slots=True)
class ModelEstimate:
    """What is expected of one model for one query."""

    model: str
    expected_cost_nanousd: int
    p_correct: float | None = None
    spread: float | None = None
    excluded_because: str = ""
    p_after_draft: float | None = None
    """As `p_correct`, once a draft was read."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a draft of `model` said of every model of the bundle."""

    model: str
    p_correct: tuple[float, ...]
    spread: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Prior:
    """What the query alone says, which a look at a draft begins from: numbers of every model of the
    bundle."""

    logits: tuple[float, ...]
    relative_cost: tuple[float, ...]
    tokens: float
    """Expected of the draft, above 0."""
    further: Mapping[str, float] = field(default_factory=dict)
    """Models whose draft may come next, should this one not do, with the tokens expected of it."""
    shown: Shown | None = None
    """By another model's draft, which was read before this one and is still at hand."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """With `confidence`, at most `risk_target` of `window` covered requests lose quality.

    Quality is compared with `reference`. `lam` is the largest λ for which that is certified; any smaller λ is
    covered too.
    """

    id: str
    loss: str
    risk_target: float
    confidence: float
    lam: float
    n: int
    data_fingerprint: str
    created: float
    reference: str
    expires: float | None = None
    models: tuple[str, ...] = ()
    window: int = 0
    """Over how many requests the share can be checked; 0 means only in the long run."""
    settings: Mapping[str, float] = field(default_factory=dict)
    """The calibrated settings, such as max_temperature and max_prompt_tokens.

    A query outside is not covered.
    """
    slices: tuple[str, ...] = ()
    """Kinds of queries in each of which it holds by itself; empty where it speaks of all of them together."""

    @property
    def hold_back(self) -> int:
        """The hold-back of the policy it speaks of, where that reads drafts."""
        return int(self.settings.get("hold_back", WHOLE))

    def valid_at(self, now: float) -> bool:
        """Whether the certificate has not expired at `now`."""
        return self.expires is None or now < self.expires


@dataclass(frozen=True, slots=True)
class Decision:
    """Which model answers, why, how sure, at what cost."""

    model: str
    reason: Reason
    explanation: str
    estimates: tuple[ModelEstimate, ...]
    lam: float = 0.0
    bundle_version: str = ""
    policy_version: str = ""
    certificate: Certificate | None = None
    """The certificate that covers this decision; None when it is not covered."""
    out_of_distribution: float | None = None
    prior: Prior | None = None
    """Where the model's answer is a draft, to be accepted or not; None where its answer is delivered as it
    is."""
    drafted_by: str = ""
    """The model whose draft was read before this was decided; empty where none was."""
    upgrade: str = ""
    """The model that the policy would rather have had answer than the one that did at once."""

    @property
    def escalated(self) -> bool:
        """Whether a draft was not accepted."""
        return self.drafted_by not in ("", self.model)

    @property
    def expected_cost_nanousd(self) -> int:
        """Expected cost of the chosen model."""
        return next(e.expected_cost_nanousd for e in self.estimates if e.model == self.model)
