"""`python -m tests.faults.page`: writes docs/reference/reliability.md from what the long forms noted.

`make chaos` and `make soak` run the promises in their long form and then this. Every run adds rows, the bad
ones too; `build/reliability` keeps them, and what is on the page stays there, so that runs of several
machines add up.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from pathlib import Path

from tests.faults.figures import NOTED, Figure
from tests.faults.mutants import MUTANTS

PAGE = Path("docs/reference/reliability.md")
HEAD = ("promise", "target", "measured", "n", "met", "seed", "commit")
INTRO = """\
# Promises, held against faults

What the long forms of the tests in `tests/faults` measured, with real processes, real sockets and a real
Valkey. Only the upstream is a simulator: it keeps the ledger of what really happened. A promise keeps its
number for life. Clients, servers and upstream share this machine's cores: read latencies as upper bounds.

`make chaos` and `make soak` write this page, with all runs; `make test` tries each promise in its short form.
"""


def main() -> int:
    """Writes the page; 1 when nothing was noted."""
    figures = ordered({*told(PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""), *noted()})
    if not figures:
        print("nothing was noted: run `make chaos` or `make soak` first", file=sys.stderr)
        return 1
    PAGE.write_text(page(figures, where()), encoding="utf-8")
    return 0


def noted(directory: Path = NOTED) -> list[Figure]:
    """All figures that were noted on this machine, by promise."""
    lines = [line for file in directory.glob("*.jsonl") for line in file.read_text().splitlines()]
    return ordered(Figure(**json.loads(line)) for line in lines)


def told(text: str) -> list[Figure]:
    """The figures that a page shows already."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if re.match(r"\| \d+: ", line)]
    return [
        Figure(promise, target.strip(), measured, int(n.replace(",", "")), met == "yes", int(seed), commit)
        for promise, target, measured, n, met, seed, commit in rows
    ]


def ordered(figures: Iterable[Figure]) -> list[Figure]:
    """By promise; of one promise in the order of what was asked and measured."""
    return sorted(figures, key=lambda one: (int(one.promise.partition(":")[0]), *astuple(one)))


def page(figures: Sequence[Figure], machine: str) -> str:
    """The whole page."""
    rows = (
        (f.promise, f.target, f.measured, f"{f.n:,}", "yes" if f.met else "**no**", str(f.seed), f.commit)
        for f in figures
    )
    mutants = ((m.fault, f"`{m.noticed_by.partition('::')[2]}`") for m in MUTANTS)
    planted = "## Planted faults\n\nEach is planted in a copy of the code by `make test`, and noticed by:\n"
    return "\n".join(
        [INTRO, machine, "", table(HEAD, rows), planted, table(("fault", "noticed by"), mutants)]
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)) + "\n"


def where() -> str:
    """The machine."""
    return f"{platform.machine()} with {os.cpu_count()} cores, Python {platform.python_version()}."


if __name__ == "__main__":
    sys.exit(main())
