"""Answers that are given at once and upgraded later, through real gateway, queue and runner.

The scripted workers echo a question that is no script, and the hand-made bundle doubts small's draft where
one of its equations fails.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from headgate.v1 import jobs_pb2, jobs_pb2_grpc, router_pb2, router_pb2_grpc, types_pb2
from tests.integration.gateway_rig import (
    config,
    eventually,
    generate,
    key,
    metrics,
    refusal,
    stack,
    stub,
    text_of,
)
from tests.integration.gateway_rig import streamed as asked
from tests.integration.job_rig import JobStack, job_stack
from tests.integration.test_drafts import bundle, kinds

ACME = key("acme")
RIGHT, WRONG = "tell me later whether 2 + 2 = 4", "tell me later whether 2 + 2 = 5"
LATER = types_pb2.PolicyOverride(upgrade_later=True)
Desk = jobs_pb2_grpc.JobServiceStub
Stub = router_pb2_grpc.RouterServiceStub


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobStack]:
    where = bundle(tmp_path_factory.mktemp("bundle"))
    with job_stack(tmp_path_factory, policy={"bundle": str(where)}) as one:
        one.start("runner", "--class", "escalation")
        one.start("reconciler")
        yield one


@pytest.fixture
async def channel(running: JobStack) -> AsyncIterator[grpc.aio.Channel]:
    async with running.channel() as one:
        yield one


async def watched(channel: grpc.aio.Channel, job: str) -> jobs_pb2.Job:
    """The job as it ended."""
    desk = Desk(channel)
    events = [one async for one in desk.WatchJob(jobs_pb2.WatchJobRequest(job_id=job), metadata=ACME)]
    assert events[-1].job.state == jobs_pb2.JOB_STATE_DONE, events[-1]
    return (await desk.GetJob(jobs_pb2.GetJobRequest(job_id=job), metadata=ACME)).job


async def test_a_doubtful_answer_comes_at_once_and_a_better_one_later(channel: grpc.aio.Channel) -> None:
    request = generate(WRONG, request_id="doubt", policy_override=LATER)
    first = await stub(channel).Generate(request, metadata=ACME)
    offered = first.escalation_offered
    assert text_of(first) == f"small: {WRONG}"
    assert (first.decision.drafted_by, len(first.decision.attempts)) == ("small", 1)
    assert not first.decision.HasField("certificate"), "the loss counts, and no certificate speaks of it"
    assert (offered.model, offered.gain > 0.5, offered.job_id) == ("large", True, "doubt.upgrade")
    job = await watched(channel, offered.job_id)
    assert text_of(job.answer) == f"large: {WRONG}"
    assert (job.job_class, job.runs) == (jobs_pb2.JOB_CLASS_ESCALATION, 1)


async def test_a_stream_begins_at_once_and_ends_with_the_offer(channel: grpc.aio.Channel) -> None:
    slow = {"say": ["2 + 2 = 5 "] * 5, "between_s": 0.05}
    events = stub(channel).StreamGenerate(asked(slow, policy_override=LATER), metadata=ACME)
    told = [event async for event in events]
    assert kinds(told) == ["decision", *["delta"] * 5, "escalation_offered", "finished"]
    assert told[-2].escalation_offered.job_id


async def test_a_good_answer_is_not_upgraded(channel: grpc.aio.Channel) -> None:
    first = await stub(channel).Generate(generate(RIGHT, policy_override=LATER), metadata=ACME)
    assert first.decision.estimates[0].p_correct_after_draft > 0.9
    assert not first.HasField("escalation_offered")


async def test_the_better_answer_takes_the_first_one_s_place_in_the_cache(
    running: JobStack, channel: grpc.aio.Channel
) -> None:
    router, text = stub(channel), f"{WRONG}, again"

    async def ask(name: str) -> router_pb2.GenerateResponse:
        request = generate(text, request_id=name, policy_override=LATER)
        answer: router_pb2.GenerateResponse = await router.Generate(request, metadata=ACME)
        return answer

    first = await ask("place-1")
    await watched(channel, first.escalation_offered.job_id)
    again = await ask("place-2")
    for turn in range(3, 100):
        if again.decision.model == "large":
            break
        again = await ask(f"place-{turn}")
    assert text_of(again) == f"large: {text}"
    assert again.decision.cache_status == types_pb2.CACHE_STATUS_HIT
    assert (again.decision.model, again.decision.drafted_by) == ("large", "small")
    assert not again.HasField("escalation_offered")
    assert not again.decision.HasField("certificate")

    def recorded() -> dict[bytes, bytes]:
        found = running.valkey.client.xrange("headgate:ledger")
        return next((one for _, one in found if one[b"request_id"] == b"place-1.upgrade"), {})

    record = await eventually(recorded, what="the upgrade's record")
    told = [record[name] for name in (b"upgrades", b"upgraded_from", b"changed", b"model")]
    assert told == [b"place-1", b"small", b"yes", b"large"]
    counted = metrics(running.addresses["metrics"])
    assert counted['headgate_upgrades_total{became="changed",model="large"}'] >= 1


async def test_a_better_answer_that_is_kept_already_takes_that_place_too(channel: grpc.aio.Channel) -> None:
    router, text = stub(channel), f"{WRONG}, known"
    await router.Generate(generate(text, model="large"), metadata=ACME)
    first = await router.Generate(generate(text, request_id="known", policy_override=LATER), metadata=ACME)
    job = await watched(channel, first.escalation_offered.job_id)
    assert job.answer.decision.cache_status == types_pb2.CACHE_STATUS_HIT
    for _ in range(100):
        again = await router.Generate(generate(text, policy_override=LATER), metadata=ACME)
        if again.decision.model == "large":
            break
    assert text_of(again) == f"large: {text}"


async def test_until_the_better_answer_is_there_the_cache_names_its_job(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    where = bundle(tmp_path_factory.mktemp("bundle"))
    with job_stack(
        tmp_path_factory, policy={"bundle": str(where), "cascade": {"upgrade_later": True}}
    ) as one:
        async with one.channel() as channel:
            answers = [
                await stub(channel).Generate(generate(WRONG, request_id=f"wait-{turn}"), metadata=ACME)
                for turn in range(2)
            ]
            jobs = await Desk(channel).ListJobs(jobs_pb2.ListJobsRequest(), metadata=ACME)
    assert [text_of(answer) for answer in answers] == [f"small: {WRONG}"] * 2
    assert answers[1].decision.cache_status == types_pb2.CACHE_STATUS_HIT
    assert {answer.escalation_offered.job_id for answer in answers} == {"wait-0.upgrade"}
    assert [job.job_id for job in jobs.jobs] == ["wait-0.upgrade"], "one doubt, one job"


async def test_records_that_are_away_cost_the_upgrade_and_not_the_answer(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    where = bundle(tmp_path_factory.mktemp("bundle"))
    with job_stack(tmp_path_factory, policy={"bundle": str(where)}) as one:
        one.valkey.stop()
        async with one.channel() as channel:
            request = generate(WRONG, policy_override=LATER)
            answer = await stub(channel).Generate(request, metadata=ACME, timeout=10)
    assert text_of(answer) == f"small: {WRONG}"
    assert (answer.escalation_offered.model, answer.escalation_offered.job_id) == ("large", "")


async def test_a_gateway_without_jobs_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    with stack(tmp_path_factory, config()) as one:
        async with one.channel() as channel:
            call = stub(channel).Generate(generate(WRONG, policy_override=LATER), metadata=ACME)
            assert (await refusal(call)).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_nobody_submits_an_escalation(channel: grpc.aio.Channel) -> None:
    request = jobs_pb2.SubmitJobRequest(query=generate(WRONG).query, job_class=jobs_pb2.JOB_CLASS_ESCALATION)
    call = Desk(channel).SubmitJob(request, metadata=ACME)
    assert (await refusal(call)).code() is grpc.StatusCode.INVALID_ARGUMENT
