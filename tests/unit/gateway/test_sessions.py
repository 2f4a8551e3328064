"""Sessions belong to tenants, and forgetting one hurts nobody."""

from __future__ import annotations

from headgate.adapters.memory import MemoryStore
from headgate.adapters.ports import SideRoomError
from headgate.gateway.sessions import Sessions


async def test_a_session_keeps_its_model_within_its_tenant() -> None:
    sessions = Sessions(MemoryStore())
    await sessions.keep("acme", "s", "small")
    assert await sessions.model("acme", "s") == "small"
    assert await sessions.model("beta", "s") == ""
    assert await sessions.model("acme", "t") == ""


async def test_no_session_and_no_store_are_fine() -> None:
    store = MemoryStore()
    await Sessions(store).keep("acme", "", "small")
    assert await Sessions(store).model("acme", "") == ""
    await Sessions(None).keep("acme", "s", "small")
    assert await Sessions(None).model("acme", "s") == ""


class Sick(MemoryStore):
    """A store that neither gives nor takes."""

    async def get(self, key: str) -> bytes | None:
        raise SideRoomError(key)

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        raise SideRoomError(key)


async def test_a_store_that_fails_is_told_from_a_new_session() -> None:
    sessions = Sessions(Sick())
    assert await sessions.model("acme", "s") is None
    assert not await sessions.keep("acme", "s", "small")
    assert await sessions.model("acme", "") == ""
    assert await sessions.keep("acme", "", "small")
