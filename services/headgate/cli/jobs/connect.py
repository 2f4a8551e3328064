"""A gateway whose jobs are on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headgate.cli.connect import connected
from headgate.cli.state import CommandError, State
from headgate.client import NotServed
from headgate.client.jobs import Jobs

OFF = "this gateway's jobs are off: set jobs.enabled in its config"


@contextmanager
def queue(state: State, address: str | None, key: str, root: Path | None, timeout_s: float) -> Iterator[Jobs]:
    """The gateway's jobs; failures become sentences as in `connected`."""
    try:
        with connected(state, address, key, root, timeout_s) as client:
            yield client.jobs
    except NotServed:
        raise CommandError(OFF) from None
