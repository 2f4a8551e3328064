"""Shadow sampling: a share of the requests is also answered by the other models, off the path.

1. The answer comes first. No request waits for anything here, and a shadow call ends where an answer needs
   its slot.
2. A keyed hash of the record's id draws: it can be repeated, and no caller can steer it. Its probability, the
   propensity, is kept with the sample.
3. Money is reserved before a shadow call and settled after it, in the tenant's own budget of the day; the
   request is charged nothing.
4. A shadow call is no attempt: it is not tried again, it moves no breaker, and it is counted apart.
5. What cannot be sampled is dropped, and every drop is counted with its reason.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import grpc
import grpc.aio
import structlog

from headgate.adapters import samples
from headgate.adapters.config import ShadowConfig
from headgate.adapters.ports import Budget, SideRoomError, Store
from headgate.adapters.samples import Sample, SampledAnswer, Settings, Turn
from headgate.adapters.telemetry import DAY_S, Metrics
from headgate.gateway import convert
from headgate.gateway.admission import Caller
from headgate.gateway.records import Record, Recorder
from headgate.gateway.worker_channel import Call
from headgate.gateway.workers import Worker, Workers
from headgate.router.cost import call_cost, estimate_tokens
from headgate.router.types import Decision, Model, Reason
from headgate.v1 import types_pb2, worker_pb2

_LOG = structlog.get_logger(__name__)
AT_ONCE: Final = 4
"""Samples worked on at the same time: shadow calls compete with answers for machines and accounts."""
MOST_WAITING: Final = 32
"""Samples inside, those worked on included; further ones are dropped. At 64 KiB each they are small."""
LIFE_S: Final = 120.0
"""From being drawn to being kept: the wait for an idle worker, and a call for each model."""
CALL_S: Final = 60.0
"""Deadline of one shadow call; that of a unary call whose caller gave none."""
CLOSE_S: Final = 0.5
"""How long the end of the process waits for what was cancelled to settle its money."""
LOOK_S: Final = 0.05
"""Between looks whether a worker is idle."""
MOST_BYTES: Final = 32 * 1024
"""Longest query and longest answer that are sampled; some 8,000 tokens each."""
MOST_TOKENS: Final = 8192
"""Longest answer that money is reserved for where the query sets no limit."""
_UNCERTAIN: Final = 2
"""A prompt's own tokens are at most so many times the estimate."""
_FORCED: Final = frozenset({Reason.PINNED, Reason.BRAIN_FAILED})
"""Decisions that no policy made: no certificate speaks of them."""
_LIKE: Final = types_pb2.CacheStatus.Name(types_pb2.CACHE_STATUS_SEMANTIC_HIT)


@dataclass(frozen=True, slots=True)
class Answered:
    """A request whose answer is on its way."""

    caller: Caller
    wire: types_pb2.Query
    decision: Decision | None
    model: str
    """Who gave the answer."""
    pieces: Sequence[str]
    usage: types_pb2.Usage
    reference: str
    wasted_nanousd: int = 0
    """What drafts cost that were not accepted, and a hedge that was not needed."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where samples go, and who pays."""

    texts: Store
    budget: Budget
    facts: Recorder


class _DroppedError(Exception):
    """The sample cannot be had; the message is a value of the metric's label `result`."""


