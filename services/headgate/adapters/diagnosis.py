"""What a process shows when it hangs or dies: where it stands, never what it holds.

Stacks are names of files and functions. Locals, arguments and cores would hold prompts and keys.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, FrameType
from typing import Any, Final

import structlog

_LOG = structlog.get_logger(__name__)
CORE_BYTES: Final = 1
"""No core fits, so none is written to a file. Zero would do for files alone: where `core_pattern` names a
program, Linux pipes a core to it whatever the limit, except this one, which it takes to mean none at all."""
MOST_FRAMES: Final = 8
"""The innermost ones: there it waits."""
_FRAMES: Final = ("cr_frame", "gi_frame", "ag_frame")
_AWAITED: Final = ("cr_await", "gi_yieldfrom", "ag_await")
_WRAPPERS: Final = ("coroutine_wrapper", "async_generator_asend", "async_generator_athrow")
"""What stands between gRPC's own coroutines and ours, and names nothing of what is in it."""


def prepare() -> None:
    """Called first: no core files, and the threads' stacks on stderr at a fatal signal or SIGUSR1."""
    forbid_cores()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)


def forbid_cores() -> None:
    """No core of this process, nor of any that it starts from now on. It can still be traced."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    # A limit that is zero already can only stay.
    limit = min(most, CORE_BYTES) if most != resource.RLIM_INFINITY else CORE_BYTES
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def show_tasks_on_signal() -> None:
    """From now on SIGUSR1 logs the running loop's tasks too.

    The threads' stacks still come first, and come even while the loop is blocked.
    """
    faulthandler.unregister(signal.SIGUSR1)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, log_tasks)
    faulthandler.register(signal.SIGUSR1, chain=True)


def log_tasks() -> None:
    """Logs each task of the running loop: its name, what it runs, and where it waits, innermost first."""
    for task in asyncio.all_tasks():
        frames = list(_frames(task.get_coro()))[-MOST_FRAMES:]
        stack = " < ".join(_place(frame) for frame in reversed(frames))
        _LOG.warning("task", task=task.get_name(), runs=_name(task.get_coro()), stack=stack)


def _frames(waiting: Any) -> Iterator[FrameType]:
    """Outermost first. `Task.get_stack` would show the outermost frame alone."""
    while waiting is not None:
        frame = _first(waiting, _FRAMES)
        if isinstance(frame, FrameType):
            yield frame
        waiting = _wrapped(waiting) if type(waiting).__name__ in _WRAPPERS else _first(waiting, _AWAITED)


def _first(thing: Any, names: tuple[str, ...]) -> Any:
    return next((value for name in names if (value := getattr(thing, name, None)) is not None), None)


def _wrapped(wrapper: object) -> object:
    inside = gc.get_referents(wrapper)
    return next((one for one in inside if isinstance(one, AsyncGeneratorType | CoroutineType)), None)


def _place(frame: FrameType) -> str:
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno or 0}"


def _name(running: object) -> str:
    return str(getattr(running, "__qualname__", type(running).__name__))
