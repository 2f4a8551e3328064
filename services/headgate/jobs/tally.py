"""What a runner's children count, told to their parent, who serves it to Prometheus.

They share a pipe, which each inherits. A line is shorter than what a system writes in one piece, so lines
never mix, and what a child has told stays told when it is killed or replaced. The client library's own way,
files that processes share, keeps files of every child that ever was and reads them all at each scrape.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress

import structlog

from headgate.adapters.telemetry import Note

_LOG = structlog.get_logger("headgate.jobs")


class Tally:
    """The pipe; made before the children are."""

    def __init__(self) -> None:
        self._told_at, self._tell_at = os.pipe()
        # A parent that does not listen costs counts, and no job its time.
        os.set_blocking(self._tell_at, False)

    def note(self, name: str, *labels: str, value: float = 1.0) -> None:
        """Tells the parent."""
        with suppress(BlockingIOError):
            os.write(self._tell_at, json.dumps([name, value, *labels]).encode() + b"\n")

    def listen(self, note: Note) -> None:
        """Notes what is told, for as long as the parent lives."""
        with os.fdopen(self._told_at, "rb") as lines:
            for line in lines:
                name, value, *labels = json.loads(line)
                try:
                    note(name, *labels, value=value)
                except Exception:
                    # A fault of ours in one count must not end all the others.
                    _LOG.exception("not counted", metric=name)
