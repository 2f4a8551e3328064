"""The local stack: a private Valkey, then the workers, then the gateway, each its own process.

    supervisor ──┬── guard        leads the process group; ends it when the supervisor is gone
                 ├── valkey       unless the config names a Redis
                 ├── worker …     one for each model without an address
                 ├── gateway …    share one reserved port
                 └── runner …     and a reconciler, where jobs are on

They are stopped in the reverse order, so that running answers can end: runners, gateway, workers, Valkey.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from headgate.adapters import diagnosis
from headgate.adapters.settings import Loaded
from headgate.local import guard, kept, ports
from headgate.local.child import Child, Program, Say
from headgate.local.programs import Programs, own_ports

_HOST = "127.0.0.1"
WORKER_PORT = 7080
"""Workers of a stack that others may want to find listen from here on."""


class Stack:
    """The local stack of a loaded config: `async with Stack(...) as stack` starts and stops it.

    Starting raises PortInUseError, ValkeyMissingError or StartError, each one sentence.
    """

    def __init__(
        self, loaded: Loaded, environ: Mapping[str, str], say: Say, *, worker_port: int | None
    ) -> None:
        """`worker_port`: where the workers' ports begin; None gives each any free one."""
        self._loaded = loaded
        self._environ = environ
        self._say = say
        self._worker_port = worker_port
        self._held = contextlib.AsyncExitStack()
        self._guard: asyncio.subprocess.Process | None = None
        self._children: list[Child] = []
        self._gateways_own: set[int] = set()
        self.gateways: tuple[Mapping[str, str], ...] = ()
        """Where each gateway process listens, once the stack is started: `listen`, `admin`, `metrics`."""
        self.others: Mapping[str, str] = {}
        """Where workers, reconciler and job runners have their metrics, by name."""

    @property
    def addresses(self) -> Mapping[str, str]:
        """Those of the first gateway process; empty before the stack is started."""
        return self.gateways[0] if self.gateways else {}

    @property
    def children(self) -> tuple[Child, ...]:
        """The processes in the order of their start."""
        return tuple(self._children)

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._held.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._held.aclose()

    def kill(self) -> None:
        """Ends every process at once, without draining."""
        if self._guard is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._guard.pid, signal.SIGKILL)

    async def lost(self) -> None:
        """Returns when the guard is gone, and with it the promise that nothing outlives the supervisor."""
        if self._guard is not None:
            await self._guard.wait()

    async def _start(self) -> None:
        diagnosis.forbid_cores()  # Inherited: Valkey, which holds answers, does not do it itself.
        gateway = self._loaded.config.gateway
        reserved = self._held.enter_context(ports.reserve(gateway.listen, "gateway.listen"))
        self._gateways_own = ports.check_apart(own_ports(self._loaded.config))
        directory = Path(tempfile.mkdtemp(prefix="headgate-"))
        self._held.callback(shutil.rmtree, directory, ignore_errors=True)
        await self._set_guard(directory)
        programs = Programs(self._loaded, self._environ, directory)
        keep = self._held.enter_context(kept.folder(self._environ)) if programs.keeps_jobs else None
        cache, redis_url = programs.valkey(keep)
        local = programs.workers(self._worker_place)
        children = await self._launch([*cache, *local.values()])
        hosts = children[len(cache) :]
        workers = {name: child.listen or "" for name, child in zip(local, hosts, strict=True)}
        gateways = await self._launch(programs.gateways(reserved.address, redis_url, workers))
        self.gateways = tuple(child.addresses for child in gateways)
        jobs = await self._launch(programs.jobs(reserved.address, redis_url))
        self.others = {child.name: child.addresses["metrics"] for child in (*hosts, *jobs)}

    def _worker_place(self) -> str:
        if self._worker_port is None:
            return f"{_HOST}:0"
        claimed = ports.claim(_HOST, self._worker_port, but_not=self._gateways_own)
        return self._held.enter_context(claimed).address

    async def _set_guard(self, directory: Path) -> None:
        """From here on all that is started ends with the supervisor."""
        self._guard = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", guard.__file__, str(directory)),
            stdin=asyncio.subprocess.PIPE,
            process_group=0,
        )
        self._held.push_async_callback(self.lost)
        self._held.callback(self.kill)

    async def _launch(self, programs: list[Program]) -> list[Child]:
        """Starts children side by side; all are ready when it returns, and stop together."""
        group = self._guard.pid if self._guard else 0
        children = [Child(program, group, self._say) for program in programs]
        self._children += children
        self._held.push_async_callback(_stop, children)
        starts = [asyncio.ensure_future(child.start()) for child in children]
        try:
            await asyncio.gather(*starts)
        finally:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
        return children


async def _stop(children: list[Child]) -> None:
    await asyncio.gather(*(child.stop() for child in children))
