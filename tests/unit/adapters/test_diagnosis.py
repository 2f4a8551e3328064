"""A stuck process shows where it stands, and nothing of what it holds."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import types
from collections.abc import AsyncIterator, Awaitable, Generator
from typing import Any

import pytest
from structlog.testing import capture_logs

from headgate.adapters import diagnosis

Work = Any
"""A coroutine function that takes a prompt."""
CANARY = "canary-prompt-41c7"
CORE = """
import faulthandler, resource
from headgate.adapters import diagnosis
diagnosis.prepare()
print(*resource.getrlimit(resource.RLIMIT_CORE), faulthandler.is_enabled())
"""
FATAL = """
import ctypes
from headgate.adapters import diagnosis
diagnosis.prepare()
def deepest(prompt):
    ctypes.string_at(0)
deepest("canary-prompt-41c7")
"""


def _run(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_process_leaves_no_core_and_cannot_ask_for_one_again() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    limit = "0" if most == 0 else "1"
    assert _run(CORE).stdout.split() == [limit, limit, "True"]


def test_what_a_process_starts_leaves_no_core_either() -> None:
    """Of one byte: zero would not keep Linux from piping a core to a program."""
    child = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE)[1])"
    program = f"""
import subprocess, sys
from headgate.adapters import diagnosis
diagnosis.forbid_cores()
subprocess.run([sys.executable, "-c", {child!r}], check=True)
"""
    assert _run(program).stdout.strip() in {"0", "1"}


def test_a_fatal_signal_shows_the_stack_without_its_values() -> None:
    ended = _run(FATAL)
    assert ended.returncode < 0
    assert "in deepest" in ended.stderr
    assert CANARY not in ended.stderr


async def _innermost(_prompt: str) -> None:
    await asyncio.Event().wait()


async def _generated(prompt: str) -> AsyncIterator[str]:
    await _innermost(prompt)
    yield prompt


async def _iterating(prompt: str) -> None:
    async for _ in _generated(prompt):
        pass


async def _waiting(prompt: str) -> None:
    await _innermost(prompt)


@types.coroutine
def _foreign(work: Awaitable[None]) -> Generator[None, None, None]:
    """Awaits as gRPC's compiled coroutines do: by an iterator that says nothing of what it iterates."""
    return (yield from work.__await__())


async def _behind_foreign_code(prompt: str) -> None:
    await _foreign(_innermost(prompt))


@pytest.mark.parametrize("work", [_waiting, _iterating, _behind_foreign_code])
async def test_a_task_is_shown_by_name_and_place_only(work: Work) -> None:
    task = asyncio.create_task(work(CANARY), name="stuck")
    await asyncio.sleep(0)
    with capture_logs() as logged:
        diagnosis.log_tasks()
    task.cancel()
    shown = next(event for event in logged if event["task"] == "stuck")
    places = shown["stack"].split(" < ")
    assert shown["runs"] == work.__qualname__
    assert places[0].startswith("locks.py:"), "the innermost frame comes first"
    assert places[1] == f"test_diagnosis.py:{_body(_innermost)}"
    assert places[-1] == f"test_diagnosis.py:{_body(work)}"
    assert CANARY not in str(logged)


def _body(work: Work) -> int:
    """The first line of a function's body, where each of these waits."""
    return int(work.__code__.co_firstlineno) + 1
