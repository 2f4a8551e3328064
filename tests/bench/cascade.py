"""`make cascade`: certificates, escalation and budgets of the shipped cascade on recorded answers, and the best plans.

Writes docs/reference/cascade.md from answers of the built-in pair to worksheets that no part of the bundle has seen
(build/fresh, made where it is missing), and from worlds that are solved exactly (tests/exact.py). Two minutes.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headgate.cli.words import held_back
from headgate.router import bundle as bundles
from headgate.router.bundle import Bundle, Estimates
from headgate.router.decide import place
from headgate.router.offline import build, courses, curve, drafts, formats, frontier
from headgate.router.offline.certify import covered
from headgate.router.offline.courses import Readings
from headgate.router.offline.datasets import Outcomes
from headgate.router.policy import SETTLED
from tests import exact, redrawn
from tests.bench.pairs import table

FRESH = Path("build/fresh")
PAGE = Path("docs/reference/cascade.md")
SHIPPED = Path("services/headgate/gateway/bundles/builtin.bundle")
QUERIES, SEED = 6000, 99_000
SMALL = "small"
LABELS, WINDOW = 3000, 300
BUDGETS = (24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 64, 68, 72, 76)
"""Nano-dollars a query; always small costs 20, always large 109."""
WORLDS = 200
LAMBDAS = np.geomspace(SETTLED, 1.0, 12).tolist()
DRAWS = 500
NEAR = 0.99
_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Recorded:
    """Fresh queries with both models' answers, and what the shipped bundle says of them."""

    bundle: Bundle
    outcomes: Outcomes
    expected: Estimates
    readings: Readings

    @property
    def after(self) -> _Array:
        """p_correct of small and of large once small's draft was read, (n, 2)."""
        return self.readings[self.bundle.position[SMALL]].p_correct[:, self.order]

    @property
    def order(self) -> list[int]:
        """Where small and large stand."""
        return [self.bundle.position[name] for name in (SMALL, self.bundle.policy.reference)]


def main() -> int:
    """Measures, and writes the page."""
    if not FRESH.is_dir():
        train = "headgate.worker.backends.builtin.train"
        arguments = ("--split", "test", "--queries", str(QUERIES), "--seed", str(SEED), "--out", str(FRESH))
        subprocess.run([sys.executable, "-m", train, "outcomes", *arguments], check=True)
    PAGE.write_text(page(recorded()))
    return 0


def recorded() -> Recorded:
    """The recorded answers, told by the shipped bundle."""
    bundle = bundles.load(SHIPPED.read_bytes())
    outcomes = drafts.read(FRESH, "", formats.read(FRESH), [SMALL]).with_models(bundle.models)
    expected = build.estimates(bundle, outcomes)
    return Recorded(bundle, outcomes, expected, courses.readings(bundle, outcomes, expected))


