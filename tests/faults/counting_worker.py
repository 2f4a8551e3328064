"""A worker that counts: `python -m tests.faults.counting_worker NAME JOURNAL PORT READY_FILE`.

What it says follows from its name and the question alone, and every token names its model, its question
and its place: one that is lost, doubled, moved or foreign shows. A question begins with its kind:

    kept      24 tokens
    doubted   the same, and the last one of small's draft has an equation that fails
    stopped   one of small's first tokens has it, and 200 come after it
    held      small's draft goes on for ever, and nothing is wrong with it
    plain     as kept; the question's digits leave it to large without a draft
    slow      as kept, and takes a quarter of a second

The journal says when each chunk was written and when the call ended, by a clock that all processes share.
"""

from __future__ import annotations

import asyncio
import random
import string
from collections.abc import Iterator, Mapping
from itertools import count, takewhile
from math import inf
from time import monotonic
from typing import Any, Final

import grpc.aio

from headgate.v1 import types_pb2, worker_pb2
from tests.integration.scripted_worker import ScriptedWorker, asked, main

TOKENS: Final = 24
LONG: Final[Mapping[str, float]] = {"stopped": 200, "held": inf}
"""Of small's drafts."""
FAULTY: Final = {"doubted": TOKENS - 1, "stopped": 2}
"""Where they err."""
GAP_S: Final = 0.002
SLOW_S: Final = 0.01
_FAULT: Final = "so 2 + 2 = 5, "
_DIGITS: Final = "1234567890:"


def question(kind: str, draw: random.Random) -> str:
    """One of that kind that nobody has asked before; it may be its own request's id."""
    name = "".join(draw.choices(string.ascii_lowercase, k=16))
    return f"{kind}:{_DIGITS if kind == 'plain' else ''}{name}"


def tokens(model: str, text: str) -> Iterator[str]:
    """What the model says, token by token."""
    kind, *_, name = text.split(":")
    errs = FAULTY.get(kind) if model == "small" else None
    for place in takewhile(lambda place: place < length(model, text), count()):
        yield f"{_FAULT if place == errs else ''}{model}:{name}:{place} "


def length(model: str, text: str) -> float:
    """How many tokens that is."""
    return LONG.get(text.partition(":")[0], TOKENS) if model == "small" else TOKENS


def whole(model: str, text: str) -> str:
    """All of it. ValueError where it has no end."""
    if length(model, text) == inf:
        raise ValueError(f"{model} never ends: {text}")
    return "".join(tokens(model, text))


class CountingWorker(ScriptedWorker):
    """Counts."""

    async def Generate(  # type: ignore[override]
        self, request: worker_pb2.WorkerServiceGenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Writes a token a chunk, and the last chunk."""
        wrote: list[float] = []
        self.note("begun", request.request_id)
        try:
            await self._count(request, context, wrote)
        except asyncio.CancelledError:
            self.note("cancelled", request.request_id, at=monotonic(), wrote=wrote)
            raise
        self.note("ended", request.request_id, at=monotonic(), wrote=wrote)

    async def _count(
        self,
        request: worker_pb2.WorkerServiceGenerateRequest,
        context: grpc.aio.ServicerContext[Any, Any],
        wrote: list[float],
    ) -> None:
        logprobs = [worker_pb2.Token(token_id=-1, logprob=-0.01)] if request.logprobs else []
        text = asked(request)
        gap_s = SLOW_S if text.startswith("slow:") else GAP_S
        for token in tokens(self.name, text):
            wrote.append(monotonic())
            await context.write(worker_pb2.WorkerServiceGenerateResponse(text=token, tokens=logprobs))
            await asyncio.sleep(gap_s)
        usage = types_pb2.Usage(prompt_tokens=10, completion_tokens=len(wrote))
        stop = types_pb2.FINISH_REASON_STOP
        wrote.append(monotonic())
        await context.write(worker_pb2.WorkerServiceGenerateResponse(finish_reason=stop, usage=usage))


if __name__ == "__main__":
    main(CountingWorker)
