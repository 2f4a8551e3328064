"""A pool of three models that nobody serves, and requests on their way to it."""

from __future__ import annotations

import time
from typing import Any

from headgate.adapters.config import ModelConfig
from headgate.gateway.admission import Caller
from headgate.gateway.journey import Arrival, Journey
from headgate.gateway.workers import Worker, Workers
from headgate.router.types import Model, Pool, Price
from headgate.v1 import types_pb2

NAMES = ("small", "middle", "large")


def journey(**fields: Any) -> Journey:
    """One that has a minute."""
    now = time.perf_counter()
    return Journey(Arrival(Caller("acme"), now, now + 60), types_pb2.Query(), "r", **fields)


def three_workers(priced: bool = False) -> Workers:
    """With `priced` the pool knows what its models cost."""

    async def changed(_worker: Worker) -> None: ...

    workers = Workers(dict.fromkeys(NAMES, ModelConfig()), dict.fromkeys(NAMES, "127.0.0.1:1"), None, changed)
    if priced:
        models = tuple(Model(name, Price(3_000_000, 3_000_000), 8_000) for name in NAMES)
        workers._pool = Pool(models, "large")
    return workers
