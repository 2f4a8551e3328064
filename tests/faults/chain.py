"""The whole chain as it is deployed: client ─▶ gateway ─▶ workers ─▶ upstream, with a Valkey beside it.

Everything but the upstream, which keeps the ledger of what really happened, is a process of its own. The
workers run the `openai` backend, so every hop is a real socket.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.faults.upstream import Script, Upstream
from tests.integration.gateway_rig import Process, Stack, config, key

ACME = key("acme")
PRICE = {"input_nanousd": 1_000_000_000, "output_nanousd": 2_000_000_000}
PIECES = 40


def numbered(count: int = PIECES, between_s: float = 0.005) -> Script:
    """An answer whose tokens are numbered, so that a lost or doubled one shows."""
    return Script(pieces=tuple(f"{number} " for number in range(count)), between_s=between_s)


WHOLE = "".join(numbered().pieces)


class Chain(Stack):
    """A Stack whose workers are real ones in front of an upstream."""

    def __init__(self, directory: Path, base_url: str, settings: Mapping[str, Any] | None = None) -> None:
        self._base_url = base_url
        super().__init__(directory, {**config(), "pool": self._pool(), **(settings or {})})

    def start_worker(self, name: str, port: int = 0) -> Process:
        """The real program."""
        where = ["--listen", f"127.0.0.1:{port}", "--ready-file", str(self.directory / f"{name}.ready")]
        model = name.partition("-")[0]
        command = [
            sys.executable,
            "-m",
            "headgate.worker",
            "--model",
            model,
            "--config",
            str(self.config_file),
        ]
        return Process([*command, *where], self.directory, name, {})

    def records(self) -> list[dict[bytes, bytes]]:
        """The gateway's ledger."""
        return [fields for _, fields in self.valkey.client.xrange("headgate:ledger")]

    def _pool(self) -> dict[str, Any]:
        model = {"backend": "openai", "source": "sim", "base_url": self._base_url, "price": PRICE}
        return {name: {**model, "slots": 64, "queue": 64} for name in ("small", "large")}


@asynccontextmanager
async def chain(
    directory: Path, upstream: Upstream, settings: Mapping[str, Any] | None = None
) -> AsyncIterator[Chain]:
    """A chain for the time of an `async with` block."""
    running = await asyncio.to_thread(Chain, directory, upstream.base_url, settings)
    try:
        yield running
    finally:
        await asyncio.to_thread(running.close)
