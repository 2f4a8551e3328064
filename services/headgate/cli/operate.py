"""`headgate status`, `reload` and `purge`: the operator's calls, to the gateway processes of the config."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated

import grpc
import typer
from google.protobuf.json_format import MessageToJson

from headgate.adapters.channels import NO_PROXY
from headgate.adapters.config import of_process
from headgate.cli.state import CommandError, State
from headgate.client.errors import HeadgateError, NotServed, Unauthenticated, Unavailable, from_call
from headgate.v1 import admin_pb2, admin_pb2_grpc, types_pb2

TIMEOUT_S = 10.0
HEARD_S = 5
"""After so long a process that has not heard of an order gives nothing from memory."""
PURGE_S = 600.0
"""A large key space takes minutes; the order itself is in force at once."""


_WHERE = re.compile(r"\S+:\d{1,5}")


class NobodyError(CommandError):
    """No process answers."""

    def __init__(self, where: str) -> None:
        super().__init__(f"no gateway answers at {where}: is it running here?")


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
        with _operator(context.obj, address) as operator:
            answer = operator.GetStatus(admin_pb2.GetStatusRequest(), timeout=TIMEOUT_S)
        print(MessageToJson(answer, indent=None) if as_object else f"{address}: {_in_words(answer)}")


def reload(context: typer.Context, admin: AdminOption = None) -> None:
    """Have every gateway process read its config and its bundle again.

    A process that refuses says why and keeps what it has; the others go on, and the exit code is 1.

    [bold]headgate reload[/bold]
    """
    taken = [_reload(context.obj, address) for address in _addresses(context.obj, admin)]
    if not all(taken):
        raise typer.Exit(1)


def purge(
    context: typer.Context,
    tenant: Annotated[
        str | None, typer.Option(help="Those of this tenant only; without keys that is `open`.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Those of this model only.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="Those that a query gave this tag only; repeated: or that one.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that are kept.")] = False,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Though the config has no such tenant or model (any more).")
    ] = False,
    admin: AdminOption = None,
) -> None:
    """Take answers out of the answer cache, for all gateway processes on the same Redis.

    Those go to which all that is given applies; new ones are made as they are asked for. The first process
    that answers takes the order for all.

    [bold]headgate purge --tenant acme --tag prices[/bold]

    [bold]headgate purge --all[/bold]
    """
    given = [one for one in (tenant, model, *(tag or ())) if one is not None]
    if everything == bool(given):
        raise CommandError("say which answers: --tenant, --model, --tag or several of them; or --all")
    if not all(given):
        # A variable that is not set must not make an order wider.
        raise CommandError("--tenant, --model or --tag is empty: leave it out, or say which")
    addresses = _addresses(context.obj, admin)
    removed = 0
    for one in dict.fromkeys(tag or [""]):
        request = admin_pb2.PurgeCacheRequest(
            tenant=tenant or "", model=model or "", tag=one, unknown=unknown
        )
        removed += _purge(context.obj, addresses, request)
    answers = "answer" if removed == 1 else "answers"
    print(f"{removed} {answers} purged from Redis; other processes stop giving theirs within {HEARD_S} s")


def _purge(state: State, addresses: Sequence[str], request: admin_pb2.PurgeCacheRequest) -> int:
    """What the first process that answers says; that it refuses is an answer."""
    for address in addresses:
        with suppress(NobodyError), _operator(state, address) as operator:
            return operator.PurgeCache(request, timeout=PURGE_S).removed
    raise NobodyError(", ".join(addresses))


def _reload(state: State, address: str) -> bool:
    """Whether both were taken; prints what became of it."""
    try:
        with _operator(state, address) as operator:
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
    for address in given or ():
        if not _WHERE.fullmatch(address):
            raise CommandError(f"--admin {address}: write host:port, such as 127.0.0.1:7072")
    if given:
        return given
    gateway = state.load().config.gateway
    if gateway.admin_listen.endswith(":0"):
        raise CommandError("gateway.admin_listen is any free port: say with --admin which one it became")
    return [of_process(number, gateway.admin_listen) for number in range(gateway.processes)]


@contextmanager
def _operator(state: State, address: str) -> Iterator[admin_pb2_grpc.AdminServiceStub]:
    """A stub whose failures are the client's errors, or a sentence that helps to find the right port."""
    with grpc.insecure_channel(address, options=[NO_PROXY]) as channel:
        try:
            yield admin_pb2_grpc.AdminServiceStub(channel)
        except grpc.RpcError as failed:
            error = from_call(failed)
            if isinstance(error, Unavailable) and not error.reason:
                raise NobodyError(address) from None
            if isinstance(error, NotServed | Unauthenticated):
                # The public port has no such method, and wants a key before it says so.
                ours = state.load().config.gateway.admin_listen
                raise CommandError(f"{address} is no admin port; the config's is {ours}") from None
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
    lines += [f"  semantic cache, {one.tenant}: {_semantic(one)}" for one in status.semantic]
    lines += [f"  warning: {sentence}" for sentence in status.warnings]
    for model in status.models:
        state = "serving" if model.serving else "NOT serving"
        lines.append(f"  {model.model} {state} at {model.worker} ({model.version or 'never reached'})")
    return "\n".join(lines)


def _semantic(one: admin_pb2.SemanticStatus) -> str:
    """What it serves, and how well that is known."""
    if not one.heard:
        return "nothing heard here, so it serves nothing; this process listens from the first question on"
    compared = f"{one.audits} {'comparison' if one.audits == 1 else 'comparisons'}, {one.different} different"
    asked = f"(asked {_percent(one.wrong_hits)})"
    if one.serving:
        kinds = f"{one.serving} of {one.kinds} kinds of questions " if one.kinds > 1 else ""
        bound = f"wrong at most {_percent(one.wrong_at_most)} {asked}"
        return f"{compared}; serves {kinds}from similarity {one.similarity:.2f} on, {bound}"
    if not one.HasField("wrong_at_most"):
        return f"{compared}; serves nothing yet: no like question was found lately {asked}"
    return f"{compared}; serves nothing yet: wrong at most {_percent(one.wrong_at_most)} so far {asked}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
