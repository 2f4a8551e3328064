"""A request in work: its prompt, its draws and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import Tensor

from headgate.worker.backends.base import ContextTooLongError, Speculation
from headgate.worker.backends.hf import prompt, sampling
from headgate.worker.backends.hf.answer import Answer
from headgate.worker.backends.hf.checkpoint import Checkpoint
from headgate.worker.backends.hf.job import Job

_LONGEST: Final = 8192
"""Tokens of an answer where neither request nor model sets a limit."""


class Row:
    """`prompt` and `written` are token ids, `room` is the most tokens that the answer may have."""

    def __init__(self, target: Checkpoint, job: Job) -> None:
        """Raises RequestRejectedError, ContextTooLongError among them."""
        self.job = job
        self.prompt = prompt.encode(target.tokenizer, job.request.conversation)
        self.room = _room(target, self.prompt, job.request.sampling.max_tokens)
        self.written: list[int] = []
        self._text_of = target.text_of
        stops = prompt.stops(target.tokenizer)
        self._answer = Answer(job.request, len(self.prompt), self.room, target.ends, target.text, stops)
        self._dice = sampling.Dice(job.request.sampling.seed, target.model.device)

    def scores(self, logits: Tensor, place: int) -> Tensor:
        """Scores (vocabulary,) of the answer's token number `place`, from 0 on; the best one is drawn."""
        return sampling.scores(logits, self.job.request.sampling, self._dice, place)

    def draw(self, logits: Tensor) -> bool:
        """Draws the next token and posts it; whether the answer goes on."""
        return self.take(logits, int(self.scores(logits, len(self.written)).argmax()))

    def take(self, logits: Tensor, token_id: int, speculation: Speculation | None = None) -> bool:
        """Posts a token that was drawn of these logits; whether the answer goes on."""
        self.written.append(token_id)
        token = sampling.token(logits, token_id, self.job.request, self._text_of)
        self.job.post(self._answer.add(token, speculation))
        return not self._answer.finished


def _room(target: Checkpoint, ids: Sequence[int], asked: int) -> int:
    room = asked or _LONGEST
    if target.context_tokens:
        room = min(room, target.context_tokens - len(ids))
    if room <= 0:
        raise ContextTooLongError(
            f"the conversation has {len(ids)} tokens; fewer than {target.context_tokens} fit"
        )
    return room
