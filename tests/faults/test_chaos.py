"""Promises 2, 3 and 8 together: processes are killed and frozen at random, and every invariant holds."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter

import grpc
import grpc.aio
import pytest

from tests.faults import history
from tests.faults.chain import ACME, PRICE, WHOLE, Chain, numbered
from tests.faults.chaos import CONTINUE, KILL, STOP, Strike, perform, schedule
from tests.faults.figures import Form
from tests.faults.history import Entry, History
from tests.faults.load import arrivals, open_loop
from tests.faults.upstream import Upstream
from tests.integration.gateway_rig import eventually, generate, streamed, stub

pytestmark = pytest.mark.asyncio(loop_scope="module")

RATE = 10.0
FROZEN_S = 1.5
BURST = 2 * 25
"""Second calls that the retry budgets of two workers allow before they are earned."""


async def test_random_kills_and_freezes_break_no_invariant(
    running: Chain, upstream: Upstream, form: Form
) -> None:
    upstream.script = numbered(between_s=0.002)
    seconds, seen = form.count(8, 180), History()
    strikes = schedule(form.seed, seconds, ("small", "large"), (KILL, STOP), every_s=2)
    async with running.channel() as channel:

        async def ask(_number: int) -> Entry:
            name = uuid.uuid4().hex
            request = streamed(name, request_id=name)
            return await seen.stream(stub(channel).StreamGenerate(request, metadata=ACME, timeout=20), name)

        chaos = asyncio.ensure_future(perform(strikes, lambda strike: hit(running, strike)))
        await open_loop(ask, arrivals(RATE, seconds, form.seed))
        await chaos
    codes = Counter(entry.code.name if entry.code else "?" for entry in seen.entries)
    await eventually(
        lambda: not history.not_recorded_once(seen.entries, running.records()), 20, "a record of each"
    )
    mine = {entry.request_id for entry in seen.entries}
    calls, answered = sum(call.key in mine for call in upstream.ledger), codes["OK"] / len(seen.entries)
    found = history.broken(seen.entries, WHOLE, running.records(), upstream.ledger, PRICE)
    measured = f"{len(strikes)} strikes; {dict(codes)}; {calls / len(seen.entries):.3f} upstream calls each; "
    form.note(
        "8: workers are killed and frozen at random under load",
        target="no silent cut, wrong token, missing record or other charge; calls ≤ 1.10 each and a burst",
        measured=measured + history.counted(found),
        n=len(seen.entries),
        met=not any(found.values()) and calls <= 1.1 * len(seen.entries) + BURST,
    )
    broken = {name: len(those) for name, those in found.items() if those}
    assert not broken, broken
    assert calls <= 1.1 * len(seen.entries) + BURST
    assert answered > 0.5, codes
    assert set(codes) <= {"OK", grpc.StatusCode.UNAVAILABLE.name, grpc.StatusCode.DEADLINE_EXCEEDED.name}


async def hit(running: Chain, strike: Strike) -> None:
    """Sends the signal and puts things right again."""
    running.workers[strike.victim].send(strike.signal)
    if strike.signal is STOP:
        await asyncio.sleep(FROZEN_S)
        running.workers[strike.victim].send(CONTINUE)
    else:
        await asyncio.to_thread(running.restart_worker, strike.victim)
    await answers_again(running, strike.victim)


async def answers_again(running: Chain, model: str) -> None:
    """Waits until the gateway calls it again, so that never both are gone."""
    async with running.channel() as channel, asyncio.timeout(60):
        while True:
            try:
                await stub(channel).Generate(
                    generate(uuid.uuid4().hex, model=model), metadata=ACME, timeout=10
                )
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
            else:
                return
