"""Which model a session uses. A session whose model is not known, or cannot be asked for, is a new one."""

from __future__ import annotations

import hashlib
from typing import Final

from headgate.adapters.ports import SideRoomError, Store

TTL_S: Final = 3600.0
"""A session is forgotten an hour after its model last changed or was confirmed."""


class Sessions:
    """Keeps sessions in the store, so that every gateway process sees them."""

    def __init__(self, store: Store | None) -> None:
        self._store = store

    async def model(self, tenant: str, session: str) -> str:
        """The session's model; empty when there is none."""
        if not session or self._store is None:
            return ""
        try:
            value = await self._store.get(_key(tenant, session))
        except SideRoomError:
            return ""
        return (value or b"").decode("utf-8", "replace")

    async def keep(self, tenant: str, session: str, model: str) -> None:
        """Remembers the model that answered."""
        if not session or self._store is None:
            return
        try:
            await self._store.put(_key(tenant, session), model.encode(), TTL_S)
        except SideRoomError:
            return


def _key(tenant: str, session: str) -> str:
    return f"session:{tenant}:{hashlib.sha256(session.encode()).hexdigest()}"