class Shadow:
    """Draws requests, and lets the other models answer them."""

    def __init__(
        self, settings: ShadowConfig, key: bytes, workers: Workers, places: Places | None, metrics: Metrics
    ) -> None:
        """`settings` may be replaced at any time. Without `places` nothing is drawn."""
        self.settings = settings
        self._key = key
        self._workers = workers
        self._places = places
        self._metrics = metrics
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    @property
    def on(self) -> bool:
        """Whether anything is drawn now."""
        return self.settings.share > 0 and self._places is not None and not self._stopped

    def offer(self, record: Record, answered: Answered) -> Record:
        """Draws, and begins to sample what was drawn; returns the record with the draw noted.

        A request that no certificate could speak of, or that no other model may answer, is not eligible.
        """
        try:
            return self._offer(record, answered)
        except Exception:
            # The caller is about to get its answer, and nothing here is worth losing it.
            _LOG.exception("shadow sampling failed")
            return record

    def stop(self) -> None:
        """Begins nothing any more; what runs may end."""
        self._stopped = True

    async def close(self) -> None:
        """Drops what still runs, its calls cancelled."""
        self.stop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)

    def _offer(self, record: Record, answered: Answered) -> Record:
        others = self._others(answered)
        if not self.on or not others or not _eligible(record, answered):
            return record
        share = self.settings.share
        hit = drawn(self._key, record["record_id"], share)
        if hit:
            self._begin(_Draw(record, answered, others, share))
        return {**record, "share": repr(share), "drawn": str(int(hit))}

    def _others(self, answered: Answered) -> tuple[str, ...]:
        names = self.settings.models or tuple(worker.name for worker in self._workers)
        return tuple(
            name for name in names if name != answered.model and _may_answer(answered, self._workers[name])
        )

    def _begin(self, draw: _Draw) -> None:
        if len(self._tasks) >= MOST_WAITING:
            self._count("full")
            return
        task = asyncio.create_task(self._attend(draw))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attend(self, draw: _Draw) -> None:
        """One sample from draw to end; however it ends, that is counted."""
        result = "failed"
        try:
            async with asyncio.timeout(LIFE_S), self._turns:
                await self._sample(draw)
            result = "kept"
        except _DroppedError as dropped:
            result = str(dropped)
        except TimeoutError:
            result = "late"
        except SideRoomError:
            result = "unavailable"
        except asyncio.CancelledError:
            result = "drained"
            raise
        except Exception:
            _LOG.exception("shadow sampling failed")
        finally:
            self._count(result)

    async def _sample(self, draw: _Draw) -> None:
        places = self._places
        delivered = self._delivered(draw)
        if places is None or delivered is None:
            raise _DroppedError("failed")
        answers = [delivered, *[await self._ask(places, draw, name) for name in draw.others]]
        sample = _sample(draw, answers)
        ttl_s = self.settings.keep_text_days * 86_400
        # Texts first: facts without texts would look like a sample that has expired.
        await places.texts.put(samples.key(sample.tenant, sample.record_id), samples.texts(sample), ttl_s)
        places.facts.record(samples.facts(sample))

    def _delivered(self, draw: _Draw) -> SampledAnswer | None:
        answered = draw.answered
        model = self._workers[answered.model].model
        text = "".join(answered.pieces)
        _check_length(text)
        return None if model is None else _answer(model, text, answered.usage, 1.0)

    async def _ask(self, places: Places, draw: _Draw, name: str) -> SampledAnswer:
        """One other model's answer."""
        worker = self._workers[name]
        while not worker.idle:  # noqa: ASYNC110  (no answer shall have to tell that it has ended)
            await asyncio.sleep(LOOK_S)
        model, reading = worker.model, _Reading()
        if model is None:
            raise _DroppedError("failed")
        async with self._paid(places.budget, draw, model, reading):
            await self._call(worker, draw, reading)
        return _answer(model, reading.text, reading.usage, draw.share)

    @asynccontextmanager
    async def _paid(
        self, budget: Budget, draw: _Draw, model: Model, reading: _Reading
    ) -> AsyncIterator[None]:
        """Reserves the most that a call may cost for the time of a block, then takes what it did cost."""
        account, most = draw.account, _dearest(model, draw.answered.wire)
        day = int(time.time() // DAY_S)
        if not await budget.reserve(account, most, self.settings.budget_nanousd):
            raise _DroppedError("budget")
        try:
            yield
        finally:
            cost = _cost(model, draw.answered.wire, reading)
            self._metrics.shadow_cost.labels(model.name).inc(cost)
            # A reservation that is not settled stays taken: money is rather not spent than spent twice.
            with suppress(SideRoomError):
                taken = await budget.give_back(account, most - cost)
                left, tenant = self.settings.budget_nanousd - taken, draw.answered.caller.tenant
                self._metrics.budgets_left.tell(tenant, "samples", left, day)

    async def _call(self, worker: Worker, draw: _Draw, reading: _Reading) -> None:
        wire, code = draw.answered.wire, grpc.StatusCode.CANCELLED
        request = worker_pb2.WorkerServiceGenerateRequest(
            messages=wire.messages, sampling=wire.sampling, request_id=f"shadow-{draw.record['record_id']}"
        )
        call = worker.channel.generate(request, CALL_S)
        worker.shadows.add(call)
        try:
            await reading.read(call)
            code = grpc.StatusCode.OK
        except grpc.aio.AioRpcError as error:
            code = error.code()
            raise _DroppedError("failed") from None
        finally:
            call.cancel()
            worker.shadows.discard(call)
            self._metrics.shadow_calls.labels(worker.name, code.name).inc()

    def _count(self, result: str) -> None:
        self._metrics.shadow_samples.labels(result).inc()


@dataclass(frozen=True, slots=True)
class _Draw:
    """A request that was drawn."""

    record: Record
    answered: Answered
    others: tuple[str, ...]
    share: float

    @property
    def account(self) -> str:
        day = datetime.fromtimestamp(time.time(), UTC).date().isoformat()
        return samples.account(self.answered.caller.tenant, day)


class _Reading:
    """What a shadow call has brought so far."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._bytes = 0
        self.usage = types_pb2.Usage()
        self.ended = False

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    async def read(self, call: Call) -> None:
        """Reads up to the last chunk. Raises _DroppedError or AioRpcError."""
        while not self.ended:
            try:
                chunk = await call.read()
            except asyncio.CancelledError:
                if _cancelled_from_outside():
                    raise
                raise _DroppedError("yielded") from None
            if not isinstance(chunk, worker_pb2.WorkerServiceGenerateResponse):
                raise _DroppedError("failed")
            self._take(chunk)

    def _take(self, chunk: worker_pb2.WorkerServiceGenerateResponse) -> None:
        self._pieces.append(chunk.text)
        self._bytes += len(chunk.text.encode())
        if self._bytes > MOST_BYTES:
            raise _DroppedError("too_long")
        if chunk.finish_reason:
            self.usage, self.ended = chunk.usage, True


def draw_key(pepper: bytes) -> bytes:
    """The key of the draw: a secret's where there is one, always the same for the same secret."""
    return hashlib.sha256(b"headgate shadow 1" + pepper).digest()


def drawn(key: bytes, record_id: str, share: float) -> bool:
    """Whether this record is sampled. Who is drawn at a small share is drawn at a larger one too."""
    digest = hashlib.blake2b(record_id.encode(), key=key, digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def _may_answer(answered: Answered, worker: Worker) -> bool:
    """Whether the tenant may use the model, and it can do what the query requires."""
    allowed, required = answered.caller.allowed, frozenset(answered.wire.required_capabilities)
    capable = not required or (worker.model is not None and required <= worker.model.capabilities)
    return capable and (allowed is None or worker.name in allowed)


def _eligible(record: Record, answered: Answered) -> bool:
    """Whether the policy chose freely, its choice answered, and the query is one that can be certified.

    A hit is its choice's answer to the same query, whenever that was given. A semantic hit is one to another
    query: to score it here would say of the model what it never said.
    """
    if record.get("cache") == _LIKE:
        return False
    decision = answered.decision
    if decision is None or decision.reason in _FORCED or decision.model != answered.model:
        return False
    return _certifiable(answered.wire)


def _certifiable(wire: types_pb2.Query) -> bool:
    """Whether it is one greedy turn without stop strings, short enough to keep.

    Of other queries a label would be of no use yet: nothing is spent on them, and nothing of them is kept.
    """
    greedy = not wire.sampling.temperature and not wire.sampling.stop
    return len(wire.messages) == 1 and greedy and wire.ByteSize() <= MOST_BYTES


def _check_length(text: str) -> None:
    if len(text.encode()) > MOST_BYTES:
        raise _DroppedError("too_long")


def _prompt_tokens(wire: types_pb2.Query) -> int:
    return sum(estimate_tokens(convert.text(message)) for message in wire.messages)


def _dearest(model: Model, wire: types_pb2.Query) -> int:
    """The most that the call should cost, in nano-dollars."""
    longest = wire.sampling.max_tokens or MOST_TOKENS
    return call_cost(model.price, _UNCERTAIN * _prompt_tokens(wire), longest)


def _cost(model: Model, wire: types_pb2.Query, reading: _Reading) -> int:
    """What the call cost; one that brought text and no end is charged for what was seen, as an attempt is."""
    if reading.ended:
        return call_cost(model.price, reading.usage.prompt_tokens, reading.usage.completion_tokens)
    return call_cost(model.price, _prompt_tokens(wire), estimate_tokens(reading.text)) if reading.text else 0


def _answer(model: Model, text: str, usage: types_pb2.Usage, propensity: float) -> SampledAnswer:
    return SampledAnswer(
        model=model.name,
        version=model.version,
        price=model.price,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cost_nanousd=call_cost(model.price, usage.prompt_tokens, usage.completion_tokens),
        propensity=propensity,
        text=text,
    )


def _sample(draw: _Draw, answers: Sequence[SampledAnswer]) -> Sample:
    record, wire = draw.record, draw.answered.wire
    return Sample(
        record_id=record["record_id"],
        tenant=record["tenant"],
        request_id=record["request_id"],
        at=float(record["at"]),
        delivered=draw.answered.model,
        reference=draw.answered.reference,
        share=draw.share,
        bundle_version=record["bundle_version"],
        policy_version=record["policy_version"],
        settings=_settings(wire),
        answers=tuple(answers),
        wasted_nanousd=draw.answered.wasted_nanousd,
        conversation=tuple(Turn(types_pb2.Role.Name(m.role), convert.text(m)) for m in wire.messages),
        labels=dict(wire.metadata),
    )


def _settings(wire: types_pb2.Query) -> Settings:
    sampling = wire.sampling
    return Settings(
        temperature=sampling.temperature,
        top_p=sampling.top_p if sampling.HasField("top_p") else 1.0,
        max_tokens=sampling.max_tokens,
        stops=len(sampling.stop),
        turns=len(wire.messages),
    )


def _cancelled_from_outside() -> bool:
    """Whether the sample itself was cancelled, not only its call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
