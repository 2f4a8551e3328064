"""The command and its options."""

from __future__ import annotations

from typing import Annotated

import typer

MOST_QUERIES = 10_000


def demo(
    context: typer.Context,
    queries: Annotated[int, typer.Option(min=1, max=MOST_QUERIES, help="How many fresh worksheets.")] = 300,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Repeats the same worksheets; else drawn anew.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Calls at the same time.")] = 8,
    jobs: Annotated[
        bool, typer.Option("--jobs", help="Also queue them as jobs, and kill a runner midway.")
    ] = False,
    as_object: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Start everything on free ports, route fresh worksheets, and print what it saved and what it cost.

    Each worksheet is answered by every model and under three policies: routing only, by the query alone; a
    cascade, which reads the cheaper model's draft before it delivers it; and the default, which also stops
    drafts that are not worth their end.

    [bold]headgate demo[/bold]

    [bold]headgate demo --queries 1000 --seed 7 --json > demo.json[/bold]

    [bold]headgate demo --jobs[/bold]
    """
    # Numbers and a stack are slow to import, and every other command would wait for them.
    from headgate.cli.demo.run import run

    run(context.obj, queries, seed, concurrency, jobs, as_object)
