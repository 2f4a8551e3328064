"""Records of jobs on Redis: the truth about every job, whatever a queue says.

    headgate:job:{tenant}:{id}          hash: the query and all that became of it
    headgate:job-events:{tenant}:{id}   stream: what WatchJob tells; also the channel that tells of its growth
    headgate:jobs:{tenant}              sorted set of ids by the time of acceptance
    headgate:dead-jobs:{tenant}         sorted set of ids by the time they were given up
    headgate:jobs-due                   sorted set of `tenant/id` by the time at which somebody must look
    headgate:jobs-line:{class}          sorted set of `tenant/id` that wait for a runner, by since when
    headgate:jobs-dead                  sorted set of `tenant/id` that were given up, by until when

Every step is one script, so that no two processes see half of one, and every instant in it is the server's
own. A run holds a *lease* that it renews; its *fence*, a word that no other run has ever had, goes with every
write, so that a run that lost its lease can write nothing. It is no count of runs, for a server that lost its
last second would give the same number twice.

A write whose reply got lost can be made again. A full server (`noeviction`) takes no job in and begins none,
but lets those under way come to their end. It refuses a script before its first write or not at all.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from importlib import resources
from typing import Any, Final

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import ResponseError

from headgate.adapters.breaker import Breaker
from headgate.adapters.config import JobsConfig
from headgate.adapters.job_hours import Hours
from headgate.adapters.job_news import JobNews
from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_client import FAILURES
from headgate.adapters.telemetry import Note, unnoted

_PREFIX: Final = "headgate:"
_DUE: Final = f"{_PREFIX}jobs-due"
_LINE: Final = f"{_PREFIX}jobs-line"
_DEAD: Final = f"{_PREFIX}jobs-dead"
_LISTED: Final = (
    b"state",
    b"class",
    b"batch",
    b"created",
    b"begins",
    b"expires",
    b"ended",
    b"runs",
    b"error",
)
"""What a list tells of a job."""
MOST_EVENTS: Final = 50_000
"""Kept of a job's stream, approximately: more than the longest answer has chunks."""
_ON_A_FULL_SERVER: Final = frozenset(("append", "renew", "end", "put_back", "cancel", "due"))
"""Scripts that need little room, and lead to there being more."""


class State(Enum):
    """How far a job is; the wire has the same names."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"


ENDED: Final = frozenset((State.DONE, State.FAILED, State.DEAD, State.CANCELLED))


@dataclass(frozen=True, slots=True)
class Submission:
    """What makes a job. Its name is unique within the tenant."""

    tenant: str
    name: str
    query: bytes
    digest: bytes
    """Of everything that makes two submissions of one name the same."""
    job_class: str
    batch: str
    expires: float
    """POSIX seconds."""
    ticket: str
    """What lets a runner act for the tenant."""
    upgrades: str = ""
    """What the gateway is to know of an answer that this job upgrades; empty where there is none."""
    begins: float = 0.0
    """POSIX seconds; not run before then."""
    traceparent: str = ""
    """Of the trace that its submission is part of; empty where it is of none."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a job. Instants are POSIX seconds; 0 where there is none."""

    tenant: str
    name: str
    state: State
    query: bytes
    job_class: str
    batch: str
    created: float
    begins: float
    expires: float
    ended: float
    runs: int
    ticket: str
    answer: bytes
    error: bytes


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run a job, until it is lost."""

    tenant: str
    name: str
    fence: str
    query: bytes
    ticket: str
    upgrades: str
    expires: float
    runs: int
    begun: int
    """How often it was begun in all, runs that do not count and those before a replay among them."""
    left_s: float
    """Seconds that were left when it was claimed, by the server's clock: a runner's own may be wrong."""
    job_class: str = "batch"
    traceparent: str = ""
    """Of the trace that the job's submission is part of."""


@dataclass(frozen=True, slots=True)
class Happening:
    """An entry of a job's stream: a change of state, or a part of the answer."""

    event_id: str
    state: State | None
    runs: int
    part: bytes


