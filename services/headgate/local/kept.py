"""Where a laptop's jobs are kept between two starts."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from headgate.local.child import StartError


@contextmanager
def folder(environ: Mapping[str, str]) -> Iterator[Path]:
    """The user's folder for jobs, held for the time of the block.

    StartError while another stack holds it: two servers would write over each other's log.
    """
    home = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME") or Path.home()) / ".local/state")
    where = Path(home) / "headgate" / "jobs"
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (where / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StartError(
                f"another `headgate up` keeps its jobs in {where}; stop it, or set redis.url"
            ) from None
        yield where
