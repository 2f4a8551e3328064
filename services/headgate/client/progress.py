"""The order of a stream's events, free of any transport: sync and aio feed the same machine."""

from __future__ import annotations

from headgate.client import convert
from headgate.client.errors import HeadgateError, StreamCut, cut_after, from_status
from headgate.client.types import Answer, Decision, EscalationOffered, StreamEvent
from headgate.v1 import router_pb2


class Progress:
    """What has arrived of one answer."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.decision: Decision | None = None
        self._answer: Answer | None = None
        self._offered: EscalationOffered | None = None

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._pieces)

    @property
    def answer(self) -> Answer:
        """The whole answer; RuntimeError before the stream has ended well."""
        if self._answer is None:
            raise RuntimeError("the stream has not ended yet: read it to its end first")
        return self._answer

    def feed(self, response: router_pb2.StreamGenerateResponse) -> StreamEvent | None:
        """The event in the client's words, None for a kind unknown to this release; raises an error event."""
        kind = response.WhichOneof("event")
        if kind == "decision":
            self.decision = convert.from_decision(response.decision)
            return self.decision
        if kind == "delta":
            self._pieces.append(response.delta.text)
            return convert.from_delta(response.delta)
        if kind == "error":
            raise self.failed(from_status(response.error))
        if kind == "finished":
            self._answer = convert.from_finished(self.text, response.finished, self._offered)
            self.decision = self._answer.decision
            return self._answer
        if kind == "escalation_offered":
            self._offered = convert.from_offered(response.escalation_offered)
            return self._offered
        return convert.from_switched(response.model_switched) if kind == "model_switched" else None

    def ended(self) -> None:
        """The call ended with OK; StreamCut if no terminal event came before."""
        if self._answer is None:
            raise cut_after(self.text, StreamCut("the stream ended without its last event"))

    def failed(self, error: HeadgateError) -> HeadgateError:
        """The error to raise, knowing the text so far."""
        return cut_after(self.text, error)