@dataclass(frozen=True, slots=True)
class Line:
    """Who waits, and what was given up."""

    dead: int
    waiting: Mapping[str, int]
    """Jobs by class."""
    oldest_s: Mapping[str, float]
    """How long the first of each class has waited; 0 where nobody waits."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Times and counts by which jobs are run."""

    lease_s: float = 30.0
    """How long a run may be silent. Renewed at a third of it: two renewals may be lost."""
    most_runs: int = 3
    """A job that was begun so often is given up: what kills its runner must not kill all of them."""
    grace_s: float = 5.0
    """How long a queued job waits for its queue before it is queued again."""
    keep_s: float = 7 * 86_400.0
    """How long a record is kept after its job has ended."""
    batch_hours: Hours = field(default_factory=Hours)
    """When jobs of class batch run."""
    batch_budget_nanousd: int = 0
    """What those of a tenant may cost in a day (UTC); 0 is no limit."""
    upgrade_budget_nanousd: int = 0
    """The same of class escalation."""

    @classmethod
    def of(cls, settings: JobsConfig) -> Terms:
        """Those of the config, the same for whoever reads the records."""
        keep_s = settings.keep_days * 86_400
        hours = Hours.of(settings.batch_hours, settings.time_zone)
        budgets = [
            round((usd or 0) * 1e9)
            for usd in (settings.batch_budget_usd_per_day, settings.upgrade_budget_usd_per_day)
        ]
        return cls(settings.lease_s, settings.most_runs, settings.grace_s, keep_s, hours, *budgets)


