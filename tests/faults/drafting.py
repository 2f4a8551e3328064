"""A cascade as it is deployed: a gateway that reads small's drafts, and two replicas of each model.

They count: drafts are kept, doubted or stopped as their question says, and `counting_worker` knows what
each model answers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headgate.router import bundle as bundles
from headgate.router.offline import graph
from tests import hand_made
from tests.integration.gateway_rig import Process, Stack, config

MODELS = ("small", "large")
WINDOW = 16


def bundle(path: Path) -> Path:
    """Certificates that speak of any version, and of any length: the workers are scripted. Small is expected
    to write much; drafts can be held back for `WINDOW` tokens."""
    certificate = hand_made.certificate(models=MODELS, settings={})
    chatty = graph.build(hand_made.weights(easy=4.0, tokens=20.0))
    made = hand_made.reading(
        resolution=0.9, certificates=(certificate,), graph=chatty, golden=graph.golden_vectors(chatty, 2)
    )
    path.write_bytes(bundles.dump(hand_made.shortened(made, WINDOW, 0)))
    return path


class Drafting(Stack):
    """A Stack of counting workers behind a bundle that reads drafts."""

    names = tuple(f"{model}-{replica}" for model in MODELS for replica in "ab")

    def __init__(self, directory: Path, settings: Mapping[str, Any] | None = None) -> None:
        made = bundle(directory / "drafts.bundle")
        reads = {"policy": {"bundle": str(made)}, "cache": {"enabled": False}}
        super().__init__(directory, {**config(), **reads, **(settings or {})})

    def start_worker(self, name: str, port: int = 0) -> Process:
        """A counting worker."""
        where = [str(self.journal_file), str(port), str(self.directory / f"{name}.ready")]
        command = [sys.executable, "-m", "tests.faults.counting_worker", name.partition("-")[0], *where]
        return Process(command, self.directory, name, {})

    def places(self) -> dict[str, str]:
        """Both replicas of each model, as one gRPC target."""
        listen = self.worker_addresses
        return {model: f"ipv4:{','.join(listen[f'{model}-{one}'] for one in 'ab')}" for model in MODELS}

    def records(self) -> dict[str, dict[bytes, bytes]]:
        """The gateway's ledger, by request."""
        found = [fields for _, fields in self.valkey.client.xrange("headgate:ledger")]
        return {fields[b"request_id"].decode(): fields for fields in found}


@contextmanager
def drafting(directory: Path) -> Iterator[Drafting]:
    """A cascade for the time of a `with` block."""
    running = Drafting(directory)
    try:
        yield running
    finally:
        running.close()
