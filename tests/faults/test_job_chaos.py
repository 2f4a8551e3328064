"""Promise 9: a queued job is never lost and never charged twice, whoever is killed, frozen or forgets."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio
import psutil
import pytest

from headgate.adapters import channels
from headgate.adapters.redis_jobs import State, Terms
from headgate.v1 import jobs_pb2, jobs_pb2_grpc
from tests.faults import job_history
from tests.faults.chaos import KILL, STOP, Strike, perform, schedule
from tests.faults.counting_worker import question
from tests.faults.figures import Form
from tests.faults.job_fleet import NAMES, PLACES, RUNNERS, JobFleet, job_fleet
from tests.faults.job_history import MODEL, TENANT, Entry, Job, Recovery, Told
from tests.faults.load import open_loop, percentile
from tests.integration.brokers import BROKERS, Broker, OnRabbitMQ, OnValkey, node
from tests.integration.gateway_rig import Valkey, eventually, key, query
from tests.integration.job_rig import TERMS, children

ACME = key(TENANT)
SETTLED_S = 15.0
"""Beyond a lease, after all is well again: by then every job has ended whose turn has come."""
RECOVERED_S = 10.0
"""Beyond a lease: by then another run has begun."""
CANCELLED, WATCHED = 0.06, 0.1
"""Shares of the jobs."""
CALL_S = 5.0
FEW = ("small-a", "gateway-0", "gateway-1", *RUNNERS, "reconciler-0")
VICTIMS = (*NAMES, "broker", *(f"{part} {name}" for part in ("parent", "child") for name in RUNNERS))
LAST = (*RUNNERS, "broker")
"""Killed together in the end, so that much is to be made good."""
AGAIN = {
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL,
}  # fmt: skip
"""How a call ends whose gateway was killed."""
AGAIN_S = 0.05

T = TypeVar("T")


class OnKilledRabbitMQ(OnRabbitMQ):
    """A RabbitMQ that is stopped as a power cut does it."""

    def stop(self) -> None:
        """Kills the node."""
        self.node.kill()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Both brokers in the long form; in the short one the restarts of a RabbitMQ would take a minute."""
    if "broker" in metafunc.fixturenames:
        kinds = BROKERS if metafunc.config.getoption("long") else BROKERS[:1]
        metafunc.parametrize("broker", kinds, indirect=True)


@pytest.fixture
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """One that keeps what it has."""
    (tmp_path / "broker").mkdir()
    if request.param == "rabbitmq":
        for one in node(tmp_path / "broker"):
            yield OnKilledRabbitMQ(one, one.vhost().vhost)
        return
    server = Valkey(tmp_path / "broker", keeps=True)
    yield OnValkey(server)
    server.stop()


