"""`headgate train`: from outcomes to a bundle with certificates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from headgate.cli.bundles import data
from headgate.cli.bundles.certify import foretold, told
from headgate.cli.bundles.data import (
    DatasetOption,
    DayOption,
    DraftsOption,
    ExcludeOption,
    LabelOption,
    LedgerOption,
    ModelOption,
    OutcomesOption,
    PricesOption,
    SeedOption,
    SinceOption,
    SourceOption,
    TenantOption,
    UntilOption,
    console,
)
from headgate.cli.outcomes import needs
from headgate.cli.state import CommandError

if TYPE_CHECKING:
    from headgate.router.offline.build import Sharing


def train(
    context: typer.Context,
    reference: Annotated[str, typer.Option(help="The model that regret compares with.")],
    out: Annotated[Path, typer.Option(help="Where the bundle is written.")],
    outcomes: OutcomesOption = None,
    from_ledger: LedgerOption = False,
    tenant: TenantOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    prices: PricesOption = None,
    source: SourceOption = "",
    dataset: DatasetOption = None,
    model: ModelOption = None,
    label: LabelOption = "score",
    exclude: ExcludeOption = None,
    with_drafts: DraftsOption = False,
    hold_back: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            max=32_767,
            help="With drafts: also certify holding them back for so many tokens only. Repeatable.",
        ),
    ] = None,
    seed: SeedOption = 0,
    risk_target: Annotated[float, typer.Option(help="The bundle's default risk target.")] = 0.05,
    window: Annotated[int, typer.Option(help="Requests over which a certificate can be checked.")] = 300,
    certify_share: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the queries kept for certificates.")
    ] = 0.3,
    held_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share left for `evaluate` with the same seed.")
    ] = 0.0,
    calibrator: Annotated[
        Literal["temperature", "platt", "beta"], typer.Option(help="Map from scores to p_correct.")
    ] = "beta",
    difficulty: Annotated[
        str, typer.Option(help="What is known beforehand: shipped, none, or a file of `headgate pretrain`.")
    ] = "shipped",
    answer_tokens: Annotated[float, typer.Option(help="Length of an answer where the data has none.")] = 256,
    created: DayOption = None,
    expires: DayOption = None,
) -> None:
    """Train, calibrate and certify a routing bundle on your outcomes.

    [bold]headgate train --outcomes team/ --reference large --out team.bundle[/bold]

    [bold]headgate train --from-ledger --reference large --out team.bundle[/bold]

    Torch is not needed: every fit is convex, a few thousand queries take seconds.
    """
    with (
        data.plain_errors(),
        data.tables(context.obj, outcomes, from_ledger, tenant, since, until) as path,
    ):
        from headgate.router import bundle as bundles
        from headgate.router.offline import build, certify, datasets
        from headgate.router.offline.train import Recipe

        if hold_back and not with_drafts:
            raise CommandError("--hold-back: there are no drafts to hold back; add --with-drafts")
        table = data.read(path, source, dataset, model, label, exclude)
        if with_drafts:
            drafting = [name for name in table.models if name != reference]
            table = data.with_drafts(table, path, source, drafting)
        listed = data.read_prices(prices, path)
        kept = 1 - held_out
        fitted, threshold, _ = datasets.split(
            table, seed, [kept * (1 - certify_share), kept * certify_share, held_out]
        )
        console.print(f"{len(fitted):,} queries to train and calibrate, {len(threshold):,} to certify")
        plan = build.Plan(
            reference,
            listed,
            Recipe(seed=seed, default_answer_tokens=answer_tokens),
            calibrator,
            risk_target,
            tuple(hold_back or ()),
        )
        with console.status("training") as status:
            contents = build.build(fitted, plan, _shared(difficulty), status.update)
            statement = certify.Statement(
                data.instant(created) or data.today(), listed, window=window, expires=data.instant(expires)
            )
            level = needs.level_for(risk_target)
            more = []
            if len(threshold):
                fresh = build.loaded(contents)
                contents = replace(contents, certificates=certify.certificates(fresh, threshold, statement))
                more = certify.outlook(fresh, threshold, statement, level)
        packed = bundles.dump(contents)
        data.write(out, packed)
        told(contents.certificates, risk_target, statement, console)
        foretold(more, level, reference, console)
        console.print(f"wrote {out} ({len(packed):,} bytes), version {bundles.load(packed).version}")


def _shared(difficulty: str) -> Sharing:
    from headgate.router.offline import difficulty as difficulties

    if difficulty == "none":
        return lambda *_: None
    if difficulty == "shipped":
        known = difficulties.shipped()
    else:
        path = Path(difficulty)
        if not path.is_file():
            raise CommandError(f"--difficulty: there is no file {path}; say shipped, none, or a file")
        known = difficulties.load(path.read_bytes())
    return lambda *_: known
