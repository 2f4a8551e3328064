"""What clients were told of their jobs, held against the records, the ledger and what the workers did.

Clients keep an entry for each job; after the faults have healed, `told` reads everything else, and each
function here returns the jobs that break its invariant.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import redis

from headgate.adapters.ledger import Fold
from headgate.adapters.redis_jobs import ENDED, State
from headgate.adapters.redis_rooms import LEDGER_STREAM
from headgate.v1 import jobs_pb2, router_pb2
from tests.faults.counting_worker import whole
from tests.integration.scripted_worker import PRICES

TENANT, MODEL = "acme", "small"
TOKENS_A_PRICE = 1_000_000


@dataclass(slots=True)
class Entry:
    """One job as its client knows it; the name is also what is asked."""

    name: str
    tries: int = 0
    """Of submitting it; the last one was acknowledged."""
    cancel: bool = False
    """Whether the client tried to cancel it …"""
    cancelled: bool = False
    """… and was told that it is."""
    watched: list[jobs_pb2.WatchJobResponse] | None = None
    """Events in the order in which they came; None of a job that nobody watched."""
    cuts: int = 0
    """How often the watch was cut."""


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of a job's stream. The id begins with the server's time."""

    event_id: str
    state: State | None
    part: bytes

    @property
    def at(self) -> float:
        """POSIX seconds."""
        return int(self.event_id.partition("-")[0]) / 1000


@dataclass(slots=True)
class Job:
    """All that is known of one."""

    entry: Entry
    record: Mapping[bytes, bytes]
    events: Sequence[Event]
    charges: list[Mapping[str, str]] = field(default_factory=list)
    """Its records in the ledger, folded."""
    worked: Counter[str] = field(default_factory=Counter)
    """What the workers noted, by event."""

    @property
    def state(self) -> State | None:
        """None where there is no record."""
        return State(self.record[b"state"].decode()) if self.record else None

    @property
    def begun(self) -> int:
        """How often it was begun."""
        return int(self.record.get(b"begun", b"0"))

    @property
    def ended(self) -> float:
        """POSIX seconds; 0 where it has not."""
        return int(self.record.get(b"ended", b"0")) / 1000

    @property
    def answer(self) -> router_pb2.GenerateResponse:
        """Empty where there is none."""
        return router_pb2.GenerateResponse.FromString(self.record.get(b"answer", b""))


@dataclass(frozen=True, slots=True)
class Told:
    """Everything."""

    jobs: Sequence[Job]
    lost_runs: int
    lost_nanousd: int


def told(entries: Sequence[Entry], server: redis.Redis, journal: Path) -> Told:
    """Reads records, streams, ledger and journal of these jobs."""
    jobs = {one.name: Job(one, *_kept(server, one.name)) for one in entries}
    fold, ledger = Fold(), list(_ledger(server))
    for record in ledger:
        fold.take(record)
    for record in {one["record_id"]: one for one in ledger}.values():
        if record["record_id"] not in fold.lost:
            jobs[record["request_id"]].charges.append(record)
    for line in journal.read_text().splitlines():
        noted = json.loads(line)
        jobs[noted["request_id"]].worked[noted["event"]] += 1
    return Told(list(jobs.values()), len(fold.lost), fold.lost_nanousd)


def _kept(server: redis.Redis, name: str) -> tuple[Mapping[bytes, bytes], list[Event]]:
    record = server.hgetall(f"headgate:job:{TENANT}:{name}")
    entries = server.xrange(f"headgate:job-events:{TENANT}:{name}")
    return record, [_event(event_id.decode(), fields) for event_id, fields in entries]  # type: ignore[return-value, union-attr]


def _event(event_id: str, fields: Mapping[bytes, bytes]) -> Event:
    state = fields.get(b"state")
    return Event(event_id, State(state.decode()) if state else None, fields.get(b"part", b""))


def _ledger(server: redis.Redis) -> Iterator[Mapping[str, str]]:
    for _, fields in server.xrange(LEDGER_STREAM):  # type: ignore[union-attr]
        yield {name.decode(): value.decode() for name, value in fields.items()}


def broken(found: Told, lease_s: float) -> dict[str, list[Job]]:
    """The jobs that break each invariant, by its name."""
    rules = {
        "lost": lost,
        "ended otherwise": ended_otherwise,
        "wrong answers": wrong_answer,
        "charged twice": charged_twice,
        "charged otherwise": charged_otherwise,
        "told otherwise": told_otherwise,
        "taken too early": lambda job: taken_too_early(job, lease_s),
    }
    return {name: [job for job in found.jobs if rule(job)] for name, rule in rules.items()}


