"""`make results`: measures the shipped pair and bundle, and writes the pages under docs/reference/.

    docs/reference/demo.md         the demo through the whole gateway, one run a seed
    docs/reference/certificate.md  the shipped certificate against 50 windows of fresh worksheets
    docs/reference/routing.md      the bundle beside its rivals, and its calibration

Figures hold for the machine they name; shares and qualities travel, milliseconds do not.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headgate.worker.backends.builtin.worksheets import batch
from tests.bench import certificate

PAGES = Path("docs/reference")
OUTCOMES = Path("build/results")
DEMO_SEEDS = range(1, 11)
QUERIES = 300
WINDOWS = 50
EVALUATED = 6000
EVALUATION_SEED = 99_000


def main() -> int:
    """Writes every page; any failed run ends the program."""
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / "demo.md").write_text(demo_page([_demo(seed) for seed in DEMO_SEEDS]))
    (PAGES / "certificate.md").write_text(certificate_page())
    _routing_page()
    return 0


def _demo(seed: int) -> dict[str, Any]:
    print(f"demo, seed {seed} …", file=sys.stderr)
    command = [
        sys.executable,
        "-m",
        "headgate.cli",
        "demo",
        "--queries",
        str(QUERIES),
        "--seed",
        str(seed),
        "--json",
    ]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def demo_page(runs: Sequence[dict[str, Any]]) -> str:
    """One row a run, the bad ones too."""
    head = ("seed", "failed", "small", "large", "random mix", "Headgate (95 %)", "oracle", "cost of large",
            "to large", "gain over mix (95 %)", "regret", "latency ms p50 / p99", "overhead ms p50 / p99")  # fmt: skip
    intro = (
        f"`headgate demo --queries {QUERIES} --json`, whole stack: gateway, two workers, Valkey, one process each. "
        "Quality is the share of right answers; costs follow measured CPU time; a random mix has Headgate's cost. "
        f"Quality within 0.02 of always large at 65 % of its cost or less: {sum(map(_pays, runs))} of {len(runs)} runs."
    )
    return _page("The demo, run by run", intro, head, map(_demo_row, runs)) + _policies(runs)


def _policies(runs: Sequence[dict[str, Any]]) -> str:
    """The three policies side by side, each over the same worksheets."""
    names = list(runs[0]["policies"])
    head = ("seed", *(f"{name}: quality" for name in names), *(f"{name}: cost" for name in names),
            *(f"{name}: wasted tokens" for name in names[1:]))  # fmt: skip
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *map(_policy_row, runs))]
    text = (
        "Routing only sends each query once; a cascade reads drafts of `small` before it delivers them; the default also stops "
        "drafts that are not worth their end. Costs are shares of always `large`; wasted are the tokens of drafts that were "
        "not accepted. The last line is the mean."
    )
    return f"\n## Three policies\n\n{text}\n\n" + "\n".join([*lines, _mean_line(lines[2:])]) + "\n"


def _policy_row(run: dict[str, Any]) -> list[str]:
    rows, large = run["policies"], run["always_large"]["cost_usd"]
    return [
        str(run["seed"]),
        *(f"{row['quality']:.3f}" for row in rows.values()),
        *(f"{row['cost_usd'] / large:.3f}" for row in rows.values()),
        *(str(run["wasted_draft_tokens"][name]) for name in list(rows)[1:]),
    ]


def _mean_line(lines: Sequence[str]) -> str:
    columns = np.array([line.strip("| ").split(" | ")[1:] for line in lines], dtype=float).mean(axis=0)
    return (
        "| mean | " + " | ".join(f"{value:.3f}" if value < 2 else f"{value:.0f}" for value in columns) + " |"
    )


def _pays(run: dict[str, Any]) -> bool:
    routed, large = run["headgate"], run["always_large"]
    near = routed["quality"] >= large["quality"] - 0.02
    return bool(near and routed["cost_usd"] <= 0.65 * large["cost_usd"])


def _demo_row(run: dict[str, Any]) -> list[str]:
    routed, large, gain = run["headgate"], run["always_large"], run["gain_over_random_mix"]
    return [
        str(run["seed"]),
        str(run["failed"]),
        f"{run['always_small']['quality']:.3f}",
        f"{large['quality']:.3f}",
        f"{run['random_mix']['quality']:.3f}",
        f"{routed['quality']:.3f} {_span(routed['quality_ci95'])}",
        f"{run['oracle']['quality']:.3f}",
        f"{routed['cost_usd'] / large['cost_usd']:.0%}",
        f"{routed['large_share']:.0%}",
        f"{gain['value']:+.3f} {_span(gain['ci95'])}",
        f"{run['regret']:.1%}" if run["regret"] is not None else "–",
        *(f"{run[key]['p50']:.1f} / {run[key]['p99']:.1f}" for key in ("latency_ms", "overhead_ms")),
    ]


def certificate_page() -> str:
    """Every window is drawn anew; none shares a worksheet with what the bundle was made from."""
    bundle = certificate.shipped_bundle()
    routed, window = [], certificate.default_certificate(bundle).window
    for seed in range(WINDOWS):
        print(f"window {seed + 1} of {WINDOWS} …", file=sys.stderr)
        routed.append(certificate.route(batch(seed, window), bundle, bundle.default_risk_target))
    target = bundle.default_risk_target
    regrets = [sum(one.regret for one in draw) / len(draw) for draw in routed]
    held = sum(regret <= target for regret in regrets)
    promised = certificate.default_certificate(bundle)
    intro = (
        f"Bundle `{bundle.version}`, certificate `{promised.id}`: with {promised.confidence:.0%} confidence at most "
        f"{target:.0%} of {window} requests lose quality. Held in **{held} of {WINDOWS}** windows of {window} "
        f"fresh worksheets, one seed each; mean regret {sum(regrets) / len(regrets):.2%}, largest {max(regrets):.2%}."
    )
    rows = ([str(seed), f"{regret:.2%}", f"{sum(o.covered for o in draw) / len(draw):.1%}"]
            for seed, (regret, draw) in enumerate(zip(regrets, routed, strict=True)))  # fmt: skip
    return _page("Does the shipped certificate hold?", intro, ("seed", "regret", "covered"), rows)


def _routing_page() -> None:
    train = "headgate.worker.backends.builtin.train"
    _run(train, "outcomes", "--split", "test", "--queries", str(EVALUATED), "--seed", str(EVALUATION_SEED),
         "--out", str(OUTCOMES))  # fmt: skip
    with (OUTCOMES / "prices.csv").open() as file:
        versions = ", ".join(f"{row['model']} {row['version']}" for row in csv.DictReader(file))
    _run("headgate.cli", "evaluate", "--outcomes", str(OUTCOMES), "--seed", "1",
         "--bundle", "services/headgate/gateway/bundles/builtin.bundle",
         "--title", "The built-in bundle beside its rivals",
         "--note", f"Fresh worksheets of the test split, seed {EVALUATION_SEED}; {versions}. {_where()}",
         "--out", str(PAGES / "routing.md"))  # fmt: skip


def _run(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


def _page(title: str, intro: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return f"# {title}\n\n{intro}\n{_where()} `make results` writes this page.\n\n" + "\n".join(lines) + "\n"


def _where() -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    return f"Commit {commit}, {platform.machine()} with {os.cpu_count()} cores, Python {platform.python_version()}."


def _span(interval: Sequence[float]) -> str:
    return f"({interval[0]:.3f} to {interval[1]:.3f})"


if __name__ == "__main__":
    sys.exit(main())
