"""The commands: status, score, export, forget."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from headgate.adapters.config import Config, ScorerConfig
from headgate.cli.connect import AddressOption, KeyOption, RootOption, TimeoutOption, connected
from headgate.cli.outcomes import folder, labels, needs, scorers, source
from headgate.cli.outcomes import score as scoring
from headgate.cli.state import CommandError, State
from headgate.cli.words import percent
from headgate.client import Client

WITHOUT_TARGET = 0.05
"""Aimed at where the config names no risk target: the built-in bundle's."""
DAY = ["%Y-%m-%d"]
app = typer.Typer(help="Look at, score and export what shadow sampling kept.", no_args_is_help=True)
TenantOption = Annotated[
    list[str] | None, typer.Option("--tenant", help="Whose samples; may be repeated. Else the only tenant's.")
]
RedisOption = Annotated[
    str | None, typer.Option("--redis-url", help="Where the samples are; else the config's redis.url.")
]


@app.command()
def status(
    context: typer.Context,
    tenant: TenantOption = None,
    redis_url: RedisOption = None,
    as_object: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Say how many labels there are, what they cost, and how many a first certificate still takes.

    [bold]headgate outcomes status[/bold]
    """
    from headgate.cli.outcomes import report

    state: State = context.obj
    loaded = state.load()
    config, day = loaded.config, datetime.now(UTC).date().isoformat()
    with source.opened(loaded, state.environ, redis_url) as ask:
        found = source.found(ask, tenant or ())
        spent = ask(lambda reader: reader.spent(found.tenants, day))
    told = report.status(found, labels.label(found), spent, config.shadow.budget_nanousd, _target(config))
    print(json.dumps(report.as_json(told)) if as_object else report.in_words(told))


@app.command()
def score(
    context: typer.Context,
    tenant: TenantOption = None,
    limit: Annotated[int, typer.Option(min=0, help="Score so many samples at most; 0: all.")] = 0,
    again: Annotated[bool, typer.Option("--again", help="Also those that have a quality already.")] = False,
    redis_url: RedisOption = None,
    address: AddressOption = None,
    key: KeyOption = "",
    root_certificate: RootOption = None,
    timeout_s: TimeoutOption = 60.0,
) -> None:
    """Have the config's shadow.scorer say how good sampled answers are; the latest word counts.

    A judge is asked through the gateway, by --address and --key, and charged to that key's tenant.

    [bold]headgate outcomes score[/bold]

    [bold]headgate outcomes score --tenant search --limit 20[/bold]
    """
    state: State = context.obj
    loaded = state.load()
    config = _scorer(loaded.config)
    with (
        source.opened(loaded, state.environ, redis_url) as ask,
        connected(state, address, key, root_certificate, timeout_s) as client,
        Progress(*Progress.get_default_columns(), console=Console(stderr=True), transient=True) as progress,
    ):
        todo = scoring.waiting(source.found(ask, tenant or ()), again=again)[: limit or None]
        scorer = scorers.build(config, _judge(client, config.model), state.environ.get("PATH"))
        scored = progress.add_task("scoring", total=len(todo))
        done = scoring.run(
            scorer,
            todo,
            lambda scores: ask(lambda reader: reader.append(scores)),
            lambda: progress.advance(scored),
        )
    print(f"{done.scored:,} samples scored, {done.without_verdict:,} without a verdict", file=sys.stderr)


@app.command()
def export(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="The folder for queries.csv, outcomes.csv and prices.csv.")],
    since: Annotated[
        datetime | None, typer.Option(formats=DAY, help="Only requests answered on this day (UTC) or later.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=DAY, help="Only requests answered before this day (UTC).")
    ] = None,
    tenant: TenantOption = None,
    redis_url: RedisOption = None,
) -> None:
    """Write the labelled samples as the tables that training reads. They hold what tenants asked.

    A bundle is certified on queries that it was not trained on, such as those --since the training.

    [bold]headgate outcomes export --out labels[/bold]

    [bold]headgate outcomes export --out december --since 2026-12-01[/bold]
    """
    state: State = context.obj
    loaded = state.load()
    labelled = source.labelled(
        loaded, state.environ, tenant or (), redis_url, _instant(since, 0.0), _instant(until, inf)
    )
    for reason, count in sorted(labelled.left_out.items()):
        print(f"left out {count:,}: {reason}", file=sys.stderr)
    written = folder.write(labelled, out)
    print(f"{len(labelled.rows):,} labelled queries in {written.queries.parent}", file=sys.stderr)
    target = _target(loaded.config)
    least = needs.to_collect(needs.level_for(target))
    print(
        f"a certificate for a risk target of {percent(target)} takes {least:,} at least, and several times "
        f"as many to save much; next: headgate train --outcomes {out} --reference MODEL "
        f"--risk-target {target:g} --out FILE",
        file=sys.stderr,
    )


@app.command()
def forget(
    context: typer.Context,
    tenant: Annotated[str, typer.Option(help="Whose texts.")],
    redis_url: RedisOption = None,
) -> None:
    """Delete what is kept of a tenant's queries and answers, now; what was exported is elsewhere.

    [bold]headgate outcomes forget --tenant search[/bold]
    """
    state: State = context.obj
    with source.opened(state.load(), state.environ, redis_url) as ask:
        count = ask(lambda reader: reader.forget(_name(tenant)))
    print(f"the texts of {count:,} samples are deleted", file=sys.stderr)


def _name(tenant: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9._-]+", tenant) is None:
        raise CommandError("a tenant's name is letters, digits, dots, dashes or underscores")
    return tenant


def _instant(day: datetime | None, otherwise: float) -> float:
    return otherwise if day is None else day.replace(tzinfo=UTC).timestamp()


def _target(config: Config) -> float:
    return config.policy.risk_target or WITHOUT_TARGET


def _scorer(config: Config) -> ScorerConfig:
    if config.shadow.scorer is None:
        raise CommandError("who scores? Set shadow.scorer, such as {kind: judge, model: large}")
    return config.shadow.scorer


def _judge(client: Client, model: str | None) -> scorers.Ask:
    """Asks that model, pinned: a judge's own requests are neither routed nor sampled."""
    return lambda prompt: client.generate(prompt, model=model or "").text
