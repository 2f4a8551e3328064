"""What every command knows, and the error that any of them may raise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headgate.adapters import settings
from headgate.adapters.settings import Loaded


class CommandError(Exception):
    """The command cannot go on: one sentence that says what to do."""


@dataclass(slots=True)
class State:
    """Read once in `__main__`."""

    environ: Mapping[str, str]
    debug: bool = False
    config: Path | None = None

    def load(self, overrides: Mapping[str, object] | None = None) -> Loaded:
        """The settings in force; ConfigError if they are wrong."""
        return settings.load(self.config, self.environ, overrides)