async def test_random_kills_and_freezes_lose_no_job_and_charge_none_twice(
    tmp_path: Path, broker: Broker, form: Form
) -> None:
    count = form.count(200, 2_000 if broker.name == BROKERS[0] else 500)
    seconds, draw = form.count(18, count // 4), random.Random(form.seed)
    strikes = schedule(form.seed, seconds, VICTIMS, (KILL, STOP), every_s=form.count(1, 2))
    strikes += [Strike(seconds, victim, KILL) for victim in LAST]
    with job_fleet(tmp_path, broker, TERMS) as fleet:
        async with clients(fleet, form.seed) as asked:
            storm = asyncio.ensure_future(strike_all(fleet, strikes, form.seed))
            await open_loop(asked.job, sorted(draw.uniform(0, seconds) for _ in range(count)))
            hits = await storm
            healed = Healed(fleet)
            await asked.all_ended(fleet)
        gone = [one for one in fleet.orphans if not await ends(one)]
        found = job_history.told(asked.entries, fleet.records.client, fleet.journal)
        discarded = sum('"became": "lost"' in line for line in fleet.logs(RUNNERS))
    broken = job_history.broken(found, TERMS.lease_s)
    late = healed.seconds(found.jobs)
    recovered = job_history.recoveries(found.jobs, fleet.away, TERMS.lease_s)
    own = [one.own for one in recovered]
    again = f"{spread([one.whole for one in recovered])}; {spread(own)} without line and broker's absence"
    figures = in_words(found, hits, healed, late, recovered, discarded, fleet.restarted)
    print(f"{figures}; {job_history.counted(broken)}; {again}")
    form.note(
        f"9: jobs ({broker.name}); runners, workers, gateways, reconcilers, broker killed and frozen",
        target="none lost, charged twice, ended twice or answered wrongly; each ended ≤ "
        f"{SETTLED_S:g} s and a lease ({TERMS.lease_s:g} s) after all is well again",
        measured=f"{figures}; {job_history.counted(broken)}",
        n=len(found.jobs),
        met=not any(broken.values()) and max(late, default=0) <= TERMS.lease_s + SETTLED_S,
    )
    form.note(
        f"9: a run that was lost with its runner is run again ({broker.name})",
        target=f"all; another run begins ≤ {RECOVERED_S:g} s and a lease ({TERMS.lease_s:g} s) later, "
        "the line before it and the broker's absence apart",
        measured=again,
        n=len(recovered),
        met=max(own) <= TERMS.lease_s + RECOVERED_S,
    )
    assert not any(broken.values()), {name: [one.entry for one in jobs] for name, jobs in broken.items()}
    assert recovered, "no run was lost: the test tried nothing"
    assert gone == [], "children outlive their parent"


async def test_a_killed_runner_s_jobs_end_by_the_lease(tmp_path: Path, broker: Broker, form: Form) -> None:
    """In the long form by the times that are the defaults."""
    terms = replace(Terms(), keep_s=TERMS.keep_s) if form.long else TERMS
    with job_fleet(tmp_path, broker, terms, FEW) as fleet:
        async with clients(fleet, form.seed) as asked:
            await asyncio.gather(*(asked.job(number) for number in range(24)))
            places = PLACES * len(RUNNERS)
            await eventually(lambda: running(fleet, asked.entries) == places, what="all places to be taken")
            killed = time.time()
            fleet.kill("runner-0")
            await asyncio.to_thread(fleet.restart, "runner-0")
            await asked.all_ended(fleet)
        found = job_history.told(asked.entries, fleet.records.client, fleet.journal)
    lost = [job for job in found.jobs if job_history.recoveries([job], (), terms.lease_s)]
    took = [job.ended - killed for job in lost]
    began = [one.whole for one in job_history.recoveries(lost, (), terms.lease_s)]
    form.note(
        f"9: a runner is killed in the middle, with the default times ({broker.name})",
        target=f"its jobs end ≤ {SETTLED_S:g} s and a lease ({terms.lease_s:g} s) later",
        measured=f"{spread(took)}; next run began {spread(began)}",
        n=len(took),
        met=max(took) <= terms.lease_s + SETTLED_S,
    )
    broken = {name: jobs for name, jobs in job_history.broken(found, terms.lease_s).items() if jobs}
    assert not broken, broken
    assert took, "no run was lost"


class Clients:
    """Submit, cancel and watch, and try again as long as it takes."""

    def __init__(self, desk: jobs_pb2_grpc.JobServiceStub, seed: int) -> None:
        self.entries: list[Entry] = []
        self._desk = desk
        self._seed = seed
        self._others: list[asyncio.Task[None]] = []

    async def job(self, number: int) -> None:
        """A job from its submission on: acknowledged when this returns."""
        draw = random.Random(f"{self._seed} {number}")
        entry = Entry(question("slow", draw))
        request = jobs_pb2.SubmitJobRequest(query=query(entry.name, request_id=entry.name, model=MODEL))

        async def submit() -> None:
            entry.tries += 1
            await self._desk.SubmitJob(request, metadata=ACME, timeout=CALL_S)

        await insist(submit)
        self.entries.append(entry)
        lot = draw.random()
        if lot < CANCELLED:
            self._others.append(asyncio.create_task(self._cancel(entry, draw)))
        elif lot < CANCELLED + WATCHED:
            self._others.append(asyncio.create_task(self._watch(entry, draw)))

    async def all_ended(self, fleet: JobFleet) -> None:
        """Waits until every job has, and whoever cancels or watches one knows."""
        await eventually(lambda: not unfinished(fleet), 180, "every job to end")
        await asyncio.gather(*self._others)

    async def _cancel(self, entry: Entry, draw: random.Random) -> None:
        await asyncio.sleep(draw.uniform(0, 2))
        request = jobs_pb2.CancelJobRequest(job_id=entry.name)
        told = await insist(lambda: self._desk.CancelJob(request, metadata=ACME, timeout=CALL_S))
        entry.cancelled = told.job.state == jobs_pb2.JOB_STATE_CANCELLED

    async def _watch(self, entry: Entry, draw: random.Random) -> None:
        """To the end, with a new call after every cut, be it ours or a gateway's."""
        entry.watched = []
        while not any(one.job.HasField("end_time") for one in entry.watched[-1:]):
            after = entry.watched[-1].event_id if entry.watched else ""
            request = jobs_pb2.WatchJobRequest(job_id=entry.name, after_event_id=after)
            call = self._desk.WatchJob(request, metadata=ACME, timeout=CALL_S)
            had, cut = len(entry.watched), len(entry.watched) + draw.randrange(1, 20)
            try:
                async for event in call:
                    entry.watched.append(event)
                    if len(entry.watched) == cut:
                        break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(AGAIN_S)
            call.cancel()
            entry.cuts += len(entry.watched) > had


@asynccontextmanager
async def clients(fleet: JobFleet, seed: int) -> AsyncIterator[Clients]:
    """Clients of both gateways, which call whichever is well; meanwhile who ends by itself is started."""
    keeper = asyncio.create_task(fleet.keep())
    async with channels.channel(fleet.target(), health_service="headgate.v1.RouterService") as channel:
        try:
            yield Clients(jobs_pb2_grpc.JobServiceStub(channel), seed)
        finally:
            # Before the fleet ends, else it would be started again.
            keeper.cancel()
            await asyncio.wait({keeper})


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """Makes a call that may be made again, until it is answered."""
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() not in AGAIN:
                raise
        await asyncio.sleep(AGAIN_S)


async def strike_all(fleet: JobFleet, strikes: Sequence[Strike], seed: int) -> Counter[str]:
    """Strikes on time, whoever is down already; what was done, once everybody is up again."""
    hits: Counter[str] = Counter()
    healing: list[asyncio.Task[None]] = []

    async def begin(strike: Strike) -> None:
        healing.append(asyncio.create_task(hit(fleet, strike, random.Random(f"{seed} {strike.at}"), hits)))

    await perform(strikes, begin)
    await asyncio.gather(*healing)
    return hits


async def hit(fleet: JobFleet, strike: Strike, draw: random.Random, hits: Counter[str]) -> None:
    """Sends the signal, and after a moment puts things right again."""
    part, _, name = strike.victim.rpartition(" ")
    if name in fleet.down:
        return
    fleet.struck = began = time.time()
    hits[f"{part or name.partition('-')[0]} {'killed' if strike.signal is KILL else 'frozen'}"] += 1
    moment, frozen = draw.uniform(0.1, 1.5), draw.uniform(0.3, 3)
    if part == "child":
        await hit_child(fleet, name, strike, draw, frozen)
        return
    fleet.down.add(name)
    if name == "broker":
        await hit_broker(fleet.broker, strike, moment, empty=draw.random() < 0.5)
        fleet.away.append((began, time.time()))
    elif strike.signal is KILL:
        await asyncio.to_thread(fleet.kill, name, alone=part == "parent")
        await asyncio.sleep(moment)
        await asyncio.to_thread(fleet.restart, name)
    else:
        await freeze(fleet.family(name)[: 1 if part == "parent" else None], frozen)
    fleet.down.discard(name)


async def hit_child(fleet: JobFleet, name: str, strike: Strike, draw: random.Random, frozen: float) -> None:
    one = draw.choice(children(fleet.processes[name]) or [None])
    if one is None:
        return
    if strike.signal is STOP:
        await freeze([one], frozen)
        return
    with suppress(psutil.NoSuchProcess):
        one.kill()


async def hit_broker(broker: Broker, strike: Strike, moment: float, *, empty: bool) -> None:
    """It comes back with what it had, or, if `empty`, forgets that at once."""
    if strike.signal is KILL:
        await asyncio.to_thread(broker.stop)
        await asyncio.sleep(moment)
        await asyncio.to_thread(broker.start)
        if empty:
            await asyncio.to_thread(broker.forget)
    else:
        broker.pause()
        await asyncio.sleep(moment)
        broker.resume()


async def freeze(family: Sequence[psutil.Process], seconds: float) -> None:
    for act in (psutil.Process.suspend, psutil.Process.resume):
        for one in family:
            with suppress(psutil.NoSuchProcess):
                act(one)
        if act is psutil.Process.suspend:
            await asyncio.sleep(seconds)


class Healed:
    """The instant from which on nothing is struck any more."""

    def __init__(self, fleet: JobFleet) -> None:
        self.at, self.struck = time.time(), fleet.struck
        self.unfinished = unfinished(fleet)
        due = fleet.records.client.zrange("headgate:jobs-due", 0, -1, withscores=True)
        self._due = {member.decode(): score / 1000 for member, score in due}  # type: ignore[union-attr]

    def seconds(self, jobs: Sequence[Job]) -> list[float]:
        """How long each took that had not ended; a pause after a failed run does not count."""
        return [job.ended - max(self.at, self._pause(job)) for job in jobs if job.ended > self.at]

    def paused(self, jobs: Sequence[Job]) -> int:
        """How many of them were in such a pause."""
        return sum(job.ended > self.at and self._pause(job) > self.at for job in jobs)

    def _pause(self, job: Job) -> float:
        """Until when it was put back, after a run that had failed; 0 for any other."""
        states = [one.state for one in job.events if one.state is not None and one.at <= self.at]
        put_back = len(states) > 1 and states[-1] is State.QUEUED
        return self._due.get(f"{TENANT}/{job.entry.name}", 0.0) if put_back else 0.0


def unfinished(fleet: JobFleet) -> int:
    """Jobs that somebody has to look at: all that have not ended."""
    return int(fleet.records.client.zcard("headgate:jobs-due"))  # type: ignore[arg-type]


def running(fleet: JobFleet, entries: Sequence[Entry]) -> int:
    """Jobs that a runner works on."""
    states = (fleet.records.client.hget(f"headgate:job:{TENANT}:{one.name}", "state") for one in entries)
    return sum(state == State.RUNNING.value.encode() for state in states)


async def ends(process: psutil.Process) -> bool:
    """Whether the process does, within some seconds."""
    with suppress(psutil.NoSuchProcess):
        try:
            await asyncio.to_thread(process.wait, 10)
        except psutil.TimeoutExpired:
            return False
    return True


def in_words(
    found: Told, hits: Counter[str], healed: Healed, late: Sequence[float], recovered: Sequence[Recovery],
    discarded: int, restarted: Sequence[str],
) -> str:  # fmt: skip
    jobs, states = found.jobs, Counter(job.state.name.lower() for job in found.jobs if job.state)
    runs, twice = sum(job.begun for job in jobs), sum(job.worked["ended"] > 1 for job in jobs)
    unwritten = sum(job.state is State.DONE and not job_history.last_written(job) for job in jobs)
    watched = [job.entry for job in jobs if job.entry.watched is not None]
    said = [
        f"{sum(hits.values())} strikes ({told(hits)})",
        f"{told(states)}",
        f"{sum(job.entry.tries for job in jobs)} submits",
        f"{runs} runs, {len(recovered)} lost; {sum(job.worked['begun'] for job in jobs)} calls of workers",
        f"{twice} jobs answered twice by a worker, {discarded} runs discarded by their fence",
        f"{found.lost_runs} records folded away (${found.lost_nanousd / 1e9:.4f}), {unwritten} unwritten",
        f"{len(watched)} watched, cut {sum(one.cuts for one in watched)} times",
        f"{healed.unfinished} unfinished when all was well, the last ended {max(late, default=0):.1f} s "
        f"later, {healed.paused(jobs)} of them after a pause; the last of all "
        f"{max(job.ended for job in jobs) - healed.struck:.1f} s after the last strike",
        f"ended by themselves: {told(Counter(restarted)) or 'none'}",
    ]
    return "; ".join(said)


def told(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


def spread(seconds: Sequence[float]) -> str:
    p50, p99 = percentile(seconds, 0.5), percentile(seconds, 0.99)
    return f"p50 {p50:.2f} s, p99 {p99:.2f} s, most {max(seconds, default=0):.2f} s later"
