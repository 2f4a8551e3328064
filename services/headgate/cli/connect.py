"""How `ask` and `route` find a gateway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from headgate.cli.state import CommandError, State
from headgate.client import Client, Unavailable

AddressOption = Annotated[
    str | None,
    typer.Option(envvar="HEADGATE_ADDRESS", help="The gateway, host:port; else the config's gateway.listen."),
]
KeyOption = Annotated[
    str, typer.Option(envvar="HEADGATE_KEY", help="API key id.secret; better given by the variable.")
]
RootOption = Annotated[
    Path | None,
    typer.Option(envvar="HEADGATE_ROOT_CERTIFICATE", help="PEM file to trust; the connection is TLS then."),
]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Seconds until the call gives up.")]


@contextmanager
def connected(
    state: State, address: str | None, key: str, root: Path | None, timeout_s: float
) -> Iterator[Client]:
    """A client; that nobody answers becomes a sentence that says what to do."""
    where = address or state.load().config.gateway.listen
    try:
        with Client(where, key=key, root_certificate=root, timeout_s=timeout_s) as client:
            yield client
    except Unavailable as error:
        if error.reason:
            raise
        raise CommandError(f"no gateway answers at {where}: run `headgate up`, or give --address") from None
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from None
