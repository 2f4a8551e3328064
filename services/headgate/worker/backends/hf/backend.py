"""Serves any causal language model of transformers: a folder, or a name of the Hugging Face hub.

torch and transformers are imported by `load`, in a thread: that takes seconds, and only this backend needs
them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from headgate.worker.backends.base import (
    BackendSettings,
    Chunk,
    DeadlinePassedError,
    GenerationRequest,
    ModelDescription,
    NotLoadableError,
    UpstreamUnavailableError,
    question,
)
from headgate.worker.backends.hf.job import Job

if TYPE_CHECKING:
    from headgate.worker.backends.hf.engine import Engine


class HfBackend:
    """`source` is a folder or a hub name; `draft_source`, if any, too."""

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self._engine: Engine | None = None
        self._jobs: set[Job] = set()

    async def load(self) -> None:
        """Reads weights and tokenizer and runs the model once."""
        if not self._settings.source:
            raise NotLoadableError("source: the hf backend needs a folder or the name of a hub model")
        self._engine, self._description = await asyncio.to_thread(_open, self._settings)

    def describe(self) -> ModelDescription:
        """The version is a digest of weights, config and tokenizer, those of a draft model too."""
        return self._description

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """The answer token by token; the engine's thread writes it, at most one token past a cancel."""
        question(request.conversation)
        if self._engine is None:
            raise NotLoadableError("the backend is closed")
        loop = asyncio.get_running_loop()
        mail: asyncio.Queue[Chunk | Exception] = asyncio.Queue()

        def post(letter: Chunk | Exception) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(mail.put_nowait, letter)

        job = Job(request, post)
        self._jobs.add(job)
        self._engine.submit(job)
        try:
            finished = False
            while not finished:
                chunk = await _next(mail, request.deadline)
                finished = chunk.finish_reason is not None
                yield chunk
        finally:
            self._jobs.discard(job)
            job.left.set()

    async def close(self) -> None:
        """Ends answers in work with an error, and the engine's thread after its current pass."""
        for job in self._jobs:
            job.post(UpstreamUnavailableError("the worker is stopping"))
            job.left.set()
        engine, self._engine = self._engine, None
        if engine is not None:
            await asyncio.to_thread(engine.close)


async def _next(mail: asyncio.Queue[Chunk | Exception], deadline: float) -> Chunk:
    """What the engine posts next, but not beyond the deadline: it may be at a long prompt."""
    try:
        async with asyncio.timeout(deadline - monotonic()):
            letter = await mail.get()
    except TimeoutError:
        raise DeadlinePassedError("the deadline passed before the answer was finished") from None
    if isinstance(letter, Exception):
        raise letter
    return letter


def _open(settings: BackendSettings) -> tuple[Engine, ModelDescription]:
    try:
        from headgate.worker.backends.hf import engine
    except ModuleNotFoundError as missing:
        raise NotLoadableError(
            f"backend 'hf' needs the module {missing.name!r}, which is not installed; "
            'pip install "headgate[hf]" brings it'
        ) from missing
    return engine.open_engine(settings)
