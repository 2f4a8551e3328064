"""The port between a worker and the engine that writes its answers.

BackendError                       no answer, or not all of it; the sentence may be shown to any caller
├── NotLoadableError               the backend cannot start as configured; says what to change
├── RequestRejectedError           the request is at fault: `field` names the part
│   ├── ContextTooLongError        longer than the model's context
│   └── NotRecordedError           no answer to this query is recorded
├── DeadlinePassedError            the request's own deadline came first
└── UpstreamError                  the engine is at fault
    ├── UpstreamUnavailableError   not reached, or it failed
    ├── UpstreamOverloadedError    it asks to come back later: `retry_after_s`
    ├── UpstreamTimeoutError       it was silent for too long
    ├── UpstreamRefusedError       it turned credentials or model name away: only the operator can help
    └── UpstreamBrokenError        it sent no valid answer, or stopped in the middle of one

The sentences never hold text of a query, an answer, an upstream's body or a key.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol


class BackendError(Exception):
    """The backend gave no answer, or not all of it."""


class NotLoadableError(BackendError):
    """The backend cannot start as configured."""


class RequestRejectedError(BackendError):
    """The request is at fault; `field` is the path of that part on the wire, empty where it is not known."""

    def __init__(self, sentence: str, field: str = "messages") -> None:
        super().__init__(sentence)
        self.field = field


class ContextTooLongError(RequestRejectedError):
    """The conversation does not fit into the model's context."""


class NotRecordedError(RequestRejectedError):
    """No answer to this query is recorded."""


class DeadlinePassedError(BackendError):
    """The request's deadline came before the end of its answer."""


class UpstreamError(BackendError):
    """The engine is at fault."""


class UpstreamUnavailableError(UpstreamError):
    """The engine was not reached, or it failed."""


class UpstreamOverloadedError(UpstreamError):
    """The engine asks to come back after `retry_after_s` seconds, above 0."""

    def __init__(self, sentence: str, retry_after_s: float = 1.0) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


class UpstreamTimeoutError(UpstreamError):
    """The engine was silent for too long."""


class UpstreamRefusedError(UpstreamError):
    """The engine turned the worker's credentials or model name away."""


class UpstreamBrokenError(UpstreamError):
    """The engine sent something that is no answer, or stopped in the middle of one."""


class Role(enum.Enum):
    """Who speaks in a turn; the values are the words of the OpenAI API."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class FinishReason(enum.Enum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    DECLINED = "declined"


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation. The text stays out of the repr, and so out of logs."""

    role: Role
    text: str = field(repr=False)


Conversation = tuple[Turn, ...]
"""Oldest turn first, at least one."""


def question(conversation: Conversation) -> str:
    """The text of the last user turn. Raises RequestRejectedError when there is none."""
    turn = next((turn for turn in reversed(conversation) if turn.role is Role.USER), None)
    if turn is None or not turn.text.strip():
        raise RequestRejectedError("the conversation has no user turn with text in it")
    return turn.text


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn.

    `temperature` 0 (greedy) to 2; `top_p` in (0, 1]; `max_tokens` 0 (the model's own limit) or more;
    `stop` strings end the answer and are not part of it; `seed` None is unseeded.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 0
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A conversation to answer before `deadline`, an instant of `time.monotonic()` in seconds.

    `top_logprobs` 0 to 8 alternatives per token; above 0 only together with `logprobs`.
    """

    conversation: Conversation
    deadline: float
    sampling: Sampling = Sampling()
    logprobs: bool = False
    top_logprobs: int = 0
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that might have been drawn; `token_id` is -1 where the backend does not tell it."""

    token_id: int
    logprob: float
    text: str


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was drawn; `logprob` is natural, before temperature, at most 0."""

    token_id: int
    logprob: float
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written; `estimated` where the engine gave no counts."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Speculation:
    """How speculative decoding went: tokens drafted, those accepted, forward passes of the target model."""

    drafted_tokens: int
    accepted_tokens: int
    target_forwards: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer. Exactly the last one has a finish reason and the usage.

    `tokens` is empty unless asked for. A token's text may stand in a later chunk than the token, and the
    tokens of a stop string have no text at all: only the joined sequences agree.
    """

    text: str
    tokens: tuple[Token, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    speculation: Speculation | None = None
    """On the last chunk only, where a draft model helped."""


@dataclass(frozen=True, slots=True)
class Price:
    """Nano-dollars per million tokens, 0 or more."""

    input_nanousd: int
    output_nanousd: int


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a backend serves. `version` changes whenever answers may change; it is part of cache keys.

    `context_tokens` is the longest conversation and answer together, 0 where the backend cannot know;
    `price` is None where only the operator knows.
    """

    version: str
    context_tokens: int
    logprobs: bool
    price: Price | None
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """What the config says about one model, with the key resolved. Times are seconds.

    `omit` names fields of `Sampling` that the engine does not take; `draft_source` names the draft model of
    speculative decoding, empty for none.
    """

    source: str
    draft_source: str = ""
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    omit: tuple[str, ...] = ()
    price: Price | None = None
    slots: int = 4
    first_token_s: float = 30.0
    idle_s: float = 15.0


class Backend(Protocol):
    """An engine that can answer conversations. One instance lives in one event loop."""

    def __init__(self, settings: BackendSettings) -> None:
        """Only keeps the settings."""

    async def load(self) -> None:
        """Makes ready to generate. Raises NotLoadableError."""

    def describe(self) -> ModelDescription:
        """What is served; the same as long as the instance lives. Only after `load`."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """The answer chunk by chunk, or a BackendError, before or between chunks.

        When the generator is closed or the task that drives it is cancelled, all work on the answer stops:
        a computation after at most one more token (with a draft model, the tokens of one forward pass), an
        upstream's connection at once.
        """

    async def close(self) -> None:
        """Lets go of everything. Harmless when called again."""
