"""What `ask --watch` shows of a stream: the answer on stdout, on stderr what is told about it.

Where stdout is no terminal it gets the answer and nothing else, as without --watch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean
from typing import Final

from rich.console import Console
from rich.text import Text

from headgate.cli.words import first, percent, summary
from headgate.client import Answer, AnswerStream, Decision, Delta, EscalationOffered, ModelSwitched
from headgate.client.types import StreamEvent

RAMP: Final = (
    (0.95, "color(28)"),
    (0.8, "color(100)"),
    (0.6, "color(136)"),
    (0.4, "color(166) underline"),
    (0.0, "color(160) underline"),
)
"""From green to red, by the least probability. All of middling brightness, to be read on black and on white
(contrast 3.3 or more on both); whoever does not see the colours sees the lines."""
DOUBTFUL: Final = 0.6
"""Below it tokens are marked where there are no colours."""


class View:
    """Shows one stream."""

    def __init__(self) -> None:
        self._answer, self._story = _console(stderr=False), _console(stderr=True)
        self._begun = self._switched = self._tinted = self._marked = False
        self._offer: EscalationOffered | None = None

    def show(self, stream: AnswerStream) -> Answer:
        """Shows events as they come; a line that was begun is ended even when the stream breaks."""
        try:
            for event in stream:
                self._show(event)
        finally:
            if self._begun:
                print(flush=True)
        return stream.answer

    def close(self, answer: Answer) -> None:
        """What is to be said at the end."""
        accepted = answer.decision.drafted_by and not self._switched
        if accepted:
            self._say(answer.decision.explanation)
        if self._offer is not None:
            self._say(_offered(self._offer))
        if self._tinted:
            self._say(_legend())
        if self._marked:
            self._say(f"‹ › marks tokens with a probability below {percent(DOUBTFUL)}")
        self._say(summary(answer.decision))

    def _show(self, event: StreamEvent) -> None:
        match event:
            case Decision():
                self._say(first(event))
            case Delta():
                self._piece(event)
            case ModelSwitched():
                self._switch(event)
            case EscalationOffered():
                # Told at the end: the answer that it doubts goes on.
                self._offer = event

    def _piece(self, piece: Delta) -> None:
        self._begun = True
        if self._answer.is_terminal:
            self._answer.print(self._tint(piece, self._answer), end="", soft_wrap=True)
        else:
            print(piece.text, end="", flush=True)

    def _switch(self, switched: ModelSwitched) -> None:
        self._switched = True
        if switched.draft:
            draft = Text.assemble(*(self._tint(piece, self._story) for piece in switched.draft))
            draft.stylize("strike")
            self._say(Text(f"draft of {switched.from_model}, not accepted: ") + draft)
        self._say(f"→ {switched.to_model}: {switched.explanation or 'it answers.'}")

    def _tint(self, piece: Delta, console: Console) -> Text:
        """Coloured by the probability of its tokens; without colours, doubtful ones are marked."""
        text, colours = Text(), console.color_system is not None
        for said, probability in tokens(piece):
            mark = not colours and probability is not None and probability < DOUBTFUL
            text.append(f"‹{said}›" if mark else said, style_of(probability))
            self._marked = self._marked or mark
            self._tinted = self._tinted or (colours and probability is not None)
        return text

    def _say(self, told: str | Text) -> None:
        text = told if isinstance(told, Text) else Text(told)
        self._story.print(text, style="dim", soft_wrap=not self._story.is_terminal)


def style_of(probability: float | None) -> str:
    """The tint; none where nothing is known."""
    return "" if probability is None else next(style for least, style in RAMP if probability >= least)


def tokens(piece: Delta) -> Iterator[tuple[str, float | None]]:
    """Tokens with their probabilities; where it does not show which are whose, whole with the mean."""
    told = [math.exp(min(0.0, logprob)) for logprob in piece.logprobs]
    # A token shows one character or more; only the end token shows none.
    if told and len(piece.text) in (len(told), len(told) - 1):
        yield from zip(piece.text, told, strict=False)
    else:
        yield piece.text, fmean(told) if told else None


def _legend() -> Text:
    steps = (Text(f"≥ {percent(least)}" if least else "less", f"not dim {style}") for least, style in RAMP)
    return Text("probability of a token: ") + Text("  ").join(steps)


def _offered(offer: EscalationOffered) -> str:
    asked = (
        f"headgate jobs watch {offer.job_id} shows it" if offer.job_id else f"--model {offer.model} asks it"
    )
    return (
        f"The policy came to doubt this answer after it had begun. {offer.model} is expected to do better "
        f"(gain {offer.gain:.2f}): {asked}."
    )


def _console(*, stderr: bool) -> Console:
    """With NO_COLOR no codes at all: rich alone would still write dim and struck text."""
    console = Console(stderr=stderr, highlight=False)
    return Console(stderr=stderr, highlight=False, color_system=None) if console.no_color else console
