"""How `ask` and `route` find a gateway."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Annotated

import typer

from headgate.cli.state import CommandError, State
from headgate.client import Client, DeadlineExceeded, Unauthenticated, Unavailable
from headgate.client.channel import MAX_TIMEOUT_S

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
RequireOption = Annotated[
    list[str] | None,
    typer.Option(
        "--require", help="A capability that the answering model must have, such as vision; may repeat."
    ),
]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Seconds until the call gives up.")]


# What gRPC says where no connection came to be; everything else was said by somebody at the other end.
_NOBODY = re.compile(r"connections to all backends failing|failed to connect|errors resolving|DNS resolution")
_LATE_S = 0.1
"""A call that ends this close to its timeout ended because of it."""


def worded(question: str) -> str:
    """The question without the space around it."""
    if not question.strip():
        raise CommandError("the question is empty")
    return question.strip()


@contextmanager
def connected(
    state: State, address: str | None, key: str, root: Path | None, timeout_s: float
) -> Iterator[Client]:
    """A client; what the options have to do with a failure becomes a sentence that names them."""
    where = address or state.load().config.gateway.listen
    _check(root, timeout_s)
    began = monotonic()
    try:
        # Health is not watched: a gateway that can answer nothing shall say why.
        with Client(where, key=key, root_certificate=root, timeout_s=timeout_s, watch_health=False) as client:
            yield client
    except Unavailable as error:
        if error.reason or not _NOBODY.match(str(error)):
            raise
        raise CommandError(f"no gateway answers at {where}: run `headgate up`, or give --address") from None
    except DeadlineExceeded:
        if monotonic() - began < timeout_s - _LATE_S:
            raise
        raise CommandError(f"no whole answer within {timeout_s:g} s: give a longer --timeout") from None
    except Unauthenticated as error:
        if error.reason != "KEY_MISSING":
            raise
        raise CommandError("the gateway wants a key: give --key, or set HEADGATE_KEY") from None
    except ValueError as error:
        raise CommandError(str(error)) from None


def _check(root: Path | None, timeout_s: float) -> None:
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise CommandError(f"--timeout must be above 0 and at most {MAX_TIMEOUT_S:g} seconds")
    try:
        if root is not None:
            root.read_bytes()
    except OSError as error:
        raise CommandError(f"--root-certificate: {root} cannot be read: {error.strerror}") from None
