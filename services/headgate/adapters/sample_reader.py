"""Reads what shadow sampling kept, and what was said of it: for command lines, off every request's path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

from redis.asyncio import Redis

from headgate.adapters import samples
from headgate.adapters.ledger import Fold
from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_client import FAILURES, connect
from headgate.adapters.redis_rooms import LEDGER_STREAM, SAMPLE_STREAM, SAMPLES
from headgate.adapters.samples import Outcome, Record, Sample

REPLY_S: Final = 10.0
"""A command line can wait, and a thousand records are a large reply."""
BATCH: Final = 1000
"""Records that one reply carries; at least 2, because each page begins with the last record before it."""
TEXTS: Final = 100
"""Texts that one reply carries: some megabytes at most."""


@dataclass(frozen=True, slots=True)
class Found:
    """Everything of some tenants, each record once and each job once, oldest first."""

    samples: tuple[Sample, ...]
    outcomes: tuple[Outcome, ...]
    eligible: int = 0
    """Requests in the ledger that could have been drawn …"""
    drawn: int = 0
    """… and those of them that were. What is drawn and is no sample was dropped."""
    lost_runs: int = 0
    """Runs of jobs in the ledger that another one followed: they are no requests …"""
    lost_nanousd: int = 0
    """… and what they cost is charged to nobody."""

    @property
    def tenants(self) -> list[str]:
        """Whose samples these are."""
        return sorted({one.tenant for one in self.samples})


class SampleReader:
    """Reads and scores samples. Every method raises SideRoomError when Redis fails."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def found(self, tenants: Sequence[str] = ()) -> Found:
        """The samples with their texts, and the outcomes; no tenant given means all."""
        book = _Book(frozenset(tenants))
        for stream in (SAMPLE_STREAM, LEDGER_STREAM):
            async for record in self._stream(stream):
                book.take(record)
        lost = book.fold.lost
        counted = [one for name, one in book.samples.items() if name not in lost]
        draws = [hit for name, hit in book.draws.items() if name not in lost]
        return Found(
            samples=tuple([one async for one in self._with_texts(counted)]),
            outcomes=tuple(book.outcomes.values()),
            eligible=len(draws),
            drawn=sum(draws),
            lost_runs=len(lost),
            lost_nanousd=book.fold.lost_nanousd,
        )

    async def spent(self, tenants: Sequence[str], day: str) -> dict[str, int]:
        """What each tenant's samples of a day (ISO, UTC) cost, in nano-dollars, with what is reserved now."""
        try:
            taken = await self._client.mget([_key(samples.account(tenant, day)) for tenant in tenants])
            return {tenant: int(amount or 0) for tenant, amount in zip(tenants, taken, strict=True)}
        except (*FAILURES, ValueError) as error:
            raise _away(error) from None

    async def append(self, scores: Sequence[Record]) -> None:
        """Adds the scores beside the samples, in one round trip."""
        pipeline = self._client.pipeline(transaction=False)
        for one in scores:
            fields: dict[Any, Any] = {**one}
            pipeline.xadd(SAMPLE_STREAM, fields, maxlen=SAMPLES, approximate=True)
        try:
            await pipeline.execute()
        except FAILURES as error:
            raise _away(error) from None

    async def forget(self, tenant: str) -> int:
        """Deletes the texts of the tenant's samples; returns how many samples had any. The facts stay."""
        count = 0
        try:
            # A tenant's name has no character that a pattern would read as another.
            async for name in self._client.scan_iter(_key(samples.key(tenant, "*")), count=BATCH):
                count += int(await self._client.unlink(name))
        except FAILURES as error:
            raise _away(error) from None
        return count

    async def _stream(self, name: str) -> AsyncIterator[Record]:
        after = "-"
        while True:
            try:
                read = await self._client.xrange(name, after, "+", count=BATCH)
            except FAILURES as error:
                raise _away(error) from None
            entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", read)
            for _, fields in entries:
                yield _text(fields)
            if len(entries) < BATCH:
                return
            # Read again: older servers know no exclusive range, and readers fold.
            after = entries[-1][0].decode()

    async def _with_texts(self, bare: Sequence[Sample]) -> AsyncIterator[Sample]:
        for part in _parts(bare, TEXTS):
            keys = [_key(samples.key(one.tenant, one.record_id)) for one in part]
            try:
                kept = cast("list[bytes | None]", await self._client.mget(keys))
            except FAILURES as error:
                raise _away(error) from None
            for one, texts in zip(part, kept, strict=True):
                yield samples.with_texts(one, texts)


class _Book:
    """What of the streams is wanted, each record once: of a long ledger that is little."""

    def __init__(self, tenants: frozenset[str]) -> None:
        self._tenants = tenants
        self.samples: dict[str, Sample] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.draws: dict[str, bool] = {}
        self.fold = Fold()

    def take(self, record: Record) -> None:
        name = record.get("record_id", "")
        if not name or (self._tenants and record.get("tenant") not in self._tenants):
            return
        self.fold.take(record)
        sample, outcome = samples.read(record), samples.outcome(record)
        if sample is not None:
            self.samples[name] = sample
        elif outcome is not None:
            self.outcomes[name] = outcome
        elif "drawn" in record:
            self.draws[name] = record["drawn"] == "1"


@asynccontextmanager
async def reader(url: str) -> AsyncIterator[SampleReader]:
    """A reader for the time of a block; it connects when it is first used."""
    client = connect(url, REPLY_S, REPLY_S)
    try:
        yield SampleReader(client)
    finally:
        await client.aclose()


def _key(name: str) -> str:
    return f"headgate:{name}"


def _text(fields: Mapping[bytes, bytes]) -> Record:
    return {
        name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in fields.items()
    }


def _parts(whole: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    return (whole[start : start + size] for start in range(0, len(whole), size))


def _away(error: Exception) -> SideRoomError:
    return SideRoomError(type(error).__name__)
