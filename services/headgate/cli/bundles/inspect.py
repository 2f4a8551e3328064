"""`headgate bundle`: what is in a bundle, and what differs between two."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from headgate.cli.bundles import data
from headgate.cli.words import percent

if TYPE_CHECKING:
    from headgate.router.bundle import Bundle

app = typer.Typer(no_args_is_help=True, help="Look into a routing bundle, or compare two.")

_BULKY = ("grid", "usage", "parts")
"""Hundreds of numbers each, that nobody reads."""


@app.command("inspect")
def inspect(
    path: Annotated[Path, typer.Argument(help="The bundle.")],
    as_object: Annotated[bool, typer.Option("--json", help="The whole manifest as JSON.")] = False,
) -> None:
    """Check a bundle as a gateway would, and show what it says of itself."""
    with data.plain_errors():
        loaded = data.read_bundle(path)
    if as_object:
        print(json.dumps({"version": loaded.version, **loaded.manifest}, indent=2))
        return
    _shown(loaded, Console(highlight=False))


def _shown(loaded: Bundle, out: Console) -> None:
    out.print(
        f"bundle {loaded.version}, policy {loaded.policy_version}: checksum and golden vectors are right"
    )
    out.print(
        f"reference {loaded.policy.reference}, default risk target {percent(loaded.default_risk_target)}"
    )
    models = Table("model", "calibrator", "$ per M input", "$ per M output", "tokens of an answer")
    for name, line, cost in zip(loaded.models, loaded.contents.calibrators, loaded.costs.models, strict=True):
        prices = (cost.price.input_nanousd, cost.price.output_nanousd)
        shown = (f"{price / 1e9:g}" for price in prices)
        models.add_row(name, line.kind, *shown, f"{cost.mean_completion:.0f}")
    out.print(models)
    certificates = Table("certificate", "risk target", "confidence", "λ", "n", "window", "expires")
    every = loaded.contents.certificates
    for one in every:
        expires = "never" if one.expires is None else f"{one.expires:.0f}"
        window = f"{one.window:,}" if one.window else "long run"
        held = percent(one.risk_target), percent(one.confidence), f"{one.lam:.4g}", f"{one.n:,}"
        certificates.add_row(one.id, *held, window, expires)
    out.print(certificates if every else "no certificate: everything goes to the reference")
    out.print("notes: " + json.dumps(loaded.contents.notes))


@app.command("diff")
def diff(
    before: Annotated[Path, typer.Argument(help="The old bundle.")],
    after: Annotated[Path, typer.Argument(help="The new bundle.")],
) -> None:
    """Say what differs between two bundles; exit code 1 if anything does."""
    with data.plain_errors():
        old, new = (data.read_bundle(path) for path in (before, after))
    if old.version == new.version:
        print(f"the same bundle, {old.version}")
        return
    print(f"{old.version} → {new.version}")
    was, now = (dict(_flat(one.manifest)) for one in (old, new))
    for key in sorted(was.keys() | now.keys()):
        if was.get(key) != now.get(key):
            print(f"{key}: {was.get(key, '–')} → {now.get(key, '–')}")
    raise typer.Exit(1)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf of the manifest with its path; of what is bulky only whether it differs."""
    named: Mapping[str, Any]
    if isinstance(value, Mapping):
        named = value
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        named = {str(one.get("name") or one.get("id") or place): one for place, one in enumerate(value)}
    else:
        shown = json.dumps(value)
        yield path, f"#{hash(shown) & 0xFFFF:04x}" if path.rpartition(".")[2] in _BULKY else shown
        return
    for key, inner in named.items():
        yield from _flat(inner, f"{path}.{key}" if path else key)
