"""Jobs, against a real server: nothing is lost or told twice, however often the connection breaks."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from headgate.client import (
    AlreadyExists,
    AsyncClient,
    Cancelled,
    Client,
    Decision,
    Delta,
    HeadgateError,
    InvalidRequest,
    Job,
    JobRequest,
    NotFound,
    NotServed,
    Refused,
    StreamCut,
    Unavailable,
)
from headgate.client.jobs import patience, progress, sync
from headgate.client.jobs.patience import Patience
from headgate.v1 import jobs_pb2
from tests.faults.proxy import Fault, FaultProxy
from tests.unit.job_rig import JobGateway, serving

WORDS = " ".join(str(number) for number in range(250))
TURNED = " ".join(reversed(WORDS.split()))


@pytest.fixture
def gateway() -> Iterator[JobGateway]:
    served = JobGateway()
    with serving(served):
        yield served


@pytest.fixture
def client(gateway: JobGateway) -> Iterator[Client]:
    with Client(gateway.address, key="web.s3cret", timeout_s=20, watch_health=False) as opened:
        yield opened


@pytest.fixture
async def aclient(gateway: JobGateway) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(gateway.address, timeout_s=20, watch_health=False) as opened:
        yield opened


def test_a_job_from_submission_to_answer(client, gateway):
    job = client.jobs.submit("1 2 3", batch="b", job_class="interactive", within_s=60, request_id="j")
    assert (job.job_id, job.state, job.job_class, job.batch, job.runs) == ("j", "done", "interactive", "b", 1)
    assert (job.expires - job.created).total_seconds() == 60
    assert job.has_ended
    assert job.answer is None
    told = client.jobs.get("j")
    assert told.answer.text == "3 2 1"
    assert told.answer.decision.certificate.id == "c-1"
    assert told.ended.tzinfo is not None
    assert gateway.jobs["j"].request.query.model == ""


def test_a_job_without_a_name_gets_one_here_so_that_nobody_queues_it_twice(client, gateway):
    first, second = client.jobs.submit("1 2"), client.jobs.submit("1 2")
    assert first.job_id != second.job_id
    assert set(gateway.jobs) == {first.job_id, second.job_id}


def test_errors_are_typed(client):
    client.jobs.submit("1 2", request_id="j")
    with pytest.raises(AlreadyExists, match="another query"):
        client.jobs.submit("2 1", request_id="j")
    with pytest.raises(NotFound):
        client.jobs.get("none")
    with pytest.raises(InvalidRequest) as caught:
        client.jobs.submit("hi", temperature=3.0)
    assert caught.value.fields[0].field == "job.query.sampling.temperature"
    with pytest.raises(ValueError, match="a job's class is one of interactive, batch"):
        client.jobs.submit("hi", job_class="slow")
    failed = client.jobs.submit("fail")
    assert (failed.state, type(failed.error)) == ("failed", InvalidRequest)


def test_a_gateway_whose_jobs_are_off_is_not_served():
    with serving() as address, Client(address, watch_health=False) as client:
        for call in (
            lambda: client.jobs.submit("hi"),
            lambda: list(client.jobs.list()),
            lambda: list(client.jobs.watch("j")),
            lambda: list(client.jobs.submit_many([JobRequest("hi")])),
        ):
            with pytest.raises(NotServed):
                call()


def test_a_watch_tells_states_and_text(client):
    client.jobs.submit("1 2 3", request_id="j")
    with client.jobs.watch("j") as stream:
        events = list(stream)
    kinds = [type(event.what) for event in events]
    assert kinds == [Job, Job, Decision, Delta, Delta, Delta, Job]
    assert [event.what.state for event in events if isinstance(event.what, Job)] == [
        "queued",
        "running",
        "done",
    ]
    assert (stream.job.answer.text, stream.text, stream.last_event_id) == ("3 2 1", "3 2 1", "7-0")
    assert "".join(client.jobs.watch("j", after="4-0").texts()) == " 2 1"


@pytest.mark.parametrize("by", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, None])
def test_a_hundred_cuts_lose_and_repeat_nothing(client, gateway, monkeypatch, by):
    monkeypatch.setattr(patience, "FIRST_S", 0.001)
    client.jobs.submit(WORDS, request_id="j")
    gateway.cuts, gateway.cut_by = 100, by
    stream = client.jobs.watch("j")
    events = list(stream)
    assert gateway.calls.count("WatchJob") == 101
    assert [event.id for event in events] == [event.event_id for event in gateway.jobs["j"].events]
    assert "".join(event.what.text for event in events if isinstance(event.what, Delta)) == TURNED
    assert stream.text == stream.job.answer.text == TURNED


async def test_a_hundred_cuts_lose_and_repeat_nothing_for_asyncio(aclient, gateway, monkeypatch):
    monkeypatch.setattr(patience, "FIRST_S", 0.001)
    await aclient.jobs.submit(WORDS, request_id="j")
    gateway.cuts = 100
    async with aclient.jobs.watch("j") as stream:
        events = [event async for event in stream]
    assert gateway.calls.count("WatchJob") == 101
    assert [event.id for event in events] == [event.event_id for event in gateway.jobs["j"].events]
    assert stream.text == stream.job.answer.text == TURNED


async def test_connections_cut_in_the_middle_of_a_message_lose_nothing(gateway, monkeypatch):
    monkeypatch.setattr(patience, "FIRST_S", 0.001)
    async with (
        FaultProxy(gateway.address) as proxy,
        AsyncClient(proxy.address, timeout_s=20, watch_health=False) as client,
    ):
        await client.jobs.submit(WORDS, request_id="j")
        proxy.inject(Fault(bytes_per_s=40_000))
        events = []
        async for event in client.jobs.watch("j"):
            events.append(event)
            if len(events) % 50 == 1:
                proxy.reset()
    assert gateway.calls.count("WatchJob") >= 3
    assert [event.id for event in events] == [event.event_id for event in gateway.jobs["j"].events]


def test_a_new_run_begins_the_text_anew(client, gateway):
    client.jobs.submit("wait", request_id="j")
    kept = gateway.jobs["j"]
    gateway.run("j", "2 1 0")
    kept.events.pop()
    kept.job.Clear()
    kept.become(jobs_pb2.JOB_STATE_QUEUED)
    gateway.run("j", "4 3")
    stream = client.jobs.watch("j")
    assert "".join(stream.texts()) == "0 1 23 4"
    assert stream.text == "3 4"


def test_a_watch_that_waits_ends_when_it_is_left(client, gateway):
    client.jobs.submit("wait", request_id="j")
    with client.jobs.watch("j") as stream:
        events = iter(stream)
        assert next(events).what.state == "queued"
        stream.cancel()
        with pytest.raises(Cancelled):
            next(events)
    gateway.run("j", "1 2")
    assert client.jobs.get("j").state == "done"


async def test_a_watch_for_asyncio_that_waits_ends_when_it_is_left(aclient):
    await aclient.jobs.submit("wait", request_id="j")
    async with aclient.jobs.watch("j") as stream:
        events = aiter(stream)
        assert (await anext(events)).what.state == "queued"
        stream.cancel()
        with pytest.raises(Cancelled):
            await anext(events)


def test_a_watch_that_was_left_before_it_could_begin_does_not(client):
    client.jobs.submit("wait", request_id="j")
    stream = client.jobs.watch("j")
    stream.cancel()
    with pytest.raises(Cancelled):
        next(iter(stream))


async def test_nor_does_one_for_asyncio(aclient):
    await aclient.jobs.submit("wait", request_id="j")
    stream = aclient.jobs.watch("j")
    stream.cancel()
    with pytest.raises(Cancelled):
        await anext(aiter(stream))


def test_a_watch_gives_up_where_nobody_is():
    with Client("127.0.0.1:1", watch_health=False) as client, pytest.raises(Unavailable):
        list(client.jobs.watch("j", timeout_s=0.3))


def test_a_watch_that_is_cut_for_ever_gives_up_with_what_it_has(client, gateway, monkeypatch):
    client.jobs.submit("1 2 3", request_id="j")
    gateway.cuts = 10_000
    monkeypatch.setattr(gateway, "_cut_after", lambda most: 5 if gateway.calls.count("WatchJob") == 1 else 0)
    with pytest.raises(StreamCut) as caught:
        list(client.jobs.watch("j", timeout_s=0.3))
    assert caught.value.partial == "3 2"


def test_a_watch_is_renewed_while_nothing_happens(client, gateway, monkeypatch):
    monkeypatch.setattr(sync, "WATCH_S", 0.1)
    monkeypatch.setattr(progress, "_CONNECTED_S", 0.05)
    client.jobs.submit("wait", request_id="j")
    timer = threading.Timer(0.5, gateway.run, ("j", "2 1"))
    timer.start()
    stream = client.jobs.watch("j", timeout_s=0.2)
    assert "".join(stream.texts()) == "1 2"
    timer.join()
    assert gateway.calls.count("WatchJob") >= 4


def test_a_watch_of_no_job_is_not_asked_for_twice(client, gateway):
    with pytest.raises(NotFound):
        list(client.jobs.watch("none"))
    assert gateway.calls == ["WatchJob"]


def requests(count: int, seen: list[int] | None = None) -> Iterator[JobRequest]:
    for number in range(count):
        if seen is not None:
            seen[0] = number
        yield JobRequest("fail", batch="b", options={"request_id": f"j{number}"})


def test_ten_thousand_and_more_go_through_without_being_held(client, gateway):
    read, ahead = [0], 0
    for number, job in enumerate(client.jobs.submit_many(requests(10_050, read))):
        ahead = max(ahead, read[0] - number)
        assert job.job_id == f"j{number}"
    assert number == 10_049
    assert len(gateway.jobs) == 10_050
    assert ahead <= progress.WINDOW
    assert gateway.most_unanswered <= progress.WINDOW
    assert gateway.calls == ["SubmitJobs", "SubmitJobs"]


def test_many_go_on_after_cuts(client, gateway, monkeypatch):
    monkeypatch.setattr(patience, "FIRST_S", 0.001)
    gateway.cuts = 20
    told = [job.job_id for job in client.jobs.submit_many(requests(3_000))]
    assert told == [f"j{number}" for number in range(3_000)] == list(gateway.jobs)
    assert gateway.calls.count("SubmitJobs") > 10


async def test_many_for_asyncio(aclient, gateway, monkeypatch):
    monkeypatch.setattr(patience, "FIRST_S", 0.001)

    async def source() -> AsyncIterator[JobRequest]:
        for job in requests(1_000):
            yield job

    gateway.cuts = 5
    told = [job.job_id async for job in aclient.jobs.submit_many(source())]
    assert gateway.most_unanswered <= progress.WINDOW
    assert told == [f"j{number}" for number in range(1_000)] == list(gateway.jobs)
    assert [job async for job in aclient.jobs.submit_many([])] == []


def test_a_slow_source_outlives_its_calls(client, gateway):
    def source() -> Iterator[JobRequest]:
        for job in requests(10):
            time.sleep(0.05)
            yield job

    told = [job.job_id for job in client.jobs.submit_many(source(), timeout_s=0.2)]
    assert told == [f"j{number}" for number in range(10)] == list(gateway.jobs)


def test_who_leaves_a_submission_leaves_nothing_running(client, gateway):
    outcomes = client.jobs.submit_many(requests(1_000))
    assert next(outcomes).job_id == "j0"
    before = threading.active_count()
    outcomes.close()
    assert len(gateway.jobs) <= 1 + progress.WINDOW
    limit = time.monotonic() + 10
    while threading.active_count() >= before:
        assert time.monotonic() < limit, "the call's thread goes on"
        time.sleep(0.01)


def test_a_refused_one_is_named_and_the_rest_goes_on(client):
    jobs = [
        JobRequest("1 2", options={"request_id": "a"}),
        JobRequest("1 2", options={"request_id": "b", "temperature": 3.0}),
        JobRequest("2 1", options={"request_id": "a"}),
        JobRequest("1 2", options={"request_id": "a"}),
    ]
    first, second, third, fourth = client.jobs.submit_many(jobs)
    assert (first.job_id, fourth.job_id, fourth.state) == ("a", "a", "done")
    assert isinstance(second, Refused)
    assert (second.job_id, type(second.error)) == ("b", InvalidRequest)
    assert (third.job_id, type(third.error)) == ("a", AlreadyExists)


def test_a_source_s_own_error_comes_through(client):
    def source() -> Iterator[JobRequest]:
        yield JobRequest("1 2")
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk"):
        list(client.jobs.submit_many(source()))
    with pytest.raises(ValueError, match="role"):
        list(client.jobs.submit_many([JobRequest([{"role": "robot", "content": "hi"}])]))


def test_lists_go_over_pages(client):
    for _ in client.jobs.submit_many(requests(250)):
        pass
    client.jobs.submit("1 2", request_id="alone")
    assert [job.job_id for job in client.jobs.list("b")] == [f"j{number}" for number in range(249, -1, -1)]
    assert len(list(client.jobs.list(page_size=7))) == 251
    assert next(client.jobs.list()).job_id == "alone"


def test_cancel_dead_and_replay(client, gateway):
    client.jobs.submit("wait", request_id="w")
    assert client.jobs.cancel("w").state == "cancelled"
    client.jobs.submit("die", request_id="d")
    [dead] = client.jobs.dead()
    assert (dead.job_id, dead.state, str(dead.error)) == ("d", "dead", gateway.jobs["d"].job.error.message)
    assert client.jobs.replay("d").state == "queued"
    assert list(client.jobs.dead()) == []


async def test_many_for_asyncio_are_refused_for_the_gateway_s_own_reason():
    with serving() as address:
        async with AsyncClient(address, watch_health=False) as client:
            with pytest.raises(NotServed):
                _ = [job async for job in client.jobs.submit_many(requests(200))]
            with pytest.raises(NotServed):
                _ = [event async for event in client.jobs.watch("j")]


async def test_the_same_methods_for_asyncio(aclient):
    await aclient.jobs.submit("wait", request_id="w")
    assert (await aclient.jobs.cancel("w")).state == "cancelled"
    await aclient.jobs.submit("die", request_id="d")
    assert [job.job_id async for job in aclient.jobs.dead(page_size=1)] == ["d"]
    assert (await aclient.jobs.replay("d")).state == "queued"
    assert [job.job_id async for job in aclient.jobs.list(page_size=1)] == ["d", "w"]
    with pytest.raises(NotFound):
        await aclient.jobs.get("none")
    assert "".join([text async for text in aclient.jobs.watch("w").texts()]) == ""


def test_patience_ends_and_begins_again_with_progress():
    lasting, broken = Patience(5), Unavailable("gone", code=grpc.StatusCode.UNAVAILABLE)
    waits = [lasting.wait_s(broken, 0.0) for _ in range(8)]
    assert waits[0] <= patience.FIRST_S
    assert 1 <= waits[-1] <= patience.LONGEST_S
    with pytest.raises(Unavailable):
        lasting.wait_s(broken, 5.0)
    lasting.progressed()
    assert lasting.wait_s(broken, 5.0) <= patience.FIRST_S


@pytest.mark.parametrize("retry_after_s", [None, 1.5])
def test_patience_comes_back_when_a_full_gateway_says_so(retry_after_s):
    shed = HeadgateError("full", code=grpc.StatusCode.RESOURCE_EXHAUSTED)
    shed.retry_after_s = retry_after_s
    if retry_after_s is None:  # a message over 1 MiB stays too long
        with pytest.raises(HeadgateError):
            Patience(60).wait_s(shed, 0.0)
    else:
        assert Patience(60).wait_s(shed, 0.0) == retry_after_s
