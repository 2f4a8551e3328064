"""Decodes the sequences of all requests together: a token each in one forward pass.

A request joins at the next step, once its prompt was read in a pass of its own; one that ends leaves at once.
Where a model's caches cannot be joined (`Lanes.can_join`), every request takes its passes alone, in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from torch import Tensor

from headgate.worker.backends.base import (
    BackendError,
    ContextTooLongError,
    GenerationRequest,
)
from headgate.worker.backends.hf import prompt, sampling
from headgate.worker.backends.hf.answer import Answer
from headgate.worker.backends.hf.checkpoint import Checkpoint
from headgate.worker.backends.hf.job import Job, engine_failed, told
from headgate.worker.backends.hf.lanes import Lanes

_LONGEST: Final = 8192
"""Tokens of an answer where neither request nor model sets a limit."""
_SEED_MASK: Final = (1 << 64) - 1


def opened(target: Checkpoint, request: GenerationRequest) -> tuple[list[int], int, Answer]:
    """A request's prompt, the room for its answer in tokens, and the empty answer.

    Raises RequestRejectedError, ContextTooLongError among them.
    """
    ids = prompt.encode(target.tokenizer, request.conversation)
    room = request.sampling.max_tokens or _LONGEST
    if target.context_tokens:
        room = min(room, target.context_tokens - len(ids))
    if room <= 0:
        raise ContextTooLongError(
            f"the conversation has {len(ids)} tokens; fewer than {target.context_tokens} fit"
        )
    stops = prompt.stops(target.tokenizer)
    return ids, room, Answer(request, len(ids), room, target.ends, target.text, stops)


class _Row:
    """A request in work."""

    def __init__(self, target: Checkpoint, job: Job, answer: Answer) -> None:
        self.job = job
        self.last = 0
        self._target = target
        self._answer = answer
        seed = job.request.sampling.seed
        self._chances = Random(None if seed is None else seed & _SEED_MASK)

    def take(self, logits: Tensor) -> bool:
        """Draws a token of logits (vocabulary,) and posts it; whether the answer goes on."""
        request = self.job.request
        self.last = sampling.draw(logits, request.sampling, self._chances.random())
        self.job.post(self._answer.add(sampling.token(logits, self.last, request, self._target.text_of)))
        return not self._answer.finished


@dataclass(slots=True, eq=False)
class _Group:
    """Rows that share passes, in the order of their lanes."""

    lanes: Lanes
    rows: list[_Row]

    def keep(self, stays: Callable[[_Row], bool]) -> None:
        """Lets the other rows go. `stays` is asked once for each; what it raises ends that row."""
        going = [index for index, row in enumerate(self.rows) if _holds(stays, row)]
        if len(going) < len(self.rows):
            self.rows = [self.rows[index] for index in going]
            if going:
                self.lanes.keep(going)

    def step(self) -> None:
        """A token for each row that someone still waits for."""
        self.keep(lambda row: row.job.wanted())
        if self.rows:
            logits = dict(zip(self.rows, self.lanes.step([row.last for row in self.rows]), strict=True))
            self.keep(lambda row: row.take(logits[row]))


def _holds(stays: Callable[[_Row], bool], row: _Row) -> bool:
    with told(row.job):
        return stays(row)
    return False


class Batch:
    """The decoder of a model without a draft model."""

    def __init__(self, target: Checkpoint) -> None:
        self._target = target
        self._groups: list[_Group] = []

    @property
    def busy(self) -> bool:
        """Whether any answer is in work."""
        return bool(self._groups)

    def begin(self, job: Job) -> None:
        """Reads the prompt and writes the first token."""
        ids, _, answer = opened(self._target, job.request)
        if not job.wanted():
            return
        lanes, row = Lanes(self._target.model), _Row(self._target, job, answer)
        if row.take(lanes.read(ids)[0]):
            self._place(_Group(lanes, [row]))

    def _place(self, newcomer: _Group) -> None:
        if self._groups and newcomer.lanes.can_join():
            self._groups[0].lanes.join(newcomer.lanes)
            self._groups[0].rows += newcomer.rows
        else:
            self._groups.append(newcomer)

    def step(self) -> None:
        """A token for every row."""
        for group in self._groups:
            try:
                group.step()
            except Exception as error:
                _end(group, engine_failed(error))
        self._groups = [group for group in self._groups if group.rows]

    def fail(self, error: BackendError) -> None:
        """Ends every row with this error."""
        for group in self._groups:
            _end(group, error)
        self._groups = []


def _end(group: _Group, error: BackendError) -> None:
    for row in group.rows:
        row.job.post(error)
    group.rows = []
