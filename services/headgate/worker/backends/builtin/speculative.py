"""Speculative decoding: a draft model proposes bytes, the target model checks several in one forward pass.

The answer is the target model's own. At temperature 0 a draft is accepted while it is the target's likeliest
byte. Above, a draft x from the draft model's q is accepted with probability min(1, p(x) / q(x)), else a byte
is drawn from (p - q)+ instead; as min(p, q) + (p - q)+ = p, what is written follows the target's p exactly.
When every draft is accepted, the same pass gives one byte more. Leviathan et al. 2023 (arXiv 2211.17192),
Chen et al. 2023 (arXiv 2302.01318). Temperature, top_k and top_p cut p and q alike, before they are compared.

The exported graph takes several positions at any offset, and no position attends past itself: going back is
reading on from an earlier one.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from headgate.worker.backends.builtin.engine import (
    GREEDY,
    Engine,
    Frame,
    Lanes,
    Sampling,
    Step,
    distribution,
)
from headgate.worker.backends.builtin.tokens import CONTEXT, END, WINDOW

Probabilities = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reach:
    """How far to draft before the target model checks.

    At most `most` bytes, 0 or more, and no further once the chance that all of them stand is below
    `least_chance`, 0 to 1; 0 always drafts `most`. The draft model itself gives that chance, as the product
    of its largest probabilities. It is known before a byte is drawn and does not depend on which one is, so
    that stopping favours no byte.

    The defaults were chosen on 120 worksheets (seed 4711, temperatures 0 and 1), where the optimum is flat:
    with `most` from 8 to 15 and a chance from .1 to .7, all are within 10 % of the best. Stopping early
    hardly saves time beside always drafting 12; it drafts less in vain. Longer passes would make a caller who
    leaves be noticed later: one over 13 bytes takes up to twice as long as over one.
    """

    most: int = 12
    least_chance: float = 0.5


@dataclass(slots=True)
class Tally:
    """How an answer went so far: drafted bytes, accepted ones, forward passes of the target model."""

    drafted: int = 0
    accepted: int = 0
    target_forwards: int = 0


@dataclass(frozen=True, slots=True)
class Draft:
    """A proposed byte, and the distribution (128,) that it was drawn from; None where it is the likeliest."""

    token: int
    drawn_from: Probabilities | None = None


class Pair:
    """A target model with a draft model that reads the same bytes.

    Calls from several threads are safe and run side by side.
    """

    def __init__(self, target: Engine, draft: Engine, reach: Reach = Reach()) -> None:
        self._target = target
        self._draft = draft
        self._reach = reach

    def decode(
        self, question: str, sampling: Sampling = GREEDY, tally: Tally | None = None
    ) -> Generator[Step, None, None]:
        """The target model's answer, as `Engine.decode` gives it; `tally` is kept up to date.

        A greedy answer has the same bytes, and log probabilities that differ by rounding. A drawn one has the
        same distribution; a seed repeats it here, but draws another one than without a draft model. Closing
        the iterator stops the work: no further forward pass is made. Raises QuestionTooLongError.
        """
        prompt = self._target.prompt(question)
        with self._target.lane() as checking, self._draft.lane() as drafting:
            text = _Text(prompt)
            answer = _Answer(
                text, _Reader(checking, text), _Reader(drafting, text), _rule(sampling), self._reach
            )
            room = min(sampling.max_tokens, CONTEXT - len(prompt))
            yield from answer.write(room, tally or Tally())


class _Text:
    """Prompt and answer, and behind them what is drafted. `rows` (320, 4) are its windows, a view."""

    def __init__(self, prompt: list[int]) -> None:
        ids = np.zeros(WINDOW - 1 + CONTEXT, np.int32)
        self.rows = sliding_window_view(ids, WINDOW)[:, ::-1]
        self._ids = ids[WINDOW - 1 :]
        self._ids[: len(prompt)] = prompt
        self.length = len(prompt)

    def append(self, token: int) -> None:
        self._ids[self.length] = token
        self.length += 1


class _Reader:
    """A model that reads a text at its own pace; `position` is how far it has read."""

    def __init__(self, lane: Lanes, text: _Text) -> None:
        self._lane = lane
        self._text = text
        self.position = 0

    def read(self, until: int) -> Frame:
        """Reads on, at least one position."""
        frame = self._lane.read(self._text.rows[self.position : until], self.position)
        self.position = until
        return frame

    def forget(self, since: int) -> None:
        """What was read from there on no longer holds."""
        self.position = min(self.position, since)


class _Rule(Protocol):
    """Which byte follows a position of a frame."""

    def propose(self, frame: Frame, place: int) -> tuple[Draft, float]:
        """A draft, and the largest probability of the draft model there."""

    def choose(self, frame: Frame, place: int, draft: Draft | None) -> int:
        """The target model's byte: the draft's own where it is accepted, never where it is not."""


def _rule(sampling: Sampling) -> _Rule:
    return _Drawn(sampling) if sampling.temperature > 0 else _Greedy()


class _Greedy:
    def propose(self, frame: Frame, place: int) -> tuple[Draft, float]:
        return Draft(int(frame.top_ids[0, place, 0])), float(np.exp(frame.top_logprobs[0, place, 0]))

    def choose(self, frame: Frame, place: int, draft: Draft | None) -> int:
        return int(frame.top_ids[0, place, 0])


class _Drawn:
    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._rng = np.random.default_rng(sampling.seed)

    def propose(self, frame: Frame, place: int) -> tuple[Draft, float]:
        q = distribution(frame.logprobs[0, place], self._sampling)
        return Draft(_draw(q, self._rng), q), float(q.max())

    def choose(self, frame: Frame, place: int, draft: Draft | None) -> int:
        p = distribution(frame.logprobs[0, place], self._sampling)
        if draft is None or draft.drawn_from is None:
            return _draw(p, self._rng)
        if self._rng.random() * draft.drawn_from[draft.token] < p[draft.token]:
            return draft.token
        return _draw(residual(p, draft.drawn_from), self._rng)


def residual(p: Probabilities, q: Probabilities) -> Probabilities:
    """What a byte is drawn from when the draft from `q` was not accepted: (p - q)+, to be scaled to 1."""
    rest = np.maximum(p - q, 0.0)
    # Only rounding refuses a draft when p and q are the same.
    return rest if rest.any() else p


def _draw(weights: Probabilities, rng: np.random.Generator) -> int:
    """An id, with a probability proportional to its weight."""
    edges = np.cumsum(weights)
    return int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))


class _Answer:
    """One answer in the making: rounds of drafting and checking."""

    def __init__(self, text: _Text, target: _Reader, draft: _Reader, rule: _Rule, reach: Reach) -> None:
        self._text = text
        self._target = target
        self._draft = draft
        self._rule = rule
        self._reach = reach

    def write(self, room: int, tally: Tally) -> Generator[Step, None, None]:
        """At most `room` bytes, the end byte included."""
        end = self._text.length + room
        while self._text.length < end:
            # The target model's own byte comes on top of the drafts.
            drafts = self._propose(end - self._text.length - 1)
            tally.drafted += len(drafts)
            tally.target_forwards += 1
            for step in self._checked(drafts, tally):
                yield step
                if step.token_id == END:
                    return

    def _propose(self, room: int) -> list[Draft]:
        """Drafts behind the text, which itself stays as it is. Nothing follows an end byte."""
        length, chance, drafts = self._text.length, 1.0, list[Draft]()
        while len(drafts) < min(room, self._reach.most):
            frame = self._draft.read(self._text.length)
            draft, largest = self._rule.propose(frame, -1)
            chance *= largest
            if chance < self._reach.least_chance:
                break
            drafts.append(draft)
            self._text.append(draft.token)
            if draft.token == END:
                break
        self._text.length = length
        return drafts

    def _checked(self, drafts: list[Draft], tally: Tally) -> Generator[Step, None, None]:
        """The bytes of one forward pass: accepted drafts, then one of the target model's own."""
        ended = bool(drafts) and drafts[-1].token == END
        before, length = self._target.position, self._text.length
        frame = self._target.read(length + len(drafts) - ended)
        for place, draft in enumerate([*drafts, None], start=length - 1 - before):
            token = self._rule.choose(frame, place, draft)
            accepted = draft is not None and token == draft.token
            tally.accepted += accepted
            self._text.append(token)
            yield frame.step(place, token)
            if not accepted or token == END:
                break
        self._target.forget(self._text.length - 1)
        self._draft.forget(self._text.length - 1)
