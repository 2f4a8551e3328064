"""Shadow sampling in a gateway process: what it keeps, what it costs, and that no answer pays for it."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
import redis

from headgate.adapters import samples
from headgate.adapters.redis_rooms import SAMPLE_STREAM
from headgate.adapters.samples import Sample
from headgate.gateway.shadow import AT_ONCE, MOST_WAITING
from headgate.v1 import admin_pb2, router_pb2, router_pb2_grpc, types_pb2
from tests.integration.gateway_rig import (
    PEPPER,
    SECRETS,
    Stack,
    config,
    eventually,
    generate,
    key,
    metrics,
    stack,
    streamed,
    stub,
    text_of,
)

ANSWERS = 60
ACME, BETA = key("acme"), key("beta")
Stub = router_pb2_grpc.RouterServiceStub


def settings(**shadow: Any) -> dict[str, Any]:
    return {**config(), "shadow": {"share": 1, "keep_text_days": 2, **shadow}}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory, settings()) as one:
        yield one


@pytest.fixture
async def router(running: Stack) -> AsyncIterator[Stub]:
    async with running.channel() as channel:
        yield stub(channel)


def unique(text: str = "ask") -> str:
    return f"{text} {uuid.uuid4().hex}"


def kept(running: Stack, request_id: str) -> list[Sample]:
    """The samples of a request, with their texts."""
    entries = running.valkey.client.xrange(SAMPLE_STREAM)
    records = [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in entries]
    found = [one for one in map(samples.read, records) if one is not None and one.request_id == request_id]
    return [samples.with_texts(one, running.valkey.client.get(_key(one))) for one in found]


def _key(sample: Sample) -> str:
    return f"headgate:{samples.key(sample.tenant, sample.record_id)}"


async def sampled(running: Stack, request_id: str) -> Sample:
    [sample] = await eventually(lambda: kept(running, request_id), what="the sample")
    return sample


def results(address: str) -> dict[str, float]:
    """What became of the draws so far."""
    name = "headgate_shadow_samples_total"
    return {
        key.partition('"')[2][:-2]: value for key, value in metrics(address).items() if key.startswith(name)
    }


def ledger(running: Stack, request_id: str) -> dict[bytes, bytes]:
    records = [record for _, record in running.valkey.client.xrange("headgate:ledger")]
    return next((one for one in records if one[b"request_id"] == request_id.encode()), {})


async def test_the_other_model_answers_too_and_nobody_pays_for_it(running: Stack, router: Stub) -> None:
    name, text = uuid.uuid4().hex, unique()
    asked = generate(text, request_id=name, metadata={"expected": "42"})
    answer = await router.Generate(asked, metadata=ACME)
    sample = await sampled(running, name)
    chosen, [other] = answer.decision.model, {"small", "large"} - {answer.decision.model}
    assert (sample.delivered, sample.reference, sample.tenant) == (chosen, "large", "acme")
    assert {one.model: one.text for one in sample.answers} == {
        chosen: text_of(answer),
        other: f"{other}: {text}",
    }
    assert {one.model: one.propensity for one in sample.answers} == {chosen: 1.0, other: 1.0}
    assert (sample.query, sample.labels) == (text, {"expected": "42"})
    assert [attempt.model for attempt in answer.decision.attempts] == [chosen]
    assert answer.decision.cost_nanousd == sample.answer(chosen).cost_nanousd
    record = await eventually(lambda: ledger(running, name), what="the record")
    assert (record[b"drawn"], record[b"share"], record[b"record_id"]) == (
        b"1",
        b"1.0",
        sample.record_id.encode(),
    )
    assert json.loads(record[b"attempts"]) == [[chosen, 0, answer.decision.cost_nanousd]]


async def test_texts_expire_and_every_key_names_its_tenant(running: Stack, router: Stub) -> None:
    name = uuid.uuid4().hex
    await router.Generate(generate(unique(), request_id=name), metadata=ACME)
    sample = await sampled(running, name)
    assert 0 < running.valkey.client.pttl(_key(sample)) <= 2 * 86_400_000
    for one in running.valkey.client.scan_iter("headgate:*"):
        assert one in (b"headgate:ledger", SAMPLE_STREAM.encode()) or b":acme:" in one or b":beta:" in one, (
            one
        )
    stream = repr(running.valkey.client.xrange(SAMPLE_STREAM))
    assert sample.query not in stream


async def test_streams_and_cached_answers_are_sampled_too(running: Stack, router: Stub) -> None:
    text = unique()
    for number in range(30):
        name = uuid.uuid4().hex
        call = router.StreamGenerate(streamed(text, request_id=name), metadata=ACME)
        last = [event async for event in call][-1]
        sample = await sampled(running, name)
        assert sample.answer(sample.delivered).text == f"{sample.delivered}: {text}"
        if last.finished.decision.cache_status == types_pb2.CACHE_STATUS_HIT:
            assert number
            return
    pytest.fail("no answer came from the cache")


async def test_pinned_queries_and_single_model_tenants_are_not_drawn(running: Stack, router: Stub) -> None:
    for tenant, fields in ((ACME, {"model": "small"}), (BETA, {})):
        name = uuid.uuid4().hex
        await router.Generate(generate(unique(), request_id=name, **fields), metadata=tenant)
        record = await eventually(lambda name=name: ledger(running, name), what="the record")
        assert b"drawn" not in record


async def test_a_hanging_shadow_model_holds_up_no_answer(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Some hang, some wait, the rest is dropped: and every answer comes as before."""
    with stack(tmp_path_factory, settings()) as one:
        async with one.channel() as channel:
            router, began = stub(channel), time.monotonic()
            for _ in range(ANSWERS):
                script = {"say": ["x"], "hangs": "small", "nonce": uuid.uuid4().hex}
                answer = await router.Generate(generate(script), metadata=ACME, timeout=20)
                assert (answer.decision.model, text_of(answer)) == ("large", "x")
            took = time.monotonic() - began
        assert took < 20, f"{took:.1f} s for {ANSWERS} answers"
        assert results(one.addresses["metrics"]) == {"full": ANSWERS - MOST_WAITING}
        begun = [line for line in one.lines() if line["request_id"].startswith("shadow-")]
        assert {line["model"] for line in begun} == {"small"}
        assert len(begun) == AT_ONCE


