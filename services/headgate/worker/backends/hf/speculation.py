"""Speculative decoding: a small draft model proposes tokens, the target checks several in one forward pass.

transformers' assisted generation does the work, a request at a time. It runs greedily over scores that hold
the draw already (see `sampling`): a proposal is taken exactly where it is the token that the target would
have drawn. So answers are the target's own, token for token, sampled ones too, whatever the draft model
says. Its own sampled mode is not used: across tokenizers it rebuilds the draft model's layers for good and
matches logits to tokens by an order that need not be that of the ids; and it draws from a global state.

Where drafting fails or the draft model's context is full, the answer goes on without it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import structlog
import torch
import transformers
from torch import Tensor

from headgate.worker.backends.base import BackendError, NotLoadableError, Speculation
from headgate.worker.backends.hf.checkpoint import Checkpoint, cache_argument
from headgate.worker.backends.hf.job import Job, told
from headgate.worker.backends.hf.lanes import Lanes
from headgate.worker.backends.hf.row import Row

_LOG = structlog.get_logger(__name__)
_FIRST_DRAFT: Final = 5
"""Tokens of an answer's first draft; two more after each that was taken whole, one less after the others."""
_LEAST_COMMON: Final = 0.9
"""Share of the larger vocabulary that two tokenizers must agree in to count as one."""


class _OverError(Exception):
    """The answer is finished, or nobody waits for it."""


class _DraftFullError(Exception):
    """The draft model's context holds no more."""


class Speculative:
    """The decoder of a model with a draft model: jobs wait for each other."""

    def __init__(self, target: Checkpoint, draft: Checkpoint) -> None:
        self._target, self._draft = target, draft
        self._waiting: deque[Job] = deque()
        self._tokenizers = _tokenizers(target, draft)
        draft.model.generation_config.update(
            num_assistant_tokens=_FIRST_DRAFT,
            # The schedules that learn across answers would make an answer's course hang on those before it.
            num_assistant_tokens_schedule="heuristic_transient",
            assistant_confidence_threshold=0.0,
        )
        self._try_out()

    def _try_out(self) -> None:
        """Raises NotLoadableError for a pair that cannot work, such as a model that cannot unread a token."""
        try:
            self._generate(self._target.tokenizer("one, two")["input_ids"], room=4)
        except Exception as error:
            raise NotLoadableError(
                f"draft_source: transformers cannot draft for this model with it ({type(error).__name__})"
            ) from error

    @property
    def busy(self) -> bool:
        """Whether a job waits."""
        return bool(self._waiting)

    def begin(self, job: Job) -> None:
        """Puts a job in line."""
        self._waiting.append(job)

    def step(self) -> None:
        """A whole answer."""
        job = self._waiting.popleft()
        with told(job):
            if job.wanted():
                self._answer(Row(self._target, job))

    def _answer(self, row: Row) -> None:
        pair = _Pair(row, self._target, self._draft, same_tokens=not self._tokenizers)
        try:
            with pair.watched():
                processors = transformers.LogitsProcessorList([pair])
                self._generate(row.prompt, row.room, logits_processor=processors, streamer=pair)
        except _OverError:
            return
        except BackendError:
            raise
        except Exception as error:
            if not isinstance(error, _DraftFullError):
                _LOG.warning("drafting failed", error=type(error).__name__)
            pair.go_on_alone()

    def _generate(self, prompt: Sequence[int], room: int, **more: Any) -> None:
        ids = torch.tensor([list(prompt)], device=self._target.model.device)
        self._target.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=room,
            do_sample=False,
            use_cache=True,
            assistant_model=self._draft.model,
            **self._tokenizers,
            **more,
        )


class _Pair(transformers.LogitsProcessor, transformers.generation.streamers.BaseStreamer):  # type: ignore[misc]
    """Target and draft model on one answer: sees every pass, scores every position, takes what was chosen."""

    def __init__(self, row: Row, target: Checkpoint, draft: Checkpoint, *, same_tokens: bool) -> None:
        self._row, self._target, self._draft = row, target, draft
        self._same_tokens = same_tokens
        self._drafting = self._prompted = False
        self._proposed = self._drafted = self._accepted = self._forwards = 0
        self._logits: Sequence[Tensor] = ()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Sees the passes of both models in the block."""
        hooks = [
            self._draft.model.register_forward_pre_hook(self._before_draft, with_kwargs=True),
            self._target.model.register_forward_pre_hook(self._before_target, with_kwargs=True),
            self._target.model.register_forward_hook(self._after_target),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _before_draft(self, model: Any, _: Any, given: dict[str, Any]) -> None:
        self._go_on()
        self._drafting = True
        cache, context = given.get(cache_argument(model)), self._draft.context_tokens
        length = given["input_ids"].shape[1] + (cache.get_seq_length() if cache is not None else 0)
        if context and length > context:
            raise _DraftFullError

    def _before_target(self, _model: Any, _: Any, given: dict[str, Any]) -> None:
        self._go_on()
        self._drafting = False
        known = 1 if self._forwards else len(self._row.prompt)
        self._proposed = given["input_ids"].shape[1] - known
        self._drafted += self._proposed
        self._forwards += 1

    def _after_target(self, _model: Any, _: Any, output: Any) -> None:
        # A copy: `generate` writes scores over the model's own logits.
        self._logits = output.logits[0, -self._proposed - 1 :].clone()

    def _go_on(self) -> None:
        if not self._row.job.wanted():
            raise _OverError

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (1, vocabulary) of the position after `input_ids` (1, length)."""
        if self._drafting and not self._same_tokens:
            return scores
        scored = self._row.scores(scores[0], input_ids.shape[1] - len(self._row.prompt))
        return scored[None].clone()  # `generate` writes it over its own

    def put(self, value: Tensor) -> None:
        """Takes what `generate` tells: the prompt, then the tokens of each pass of the target."""
        chosen = value.flatten().tolist()
        if not self._prompted:
            self._prompted = True
            return
        self._accepted += len(chosen) - 1
        for logits, token_id in zip(self._logits, chosen, strict=False):
            if not self._row.take(logits, token_id, self._speculation()):
                raise _OverError

    def end(self) -> None:
        """Nothing is held back."""

    def _speculation(self) -> Speculation:
        return Speculation(self._drafted, self._accepted, self._forwards)

    def go_on_alone(self) -> None:
        """Writes the rest of the answer without the draft model."""
        lanes, row = Lanes(self._target.model), self._row
        logits = lanes.read([*row.prompt, *row.written])[0]
        self._forwards += 1
        while row.job.wanted():
            best = int(row.scores(logits, len(row.written)).argmax())
            if not row.take(logits, best, self._speculation()):
                return
            logits = lanes.step([best])[0]
            self._forwards += 1


def _tokenizers(target: Checkpoint, draft: Checkpoint) -> dict[str, Any]:
    """What `generate` wants to know when the two have different tokenizers; it tells by the sizes alone.

    Raises NotLoadableError for a pair that it would take for one tokenizer although it is not.
    """
    sizes = {one.model.config.get_text_config().vocab_size for one in (target, draft)}
    if len(sizes) == 2:
        return {"tokenizer": target.tokenizer, "assistant_tokenizer": draft.tokenizer}
    ours, theirs = (one.tokenizer.get_vocab().items() for one in (target, draft))
    if len(ours & theirs) < _LEAST_COMMON * max(len(ours), len(theirs)):
        raise NotLoadableError(
            "draft_source: its vocabulary has the size of the model's but other tokens; take a draft model "
            "with the same tokenizer, or with a vocabulary of another size"
        )
    return {}
