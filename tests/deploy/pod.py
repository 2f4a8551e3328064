"""Containers without an engine: each stage's own command, environment and user, in the kernel's namespaces.

A pod is a network of its own, with loopback alone, so that every port is free. A container in it is process 1
with a root that holds its venv, its config and the system's libraries, and can write to /tmp and /dev/shm.
It takes root to make one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.deploy.dockerfile import Stage

WAIT_S = 90.0
WRITABLE = ("/tmp", "/dev/shm")
_HOLD = """
import array, fcntl, socket, struct, sys
with socket.socket() as any:
    fcntl.ioctl(any, 0x8914, struct.pack("16sh", b"lo", 0x49))  # SIOCSIFFLAGS: up, running, loopback
print("up", flush=True)
sys.stdin.read()
"""
MORTAL = ["setpriv", "--pdeathsig", "KILL"]
"""What is started so ends with the tests, however they end."""
_ENCLOSE = Path(__file__).with_name("enclose.py")


class Pod:
    """A network namespace, for as long as it is not closed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._holder = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-c", _HOLD],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "up\n", "a network namespace takes root"
        self.enter = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]
        self._beside: list[subprocess.Popen[bytes]] = []
        self.containers: dict[str, Container] = {}

    def beside(self, *command: str) -> None:
        """Runs something that is no image of ours in the same network."""
        self._beside.append(subprocess.Popen([*MORTAL, *self.enter, *command], stdout=subprocess.DEVNULL))

    def start(
        self,
        name: str,
        stage: Stage,
        arguments: Sequence[str] | None,
        folders: Mapping[str, Path],
        environ: Mapping[str, str],
    ) -> Container:
        """A container of a stage; `arguments` stand for its CMD, `folders` are what it sees, by place."""
        inside = Inside(folders, {}, WRITABLE)
        self.containers[name] = Container(self.enter, self.directory, name, stage, arguments, inside, environ)
        return self.containers[name]

    def close(self) -> None:
        """Ends all that runs in it."""
        for one in self.containers.values():
            one.kill()
        for other in self._beside:
            other.kill()
            other.wait()
        self._holder.communicate("")


@dataclass(frozen=True, slots=True)
class Inside:
    """What a container sees."""

    folders: Mapping[str, Path]
    """Read-only, files too, by place."""
    volumes: Mapping[str, Path]
    """What it may write to and finds again."""
    memory: Sequence[str]
    """Places that it may write to and loses."""
    etc: Mapping[str, str] = field(default_factory=dict)
    read_only: bool = True


class Container:
    """A running one. Its program is process 1, and ended when this process is."""

    def __init__(
        self,
        enter: Sequence[str],
        directory: Path,
        name: str,
        stage: Stage,
        arguments: Sequence[str] | None,
        inside: Inside,
        environ: Mapping[str, str],
    ) -> None:
        """`enter` is what a command begins with that runs in its network."""
        self.stage, self.environ = stage, {**stage.environ, **environ}
        root = directory / f"root-{name}"
        root.mkdir(exist_ok=True)
        self.log = directory / f"{name}.log"
        assert stage.start is not None
        given = stage.arguments if arguments is None else arguments
        spec = {
            "root": str(root), "folders": {place: str(path) for place, path in inside.folders.items()},
            "volumes": {place: str(path) for place, path in inside.volumes.items()},
            "writable": inside.memory, "etc": inside.etc, "read_only": inside.read_only,
            "user": stage.user, "folder": stage.folder,
            "command": [*stage.start, *(given or ())], "environ": self.environ,
        }  # fmt: skip
        alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        with self.log.open("ab") as written:
            self._popen = subprocess.Popen(
                [*MORTAL, *enter, *alone, sys.executable, str(_ENCLOSE), json.dumps(spec)],
                stdout=written, stderr=written,
            )  # fmt: skip

    def pid(self) -> int:
        """Of its program, as seen from outside."""
        children = Path(f"/proc/{self._popen.pid}/task/{self._popen.pid}/children")
        wait_for(lambda: children.read_text().split(), lambda: f"it did not start: {self.said()}")
        return int(children.read_text().split()[0])

    def run(self, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """As `docker exec`: in its namespaces, with its user and environment."""
        return subprocess.run(
            [*self.inside(), *command],
            env=self.environ | environ,
            capture_output=True,
            text=True,
            check=False,
        )

    def inside(self) -> list[str]:
        """What a command begins with that runs in it."""
        user, group = self.stage.user.split(":")
        enter = ["nsenter", "--target", str(self.pid()), "--mount", "--net", "--pid", "--root", "--wdns=/"]
        return [*enter, f"--setuid={user}", f"--setgid={group}"]

    def healthy(self) -> bool:
        """What its health check says. Fails when the program has ended."""
        assert self._popen.poll() is None, f"it ended with {self._popen.returncode}: {self.said()}"
        assert self.stage.probe
        return self.run(*self.stage.probe).returncode == 0

    def stop(self, within_s: float = WAIT_S) -> int:
        """Sends the image's signal; the exit code. Raises TimeoutExpired where an engine would kill it."""
        os.kill(self.pid(), signal.Signals[self.stage.signal])
        return self._popen.wait(within_s)

    def kill(self) -> None:
        """Ends it now."""
        self._popen.kill()
        self._popen.wait()

    def said(self) -> str:
        """Its output."""
        return self.log.read_text()


def wait_for(met: Callable[[], object], otherwise: Callable[[], str], pause_s: float = 0.05) -> None:
    """Until something is true; AssertionError with what `otherwise` says when it never is."""
    end = time.monotonic() + WAIT_S
    while not met():
        assert time.monotonic() < end, otherwise()
        time.sleep(pause_s)
