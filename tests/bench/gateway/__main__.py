"""`make bench`: our gateway beside a bare gRPC chain, interleaved in one run; writes docs/reference/bench.md.

stage    starts the processes and keeps them apart     echo     what the gateway is measured against
load     sends calls and streams                       measure  who is measured under which load
writing  streams of workers that write fast: what watching a draft costs, and what the way through does
queued   jobs beside a bare Celery app, and interactive calls beside jobs
figures  what is kept, and statistics                  targets  what must be reached
profile  where the time goes                           page     writes it down
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.bench.gateway import load, measure, page, profile
from tests.bench.gateway.figures import Run
from tests.bench.gateway.measure import Plan
from tests.bench.gateway.stage import BESIDE, Stage, can_pin, pinned, stage

Profiles = dict[str, list[tuple[str, float]]]
PAGES: Final = Path("docs/reference")
UNARY: Final = (
    "py-spy, concurrency 16, 0 ms worker, the event loop's thread. What gRPC does on its own threads is not "
    "among it, and py-spy slows what it watches:"
)
START: Final = "Imports are nine tenths of a start; by package, with what `-X importtime` adds to them:"
STREAMS: Final = "py-spy, 8 streams through the real worker, the event loop's thread:"


def main(arguments: Sequence[str]) -> int:
    """Measures and writes; 0 although a target is missed, because that is a finding and not a failure."""
    flags = _parser().parse_args(arguments)
    plan = Plan(flags.rounds, flags.calls, flags.streams, flags.seed, load.generator(flags.generator))
    with (
        TemporaryDirectory(prefix="headgate-bench-") as folder,
        stage(Path(folder), measure.SHORT) as running,
        pinned(BESIDE),
    ):
        runs = measure.measure(running, plan, _say)
        profiles = _profiles(running, plan, runs) if flags.profile else {}
    where = page.origin(flags.seed, flags.generator, can_pin())
    page.write(flags.out, "bench.md", page.page(runs, where, profiles))
    page.write(flags.out, "bench.json", page.data(runs, where, profiles))
    for target in page.missed(runs):
        _say(f"missed: row {target.row}, {target.what}: {target.reached(runs).median:.2f}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=3000, help="a run, at concurrency 16")
    parser.add_argument("--streams", type=int, default=160, help="a run, at 8 streams")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--generator", choices=("h2load", "grpc"), default="h2load")
    parser.add_argument("--no-profile", dest="profile", action="store_false")
    parser.add_argument("--out", type=Path, default=PAGES)
    return parser


def _profiles(running: Stage, plan: Plan, runs: Sequence[Run]) -> Profiles:
    """Only where a target is missed."""
    rows = {target.row for target in page.missed(runs)}
    found = {}
    if rows & {"1", "2", "3", "7", "13"}:
        _say("profile …")
        at = measure.target(running, "gateway")
        found[UNARY] = profile.sample(
            running.servers["gateway"],
            running.folder,
            lambda: plan.generator(at, plan.calls // 3, 16, running.folder),
        )
    if "9" in rows:
        found[STREAMS] = profile.sample(
            running.servers["real"], running.folder, lambda: measure.streams(running, "real", plan.streams, 8)
        )
    if "12" in rows:
        found[START] = profile.imports()
    return {title: shares for title, shares in found.items() if shares}


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
