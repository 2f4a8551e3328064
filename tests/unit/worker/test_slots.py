from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from time import monotonic

import pytest

from headgate.worker.backends.base import DeadlinePassedError
from headgate.worker.slots import QueueFullError, Slots


class Guests:
    """Tasks that take a slot and hold it until they are let go."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.served: list[int] = []
        self.leave: dict[int, asyncio.Event] = {}

    def come(self, number: int, within_s: float = 10) -> asyncio.Task[None]:
        self.leave[number] = asyncio.Event()
        return asyncio.create_task(self._stay(number, monotonic() + within_s))

    async def _stay(self, number: int, deadline: float) -> None:
        async with self.slots.take(deadline):
            self.served.append(number)
            await self.leave[number].wait()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_waits_in_order_of_arrival() -> None:
    guests = Guests(Slots(2, 8))
    tasks = [guests.come(number) for number in range(6)]
    await until(lambda: guests.slots.waiting == 4)
    assert guests.slots.busy == 2
    for number in range(6):
        guests.leave[number].set()
        await until(tasks[number].done)
    assert guests.served == list(range(6))
    assert guests.slots.busy == guests.slots.waiting == 0


async def test_refuses_at_once_when_slots_and_queue_are_full() -> None:
    guests = Guests(Slots(1, 1))
    holder, waiter = guests.come(0), guests.come(1)
    await until(lambda: guests.slots.waiting == 1)
    with pytest.raises(QueueFullError) as refused:
        await guests.come(2)
    assert 0.05 <= refused.value.retry_after_s < 10
    for number in (0, 1):
        guests.leave[number].set()
    await asyncio.gather(holder, waiter)
    assert guests.served == [0, 1]


async def test_a_queue_of_none_refuses_what_finds_no_slot() -> None:
    guests = Guests(Slots(1, 0))
    holder = guests.come(0)
    await until(lambda: guests.slots.busy == 1)
    with pytest.raises(QueueFullError):
        await guests.come(1)
    guests.leave[0].set()
    await holder


async def test_a_waiter_whose_deadline_passes_is_dropped_and_never_served() -> None:
    guests = Guests(Slots(1, 4))
    holder = guests.come(0)
    late, patient = guests.come(1, within_s=0.02), guests.come(2)
    with pytest.raises(DeadlinePassedError):
        await late
    assert guests.slots.waiting == 1
    guests.leave[0].set()
    guests.leave[2].set()
    await asyncio.gather(holder, patient)
    assert guests.served == [0, 2]


async def test_a_slot_that_comes_too_late_goes_to_the_next() -> None:
    guests = Guests(Slots(1, 4))
    holder, late, patient = guests.come(0), guests.come(1, within_s=0.02), guests.come(2)
    await until(lambda: guests.slots.waiting == 2)
    time.sleep(0.05)  # noqa: ASYNC251  The loop is busy past the deadline: its alarm has had no turn yet.
    guests.leave[0].set()
    guests.leave[2].set()
    with pytest.raises(DeadlinePassedError):
        await late
    await asyncio.gather(holder, patient)
    assert guests.served == [0, 2]
    assert guests.slots.busy == guests.slots.waiting == 0


async def test_a_waiter_that_leaves_is_passed_over() -> None:
    guests = Guests(Slots(1, 4))
    holder, leaver, patient = guests.come(0), guests.come(1), guests.come(2)
    await until(lambda: guests.slots.waiting == 2)
    leaver.cancel()
    guests.leave[0].set()
    guests.leave[2].set()
    await asyncio.gather(holder, patient)
    assert guests.served == [0, 2]
    assert guests.slots.busy == 0


async def test_a_slot_granted_to_one_who_leaves_in_the_same_moment_goes_on() -> None:
    guests = Guests(Slots(1, 4))
    holder, leaver, patient = guests.come(0), guests.come(1), guests.come(2)
    await until(lambda: guests.slots.waiting == 2)
    guests.leave[0].set()
    await until(lambda: guests.slots.waiting == 1)  # Granted, but the leaver has not run yet.
    assert 1 not in guests.served
    leaver.cancel()
    guests.leave[2].set()
    async with asyncio.timeout(5):
        await asyncio.gather(holder, patient)
    assert guests.served == [0, 2]
    assert guests.slots.busy == guests.slots.waiting == 0


async def test_an_error_in_the_block_frees_the_slot() -> None:
    slots = Slots(1, 0)
    with pytest.raises(ZeroDivisionError):
        async with slots.take(monotonic() + 1):
            raise ZeroDivisionError
    assert slots.busy == 0


async def test_the_advice_grows_with_the_time_that_answers_hold_their_slots() -> None:
    advice = []
    for held_s in (0.0, 0.4):
        slots = Slots(1, 0)
        for _ in range(2):
            async with slots.take(monotonic() + 1):
                await asyncio.sleep(held_s)
        async with slots.take(monotonic() + 1):
            with pytest.raises(QueueFullError) as refused:
                async with slots.take(monotonic() + 1):
                    pass
        advice.append(refused.value.retry_after_s)
    assert advice[0] < advice[1]
