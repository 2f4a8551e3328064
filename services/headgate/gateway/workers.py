"""The workers of the pool, and what each says of itself every second.

DescribeModel is the probe: it goes the way of a request, finds frozen processes, and brings the model's
version and price with it, so that a worker that came back with other weights is noticed. A worker that drains
is noticed sooner still: its channel watches its health and sends nothing more to it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final

import grpc
import grpc.aio
import structlog

from headgate.adapters.breaker import Breaker
from headgate.adapters.config import ModelConfig
from headgate.gateway.pace import PaceMeter
from headgate.gateway.retry_budget import RetryBudget
from headgate.gateway.worker_channel import Call, WorkerChannel
from headgate.router.types import Model, Pool, Price
from headgate.v1 import worker_pb2

_LOG = structlog.get_logger(__name__)
PROBE_EVERY_S: Final = 1.0
"""A worker that hangs is out of the way after two or three of these; a probe costs it nothing."""
PROBE_TIMEOUT_S: Final = 1.0
"""A busy machine replies late: what is much shorter would call it frozen."""
MISSES_UNTIL_OUT: Final = 2
"""One late reply is no verdict. One good reply brings it back: the breaker still stands before its calls."""
MISSES_UNTIL_CUT: Final = 5
"""A worker that does not even reply any more will not finish its answers either: they are cut, visibly."""


class Worker:
    """One worker as the gateway sees it."""

    def __init__(
        self, name: str, address: str, price: Price | None, capabilities: frozenset[str] = frozenset()
    ) -> None:
        """`price` is the operator's; None means the worker's own. `capabilities` add to the worker's own."""
        self.name = name
        self.address = address
        self.serving = False
        self.out_because = ""
        """Why it does not serve, where that is known."""
        self.model: Model | None = None
        """As it described itself; None until it was reached."""
        self.channel = WorkerChannel(address)
        self.breaker = Breaker()
        self.retries = RetryBudget()
        self.pace = PaceMeter()
        self.calls: set[Call] = set()
        self.shadows: set[Call] = set()
        """Calls on nobody's behalf: they begin where there is room, and end where an answer needs it."""
        self._price = price
        self._capabilities = capabilities
        self._misses = 0
        self._slots = 1

    @property
    def idle(self) -> bool:
        """Whether a shadow call may begin: the worker is well and most of its slots are free as seen here."""
        busy = len(self.calls) + len(self.shadows)
        return self.serving and not self.breaker.open and busy < max(1, self._slots // 2)

    def make_room(self) -> None:
        """Ends shadow calls where the next answer would have to wait for one."""
        if self.shadows and len(self.calls) + len(self.shadows) >= self._slots:
            for call in tuple(self.shadows):
                call.cancel()

    async def probe(self) -> None:
        """Asks the worker to describe itself; afterwards `serving` and `model` are up to date."""
        try:
            description = await self.channel.describe(PROBE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            self._missed(frozen=error.code() is grpc.StatusCode.DEADLINE_EXCEEDED)
        else:
            self._described(description)

    async def close(self) -> None:
        """Ends all calls, then the channel."""
        for call in (*self.calls, *self.shadows):
            call.cancel()
        await self.channel.close()

    def _described(self, description: worker_pb2.DescribeModelResponse) -> None:
        price = self._price or _price(description)
        misfit = self._misfit(description, price)
        if misfit:
            self._out(misfit)
            return
        assert price is not None  # noqa: S101  (checked by _misfit)
        self._misses = 0
        self._slots = max(1, description.slots)
        self.model = Model(
            name=self.name,
            price=price,
            context_tokens=description.context_tokens,
            version=description.version,
            capabilities=self._capabilities.union(description.capabilities),
            pace=self.pace.pace(time.monotonic()),
            logprobs=description.logprobs,
        )
        if not self.serving:
            _LOG.info("worker serving", model=self.name, worker=self.address, version=description.version)
        self.serving = True
        self.out_because = ""

    def _misfit(self, description: worker_pb2.DescribeModelResponse, price: Price | None) -> str:
        if description.model != self.name:
            return "another model listens at this worker's address; correct the config"
        return "" if price else f"the worker names no price; set pool.{self.name}.price"

    def _missed(self, *, frozen: bool) -> None:
        self._misses = self._misses + 1 if frozen else MISSES_UNTIL_OUT
        if self._misses >= MISSES_UNTIL_OUT:
            self._out("it does not reply in time" if frozen else "it cannot be reached")
        if frozen and self._misses >= MISSES_UNTIL_CUT:
            for call in self.calls:
                call.cancel()

    def _out(self, why: str) -> None:
        if why != self.out_because:
            _LOG.warning("worker not serving", model=self.name, worker=self.address, because=why)
        self.serving = False
        self.out_because = why


class Workers:
    """All workers of the pool, in the config's order."""

    def __init__(
        self,
        configs: Mapping[str, ModelConfig],
        addresses: Mapping[str, str],
        reference: str | None,
        changed: Callable[[Worker], Awaitable[None]],
    ) -> None:
        """`changed` is told after each probe. `reference` None means the dearest model."""
        self._workers = {
            name: Worker(name, addresses[name], _configured(config), frozenset(config.capabilities))
            for name, config in configs.items()
        }
        self._reference = reference
        self._changed = changed
        self._pool: Pool | None = None
        self._all_serve = asyncio.Event()
        self._watches: list[asyncio.Task[None]] = []

    def __getitem__(self, name: str) -> Worker:
        return self._workers[name]

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def __contains__(self, name: object) -> bool:
        return name in self._workers

    @property
    def pool(self) -> Pool | None:
        """The models whose workers were reached at least once; None when there is none."""
        return self._pool

    async def start(self, wait_s: float) -> None:
        """Begins to watch, and returns when every worker serves or the time is up."""
        self._watches = [asyncio.create_task(self._watch(worker)) for worker in self]
        waiting = asyncio.create_task(self._all_serve.wait())
        await asyncio.wait({waiting}, timeout=wait_s)
        waiting.cancel()

    async def close(self) -> None:
        """Stops watching and closes the channels."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        await asyncio.gather(*(worker.close() for worker in self))

    async def _watch(self, worker: Worker) -> None:
        while True:
            try:
                await self._look_at(worker)
            except Exception:
                # What nobody foresaw must not end the watch: the worker would stay as it was seen last.
                _LOG.exception("watching a worker failed", model=worker.name)
            await asyncio.sleep(PROBE_EVERY_S if worker.model else PROBE_EVERY_S / 10)

    async def _look_at(self, worker: Worker) -> None:
        await worker.probe()
        if worker.model is not None:
            self._pool = self._describe()
        if all(one.serving for one in self):
            self._all_serve.set()
        await self._changed(worker)

    def _describe(self) -> Pool:
        models = tuple(worker.model for worker in self if worker.model is not None)
        dearest = max(models, key=lambda model: (model.price.output_nanousd, model.price.input_nanousd))
        return Pool(models, self._reference or dearest.name)


def _configured(config: ModelConfig) -> Price | None:
    return Price(config.price.input_nanousd, config.price.output_nanousd) if config.price else None


def _price(description: worker_pb2.DescribeModelResponse) -> Price | None:
    if not description.HasField("price"):
        return None
    return Price(description.price.input_nanousd, description.price.output_nanousd)
