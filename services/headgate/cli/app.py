"""The commands, and the one place where an error becomes a sentence and an exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from headgate.adapters.settings import ConfigError
from headgate.cli import ask, config, demo, doctor, jobs, keys, operate, outcomes, route, up
from headgate.cli.bundles import certify, evaluate, inspect, pretrain, train
from headgate.cli.state import CommandError, State
from headgate.client import HeadgateError
from headgate.local.child import StartError
from headgate.local.ports import PortInUseError
from headgate.local.valkey import ValkeyMissingError

INTERRUPTED = 130
_EXPECTED = (CommandError, ConfigError, HeadgateError, PortInUseError, StartError, ValkeyMissingError)
_EPILOG = """
First steps:

  headgate demo                          what routing saves, in a minute

  headgate up                            start everything on this machine

  headgate ask "4711 in words"           an answer; the small model gives it

  headgate ask "Reverse stressed"        the large model gives this one

  headgate ask --watch "Sort up: 27 20 38 68"    where its draft was doubted

  headgate route "Reverse stressed" --explain
"""

app = typer.Typer(
    name="headgate",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog=_EPILOG,
)
app.command("up")(up.up)
app.command("demo")(demo.demo)
app.command("ask")(ask.ask)
app.command("route")(route.route)
app.command("status")(operate.status)
app.command("reload")(operate.reload)
app.command("purge")(operate.purge)
app.command("doctor")(doctor.doctor)
app.command("train")(train.train)
app.command("pretrain")(pretrain.pretrain)
app.command("certify")(certify.certify)
app.command("evaluate")(evaluate.evaluate)
app.add_typer(inspect.app, name="bundle")
app.add_typer(config.app, name="config")
app.add_typer(jobs.app, name="jobs")
app.add_typer(keys.app, name="keys")
app.add_typer(outcomes.app, name="outcomes")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headgate {version('headgate')}")
        raise typer.Exit


@app.callback()
def headgate(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="The config file; else HEADGATE_CONFIG, else ./headgate.yaml.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the release.")
    ] = False,
) -> None:
    """The gateway that sends each query to the cheapest model that will do, and proves what that costs."""
    state: State = context.obj
    state.config, state.debug = config, debug


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs one command line; the exit code."""
    state = State(environ)
    try:
        result = typer.main.get_command(app).main(
            list(arguments), prog_name="headgate", standalone_mode=False, obj=state
        )
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        return 1
    except Exception as error:
        # Wrong usage shows itself; its class is click's or typer's own, by release.
        show = getattr(error, "show", None)
        if show is None:
            return _failed(error, state)
        show()
        return 2
    return result if isinstance(result, int) else 0


def _failed(error: Exception, state: State) -> int:
    if state.debug:
        traceback.print_exception(error)
    elif isinstance(error, _EXPECTED):
        print(f"headgate: {error}", file=sys.stderr)
    else:
        print(
            f"headgate: unexpected {type(error).__name__}; `headgate --debug …` shows where", file=sys.stderr
        )
    return 1
