from __future__ import annotations

from headgate.jobs.hearing import DEAF_S, Hearing


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def heard(clock: Clock) -> Hearing:
    one = Hearing(2, clock)
    assert not one.deaf(waiting=3, taken=1)
    clock.now += DEAF_S - 0.1
    assert not one.deaf(waiting=3, taken=1)
    return one


def test_who_has_a_free_place_while_tasks_wait_is_deaf_after_a_while() -> None:
    clock = Clock()
    one = heard(clock)
    clock.now += 0.1
    assert one.deaf(waiting=3, taken=1)


def test_who_took_one_hears() -> None:
    clock = Clock()
    one = heard(clock)
    one.took()
    clock.now += DEAF_S - 0.1
    assert not one.deaf(waiting=3, taken=1)


def test_nobody_is_deaf_who_is_full_or_has_nothing_to_take_or_cannot_be_told() -> None:
    for waiting, taken in ((3, 2), (0, 0), (None, 0)):
        clock = Clock()
        one = heard(clock)
        assert not one.deaf(waiting, taken)
        clock.now += DEAF_S
        assert not one.deaf(waiting=3, taken=1), "it begins anew"
