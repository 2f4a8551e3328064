"""JobService through a real gateway and Valkey; the test is the runner, by the records alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from headgate.adapters.redis_client import connect
from headgate.adapters.redis_jobs import RedisJobs, State
from headgate.cli import operate
from headgate.gateway.admission import digest
from headgate.gateway.job_desk import JobDesk
from headgate.v1 import admin_pb2, jobs_pb2, jobs_pb2_grpc, router_pb2, types_pb2
from tests.integration.gateway_rig import (
    PEPPER,
    SECRETS,
    Stack,
    Valkey,
    config,
    eventually,
    generate,
    key,
    query,
    stack,
    stub,
    text_of,
)

ACME, BETA = key("acme"), key("beta")
RUNNER = (("authorization", "Bearer runner.secret-of-runners"),)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    own = {"id": "runner", "hmac_sha256": digest(PEPPER.encode(), "secret-of-runners").hex()}
    with stack(tmp_path_factory, {**config(), "jobs": {"enabled": True, "key": own}}) as one:
        yield one


@pytest.fixture
async def desk(running: Stack) -> AsyncIterator[jobs_pb2_grpc.JobServiceStub]:
    async with running.channel() as channel:
        yield jobs_pb2_grpc.JobServiceStub(channel)


@pytest.fixture
async def records(running: Stack) -> AsyncIterator[RedisJobs]:
    one = RedisJobs(connect(running.valkey.url, 5.0, 1.0))
    yield one
    await one.close()


def asked(name: str, text: str = "what?", **changes: object) -> jobs_pb2.SubmitJobRequest:
    return jobs_pb2.SubmitJobRequest(query=query(text, request_id=name), **changes)  # type: ignore[arg-type]


async def answered(records: RedisJobs, name: str, *texts: str) -> None:
    """What a runner does."""
    lease = await records.claim("acme", name)
    assert lease is not None
    for text in texts:
        part = router_pb2.StreamGenerateResponse(delta=router_pb2.Delta(text=text))
        assert await records.append(lease, [part.SerializeToString()])
    part = types_pb2.Part(text="".join(texts))
    whole = router_pb2.GenerateResponse(
        message=types_pb2.Message(role=types_pb2.ROLE_ASSISTANT, parts=[part])
    )
    assert await records.end(lease, State.DONE, answer=whole.SerializeToString())


async def test_a_job_is_accepted_once_and_kept_until_it_is_answered(
    desk: jobs_pb2_grpc.JobServiceStub, records: RedisJobs
) -> None:
    first, again = [(await desk.SubmitJob(asked("one"), metadata=ACME)).job for _ in range(2)]
    assert first == again
    assert (first.job_id, first.state, first.runs) == ("one", jobs_pb2.JOB_STATE_QUEUED, 0)
    assert first.expire_time.seconds - first.create_time.seconds in (86_399, 86_400)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await desk.SubmitJob(asked("one", "another question"), metadata=ACME)
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    await answered(records, "one", "it ", "is so")
    done = (await desk.GetJob(jobs_pb2.GetJobRequest(job_id="one"), metadata=ACME)).job
    assert (done.state, text_of(done.answer)) == (jobs_pb2.JOB_STATE_DONE, "it is so")
    assert done.HasField("end_time")


async def test_the_record_is_there_before_the_queue_is_told(records: RedisJobs) -> None:
    class Looks:
        async def put(self, tenant: str, name: str, job_class: str) -> None:
            record = await records.read(tenant, name)
            assert record is not None, "a runner would find no job"
            seen.append((record.name, record.state, job_class))

    seen: list[tuple[str, State, str]] = []
    await JobDesk(records, Looks(), b"").submit("acme", asked("in order"))
    assert seen == [("in order", State.QUEUED, "batch")]


async def test_a_tenant_sees_its_own_jobs_only(desk: jobs_pb2_grpc.JobServiceStub) -> None:
    await desk.SubmitJob(asked("mine"), metadata=ACME)
    for call in (
        desk.GetJob(jobs_pb2.GetJobRequest(job_id="mine"), metadata=BETA),
        desk.CancelJob(jobs_pb2.CancelJobRequest(job_id="mine"), metadata=BETA),
        desk.ReplayDeadJob(jobs_pb2.ReplayDeadJobRequest(job_id="mine"), metadata=BETA),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await call
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    listed = await desk.ListJobs(jobs_pb2.ListJobsRequest(), metadata=BETA)
    assert [job.job_id for job in listed.jobs] == []


async def test_a_watcher_sees_everything_and_goes_on_after_what_it_saw(
    desk: jobs_pb2_grpc.JobServiceStub, records: RedisJobs
) -> None:
    await desk.SubmitJob(asked("watched"), metadata=ACME)
    await answered(records, "watched", "a", "b", "c")
    whole = [one async for one in desk.WatchJob(jobs_pb2.WatchJobRequest(job_id="watched"), metadata=ACME)]
    states = [one.job.state for one in whole if one.HasField("job")]
    assert states == [jobs_pb2.JOB_STATE_QUEUED, jobs_pb2.JOB_STATE_RUNNING, jobs_pb2.JOB_STATE_DONE]
    assert "".join(one.answer.delta.text for one in whole) == "abc"
    assert text_of(whole[-1].job.answer) == "abc"
    for place, seen in enumerate(whole[:-1]):
        request = jobs_pb2.WatchJobRequest(job_id="watched", after_event_id=seen.event_id)
        assert [one async for one in desk.WatchJob(request, metadata=ACME)] == whole[place + 1 :]


async def test_a_watcher_that_is_there_first_is_told_as_it_comes(
    desk: jobs_pb2_grpc.JobServiceStub, records: RedisJobs
) -> None:
    await desk.SubmitJob(asked("awaited"), metadata=ACME)
    call = desk.WatchJob(jobs_pb2.WatchJobRequest(job_id="awaited"), metadata=ACME)
    events = call.__aiter__()
    assert (await anext(events)).job.state == jobs_pb2.JOB_STATE_QUEUED
    await answered(records, "awaited", "now")
    assert [one.WhichOneof("event") async for one in events] == ["job", "answer", "job"]


async def test_a_watcher_of_a_job_that_was_silent_for_long_sees_its_end(
    desk: jobs_pb2_grpc.JobServiceStub, records: RedisJobs
) -> None:
    """Ten at different times after their last word: none ends while nobody looks."""

    async def kinds(name: str, silent_s: float) -> list[str | None]:
        await desk.SubmitJob(asked(name), metadata=ACME)
        call = desk.WatchJob(jobs_pb2.WatchJobRequest(job_id=name), metadata=ACME)
        events = call.__aiter__()
        await anext(events)
        await asyncio.sleep(silent_s)
        await answered(records, name, "now")
        return [one.WhichOneof("event") async for one in events]

    found = await asyncio.gather(*(kinds(f"silent-{place}", 0.5 + 0.05 * place) for place in range(10)))
    assert found == [["job", "answer", "job"]] * 10


async def test_a_watcher_of_a_job_whose_events_are_gone_is_told_how_it_ended(
    desk: jobs_pb2_grpc.JobServiceStub, records: RedisJobs, running: Stack
) -> None:
    await desk.SubmitJob(asked("evicted"), metadata=ACME)
    await answered(records, "evicted", "kept")
    running.valkey.client.delete("headgate:job-events:acme:evicted")
    request = jobs_pb2.WatchJobRequest(job_id="evicted", after_event_id="1-1")
    (last,) = [one async for one in desk.WatchJob(request, metadata=ACME)]
    assert (text_of(last.job.answer), last.event_id) == ("kept", "1-1")


async def test_a_cancelled_job_never_starts(desk: jobs_pb2_grpc.JobServiceStub, records: RedisJobs) -> None:
    await desk.SubmitJob(asked("unwanted"), metadata=ACME)
    told = await desk.CancelJob(jobs_pb2.CancelJobRequest(job_id="unwanted"), metadata=ACME)
    assert told.job.state == jobs_pb2.JOB_STATE_CANCELLED
    assert await records.claim("acme", "unwanted") is None


async def test_a_dead_job_says_why_and_is_queued_again_when_it_is_asked(
    desk: jobs_pb2_grpc.JobServiceStub, records: RedisJobs
) -> None:
    await desk.SubmitJob(asked("doomed"), metadata=ACME)
    for _ in range(3):
        lease = await records.claim("acme", "doomed")
        assert lease is not None
        await records.put_back(lease, b"", 0)
    assert await records.claim("acme", "doomed") is None
    [dead] = (await desk.ListDeadJobs(jobs_pb2.ListDeadJobsRequest(), metadata=ACME)).jobs
    assert (dead.job_id, dead.state, dead.runs) == ("doomed", jobs_pb2.JOB_STATE_DEAD, 3)
    assert "given up" in dead.error.message
    again = await desk.ReplayDeadJob(jobs_pb2.ReplayDeadJobRequest(job_id="doomed"), metadata=ACME)
    assert (again.job.state, again.job.runs) == (jobs_pb2.JOB_STATE_QUEUED, 0)
    assert not (await desk.ListDeadJobs(jobs_pb2.ListDeadJobsRequest(), metadata=ACME)).jobs


async def test_of_many_a_bad_one_is_refused_and_the_rest_goes_on(desk: jobs_pb2_grpc.JobServiceStub) -> None:
    async def requests() -> AsyncIterator[jobs_pb2.SubmitJobsRequest]:
        for number in range(300):
            one = asked(f"many-{number}", batch_id="many")
            if number == 7:
                one.query.ClearField("messages")
            yield jobs_pb2.SubmitJobsRequest(job=one)

    told = [one async for one in desk.SubmitJobs(requests(), metadata=ACME)]
    assert [one.WhichOneof("outcome") for one in told[:9]] == ["job"] * 7 + ["error", "job"]
    assert len(told) == 300
    found: list[str] = []
    token = ""
    while True:
        request = jobs_pb2.ListJobsRequest(batch_id="many", page_size=100, page_token=token)
        page = await desk.ListJobs(request, metadata=ACME)
        found += [job.job_id for job in page.jobs]
        token = page.next_page_token
        if not token:
            break
    assert found == [f"many-{number}" for number in reversed(range(300)) if number != 7]


async def test_a_runner_acts_for_the_tenant_of_the_job_and_for_nobody_without_its_ticket(
    running: Stack, desk: jobs_pb2_grpc.JobServiceStub, records: RedisJobs
) -> None:
    await desk.SubmitJob(asked("ticketed"), metadata=ACME)
    lease = await records.claim("acme", "ticketed")
    assert lease is not None
    async with running.channel() as channel:
        router = stub(channel)
        metadata = (*RUNNER, ("headgate-ticket", lease.ticket))
        answer = await router.Generate(generate("for acme", request_id="ticketed"), metadata=metadata)
        assert text_of(answer)
        forged = lease.ticket[:-1] + ("1" if lease.ticket.endswith("0") else "0")
        for bad in (RUNNER, (*RUNNER, ("headgate-ticket", forged)), metadata[1:]):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await router.Generate(generate("for whom?"), metadata=bad)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED

    def recorded() -> list[bytes]:
        found = running.valkey.client.xrange("headgate:ledger")
        return [one[b"tenant"] for _, one in found if one[b"request_id"] == b"ticketed"]

    assert await eventually(recorded, what="the record") == [b"acme"]


async def test_those_who_watch_leave_the_places_to_those_who_ask(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    settings = {
        **config(max_concurrent=2),
        "jobs": {"enabled": True, "key": {"id": "r", "hmac_sha256": "0" * 64}},
    }
    with stack(tmp_path_factory, settings) as one:
        async with one.channel() as channel:
            desk = jobs_pb2_grpc.JobServiceStub(channel)
            await desk.SubmitJob(asked("watched"), metadata=ACME)
            request = jobs_pb2.WatchJobRequest(job_id="watched")
            watches = [desk.WatchJob(request, metadata=ACME) for _ in range(20)]
            for watch in watches:
                assert (await anext(watch.__aiter__())).job.state == jobs_pb2.JOB_STATE_QUEUED
            assert text_of(await stub(channel).Generate(generate("and now?"), metadata=ACME))
            for watch in watches:
                watch.cancel()


async def test_only_a_runner_s_word_makes_a_record_a_run_of_its_job(
    running: Stack, desk: jobs_pb2_grpc.JobServiceStub, records: RedisJobs
) -> None:
    await desk.SubmitJob(asked("run"), metadata=ACME)
    lease = await records.claim("acme", "run")
    assert lease is not None
    said = (("headgate-ticket", lease.ticket), ("headgate-run", "4"))
    calls = {"runner": ("run", (*RUNNER, *said)), "tenant": ("run", (*ACME, *said)),
             "another": ("not-the-job", (*RUNNER, *said))}  # fmt: skip
    async with running.channel() as channel:
        for who, (name, metadata) in calls.items():
            request = generate("once", request_id=name)
            request.query.metadata["who"] = who
            await stub(channel).Generate(request, metadata=metadata)

    def runs() -> dict[str, bytes]:
        found = (one for _, one in running.valkey.client.xrange("headgate:ledger"))
        told = {json.loads(one[b"labels"]).get("who"): one.get(b"run", b"") for one in found}
        return told if calls.keys() <= told.keys() else {}

    found = await eventually(runs, what="the records")
    assert [found[who] for who in calls] == [b"4", b"", b""]


async def test_an_operator_is_told_that_jobs_would_not_outlive_their_redis(running: Stack) -> None:
    async with grpc.aio.insecure_channel(running.addresses["admin"]) as channel:
        status = await running.admin(channel).GetStatus(admin_pb2.GetStatusRequest())
    (warning,) = status.warnings
    assert warning.startswith(
        "redis.url: this Redis keeps no AOF: jobs accepted since its last save are lost"
    )
    assert warning in running.gateway.log.read_text()
    assert f"  warning: {warning}\n" in operate._in_words(status)


@pytest.mark.parametrize(("setting", "what"), [("redis.url", "the ledger"), ("jobs.broker", "tasks of jobs")])
async def test_a_gateway_takes_no_jobs_on_a_redis_that_may_evict_them(
    running: Stack, tmp_path_factory: pytest.TempPathFactory, setting: str, what: str
) -> None:
    evicting = Valkey(tmp_path_factory.mktemp("evicting"))
    evicting.client.config_set("maxmemory-policy", "allkeys-lru")
    environ = {"HEADGATE_JOBS__BROKER": evicting.url} if setting == "jobs.broker" else {}
    flags = ["--redis-url", evicting.url] if setting == "redis.url" else []
    refused = running.start_gateway(setting, *flags, environ=environ)
    assert not await asyncio.to_thread(refused.serves)
    assert refused.popen.wait(20) == 1
    (said,) = [line for line in refused.log.read_text().splitlines() if line.startswith("headgate gateway:")]
    assert f"{setting}: this Redis may evict {what} (maxmemory-policy allkeys-lru)" in said
    evicting.stop()


async def test_a_redis_that_is_away_refuses_jobs_with_one_sentence(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    settings = {**config(), "jobs": {"enabled": True, "key": {"id": "r", "hmac_sha256": "0" * 64}}}
    with stack(tmp_path_factory, settings) as one:
        async with one.channel() as channel:
            desk = jobs_pb2_grpc.JobServiceStub(channel)
            await desk.SubmitJob(asked("kept"), metadata=ACME)
            one.valkey.stop()
            with pytest.raises(grpc.aio.AioRpcError) as away:
                await desk.SubmitJob(asked("lost"), metadata=ACME)
    assert away.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "records of jobs" in (away.value.details() or "")


async def test_where_jobs_are_off_every_method_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert set(SECRETS) >= {"acme"}
    with stack(tmp_path_factory) as one:
        async with one.channel() as channel:
            with pytest.raises(grpc.aio.AioRpcError) as off:
                await jobs_pb2_grpc.JobServiceStub(channel).SubmitJob(asked("x"), metadata=ACME)
    assert off.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "jobs.enabled" in (off.value.details() or "")
