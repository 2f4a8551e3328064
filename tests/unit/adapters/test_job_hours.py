from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.adapters.job_hours import Hours

NIGHT = Hours.of(("22:00-06:00",), "UTC")


def at(hour: int, minute: int = 0) -> float:
    return datetime(2026, 11, 29, hour, minute, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("hour", "minute", "wait_s"),
    [(22, 0, 0), (23, 59, 0), (0, 0, 0), (5, 59, 0), (6, 0, 16 * 3600), (21, 59, 60), (12, 0, 10 * 3600)],
)
def test_hours_that_pass_midnight_are_one_night(hour: int, minute: int, wait_s: float) -> None:
    assert NIGHT.wait_s(at(hour, minute)) == wait_s


def test_without_hours_it_is_always() -> None:
    assert Hours().wait_s(at(12)) == 0


def test_of_several_the_next_one_counts() -> None:
    meals = Hours.of(("12:00-13:00", "19:30-21:00"), "UTC")
    assert [meals.wait_s(at(hour)) for hour in (11, 12, 13, 20, 21)] == [3600, 0, 6.5 * 3600, 0, 15 * 3600]


def test_hours_are_those_of_their_zone_s_clocks_in_summer_and_winter() -> None:
    berlin = Hours.of(("03:30-04:00",), "Europe/Berlin")
    # In the night to 25 October 2026 clocks there go back from 3 to 2.
    evening = datetime(2026, 10, 24, 23, 0, tzinfo=ZoneInfo("Europe/Berlin"))
    assert berlin.wait_s(evening.timestamp()) == 5.5 * 3600


@given(
    st.lists(st.tuples(st.integers(0, 1439), st.integers(0, 1439)), max_size=4), st.integers(0, 86_400 * 400)
)
def test_after_the_wait_they_have_begun(spans: list[tuple[int, int]], since: int) -> None:
    hours = Hours(tuple(span for span in spans if span[0] != span[1]), UTC)
    now = datetime(2026, 1, 1, tzinfo=UTC).timestamp() + since
    wait_s = hours.wait_s(now)
    assert 0 <= wait_s <= timedelta(days=1).total_seconds()
    assert hours.wait_s(now + wait_s) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "22:00",
        "22-06",
        "22:00-22:00",
        "24:00-06:00",
        "22:60-06:00",
        "25:00-06:00",
        "ab:cd-06:00",
        "٢٢:00-06:00",
    ],
)
def test_what_is_no_span_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        Hours.of((text,), "UTC")


def test_an_unknown_zone_is_named() -> None:
    for zone in ("Mars/Base", "../etc", ""):
        with pytest.raises(ValueError, match="time zone"):
            Hours.of((), zone)
