"""`make drafts`: what reading the small model's answer adds, on recorded answers, and docs/reference/drafts.md.

Five pairs, told fold by fold by the command that users run on their own files. Every run is kept under build/drafts,
and a run that is there is not repeated; about ten minutes a seed on one core.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.pairs import PAIRS, Pair, table

RUNS = Path("build/drafts")
PAGE = Path("docs/reference/drafts.md")
SEEDS = (1, 2, 3)
DRAFT_COST = 0.1
"""Of a large call: nobody recorded what these answers cost, and list prices lie between a tenth and a fiftieth."""
TABLED = {
    "GSM8K, labels repaired": 0.710,
    "ZeroEval GSM8K": 0.684,
    "ZeroEval MATH-L5": 0.565,
    "MMLU-Pro, Llama": 0.586,
    "MMLU-Pro, Mixtral": 0.618,
}
"""APGR of the better of two logistic regressions, on surface or TF-IDF of the answer, measured before Headgate."""
TOLD = tuple(pair for pair in PAIRS if pair.name in TABLED)


def main() -> int:
    """Runs what is missing and writes the page; seeds as arguments, with `--page` only the page."""
    RUNS.mkdir(parents=True, exist_ok=True)
    seeds = tuple(int(word) for word in sys.argv[1:] if word.isdigit()) or SEEDS
    if "--page" not in sys.argv:
        for seed in seeds:
            for pair in TOLD:
                run(pair, seed)
    there = {
        (pair.name, seed): path for pair in TOLD for seed in SEEDS if (path := _kept(pair, seed)).is_file()
    }
    PAGE.write_text(page({key: json.loads(path.read_text()) for key, path in there.items()}))
    return 0


def run(pair: Pair, seed: int) -> None:
    """One run of the command, unless it is kept."""
    kept = _kept(pair, seed)
    if kept.is_file():
        return
    print(f"{pair.name}, seed {seed} …", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "headgate.cli", "evaluate", *pair.arguments(), "--with-drafts"]
    options = ("--draft-cost", str(DRAFT_COST), "--seed", str(seed), "--json", str(kept))
    subprocess.run([*command, *options], check=True)


def _kept(pair: Pair, seed: int) -> Path:
    return RUNS / f"{pair.name.replace(' ', '-').replace(',', '')}-{seed}.json"


def page(found: dict[tuple[str, int], dict[str, Any]]) -> str:
    """The whole page, of the runs that are there."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    parts = (
        "# What reading the draft adds",
        f"Five folds of the question stems; {len(found)} of {len(TOLD) * len(SEEDS)} runs are there; commit "
        f"{commit.stdout.strip()}, {platform.machine()}, Python {platform.python_version()}. `make drafts` writes this "
        "page from the command `headgate evaluate --with-drafts`. The drafts are the small models' recorded answers; "
        "no log-probabilities were recorded. Intervals: 95 % bootstrap over queries, predictions fixed. Every run is "
        "listed.",
        "## Shares of large calls, drafts not counted",
        "Every query has a draft; `APGR` is the mean recovered part of the gap between small and large over all shares "
        "of large calls. `before` is what two plain logistic regressions on the answer reached before Headgate was "
        "built, one run each.",
        _quality(found),
        "## Drafts paid",
        f"Costs in large calls for each query; a draft costs {DRAFT_COST:g} of one, an assumption: most of this data "
        "does not say what an answer cost. With drafts every query pays one, by query alone only those pay for the "
        "small model that stay there. The served policy writes a draft only where it is expected to save, so that it "
        "lies on or left of both.",
        _priced(found),
    )  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _quality(found: dict[tuple[str, int], dict[str, Any]]) -> str:
    head = ("pair", "seed", "n", "APGR by query", "with drafts", "difference", "before", "CPT50", "with drafts",
            "AUC small right", "with drafts", "ECE with drafts")  # fmt: skip
    rows = []
    for (name, seed), run in found.items():
        query, draft, (value, low, high) = run["query_only"], run["with_drafts"], run["above"]
        rows.append([
            name, str(seed), f"{run['n']:,}", f"{query['apgr']:.3f}",
            f"**{draft['apgr']:.3f}** [{draft['apgr_ci95'][0]:.3f}, {draft['apgr_ci95'][1]:.3f}]",
            f"{value:+.3f} [{low:+.3f}, {high:+.3f}]", f"{TABLED[name]:.3f}",
            f"{query['cpt50']:.3f}", f"{draft['cpt50']:.3f}", f"{query['auc']:.3f}", f"{draft['auc']:.3f}",
            f"{draft['ece']:.3f}",
        ])  # fmt: skip
    return table(head, rows)


def _priced(found: dict[tuple[str, int], dict[str, Any]]) -> str:
    head = (
        "pair",
        "seed",
        "cost of half the gap, by query",
        "with drafts",
        "of 80 % of it, by query",
        "with drafts",
    )
    rows = []
    for (name, seed), run in found.items():
        query, draft = run["priced"]["query_only"], run["priced"]["with_drafts"]
        cells = (query["cost50"], draft["cost50"], query["cost80"], draft["cost80"])
        rows.append([name, str(seed), *("never" if cell is None else f"{cell:.3f}" for cell in cells)])
    return table(head, rows)


if __name__ == "__main__":
    sys.exit(main())