async def test_a_failing_shadow_model_is_no_fallback_and_no_attempt(running: Stack, router: Stub) -> None:
    counted = metrics(running.addresses["metrics"])
    name = uuid.uuid4().hex
    script = {"say": ["x"], "fail": "INTERNAL", "only": "small", "nonce": name}
    answer = await router.Generate(generate(script, request_id=name), metadata=ACME)
    assert answer.decision.model == "large"
    call = 'headgate_shadow_calls_total{code="INTERNAL",model="small"}'
    await eventually(lambda: metrics(running.addresses["metrics"]).get(call), what="the shadow call to fail")
    after = metrics(running.addresses["metrics"])
    for same in ("headgate_fallbacks_total", 'headgate_attempts_total{code="INTERNAL"'):
        assert [v for k, v in counted.items() if k.startswith(same)] == [
            v for k, v in after.items() if k.startswith(same)
        ]
    assert not kept(running, name)


async def test_without_a_redis_answers_go_on_and_nothing_is_spent(running: Stack, router: Stub) -> None:
    running.valkey.stop()
    try:
        for _ in range(5):
            assert await router.Generate(generate(unique()), metadata=ACME, timeout=20)
        await eventually(
            lambda: results(running.addresses["metrics"]).get("unavailable", 0) >= 5,
            what="drops to be counted",
        )
    finally:
        running.valkey.start()
    async with asyncio.timeout(30):
        while not running.valkey.client.xlen(SAMPLE_STREAM):
            assert await router.Generate(generate(unique()), metadata=ACME, timeout=20)


async def test_logs_hold_nothing_of_a_sample(tmp_path_factory: pytest.TempPathFactory) -> None:
    canary = f"canary-{uuid.uuid4().hex}"
    with stack(tmp_path_factory, settings()) as one:
        async with one.channel() as channel:
            router = stub(channel)
            for script in ({"say": [canary]}, {"say": [canary], "fail": "INTERNAL", "only": "small"}):
                name = uuid.uuid4().hex
                await router.Generate(
                    generate({**script, "nonce": canary}, request_id=name, metadata={"l": canary}),
                    metadata=ACME,
                )
            await eventually(lambda: sum(results(one.addresses["metrics"]).values()) == 2, what="both to end")
            page = repr(metrics(one.addresses["metrics"]))
        assert await asyncio.to_thread(one.gateway.stop) == 0
        log = one.gateway.log.read_text()
        assert "serving" in log
        for hidden in (canary, PEPPER, *SECRETS.values()):
            assert hidden not in log
            assert hidden not in page
        assert canary not in repr(one.valkey.client.xrange(SAMPLE_STREAM))


