"""Writes log lines on a thread of its own: whoever reads them slowly, or not at all, holds up no request."""

from __future__ import annotations

import json
import logging
import queue
import threading
from typing import Final, TextIO

MOST_WAITING: Final = 1_000
"""Lines that wait to be written; further ones are dropped and counted. A burst fits, within a megabyte."""
CLOSE_S: Final = 1.0
"""How long the end of the process waits for a reader: what a drain may take is promised."""


class LogWriter(logging.Handler):
    """Formats a record where it is made, and hands the line to the writing thread."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(MOST_WAITING)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="log writer", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Never waits and never raises. A record that cannot be formatted is dropped without a word of it."""
        try:
            self._lines.put_nowait(self.format(record))
        except Exception:
            self._dropped += 1

    def close(self) -> None:
        """Writes what waits, if somebody reads it within a second. Called by `logging` at exit."""
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            self._dropped += 1
        self._thread.join(CLOSE_S)
        super().close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            self._say(line)
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                self._say(json.dumps({"event": "log lines dropped", "count": dropped, "level": "warning"}))

    def _say(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._dropped += 1  # A full disk or a closed pipe: later lines may get through.
