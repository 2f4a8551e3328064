"""Ports of the local stack: one clear sentence when one is in use, and no second stack that shares it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Container, Iterable
from types import TracebackType
from typing import Final, Self

LAST: Final = 65535


class PortInUseError(Exception):
    """Somebody listens there. One sentence: the port, the setting, what to do."""


class Reservation:
    """A bound port that only the supervisor's children can share; it takes no connection itself."""

    def __init__(self, bound: socket.socket, address: str) -> None:
        self._bound = bound
        self.address = address
        """`host:port` with the port it really has."""

    def close(self) -> None:
        """Gives the port up."""
        self._bound.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def reserve(address: str, setting: str) -> Reservation:
    """Holds `host:port` (port 0: any free one) for children that listen with SO_REUSEPORT.

    Raises PortInUseError, naming `setting`, when anybody else listens there, SO_REUSEPORT or not.
    """
    check(address, setting)
    host, _ = split(address)
    bound = _bind(address, setting, share=True)
    port = bound.getsockname()[1]
    return Reservation(bound, join(host, port))


def check(address: str, setting: str) -> None:
    """Raises PortInUseError, naming `setting`, when the port of `host:port` cannot be had."""
    _bind(address, setting, share=False).close()


def check_apart(wanted: Iterable[tuple[str, str]]) -> set[int]:
    """The ports of these settings' addresses, each free and wanted once; port 0 is not among them.

    Raises PortInUseError, naming the setting.
    """
    taken: dict[str, str] = {}
    for setting, address in wanted:
        port = split(address)[1]
        if port > LAST:
            raise PortInUseError(f"{setting}: the last process would need port {port}; set it lower")
        if port and address in taken:
            raise PortInUseError(
                f"{setting} counts up to {address}, which {taken[address]} needs: set it apart"
            )
        taken[address] = setting
        check(address, setting)
    return {split(address)[1] for address in taken} - {0}


def claim(host: str, port: int, but_not: Container[int] = ()) -> Reservation:
    """The first port from `port` on that nobody has, for a child that will listen there without sharing.

    The UDP port of the same number is held as the mark of the claim: a second stack that starts before the
    child listens must not choose the same. Raises PortInUseError when there is none.
    """
    for number in range(port, LAST + 1):
        mark = _mark(host, number) if number not in but_not else None
        if mark is not None:
            return Reservation(mark, join(host, number))
    raise PortInUseError(f"there is no free port on {host} from {port} on")


def split(address: str) -> tuple[str, int]:
    """`[::1]:7070` → (`::1`, 7070)."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def join(host: str, port: int) -> str:
    """The reverse of `split`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _mark(host: str, port: int) -> socket.socket | None:
    mark = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        mark.bind((host, port))
        check(join(host, port), "")
    except (OSError, PortInUseError):
        mark.close()
        return None
    return mark


def _bind(address: str, setting: str, *, share: bool) -> socket.socket:
    host, port = split(address)
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise PortInUseError(f"{setting}: this machine knows no address {host}") from None
    bound = socket.socket(family, kind)
    # Exclusive, a bind fails beside any listener, and REUSEADDR forgives only connections that are over.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if share else socket.SO_REUSEADDR, 1)
    try:
        bound.bind(target)
    except OSError as error:
        bound.close()
        raise PortInUseError(_sentence(error, host, port, setting)) from None
    return bound


def _sentence(error: OSError, host: str, port: int, setting: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is in use ({setting}): stop what listens there, "
            f"or set {setting} to another port"
        )
    if error.errno == errno.EACCES:
        return f"port {port} on {host} needs more rights ({setting}): choose one from 1024 on"
    return f"{setting}: {host} is not an address of this machine"
