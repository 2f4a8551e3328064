"""What the long forms measured: each test notes its figures, and `tests.faults.page` makes a page of them."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

NOTED = Path("build/reliability")
"""One file for each test that was run in its long form; every run adds to it."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One promise as it was measured."""

    promise: str
    """Its number in the list of promises, and its words."""
    target: str
    measured: str
    n: int
    met: bool
    seed: int
    commit: str


@dataclass(frozen=True, slots=True)
class Form:
    """How much of a promise is tried: the short form in every test run, the long one for the page.

    Counts and wrong results are asserted in both; latencies only in the long form, which has the machine for
    itself.
    """

    long: bool
    seed: int
    test: str

    def count(self, short: int, long: int) -> int:
        """How many tries."""
        return long if self.long else short

    def note(self, promise: str, *, target: str, measured: str, n: int, met: bool) -> None:
        """Keeps what was measured, met or not, and asserts it in the long form."""
        if not self.long:
            return
        keep(self.test, Figure(promise, target, measured, n, met, self.seed, commit()))
        assert met, f"{promise}: {measured}; wanted: {target}"


def keep(test: str, figure: Figure) -> None:
    """Adds a figure to what its test noted."""
    NOTED.mkdir(parents=True, exist_ok=True)
    with (NOTED / f"{test}.jsonl").open("a", encoding="utf-8") as written:
        written.write(json.dumps(asdict(figure)) + "\n")


def commit() -> str:
    """The commit that is tried; marked where the files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=7"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
