"""The demo's table, for people, and its JSON object, for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from headgate.cli.demo.exercise import ROUTED
from headgate.cli.demo.figures import Figures, Interval, Promise, Row
from headgate.cli.demo.queued import Queued
from headgate.cli.words import certificate, percent, rounded
from headgate.client import usd


def as_json(figures: Figures) -> dict[str, Any]:
    """One object; money as decimal dollars of all queries together, times in milliseconds."""
    return {
        "queries": figures.queries,
        "failed": sum(figures.failures.values()),
        "models": {
            model: {"share": share, "quality": quality} for model, (share, quality) in figures.models.items()
        },
        **{f"always_{model}": _row(row) for model, row in figures.always.items()},
        "random_mix": {**_row(figures.random_mix), "weight": figures.mix_weight},
        "headgate": _policy(figures, figures.headgate),
        "policies": {name: _policy(figures, row) for name, row in figures.policies.items()},
        "wasted_draft_tokens": figures.wasted_tokens,
        "oracle": _row(figures.oracle),
        "pgr": figures.pgr,
        "gain_over_random_mix": _difference(*figures.gain_over_mix),
        "difference_to_dearest": _difference(*figures.loss_to_dearest),
        "latency_ms": dict(zip(("p50", "p99"), figures.latency_ms, strict=True)),
        "overhead_ms": dict(zip(("p50", "p99"), figures.overhead_ms, strict=True)),
        "certificate": _promise(figures.promise),
        "regret": figures.promise.loss,
        "cache_hits": figures.cache_hits,
        "failures": figures.failures,
        "seed": figures.seed,
    }


def show(figures: Figures, console: Console) -> None:
    """Prints table, certificate and how to read them."""
    console.print(_table(figures))
    for line in _lines(figures):
        console.print(line, highlight=False, markup=False)


def jobs_as_json(queued: Queued, interactive_s: float, figures: Figures) -> dict[str, Any]:
    """One object, of the batch and of the same worksheets on the line; money as decimal dollars of all."""
    return {
        "jobs": queued.jobs,
        "refused": queued.refused,
        "states": dict(queued.states),
        "lost": figures.queries - queued.refused - queued.jobs,
        "killed_after": queued.killed_after,
        "ran_again": queued.ran_again,
        "seconds": queued.seconds,
        "jobs_per_s": queued.jobs / queued.seconds,
        "quality": queued.quality,
        "cost_usd": float(usd(queued.cost_nanousd)),
        "interactive": {
            "seconds": interactive_s,
            "per_s": figures.queries / interactive_s,
            "quality": figures.headgate.quality,
            "cost_usd": float(usd(figures.headgate.cost_nanousd)),
        },
    }


def show_jobs(queued: Queued, interactive_s: float, figures: Figures, console: Console) -> None:
    """Prints the batch beside the same worksheets on the line."""
    title = f"The same {figures.queries} as queued jobs"
    table = Table(
        title=title, title_justify="left", box=box.HORIZONTALS, padding=(0, 1), collapse_padding=True
    )
    for heading in ("", "done", "failed", "dead", "seconds", "a second", "$ / 1,000", "quality"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    failed = sum(figures.failures.values())
    line = (figures.queries - failed, failed, 0, interactive_s, figures.headgate.cost_nanousd)
    done, gone, dead = (queued.states.get(state, 0) for state in ("done", "failed", "dead"))
    batch = (done, gone, dead, queued.seconds, queued.cost_nanousd)
    table.add_row("on the line", *_job_cells(figures, figures.headgate.quality, *line))
    table.add_row("queued", *_job_cells(figures, queued.quality, *batch), style="bold")
    console.print()
    console.print(table)
    console.print(_of_the_kill(queued, figures), highlight=False, markup=False)


def _job_cells(
    figures: Figures, quality: float, done: int, failed: int, dead: int, seconds: float, cost_nanousd: int
) -> list[str]:
    return [
        *(f"{count}" for count in (done, failed, dead)),
        f"{seconds:.1f}", f"{figures.queries / seconds:.1f}",
        rounded(cost_nanousd * 1000 // figures.queries), f"{quality:.3f}",
    ]  # fmt: skip


def _of_the_kill(queued: Queued, figures: Figures) -> str:
    lost = figures.queries - queued.refused - queued.jobs
    if queued.killed_after is None:
        return f"No runner was killed; lost {lost}."
    again = "1 job" if queued.ran_again == 1 else f"{queued.ran_again} jobs"
    return (
        f"One of the runner's processes was killed (kill -9) when {queued.killed_after} had ended: "
        f"{again} ran again, lost {lost}."
    )


def _row(row: Row) -> dict[str, Any]:
    data: dict[str, Any] = {"quality": row.quality, "quality_ci95": list(row.ci95)}
    data["cost_usd"] = float(usd(row.cost_nanousd))
    if row.latency_ms is not None:
        data["latency_ms"] = dict(zip(("p50", "p99"), row.latency_ms, strict=True))
    return data


def _policy(figures: Figures, row: Row) -> dict[str, Any]:
    return {**_row(row), "large_share": row.shares.get(figures.dearest, 0.0)}


def _difference(value: float, ci95: Interval) -> dict[str, Any]:
    return {"value": value, "ci95": list(ci95)}


def _promise(promise: Promise) -> dict[str, Any] | None:
    if promise.certificate is None:
        return None
    data = asdict(promise.certificate)
    for instant in ("created", "expires"):
        data[instant] = data[instant].isoformat() if data[instant] else None
    return {
        **data,
        "sentence": certificate(promise.certificate),
        "covered": promise.covered,
        "measured_loss": promise.loss,
        "measured_ci95": None if promise.ci95 is None else list(promise.ci95),
    }


def _table(figures: Figures) -> Table:
    """Fits 80 columns for two models; each further model adds one."""
    routed_to = [model for model in figures.always if model != figures.cheapest]
    title = f"{figures.queries} fresh worksheets, seed {figures.seed}; latencies in ms"
    table = Table(
        title=title, title_justify="left", box=box.HORIZONTALS, padding=(0, 1), collapse_padding=True
    )
    headings = (
        "",
        "quality",
        "95 %",
        "$ / 1,000",
        "cost",
        *(f"to {model}" for model in routed_to),
        "p50",
        "p99",
    )
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in (*figures.always.values(), figures.random_mix, *figures.policies.values(), figures.oracle):
        style = "bold" if row is figures.headgate else None
        table.add_row(*_cells(row, figures, routed_to), style=style)
    return table


def _cells(row: Row, figures: Figures, routed_to: list[str]) -> list[str]:
    dearest = figures.always[figures.dearest].cost_nanousd
    return [
        row.name,
        f"{row.quality:.3f}",
        f"{row.ci95[0]:.3f}–{row.ci95[1]:.3f}",
        rounded(row.cost_nanousd * 1000 // figures.queries),
        f"{100 * row.cost_nanousd / dearest:.0f} %" if dearest else "–",
        *(f"{100 * row.shares.get(model, 0):.0f} %" for model in routed_to),
        *(("–", "–") if row.latency_ms is None else (f"{value:.0f}" for value in row.latency_ms)),
    ]


def _of_drafts(figures: Figures) -> list[str]:
    """What reading drafts adds, where the other policies were run as well."""
    if not {"routing", "cascade"} <= figures.policies.keys():
        return []
    whole, stopped = figures.wasted_tokens["cascade"], figures.wasted_tokens[ROUTED]
    return [
        "Routing only reads no draft. A cascade reads small answers before it delivers them; Headgate also "
        f"stops bad ones early: {stopped:,} tokens wasted instead of {whole:,}."
    ]


def _lines(figures: Figures) -> list[str]:
    gain, (low, high) = figures.gain_over_mix
    lines = [
        f"Headgate − random mix at its cost: {gain:+.3f} (95 % {low:+.3f} to {high:+.3f}, paired bootstrap)."
        + ("" if figures.pgr is None else f" PGR {figures.pgr:.2f}."),
        *_of_drafts(figures),
        "Gateway overhead per request: p50 {:.1f} ms, p99 {:.1f} ms.".format(*figures.overhead_ms),
        certificate(figures.promise.certificate),
    ]
    if figures.promise.loss is not None:
        interval = figures.promise.ci95
        within = f" (95 % {percent(interval[0])} to {percent(interval[1])})" if interval else ""
        lines.append(
            f"Measured here on {figures.promise.covered} covered: {percent(figures.promise.loss)}{within}."
        )
    lines.append("Every answer was generated for this table: the demo's stack runs without the answer cache.")
    lines += [f"Failed {count} times, counted as wrong: {what}" for what, count in figures.failures.items()]
    return lines
