"""`headgate evaluate`: on queries that nothing has seen, and always beside its rivals."""

from __future__ import annotations

import json
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from headgate.cli.bundles import data
from headgate.cli.bundles.data import (
    DatasetOption,
    DraftsOption,
    ExcludeOption,
    LabelOption,
    SeedOption,
    SourceOption,
    console,
)
from headgate.cli.state import CommandError

if TYPE_CHECKING:
    from headgate.router.bundle import Bundle
    from headgate.router.offline.build import Plan, Sharing
    from headgate.router.offline.crossval import Told
    from headgate.router.offline.datasets import Outcomes

_CHEAP, _DEAR = 100_000_000, 1_000_000_000
"""Prices where none are known. Shares of large calls do not depend on them."""


def evaluate(
    outcomes: Annotated[
        Path | None, typer.Option(help="A folder or file of outcomes; see `headgate train --help`.")
    ] = None,
    train: Annotated[Path | None, typer.Option(help="Outcomes to train on, instead of --folds.")] = None,
    test: Annotated[Path | None, typer.Option(help="Outcomes to score on, with --train.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="A bundle to measure, instead of the recipe.")] = None,
    source: SourceOption = "",
    dataset: DatasetOption = None,
    small: Annotated[str, typer.Option(help="The cheaper model of the pair.")] = "",
    large: Annotated[str, typer.Option(help="The dearer model of the pair.")] = "",
    label: LabelOption = "score",
    exclude: ExcludeOption = None,
    folds: Annotated[int, typer.Option(min=2, max=20, help="Folds of the question stems.")] = 5,
    labels: Annotated[
        int | None, typer.Option(min=20, help="Train on so many labelled queries at most.")
    ] = None,
    share: Annotated[bool, typer.Option(help="Also learn difficulty from the folder's other models.")] = True,
    leave_out: Annotated[
        list[str] | None,
        typer.Option("--leave-out", help="Learn no difficulty from this source; may be repeated."),
    ] = None,
    certificates: Annotated[
        bool, typer.Option("--certificates", help="Certify re-drawn calibration sets; a minute longer.")
    ] = False,
    with_drafts: DraftsOption = False,
    draft_cost: Annotated[
        float, typer.Option(min=0, max=1, help="With --with-drafts: cost of a draft, of a large call's.")
    ] = 0.1,
    seed: SeedOption = 0,
    held_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="With --bundle: the share that `train` held out.")
    ] = 0.0,
    redrawn: Annotated[int, typer.Option(help="With --bundle: re-drawn certification sets.")] = 50,
    report: Annotated[
        Path | None, typer.Option(help="A folder for a page with pictures, tables and decisions.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Where the figures are written.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --bundle: where the page is written.")] = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "Evaluation of a routing bundle",
    note: Annotated[str, typer.Option(help="A sentence on the page about the data.")] = "",
) -> None:
    """Measure routing on queries that it has not seen, beside its rivals.

    The recipe, trained and told fold by fold:

    [bold]headgate evaluate --outcomes team/ --small mini --large big --report team-report/[/bold]

    A bundle that you trained:

    [bold]headgate evaluate --outcomes team/ --bundle team.bundle --held-out 0.2 --out page.md[/bold]
    """
    _check_report(report, bundle)
    with data.plain_errors():
        if bundle is not None:
            folder = _needed(outcomes, "--outcomes")
            table = data.read(folder, source, dataset, None, label, exclude)
            loaded = data.read_bundle(bundle)
            if loaded.readers:
                table = data.with_drafts(table, folder, source, list(loaded.readers))
            _bundle(loaded, table, seed, held_out, redrawn, out, title, note)
            return
        pair = [_needed(small, "--small"), _needed(large, "--large")]

        def read(path: Path) -> Outcomes:
            table = data.read(path, source, dataset, pair, label, exclude)
            return data.with_drafts(table, path, source, [small]) if with_drafts else table

        if train is not None or test is not None:
            told, figures = _one_split(
                read(_needed(train, "--train")), read(_needed(test, "--test")), seed, labels
            )
        else:
            folder = _needed(outcomes, "--outcomes")
            sharing = _sharing(folder, pair, leave_out, seed, folds) if share and folder.is_dir() else None
            told, figures = _folds(read(folder), seed, folds, labels, sharing, certificates)
        if with_drafts:
            figures |= _drafts(told, seed, draft_cost)
        _show(figures)
        if report is not None:
            _report(report, told, figures, seed)
    if json_out is not None:
        data.write(json_out, json.dumps(_known(figures), indent=2, allow_nan=False).encode())
        console.print(f"wrote {json_out}")


def _check_report(folder: Path | None, bundle: Path | None) -> None:
    """Before an hour of training, not after it."""
    if folder is None:
        return
    if bundle is not None:
        raise CommandError("--report is about the recipe; with --bundle give --out, which writes a page too")
    if folder.exists() and not folder.is_dir():
        raise CommandError(f"--report takes a folder, and {folder} is a file")


def _known(figure: Any) -> Any:
    """JSON has no NaN: what cannot be said, where large is no better than small, is null."""
    if isinstance(figure, dict):
        return {key: _known(value) for key, value in figure.items()}
    if isinstance(figure, list):
        return [_known(value) for value in figure]
    return None if isinstance(figure, float) and isnan(figure) else figure


