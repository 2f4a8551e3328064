"""`headgate route`: the decision alone."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from headgate.cli.connect import (
    AddressOption,
    KeyOption,
    RequireOption,
    RootOption,
    TimeoutOption,
    connected,
    worded,
)
from headgate.cli.state import State
from headgate.cli.words import as_json, certificate, dollars
from headgate.client import Decision
from headgate.client.types import Options

_UNREAD = (
    "The certificate covers answers whose draft was read; here none is written. Ask to see what comes of it."
)


def route(
    context: typer.Context,
    question: Annotated[str, typer.Argument(help="The question.")],
    explain: Annotated[
        bool, typer.Option("--explain", help="Show every model, the reason and the certificate.")
    ] = False,
    risk_target: Annotated[
        float | None, typer.Option(help="Share of requests that may lose quality.")
    ] = None,
    require: RequireOption = None,
    as_object: Annotated[bool, typer.Option("--json", help="The decision as one JSON object.")] = False,
    address: AddressOption = None,
    key: KeyOption = "",
    root_certificate: RootOption = None,
    timeout_s: TimeoutOption = 10.0,
) -> None:
    """Say which model would answer; no model is called, nothing is spent.

    [bold]headgate route "4711 in words"[/bold]

    [bold]headgate route "Reverse stressed" --explain[/bold]
    """
    state: State = context.obj
    text = worded(question)
    options: Options = {"required_capabilities": require or ()}
    if risk_target is not None:
        options["risk_target"] = risk_target
    with connected(state, address, key, root_certificate, timeout_s) as client:
        decision = client.route(text, **options)
    if as_object:
        print(json.dumps(as_json(decision)))
    elif explain:
        _explain(decision, Console())
    else:
        print(decision.model)


def _explain(decision: Decision, console: Console) -> None:
    console.print(_table(decision))
    console.print(decision.explanation, highlight=False, markup=False)
    unread = decision.reason == "policy" and decision.certificate is None
    console.print(_UNREAD if unread else certificate(decision.certificate), highlight=False, markup=False)


def _table(decision: Decision) -> Table:
    table = Table("model", "p_correct", "expected cost", "")
    for one in decision.estimates:
        sure = "–" if one.p_correct is None else f"{one.p_correct:.3f} ± {one.spread or 0:.3f}"
        note = (
            f"← {decision.reason.replace('_', ' ')}" if one.model == decision.model else one.excluded_because
        )
        style = "bold" if one.model == decision.model else None
        table.add_row(one.model, sure, dollars(one.expected_cost_nanousd), note, style=style)
    return table
