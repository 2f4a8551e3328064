"""Promises 9 and 12 of queued work: records and broker may be sick; no job is lost, and nobody is misled."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from headgate.adapters import status_map
from headgate.client import AsyncClient, NotFound
from headgate.v1 import jobs_pb2, jobs_pb2_grpc, router_pb2_grpc
from tests.faults.figures import Form
from tests.faults.load import Sample, arrivals, open_loop, percentile
from tests.faults.sick_jobs import (
    LEASE_S,
    WHO,
    House,
    Illness,
    frozen,
    full,
    killed,
    read_only,
    restarting,
    robbed,
    sick_jobs,
    slow,
)
from tests.integration.gateway_rig import SECRETS, generate, key, query, stub

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACME = key("acme")
ADDED_S, HEALED_S = 0.025, LEASE_S + 15
SLOW = "slow by 200 ms"
STATES: dict[str, Illness] = {
    "full": full,
    "read-only": read_only,
    "restarted with its AOF": restarting,
    "killed with an AOF": killed,
    "robbed of what its AOF had last": robbed,
    SLOW: slow,
    "frozen": frozen,
}
TOKENS = 40
LONG_ANSWER = {"say": [f"{number} " for number in range(TOKENS)], "gap_s": 0.05}
"""Two seconds: it is under way before the server falls ill, and as long as it is."""
TARGET = (
    "0 lost; every submit accepted, or refused with UNAVAILABLE and its reason; one run of a job under way"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=WHO)
async def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with sick_jobs(tmp_path_factory.mktemp("sick"), request.param) as one:
        yield one


@pytest.fixture
def who(request: pytest.FixtureRequest) -> str:
    """Who falls ill."""
    return str(request.node.callspec.params["house"])


@dataclass(slots=True)
class Told:
    """What callers of a sick server were told."""

    accepted: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)
    """Neither: what must not be."""


@pytest.mark.parametrize("state", STATES)
async def test_no_job_is_lost_and_who_cannot_be_served_is_told(
    house: House, form: Form, state: str, who: str
) -> None:
    seconds, rate = form.count(1, 5), form.count(20, 30)
    router = _Callers(house)
    healthy = await router.load(rate, seconds, form.seed)
    under_way = f"under-way-{uuid.uuid4().hex}"
    async with router.client() as client:
        watching = asyncio.create_task(_watched(client, under_way))
        await client.jobs.submit(_script(under_way), request_id=under_way, model="small")
        await _until(lambda: _begun(house, under_way), 30)
        async with STATES[state](house.patient):
            end = monotonic() + seconds
            samples, told, looks = await asyncio.gather(
                router.load(rate, seconds, form.seed + 1),
                router.submitted(end),
                router.looked(under_way, end),
            )
        healed = monotonic()
        async with asyncio.timeout(3 * HEALED_S):
            text, runs = await watching
            ends = [await _watched(client, name) for name in told.accepted]
        healed_s = monotonic() - healed
    again = await router.submitted_again(told.refused)
    failures = [sample.result for sample in (*healthy, *samples) if sample.result]
    form.note(
        f"{12 if state in (SLOW, 'frozen') else 9}: {who} of jobs is {state}",
        target=f"{TARGET}; Generate p99 ≤ +25 ms, 0 failures",
        measured=f"0 of {len(told.accepted)} lost, {len(told.refused)} refused; {runs} run; "
        f"all ended {healed_s:.1f} s after healing; {len(failures)} of {len(samples)} Generate failed, "
        f"p99 {_p99(healthy) * 1e3:.1f} → {_p99(samples) * 1e3:.1f} ms",
        n=len(told.accepted) + len(told.refused) + len(samples),
        met=not failures and _p99(samples) - _p99(healthy) <= ADDED_S and runs == 1 and healed_s <= HEALED_S,
    )
    assert not told.other
    assert not looks.other
    assert failures == []
    assert percentile((sample.latency for sample in samples), 0.5) < 1, "answers wait for the records"
    assert (text, runs) == ("".join(f"{number} " for number in range(TOKENS)), 1)
    assert [text for text, _ in ends] == [f"small: {name}" for name in told.accepted]
    assert again.accepted == told.refused
    if who == "the broker" or state == SLOW:
        assert not told.refused
        assert not looks.refused
        assert len(told.accepted) >= 2
    else:
        assert len(told.refused) >= 2
    assert healed_s <= HEALED_S


class _Callers:
    """Those who ask, submit and look, each on a channel of its own."""

    def __init__(self, house: House) -> None:
        self._address = house.stack.addresses["listen"]

    def client(self) -> AsyncClient:
        return AsyncClient(self._address, key=f"acme-1.{SECRETS['acme']}", timeout_s=60)

    async def load(self, rate: float, seconds: float, seed: int) -> list[Sample[str]]:
        """Open-loop load of interactive queries; a result is the failure, or empty."""
        async with grpc.aio.insecure_channel(self._address) as channel:
            router: router_pb2_grpc.RouterServiceStub = stub(channel)

            async def one(_number: int) -> str:
                try:
                    await router.Generate(generate(uuid.uuid4().hex), metadata=ACME, timeout=10)
                except grpc.aio.AioRpcError as error:
                    return f"{error.code()}: {error.details()}"
                return ""

            return await open_loop(one, arrivals(rate, seconds, seed))

    async def submitted(self, end: float) -> Told:
        """Submits one by one, then many in one call, until the end."""
        told = Told()
        async with grpc.aio.insecure_channel(self._address) as channel:
            desk = jobs_pb2_grpc.JobServiceStub(channel)
            while monotonic() < end:
                await self._submit_one(desk, told)
                await asyncio.sleep(0.03)
            await self._submit_many(desk, told)
        return told

    async def submitted_again(self, names: list[str]) -> Told:
        """What was refused, under its own name: it may have been written all the same."""
        told = Told()
        async with grpc.aio.insecure_channel(self._address) as channel:
            for name in names:
                await self._submit_one(jobs_pb2_grpc.JobServiceStub(channel), told, name)
        return told

    async def _submit_one(self, desk: jobs_pb2_grpc.JobServiceStub, told: Told, name: str = "") -> None:
        request = _submission(name)
        name = request.query.request_id
        try:
            await desk.SubmitJob(request, metadata=ACME, timeout=20)
        except grpc.aio.AioRpcError as error:
            _note(told, name, status_map.of_call(error), error)
        else:
            told.accepted.append(name)

    async def _submit_many(self, desk: jobs_pb2_grpc.JobServiceStub, told: Told) -> None:
        """A call that ends well, whatever becomes of each."""
        requests = [jobs_pb2.SubmitJobsRequest(job=_submission()) for _ in range(5)]
        call = desk.SubmitJobs(iter(requests), metadata=ACME, timeout=60)
        answers = [answer async for answer in call]
        assert len(answers) == len(requests)
        for request, answer in zip(requests, answers, strict=True):
            name = request.job.query.request_id
            if answer.HasField("job"):
                assert answer.job.job_id == name
                told.accepted.append(name)
            else:
                _note(told, name, answer.error, None)

    async def looked(self, name: str, end: float) -> Told:
        """Asks what becomes of a job, again and again."""
        told = Told()
        async with grpc.aio.insecure_channel(self._address) as channel:
            desk = jobs_pb2_grpc.JobServiceStub(channel)
            while monotonic() < end:
                try:
                    await desk.GetJob(jobs_pb2.GetJobRequest(job_id=name), metadata=ACME, timeout=20)
                except grpc.aio.AioRpcError as error:
                    _note(told, name, status_map.of_call(error), error)
                else:
                    told.accepted.append(name)
                await asyncio.sleep(0.05)
        return told


def _submission(name: str = "") -> jobs_pb2.SubmitJobRequest:
    name = name or uuid.uuid4().hex
    return jobs_pb2.SubmitJobRequest(query=query(name, request_id=name, model="small"))


def _script(name: str) -> str:
    """The name keeps it out of the answer cache."""
    return json.dumps({**LONG_ANSWER, "name": name})


def _note(told: Told, name: str, why: object, error: object) -> None:
    reason = status_map.reason_of(why) if why is not None else ""  # type: ignore[arg-type]
    code = why.code if why is not None else 0  # type: ignore[attr-defined]
    if (code, reason) == (grpc.StatusCode.UNAVAILABLE.value[0], "JOB_RECORDS_UNAVAILABLE"):
        told.refused.append(name)
    else:
        told.other[f"{code} {reason} {error}"] += 1


async def _watched(client: AsyncClient, name: str) -> tuple[str, int]:
    """The text of a job that is done, as its events told it, and how many runs it took."""
    await _until(lambda: _there(client, name), 30)
    async with client.jobs.watch(name) as stream:
        async for _ in stream:
            pass
    assert stream.job is not None
    assert stream.job.answer is not None, stream.job
    assert stream.text == stream.job.answer.text, "its events say something else"
    return stream.text, stream.job.runs


async def _there(client: AsyncClient, name: str) -> bool:
    try:
        await client.jobs.get(name)
    except NotFound:
        return False
    return True


async def _begun(house: House, name: str) -> bool:
    return "begun" in await asyncio.to_thread(house.stack.events, name)


async def _until(condition: Callable[[], Awaitable[bool]], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


def _p99(samples: list[Sample[str]]) -> float:
    return percentile((sample.latency for sample in samples), 0.99)
