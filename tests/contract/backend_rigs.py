"""Every backend with something to answer and a way to see that its work has stopped.

A new backend passes the compliance suite by adding a rig here.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from headgate.worker.backends.base import Backend, BackendSettings
from headgate.worker.backends.builtin.backend import BuiltinBackend
from headgate.worker.backends.builtin.engine import Engine, Sampling, Step
from headgate.worker.backends.builtin.speculative import Pair, Tally
from headgate.worker.backends.hf.backend import HfBackend
from headgate.worker.backends.hf.engine import Decoder
from headgate.worker.backends.hf.job import Job
from headgate.worker.backends.openai import OpenAIBackend
from headgate.worker.backends.replay import ReplayBackend
from tests.faults.upstream import Call, Script, Upstream
from tests.tiny_models import taught

QUESTIONS = (
    "Go from 213 to 430 in steps of 7",
    "Go from 309 to 889 in steps of 20",
    "Go from 360 to 600 in steps of 10",
)
"""All long in the answer: at least 20 tokens."""


@dataclass(frozen=True, slots=True)
class Rig:
    """A loaded backend.

    `pause` makes the engine stop for breath in the middle of its next answer, where it would else be over too
    soon; `stopped` waits for the end of its work and says whether that came early.
    """

    backend: Backend
    too_long: str
    pause: Callable[[], None]
    stopped: Callable[[], Awaitable[bool]]


class _Watched:
    """The real engine, which can be made to pause in an answer, counting the bytes it writes after that."""

    def __init__(self, engine: Engine | Pair) -> None:
        self._engine = engine
        self.pausing = False
        self.resumed, self.closed = threading.Event(), threading.Event()
        self.written_after = 0

    def decode(self, question: str, sampling: Sampling, *tally: Tally) -> Iterator[Step]:
        try:
            for number, step in enumerate(self._engine.decode(question, sampling, *tally)):
                if self.pausing and number == 5:
                    self.resumed.wait(10)
                self.written_after += self.resumed.is_set()
                yield step
        finally:
            self.closed.set()


@asynccontextmanager
async def builtin(_folder: Path) -> AsyncIterator[Rig]:
    backend = BuiltinBackend(BackendSettings(source="small"))
    await backend.load()
    watched = _Watched(backend._engine)
    backend._engine = watched  # type: ignore[assignment]
    yield _builtin_rig(backend, watched)
    await backend.close()


@asynccontextmanager
async def speculative(_folder: Path) -> AsyncIterator[Rig]:
    backend = BuiltinBackend(BackendSettings(source="large", draft_source="small"))
    await backend.load()
    assert backend._pair is not None
    watched = _Watched(backend._pair)
    backend._pair = watched  # type: ignore[assignment]
    yield _builtin_rig(backend, watched)
    await backend.close()


def _builtin_rig(backend: Backend, watched: _Watched) -> Rig:
    def pause() -> None:
        watched.pausing = True

    async def stopped() -> bool:
        watched.resumed.set()
        return await asyncio.to_thread(watched.closed.wait, 5) and watched.written_after <= 1

    return Rig(backend, "7" * 400, pause, stopped)


class _WatchedDecoder:
    """The real decoder, which can be made to pause in an answer, counting the steps it makes after that."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.pausing = False
        self.resumed, self.idle = threading.Event(), threading.Event()
        self.steps = self.steps_after = 0

    @property
    def busy(self) -> bool:
        if not self._decoder.busy:
            self.idle.set()
        return self._decoder.busy

    def begin(self, job: Job) -> None:
        self.idle.clear()
        self._decoder.begin(job)

    def step(self) -> None:
        self.steps += 1
        if self.pausing and self.steps == 5:
            self.resumed.wait(10)
        self._decoder.step()
        self.steps_after += self.resumed.is_set() and self._decoder.busy


@asynccontextmanager
async def hf(_folder: Path) -> AsyncIterator[Rig]:
    answers = tuple((question, "".join(_answer(question))) for question in QUESTIONS)
    source = await asyncio.to_thread(taught, answers, "Answer.")
    backend = HfBackend(BackendSettings(source=source))
    await backend.load()
    assert backend._engine is not None
    watched = _WatchedDecoder(backend._engine._decoder)
    backend._engine._decoder = watched

    def pause() -> None:
        watched.pausing = True

    async def stopped() -> bool:
        watched.resumed.set()
        return await asyncio.to_thread(watched.idle.wait, 5) and watched.steps_after <= 1

    yield Rig(backend, "7" * 1000, pause, stopped)
    await backend.close()


@asynccontextmanager
async def openai(_folder: Path) -> AsyncIterator[Rig]:
    async with Upstream() as upstream:
        upstream.choose = _scripted
        backend = OpenAIBackend(BackendSettings(source="scripted", base_url=upstream.base_url, slots=8))
        await backend.load()

        async def stopped() -> bool:
            call = await upstream.call(0)
            await asyncio.wait_for(call.over.wait(), 5)
            return call.gone is not None and call.finished is None

        yield Rig(backend, "7" * 400, lambda: None, stopped)
        await backend.close()


def _scripted(call: Call) -> Script:
    question = call.body["messages"][-1]["content"]
    if question not in QUESTIONS:
        return Script(status=400, body=b'{"error": {"code": "context_length_exceeded"}}')
    return Script(pieces=_answer(question), between_s=0.002)


@asynccontextmanager
async def replay(folder: Path) -> AsyncIterator[Rig]:
    file = folder / "answers.jsonl"
    file.write_text("\n".join(json.dumps(_record(question)) for question in QUESTIONS), encoding="utf-8")
    backend = ReplayBackend(BackendSettings(source=str(file)))
    await backend.load()

    async def stopped() -> bool:
        return True  # It works only while it is asked for the next chunk.

    yield Rig(backend, "7" * 400, lambda: None, stopped)
    await backend.close()


def _answer(question: str) -> tuple[str, ...]:
    first, last, step = (int(word) for word in question.split() if word.isdigit())
    return tuple(f"{number} " for number in range(first, last + 1, step))


def _record(question: str) -> dict[str, object]:
    tokens = [
        {
            "text": piece,
            "logprob": -0.25,
            "alternatives": [{"text": "~", "logprob": -0.25 - rank} for rank in range(8)],
        }
        for piece in _answer(question)
    ]
    return {"query": question, "answer": "".join(_answer(question)), "prompt_tokens": 9, "tokens": tokens}


RIGS: dict[str, Callable[[Path], AbstractAsyncContextManager[Rig]]] = {
    "builtin": builtin,
    "hf": hf,
    "openai": openai,
    "replay": replay,
}
VARIANTS: dict[str, Callable[[Path], AbstractAsyncContextManager[Rig]]] = {
    "builtin with a draft model": speculative,
}
"""Backends of the table above, set up in another way."""
