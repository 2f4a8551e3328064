"""Which model a session uses. A session whose model is not known, or cannot be asked for, is a new one.

What the store does not give or take is told: the answer is as good, but another turn may change the model.
"""

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

    async def model(self, tenant: str, session: str) -> str | None:
        """The session's model; empty when there is none, None when the store cannot be asked."""
        if not session or self._store is None:
            return ""
        try:
            value = await self._store.get(_key(tenant, session))
        except SideRoomError:
            return None
        return (value or b"").decode("utf-8", "replace")

    async def keep(self, tenant: str, session: str, model: str) -> bool:
        """Remembers the model that answered; False when the store does not take it."""
        if not session or self._store is None:
            return True
        try:
            await self._store.put(_key(tenant, session), model.encode(), TTL_S)
        except SideRoomError:
            return False
        return True


def _key(tenant: str, session: str) -> str:
    return f"session:{tenant}:{hashlib.sha256(session.encode()).hexdigest()}"
