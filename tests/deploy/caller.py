"""A caller in a cluster, as docs/howto/run-on-kubernetes.md builds one: answers, streams, jobs.

    python caller.py ADDRESS [AUTHORITY]          with HEADGATE_KEY set; until SIGTERM

Prints what it has got so far, a JSON object a line; `failed` has every error.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable

from headgate.client import AsyncClient, HeadgateError, Job, Unavailable

PAUSE_S = 0.1
TRIES = 5
Way = Callable[[AsyncClient, str], Awaitable[str]]


async def answer(client: AsyncClient, question: str) -> str:
    """A whole one."""
    return (await client.generate(question)).text


async def stream(client: AsyncClient, question: str) -> str:
    """A long one, as it is written, to its end: there is always one on its way."""
    number = int(question.partition(" ")[0])
    async with client.stream(f"Go from {number} to {number + 195} in steps of 5") as written:
        text = "".join([one async for one in written.texts()])
        assert written.answer is not None
        return text


async def job(client: AsyncClient, question: str) -> str:
    """Queued, and watched to its end."""
    accepted = await _submitted(client, question)
    async with client.jobs.watch(accepted.job_id) as watched:
        text = "".join([one async for one in watched.texts()])
        assert watched.job is not None
        assert watched.job.state == "done", watched.job
        return text


async def _submitted(client: AsyncClient, question: str) -> Job:
    """Sent again where it could not be kept in time: under one name it is accepted once."""
    name = f"{uuid.uuid4()}"
    for _ in range(TRIES - 1):
        with contextlib.suppress(Unavailable):
            return await client.jobs.submit(question, job_class="interactive", request_id=name)
        await asyncio.sleep(PAUSE_S)
    return await client.jobs.submit(question, job_class="interactive", request_id=name)


async def main() -> None:
    """Three ways of asking, side by side."""
    stop, got, failed = asyncio.Event(), Counter[str](), list[str]()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    numbers = itertools.count(11)

    async def ask(way: Way) -> None:
        while not stop.is_set():
            number = next(numbers)
            try:
                assert await way(client, f"{number} + {number * 7 % 1000} = ?")
                got[way.__name__] += 1
            except (HeadgateError, AssertionError) as error:
                failed.append(f"{way.__name__} at {time.time():.1f}: {error!r}")
            await asyncio.sleep(PAUSE_S)

    async def report() -> None:
        while not stop.is_set():
            print(json.dumps({**got, "failed": failed}), flush=True)
            await asyncio.sleep(PAUSE_S)

    address, authority = (*sys.argv[1:], None)[:2]
    assert address is not None
    async with AsyncClient(
        address, key=os.environ["HEADGATE_KEY"], root_certificate=authority, timeout_s=60
    ) as client:
        await asyncio.gather(
            report(), *(ask(way) for way in (answer, answer, answer, stream, stream, job, job))
        )
    print(json.dumps({**got, "failed": failed}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
