"""Turns the events of an OpenAI-compatible stream into chunks, and knows whether the answer was finished.

Nobody offers the upstream a tool. A model that calls one all the same does not answer the query: it ends as
declined, so that a draft is not accepted and nothing is kept for others.
"""

from __future__ import annotations

from openai.types.chat import ChatCompletionChunk, ChatCompletionTokenLogprob
from openai.types.chat.chat_completion_chunk import Choice

from headgate.worker.backends.base import (
    Alternative,
    Chunk,
    Conversation,
    FinishReason,
    GenerationRequest,
    Token,
    UpstreamBrokenError,
    Usage,
)
from headgate.worker.backends.stops import StopStrings

_UNTOLD_ID = -1
_BYTES_PER_TOKEN = 4
_TOKENS_PER_TURN = 4
_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "tool_calls": FinishReason.DECLINED,
    "function_call": FinishReason.DECLINED,
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.DECLINED,
}


class Transcript:
    """One answer of an upstream as it comes in."""

    def __init__(self, request: GenerationRequest) -> None:
        self._request = request
        self._stops = StopStrings(request.sampling.stop)
        self._finish_reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._bytes = 0
        self._pieces = 0
        self._tokens = 0
        self._declined = False
        self.model: object = None
        """As the upstream calls it."""

    @property
    def started(self) -> bool:
        """Something was written."""
        return self._pieces > 0 or self._tokens > 0

    @property
    def finished(self) -> bool:
        """The upstream said why it ended, or a stop string was met; only the usage may still come."""
        return self._finish_reason is not None

    @property
    def counted(self) -> bool:
        """The usage came."""
        return self._usage is not None

    @property
    def stopped(self) -> bool:
        """A stop string was met that the upstream did not stop at."""
        return self._stops.met

    def read(self, event: ChatCompletionChunk) -> Chunk:
        """What the event adds; often nothing. Raises UpstreamBrokenError for an event of another shape."""
        self.model = self.model or event.model
        try:
            if event.usage is not None:
                self._usage = Usage(event.usage.prompt_tokens, event.usage.completion_tokens)
            choice = next((choice for choice in event.choices if choice.index == 0), None)
            return Chunk("") if choice is None else self._read(choice)
        except (AttributeError, TypeError, ValueError):
            raise UpstreamBrokenError("the upstream sent something that is no answer") from None

    def _read(self, choice: Choice) -> Chunk:
        piece = choice.delta.content or choice.delta.refusal or ""
        # Some servers say "stop" after the call of a tool.
        self._declined = self._declined or bool(
            choice.delta.refusal or choice.delta.tool_calls or choice.delta.function_call
        )
        self._bytes += len(piece.encode())
        self._pieces += bool(piece)
        tokens = self._read_tokens(choice) if self._request.logprobs else ()
        text = self._stops.feed(piece)
        if self._stops.met:
            self._finish_reason = self._ended("stop")
        elif choice.finish_reason is not None:
            self._finish_reason = self._ended(choice.finish_reason)
        return Chunk(text, tokens)

    def _read_tokens(self, choice: Choice) -> tuple[Token, ...]:
        told = choice.logprobs.content if choice.logprobs is not None else None
        tokens = tuple(_token(one, self._request.top_logprobs) for one in told or ())
        self._tokens += len(tokens)
        return tokens

    def _ended(self, reason: str) -> FinishReason:
        if reason not in _FINISH_REASONS:
            raise UpstreamBrokenError("the upstream ended its answer for a reason that is not known")
        return FinishReason.DECLINED if self._declined else _FINISH_REASONS[reason]

    def end(self) -> Chunk:
        """The final chunk. Raises UpstreamBrokenError when the answer was cut."""
        if self._finish_reason is None:
            raise UpstreamBrokenError("the upstream stopped in the middle of its answer")
        return Chunk(self._stops.rest(), (), self._finish_reason, self._usage or self._estimate())

    def _estimate(self) -> Usage:
        # Most servers send one token a piece; some join them.
        written = self._tokens or max(self._pieces, _tokens_of(self._bytes))
        return Usage(_prompt_tokens(self._request.conversation), written, estimated=True)


def _token(told: ChatCompletionTokenLogprob, top: int) -> Token:
    alternatives = tuple(
        Alternative(_UNTOLD_ID, min(0.0, other.logprob), other.token) for other in told.top_logprobs[:top]
    )
    return Token(_UNTOLD_ID, min(0.0, told.logprob), alternatives)


def _prompt_tokens(conversation: Conversation) -> int:
    return sum(_TOKENS_PER_TURN + _tokens_of(len(turn.text.encode())) for turn in conversation)


def _tokens_of(size: int) -> int:
    """Tokens of so many bytes, as a rule of thumb for English text."""
    return -(-size // _BYTES_PER_TOKEN)
