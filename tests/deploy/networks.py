"""The networks of a compose file, in network namespaces: a bridge for each, names, and published ports.

One namespace stands for the machine: the bridges end there, the name server listens on all of them, published
ports are on its loopback, and clients run in it. Each service has another, with an interface for each of its
networks. Nothing is routed from one network to another, and nothing leaves. It takes root and iproute2.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.deploy.compose import Port
from tests.deploy.pod import MORTAL

_HERE = Path(__file__).parent
_FIRST = 10
"""Below are the bridges' own addresses."""


class Machine:
    """The machine that a stack runs on, for as long as it is not closed."""

    def __init__(self, networks: Sequence[str], services: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """`services` says which networks each is in, and what other names it has there."""
        self._services = services
        self._networks = {name: number for number, name in enumerate(networks)}
        self._numbers = {name: _FIRST + number for number, name in enumerate(services)}
        self._up: set[str] = set()
        self._held: list[subprocess.Popen[str]] = []
        self._published: dict[str, list[subprocess.Popen[str]]] = {}
        self.enter = self._hold(["sh", "-c", "echo up; read -r end"])
        setup = [
            line
            for number in self._networks.values()
            for line in (
                f"ip link add br{number} type bridge",
                f"ip addr add {_address(number, 1)}/24 dev br{number}",
                f"ip link set br{number} up",
            )
        ]
        self._run(self.enter, ["ip link set lo up", *setup])
        self._names = self._started([*MORTAL, *self.enter, sys.executable, str(_HERE / "name_server.py")])
        self._seats = {name: self._seat(name) for name in services}

    def seat(self, name: str) -> list[str]:
        """What a command begins with that runs in a service's network."""
        return self._seats[name]

    def etc(self, name: str) -> dict[str, str]:
        """What an engine writes into its /etc."""
        first = self._networks[next(iter(self._services[name]))]
        hosts = f"127.0.0.1 localhost\n{_address(first, self._numbers[name])} {name}\n"
        return {"hosts": hosts, "resolv.conf": f"nameserver {_address(first, 1)}\noptions ndots:0\n"}

    def addresses(self, name: str) -> dict[str, str]:
        """Of a service, by network."""
        return {one: _address(self._networks[one], self._numbers[name]) for one in self._services[name]}

    def joins(self, name: str, ports: Sequence[Port] = ()) -> None:
        """From here on others find it by its names, and callers at its published ports."""
        self._up.add(name)
        self._tell()
        inner = next(iter(self.addresses(name).values()))
        self._published[name] = [
            self._started(
                [
                    *MORTAL, *self.enter, sys.executable, str(_HERE / "forward.py"),
                    f"{port.host}:{port.published}", f"{inner}:{port.target}",
                ]
            )
            for port in ports
        ]  # fmt: skip

    def leaves(self, name: str) -> None:
        """The contrary; its address stays its own."""
        self._up.discard(name)
        self._tell()
        for one in self._published.pop(name, ()):
            _end(one)

    def close(self) -> None:
        """Ends all that it started."""
        for ports in self._published.values():
            for one in ports:
                _end(one)
        _end(self._names)
        for one in self._held:
            _end(one)

    def _tell(self) -> None:
        table = {
            address: self._known(asker) for asker in self._up for address in self.addresses(asker).values()
        }
        assert self._names.stdin is not None
        print(json.dumps(table), file=self._names.stdin, flush=True)
        assert _line(self._names.stdout) == "known"

    def _known(self, asker: str) -> dict[str, list[str]]:
        """Names that a service can look up: of two networks that it shares with another, the first counts."""
        known: dict[str, list[str]] = {}
        for network in self._services[asker]:
            here: dict[str, list[str]] = {}
            for name in sorted(self._up):
                if network in self._services[name]:
                    for one in (name, *self._services[name][network]):
                        here.setdefault(one, []).append(self.addresses(name)[network])
            known = {**here, **known}
        return known

    def _seat(self, name: str) -> list[str]:
        enter = self._hold(["sh", "-c", "echo up; read -r end"])
        pid, number = self._held[-1].pid, self._numbers[name]
        outer, inner = [], ["ip link set lo up"]
        for network in self._services[name]:
            bridge = self._networks[network]
            pair = f"v{number}n{bridge}"
            outer += [
                f"ip link add {pair} type veth peer name eth{bridge} netns {pid}",
                f"ip link set {pair} master br{bridge}",
                f"ip link set {pair} up",
            ]
            inner += [
                f"ip addr add {_address(bridge, number)}/24 dev eth{bridge}",
                f"ip link set eth{bridge} up",
            ]
        self._run(self.enter, outer)
        self._run(enter, inner)
        return enter

    def _hold(self, command: Sequence[str]) -> list[str]:
        one = self._started(["unshare", "--net", *command])
        self._held.append(one)
        return ["nsenter", f"--net=/proc/{one.pid}/ns/net"]

    def _started(self, command: Sequence[str]) -> subprocess.Popen[str]:
        one = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert _line(one.stdout) == "up", f"{command} did not start"
        return one

    def _run(self, enter: Sequence[str], lines: Sequence[str]) -> None:
        subprocess.run([*enter, "sh", "-ec", "\n".join(lines)], check=True)


def _address(network: int, number: int) -> str:
    return f"10.77.{network}.{number}"


def _line(written: IO[str] | None) -> str:
    assert written is not None
    return written.readline().strip()


def _end(one: subprocess.Popen[str]) -> None:
    one.kill()
    one.communicate()