def _needed(value: Any, option: str) -> Any:
    if not value:
        raise CommandError(f"give {option}; `headgate evaluate --help` shows both ways to call it")
    return value


def _plan(pair: tuple[str, ...], seed: int) -> Plan:
    from headgate.router.offline.build import Plan
    from headgate.router.offline.datasets import Listed
    from headgate.router.offline.train import Recipe
    from headgate.router.types import Price

    prices = (Price(_CHEAP, _CHEAP), Price(_DEAR, _DEAR))
    listed = {name: Listed(price, "") for name, price in zip(pair, prices, strict=True)}
    return Plan(pair[1], listed, Recipe(seed=seed))


def _sharing(folder: Path, pair: list[str], leave_out: list[str] | None, seed: int, folds: int) -> Sharing:
    """What the folder's other models say; the pair's own names are taken away in every source."""
    from headgate.router.offline import build, difficulty

    if folds != build.FOLDS:
        raise CommandError(
            f"difficulty is shared in {build.FOLDS} folds: leave --folds out, or give --no-share"
        )
    known = difficulty.known(folder, pair, seed, folds, leave_out or ())
    return known.fit if known.benchmarks else lambda *_: None


def _folds(
    table: Outcomes, seed: int, folds: int, labels: int | None, sharing: Sharing | None, certified: bool
) -> tuple[Told, dict[str, Any]]:
    from headgate.router.offline import build, crossval, summary

    plan = _plan(table.models, seed)
    with console.status("reading") as status:
        told = crossval.cross_validate(
            table, plan, folds, labels, sharing or build.nothing_shared, status.update
        )
        figures = summary.pair(told, seed)
        status.update("timing decisions")
        served = build.loaded(build.build(crossval.capped(table, labels or 2000, plan), plan))
        figures["decision_us"] = summary.decision_us(served, table.texts)
        if certified:
            status.update("certifying re-drawn calibration sets")
            figures["certificates"] = summary.certificates(told, served.policy, seed)
    return told, figures


def _one_split(train: Outcomes, test: Outcomes, seed: int, labels: int | None) -> tuple[Told, dict[str, Any]]:
    from headgate.router.offline import crossval, datasets, summary

    datasets.refuse_leaks(train, test)
    plan = _plan(train.models, seed)
    with console.status("training"):
        told = crossval.tell(crossval.capped(train, labels, plan), test, plan)
        return told, summary.pair(told, seed)


def _report(folder: Path, told: Told, figures: dict[str, Any], seed: int) -> None:
    from headgate.router.offline import html_report

    with console.status("drawing the report"):
        files = html_report.files(told, figures, seed)
    try:
        for name, content in files.items():
            data.write(folder / name, content)
    except OSError as error:
        raise CommandError(f"the report cannot be written to {folder}: {error.strerror}") from error
    console.print(f"the report is {folder / 'index.html'}")


def _show(figures: dict[str, Any]) -> None:
    table = Table("", "APGR", "CPT50", "AUC small right", "ECE")
    low, high = figures["apgr_ci95"]
    rows = {f"Headgate  [{low:.3f}, {high:.3f}]": figures, **figures["baselines"]}
    for name, row in rows.items():
        table.add_row(name, *(f"{row[key]:.3f}" for key in ("apgr", "cpt50", "auc", "ece")))
    table.add_row("oracle", f"{figures['oracle']['apgr']:.3f}", f"{figures['oracle']['cpt50']:.3f}", "", "")
    if "with_drafts" in figures:
        _show_drafts(table, figures)
    console.print(table)
    for cell in figures.get("certificates", ()):
        console.print(_certified(cell))
    console.print(f"n = {figures['n']:,}, trained on {figures['labels']:,} labelled queries or more a fold")


def _drafts(told: Told, seed: int, draft_cost: float) -> dict[str, Any]:
    from headgate.router.offline import summary

    return summary.drafts(told, seed, draft_cost)


def _show_drafts(table: Table, figures: dict[str, Any]) -> None:
    found = figures["with_drafts"]
    low, high = found["apgr_ci95"]
    cells = [f"{found[key]:.3f}" for key in ("apgr", "cpt50", "auc", "ece")]
    table.add_row(f"with drafts  [{low:.3f}, {high:.3f}]", *cells, style="bold")


def _certified(cell: dict[str, float]) -> str:
    most, share = cell["delta"] + 2 * cell["se"], cell["cheap_share"]
    return (
        f"n = {cell['n']:,}, α = {cell['alpha']:g}: {cell['violation_share']:.1%} of certificates violated "
        f"(at most {most:.1%}), {share:.0%} cheap of {cell['best_share']:.0%} at best"
    )


def _bundle(
    loaded: Bundle,
    table: Outcomes,
    seed: int,
    held_out: float,
    redrawn: int,
    out: Path | None,
    title: str,
    note: str,
) -> None:
    from headgate.router.offline import datasets, evaluate, report

    if held_out:
        table = datasets.split(table, seed, [1 - held_out, held_out])[1]
    with console.status(f"measuring on {len(table):,} queries"):
        page = report.page(title, loaded, evaluate.evaluate(loaded, table, seed, redrawn), seed, note)
    if out is None:
        print(page, end="")
        return
    data.write(out, page.encode())
    console.print(f"wrote {out}")
