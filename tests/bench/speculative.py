"""`make speculative`: large with small as its draft model beside large alone, and docs/reference/speculative.md.

Everything runs in one process on one core, and for every worksheet the sides take turns in a drawn order, so
that the load of other work falls on all of them: trust the ratios.
"""

from __future__ import annotations

import os
import platform
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from headgate.worker.backends.builtin.engine import Engine, Sampling
from headgate.worker.backends.builtin.speculative import Pair, Reach, Tally
from headgate.worker.backends.builtin.worksheets import FAMILIES, Worksheet, balanced
from tests.bench.pairs import table

PAGE = Path("docs/reference/speculative.md")
SEED, SHEETS, ROUNDS = 20_270, 360, 5
"""Not the worksheets that the reach was chosen on. The first round warms up and is not counted."""
LENGTHS = ((1, 4), (5, 16), (17, 64), (65, 256))
"""Bytes of an answer, its end byte included."""
RESAMPLES = 2000
ALONE, SERVED = "large alone", "drafts as far as they are likely"
FIXED = (1, 2, 4, 8, 12)

Times = NDArray[np.float64]


@dataclass
class Side:
    """One way to answer; one row a worksheet, one column a round. Times are seconds of wall clock."""

    pair: Pair | None
    times: Times = field(default_factory=lambda: np.zeros((SHEETS, ROUNDS)))
    first: Times = field(default_factory=lambda: np.zeros((SHEETS, ROUNDS)))
    lengths: Times = field(default_factory=lambda: np.zeros((SHEETS, ROUNDS)))
    tallies: dict[tuple[int, int], Tally] = field(default_factory=dict)

    def answer(self, target: Engine, sheet: Worksheet, sampling: Sampling, place: tuple[int, int]) -> None:
        """Answers one worksheet and keeps what it took."""
        tally = self.tallies[place] = Tally()
        began = perf_counter()
        steps = (
            target.decode(sheet.question, sampling)
            if self.pair is None
            else self.pair.decode(sheet.question, sampling, tally)
        )
        next(steps)
        self.first[place] = perf_counter() - began
        self.lengths[place] = 1 + sum(1 for _ in steps)
        self.times[place] = perf_counter() - began

    def seconds(self) -> Times:
        """The median of the counted rounds, (worksheets,)."""
        return np.median(self.times[:, 1:], axis=1)

    def counted(self, rows: Iterable[int]) -> tuple[int, int, int, float]:
        """Drafted and accepted bytes, forward passes of the target model and bytes, of the counted rounds."""
        chosen = [self.tallies[row, number] for row in rows for number in range(1, ROUNDS)]
        written = self.lengths[list(rows), 1:].sum()
        return (
            sum(one.drafted for one in chosen),
            sum(one.accepted for one in chosen),
            sum(one.target_forwards for one in chosen),
            float(written),
        )


def main() -> int:
    """Measures and writes the page."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    target, draft = Engine.load("large"), Engine.load("small")
    sheets = balanced(SEED, SHEETS)
    greedy = measured(target, draft, sheets, lambda _: Sampling())
    drawn = measured(target, draft, sheets, lambda number: Sampling(temperature=1.0, seed=SEED + number))
    PAGE.write_text(page(sheets, greedy, drawn))
    return 0


def measured(
    target: Engine, draft: Engine, sheets: Sequence[Worksheet], sampling: Callable[[int], Sampling]
) -> dict[str, Side]:
    """Every side on every worksheet, in every round; a round has a sampling of its own."""
    sides = {ALONE: Side(None), SERVED: Side(Pair(target, draft))}
    sides |= {f"{most} each time": Side(Pair(target, draft, Reach(most, 0.0))) for most in FIXED}
    rng = random.Random(SEED)
    for number in range(ROUNDS):
        print(f"round {number + 1} of {ROUNDS} …", file=sys.stderr, flush=True)
        for row, sheet in enumerate(sheets):
            for side in rng.sample(list(sides.values()), len(sides)):
                side.answer(target, sheet, sampling(number), (row, number))
    return sides


def page(sheets: Sequence[Worksheet], greedy: dict[str, Side], drawn: dict[str, Side]) -> str:
    """The whole page."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    whole = ratio(greedy[SERVED].seconds(), greedy[ALONE].seconds())
    parts = (
        "# Speculative decoding of the built-in pair",
        f"`large` with `small` as its draft model beside `large` alone: answers take {whole} of the time. {SHEETS} "
        f"worksheets of the test split (seed {SEED}) in the shares of the mix, {ROUNDS - 1} counted rounds each, the sides "
        "taking turns on one core; batch 1, no gRPC. Times are wall clock, medians of an answer's rounds; ratios are of "
        "sums, with the 95 % bootstrap interval over worksheets in brackets. Lengths count the end byte. Commit "
        f"{commit.stdout.strip()}, {platform.machine()}, onnxruntime {onnxruntime.__version__}, Python "
        f"{platform.python_version()}. `make speculative` writes this page.",
        "The answers are the target model's own, greedy and drawn: "
        "[tests](../../tests/unit/worker/builtin/test_speculative.py) hold that, not this page.",
        "## How far to draft",
        "At temperature 0. A draft ends where the chance that all of it stands, by the draft model's own account, falls "
        f"below {Reach().least_chance:g}, and after {Reach().most} bytes; beside it fixed numbers of bytes.",
        sides_table(greedy),
        "At temperature 1. Draws differ from side to side, and so do lengths: times are compared byte for byte.",
        sides_table(drawn, per_byte=True),
        "## By length of the answer",
        "The served setting at temperature 0. The first byte comes later, since drafts go before it.",
        lengths_table(greedy),
        "## By family",
        "The served setting. Accepted is the share of drafted bytes that became part of the answer, at temperature 0 / 1.",
        families_table(sheets, greedy, drawn),
    )
    return "\n\n".join(parts) + "\n"


