"""Reads the bundle file, and keeps the last good one when the next is bad."""

from __future__ import annotations

import asyncio
import stat
import time
from importlib import resources
from pathlib import Path
from typing import Final

import structlog

from headgate.router import bundle as brain
from headgate.router.bundle import Bundle
from headgate.router.errors import BundleError

_LOG = structlog.get_logger(__name__)
SHIPPED: Final = ("builtin", "text")
"""The built-in pair's, and that of two public models on text; each has a card beside it."""
MOST_BYTES: Final = 64 << 20
"""Five times a large bundle. What is longer is another file, and reading it would push requests out."""


class BundleStore:
    """The bundle in force. None until one was loaded: then everything goes to the reference model."""

    def __init__(self) -> None:
        self.current: Bundle | None = None
        self.loaded = 0.0
        """When it was, in POSIX seconds."""

    async def load(self, name: str) -> Bundle | None:
        """Takes the bundle called `name`, a shipped one or a path, into force.

        BundleError says what is wrong with it; then the old one stays. None if a release ships none of it.
        """
        found = await self.read(name)
        self.current, self.loaded = found, time.time()
        _LOG.info("bundle loaded", bundle=found.version if found else "", file=name)
        return found

    async def read(self, name: str) -> Bundle | None:
        """The bundle, checked but not yet in force. Raises BundleError."""
        return await asyncio.to_thread(_read, name)


def _read(name: str) -> Bundle | None:
    if name in SHIPPED:
        file = resources.files("headgate.gateway").joinpath(f"bundles/{name}.bundle")
        return brain.load(file.read_bytes()) if file.is_file() else None
    try:
        return brain.load(_bytes(Path(name)))
    except OSError as error:
        raise BundleError(f"policy.bundle: {name} cannot be read: {error.strerror}") from None
    except ValueError:
        raise BundleError("policy.bundle: give the path of a .bundle file") from None
    except BundleError as error:
        raise BundleError(f"policy.bundle: {name}: {error}") from None


def _bytes(path: Path) -> bytes:
    """Raises BundleError, OSError, or ValueError for what can be no path."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
        raise BundleError("this is no headgate bundle: no regular file, or one of more than 64 MiB")
    return path.read_bytes()
