"""Keeps the semantic answer caches of all gateway processes alike: one Redis stream for each tenant.

A process reads a tenant's stream from its start, then follows it, and knows nothing of the tenant but what
the stream says: its own events too come back to it that way. So every process folds the same events in the
same order, and one that has just started is no worse off than the others.

Nobody waits for the stream. Events are written beside the requests, once; those that cannot be are dropped
and counted. A purge must not be missed: after a gap of any kind (trimmed, emptied, restarted, another server)
a process forgets the tenant and reads again from the start. While a stream was not heard for `SILENT_S`
nothing of it may be used, and a server that takes no writes is not heard: its master may have left it behind.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

import structlog
from redis.asyncio import Redis

from headgate.adapters import semantic_events as events
from headgate.adapters.breaker import Breaker
from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_client import FAILURES, Guard
from headgate.adapters.semantic_events import Added, Audited, Begin, Fields, Purged
from headgate.adapters.semantic_stream import Read, Rebased, SemanticStream, Told

_LOG = structlog.get_logger(__name__)
SILENT_S: Final = 3.0
"""A stream that was not heard for so long may hold a purge: three looks at one where nothing happens."""
LOOK_S: Final = 1.0
"""Between looks at streams where nothing happens; what happens is heard at once."""
REPLY_S: Final = 2.0
"""That the client waits for a reply, above `LOOK_S`: what takes longer is silence."""
AGAIN_S: Final = 0.5
"""Between tries to reach a server that is away."""
GATHER_S: Final = 0.01
"""Between reads, and before a batch is written: one round trip then carries many events."""
MOST_TENANTS: Final = 128
"""Tenants that are followed; the one that was asked for longest ago makes room for another."""
STAYS_S: Final = 60.0
"""But not so soon after it was asked for: a stream is read from its start first, and if more tenants than
there is room for took turns, none would ever be heard. Those that come late are not followed meanwhile."""
MOST_WAITING: Final = 1_000
"""Events that wait to be written; further ones are dropped and counted. Some 1 MB."""
BATCH: Final = 100
READ: Final = 200
"""Events of one reply, some 160 KB: to fold them holds requests up for a few milliseconds."""
AT_ONCE: Final = 16
"""Streams that are read in one round trip."""
KEPT: Final = 10_000
"""Events that a cut leaves; one is made at twice as many, some 15 MB of the server."""
KEPT_AUDITS: Final = 4_000
"""Audits that a cut carries on: to bound errors to one per cent at 90 % takes 230."""
QUIET_S: Final = 7 * 86_400
"""How long a stream is kept after its last event: entries expire by themselves, and audits are dear."""
CLOSE_S: Final = 0.2
STREAMS: Final = "headgate:semantic:"
"""Of a tenant's stream; its name follows."""
_NOTHING: Final = "headgate:semantic"
"""Never a key: to delete it changes nothing, and no replica lets one try."""

_Said: TypeAlias = tuple[str, Fields]