class RedisJobs:
    """The records. Every method raises SideRoomError when Redis does not do what it is asked.

    What a step makes of a job is counted by who took the step: each end once, where it is written.
    """

    def __init__(
        self,
        client: Redis,
        terms: Terms | None = None,
        breaker: Breaker | None = None,
        note: Note = unnoted,
    ) -> None:
        """With a breaker a server that says nothing is left alone for a while: nobody waits for it then."""
        self.terms = terms or Terms()
        self._note = note
        self._client = client
        self._news = JobNews(client)
        self._breaker = breaker or Breaker(failures=sys.maxsize)
        self._scripts: dict[str, AsyncScript] = {}

    async def submit(self, one: Submission) -> str:
        """Writes the record: `new`; `same` where it is there, `other` where another job has the name."""
        t = self.terms
        told = await self._run(
            "submit", self._keys(one.tenant, one.name),
            one.tenant, one.name, one.digest, one.query, one.job_class, one.batch, _ms(one.expires),
            one.ticket, _ms(t.grace_s), _ms(t.keep_s), one.upgrades, _ms(one.begins), one.traceparent,
        )  # fmt: skip
        return _text(told)

    async def read(self, tenant: str, name: str) -> Record | None:
        """The record; None where there is none."""
        found = await self._ask(self._client.hgetall(_job(tenant, name)))
        return _record(tenant, name, found) if found else None

    async def listed(self, tenant: str, names: Sequence[str]) -> list[Record | None]:
        """Records without query and answer, of all these jobs in one round trip; None where there is none."""
        pipeline = self._client.pipeline(transaction=False)
        for name in names:
            pipeline.hmget(_job(tenant, name), _LISTED)
        found = await self._ask(pipeline.execute())
        return [
            _record(tenant, name, {b"query": b"", **dict(zip(_LISTED, told, strict=True))})
            if told[0] is not None else None
            for name, told in zip(names, found, strict=True)
        ]  # fmt: skip

    async def names(
        self, tenant: str, before: float, most: int, *, dead: bool = False
    ) -> list[tuple[str, float]]:
        """The tenant's jobs that were accepted (given up, if `dead`) before an instant, the newest first."""
        limits = (f"({round(before * 1e6)}" if before else "+inf", "-inf")
        key = f"{_PREFIX}{'dead-jobs' if dead else 'jobs'}:{tenant}"
        found = await self._ask(
            self._client.zrevrangebyscore(key, *limits, start=0, num=most, withscores=True)
        )
        return [(_text(name), score / 1e6) for name, score in found]

    async def cancel(self, tenant: str, name: str) -> bool:
        """Ends the job unless it has ended; whether it was there to be ended."""
        keep = _ms(self.terms.keep_s)
        return self._noted(await self._run("cancel", self._keys(tenant, name), tenant, name, keep))

    async def replay(self, tenant: str, name: str, expires: float, ticket: str) -> bool:
        """Queues a dead job again, until `expires` (POSIX seconds) and with another ticket; whether it was
        one."""
        told = await self._run("replay", self._keys(tenant, name), tenant, name, _ms(self.terms.grace_s),
                               _ms(expires), ticket)  # fmt: skip
        return bool(told)

    async def claim(self, tenant: str, name: str, fence: str = "") -> Lease | None:
        """The right to run the job, or None: it has ended, another run holds it, or it was given up now.

        Who got no reply asks again with the same `fence`, one of `new_fence`: it is still one run.
        """
        t, fence = self.terms, fence or new_fence()
        told = await self._run(
            "claim", self._keys(tenant, name),
            tenant, name, fence, _ms(t.lease_s), t.most_runs, _ms(t.keep_s),
            _ms(t.batch_hours.wait_s(time.time())), _PREFIX,
            t.batch_budget_nanousd, t.upgrade_budget_nanousd,
        )  # fmt: skip
        if not isinstance(told, list):
            return None
        what, lost, *rest = told
        if lost:
            job_class = _text(rest[1] if what == b"ended" else rest[7])
            self._note("headgate_job_runs_ended_total", job_class, "lost")
        if what == b"ended":
            self._noted(rest)
            return None
        query, ticket, upgrades, expires, runs, begun, left, job_class, waited, traceparent = rest
        lease = Lease(
            tenant, name, fence, query, _text(ticket), _text(upgrades), int(expires) / 1000, int(runs),
            int(begun), int(left) / 1000, _text(job_class), _text(traceparent),
        )  # fmt: skip
        self._note("headgate_job_runs_begun_total", lease.job_class)
        if lease.begun == 1:
            self._note("headgate_job_wait_seconds", lease.job_class, value=int(waited) / 1000)
        return lease

    async def held(self, lease: Lease) -> bool:
        """Whether the lease is what it was; False where the job was cancelled, or another run has it."""
        found = await self._ask(self._client.hmget(_job(lease.tenant, lease.name), "state", "fence"))
        return bool(found == [State.RUNNING.value.encode(), lease.fence.encode()])

    async def renew(self, lease: Lease) -> bool:
        """Keeps the lease; False where it is lost: the job was cancelled, or another run has it."""
        told = await self._run("renew", self._keys(lease.tenant, lease.name), lease.tenant, lease.name,
                               lease.fence, _ms(self.terms.lease_s))  # fmt: skip
        return bool(told)

    async def append(self, lease: Lease, parts: Sequence[bytes], first: int | None = None) -> int | None:
        """Adds to the job's stream what it does not have yet, and renews the lease; None where it is lost.

        `first` is the place of the first part among those of the run; without it all are new. Returns how
        many of the run are in the stream: 0 where the server has forgotten some, and then those who watch
        have been told that the run tells all of them again. At most some thousand parts.
        """
        place = "" if first is None else first
        told = await self._run("append", self._keys(lease.tenant, lease.name), lease.tenant, lease.name,
                               lease.fence, _ms(self.terms.lease_s), MOST_EVENTS, place, *parts)  # fmt: skip
        return None if told < 0 else int(told)

    async def end(
        self, lease: Lease, state: State, *, answer: bytes = b"", error: bytes = b"", cost_nanousd: int = 0
    ) -> bool:
        """The job has ended so; False where the lease is lost, and nothing was written."""
        told = await self._run(
            "end", self._keys(lease.tenant, lease.name), lease.tenant, lease.name, lease.fence, state.value,
            answer, error, _ms(self.terms.keep_s), cost_nanousd,
        )  # fmt: skip
        return self._noted(told)

    async def put_back(self, lease: Lease, error: bytes, pause_s: float, *, counted: bool = True) -> bool:
        """The run failed, and another may do better after a pause; False where the lease is lost.

        One that is not `counted` was none: it does not bring the job nearer to being given up.
        """
        told = await self._run("put_back", self._keys(lease.tenant, lease.name), lease.tenant, lease.name,
                               lease.fence, error, _ms(pause_s), int(counted))  # fmt: skip
        return bool(told)

    async def due(self, most: int = 100) -> list[tuple[str, str, str]]:
        """Tenant, name and class of jobs that have made no progress in time and are to be queued again.

        Their leases are over. Each is given another grace, so that no two reconcilers queue it at once.
        """
        told = await self._run("due", [_DUE], _PREFIX, most, _ms(self.terms.grace_s))
        return [
            (_text(a), _text(b), _text(c)) for a, b, c in zip(told[0::3], told[1::3], told[2::3], strict=True)
        ]

    async def line(self, classes: Sequence[str]) -> Line:
        """How many wait in these classes, since when, and how many were given up."""
        dead, *told = await self._run("line", self._keys("", ""), *classes)
        oldest = [int(age) / 1000 for age in told[1::2]]
        return Line(
            int(dead), dict(zip(classes, map(int, told[0::2]), strict=True)),
            dict(zip(classes, oldest, strict=True)),
        )  # fmt: skip

    async def left(self, tenants: Sequence[str], day: int) -> list[tuple[str, str, int]]:
        """Tenant, class and nano-dollars left of each budget that there is; days count from POSIX's first.

        What runs under way may cost at most is taken off; the last of them may cost more than was left.
        """
        t = self.terms
        budgets = {"batch": t.batch_budget_nanousd, "escalation": t.upgrade_budget_nanousd}
        asked = [(tenant, one) for one, most in budgets.items() if most for tenant in tenants]
        if not asked:
            return []
        pipeline = self._client.pipeline(transaction=False)
        for tenant, one in asked:
            pipeline.hget(f"{_PREFIX}budget:{tenant}:{one}:{day}", "taken")
        found = await self._ask(pipeline.execute())
        return [(tenant, one, budgets[one] - int(taken or 0))
                for (tenant, one), taken in zip(asked, found, strict=True)]  # fmt: skip

    async def happenings(self, tenant: str, name: str, after: str, wait_s: float) -> AsyncIterator[Happening]:
        """What the stream has after an event, and what comes within the time; "" from the beginning."""
        stream = _events(tenant, name)
        found = await self._ask(
            self._client.xread({stream: after or "0"}, count=1000, block=_ms(wait_s) or None)
        )
        for _, entries in found or ():
            for event_id, fields in entries:
                yield _happening(_text(event_id), fields)

    def bell(self, tenant: str, name: str) -> AbstractAsyncContextManager[asyncio.Event]:
        """Rings when the job's stream has got longer, or late, or not at all: see job_news."""
        return self._news.bell(_events(tenant, name))

    async def close(self) -> None:
        """Closes the connections."""
        await self._news.close()
        await self._client.aclose()

    def _keys(self, tenant: str, name: str) -> list[str]:
        return [
            _job(tenant, name), _events(tenant, name), f"{_PREFIX}jobs:{tenant}",
            f"{_PREFIX}dead-jobs:{tenant}", _DUE, _LINE, _DEAD,
        ]  # fmt: skip

    def _noted(self, told: Any) -> bool:
        """Whether the step ended the job; then it is counted."""
        if not isinstance(told, list):
            return False
        state, job_class, age = _text(told[0]), _text(told[1]), int(told[2])
        self._note("headgate_jobs_ended_total", job_class, state)
        self._note("headgate_job_seconds", job_class, value=age / 1000)
        return True

    async def _run(self, script: str, keys: Sequence[str], *arguments: Any) -> Any:
        if script not in self._scripts:
            self._scripts[script] = self._client.register_script(_source(script))
        return await self._ask(self._scripts[script](keys=list(keys), args=list(arguments)))

    async def _ask(self, command: Any) -> Any:
        if not self._breaker.allows():
            command.close()
            raise SideRoomError("left alone after repeated failures")
        try:
            told = await command
        except FAILURES as error:
            if isinstance(error, ResponseError):
                self._breaker.succeeded()
            else:
                self._breaker.failed()
            raise SideRoomError(type(error).__name__) from None
        self._breaker.succeeded()
        return told


