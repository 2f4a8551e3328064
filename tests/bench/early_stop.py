"""`make stops`: what stopping bad drafts early saves, through the real stack, and docs/reference/early-stop.md.

Fresh worksheets of the two families with the longest answers, and fresh ones of all, each answered twice: with
drafts that are written to their end, and with early stop. Nothing here was looked at when the rule was made.
"""

from __future__ import annotations

import asyncio
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import numpy as np

from headgate.adapters import settings
from headgate.cli.demo.exercise import Exam, Marked
from headgate.cli.demo.run import CONFIG
from headgate.client import AsyncClient
from headgate.client.types import Options
from headgate.local.supervisor import Stack
from headgate.worker.backends.builtin.worksheets import Worksheet, balanced, draw_of
from tests.bench.pairs import table

PAGE = Path("docs/reference/early-stop.md")
SEED, EACH, MIXED, AT_ONCE = 20_281, 600, 3_000, 8
LONG = ("spell", "ladder")
"""Families whose answers have some 80 tokens; the next has 21."""
TARGETS = (0.03, 0.05, 0.10)
RESAMPLES = 2_000

Runs = Mapping[float, tuple[Sequence[Marked], Sequence[Marked]]]
"""By risk target: drafts to their end, and with early stop."""


def main() -> int:
    """Runs everything and writes the page: a quarter of an hour on two cores."""
    sheets = {family: _of(family) for family in LONG} | {"all families": balanced(SEED, MIXED)}
    runs = asyncio.run(_run(sheets))
    PAGE.write_text(page(runs))
    return 0


def _of(family: str) -> list[Worksheet]:
    rng, found = Random(f"{SEED} {family}"), dict[str, Worksheet]()
    while len(found) < EACH:
        sheet = draw_of(rng, "test", family, len(found) % 4)
        found[sheet.question] = sheet
    return list(found.values())


async def _run(sheets: Mapping[str, Sequence[Worksheet]]) -> dict[str, Runs]:
    stack = Stack(settings.read(CONFIG, None, {}), {}, lambda _name, _line: None, worker_port=None)
    async with stack, AsyncClient(stack.addresses["listen"]) as client:
        return {
            name: {target: await _pair(client, some, target) for target in TARGETS}
            for name, some in sheets.items()
        }


async def _pair(
    client: AsyncClient, sheets: Sequence[Worksheet], target: float
) -> tuple[Sequence[Marked], Sequence[Marked]]:
    ways: dict[str, Options] = {
        "whole": {"risk_target": target, "early_stop": False},
        "stopped": {"risk_target": target, "early_stop": True},
    }
    exam = Exam(client, sheets, AT_ONCE, lambda: None)
    whole, stopped = [await exam.answers(name, options) for name, options in ways.items()]
    return whole, stopped


def page(runs: Mapping[str, Runs]) -> str:
    """The page."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    lines = [
        "# Stopping a draft that is not worth its end\n",
        f"Written by `make stops` at {commit.stdout.strip()} on {platform.machine()}, seed {SEED}: fresh "
        f"worksheets through gateway and workers, {EACH} of each of the two families with the longest answers "
        f"(some 80 tokens), and {MIXED:,} of all families, which have 9 tokens in the middle. Each is answered "
        "with drafts that are written to their end, and with early stop (the default).\n",
        "**Saved** is the share of the tokens of those drafts that are not accepted at their end; a draft that is "
        "not stopped saves nothing. **Taken back** are drafts that were stopped and would have been accepted. "
        "Intervals: 95 %, bootstrap over worksheets.\n",
        table(
            ("worksheets", "risk target", "drafts not accepted", "their tokens", "saved", "taken back",
             "quality", "cost"),
            [_row(name, target, *pair) for name, by in runs.items() for target, pair in by.items()],
        ),
        "\nQuality and cost: with early stop less without, cost as a share of the latter. A stop never adds regret: "
        "the reference answers. It costs something where a draft is taken back, and the rule stops only "
        "where that is expected to be worth it at the risk target's λ: a strict target values money little.\n",
    ]  # fmt: skip
    return "\n".join(lines)


def _row(name: str, target: float, whole: Sequence[Marked], stopped: Sequence[Marked]) -> tuple[str, ...]:
    full, cut = (np.array([_drafted(mark) for mark in marks]) for marks in (whole, stopped))
    doomed = np.array([_escalated(mark) for mark in whole])
    again = np.array([_escalated(mark) for mark in stopped])
    spent, saved = np.where(doomed, full, 0), np.where(doomed, full - cut, 0)
    draws = np.random.default_rng(SEED).integers(0, len(full), size=(RESAMPLES, len(full)))
    shares = saved[draws].sum(axis=1) / np.maximum(spent[draws].sum(axis=1), 1)
    low, high = np.quantile(shares, (0.025, 0.975))
    quality = np.mean([a.quality - b.quality for a, b in zip(stopped, whole, strict=True)])
    cost = [sum(mark.cost_nanousd for mark in marks) for marks in (whole, stopped)]
    return (
        name,
        f"{target:.0%}",
        f"{doomed.sum()} of {len(whole)}",
        f"{spent.sum():,}",
        f"{saved.sum() / max(spent.sum(), 1):.2f} ({low:.2f}–{high:.2f})",
        f"{(again & ~doomed & (full > cut)).sum()}",
        f"{quality:+.4f}",
        f"{cost[1] / cost[0] - 1:+.3f}",
    )


def _escalated(mark: Marked) -> bool:
    return mark.decision is not None and mark.decision.escalated


def _drafted(mark: Marked) -> int:
    """Tokens of the draft that was written, accepted or not."""
    decision = mark.decision
    if decision is None or not decision.drafted_by:
        return 0
    return sum(one.completion_tokens for one in decision.attempts if one.model == decision.drafted_by)


if __name__ == "__main__":
    raise SystemExit(main())
