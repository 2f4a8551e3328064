"""`headgate certify`: new certificates for a bundle, and what they say in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from headgate.cli.bundles import data
from headgate.cli.bundles.data import (
    DatasetOption,
    DayOption,
    ExcludeOption,
    LabelOption,
    LedgerOption,
    OutcomesOption,
    PricesOption,
    SinceOption,
    SourceOption,
    TenantOption,
    UntilOption,
    console,
)
from headgate.cli.outcomes import needs
from headgate.cli.state import CommandError
from headgate.cli.words import held_back, percent, promise
from headgate.router.types import WHOLE

if TYPE_CHECKING:
    from headgate.router.offline.certify import Outlook, Statement
    from headgate.router.types import Certificate

_ASSUMED = """\
It assumes that your traffic is like the labelled queries (exchangeable with them), and that a label means
what you mean by a good answer: it is a statement about this label, made by whoever or whatever scored the
answers.
Pinned models, fallbacks after a failure and requests outside the calibrated settings are not covered."""


def certify(
    context: typer.Context,
    bundle: Annotated[Path, typer.Option(help="The bundle to certify.")],
    outcomes: OutcomesOption = None,
    from_ledger: LedgerOption = False,
    tenant: TenantOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the bundle is written; else over the old one.")
    ] = None,
    prices: PricesOption = None,
    source: SourceOption = "",
    dataset: DatasetOption = None,
    label: LabelOption = "score",
    exclude: ExcludeOption = None,
    loss: Annotated[
        Literal["regret", "net"],
        typer.Option(help="regret: answers worse than the reference's; net: quality lost less quality won."),
    ] = "regret",
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="With which all certificates hold together.")
    ] = 0.95,
    window: Annotated[
        int, typer.Option(help="Requests over which it can be checked; 0 for the long run.")
    ] = 300,
    by_slice: Annotated[
        bool, typer.Option("--by-slice", help="Each must hold in every subject of the queries by itself.")
    ] = False,
    created: DayOption = None,
    expires: DayOption = None,
) -> None:
    """Certify a bundle on outcomes that it was not trained on, and say what that proves.

    [bold]headgate certify --bundle team.bundle --outcomes november/ --expires 2027-03-01[/bold]

    One promise for all queries can hide a kind of them that pays for the others. With --by-slice it has to
    hold in every subject (the column `subject`), which takes several times as many labels.
    """
    with (
        data.plain_errors(),
        data.tables(context.obj, outcomes, from_ledger, tenant, since, until) as path,
    ):
        from headgate.router import bundle as bundles
        from headgate.router.offline import certify as offline

        loaded = data.read_bundle(bundle)
        table = data.read(path, source, dataset, list(loaded.models), label, exclude)
        table = data.with_drafts(table, path, source, list(loaded.readers)) if loaded.readers else table
        versions = data.read_prices(prices, path)
        statement = offline.Statement(
            data.instant(created) or data.today(),
            versions,
            loss,
            delta=1 - confidence,
            window=window,
            expires=data.instant(expires),
            by_slice=by_slice,
        )
        found = offline.certificates(loaded, table, statement)
        level = needs.level_for(loaded.default_risk_target)
        more = offline.outlook(loaded, table, statement, level) if loss == "regret" and not by_slice else []
        told(found, loaded.default_risk_target, statement, console)
        foretold(more, level, loaded.policy.reference, console)
        if not found and out is None and loaded.certificates:
            raise CommandError(
                f"these labels support no certificate, so {bundle} keeps those it has; give --out to write a "
                "bundle without any"
            )
        data.write(out or bundle, bundles.dump(replace(loaded.contents, certificates=found)))
    console.print(f"wrote {out or bundle}")


def told(certificates: Sequence[Certificate], risk_target: float, statement: Statement, out: Console) -> None:
    """What was certified, what it means and assumes; what is missing where it is not enough."""
    for one in certificates:
        out.print(f"certified on {one.n:,} queries{_held(one)}: {_said(one)} (up to λ = {one.lam:.4g})")
    if certificates:
        if certificates[0].slices:
            out.print(f"the kinds: {', '.join(certificates[0].slices)}")
        out.print(_ASSUMED)
    usual = [one for one in certificates if one.hold_back == WHOLE]
    if not any(one.risk_target <= risk_target for one in usual):
        out.print(
            f"[bold]No certificate meets the default risk target {percent(risk_target)}[/bold]: everything "
            f"goes to the reference model until one does. {_more(risk_target, statement)}"
        )


def foretold(more: Sequence[Outlook], level: float, reference: str, out: Console) -> None:
    """What more labels would buy."""
    if not more:
        return
    table = Table("queries to certify on", f"answered without {reference}", "cost, always using it = 100 %")
    for one in more:
        table.add_row(f"{one.labels:,}", f"{one.away:.0%}", f"{one.cost:.0%}")
    out.print(
        f"About what more labels would buy at a risk target of {percent(level)}, if they lose as often:"
    )
    out.print(table)


def _held(one: Certificate) -> str:
    """Of which policy it speaks, where the bundle has several."""
    return f", {held_back(one.hold_back)}" if "hold_back" in one.settings else ""


def _said(one: Certificate) -> str:
    return promise(one.loss, one.confidence, one.risk_target, one.window, one.reference, one.slices)


def _more(risk_target: float, statement: Statement) -> str:
    """How many labels a first certificate takes at least."""
    if statement.loss == "net":
        return "More labelled queries that the training has not seen, or no window, may bring one."
    if statement.by_slice:
        return "Every subject needs enough labelled queries of its own: the one with the fewest decides."
    least = needs.to_certify(needs.level_for(risk_target), statement.delta, statement.window)
    return (
        f"Without a single regret it takes {least:,} labelled queries that the training has not seen; "
        "a policy that regrets now and then takes more."
    )