def new_fence() -> str:
    """For one run."""
    return secrets.token_hex(8)


def _source(script: str) -> str:
    files = resources.files("headgate.adapters").joinpath("job_scripts")
    flags = "#!lua flags=allow-oom\n" if script in _ON_A_FULL_SERVER else ""
    return flags + files.joinpath("common.lua").read_text() + files.joinpath(f"{script}.lua").read_text()


def _job(tenant: str, name: str) -> str:
    return f"{_PREFIX}job:{tenant}:{name}"


def _events(tenant: str, name: str) -> str:
    return f"{_PREFIX}job-events:{tenant}:{name}"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _text(raw: bytes | str) -> str:
    return raw.decode() if isinstance(raw, bytes) else raw


def _record(tenant: str, name: str, fields: Mapping[bytes, Any]) -> Record:
    def instant(key: bytes) -> float:
        return int(fields.get(key) or 0) / 1000

    return Record(
        tenant=tenant,
        name=name,
        state=State(_text(fields[b"state"])),
        query=fields[b"query"],
        job_class=_text(fields[b"class"]),
        batch=_text(fields[b"batch"]),
        created=instant(b"created"),
        begins=instant(b"begins"),
        expires=instant(b"expires"),
        ended=instant(b"ended"),
        runs=int(fields[b"runs"]),
        ticket=_text(fields.get(b"ticket", b"")),
        answer=fields.get(b"answer", b""),
        error=fields.get(b"error") or b"",
    )


def _happening(event_id: str, fields: Mapping[bytes, bytes]) -> Happening:
    state = fields.get(b"state")
    return Happening(
        event_id, State(_text(state)) if state else None, int(fields.get(b"runs", b"0")),
        fields.get(b"part", b""),
    )  # fmt: skip
