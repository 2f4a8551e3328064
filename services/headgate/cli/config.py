"""`headgate config`: what is in force, and whether a file is right."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
import yaml

from headgate.adapters.settings import ConfigError, Loaded
from headgate.adapters.strict_yaml import parse
from headgate.cli import checks
from headgate.cli.state import State

app = typer.Typer(help="Show and check the settings.", no_args_is_help=True)


@app.command()
def show(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Defaults too.")] = False,
) -> None:
    """Print the settings in force as YAML; secrets appear only as the references that the file has.

    [bold]headgate config show --all[/bold]

    [bold]HEADGATE_GATEWAY__LISTEN=127.0.0.1:7170 headgate config show[/bold]
    """
    state: State = context.obj
    loaded = state.load()
    print(f"# from {loaded.path or 'the built-in default'}, then HEADGATE_* variables")
    data = loaded.config.model_dump(mode="json", exclude_unset=not everything)
    print(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), end="")


@app.command()
def validate(context: typer.Context) -> None:
    """Check the settings; every problem is one line with file, line and key, and the exit code is 1.

    The backends must be installed and the bundle must load; what a worker elsewhere may have only warns, and
    so does a setting that has no effect.

    [bold]headgate --config deploy/config/headgate.yaml config validate[/bold]
    """
    state: State = context.obj
    try:
        loaded = state.load()
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        raise typer.Exit(1) from None
    missing = [*checks.missing(loaded.config), *checks.idle(loaded.config)]
    for one in missing:
        warning = "" if one.fatal else "warning: "
        print(f"{warning}{_place(loaded, one.path)}: {one.sentence}", file=sys.stderr)
    if any(one.fatal for one in missing):
        raise typer.Exit(1)
    print(f"{loaded.path or 'the built-in default'} is valid")


def _place(loaded: Loaded, path: Sequence[str]) -> str:
    """File, line and key; the key alone where the file does not hold it."""
    document, key = parse(loaded.text), ".".join(path)
    here: object = document.data
    for step in path:
        here = here.get(step) if isinstance(here, dict) else None
    return key if here is None or loaded.path is None else f"{loaded.path}:{document.line_of(path)}: {key}"
