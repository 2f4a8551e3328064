from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.router import hits
from headgate.router.hits import ENTRIES, GRID, MARGIN, Audit, HitBound, clean_audits

WRONG_HITS, CONFIDENCE = 0.05, 0.9
CLEAN = clean_audits(WRONG_HITS, CONFIDENCE)


def entry(number: int) -> bytes:
    return number.to_bytes(16, "big")


def noted(audits: Iterable[tuple[float, bool]], bound: HitBound | None = None) -> HitBound:
    """A bound after audits of so many different entries."""
    bound = bound or HitBound(WRONG_HITS, CONFIDENCE)
    for similarity, same in audits:
        bound.note(Audit(entry(bound.audits), similarity, same))
    return bound


def test_nothing_is_served_without_audits() -> None:
    bound = HitBound(WRONG_HITS, CONFIDENCE)
    assert (bound.threshold, bound.wrong_at_most, bound.audits) == (None, 1.0, 0)
    assert not bound.serves(1.0, entry(0))


def test_a_level_is_served_from_the_audit_on_that_certifies_it() -> None:
    bound = noted([(0.97, True)] * (CLEAN - 1))
    assert bound.threshold is None
    assert bound.wrong_at_most > WRONG_HITS
    noted([(0.97, True)], bound)
    assert bound.serves(0.97, entry(10**6))
    assert bound.wrong_at_most <= WRONG_HITS


def test_a_level_waits_for_the_stricter_ones() -> None:
    assert noted([(0.85, True)] * 10 * CLEAN).threshold is None


def test_the_threshold_stops_where_mistakes_begin() -> None:
    bound = noted([(0.91, True), (0.97, True), (0.89, False)] * 3 * CLEAN)
    assert bound.threshold == 0.9
    assert not bound.serves(0.89, entry(10**6))


def test_an_entry_that_was_wrong_must_be_more_alike_than_it_was() -> None:
    bound = noted([(0.99, True)] * 4 * CLEAN)
    bound.note(Audit(entry(1), 0.92, same=False))
    assert not bound.serves(0.92 + MARGIN / 2, entry(1))
    assert bound.serves(0.92 + 2 * MARGIN, entry(1))
    assert bound.serves(0.92 + MARGIN / 2, entry(2))
    bound.note(Audit(entry(1), 0.88, same=False))
    assert not bound.serves(0.92 + MARGIN / 2, entry(1))


def test_audits_that_would_not_be_served_count_neither_for_nor_against() -> None:
    bound = noted([(0.99, True)] * 2 * CLEAN)
    bound.note(Audit(entry(1), 0.97, same=False))
    before = bound.wrong_at_most
    for same in (True, False) * 50:
        bound.note(Audit(entry(1), 0.97, same))
    assert bound.wrong_at_most == before