class SemanticFeed:
    """Writes and follows the streams."""

    def __init__(
        self,
        client: Redis,
        dropped: Callable[[int], None] = lambda count: None,
        clock: Callable[[], float] = time.monotonic,
        kept: int = KEPT,
    ) -> None:
        """`client` waits `REPLY_S` for a reply. `dropped` is told how many events were not written.

        A stream of twice `kept` events is cut to that.
        """
        self._client = client
        self._dropped = dropped
        self._clock = clock
        self._kept = kept
        self._guard = Guard(Breaker(open_s=AGAIN_S, longest_s=AGAIN_S))
        self._listener: Callable[[str, Told], None] = lambda tenant, told: None
        self._streams: OrderedDict[str, SemanticStream] = OrderedDict()
        self._asked: dict[str, float] = {}
        """When it was asked for last, of each that is followed."""
        self._refused = -SILENT_S
        """When one was asked for last for which there was no room."""
        self._heard: dict[str, float] = {}
        """When a read was sent that brought all there was."""
        self._waiting: deque[_Said] = deque()
        self._said = asyncio.Event()
        self._new = asyncio.Event()
        self._reading = asyncio.Lock()
        self._cutting: set[str] = set()
        """Tenants whose cut is on its way."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._deaf = self._mute = False

    @property
    def degraded(self) -> bool:
        """Whether the streams could not be read, or what was said not be written, the last time; or whether

        there was no room just now for one that was asked for.
        """
        return self._deaf or self._mute or self._clock() - self._refused < SILENT_S

    def start(self, listener: Callable[[str, Told], None]) -> None:
        """Begins to write and to follow; the listener is told of each tenant what happens, in order."""
        self._listener = listener
        self._tasks = {asyncio.create_task(one()) for one in (self._write, self._follow, self._meet)}

    async def close(self) -> None:
        """Stops, and drops what waits to be written."""
        while self._tasks:
            # More than once, for redis-py has been seen to keep a cancellation to itself.
            for task in self._tasks:
                task.cancel()
            _, self._tasks = await asyncio.wait(self._tasks, timeout=CLOSE_S)
        self._drop(len(self._waiting))
        self._waiting.clear()

    def hears(self, tenant: str) -> bool:
        """Whether all said of the tenant until `SILENT_S` ago was told; from now on it is followed, unless

        others have all the room.
        """
        now = self._clock()
        if not self._take_in(tenant, now):
            self._refused = now
            return False
        self._streams.move_to_end(tenant)
        self._asked[tenant] = now
        return self.hearing(tenant)

    def hearing(self, tenant: str) -> bool:
        """As `hears`, of one that nobody asks for."""
        return self._clock() - self._heard.get(tenant, -SILENT_S) < SILENT_S

    def follows(self, tenant: str) -> bool:
        """Whether there was room for it when it was asked for last."""
        return tenant in self._streams

    def say(self, tenant: str, event: Added | Audited) -> None:
        """Hands an event over to be written; drops it when too many wait."""
        if len(self._waiting) >= MOST_WAITING:
            self._drop(1)
            return
        self._waiting.append((tenant, events.fields(event)))
        self._said.set()

    async def purge(self, tenant: str, event: Purged) -> None:
        """Writes it before it returns. Raises SideRoomError within 4 s; then it may have been written."""
        await self._guard.run(lambda: self._append([(tenant, events.fields(event))]), 2 * REPLY_S)

    def _take_in(self, tenant: str, now: float) -> bool:
        if tenant in self._streams:
            return True
        if len(self._streams) >= MOST_TENANTS:
            first = next(iter(self._streams))
            if now - self._asked[first] < STAYS_S:
                return False
            self._leave(first)
        self._streams[tenant] = SemanticStream()
        self._new.set()
        return True

    # Writing

    async def _write(self) -> None:
        while True:
            await self._said.wait()
            self._said.clear()
            await asyncio.sleep(GATHER_S)
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                await self._write_batch(batch)

    async def _write_batch(self, batch: Sequence[_Said]) -> None:
        """Tries once: written again after a reply that never came, an audit would count twice."""
        try:
            await self._guard.run(lambda: self._append(batch), 2 * REPLY_S)
        except Exception as error:
            if not isinstance(error, SideRoomError):
                _LOG.exception("semantic events dropped", count=len(batch))
            self._mute = True
            self._drop(len(batch))
            return
        self._mute = False
        for tenant in {tenant for tenant, _ in batch}:
            await self._shorten(tenant)

    async def _append(self, said: Sequence[_Said]) -> None:
        """Where there is no stream, it begins with a `begin`, for some may remember an older one."""
        replies = await self._add(said, begun=True)
        late = [one for one, reply in zip(said, replies, strict=True) if reply is None]
        if late:
            begins = [(tenant, events.fields(Begin())) for tenant in dict.fromkeys(one for one, _ in late)]
            await self._add([*begins, *late], begun=False)

    async def _add(self, said: Sequence[_Said], *, begun: bool) -> list[Any]:
        """The length stands in for a cut that nobody made; to who follows, what it takes is a gap."""
        pipeline = self._client.pipeline(transaction=True)
        most = {"maxlen": 4 * self._kept, "approximate": True}
        for tenant, fields in said:
            pipeline.xadd(STREAMS + tenant, _wide(fields), nomkstream=begun, **most)  # type: ignore[arg-type]
        for tenant in {tenant for tenant, _ in said}:
            pipeline.expire(STREAMS + tenant, QUIET_S)
        return list((await pipeline.execute())[: len(said)])

    async def _shorten(self, tenant: str) -> None:
        """Cuts a stream that is too long. Where two processes do, the later cut takes nothing away."""
        stream = self._streams.get(tenant)
        if stream is None or not stream.whole or tenant in self._cutting:
            return
        if len(stream) < 2 * self._kept:
            return
        self._cutting.add(tenant)
        try:
            await self._guard.run(lambda: self._cut(tenant, stream), REPLY_S)
        except SideRoomError:
            self._cutting.discard(tenant)

    async def _cut(self, tenant: str, stream: SemanticStream) -> None:
        cut = stream.cut(self._kept, KEPT_AUDITS)
        name = STREAMS + tenant
        pipeline = self._client.pipeline(transaction=True)
        pipeline.xadd(name, _wide(events.fields(cut)), nomkstream=True)
        pipeline.xtrim(name, minid=events.written(cut.first), approximate=False)
        await pipeline.execute()

    def _drop(self, count: int) -> None:
        if count:
            self._dropped(count)

    # Following

    async def _follow(self) -> None:
        while True:
            await self._try(self._look)

    async def _meet(self) -> None:
        """Reads streams that are new here: whoever asked for one should not wait for the next look."""
        while True:
            await self._new.wait()
            self._new.clear()
            await self._try(lambda: self._read([one for one in self._streams if one not in self._heard]))

    async def _try(self, reading: Callable[[], Awaitable[None]]) -> None:
        try:
            await reading()
        except Exception as error:
            if not isinstance(error, FAILURES):
                _LOG.exception("semantic streams cannot be followed")
            self._deaf = True
            await asyncio.sleep(AGAIN_S)

    async def _look(self) -> None:
        """Reads all streams, then those that have news until it is time to read all of them again."""
        await self._read(list(self._streams))
        self._deaf = False
        until = self._clock() + LOOK_S
        while (left := until - self._clock()) > 0:
            await self._read(await self._news(left))
            await asyncio.sleep(GATHER_S)

    async def _news(self, within_s: float) -> list[str]:
        """The tenants whose streams have got longer, as soon as one has."""
        names: dict[Any, Any] = {
            STREAMS + tenant: events.written(stream.last) for tenant, stream in self._streams.items()
        }
        if not names:
            await asyncio.sleep(within_s)
            return []
        replies: Any = await self._client.xread(names, count=1, block=max(1, round(within_s * 1000)))
        return [name.decode().removeprefix(STREAMS) for name, _ in replies]

    async def _read(self, tenants: Sequence[str]) -> None:
        """Reads streams to their ends. After a gap one is left for the next look."""
        async with self._reading:
            due = deque(tenants)
            while due:
                some = [due.popleft() for _ in range(min(AT_ONCE, len(due)))]
                due.extend(await self._read_next([one for one in some if one in self._streams]))

    async def _read_next(self, tenants: Sequence[str]) -> list[str]:
        """Tells the next events of each; returns those that have more."""
        streams = {tenant: self._streams[tenant] for tenant in tenants}
        sent = self._clock()
        pipeline = self._client.pipeline(transaction=True)
        pipeline.delete(_NOTHING)
        for tenant, stream in streams.items():
            name, after = STREAMS + tenant, b"(" + events.written(stream.last)
            pipeline.xrange(name, count=1)
            pipeline.xrevrange(name, count=1)
            pipeline.xrange(name, min=after, count=READ)
        replies = (await pipeline.execute())[1:]
        more = []
        for number, (tenant, stream) in enumerate(streams.items()):
            if self._streams.get(tenant) is stream:
                told, read = stream.take(*replies[3 * number : 3 * number + 3])
                self._tell(tenant, told)
                self._note(tenant, read, sent)
                if read is Read.PART:
                    more.append(tenant)
            await asyncio.sleep(0)
        return more

    def _note(self, tenant: str, read: Read, sent: float) -> None:
        if read is Read.ALL and tenant in self._streams:
            self._heard[tenant] = sent
        elif read is Read.GAP:
            self._heard.pop(tenant, None)
            self._cutting.discard(tenant)

    def _tell(self, tenant: str, told: Sequence[Told]) -> None:
        try:
            for one in told:
                self._listener(tenant, one)
                if isinstance(one, Rebased):
                    self._cutting.discard(tenant)
        except Exception:
            # Half folded is not folded: it is read again from the start when it is asked for.
            _LOG.exception("a semantic event was not folded")
            self._leave(tenant)

    def _leave(self, tenant: str) -> None:
        del self._streams[tenant]
        self._asked.pop(tenant, None)
        self._heard.pop(tenant, None)
        self._cutting.discard(tenant)
        self._listener(tenant, Begin())


def _wide(fields: Fields) -> dict[Any, Any]:
    """As redis-py's types want it."""
    return {**fields}