def page(one: Recorded) -> str:
    """The whole page."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    parts = (
        "# The cascade: certificates, whom to escalate, budgets, best plans",
        f"Bundle `{one.bundle.version}` on {len(one.outcomes):,} fresh worksheets whose answers by both models are recorded; "
        f"commit {commit.stdout.strip()}, {platform.machine()}, Python {platform.python_version()}. `make cascade` writes this "
        "page. Brackets are 95 % intervals over queries, predictions fixed.",
        "## Certificates of whole courses, drawn anew 200 times",
        f"Each time {LABELS:,} worksheets are drawn to certify on, drafts read as they are served. *Rate*: drawn with "
        "replacement, and the regret of all worksheets is the truth. *Window*: the rest of the worksheets gives one window "
        f"of {WINDOW} to hold the certificates against. Levels hold together, so what counts is a re-draw in which any "
        f"is broken: promised in at most {redrawn.DELTA:.0%}, allowed here {redrawn.allowed():.1%} (two standard errors more). "
        "In the last two lines a fault is planted.",
        certificates(one),
        "## What reading is worth, by how long drafts are held back",
        f"Every λ of the grid, costs by the tokens that were read and written, always `large` is 1. *Closed*: of the way from a "
        f"random mix to the oracle in cost, at {NEAR:.0%} of the quality of `large`; asked ≥ 50 %. *Ahead*: the best point's quality "
        "above always `large`; asked ≥ 0.01. *Dearer*: the most that it costs above routing only at equal quality, where either "
        "may be mixed of two λ; asked 0.",
        worth(one),
        "## Whom to escalate",
        "Every draft is read, and queries go to `large` in the order of what a line names. Area: mean accuracy over all shares "
        "of large calls. `learned` is the gain that the shipped reader expects. Small is better at 2 of 18 families of "
        "worksheets, which are a seventh of them.",
        escalation(one),
        "## Budgets",
        "Mean cost of a query in nano-dollars, with drafts, under the λ that a budget means. Expected: by the bundle's expected "
        f"tokens; true: by those that were written. Always `large` costs {_drift(one):.1%} of what is expected of it: an expected "
        "answer is the likeliest length, and the mean is longer.",
        budgets(one),
        "## Beside the best plan there is",
        f"{WORLDS} drawn worlds of 24 kinds of queries, 4 hidden difficulties and drafts of 5 signs, each with exact chances, at "
        "12 λ from 0.02 to 1. The best plan comes from dynamic programming over all of them: answer, or draft and go on, drafts "
        "at hand being free. Regret: its quality less λ times its cost, minus that of the policy.",
        plans(),
    )  # fmt: skip
    return "\n\n".join(parts) + "\n"


def certificates(one: Recorded) -> str:
    """One row for each way to hold them against traffic, and for each planted fault."""
    policy, inside = one.bundle.policy, covered(one.bundle.policy, one.expected)
    answered = courses.courses(policy, one.expected, one.readings).answered[inside]
    blind = courses.courses(replace(policy, resolution=()), one.expected).answered[inside]
    read, unread = (courses.regrets(policy, each, one.outcomes.score[inside]) for each in (answered, blind))
    rows = []
    for name, made, served, window, up in (
        ("rate", read, read, 0, 0),
        ("window", read, read, WINDOW, 0),
        ("rate, each level at the λ of the next", read, read, 0, 1),
        ("rate, drafts read to certify and not in service", read, unread, 0, 0),
    ):
        found = redrawn.broken(made, served, LABELS, SEED, window, levels_up=up)
        rows.append([
            name, f"{found.certified:.0%}", f"**{found.any_level:.1%}**",
            *(f"{share:.1%}" for share in found.of_level.values()),
        ])  # fmt: skip
    levels = (f"{level:.0%}" for level in found.of_level)
    return table(("held against", "certified", "broken, any level", *levels), rows)


def worth(one: Recorded) -> str:
    """One row for each hold-back of the bundle."""
    score, costs = one.outcomes.score, _true(one)
    costs = costs / costs[:, one.order[1]].mean()
    found = [(view.policy.hold_back, *_by_query(one, view, costs)) for view in one.bundle.views]
    routing = found[-1]
    rows = []
    for hold_back, quality, cost in found:
        draws = np.random.default_rng(SEED).integers(0, len(score), size=(DRAWS // 5, len(score)))
        drawn = np.array([_marks(score[d], costs[d], quality[d], cost[d], one.order) for d in draws])
        low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
        at, closed, ahead = _marks(score, costs, quality, cost, one.order)
        dearer = _dearer(
            (quality.mean(axis=0), cost.mean(axis=0)), (routing[1].mean(axis=0), routing[2].mean(axis=0))
        )
        rows.append([
            held_back(hold_back), f"{at:.3f}", f"{closed:.2f} [{low[1]:.2f}, {high[1]:.2f}]",
            f"{ahead:+.3f} [{low[2]:+.3f}, {high[2]:+.3f}]", f"{dearer:+.3f}",
        ])  # fmt: skip
    return table(("policy", f"cost at {NEAR:.0%}", "closed", "ahead", "dearer"), rows)


def _by_query(one: Recorded, view: Bundle, costs: _Array) -> tuple[_Array, _Array]:
    """Quality and cost of every query at every λ, (n, G) each."""
    taken = courses.courses(view.policy, one.expected, courses.readings(view, one.outcomes, one.expected))
    return np.take_along_axis(one.outcomes.score, taken.answered, axis=1), taken.cost(costs)


def _marks(
    score: _Array, costs: _Array, quality: _Array, cost: _Array, order: list[int]
) -> tuple[float, float, float]:
    """Cost at the quality asked for, share of the way closed there, and how far the best point is ahead."""
    (small, large), (cheap, dear) = score[:, order].mean(axis=0), costs[:, order].mean(axis=0)
    asked = NEAR * large
    mixed = cheap + (asked - small) / (large - small) * (dear - cheap)
    gained, paid = score[:, order[1]] - score[:, order[0]], costs[:, order[1]] - costs[:, order[0]]
    up = np.flatnonzero(gained > 0)
    up = up[np.argsort(paid[up] / gained[up])]
    enough = int(np.searchsorted(gained[up].cumsum(), (asked - small) * len(score))) + 1
    oracle = cheap + paid[up[:enough]].sum() / len(score)
    mean, spent = quality.mean(axis=0), cost.mean(axis=0)
    at = float(_frontier(mean, spent, np.array([asked]))[0])
    return at, float((mixed - at) / (mixed - oracle)), float(mean.max() - large)


def _frontier(quality: _Array, cost: _Array, asked: _Array) -> _Array:
    """The least cost of each quality that is asked, of a λ or of two that are mixed."""
    a, b = np.meshgrid(np.arange(len(quality)), np.arange(len(quality)), indexing="ij")
    least = np.full(len(asked), np.inf)
    for row, one in enumerate(asked.tolist()):
        over, under = quality[a] >= one, quality[b] <= one
        gap = np.maximum(quality[a] - quality[b], 1e-12)
        share = np.clip((one - quality[b]) / gap, 0, 1)
        mixed = np.where(over & under, share * cost[a] + (1 - share) * cost[b], np.inf)
        least[row] = min(mixed.min(), cost[quality >= one].min(initial=np.inf))
    return least


def _dearer(these: tuple[_Array, _Array], those: tuple[_Array, _Array]) -> float:
    """The most that these cost above those, at qualities that both reach."""
    asked = np.linspace(max(these[0].min(), those[0].min()), min(these[0].max(), those[0].max()), 60)
    return float((_frontier(*these, asked) - _frontier(*those, asked)).max())


def escalation(one: Recorded) -> str:
    """One row for each order."""
    score, after = one.outcomes.score[:, one.order], one.after
    before = one.expected.p_correct[:, one.order]
    likely = [np.array(draft.logprobs) for draft in one.outcomes.drafts[SMALL]]
    learned = after[:, 1] - after[:, 0]
    others = {
        "doubt in the draft, 1 - p_correct after reading": 1 - after[:, 0],
        "mean log-probability": -np.array([each.mean() for each in likely]),
        "sum of log-probabilities": -np.array([each.sum() for each in likely]),
        "least log-probability": -np.array([each.min() for each in likely]),
        "gain expected from the query alone": before[:, 1] - before[:, 0],
    }
    rows = [["learned", f"{_area(learned, score):.4f}", ""]]
    for name, order in others.items():
        ahead = curve.interval(
            lambda drawn, order=order: _area(learned[drawn], score[drawn]) - _area(order[drawn], score[drawn]),
            len(score), SEED, DRAWS,
        )  # fmt: skip
        rows.append([
            name, f"{_area(order, score):.4f}", f"{ahead.value:+.4f} [{ahead.low:+.4f}, {ahead.high:+.4f}]"
        ])  # fmt: skip
    rows.append(["who is right (oracle)", f"{_area(score[:, 1] - score[:, 0], score):.4f}", ""])
    return table(("order", "area", "learned is ahead by"), rows)


def _area(order: _Array, score: _Array) -> float:
    return float(np.trapezoid(frontier.quality(order, score), dx=1 / len(order)))


def budgets(one: Recorded) -> str:
    """One row for each budget, and how far they are missed in the mean."""
    prices = [model.price for model in one.bundle.costs.models]
    places = [place(text) for text in one.outcomes.texts]
    rows, off = [], []
    for budget in BUDGETS:
        lam = np.array([one.bundle.policy.lam_for_budget(budget, prices, each) for each in places])
        paid = [_spent(one, lam, costs) for costs in (_expected(one), _true(one))]
        off.append([each.mean() / budget - 1 for each in paid])
        between = [f"{each:.3g}" for each in np.unique(lam)]
        rows.append([str(budget), " and ".join(between), *(_mean(each) for each in paid)])
    misses = np.abs(off).mean(axis=0)
    rows.append(["missed by, in the mean", "", *(f"**{miss:.1%}**" for miss in misses)])
    return table(("budget", "λ", "expected", "true"), rows)


def _mean(values: _Array) -> str:
    margin = 1.96 * values.std() / np.sqrt(len(values))
    return f"{values.mean():.1f} ± {margin:.1f}"


def _spent(one: Recorded, lam: _Array, costs: _Array) -> _Array:
    spent = np.zeros(len(lam))
    for each in np.unique(lam).tolist():
        course = courses.one_course(one.bundle.policy, one.expected, one.readings, each)
        paid = courses.Courses(*(part[:, None] for part in course)).cost(costs)[:, 0]
        spent[lam == each] = paid[lam == each]
    return spent


def _true(one: Recorded) -> _Array:
    read, written = one.outcomes.prompt_tokens, one.outcomes.completion_tokens
    return _priced(one, read, written)


def _expected(one: Recorded) -> _Array:
    ratios = np.array([model.prompt_ratio for model in one.bundle.costs.models])
    return _priced(one, one.outcomes.estimated_tokens[:, None] * ratios, one.expected.completion_tokens)


def _priced(one: Recorded, read: _Array, written: _Array) -> _Array:
    prices = [(m.price.input_nanousd, m.price.output_nanousd) for m in one.bundle.costs.models]
    a_read, a_written = np.array(prices, dtype=np.float64).T / 1e6
    return np.asarray(read * a_read + written * a_written)


def _drift(one: Recorded) -> float:
    reference = one.bundle.policy.reference_index
    return float(_true(one)[:, reference].mean() / _expected(one)[:, reference].mean())


def plans() -> str:
    """One row for each number of models and of drafts."""
    rows = []
    for models, most in ((2, 1), (3, 2), (3, 1)):
        lost, best = _lost(models, most)
        margin = 1.96 * lost.std(ddof=1) / np.sqrt(WORLDS)
        rows.append([
            str(models), str(most), f"**{lost.mean():.4f}** ± {margin:.4f}", f"{lost.max():.4f}", f"{best:.4f}"
        ])  # fmt: skip
    return table(
        ("models", "drafts, at most", "regret", "worst world", "regret of the best plan with so many drafts"),
        rows,
    )


def _lost(models: int, most: int) -> tuple[_Array, float]:
    """Regret of every world, and of the best plan that has at most so many drafts."""
    lost, limited = [], []
    for world in (exact.drawn(SEED + number, models) for number in range(WORLDS)):
        policy, best = exact.read_by(world), [exact.best(world, lam).mean() for lam in LAMBDAS]
        taken = [exact.taken(world, policy, lam, most).mean() for lam in LAMBDAS]
        within = [exact.best(world, lam, most).mean() for lam in LAMBDAS]
        lost.append(np.mean(best) - np.mean(taken))
        limited.append(np.mean(best) - np.mean(within))
    return np.array(lost), float(np.mean(limited))


if __name__ == "__main__":
    sys.exit(main())
