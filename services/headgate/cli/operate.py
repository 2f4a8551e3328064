"""`headgate status` and `headgate reload`: the operator's calls, to every gateway process of the config."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import grpc
import typer
from google.protobuf.json_format import MessageToJson

from headgate.adapters.config import of_process
from headgate.cli.state import CommandError, State
from headgate.client.errors import HeadgateError, Unavailable, from_call
from headgate.v1 import admin_pb2, admin_pb2_grpc, types_pb2

TIMEOUT_S = 10.0
AdminOption = Annotated[
    list[str] | None,
    typer.Option(help="An admin port, host:port, may be repeated; else those of the config's processes."),
]


def status(
    context: typer.Context,
    admin: AdminOption = None,
    as_object: Annotated[bool, typer.Option("--json", help="One JSON object a line and process.")] = False,
) -> None:
    """Say what each gateway process has loaded and what it lacks.

    [bold]headgate status[/bold]

    [bold]headgate status --admin 127.0.0.1:7072 --json[/bold]
    """
    for address in _addresses(context.obj, admin):
        with _operator(address) as operator:
            answer = operator.GetStatus(admin_pb2.GetStatusRequest(), timeout=TIMEOUT_S)
        print(MessageToJson(answer, indent=None) if as_object else f"{address}: {_in_words(answer)}")


def reload(context: typer.Context, admin: AdminOption = None) -> None:
    """Have every gateway process read its config and its bundle again.

    A process that refuses says why and keeps what it has; the others go on, and the exit code is 1.

    [bold]headgate reload[/bold]
    """
    taken = [_reload(address) for address in _addresses(context.obj, admin)]
    if not all(taken):
        raise typer.Exit(1)


def _reload(address: str) -> bool:
    """Whether both were taken; prints what became of it."""
    try:
        with _operator(address) as operator:
            config = operator.ReloadConfig(admin_pb2.ReloadConfigRequest(), timeout=TIMEOUT_S)
            bundle = operator.ReloadBundle(admin_pb2.ReloadBundleRequest(), timeout=TIMEOUT_S)
    except CommandError as error:
        print(error, file=sys.stderr)
        return False
    except HeadgateError as error:
        print(f"{address}: {error}", file=sys.stderr)
        return False
    print(f"{address}: config {config.config_digest[:12]}, bundle {bundle.bundle_version or 'none'}")
    return True


def _addresses(state: State, given: list[str] | None) -> list[str]:
    if given:
        return given
    gateway = state.load().config.gateway
    if gateway.admin_listen.endswith(":0"):
        raise CommandError("gateway.admin_listen is any free port: say with --admin which one it became")
    return [of_process(number, gateway.admin_listen) for number in range(gateway.processes)]


@contextmanager
def _operator(address: str) -> Iterator[admin_pb2_grpc.AdminServiceStub]:
    """A stub whose failures are the client's errors; that nobody answers is a sentence that helps."""
    with grpc.insecure_channel(address) as channel:
        try:
            yield admin_pb2_grpc.AdminServiceStub(channel)
        except grpc.RpcError as failed:
            error = from_call(failed)
            if isinstance(error, Unavailable) and not error.reason:
                raise CommandError(f"no gateway answers at {address}: is it running here?") from None
            raise error from None


def _in_words(status: admin_pb2.GetStatusResponse) -> str:
    missing = ", ".join(
        types_pb2.Degradation.Name(one).removeprefix("DEGRADATION_") for one in status.degraded
    )
    requests = ", ".join(f"{count} {code}" for code, count in sorted(status.requests.items()))
    lines = [
        f"headgate {status.headgate_version}{', draining' if status.draining else ''}",
        f"  bundle {status.bundle_version or 'none'}, certificate {status.certificate.id or 'none'}",
        f"  missing: {missing or 'nothing'}",
        f"  requests: {requests or 'none yet'}",
    ]
    lines += [f"  warning: {sentence}" for sentence in status.warnings]
    for model in status.models:
        state = "serving" if model.serving else "NOT serving"
        lines.append(f"  {model.model} {state} at {model.worker} ({model.version or 'never reached'})")
    return "\n".join(lines)
