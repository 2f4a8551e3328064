"""The twins in memory keep the ports' promises."""

from __future__ import annotations

from headgate.adapters.memory import MemoryBudget, MemoryLedger, MemoryStore


async def test_a_value_is_there_until_it_expires() -> None:
    now = [0.0]
    store = MemoryStore(clock=lambda: now[0])
    await store.put("k", b"v", 10)
    now[0] = 9.9
    assert await store.get("k") == b"v"
    now[0] = 10
    assert await store.get("k") is None


async def test_the_least_used_value_goes_first() -> None:
    store = MemoryStore(capacity=2)
    await store.put("a", b"1", 60)
    await store.put("b", b"2", 60)
    await store.get("a")
    await store.put("c", b"3", 60)
    assert [await store.get(key) for key in "abc"] == [b"1", None, b"3"]


async def test_the_ledger_keeps_the_last_records_in_order() -> None:
    ledger = MemoryLedger(length=2)
    await ledger.append([{"n": "1"}, {"n": "2"}])
    await ledger.append([{"n": "3"}])
    assert [record["n"] for record in ledger.records] == ["2", "3"]


async def test_a_budget_never_gives_more_than_the_most() -> None:
    budget = MemoryBudget()
    assert await budget.reserve("a", 60, 100)
    assert not await budget.reserve("a", 41, 100)
    assert await budget.reserve("a", 40, 100)
    assert await budget.reserve("b", 100, 100)
    await budget.give_back("a", 70)
    assert (await budget.taken("a"), await budget.taken("b")) == (30, 100)