def counted(jobs: Mapping[str, Sequence[Job]]) -> str:
    """How many broke which invariant, in words."""
    return ", ".join(f"{len(those)} {name}" for name, those in jobs.items())


def lost(job: Job) -> bool:
    """Acknowledged, and without a record, or without an end."""
    return job.state not in ENDED


def ended_otherwise(job: Job) -> bool:
    """Not ended exactly once, or not as its client was told, or cancelled unasked, or failed."""
    ends = [one.state for one in job.events if one.state in ENDED]
    return (
        ends != [job.state]
        or job.events[-1].state is not job.state
        or job.state is State.FAILED
        or (job.state is State.CANCELLED) is not job.entry.cancelled
    )


def wrong_answer(job: Job) -> bool:
    """Done with something else than what the worker says, or not done and with an answer."""
    text = "".join(part.text for part in job.answer.message.parts)
    return text != (whole(MODEL, job.entry.name) if job.state is State.DONE else "")


def charged_twice(job: Job) -> bool:
    """More than one record counts."""
    return len(job.charges) > 1


def charged_otherwise(job: Job) -> bool:
    """Told another cost than that of the worker's usage, or than the ledger has, where that was written."""
    if job.state is not State.DONE:
        return False
    answer, price = job.answer, PRICES[MODEL]
    tokens = answer.usage.prompt_tokens + answer.usage.completion_tokens
    said = answer.decision.cost_nanousd
    records = {int(one["cost_nanousd"]) for one in job.charges} if last_written(job) else {said}
    return said != tokens * price // TOKENS_A_PRICE or records != {said}


def last_written(job: Job) -> bool:
    """Whether the last run's record is in the ledger: one of a gateway that was killed may not be."""
    return any(int(one.get("run", "0")) == job.begun for one in job.charges)


def told_otherwise(job: Job) -> bool:
    """Whoever watched it missed an event, or saw one twice, or another one than the stream has."""
    seen = job.entry.watched
    return seen is not None and [_seen(one) for one in seen] != [_written(one) for one in job.events]


def taken_too_early(job: Job, lease_s: float) -> bool:
    """Another run began while the lease of the one before was not over: its runner may have lived."""
    return any(one.whole < lease_s for one in recoveries([job], (), lease_s))


def _seen(one: jobs_pb2.WatchJobResponse) -> tuple[str, str | bytes]:
    if one.WhichOneof("event") == "job":
        return one.event_id, jobs_pb2.JobState.Name(one.job.state).removeprefix("JOB_STATE_")
    return one.event_id, one.answer.SerializeToString(deterministic=True)


def _written(one: Event) -> tuple[str, str | bytes]:
    if one.state is not None:
        return one.event_id, one.state.name
    part = router_pb2.StreamGenerateResponse.FromString(one.part)
    return one.event_id, part.SerializeToString(deterministic=True)


@dataclass(frozen=True, slots=True)
class Recovery:
    """From the last sign of life of a run that was lost to the beginning of the next one, in seconds.

    A run is lost whose runner was killed or frozen: another begins, and nobody had put the job back. The
    runner may have lived on after that sign, so no figure is too small.
    """

    whole: float
    away: float
    """Of it, how long the broker was away: nobody could be told of the job."""
    line: float
    """Of it, how long it took to begin every job that was in line when the lease was over."""

    @property
    def own(self) -> float:
        """What remains."""
        return self.whole - min(self.whole, self.away + self.line)


def recoveries(jobs: Sequence[Job], away: Sequence[tuple[float, float]], lease_s: float) -> list[Recovery]:
    """Of all runs that were lost. `away` is from when to when the broker was, in POSIX seconds."""
    waits = [(job.events[0].at, _begun(job)) for job in jobs if _begun(job)]
    found = []
    for job in jobs:
        running = False
        for before, one in zip(job.events, job.events[1:], strict=False):
            running = before.state is State.RUNNING or (running and before.state is None)
            if running and one.state is State.RUNNING:
                gone = sum(_overlap(before.at, one.at, *gap) for gap in away)
                over = before.at + lease_s
                line = max((begun - over for came, begun in waits if came < over < begun), default=0.0)
                found.append(Recovery(one.at - before.at, gone, line))
    return found


def _begun(job: Job) -> float:
    """When its first run began; 0 where none did."""
    return next((one.at for one in job.events if one.state is State.RUNNING), 0.0)


def _overlap(begin: float, end: float, since: float, until: float) -> float:
    return max(0.0, min(end, until) - max(begin, since))
