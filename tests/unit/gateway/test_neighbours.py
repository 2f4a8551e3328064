"""The index against a plain list, on random operations: the same neighbour, or none where there is none."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from headgate.gateway import neighbours
from headgate.gateway.neighbours import Entry, Neighbours

DIM = 16
TENANTS = tuple(f"tenant-{number}" for number in range(40))
OPERATIONS = 100_000


def unit(rng: np.random.Generator, dim: int = DIM) -> neighbours.Vector:
    vector = rng.normal(size=dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def entry(number: int, vector: neighbours.Vector, **changes: object) -> Entry:
    made = Entry(
        number.to_bytes(16, "big"), b"scope", "acme", b"route", b"answer", vector, b"", "small", (), 0.0, 1e9
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def differ(a: bytes, b: bytes) -> str:
    return "" if a == b else "facts"


def best(
    entries: list[Entry], scope: bytes, vector: neighbours.Vector, facts: bytes, now: float
) -> Entry | None:
    """The slow way."""
    may = [one for one in entries if one.scope == scope and one.facts == facts and one.expires_at > now]
    return max(may, key=lambda one: float(one.vector @ vector), default=None)


@pytest.mark.parametrize("fold", [lambda facts: b"", lambda facts: facts], ids=["one place", "folded"])
def test_a_hundred_thousand_mixed_operations_of_many_tenants_cross_no_wall(fold, seed: int) -> None:  # type: ignore[no-untyped-def]
    """All tenants ask the same few questions, so that a neighbour of another one is always at hand."""
    draw, rng = random.Random(seed), np.random.default_rng(seed)
    questions = [unit(rng) for _ in range(50)]
    index = Neighbours(differ, fold, of_tenant=60, in_all=1_500)
    kept: dict[bytes, Entry] = {}
    crossed = wrong = hits = 0
    for now in range(OPERATIONS):
        tenant = draw.choice(TENANTS)
        scope, facts = tenant.encode() + draw.choice([b"/a", b"/b"]), draw.choice([b"3", b"30"])
        vector = draw.choice(questions)
        match draw.choices(["add", "look", "forget", "purge"], [50, 47, 2, 1])[0]:
            case "add":
                one = entry(
                    now, vector, scope=scope, facts=facts, tenant=tenant, made_at=now,
                    expires_at=now + draw.randrange(5_000), model=draw.choice(["small", "large"]),
                )  # fmt: skip
                index.add(one, now)
                kept[one.id] = one
            case "look":
                found = index.nearest(scope, vector, facts, now)
                if found is not None:
                    hits += 1
                    crossed += found.entry.tenant != tenant or found.entry.scope != scope
                    wrong += found.entry.facts != facts or found.entry.expires_at <= now
                    wrong += kept.get(found.entry.id) is not found.entry
            case "forget":
                gone = draw.choice(index.ids(tenant) or [b""])
                index.forget(gone)
                kept.pop(gone, None)
            case "purge":
                index.purge(tenant, "small")
                kept = {
                    key: one
                    for key, one in kept.items()
                    if not (one.tenant == tenant and one.model == "small")
                }
        assert len(index) <= 1_500
    assert hits > OPERATIONS / 10
    assert (crossed, wrong) == (0, 0)
    assert all(len(index.ids(tenant)) <= 60 for tenant in TENANTS)


@pytest.mark.parametrize("flat", [10_000, 40], ids=["flat", "graph"])
def test_the_nearest_is_the_nearest(flat: int, seed: int) -> None:
    """Also while entries come and go; of a graph, which may overlook some, 98 of 100."""
    rng = np.random.default_rng(seed)
    index = Neighbours(differ, flat=flat, of_tenant=600)
    kept: list[Entry] = []
    found = asked = 0
    for number in range(2_000):
        kept.append(entry(number, unit(rng)))
        index.add(kept[-1], 1)
        kept = kept[-600:]
        if number % 97 == 0:
            middle = kept.pop(len(kept) // 2)
            index.forget(middle.id)
            index.add(middle, 1)
            kept.append(middle)
        if number % 5 == 0:
            vector = unit(rng)
            near = index.nearest(b"scope", vector, b"", 1)
            asked += 1
            expected = best(kept, b"scope", vector, b"", 1)
            if near is not None and expected is not None and near.entry.id == expected.id:
                found += 1
                assert near.similarity == pytest.approx(float(expected.vector @ vector), abs=1e-6)
    assert index.graphed == (flat == 40)
    assert found >= (asked if flat == 10_000 else 0.98 * asked)


def test_the_nearest_that_differs_or_has_expired_is_passed_over() -> None:
    vector = unit(np.random.default_rng(1))
    index = Neighbours(differ)
    index.add(entry(1, vector, facts=b"30"), 1)
    index.add(entry(2, vector, facts=b"3", expires_at=5), 1)
    near = index.nearest(b"scope", vector, b"3", 4.9)
    assert near is not None
    assert near.entry.id == entry(2, vector).id
    assert index.nearest(b"scope", vector, b"3", 5) is None
    assert index.nearest(b"other", vector, b"3", 1) is None


def test_a_purge_takes_what_it_names_and_nothing_else() -> None:
    vector = unit(np.random.default_rng(1))
    index = Neighbours(differ)
    for number, (tenant, model, tags) in enumerate(
        [
            ("acme", "small", ()),
            ("acme", "large", ("docs",)),
            ("acme", "small", ("docs",)),
            ("beta", "small", ()),
        ]
    ):
        index.add(entry(number, vector, tenant=tenant, model=model, tags=tags, made_at=number), 1)
    index.purge("acme", "small", "docs")
    assert [int.from_bytes(one, "big") for one in index.ids("acme")] == [0, 1]
    index.purge("acme", tag="docs")
    assert [int.from_bytes(one, "big") for one in index.ids("acme")] == [0]
    index.purge("acme")
    assert index.ids("acme") == []
    assert len(index) == 1


def test_an_entry_takes_the_place_of_one_with_its_id() -> None:
    rng = np.random.default_rng(1)
    old, new = unit(rng), unit(rng)
    index = Neighbours(differ)
    index.add(entry(1, old), 1)
    index.add(entry(1, new), 1)
    near = index.nearest(b"scope", new, b"", 1)
    assert len(index) == 1
    assert near is not None
    assert near.similarity == pytest.approx(1)


@pytest.mark.parametrize("vector", [[0, 0], [2, 0], [float("nan"), 1], [float("inf"), 0]])
def test_a_vector_that_is_none_is_near_to_nothing(vector: list[float]) -> None:
    index = Neighbours(differ)
    index.add(entry(1, np.array(vector, np.float32)), 1)
    assert len(index) == 0


def test_a_vector_of_another_size_is_near_to_nothing() -> None:
    rng = np.random.default_rng(1)
    index = Neighbours(differ)
    index.add(entry(1, unit(rng)), 1)
    index.add(entry(2, unit(rng, 8)), 1)
    assert len(index) == 1
    assert index.nearest(b"scope", unit(rng, 8), b"", 1) is None


def test_what_has_expired_leaves_without_being_asked_for() -> None:
    rng = np.random.default_rng(1)
    index = Neighbours(differ)
    for number in range(400):
        index.add(entry(number, unit(rng), expires_at=10), 1)
    for number in range(100):
        index.add(entry(1000 + number, unit(rng)), 20)
    assert len(index) == 100
