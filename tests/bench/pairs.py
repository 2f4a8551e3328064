"""`make pairs`: the recipe beside its rivals on real models' outcomes, and docs/reference/results.md.

Each of the eight pairs is told fold by fold, question stems kept together, once for each seed, by the same command
that users run on their own files. It takes most of an hour on one core; every run is kept under build/pairs, and
a run that is there is not repeated: remove the folder to begin anew.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path("../shared/data")
RUNS = Path("build/pairs")
PAGE = Path("docs/reference/results.md")
SEEDS = (1, 2, 3)
"""By default; `python -m tests.bench.pairs 1` runs seed 1 alone."""
FEW, MANY = 150, 500
"""Labels of a new pair, and those that its rival may have before it is as good."""
MIXTRAL, LLAMA = "mixtral-8x7b-instruct-v0.1", "meta-llama-3.1-8b-instruct"
GPT4, GEMINI, GPT4O = "gpt-4-1106-preview", "gemini-1.5-pro-002", "gpt-4o-2024-05-13"
CLEAN = ("--exclude", "routellm_contaminated=1")


@dataclass(frozen=True, slots=True)
class Pair:
    """One comparison; `options` of `headgate evaluate`."""

    name: str
    small: str
    large: str
    options: tuple[str, ...]

    def arguments(self) -> list[str]:
        """Of the command, without seed and output."""
        return ["--outcomes", str(DATA), "--small", self.small, "--large", self.large, *self.options]


MMLU = ("--source", "routellm", "--dataset", "mmlu", *CLEAN)
GSM8K = ("--source", "routellm", "--dataset", "gsm8k", "--label", "score_reparsed", *CLEAN)
PRO = ("--source", "mmlu_pro", "--dataset", "mmlu-pro")


@dataclass(frozen=True, slots=True)
class Setting:
    """How much a pair may be learnt from; more `options` of the command."""

    name: str
    options: tuple[str, ...]


PAIRS = (
    Pair("MMLU", MIXTRAL, GPT4, MMLU),
    Pair(
        "MMLU without high-school maths",
        MIXTRAL,
        GPT4,
        (*MMLU, "--exclude", "subject=high_school_mathematics"),
    ),
    Pair("GSM8K, labels repaired", MIXTRAL, GPT4, GSM8K),
    Pair("MMLU-Pro, Mixtral", MIXTRAL, GEMINI, PRO),
    Pair("MMLU-Pro, Llama", LLAMA, GEMINI, PRO),
    Pair("ZeroEval GSM8K", LLAMA, GPT4O, ("--source", "zeroeval", "--dataset", "zeroeval-gsm")),
    Pair("ZeroEval MATH-L5", LLAMA, GPT4O, ("--source", "zeroeval", "--dataset", "zeroeval-math-l5")),
    Pair("LLMRouter", "llama-3.1-8b-instruct", "llama-3.1-nemotron-51b-instruct", ("--source", "llmrouter")),
)


ALL = Setting("all", ("--certificates",))
NEW = Setting(str(FEW), ("--labels", str(FEW)))
LATER = Setting(str(MANY), ("--labels", str(MANY)))
ALONE = Setting(f"{FEW}-benchmark-left-out", ("--labels", str(FEW), "--leave-out", "mmlu_pro"))
"""MMLU-Pro holds most of MMLU's questions: for both, difficulty then comes from other benchmarks alone."""
ON_MMLU = tuple(pair for pair in PAIRS if "MMLU" in pair.name)
"""Where enough other models answered for a new pair to need few labels."""
PLAN = ((ALL, PAIRS), (NEW, PAIRS), (LATER, ON_MMLU), (ALONE, ON_MMLU))


def main() -> int:
    """Runs what is missing and writes the page; with `--page` it writes the page of what is there."""
    RUNS.mkdir(parents=True, exist_ok=True)
    seeds = tuple(int(word) for word in sys.argv[1:] if word.isdigit()) or SEEDS
    only_page = "--page" in sys.argv
    found: dict[Setting, dict[tuple[str, int], dict[str, Any]]] = {setting: {} for setting, _ in PLAN}
    for seed in seeds:
        for setting, pairs in PLAN:
            for pair in pairs:
                if only_page and not _kept(pair, seed, setting).is_file():
                    continue
                found[setting][pair.name, seed] = run(pair, seed, setting)
                PAGE.write_text(page(found))
    return 0


def run(pair: Pair, seed: int, setting: Setting) -> dict[str, Any]:
    """The figures of one run of the command."""
    kept = _kept(pair, seed, setting)
    if not kept.is_file():
        print(f"{pair.name}, seed {seed}, labels: {setting.name} …", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "headgate.cli", "evaluate", *pair.arguments(), *setting.options]
        subprocess.run([*command, "--seed", str(seed), "--json", str(kept)], check=True)
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def _kept(pair: Pair, seed: int, setting: Setting) -> Path:
    return RUNS / f"{pair.name.replace(' ', '-').replace(',', '')}-{setting.name}-{seed}.json"


Runs = Mapping[tuple[str, int], dict[str, Any]]


