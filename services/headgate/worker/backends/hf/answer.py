"""One answer in the making: tokens in, chunks out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headgate.worker.backends.base import Chunk, FinishReason, GenerationRequest, Speculation, Token, Usage
from headgate.worker.backends.stops import StopStrings

Decode = Callable[[Sequence[int]], str]
"""Token ids to text, special tokens left out."""

_HALF = "\N{REPLACEMENT CHARACTER}"


class Detokeniser:
    """Turns tokens into text as they come; the pieces, joined, are the text of all tokens.

    A token may hold a part of a character: text goes out only up to where a character is whole. Every piece
    is read together with the tokens of the one before: some tokenizers drop a text's first space.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._told = 0

    def feed(self, token_id: int) -> str:
        """The text that is now sure."""
        self._ids.append(token_id)
        return self._new(whole=True)

    def rest(self) -> str:
        """What was held back, once no more tokens come; half a character reads U+FFFD, as everywhere."""
        return self._new(whole=False)

    def _new(self, *, whole: bool) -> str:
        before, now = self._decode(self._ids[: self._told]), self._decode(self._ids)
        if len(now) <= len(before) or (whole and now.endswith(_HALF)):
            return ""
        self._ids, self._told = self._ids[self._told :], len(self._ids) - self._told
        return now[len(before) :]


class Answer:
    """Knows where one answer ends: an end token, a stop string, or `room` tokens (1 or more)."""

    def __init__(
        self,
        request: GenerationRequest,
        prompt_tokens: int,
        room: int,
        ends: frozenset[int],
        decode: Decode,
        stops: tuple[str, ...] = (),
    ) -> None:
        self._kept = request.logprobs
        self._prompt_tokens = prompt_tokens
        self._room = room
        self._ends = ends
        self._stops = StopStrings((*request.sampling.stop, *stops))
        self._text = Detokeniser(decode)
        self._written = 0
        self.finished = False

    def add(self, token: Token, speculation: Speculation | None = None) -> Chunk:
        """What one more token adds; `speculation` goes on the chunk if it is the last. Not once finished."""
        self._written += 1
        tokens = (token,) if self._kept else ()
        ended = token.token_id in self._ends
        text = "" if ended else self._stops.feed(self._text.feed(token.token_id))
        if not (ended or self._stops.met or self._written >= self._room):
            return Chunk(text, tokens)
        text += self._stops.feed(self._text.rest()) + self._stops.rest()
        self.finished = True
        reason = FinishReason.STOP if ended or self._stops.met else FinishReason.LENGTH
        return Chunk(text, tokens, reason, Usage(self._prompt_tokens, self._written), speculation)
