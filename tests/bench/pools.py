"""`make pools`: pools of nine and more models, what their curve buys, and docs/reference/pools.md.

The data does not say what an answer cost, so costs are estimates, and the page says which: list prices, of a
name that the price table has or of the nearest; prompt tokens as the gateway estimates them; answer tokens
from the characters of the reply where the source has them, else the same for every model.
"""

from __future__ import annotations

import csv
import gzip
import io
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headgate.router.bundle import Bundle
from headgate.router.offline import build, crossval, datasets, difficulty, formats, pool
from headgate.router.offline.build import Plan
from headgate.router.offline.crossval import Told
from headgate.router.offline.datasets import Listed, Outcomes
from headgate.router.offline.train import Recipe
from headgate.router.policy import SETTLED
from tests.bench.pairs import DATA, table

PAGE = Path("docs/reference/pools.md")
PICTURE = PAGE.with_suffix(".png")
SEED = 1
CHARACTERS_A_TOKEN = 4.0
ALLOWED = 0.005
"""Of expected quality that the policy may leave to an exhaustive search."""

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Case:
    """A source's models, each with its name in the price table."""

    name: str
    source: str
    reference: str
    priced: Mapping[str, str]


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


CASES = (
    Case(
        "LLMRouter, nine models",
        "llmrouter",
        "llama-3.1-nemotron-51b-instruct",
        _same("codegemma-7b", "gemma-2-9b-it", "llama-3.1-8b-instruct", "llama-3.1-nemotron-51b-instruct",
              "llama-3.3-nemotron-super-49b-v1", "llama3-chatqa-1.5-70b", "llama3-chatqa-1.5-8b",
              "mistral-7b-instruct-v0.3", "qwen2.5-7b-instruct"),
    ),
    Case(
        "ZeroEval, the priced models",
        "zeroeval",
        "claude-3-5-sonnet-20241022",
        {"claude-3-5-sonnet-20241022": "anthropic/claude-3.5-sonnet",
         "claude-3-haiku-20240307": "claude-3-haiku-20240307",
         "gpt-3.5-turbo-0125": "gpt-3.5-turbo",
         "gpt-4o-2024-08-06": "gpt-4o",
         "gpt-4o-mini-2024-07-18": "gpt-4o-mini",
         "gemma-2-9b-it": "gemma-2-9b-it",
         "llama-3.1-405b-inst@sambanova": "llama-3-1-405b-instruct",
         "meta-llama-3.1-70b-instruct": "meta-llama/Meta-Llama-3.1-70B-Instruct-Turbo",
         "meta-llama-3.1-8b-instruct": "llama-3-1-8b-instruct",
         "meta-llama-3-70b-instruct": "meta-llama/Llama-3-70b-chat-hf",
         "meta-llama-3-8b-instruct": "meta-llama/llama-3-8b-instruct",
         "mistral-large-2": "mistral-large-latest"},
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """A case told fold by fold; `cost` (n, M) is relative to a mean call of the reference."""

    case: Case
    told: Told
    bundle: Bundle
    cost: _Array

    @property
    def expected_cost(self) -> _Array:
        """(n, M), known before any answer."""
        return self.told.expected.relative_cost

    def choices(self, p: _Array) -> NDArray[np.intp]:
        """By the rule, for anyone's p_correct."""
        return pool.choices(p, self.expected_cost)


def main() -> int:
    """Measures every case and writes page and picture."""
    found = [measure(case) for case in CASES]
    PICTURE.write_bytes(picture(found))
    PAGE.write_text(page(found))
    return 0


def measure(case: Case) -> Measured:
    """Five folds, seed 1, all other models' outcomes as difficulty."""
    print(f"{case.name} …", file=sys.stderr, flush=True)
    read = formats.read(DATA, source=case.source, models=list(case.priced))
    outcomes = _with_tokens(read, case.source)
    listed = datasets.read_prices(DATA / "prices.csv")
    prices = {name: Listed(listed[entry].price, "") for name, entry in case.priced.items()}
    plan = Plan(case.reference, prices, Recipe(seed=SEED))
    sharing = difficulty.known(DATA, outcomes.models, SEED, build.FOLDS).fit
    told = crossval.cross_validate(outcomes, plan, build.FOLDS, None, sharing, _say)
    bundle = build.loaded(build.build(outcomes, plan, sharing))
    return Measured(case, told, bundle, _cost(told, bundle))


def _say(doing: str) -> None:
    print(f"  {doing}", file=sys.stderr, flush=True)


def _with_tokens(table: Outcomes, source: str) -> Outcomes:
    """Answer tokens from the characters of the replies, where the source has them."""
    rows = {name: row for row, name in enumerate(table.ids)}
    columns = {name: column for column, name in enumerate(table.models)}
    tokens = table.completion_tokens.copy()
    with gzip.open(DATA / f"{source}.outcomes.csv.gz", "rt") as file:
        for cells in csv.DictReader(file):
            if cells.get("response_chars") and cells["query_id"] in rows and cells["model"] in columns:
                at = rows[cells["query_id"]], columns[cells["model"]]
                tokens[at] = max(1.0, float(cells["response_chars"]) / CHARACTERS_A_TOKEN)
    return replace(table, completion_tokens=tokens)


def _cost(told: Told, bundle: Bundle) -> _Array:
    """By the estimated tokens of the answers themselves where there are any, else what was expected."""
    written = np.where(
        np.isnan(told.outcomes.completion_tokens),
        told.expected.completion_tokens,
        told.outcomes.completion_tokens,
    )
    return bundle.costs.relative(told.outcomes.estimated_tokens, written)


def page(found: Sequence[Measured]) -> str:
    """The whole page."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    parts = [
        "# Pools of more than two models",
        f"Seed {SEED}, five folds of the question stems, commit {commit.stdout.strip()}, {platform.machine()}, Python "
        f"{platform.python_version()}; `make pools` writes this page. Everybody chooses by the same rule, the model of highest "
        "p_correct − λ · expected cost, with the same expected costs, as λ rises; only p_correct differs. Costs are relative to a "
        "mean call of the reference. Intervals: 95 % bootstrap over queries, predictions fixed.",
        "**Estimates**: no source says what an answer cost. Prices are list prices, for some models those of the nearest name; "
        f"prompts are counted as the gateway estimates them; answers are characters / {CHARACTERS_A_TOKEN:g} for ZeroEval, and the "
        "same for every model of LLMRouter, which keeps no replies.",
        f"![Quality over cost of both pools]({PICTURE.name})",
        *(part for one in found for part in _told(one)),
    ]
    return "\n\n".join(parts) + "\n"


def _told(one: Measured) -> Iterator[str]:
    score, expected = one.told.outcomes.score, one.told.expected
    yield f"## {one.case.name}"
    yield table(
        ("model", "price entry", "$ / M in, out", "quality", "cost"),
        [
            [
                name,
                one.case.priced[name],
                _price(one, name),
                f"{score[:, m].mean():.3f}",
                f"{one.cost[:, m].mean():.3f}",
            ]
            for m, name in enumerate(one.told.outcomes.models)
        ],
    )
    steps = pool.budgets(one.cost)
    ours = one.choices(expected.p_correct)
    bought = pool.bought(ours, score, one.cost, steps)
    oracle = pool.bought(one.choices(score), score, one.cost, steps)
    ahead = {
        name: pool.ahead(ours, one.choices(p), score, one.cost, SEED)
        for name, p in one.told.rivals.items()
        if name in ("TF-IDF kNN", "TF-IDF + LR")
    }
    yield f"Quality at equal mean cost, n = {len(score):,}, and how far ahead of a rival it is:"
    yield table(
        ("mean cost", "Headgate", "oracle", *(f"ahead of {name}" for name in ahead)),
        [
            [f"{step:.2f}", f"{quality:.3f}", f"{best:.3f}",
             *(f"{places[at].value:+.3f} [{places[at].low:+.3f}, {places[at].high:+.3f}]" for places in ahead.values())]
            for at, (step, quality, best) in enumerate(zip(steps, bought, oracle, strict=True))
        ],
    )  # fmt: skip
    behind = {name: [place for place in places if place.high < 0] for name, places in ahead.items()}
    yield (
        "; ".join(
            f"mean over the {pool.PLACES} budgets against {name}: {np.mean([place.value for place in places]):+.3f}, behind beyond "
            f"its interval at {len(behind[name])}"
            for name, places in ahead.items()
        )
        + "."
    )
    rule, policy = searched(one, 0.0), searched(one, one.bundle.policy.caution)
    yield (
        "What an exhaustive search through all choices could expect more at the same expected cost, by its upper bound: most "
        f"{rule.max():.5f} and mean {rule.mean():.5f} for the rule; with the bundle's caution of "
        f"{one.bundle.policy.caution:g} most {policy.max():.5f}, mean {policy.mean():.5f} (asked: ≤ {ALLOWED:g})."
    )


def searched(one: Measured, caution: float) -> _Array:
    """Expected quality left to the best choice of equal expected cost, for every settled λ of the policy."""
    expected, policy = one.told.expected, replace(one.bundle.policy, caution=caution)
    estimates = expected.p_correct, expected.spread, expected.relative_cost
    chosen = [policy.choose(*estimates, lam)[:, None] for lam in policy.grid[::4] if lam >= SETTLED]
    spent, value = (
        np.array([np.take_along_axis(table, one, axis=1).mean() for one in chosen])
        for table in (expected.relative_cost, expected.p_correct)
    )
    return np.asarray(pool.most(expected.p_correct, expected.relative_cost, spent) - value)


def _price(one: Measured, name: str) -> str:
    price = one.bundle.costs.models[one.bundle.position[name]].price
    return f"{price.input_nanousd / 1e9:g}, {price.output_nanousd / 1e9:g}"


def picture(found: Sequence[Measured]) -> bytes:
    """One panel a pool: the curves, every model alone, and the oracle."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), dpi=160, layout="constrained")
    for panel, one in zip(figure.subplots(1, len(found)), found, strict=True):
        _panel(panel, one)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _panel(panel: Any, one: Measured) -> None:
    score, steps = one.told.outcomes.score, pool.budgets(one.cost)
    shown = (("Headgate", one.told.expected.p_correct, "#0072B2", "-", 2.4),
             ("TF-IDF kNN", one.told.rivals["TF-IDF kNN"], "#009E73", "--", 1.4),
             ("TF-IDF + LR", one.told.rivals["TF-IDF + LR"], "#D55E00", ":", 1.6))  # fmt: skip
    for name, p, colour, dash, width in shown:
        bought = pool.bought(one.choices(p), score, one.cost, steps)
        panel.plot(steps, bought, dash, color=colour, linewidth=width, label=name)
    means = one.cost.mean(axis=0), score.mean(axis=0)
    panel.scatter(*means, color="#1a1a1a", s=18, zorder=3, label="a model alone")
    panel.set(title=one.case.name, xlabel="mean cost, reference = 1", ylabel="mean quality")
    panel.grid(color="#e6e6e6")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, loc="lower right")


if __name__ == "__main__":
    sys.exit(main())
