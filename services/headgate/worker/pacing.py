"""Joins chunks that come faster than they are worth a message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from time import monotonic

from headgate.worker.backends.base import BackendError, Chunk, UpstreamBrokenError

INTERVAL_S = 0.005
"""Nobody reads faster than 200 changes a second, and a message costs more CPU than a token of small."""
MOST_TOKENS = 8
"""Keeps messages even where a model writes faster than that."""


class Pacer:
    """Decides when chunks become a message: first and last at once, between them every 5 ms or 8 tokens."""

    def __init__(self) -> None:
        self._kept: list[Chunk] = []
        self._size = 0
        self._due = 0.0

    @property
    def due(self) -> float | None:
        """Instant of `time.monotonic()` at which what is kept must go. None when nothing is kept."""
        return self._due if self._kept else None

    def add(self, chunk: Chunk, now: float) -> Chunk | None:
        """The message to send now, or None to keep waiting."""
        self._kept.append(chunk)
        self._size += max(1, len(chunk.tokens))
        if chunk.finish_reason is None and self._size < MOST_TOKENS and now < self._due:
            return None
        return self.flush(now)

    def flush(self, now: float) -> Chunk:
        """Everything that is kept as one chunk."""
        kept, self._kept, self._size = self._kept, [], 0
        self._due = now + INTERVAL_S
        return kept[0] if len(kept) == 1 else join(kept)


def join(chunks: Iterable[Chunk]) -> Chunk:
    """Chunks in order as one; at most the last may be final."""
    kept = tuple(chunks)
    return Chunk(
        text="".join(chunk.text for chunk in kept),
        tokens=tuple(token for chunk in kept for token in chunk.tokens),
        finish_reason=kept[-1].finish_reason,
        usage=kept[-1].usage,
        speculation=kept[-1].speculation,
    )


async def paced(chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
    """The same answer in fewer chunks; what is kept goes out on time although the engine is silent.

    An error of `chunks` comes after everything that came before it; an end without a final chunk is an
    UpstreamBrokenError. Closing this closes `chunks`.
    """
    pacer, arrivals = Pacer(), _Arrivals(chunks)
    try:
        while True:
            chunk = await arrivals.next(pacer.due)
            message = pacer.flush(monotonic()) if chunk is None else pacer.add(chunk, monotonic())
            if message is not None:
                yield message
            if chunk is not None and chunk.finish_reason is not None:
                return
    except BackendError:
        if pacer.due is not None:
            yield pacer.flush(monotonic())
        raise
    finally:
        await arrivals.aclose()


class _Arrivals:
    """Waits for the next chunk for a limited time without losing it when the time is over."""

    def __init__(self, chunks: AsyncGenerator[Chunk, None]) -> None:
        self._chunks = chunks
        self._coming: asyncio.Task[Chunk] | None = None

    async def next(self, until: float | None) -> Chunk | None:
        """The next chunk, or None when none came until that instant. Never None without an instant."""
        if until is None and self._coming is None:
            return await self._anext()
        self._coming = self._coming or asyncio.create_task(self._anext())
        patience = None if until is None else max(0.0, until - monotonic())
        arrived, _ = await asyncio.wait({self._coming}, timeout=patience)
        if not arrived:
            return None
        coming, self._coming = self._coming, None
        return coming.result()

    async def _anext(self) -> Chunk:
        try:
            return await anext(self._chunks)
        except StopAsyncIteration:
            raise UpstreamBrokenError("the engine stopped in the middle of its answer") from None

    async def aclose(self) -> None:
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.wait({self._coming})
        await self._chunks.aclose()