def sides_table(sides: dict[str, Side], per_byte: bool = False) -> str:
    """One row for each side."""
    alone, rows = sides[ALONE], []
    for name, side in sides.items():
        drafted, accepted, passes, written = side.counted(range(SHEETS))
        bytes_of = (
            [np.median(one.lengths[:, 1:], axis=1) for one in (side, alone)] if per_byte else [None] * 2
        )
        told = ratio(side.seconds(), alone.seconds(), *bytes_of)
        milliseconds = f"{side.seconds().sum() / SHEETS * 1000:.2f}"
        if side is alone:
            rows.append([name, milliseconds, "1", "1", "", ""])
            continue
        rows.append([
            name, milliseconds, told, f"{passes / written:.3f}",
            f"{drafted / written:.2f}", f"{accepted / drafted:.1%}",
        ])  # fmt: skip
    head = ("", "ms an answer", "time, of alone", "target passes a byte", "drafted a byte", "accepted")
    return table(head, rows)


def lengths_table(sides: dict[str, Side]) -> str:
    """One row for each range of lengths, and all of them."""
    alone, served = sides[ALONE], sides[SERVED]
    rows = []
    for low, high in (*LENGTHS, (LENGTHS[0][0], LENGTHS[-1][1])):
        chosen = np.flatnonzero((alone.lengths[:, 1] >= low) & (alone.lengths[:, 1] <= high))
        _, _, passes, written = served.counted(chosen.tolist())
        rows.append([
            f"{low} to {high}", str(len(chosen)),
            " / ".join(f"{np.median(side.seconds()[chosen]) * 1000:.1f}" for side in (alone, served)),
            ratio(served.seconds()[chosen], alone.seconds()[chosen]),
            " / ".join(f"{np.median(side.first[chosen, 1:]) * 1000:.1f}" for side in (alone, served)),
            f"{passes / written:.3f}",
        ])  # fmt: skip
    head = ("bytes", "n", "median ms, alone / drafting", "time, of alone",
            "median ms to the first byte, alone / drafting", "target passes a byte")  # fmt: skip
    return table(head, rows)


def families_table(sheets: Sequence[Worksheet], greedy: dict[str, Side], drawn: dict[str, Side]) -> str:
    """One row for each family."""
    rows = []
    for family in FAMILIES:
        chosen = [row for row, sheet in enumerate(sheets) if sheet.family == family]
        cold, hot = (sides[SERVED].counted(chosen) for sides in (greedy, drawn))
        rows.append([
            family, str(len(chosen)), f"{np.median(greedy[ALONE].lengths[chosen, 1]):.0f}",
            " / ".join(f"{accepted / drafted:.0%}" for drafted, accepted, _, _ in (cold, hot)),
            f"{cold[2] / cold[3]:.3f}",
            ratio(greedy[SERVED].seconds()[chosen], greedy[ALONE].seconds()[chosen]),
        ])  # fmt: skip
    return table(("family", "n", "median bytes", "accepted", "target passes a byte", "time, of alone"), rows)


def ratio(ours: Times, alone: Times, our_bytes: Times | None = None, alone_bytes: Times | None = None) -> str:
    """Sum over sum, worksheet by worksheet, with its bootstrap interval; by the byte where bytes are given."""
    draws = np.random.default_rng(SEED).integers(len(ours), size=(RESAMPLES, len(ours)))

    def of(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        found = ours[rows].sum(-1) / alone[rows].sum(-1)
        if our_bytes is not None and alone_bytes is not None:
            found = found * alone_bytes[rows].sum(-1) / our_bytes[rows].sum(-1)
        return np.asarray(found)

    low, high = np.quantile(of(draws), (0.025, 0.975))
    return f"{float(of(np.arange(len(ours)))):.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    sys.exit(main())
