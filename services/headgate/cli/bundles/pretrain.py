"""`headgate pretrain`: what many models' outcomes say of a text, so that a new pair needs few labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headgate.cli.bundles import data
from headgate.cli.bundles.data import SeedOption, console
from headgate.cli.state import CommandError

_FOLDS = 5


def pretrain(
    outcomes: Annotated[Path, typer.Option(help="A folder with SOURCE.queries.csv and SOURCE.outcomes.csv.")],
    out: Annotated[Path, typer.Option(help="Where the difficulty is written.")],
    leave_out: Annotated[
        list[str] | None, typer.Option("--leave-out", help="Not this source; may be repeated.")
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Learn from many models how hard a text is; `headgate train --difficulty FILE` starts from there.

    [bold]headgate pretrain --outcomes benchmarks/ --out benchmarks.npz[/bold]

    Each source should have the outcomes of several models, the more the better: how their quality follows
    from a text is the prior of a new model's. No text is kept.
    """
    with data.plain_errors():
        from headgate.router.offline import difficulty

        with console.status("reading"):
            known = difficulty.known(outcomes, (), seed, _FOLDS, leave_out or ())
        if not known.benchmarks:
            raise CommandError(f"{outcomes} has no source that some model answered throughout")
        with console.status("fitting"):
            packed = difficulty.dump(known.fit())
        data.write(out, packed)
    for table in known.benchmarks:
        console.print(f"{len(table):,} queries answered by {len(table.models)} models")
    console.print(f"wrote {out} ({len(packed):,} bytes)")
