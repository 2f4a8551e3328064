"""Events go through a stream unchanged, and what cannot be read forgets everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.adapters import semantic_events as events
from headgate.adapters.semantic_events import Added, Audited, Begin, Cut, Event, Purged

TIMES = st.floats(allow_nan=False)
PLACES = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
AUDITS = st.builds(
    Audited,
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=16, max_size=16),
    st.floats(-1, 1, width=32),
    st.booleans(),
)
ADDED = st.builds(
    Added,
    id=st.binary(min_size=16, max_size=16),
    scope=st.binary(min_size=32, max_size=32),
    route=st.binary(min_size=16, max_size=16),
    answer=st.binary(min_size=32, max_size=32),
    vector=st.binary(),
    facts=st.binary(),
    model=TEXTS,
    tags=st.lists(TEXTS).map(tuple),
    made_at=TIMES,
    expires_at=TIMES,
)
PLACED = st.lists(st.tuples(PLACES, AUDITS)).map(tuple)
EVENTS = st.one_of(
    st.just(Begin()),
    ADDED,
    AUDITS,
    st.builds(Purged, TEXTS, TEXTS, TIMES),
    st.builds(Cut, PLACES, PLACES, PLACED, PLACED),
)
ENTRY = Added(bytes(16), bytes(32), bytes(16), bytes(32), bytes(8), b"", "small", ("docs",), 1.0, 2.0)


@given(EVENTS)
def test_what_is_written_is_read(event: Event) -> None:
    assert events.event(events.fields(event)) == event


@given(PLACES)
def test_a_place_is_read_as_redis_writes_it(place: events.Place) -> None:
    assert events.place(events.written(place)) == place


@pytest.mark.parametrize("name", sorted(events.fields(ENTRY)))
@pytest.mark.parametrize("value", [None, b"", b"\xff" * 5])
def test_what_cannot_be_read_may_be_a_purge(name: bytes, value: bytes | None) -> None:
    fields = events.fields(ENTRY)
    del fields[name]
    if value is not None:
        fields[name] = value
    free = name in (b"vector", b"facts", b"model") and value is not None
    read = events.event(fields)
    assert read == Begin() or (free and isinstance(read, Added))


@pytest.mark.parametrize("kind", [b"purge", b"audit", b"cut", b"of a later version"])
def test_an_event_that_lacks_something_is_none(kind: bytes) -> None:
    assert events.event({b"kind": kind}) == Begin()
    assert events.event({}) == Begin()
