"""A worker as it is deployed: its own process, its own port, ended by a signal."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from headgate.adapters import channels
from headgate.v1 import types_pb2, worker_pb2, worker_pb2_grpc
from headgate.worker.server import SERVICE

START_S = 30
LONG_QUESTION = "Go from 352 to 547 in steps of 5"
"""The answer has more than 100 tokens."""


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A running worker, a stub for it, and its log file."""

    process: asyncio.subprocess.Process
    address: str
    stub: worker_pb2_grpc.WorkerServiceAsyncStub
    log: Path

    def drain(self) -> None:
        """Sends SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    async def exit_code(self) -> int:
        """Waits for the end."""
        return await asyncio.wait_for(self.process.wait(), START_S)


@asynccontextmanager
async def worker(
    folder: Path, settings: Mapping[str, object], model: str = "small"
) -> AsyncIterator[WorkerProcess]:
    """Runs a worker for one model of a config; `settings` is the config file's content without `version`."""
    config, ready, log = folder / "headgate.yaml", folder / "ready.json", folder / "worker.log"
    config.write_text(json.dumps({"version": 1, **settings}), encoding="utf-8")
    process = await start(config, model, "--ready-file", str(ready), log=log)
    try:
        address = await _listening(process, ready, log)
        async with channels.channel(address, health_service=SERVICE) as channel:
            yield WorkerProcess(process, address, worker_pb2_grpc.WorkerServiceStub(channel), log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def start(config: Path, model: str, *flags: str, log: Path) -> asyncio.subprocess.Process:
    """Starts the program on a free port."""
    arguments = ["--model", model, "--config", str(config), "--listen", "127.0.0.1:0", *flags]
    with log.open("wb") as written:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "headgate.worker", *arguments, stderr=written, env=_environment()
        )


def _environment() -> dict[str, str]:
    """Without the overrides of whoever runs the tests."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HEADGATE_")}
    return {**inherited, "OMP_NUM_THREADS": "1"}


async def _listening(process: asyncio.subprocess.Process, ready: Path, log: Path) -> str:
    async with asyncio.timeout(START_S):
        while not ready.exists():
            if process.returncode is not None:
                raise AssertionError(f"the worker ended with {process.returncode}: {log.read_text()}")
            await asyncio.sleep(0.01)
    address = json.loads(ready.read_text(encoding="utf-8"))["listen"]
    assert isinstance(address, str)
    return address


def ask(text: str = LONG_QUESTION, **fields: object) -> worker_pb2.WorkerServiceGenerateRequest:
    """A request with one user turn."""
    turn = types_pb2.Message(role=types_pb2.ROLE_USER, parts=[types_pb2.Part(text=text)])
    return worker_pb2.WorkerServiceGenerateRequest(messages=[turn], **fields)  # type: ignore[arg-type]
