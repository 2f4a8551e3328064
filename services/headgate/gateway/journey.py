"""What is known of a request on its way from the gateway's door to its answer."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from headgate.adapters.status_map import ServiceError
from headgate.adapters.traces import NONE, Span
from headgate.gateway import convert
from headgate.gateway.admission import Caller
from headgate.gateway.entries import Entry
from headgate.gateway.flights import Flight
from headgate.gateway.hedge import Hedge
from headgate.gateway.like_questions import Comparison, Place
from headgate.gateway.semantic_cache import Candidate
from headgate.gateway.watched import Watched
from headgate.router.cost import estimate_tokens
from headgate.router.types import Decision, Draft
from headgate.v1 import router_pb2, types_pb2

HOP_S: Final = 0.005
"""What the gateway keeps of the time left, so that its own word arrives before the caller's deadline."""

Event = router_pb2.StreamGenerateResponse
Deliver = Callable[[Event], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request on arrival. Instants are those of `time.perf_counter`."""

    caller: Caller
    at: float
    deadline: float


@dataclass(frozen=True, slots=True)
class Held:
    """A draft that was not delivered yet."""

    text: list[str]
    finish_reason: types_pb2.FinishReason.ValueType
    usage: types_pb2.Usage
    logprobs: tuple[float, ...]
    pieces: list[router_pb2.Delta]
    """The text as it came; empty unless it is watched."""


@dataclass(slots=True)
class Journey:
    """What is known of a request on its way."""

    arrival: Arrival
    wire: types_pb2.Query
    request_id: str
    deliver: Deliver | None = None
    """Sends an event to the caller; None collects the answer."""
    watched: Watched | None = None
    """What is told beside the text; None unless the caller watches."""
    decision: Decision | None = None
    model: str = ""
    """The model that the caller takes to be answering."""
    cache_status: types_pb2.CacheStatus.ValueType = types_pb2.CACHE_STATUS_BYPASS
    flight: Flight | None = None
    """Where others who ask the same wait for this one's answer."""
    place: Place | None = None
    """Where its question stands among others, where the tenant wants answers of like ones."""
    candidate: Candidate | None = None
    """The question that is most like it, where it gets that one's answer."""
    comparison: Comparison | None = None
    """What its own answer is to be compared with, where one like it has one that is not given."""
    over: bytes = b""
    """The stamp of the entry whose place its answer takes."""
    tags: tuple[str, ...] = ()
    """Of the entry that its answer will be."""
    read_again: Entry | None = None
    """A draft that was kept already, and is read under other terms."""
    fell_back: bool = False
    """Whether another model answers than the policy's choice, because that failed."""
    attempts: list[types_pb2.Attempt] = field(default_factory=list)
    span: Span = NONE
    """The request's own."""
    hops: dict[str, Span] = field(default_factory=dict)
    """Spans of the calls that run, by model."""
    degraded: set[types_pb2.Degradation.ValueType] = field(default_factory=set)
    given: bool = False
    """Whether the caller has a piece of the answer."""
    waited: float = 0.0
    text: list[str] = field(default_factory=list)
    """The answer so far, of the attempt that runs."""
    logprobs: list[float] = field(default_factory=list)
    """Of its tokens, where they were asked for."""
    drafting: bool = False
    """Whether it is a draft, which is read."""
    holding: bool = False
    """Whether it is delivered once it is accepted, and not before."""
    patience: float = math.inf
    """Seconds after which a draft is accepted or not, though the hold-back is not over."""
    hedge: Hedge | None = None
    """The reference's answer, begun beside a draft."""
    wasted_nanousd: int = 0
    """What a hedge cost that was not needed."""
    held: dict[str, Held] = field(default_factory=dict)
    """Drafts that were read, by model."""
    finish_reason: types_pb2.FinishReason.ValueType = types_pb2.FINISH_REASON_UNSPECIFIED
    usage: types_pb2.Usage = field(default_factory=types_pb2.Usage)
    failure: ServiceError | None = None
    upgrade_within_s: int = 0
    """Seconds within which a doubtful answer may be upgraded; 0: not at all."""
    offered: router_pb2.EscalationOffered | None = None
    """Where the policy doubts what is delivered."""
    upgraded: Mapping[str, str] = field(default_factory=dict)
    """What its record tells of the earlier answer that this one upgrades."""

    @classmethod
    def of(
        cls, arrival: Arrival, query: types_pb2.Query, deliver: Deliver | None = None, watch: bool = False
    ) -> Journey:
        """Of a query that has just arrived; one without a name gets it here."""
        request_id = query.request_id or uuid.uuid4().hex
        return cls(arrival, query, request_id, deliver, Watched() if watch else None)

    @property
    def delivered(self) -> bool:
        """Whether text has reached the caller."""
        return self.deliver is not None and bool(self.text) and not self.holding

    def seconds_left(self) -> float:
        """What a call that starts now may take."""
        return self.arrival.deadline - time.perf_counter() - HOP_S

    @property
    def took(self) -> float:
        """Seconds since it arrived."""
        return time.perf_counter() - self.arrival.at

    @property
    def overhead(self) -> float:
        """Seconds spent in the gateway itself so far."""
        return time.perf_counter() - self.arrival.at - self.waited

    @property
    def last_model(self) -> str:
        """The one that was called last, else the one that was chosen."""
        if self.attempts:
            return self.attempts[-1].model
        return self.decision.model if self.decision else ""

    def estimated_usage(self, written: int | None = None) -> types_pb2.Usage:
        """What the attempt that runs has used by now; `written` tokens where they were counted."""
        prompt = sum(estimate_tokens(convert.text(message)) for message in self.wire.messages)
        tokens = estimate_tokens("".join(self.text)) if written is None else written
        return types_pb2.Usage(prompt_tokens=prompt, completion_tokens=tokens, estimated=True)

    def start(self, drafting: bool, holding: bool) -> None:
        """Another attempt begins; nothing of the last one is left but what is held."""
        self.text.clear()
        self.logprobs.clear()
        if self.watched is not None:
            self.watched.clear()
        self.finish_reason, self.usage = types_pb2.FINISH_REASON_UNSPECIFIED, types_pb2.Usage()
        self.drafting, self.holding = drafting, holding

    def so_far(self) -> Held:
        """What the attempt that runs has written."""
        pieces = list(self.watched.pieces) if self.watched is not None else []
        return Held(list(self.text), self.finish_reason, self.usage, tuple(self.logprobs), pieces)

    def hold(self, model: str) -> Draft:
        """What the attempt that just ended wrote; it is held from here on."""
        self.held[model] = self.so_far()
        return Draft(
            model=model,
            text="".join(self.text),
            finished=self.finish_reason == types_pb2.FINISH_REASON_STOP,
            declined=self.finish_reason == types_pb2.FINISH_REASON_DECLINED,
            tokens=self.usage.completion_tokens,
            logprobs=tuple(self.logprobs),
        )

    def wasted(self, answering: str) -> int:
        """Nano-dollars paid for drafts that were not accepted and a hedge that was not needed."""
        drafting = self.decision.drafted_by if self.decision else ""
        wasted = {drafting, *self.held} - {"", answering}
        return self.wasted_nanousd + sum(one.cost_nanousd for one in self.attempts if one.model in wasted)
