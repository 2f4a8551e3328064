"""`headgate keys`: API keys, of which the config only ever sees an HMAC."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sys
from typing import Annotated

import typer

from headgate.adapters.settings import resolve_secret
from headgate.cli.state import CommandError, State

# Without dots: the first one in `id.secret` ends the id.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# Below 128 bits it could be guessed.
_SHORT_PEPPER_BYTES = 16

app = typer.Typer(help="Make API keys.", no_args_is_help=True)


@app.callback()
def keys() -> None:
    """Make API keys."""


@app.command()
def new(
    context: typer.Context,
    key_id: Annotated[str, typer.Option("--id", help="The key's name, the part before the dot.")] = "",
    pepper: Annotated[
        str,
        typer.Option(help="Where the pepper is: env:NAME or file:PATH; else the config's gateway.pepper."),
    ] = "",
) -> None:
    """Make a key: it is shown once, on stdout; the line for the config goes to stderr.

    [bold]export HEADGATE_PEPPER=$(openssl rand -hex 32)[/bold]

    [bold]headgate keys new --id web --pepper env:HEADGATE_PEPPER[/bold]
    """
    state: State = context.obj
    reference = pepper or state.load().config.gateway.pepper
    if reference is None:
        raise CommandError("which pepper? Give --pepper env:NAME, or set gateway.pepper in the config")
    name = key_id or f"key-{secrets.token_hex(4)}"
    if _ID.fullmatch(name) is None:
        raise CommandError("a key's id is 1 to 64 letters, digits, dashes or underscores")
    secret, mixed_in = secrets.token_urlsafe(32), resolve_secret(reference, state.environ).encode()
    digest = hmac.new(mixed_in, secret.encode(), hashlib.sha256)
    if len(mixed_in) < _SHORT_PEPPER_BYTES:
        print(
            f"warning: the pepper has less than {_SHORT_PEPPER_BYTES} bytes; "
            "make one with `openssl rand -hex 32`, then this key anew",
            file=sys.stderr,
        )
    print("Give this to the caller; it is not shown again:", file=sys.stderr, flush=True)
    print(f"{name}.{secret}", flush=True)
    print("Put this under tenants.<tenant>.keys in the config:", file=sys.stderr)
    print(f"  - {{id: {name}, hmac_sha256: {digest.hexdigest()}}}", file=sys.stderr)
