"""`docs/reference/bench.md` and `bench.json` from the runs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from tests.bench.gateway.figures import Run, Spread, Target
from tests.bench.gateway.targets import TARGETS

INTRO: Final = """\
# The gateway beside a bare gRPC chain

What a call through Headgate costs, beside the least that a Python process between a caller and a worker can do: an
asyncio gRPC router that hands bytes on (`bare`), also on uvloop. The gateway runs as in production: keys checked,
request validated, model chosen by the shipped bundle, a record of every request to Valkey; the answer cache and
traces are off where nothing else is said. The load generator asks one question all the time; a gateway remembers what
it decided for a query, so `gateway` is made to decide each call anew, as for callers who ask different questions, and
`again` is the same as it is shipped. Workers answer in 0 ms, so that nothing but the way there is measured.

The server under test has a core of its own; load generator, workers and Valkey share the other. Sides take turns
within each round, in an order that the seed draws. **Trust the ratios; milliseconds and rates are this machine's, on
that day.** CPU time is that of the router process alone, all threads.

Queued work (from row 16 on) stands beside a bare Celery app with its default settings on the same Valkey: `echo` is a task
that does nothing, `ask` one that makes the call of the gateway that a job runner makes. A queued round trip is SubmitJob, a
runner's StreamGenerate, and WatchJob to the end: three calls of the gateway, and a record that outlives all of them.
"""
HEAD: Final = ("row", "what", "must", "best possible", "reached: median (least to largest)", "met",
               "beside uvloop")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Origin:
    """Where and from what the figures come."""

    commit: str
    machine: str
    python: str
    seed: int
    generator: str
    pinned: bool

    def line(self) -> str:
        """In one sentence."""
        pins = "cores kept apart" if self.pinned else "cores not kept apart"
        return (
            f"Commit {self.commit}, {self.machine}, {self.python}, seed {self.seed}, unary load from "
            f"{self.generator}, {pins}. `make bench` writes this page; [bench.json](bench.json) has every figure."
        )


def origin(seed: int, generator: str, pinned: bool) -> Origin:
    """This machine and this tree."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("grpcio", "uvloop", "onnxruntime", "numpy"))
    machine = f"{_processor()} with {os.cpu_count()} cores"
    return Origin(
        _commit(), machine, f"Python {platform.python_version()}, {packages}", seed, generator, pinned
    )


def page(runs: Sequence[Run], where: Origin, profiles: Mapping[str, Sequence[tuple[str, float]]]) -> str:
    """The whole page; profiles are shares of time by their title."""
    rounds = len({run.round for run in runs})
    parts = [INTRO, f"{where.line()} {rounds} rounds.", "## Targets", _summary(runs), *_profiles(profiles)]
    parts += ["## All runs", *_all_runs(runs)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def data(runs: Sequence[Run], where: Origin, profiles: Mapping[str, Sequence[tuple[str, float]]]) -> str:
    """Everything, one run a line."""
    head = {name: getattr(where, name) for name in where.__slots__}
    lines = [
        json.dumps({"round": run.round + 1, "side": run.side, "load": run.load, **run.figures})
        for run in runs
    ]
    targets = [json.dumps(_target_data(target, runs), ensure_ascii=False) for target in TARGETS]
    return (
        f'{{"origin": {json.dumps(head)},\n"targets": [\n{_lines(targets)}],\n'
        f'"profiles": {json.dumps(profiles)},\n"runs": [\n{_lines(lines)}]}}\n'
    )


def missed(runs: Sequence[Run]) -> list[Target]:
    """Targets whose median is not as good as it must be."""
    return [target for target in TARGETS if not target.met(target.reached(runs).median)]


def write(folder: Path, name: str, text: str) -> None:
    """Writes a file of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


def _summary(runs: Sequence[Run]) -> str:
    return _table(HEAD, (_summary_row(target, runs) for target in TARGETS))


def _summary_row(target: Target, runs: Sequence[Run]) -> list[str]:
    found = target.reached(runs)
    sign = "≤" if target.better == "lower" else "≥"
    beside = _shown(target.reached(runs, "uvloop"), target) if target.beside_uvloop else "–"
    must, best = (f"{sign} {_number(value, target)}" for value in (target.must, target.best))
    met = "yes" if target.met(found.median) else "**no**"
    return [target.row, target.what, must, best, _shown(found, target), met, beside]


def _shown(found: Spread, target: Target) -> str:
    return f"{_number(found.median, target)} ({_number(found.least, target)} to {_number(found.largest, target)})"


def _number(value: float, target: Target) -> str:
    if target.unit == "%":
        return f"{value:.0%}"
    return f"{value:.0f}{target.unit}" if target.must >= 10 else f"{value:.2f}{target.unit}"


def _profiles(profiles: Mapping[str, Sequence[tuple[str, float]]]) -> Iterable[str]:
    if not profiles:
        return
    yield "## Where the time goes"
    for title, shares in profiles.items():
        yield title
        yield _table(("where", "share"), ([where, f"{share:.0%}"] for where, share in shares))


def _all_runs(runs: Sequence[Run]) -> Iterable[str]:
    for load in dict.fromkeys(run.load for run in runs):
        chosen = [run for run in runs if run.load == load]
        names = list(chosen[0].figures)
        rows = (
            [str(run.round + 1), run.side, *(_plain(run.figures[name]) for name in names)] for run in chosen
        )
        yield f"### {load}"
        yield _table(("round", "side", *names), rows)


def _plain(value: float) -> str:
    return f"{value:.0f}" if value == int(value) or value >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _lines(entries: Sequence[str]) -> str:
    return ",\n".join(entries)


def _target_data(target: Target, runs: Sequence[Run]) -> dict[str, object]:
    found = target.reached(runs)
    return {
        "row": target.row, "what": target.what, "must": target.must, "best": target.best, "better": target.better,
        "median": found.median, "least": found.least, "largest": found.largest,
        "met": target.met(found.median),
        "beside_uvloop": target.reached(runs, "uvloop").median if target.beside_uvloop else None,
    }  # fmt: skip


def _commit() -> str:
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "router", "services", "protos")
    return _git("rev-parse", "--short", "HEAD") + (" with uncommitted changes" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
