"""Answers that name whom they are for: `python -m tests.faults.naming_worker NAME JOURNAL PORT READY`.

A request's id begins with its tenant and a dot, and a question asks for the weather of a place in a zone, so
an answer that reaches another tenant or another question shows. Its number tells one call from another.
"""

from __future__ import annotations

import asyncio
import re
from itertools import count
from typing import Any, Final

import grpc.aio

from headgate.v1 import types_pb2, worker_pb2
from tests.integration.scripted_worker import ScriptedWorker, asked, main

PLACES: Final = (
    "Lisbon", "Oslo", "Cairo", "Lima", "Quito", "Dublin", "Vienna", "Madrid", "Athens", "Berlin", "Warsaw",
    "Prague", "Sofia", "Riga", "Minsk", "Paris", "Rome", "Bern", "London", "Tokyo", "Seoul", "Delhi",
)  # fmt: skip
WORDINGS: Final = (
    "What is the weather like in {} in {} today?",
    "Please tell me what is the weather like in {} in {} today?",
)
SUBJECT: Final = r": (.+)"
"""What two answers to like questions have in common."""
_ASKED: Final = re.compile(r"in (\w+) in (\w+) today\?(?: Take (\d+) ms\.)?")
_ANSWER: Final = re.compile(r"\w+ to (\w+), call (\d+): (\w+), (\w+)")


def question(place: str, zone: str, wording: int = 0, ms: int = 0) -> str:
    """A question for which a model takes so long."""
    return WORDINGS[wording].format(place, zone) + (f" Take {ms} ms." if ms else "")


def told(answer: str) -> tuple[str, str, str]:
    """Tenant, place and zone of a whole answer. ValueError for any other text."""
    return _parts(answer)[0], *_parts(answer)[2:]


def call_of(answer: str) -> int:
    """The number of the call that brought it, among its worker's. ValueError as above."""
    return int(_parts(answer)[1])


def _parts(answer: str) -> tuple[str, str, str, str]:
    found = _ANSWER.fullmatch(answer)
    if found is None:
        raise ValueError(f"no answer of a naming worker: {answer!r}")
    tenant, call, place, zone = found.groups()
    return tenant, call, place, zone


class NamingWorker(ScriptedWorker):
    """Names tenant, call, place and zone."""

    _calls = count(1)

    async def Generate(  # type: ignore[override]
        self, request: worker_pb2.WorkerServiceGenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Writes the answer in two chunks."""
        call = next(self._calls)
        self.note("begun", request.request_id, call=call)
        try:
            await self._answer(request, context, call)
        except asyncio.CancelledError:
            self.note("cancelled", request.request_id, call=call)
            raise
        self.note("ended", request.request_id, call=call)

    async def _answer(
        self,
        request: worker_pb2.WorkerServiceGenerateRequest,
        context: grpc.aio.ServicerContext[Any, Any],
        call: int,
    ) -> None:
        found = _ASKED.search(asked(request))
        if found is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this is no question of ours")
        place, zone, ms = found.groups()
        tenant = request.request_id.partition(".")[0]
        for text in (f"{self.name} to {tenant}, call {call}: ", f"{place}, {zone}"):
            await asyncio.sleep(int(ms or 0) / 2000)
            tokens = [worker_pb2.Token(token_id=-1, logprob=-0.01)] if request.logprobs else []
            await context.write(worker_pb2.WorkerServiceGenerateResponse(text=text, tokens=tokens))
        usage = types_pb2.Usage(prompt_tokens=10, completion_tokens=2)
        stop = types_pb2.FINISH_REASON_STOP
        await context.write(worker_pb2.WorkerServiceGenerateResponse(finish_reason=stop, usage=usage))


if __name__ == "__main__":
    main(NamingWorker)
