from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator

import pytest

from headgate.local import ports
from headgate.local.ports import PortInUseError, claim, join, reserve, split


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bind_apart(listening)
        listening.listen()
        yield listening


def bind_apart(to_bind: socket.socket) -> None:
    """Binds to a port that no client's connection is ever given, so that it stays free once it is let go."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            return to_bind.bind(("127.0.0.1", random.SystemRandom().randrange(20_000, 32_000)))
    raise AssertionError("no port is free")


def test_a_child_with_reuse_port_shares_a_reserved_port():
    with reserve("127.0.0.1:0", "gateway.listen") as reserved, socket.socket() as child:
        child.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        child.bind(split(reserved.address))
        child.listen()
        with socket.create_connection(split(reserved.address), timeout=5):
            assert child.accept()


def test_port_zero_becomes_a_real_one_that_is_held():
    def free_again() -> bool:
        with reserve("127.0.0.1:0", "gateway.listen") as reserved:
            assert split(reserved.address)[1] > 0
            with pytest.raises(PortInUseError):
                ports.check(reserved.address, "gateway.listen")
        try:
            ports.check(reserved.address, "gateway.listen")
        except PortInUseError:
            return False  # A client somewhere on this machine was given it meanwhile.
        return True

    assert any(free_again() for _ in range(10))


def test_a_second_stack_cannot_slip_in_beside_a_listener_that_shares(listener):
    address = join(*listener.getsockname())
    with pytest.raises(PortInUseError) as caught:
        reserve(address, "gateway.listen")
    sentence = str(caught.value)
    assert str(listener.getsockname()[1]) in sentence
    assert "set gateway.listen to another port" in sentence


def test_a_port_is_free_again_although_a_connection_lingers(listener):
    """TIME_WAIT of the last run must not stop the next one."""
    address = listener.getsockname()
    client = socket.create_connection(address, timeout=5)
    served, _ = listener.accept()
    served.close()
    client.close()
    listener.close()
    reserve(join(*address), "gateway.listen").close()


def test_a_claim_skips_ports_in_use_and_those_that_another_stack_has_claimed(listener):
    host, port = listener.getsockname()
    with claim(host, port) as first, claim(host, port) as second:
        assert port < split(first.address)[1] < split(second.address)[1]
        with socket.socket() as child:
            child.bind(split(first.address))
    with claim(host, port) as again:
        assert again.address == first.address


def test_ports_that_count_up_into_each_other_are_told(listener):
    _, free = listener.getsockname()
    listener.close()
    wanted = [("a", f"127.0.0.1:{free}"), ("b", "127.0.0.1:0"), ("b", "127.0.0.1:0")]
    assert ports.check_apart(wanted) == {free}
    with pytest.raises(PortInUseError, match=rf"^b counts up to 127\.0\.0\.1:{free}, which a needs"):
        ports.check_apart([*wanted, ("b", f"127.0.0.1:{free}")])
    with pytest.raises(PortInUseError, match="would need port 65536"):
        ports.check_apart([("a", "127.0.0.1:65536")])


@pytest.mark.parametrize("address", ["no-such-host.invalid:1", "192.0.2.1:0"])
def test_a_foreign_address_is_one_sentence(address):
    with pytest.raises(PortInUseError, match=r"gateway\.listen"):
        ports.check(address, "gateway.listen")


@pytest.mark.parametrize("address", ["127.0.0.1:7070", "[::1]:7070", "localhost:0"])
def test_addresses_come_apart_and_together(address):
    assert join(*split(address)) == address
