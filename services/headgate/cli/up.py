"""`headgate up`: the local stack in the foreground."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sys
from collections.abc import Mapping
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from headgate.adapters.settings import Loaded
from headgate.cli import checks
from headgate.cli.state import State
from headgate.client.channel import DEFAULT_ADDRESS
from headgate.local.child import Say, StartError
from headgate.local.interrupt import interruptible
from headgate.local.lines import readable
from headgate.local.supervisor import WORKER_PORT, Stack

_COLOURS = ("cyan", "magenta", "yellow", "green", "blue")


def up(
    context: typer.Context,
    listen: Annotated[
        str | None, typer.Option(help="Where the gateway listens, host:port; port 0: any.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No logs, only what starts and stops.")] = False,
) -> None:
    """Start a private Valkey, the workers and the gateway on this machine; Ctrl-C stops them.

    [bold]headgate up[/bold]

    [bold]headgate --config headgate.yaml up --listen 127.0.0.1:7170[/bold]
    """
    state: State = context.obj
    loaded = state.load({} if listen is None else {"gateway.listen": listen})
    checks.secrets(loaded.config, state.environ)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    stack = Stack(loaded, state.environ, _sayer(console, loaded, quiet), worker_port=WORKER_PORT)
    folder = _folder(sys.argv[0], state.environ)
    asyncio.run(interruptible(_serve(stack, console, folder), stack.kill))
    console.print("stopped")


async def _serve(stack: Stack, console: Console, folder: str) -> None:
    async with stack:
        where = stack.addresses
        console.print(f"[bold green]headgate is up[/]: gRPC [bold]{where['listen']}[/], {_own(where)}")
        for number, other in enumerate(stack.gateways[1:], 1):
            console.print(f"gateway-{number} shares it: {_own(other)}")
        for name, metrics in stack.others.items():
            console.print(f"{name}: metrics http://{metrics}/metrics")
        flag = "" if where["listen"] == DEFAULT_ADDRESS else f"--address {where['listen']} "
        console.print(f'try: {folder}headgate ask {flag}"4711 in words"    stop: Ctrl-C', markup=False)
        await stack.lost()
        raise StartError("the guard process ended, so the stack was stopped; start it again")


def _folder(called: str, environ: Mapping[str, str]) -> str:
    """What stood before `headgate` when it was called by its path; empty when it was not."""
    folder = called.removesuffix("headgate")
    if not folder.endswith("/") or called == shutil.which("headgate", path=environ.get("PATH")):
        return ""
    return shlex.quote(folder)


def _own(where: Mapping[str, str]) -> str:
    return f"admin {where.get('admin')}, metrics http://{where.get('metrics')}/metrics"


def _sayer(console: Console, loaded: Loaded, quiet: bool) -> Say:
    """Prints log lines with the process's name in its colour."""
    jobs = ["reconciler", "runner"] if loaded.config.jobs.enabled else []
    names = ["valkey", *loaded.config.pool, "gateway", *jobs]
    width = max(map(len, names)) + 2

    def say(name: str, line: str) -> None:
        text = readable(line)
        if text and not quiet:
            colour = _COLOURS[names.index(name) % len(_COLOURS)] if name in names else "green"
            console.print(Text(f"{name:<{width}}", style=colour) + Text(f"│ {text}"))

    return say
