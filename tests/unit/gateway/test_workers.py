"""The watch over a worker goes on, whatever a look at it runs into."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from headgate.adapters.config import ModelConfig
from headgate.gateway import workers
from headgate.gateway.workers import Worker, Workers


async def test_an_unforeseen_error_does_not_end_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PROBE_EVERY_S", 0.01)
    looks: list[Worker] = []
    three = asyncio.Event()

    async def changed(worker: Worker) -> None:
        looks.append(worker)
        if len(looks) == 3:
            three.set()
        raise RuntimeError("nobody foresaw it")

    watched = Workers({"small": ModelConfig()}, {"small": "127.0.0.1:1"}, None, changed)
    with capture_logs() as logged:
        await watched.start(0)
        async with asyncio.timeout(30):
            await three.wait()
        await watched.close()
    assert [event["model"] for event in logged if event["event"] == "watching a worker failed"][:2] == [
        "small",
        "small",
    ]
