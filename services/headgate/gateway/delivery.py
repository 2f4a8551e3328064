"""What a caller is told while its answer comes about: text, and that another model goes on or could."""

from __future__ import annotations

from collections.abc import Iterable

from headgate.adapters import trace_words as words
from headgate.adapters.telemetry import Metrics
from headgate.gateway.journey import Event, Held, Journey
from headgate.gateway.reuse import Reuse
from headgate.v1 import router_pb2


class Delivery:
    """Tells callers, as far as they want to know."""

    def __init__(self, reuse: Reuse, metrics: Metrics) -> None:
        self._reuse = reuse
        self._metrics = metrics

    async def send(self, journey: Journey, event: Event) -> None:
        """Sends an event to who does not wait for the whole answer."""
        if journey.deliver is not None:
            with self._reuse.while_read(journey):
                await journey.deliver(event)

    async def text(self, journey: Journey, text: str, logprobs: Iterable[float] = ()) -> None:
        """A piece of the answer, with its tokens' log-probabilities; sent at once unless it is held back."""
        piece = journey.watched.add(text, logprobs) if journey.watched is not None else None
        if text:
            journey.text.append(text)
            if journey.deliver is not None and not journey.holding:
                await self.send(journey, Event(delta=piece or router_pb2.Delta(text=text)))
                if not journey.given:
                    journey.given = True
                    self._metrics.first_token.labels(journey.model).observe(journey.took)
                    journey.span.event(words.FIRST_TEXT)

    async def release(self, journey: Journey, held: Held) -> None:
        """What was held back is the answer; from here on text is delivered as it comes."""
        journey.holding = False
        journey.text.clear()
        if journey.watched is not None:
            journey.watched.clear()
        for piece in held.pieces or [router_pb2.Delta(text="".join(held.text))]:
            await self.text(journey, piece.text, piece.logprobs)

    async def switch(self, journey: Journey, model: str, escalation: bool) -> None:
        """Tells the caller that another model answers, if it is another than it takes to be answering."""
        left, journey.model = journey.model, model
        if journey.deliver is not None and left != model:
            switched = router_pb2.ModelSwitched(
                from_model=left,
                to_model=model,
                escalation=escalation,
                explanation=_why_switched(journey, left, model, escalation),
                draft=_left_draft(journey, left),
            )
            await self.send(journey, Event(model_switched=switched))

    async def offer(self, journey: Journey) -> None:
        """Tells that another model would do better, where the policy doubts what was delivered."""
        if journey.offered is not None and journey.deliver is not None:
            await journey.deliver(Event(escalation_offered=journey.offered))


def _why_switched(journey: Journey, left: str, model: str, escalation: bool) -> str:
    """Why `model` goes on, in one sentence for people."""
    if escalation and journey.decision is not None:
        return journey.decision.explanation
    failed = str(journey.failure or f"the model {left} failed")
    return f"{failed[:1].upper()}{failed[1:]}, so {model} answers."


def _left_draft(journey: Journey, left: str) -> list[router_pb2.Delta]:
    """The draft of `left` that was not accepted, for who watches."""
    drafting = journey.decision.drafted_by if journey.decision is not None else ""
    return journey.watched.pieces if journey.watched is not None and left == drafting else []
