from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from headgate.local.child import Child, Program, StartError

SERVE = """
import json, os, signal, sys, time
ready, former = sys.argv[1], sys.argv[2]
print("hello from", os.getpid(), flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
draft = ready + ".draft"
open(draft, "w").write(json.dumps({"listen": f"127.0.0.1:{os.getpid()}" if former == "-" else former}))
os.rename(draft, ready)
while True: time.sleep(60)
"""
DEAF = SERVE.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")
BROKEN = "import sys; print('no such weights', file=sys.stderr); sys.exit(3)"


@pytest.fixture
def log() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def make(tmp_path: Path, log: list[tuple[str, str]]) -> Callable[..., Child]:
    async def there(address: str | None) -> bool:
        return address is not None

    def build(source: str, stop_s: float = 20.0) -> Child:
        ready = tmp_path / "ready"
        program = Program(
            name="worker",
            command=lambda former: [sys.executable, "-c", source, str(ready), former or "-"],
            environ=dict(os.environ),
            stop_s=stop_s,
            probe=there,
            ready_file=ready,
        )
        return Child(program, 0, lambda name, line: log.append((name, line)))

    return build


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_start_returns_when_it_is_ready_and_stop_ends_it(make, log):
    child = make(SERVE)
    await child.start()
    assert child.listen == f"127.0.0.1:{child.pid}"
    await child.stop()
    assert not psutil.pid_exists(child.pid)
    assert ("worker", f"hello from {child.pid}") in log


async def test_a_killed_child_comes_back_at_its_old_address(make, log):
    child = make(SERVE)
    await child.start()
    first = child.pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: ("worker", "is back") in log)
    assert child.pid != first
    assert child.listen == f"127.0.0.1:{first}"
    assert ("worker", "was ended by SIGKILL; starting again in 0.2 s") in log
    await child.stop()


async def test_a_child_that_ends_first_says_why(make):
    with pytest.raises(StartError, match=r"worker did not start \(ended with code 3\): no such weights"):
        await make(BROKEN).start()


async def test_a_sentence_of_its_own_is_passed_on(make):
    source = "import sys; print('headgate worker small: no such weights', file=sys.stderr); sys.exit(1)"
    with pytest.raises(StartError, match=r"^worker did not start: no such weights$"):
        await make(source).start()


async def test_a_deaf_child_is_killed_after_its_time(make, log):
    child = make(DEAF, stop_s=0.3)
    await child.start()
    await child.stop()
    assert ("worker", "did not end within 0.3 s; killed") in log
    assert not psutil.pid_exists(child.pid)


async def test_stopping_ends_the_restarts(make, log):
    child = make(SERVE)
    await child.start()
    os.kill(child.pid, signal.SIGKILL)
    await until(lambda: any("starting again" in line for _, line in log))
    await child.stop()
    assert ("worker", "is back") not in log
