"""One process of the stack: started, awaited until ready, started again when it crashes, stopped in peace."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headgate.local.backoff import Backoff
from headgate.local.lines import readable

POLL_S = 0.02
"""How often a starting child is looked at."""
READY_S = 60.0
"""A child that is not ready by then has failed: loading the weights takes about two seconds."""
_LONGEST_LINE = 1 << 20

Say = Callable[[str, str], None]
"""Takes the name of a process and one line of its log."""


class StartError(Exception):
    """A process of the stack did not become ready. One sentence."""


@dataclass(frozen=True, slots=True)
class Program:
    """How to start a child, and how to see that it is ready.

    With a `ready_file` the child writes `{"listen": "host:port", …}` there. A restart gets the address of its
    former life, so that its neighbours find it again.
    """

    name: str
    command: Callable[[str | None], Sequence[str]]
    """Its command line, given where its former life listened."""
    environ: Mapping[str, str]
    stop_s: float
    """From SIGTERM to SIGKILL."""
    probe: Callable[[str | None], Awaitable[bool]]
    """Whether it serves; asked with its address once the ready file, if it has one, is there."""
    ready_file: Path | None = None


class Child:
    """A running Program. It lives in process group `group`, which the guard ends if all else fails."""

    def __init__(self, program: Program, group: int, say: Say) -> None:
        self._program = program
        self._group = group
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._pump: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._tail: deque[str] = deque(maxlen=20)
        self._ready_at: float | None = None
        self.addresses: Mapping[str, str] = {}
        """What its ready file says; empty before it is ready, and for a child without one."""

    @property
    def name(self) -> str:
        """Its name in logs."""
        return self._program.name

    @property
    def listen(self) -> str | None:
        """Where it listens, if it has said so."""
        return self.addresses.get("listen")

    @property
    def pid(self) -> int | None:
        """The process id of its present life."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Returns when it is ready, and watches it from then on; StartError when that does not come."""
        process = await self._spawn()
        await self._until_ready(process)
        self._watch = asyncio.create_task(self._keep_alive())

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL after the program's `stop_s`."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self._program.stop_s)
        except TimeoutError:
            self._say(self._program.name, f"did not end within {self._program.stop_s:g} s; killed")
            process.kill()
            await process.wait()
        await self._drained()

    async def _spawn(self) -> asyncio.subprocess.Process:
        if self._program.ready_file is not None:
            self._program.ready_file.unlink(missing_ok=True)
        self._ready_at = None
        self._process = process = await asyncio.create_subprocess_exec(
            *self._program.command(self.listen),
            env=self._program.environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            process_group=self._group,
            limit=_LONGEST_LINE,
        )
        self._pump = asyncio.create_task(self._forward(process))
        return process

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        limit = time.monotonic() + READY_S
        while not await self._is_ready():
            if process.returncode is not None:
                await self._drained()
                raise StartError(self._why(process.returncode))
            if time.monotonic() > limit:
                raise StartError(f"{self.name} was not ready after {READY_S:g} s: {readable(self._last())}")
            await asyncio.sleep(POLL_S)
        self._ready_at = time.monotonic()

    async def _is_ready(self) -> bool:
        file = self._program.ready_file
        if file is not None:
            if not file.is_file():
                return False
            self.addresses = json.loads(file.read_text(encoding="utf-8"))
        return await self._program.probe(self.listen)

    async def _keep_alive(self) -> None:
        """Starts the process again whenever it ends; only `stop` ends this."""
        backoff = Backoff()
        while self._process is not None:
            code = await self._process.wait()
            await self._drained()
            ready_s = 0.0 if self._ready_at is None else time.monotonic() - self._ready_at
            wait_s = backoff.after(ready_s)
            self._say(self._program.name, f"{_ending(code)}; starting again in {wait_s:g} s")
            await asyncio.sleep(wait_s)
            await self._revive()

    async def _revive(self) -> None:
        process = await self._spawn()
        try:
            await self._until_ready(process)
        except StartError as error:
            self._say(self._program.name, str(error))
            if process.returncode is None:
                process.kill()
        else:
            self._say(self._program.name, "is back")

    async def _forward(self, process: asyncio.subprocess.Process) -> None:
        stream = process.stdout
        while stream is not None:
            try:
                line = await stream.readline()
            except ValueError:
                continue  # a line over the limit: its rest follows as further lines
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self._tail.append(text)
            self._say(self._program.name, text)

    async def _drained(self) -> None:
        """Its last lines are out. A grandchild may hold the pipe open, so not forever."""
        if self._pump is not None:
            await asyncio.wait([self._pump], timeout=1)

    def _last(self) -> str:
        return next((line for line in reversed(self._tail) if line.strip()), "it said nothing")

    def _why(self, code: int) -> str:
        """Its own last sentence, where it left one."""
        last = self._last()
        own = re.fullmatch(r"headgate [\w. -]+?: (.+)", last)
        if own:
            return f"{self.name} did not start: {own[1]}"
        return f"{self.name} did not start ({_ending(code)}): {last}"


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    return f"was ended by {signal.Signals(-code).name}"
