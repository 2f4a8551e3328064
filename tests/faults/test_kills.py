"""Promise 8: a stream that breaks says so; no token is lost or doubled, and nothing is charged twice."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Sequence
from dataclasses import replace

import grpc.aio
import pytest

from headgate.v1 import router_pb2_grpc
from tests.faults import history
from tests.faults.chain import ACME, PRICE, WHOLE, Chain, numbered
from tests.faults.figures import Form
from tests.faults.history import Entry, History
from tests.faults.proxy import NO_FAULT, Fault, FaultProxy
from tests.faults.upstream import Script, Upstream
from tests.integration.gateway_rig import Stack, eventually, generate, streamed, stub

pytestmark = pytest.mark.asyncio(loop_scope="module")

AT_ONCE = 8
TARGET = "0 silent cuts, 0 wrong or doubled tokens, one record and one charge each, as the upstream counts"


async def test_a_worker_killed_in_mid_stream_is_an_explicit_error(
    running: Chain, upstream: Upstream, form: Form
) -> None:
    upstream.script = numbered(between_s=0.02)
    kills, draw, seen = form.count(3, 150), random.Random(form.seed), History()
    async with running.channel() as channel:
        router = stub(channel)
        for _ in range(kills):
            await answering(router)
            streams = [begin(router, seen) for _ in range(AT_ONCE)]
            await all_speak(seen)
            await asyncio.sleep(draw.uniform(0, 0.3))
            running.workers["small"].popen.kill()
            await asyncio.gather(*streams)
            await asyncio.to_thread(running.restart_worker, "small")
    await check(f"8: a worker is killed in mid-stream, {kills} times", running, upstream, seen.entries, form)


async def test_an_upstream_that_cuts_its_answer_is_an_explicit_error(
    running: Chain, upstream: Upstream, form: Form
) -> None:
    draw, seen = random.Random(form.seed), History()

    def choose(_call: object) -> Script:
        """Most answers are whole, else the breaker would soon spare the upstream."""
        whole = numbered(between_s=0.001)
        return replace(whole, cut_after=draw.randrange(len(whole.pieces))) if draw.random() < 0.4 else whole

    upstream.choose = choose
    try:
        async with running.channel() as channel:
            for _ in range(form.count(5, 125)):
                await asyncio.gather(*(begin(stub(channel), seen, "large") for _ in range(AT_ONCE)))
    finally:
        upstream.choose = None
    await check("8: an upstream cuts its answer at a random token", running, upstream, seen.entries, form)


@pytest.mark.parametrize("how", ["reset", "limit"])
async def test_a_broken_connection_to_a_worker_is_an_explicit_error(
    running: Chain, upstream: Upstream, form: Form, how: str
) -> None:
    upstream.script = numbered(between_s=0.02)
    draw, seen = random.Random(form.seed), History()
    async with FaultProxy(running.worker_addresses["small"]) as proxy:
        gateway = await asyncio.to_thread(started, running, how, proxy.address)
        try:
            async with grpc.aio.insecure_channel(gateway.addresses()["listen"]) as channel:
                for _ in range(form.count(4, 32)):
                    await answering(stub(channel))
                    streams = [begin(stub(channel), seen) for _ in range(AT_ONCE)]
                    await all_speak(seen)
                    await break_at_random(proxy, how, draw)
                    await asyncio.gather(*streams)
                    proxy.inject(NO_FAULT)
        finally:
            await asyncio.to_thread(gateway.stop)
    await check(f"8: the connection to a worker breaks ({how})", running, upstream, seen.entries, form)


def started(running: Stack, name: str, small: str):  # type: ignore[no-untyped-def]
    process = running.start_gateway(name, "--worker", f"small={small}")
    process.addresses()
    return process


async def break_at_random(proxy: FaultProxy, how: str, draw: random.Random) -> None:
    if how == "limit":
        proxy.to_client = Fault(limit_bytes=draw.randrange(1, 2_000))
        return
    await asyncio.sleep(draw.uniform(0, 0.3))
    proxy.reset()


async def answering(router: router_pb2_grpc.RouterServiceStub) -> None:
    """Waits until small answers again."""
    async with asyncio.timeout(60):
        while True:
            try:
                await router.Generate(generate(uuid.uuid4().hex, model="small"), metadata=ACME, timeout=10)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
            else:
                return


def begin(
    router: router_pb2_grpc.RouterServiceStub, seen: History, model: str = "small"
) -> asyncio.Task[Entry]:
    name = uuid.uuid4().hex
    call = router.StreamGenerate(streamed(name, model=model, request_id=name), metadata=ACME, timeout=30)
    return asyncio.ensure_future(seen.stream(call, name))


async def all_speak(seen: History) -> None:
    def speaking() -> bool:
        return all(entry.text or entry.code for entry in seen.entries[-AT_ONCE:])

    await asyncio.sleep(0)
    await eventually(lambda: len(seen.entries) % AT_ONCE == 0 and speaking(), what="a token of each stream")


async def check(
    promise: str, running: Chain, upstream: Upstream, entries: Sequence[Entry], form: Form
) -> None:
    """Holds what clients saw against both ledgers."""
    names = {entry.request_id.encode() for entry in entries}

    def mine() -> list[dict[bytes, bytes]]:
        return [record for record in running.records() if record[b"request_id"] in names]

    await eventually(lambda: len(mine()) >= len(names), 10, "a record of each")
    cut = [entry for entry in entries if entry.text and entry.text != WHOLE]
    assert len(cut) >= len(entries) / 4, "hardly any stream was cut: the test tried nothing"
    found = history.broken(entries, WHOLE, mine(), upstream.ledger, PRICE)
    measured = f"{len(cut)} of {len(entries)} streams cut after their first token; {history.counted(found)}"
    form.note(promise, target=TARGET, measured=measured, n=len(entries), met=not any(found.values()))
    broken = {name: len(those) for name, those in found.items() if those}
    assert not broken, broken
    assert all(entry.kinds[-1:] == ["error"] for entry in cut), "no terminal event"
