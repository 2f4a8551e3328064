"""`headgate purge`: which orders it gives, to whom, and what it says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import pytest

from headgate.adapters import status_map
from headgate.adapters.status_map import CacheUnavailableError
from headgate.cli import app
from headgate.v1 import admin_pb2, admin_pb2_grpc

Run = Callable[..., tuple[int, str, str]]
NOBODY = "127.0.0.1:1"
REFUSED = "Redis does not take the order (no reply in time): give it again"


@dataclass
class Admin(admin_pb2_grpc.AdminServiceServicer):
    """Deletes two answers for each order, or refuses those of the tenant `refused`."""

    address: str = ""
    orders: list[admin_pb2.PurgeCacheRequest] = field(default_factory=list)

    def PurgeCache(
        self, request: admin_pb2.PurgeCacheRequest, context: grpc.ServicerContext
    ) -> admin_pb2.PurgeCacheResponse:
        self.orders.append(request)
        if request.tenant == "refused":
            status = status_map.to_status(CacheUnavailableError(REFUSED))
            context.set_trailing_metadata(((status_map.DETAILS_KEY, status.SerializeToString()),))
            context.abort(status_map.CODES[status.code], status.message)
        return admin_pb2.PurgeCacheResponse(removed=2)


@pytest.fixture
def admins() -> Iterator[list[Admin]]:
    """Two processes."""
    both, servers = [Admin(), Admin()], []
    with ThreadPoolExecutor(4) as pool:
        for one in both:
            server = grpc.server(pool)
            servers.append(server)
            admin_pb2_grpc.add_AdminServiceServicer_to_server(one, server)
            one.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            server.start()
        yield both
        for server in servers:
            server.stop(None).wait()


@pytest.fixture
def purge(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `headgate purge`; its exit code, stdout and stderr."""

    def line(*arguments: str) -> tuple[int, str, str]:
        code = app.run(("purge", *arguments), {})
        out, err = capsys.readouterr()
        return code, out, err

    return line


def at(*addresses: str) -> list[str]:
    return [argument for address in addresses for argument in ("--admin", address)]


def test_each_tag_is_an_order_within_the_same_scope(purge: Run, admins: list[Admin]) -> None:
    arguments = ["--tenant", "acme", "--tag", "a", "--tag", "b", "--tag", "a"]
    code, out, err = purge(*arguments, *at(admins[0].address))
    assert (code, err) == (0, "")
    assert out == "4 answers purged from Redis; other processes stop giving theirs within 5 s\n"
    assert admins[0].orders == [admin_pb2.PurgeCacheRequest(tenant="acme", tag=tag) for tag in "ab"]


def test_unknown_names_are_sent_only_when_they_are_meant(purge: Run, admins: list[Admin]) -> None:
    purge("--model", "gone", *at(admins[0].address))
    purge("--model", "gone", "--unknown", *at(admins[0].address))
    purge("--all", *at(admins[0].address))
    assert admins[0].orders == [
        admin_pb2.PurgeCacheRequest(model="gone"),
        admin_pb2.PurgeCacheRequest(model="gone", unknown=True),
        admin_pb2.PurgeCacheRequest(),
    ]


@pytest.mark.parametrize("arguments", [[], ["--all", "--tenant", "acme"], ["--all", "--tag", ""]])
def test_an_order_says_which_answers(purge: Run, admins: list[Admin], arguments: list[str]) -> None:
    code, out, err = purge(*arguments, *at(admins[0].address))
    assert (code, out, admins[0].orders) == (1, "", [])
    assert err.startswith("headgate: say which answers")


@pytest.mark.parametrize("empty", ["--tenant", "--model", "--tag"])
def test_a_variable_that_is_not_set_makes_no_order_wider(purge: Run, admins: list[Admin], empty: str) -> None:
    given = {"--tenant": "acme", "--model": "small", "--tag": "a"} | {empty: ""}
    code, out, err = purge(*(part for option in given.items() for part in option), *at(admins[0].address))
    assert (code, out, admins[0].orders) == (1, "", [])
    assert "is empty" in err


def test_the_next_process_takes_the_order_where_the_first_does_not_answer(
    purge: Run, admins: list[Admin]
) -> None:
    code, out, err = purge("--all", *at(NOBODY, admins[0].address, admins[1].address))
    assert (code, err) == (0, "")
    assert out.startswith("2 answers purged")
    assert [len(one.orders) for one in admins] == [1, 0]


def test_a_refusal_is_final(purge: Run, admins: list[Admin]) -> None:
    code, out, err = purge("--tenant", "refused", *at(admins[0].address, admins[1].address))
    assert (code, out) == (1, "")
    assert err == f"headgate: {REFUSED}\n"
    assert [len(one.orders) for one in admins] == [1, 0]


@pytest.mark.parametrize(("keyed", "said"), [(False, "Method not found!"), (True, "send a key")])
@pytest.mark.parametrize("command", ["purge --all", "status", "reload"])
def test_the_public_port_is_said_to_be_no_admin_port(
    capsys: pytest.CaptureFixture[str], command: str, keyed: bool, said: str
) -> None:
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, interceptors=[Door()] if keyed else [])
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        environ = {"HEADGATE_GATEWAY__ADMIN_LISTEN": "127.0.0.1:7371"}
        assert app.run((*command.split(), *at(address)), environ) == 1
        server.stop(None).wait()
    _, err = capsys.readouterr()
    assert said not in err
    assert err.removeprefix("headgate: ") == f"{address} is no admin port; the config's is 127.0.0.1:7371\n"


class Door(grpc.ServerInterceptor):
    """Wants a key of everybody, whatever the method."""

    def intercept_service(self, *_: object) -> grpc.RpcMethodHandler:
        def refuse(_: object, context: grpc.ServicerContext) -> None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "send a key in call metadata")

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.mark.parametrize("address", ["nonsense", "localhost", "127.0.0.1:", "a b:1"])
def test_an_address_without_a_port_is_none(purge: Run, address: str) -> None:
    sentence = f"headgate: --admin {address}: write host:port, such as 127.0.0.1:7072\n"
    assert purge("--all", *at(address)) == (1, "", sentence)


def test_where_nobody_answers_all_are_named(purge: Run) -> None:
    code, out, err = purge("--all", *at(NOBODY, "127.0.0.1:2"))
    assert (code, out) == (1, "")
    assert err == "headgate: no gateway answers at 127.0.0.1:1, 127.0.0.1:2: is it running here?\n"