def page(found: Mapping[Setting, Runs]) -> str:
    """The whole page, of the runs that are there."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    full, few = found[ALL], found[NEW]
    parts = (
        "# The recipe beside its rivals, on real outcomes",
        f"Five folds of the question stems; {len(full)} of {len(PAIRS) * len(SEEDS)} runs with all labels are there; commit "
        f"{commit.stdout.strip()}, "
        f"{platform.machine()}, Python {platform.python_version()}. `make pairs` writes this page from the command "
        "`headgate evaluate --outcomes … --folds 5`. Every run is listed. Intervals: 95 % bootstrap over queries, "
        "predictions fixed, so they leave out the noise of folds and training. Shares of large calls are facts; no "
        "dollars are shown, because most sources do not say what an answer cost. `subject mean` reads metadata that "
        "traffic does not have. Other models' outcomes in the same files may teach difficulty, never those of the pair.",
        "## All labels",
        quality(full),
        "## Difference of APGR to TF-IDF + LR in the same folds",
        differences(full),
        f"## {FEW} labels of the pair",
        f"As other models' outcomes say how hard a text is, a new pair should need few labels. Asked is: with {FEW} of them an "
        f'AUC of "small is right" that TF-IDF + LR has with {MANY}, and no lower an APGR than it has with {FEW}; with the '
        "benchmark's other models taken away too (`alone`: difficulty is learnt from other benchmarks), nothing below it.",
        new_pairs(found),
        quality(few),
        "## Do certificates hold?",
        "500 calibration sets of n queries drawn anew, δ = 0.1; a draw is violated if the true regret at the certified "
        "λ is above α. `of best` compares the cheap share with the largest that any threshold on the same score reaches.",
        certified(full),
        "## Speed of a whole decision",
        speed(full),
    )
    return "\n\n".join(parts) + "\n"


def quality(runs: Runs) -> str:
    """One row for each pair, seed and method."""
    head = ("pair", "seed", "n", "method", "APGR", "CPT50", "CPT80", "AUC small right", "ECE", "Brier")
    rows = []
    for pair, seed, found in _each(runs):
        low, high = found["apgr_ci95"]
        ours = {**found, "apgr": f"**{found['apgr']:.3f}** [{low:.3f}, {high:.3f}]"}
        for name, row in {"Headgate": ours, **found["baselines"], "oracle": found["oracle"]}.items():
            cells = [_cell(row.get(key)) for key in ("apgr", "cpt50", "cpt80", "auc", "ece", "brier")]
            rows.append([pair.name, str(seed), f"{found['n']:,}", name, *cells])
    return table(head, rows)


def differences(runs: Runs) -> str:
    """One row for each pair, with all its seeds, and the mean of all."""
    rows, means = [], []
    for pair in PAIRS:
        told = [found["apgr_above"]["TF-IDF + LR"] for one, _, found in _each(runs) if one is pair]
        if told:
            means.append(sum(value for value, _, _ in told) / len(told))
            each = ", ".join(f"{value:+.3f} [{low:+.3f}, {high:+.3f}]" for value, low, high in told)
            rows.append([pair.name, f"{means[-1]:+.3f}", each])
    rows.append(["mean", f"{sum(means) / len(means):+.3f}", ""])
    return table(("pair", "Headgate - TF-IDF + LR, mean of the seeds", "seed by seed"), rows)


def new_pairs(found: Mapping[Setting, Runs]) -> str:
    """One row for each pair and seed with few labels: ours, and TF-IDF + LR with as many and with more."""
    head = ("pair", "seed", f"AUC {FEW}", f"alone {FEW}", f"TF-IDF {FEW}", f"TF-IDF {MANY}",
            f"APGR {FEW}", f"alone {FEW}", f"TF-IDF {FEW}")  # fmt: skip
    rows = []
    for pair, seed, few in _each(found[NEW]):
        alone, later = (found[one].get((pair.name, seed), {}) for one in (ALONE, LATER))
        auc = (few.get("auc"), alone.get("auc"), _tfidf(few, "auc"), _tfidf(later, "auc"))
        apgr = (few.get("apgr"), alone.get("apgr"), _tfidf(few, "apgr"))
        rows.append([pair.name, str(seed), *map(_cell, (*auc, *apgr))])
    return table(head, rows)


def _tfidf(run: Mapping[str, Any], figure: str) -> object:
    return run["baselines"]["TF-IDF + LR"][figure] if run else None


def certified(runs: Runs) -> str:
    """One row for each pair, seed and cell."""
    head = ("pair", "seed", "n", "α", "violated", "δ + 2 SE", "cheap share", "best", "of best")
    rows = []
    for pair, seed, found in _each(runs):
        for cell in found["certificates"]:
            best = cell["best_share"]
            rows.append([
                pair.name, str(seed), f"{cell['n']:,}", f"{cell['alpha']:g}", f"{cell['violation_share']:.3f}",
                f"{cell['delta'] + 2 * cell['se']:.3f}", f"{cell['cheap_share']:.3f}", f"{best:.3f}",
                f"{cell['cheap_share'] / best:.0%}" if best else "",
            ])  # fmt: skip
    return table(head, rows)


def speed(runs: Runs) -> str:
    """One row for each pair and seed."""
    head = ("pair", "seed", "p50 µs", "p99 µs")
    return table(head, [
        [pair.name, str(seed), f"{found['decision_us']['p50']:.0f}", f"{found['decision_us']['p99']:.0f}"]
        for pair, seed, found in _each(runs)
    ])  # fmt: skip


def _each(runs: Runs) -> Iterable[tuple[Pair, int, dict[str, Any]]]:
    there = ((pair, seed) for pair in PAIRS for seed in SEEDS if (pair.name, seed) in runs)
    return ((pair, seed, runs[pair.name, seed]) for pair, seed in there)


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value or "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    sys.exit(main())
