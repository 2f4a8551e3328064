"""What children count reaches their parent, also from those that are killed."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter

from headgate.jobs.tally import Tally
from tests.integration.gateway_rig import wait_for

CHILDREN, LINES = 8, 150
"""As much as a pipe holds: the parent listens late."""


def test_what_children_tell_arrives_whole_and_once_also_from_those_that_were_killed() -> None:
    tally, noted = Tally(), Counter[tuple[str, ...]]()

    def note(name: str, *labels: str, value: float = 1.0) -> None:
        noted[name, *labels] += int(value)

    children = [_child(tally, number) for number in range(CHILDREN)]
    threading.Thread(target=tally.listen, args=(note,), daemon=True).start()
    wait_for(lambda: noted.total() == CHILDREN * LINES, what="all to arrive")
    assert noted == {("name", f"label-{number}"): LINES for number in range(CHILDREN)}
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def _child(tally: Tally, number: int) -> int:
    child = os.fork()
    if child == 0:
        for _ in range(LINES):
            tally.note("name", f"label-{number}")
        os.kill(os.getpid(), signal.SIGKILL)
    return child


def test_what_cannot_be_counted_ends_no_other_count() -> None:
    tally, noted = Tally(), list[str]()

    def note(name: str, *_labels: str, value: float = 1.0) -> None:
        if name == "unknown":
            raise KeyError(name)
        noted.append(name)

    threading.Thread(target=tally.listen, args=(note,), daemon=True).start()
    for name in ("first", "unknown", "last"):
        tally.note(name)
    wait_for(lambda: noted == ["first", "last"], what="what comes after it")


def test_who_does_not_listen_holds_nobody_up() -> None:
    tally = Tally()
    for _ in range(10_000):
        tally.note("a name that is not short", "and a label")
