"""Sessions belong to tenants, and forgetting one hurts nobody."""

from __future__ import annotations

from headgate.adapters.memory import MemoryStore
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