def test_contradicted_levels_are_withdrawn_and_can_be_earned_again() -> None:
    bound = noted([(0.97, True)] * 6 * CLEAN)
    assert bound.threshold is not None
    assert noted([(0.97, False)] * (CLEAN // 2), bound).threshold is None
    assert noted([(0.97, True)] * 10 * CLEAN, bound).threshold is not None


def test_the_same_stream_gives_the_same_bound_everywhere(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stream = list(zip(rng.uniform(0.6, 1, 3000).tolist(), (rng.random(3000) < 0.99).tolist(), strict=True))
    one, other = noted(stream), noted(stream)
    assert (one.threshold, one.wrong_at_most) == (other.threshold, other.wrong_at_most)


AUDITS = st.lists(
    st.builds(
        Audit,
        st.sampled_from([entry(n) for n in range(9)]),
        st.floats(0.6, 1),
        st.sampled_from([True] * 9 + [False]),
    ),
    max_size=20,
)


@settings(deadline=None, max_examples=40)
@given(st.lists(AUDITS, max_size=3), st.integers(1, 20))
def test_many_at_once_are_noted_like_one_after_the_other(batches: list[list[Audit]], times: int) -> None:
    one, other = HitBound(0.2, 0.7), HitBound(0.2, 0.7)
    for batch in batches:
        for audit in batch * times:
            one.note(audit)
        other.note_all(batch * times)
        assert _state(one) == _state(other)


def _state(bound: HitBound) -> tuple[object, ...]:
    served = [bound.serves(similarity, entry(n)) for n in range(9) for similarity in (*GRID, 1.0)]
    return (bound.audits, bound.threshold, bound.wrong_at_most, served)


def test_many_at_once_cost_a_fraction_of_one_after_the_other() -> None:
    audits = [Audit(entry(n), 0.97, same=True) for n in range(2_000)]

    def one_by_one() -> None:
        bound = HitBound(0.01, 0.9)
        for audit in audits:
            bound.note(audit)

    def together() -> None:
        HitBound(0.01, 0.9).note_all(audits)

    def cost(of: Callable[[], None]) -> float:
        """The least of three: the collector may come in between."""
        taken = []
        for _ in range(3):
            started = time.process_time()
            of()
            taken.append(time.process_time() - started)
        return min(taken)

    assert cost(together) < cost(one_by_one) / 10


def test_an_entry_is_barred_for_a_mistake_that_does_not_count_any_more() -> None:
    bound = noted([(0.99, True)] * 2 * CLEAN)
    before = bound.wrong_at_most
    bound.bar(entry(1), 0.96)
    bound.bar(entry(1), 0.9)
    assert not bound.serves(0.96 + MARGIN / 2, entry(1))
    assert bound.serves(0.96 + 2 * MARGIN, entry(1))
    assert bound.serves(0.96, entry(2))
    assert (bound.wrong_at_most, bound.audits) == (before, 2 * CLEAN)


def test_what_is_remembered_of_entries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ENTRIES <= 100_000
    monkeypatch.setattr(hits, "ENTRIES", 10)
    bound = noted([(0.97, False)] * 11 + [(0.999, True)] * 30 * CLEAN)
    assert bound.threshold is not None
    assert bound.serves(0.98, entry(0))
    assert not bound.serves(0.98, entry(1))


@pytest.mark.parametrize("rate", [1.0 * WRONG_HITS, 2 * WRONG_HITS])
def test_too_many_mistakes_are_certified_seldom_however_often_one_looks(seed: int, rate: float) -> None:
    draws, span, delta = 600, 4 * CLEAN, 1 - CONFIDENCE
    wrong = np.random.default_rng(seed).random((draws, span)) < rate
    fooled = sum(_ever_served(row.tolist()) for row in wrong)
    assert fooled / draws <= delta + 2 * (delta * (1 - delta) / draws) ** 0.5


def _ever_served(mistakes: list[bool]) -> bool:
    bound = HitBound(WRONG_HITS, CONFIDENCE)
    return any(noted([(0.97, not wrong)], bound).threshold is not None for wrong in mistakes)


def test_the_upper_bound_covers_the_rate_at_its_confidence(seed: int) -> None:
    rng, rate, draws = np.random.default_rng(seed), 0.02, 80
    missed = sum(
        noted((0.97, bool(same)) for same in rng.random(600) >= rate).wrong_at_most < rate
        for _ in range(draws)
    )
    delta = 1 - CONFIDENCE
    assert missed / draws <= delta + 2 * (delta * (1 - delta) / draws) ** 0.5


def test_no_threshold_is_so_strict_that_only_equal_texts_reach_it() -> None:
    assert GRID[0] < 1 - MARGIN


@pytest.mark.parametrize(("wrong_hits", "confidence"), [(0, 0.9), (1, 0.9), (0.01, 0), (0.01, 1)])
def test_shares_lie_between_nothing_and_everything(wrong_hits: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        HitBound(wrong_hits, confidence)