async def test_a_spent_budget_ends_the_samples_and_not_the_answers(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The scripted models charge 10 tokens read and 1 written; each call reserves room for max_tokens."""
    with stack(tmp_path_factory, settings(budget_usd_per_day=100e-6)) as one:
        async with one.channel() as channel:
            router = stub(channel)
            for _ in range(30):
                cap = types_pb2.Sampling(max_tokens=20)
                assert await router.Generate(generate(unique(), sampling=cap), metadata=ACME)
            await eventually(
                lambda: sum(results(one.addresses["metrics"]).values()) == 30, what="all draws to end"
            )
        told = results(one.addresses["metrics"])
        assert told["budget"] > 0
        assert told["kept"] > 0
        [account] = one.valkey.client.scan_iter("headgate:budget:*")
        assert account.startswith(b"headgate:budget:acme:shadow:")
        spent = sum(
            v for k, v in metrics(one.addresses["metrics"]).items() if "shadow_cost_nanousd_total{" in k
        )
        assert int(one.valkey.client.get(account)) == spent <= 100_000


async def test_a_drain_lets_a_hanging_shadow_call_go(tmp_path_factory: pytest.TempPathFactory) -> None:
    with stack(tmp_path_factory, settings()) as one:
        name = uuid.uuid4().hex
        async with one.channel() as channel:
            script = {"say": ["x"], "hangs": "small", "nonce": name}
            await stub(channel).Generate(generate(script, request_id=name), metadata=ACME)

            def begun() -> list[dict[str, Any]]:
                return [line for line in one.lines() if line["request_id"].startswith("shadow-")]

            await eventually(begun, what="the shadow call")
            began = time.monotonic()
            one.gateway.send(signal.SIGTERM)
        assert await asyncio.to_thread(one.gateway.popen.wait, 20) == 0
        assert time.monotonic() - began < 5, "a lame-duck time of half a second, and no wait for the call"
        await eventually(
            lambda: [x for x in begun() if x["event"] == "cancelled"], what="the worker to be let go"
        )
        assert ledger(one, name)[b"drawn"] == b"1"
        assert not kept(one, name)


async def test_a_reload_turns_sampling_on_and_off(tmp_path_factory: pytest.TempPathFactory) -> None:
    with stack(tmp_path_factory, config()) as one:
        async with one.channel() as channel, grpc.aio.insecure_channel(one.addresses["admin"]) as operator:
            router, admin = stub(channel), one.admin(operator)
            for share in (0, 1, 0):
                one.write(settings(share=share))
                await admin.ReloadConfig(admin_pb2.ReloadConfigRequest())
                name = uuid.uuid4().hex
                await router.Generate(generate(unique(), request_id=name), metadata=ACME)
                record = await eventually(lambda name=name: ledger(one, name), what="the record")
                assert (b"drawn" in record) is bool(share)
                if share:
                    await sampled(one, name)
        entries = one.valkey.client.xlen(SAMPLE_STREAM)
        assert entries == 1
        assert len(list(one.valkey.client.scan_iter("headgate:sample:*"))) == 1


async def test_what_callers_say_of_a_sample_can_be_joined(running: Stack, router: Stub) -> None:
    name = uuid.uuid4().hex
    answer = await router.Generate(generate(unique(), request_id=name), metadata=ACME)
    sample = await sampled(running, name)
    said = router_pb2.RecordOutcomeRequest(
        request_id=name, model=answer.decision.model, quality=0.5, source=router_pb2.OUTCOME_SOURCE_USER
    )
    await router.RecordOutcome(said, metadata=ACME)
    assert isinstance(running.valkey.client, redis.Redis)
    records = [record for _, record in running.valkey.client.xrange("headgate:ledger")]
    [told] = [one for one in records if one[b"kind"] == b"outcome"]
    outcome = samples.outcome({k.decode(): v.decode() for k, v in told.items()})
    assert outcome is not None
    assert (outcome.request_id, outcome.tenant, outcome.model) == (name, sample.tenant, sample.delivered)
