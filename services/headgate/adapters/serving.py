"""What every server process does: it runs on the fastest loop that is there, and says where it listens."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path


def run(serving: Coroutine[None, None, None]) -> None:
    """Until it ends, on the fastest loop."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serving)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's where it is installed: it saves a tenth of the CPU of a call."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def announce(ready_file: Path, addresses: Mapping[str, str]) -> None:
    """Writes the ready file in one step, so that nobody reads half of it."""
    draft = ready_file.with_name(f"{ready_file.name}.{os.getpid()}")
    draft.write_text(json.dumps(addresses) + "\n", encoding="utf-8")
    draft.replace(ready_file)
