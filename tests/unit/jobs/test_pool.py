"""The end of a process as the pool is told of it: a moment too early."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest
from celery.concurrency import asynpool

from headgate.jobs import pool


class Dying:
    """Can be waited for after so many looks."""

    def __init__(self, looks: float) -> None:
        self._looks = looks

    @property
    def exitcode(self) -> int | None:
        self._looks -= 1
        return None if self._looks > 0 else -9


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """What Celery's own pool sees of each process."""
    found: list[int | None] = []
    monkeypatch.setattr(
        asynpool.AsynPool, "_event_process_exit", lambda _self, _hub, process: found.append(process.exitcode)
    )
    return found


def exits(process: Dying) -> None:
    processes = object.__new__(pool.Processes)
    processes._event_process_exit(None, cast("Any", process))


def test_a_process_that_closed_its_files_is_waited_for(seen: list[int | None]) -> None:
    exits(Dying(20))
    assert seen == [-9]


def test_one_that_does_not_end_holds_nobody_up_for_long(
    seen: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "DYING_S", 0.05)
    began = time.monotonic()
    exits(Dying(float("inf")))
    assert time.monotonic() - began < 5
    assert seen == [None]
