from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from headgate.worker import pacing
from headgate.worker.backends.base import (
    Chunk,
    FinishReason,
    Token,
    UpstreamBrokenError,
    UpstreamTimeoutError,
    Usage,
)
from headgate.worker.pacing import INTERVAL_S, MOST_TOKENS, Pacer, join, paced

FINAL = Chunk("", (), FinishReason.STOP, Usage(1, 2))


def texts(chunks: list[Chunk | None]) -> list[str | None]:
    return [None if chunk is None else chunk.text for chunk in chunks]


def test_the_first_chunk_goes_at_once_and_then_one_per_interval() -> None:
    pacer, tick = Pacer(), INTERVAL_S / 4
    sent = [pacer.add(Chunk(letter), 100 + number * tick) for number, letter in enumerate("abcdefghi")]
    assert texts(sent) == ["a", None, None, None, "bcde", None, None, None, "fghi"]


def test_a_slow_stream_is_not_held_back() -> None:
    pacer = Pacer()
    assert texts([pacer.add(Chunk(letter), 100 + number) for number, letter in enumerate("abc")]) == list(
        "abc"
    )
    assert pacer.due is None


def test_a_fast_stream_goes_in_messages_of_so_many_tokens() -> None:
    pacer = Pacer()
    sent = [pacer.add(Chunk("x"), 100.0) for _ in range(1 + 2 * MOST_TOKENS)]
    assert [message for message in texts(sent) if message] == ["x", "x" * MOST_TOKENS, "x" * MOST_TOKENS]


def test_the_final_chunk_goes_at_once_with_all_that_was_kept() -> None:
    pacer = Pacer()
    pacer.add(Chunk("a"), 100.0)
    pacer.add(Chunk("b", (Token(1, -0.5),)), 100.0)
    assert pacer.add(FINAL, 100.0) == Chunk("b", (Token(1, -0.5),), FinishReason.STOP, Usage(1, 2))


def test_joined_chunks_keep_texts_and_tokens_in_order() -> None:
    joined = join([Chunk("a", (Token(1, -1),)), Chunk("b"), Chunk("c", (Token(2, -2), Token(3, -3)))])
    assert joined == Chunk("abc", (Token(1, -1), Token(2, -2), Token(3, -3)))


async def chunks_then_silence(closed: asyncio.Event, noise: asyncio.Event) -> AsyncGenerator[Chunk, None]:
    """Whoever holds `noise` keeps this from being collected instead of closed."""
    try:
        for letter in "abc":
            yield Chunk(letter)
        await noise.wait()
    finally:
        closed.set()


async def test_what_is_kept_goes_out_though_the_engine_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "INTERVAL_S", 0.5)
    closed, noise = asyncio.Event(), asyncio.Event()
    async with asyncio.timeout(60), aclosing(paced(chunks_then_silence(closed, noise))) as stream:
        assert [(await anext(stream)).text, (await anext(stream)).text] == ["a", "bc"]
    assert closed.is_set()


async def test_cancelling_while_something_is_kept_closes_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "INTERVAL_S", 60.0)
    closed, noise, begun = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def consume() -> None:
        async with aclosing(paced(chunks_then_silence(closed, noise))) as stream:
            async for _ in stream:
                begun.set()

    task = asyncio.create_task(consume())
    async with asyncio.timeout(5):
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert closed.is_set()


async def failing(error: Exception | None) -> AsyncGenerator[Chunk, None]:
    for letter in "abc":
        yield Chunk(letter)
    if error is not None:
        raise error


@pytest.mark.parametrize("error", [UpstreamTimeoutError("silent"), None])
async def test_an_error_comes_after_all_that_came_before_it(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "INTERVAL_S", 60.0)
    received = []

    async def receive() -> None:
        async for chunk in paced(failing(error)):
            received.append(chunk.text)  # noqa: PERF401

    with pytest.raises(UpstreamTimeoutError if error else UpstreamBrokenError):
        await receive()
    assert "".join(received) == "abc"


async def test_nothing_is_read_after_the_final_chunk() -> None:
    async def two_ends() -> AsyncGenerator[Chunk, None]:
        yield FINAL
        raise AssertionError("read on")

    assert [chunk async for chunk in paced(two_ends())] == [FINAL]
