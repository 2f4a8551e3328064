"""The answers that this process gave last, in memory: a hit costs no round trip."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from headgate.gateway.entries import Entry

OVERHEAD: Final = 2_000
"""Bytes that an entry takes beside its text: objects of Python and protobuf, measured."""
_AT_ONCE: Final = 500
"""Entries looked at before others may run: about a millisecond."""


class Recent:
    """Entries by digest, up to so many bytes; the ones unused for longest go first."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._entries: OrderedDict[bytes, tuple[Entry, int, str]] = OrderedDict()
        self.bytes = 0
        """What they take, about."""
        self._dropping = self._again = False

    def get(self, digest: bytes) -> Entry | None:
        """The entry, expired or not."""
        found = self._entries.get(digest)
        if found is None:
            return None
        self._entries.move_to_end(digest)
        return found[0]

    def put(self, digest: bytes, entry: Entry, tenant: str) -> None:
        """Takes the tenant's entry in; one that would fill a quarter of the room stays out."""
        self.forget(digest)
        size = OVERHEAD + entry.answer.ByteSize() + 32 * len(entry.logprobs)
        if 4 * size > self._most:
            return
        self._entries[digest] = entry, size, tenant
        self.bytes += size
        self.resize(self._most)

    def resize(self, most_bytes: int) -> None:
        """From now on they take so much at most."""
        self._most = most_bytes
        while self.bytes > self._most:
            _, (_, freed, _) = self._entries.popitem(last=False)
            self.bytes -= freed

    def forget(self, digest: bytes) -> None:
        """Lets the entry go, if it is there."""
        _, size, _ = self._entries.pop(digest, (None, 0, ""))
        self.bytes -= size

    async def drop(self, gone: Callable[[str, Entry], bool]) -> None:
        """Lets those go of which `gone` says so, by tenant and entry.

        Who asks while that is under way has it begin once more, and does not wait.
        """
        self._again = True
        if self._dropping:
            return
        self._dropping = True
        try:
            while self._again:
                self._again = False
                await self._drop(gone)
        finally:
            self._dropping = False

    async def _drop(self, gone: Callable[[str, Entry], bool]) -> None:
        for number, (digest, (entry, _, tenant)) in enumerate(list(self._entries.items())):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
            if gone(tenant, entry):
                self.forget(digest)

    def clear(self) -> None:
        """Lets all go."""
        self._entries.clear()
        self.bytes = 0
