"""Every process of docker-compose.yml runs as it says, and is killed and rolled: no request fails.

What stands in for an engine are the kernel's namespaces: networks, names and published ports (networks.py),
and roots, users and rights (stack.py, enclose.py). The client is the one of docs/howto/run-in-containers.md.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.deploy.compose import FILE, ROOT, read
from tests.deploy.dockerfile import stages
from tests.deploy.guide import Reader, blocks
from tests.deploy.images import DOCKERFILE
from tests.deploy.pod import wait_for
from tests.deploy.stack import Stack, connections, peak_bytes, tree

PAGE = ROOT / "docs/howto/run-in-containers.md"
OURS = ("worker-small", "worker-large", "gateway-1", "gateway-2", "runner", "reconciler")
KILLED = ("gateway-1", "worker-small", "worker-large", "runner", "reconciler", "valkey", "broker")
ROLLED = ("worker-small", "worker-large", "gateway-1", "gateway-2", "runner", "reconciler")
RATE = 6.0
"""Requests a second: these are two cores, and each start of a process takes one of them."""
PAUSE_S = 5.0
"""What the page says to wait between two: by then everybody knows the new one."""


@pytest.fixture(scope="module")
def local(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What init.sh makes, with an engine that runs the gateway's venv."""
    here = tmp_path_factory.mktemp("init").resolve()
    for name in ("init.sh", "headgate.yaml"):
        (here / name).write_bytes((ROOT / "deploy/compose" / name).read_bytes())
    docker = here / "bin/docker"
    docker.parent.mkdir()
    docker.write_text(
        "#!/bin/sh\n"
        'run="run --rm --pull never --network none --env PEPPER '
        '--entrypoint headgate headgate-gateway:0.1.0 "\n'
        'case "$*" in "$run"*) shift 11;; *) exit 9;; esac\n'
        f'exec env -i PEPPER="$PEPPER" {built["gateway"]}/bin/python -m headgate.cli "$@"\n'
    )
    docker.chmod(0o755)
    path = f"{docker.parent}:{os.environ['PATH']}"
    init = ["sh", str(here / "init.sh")]
    subprocess.run(init, env=os.environ | {"PATH": path}, check=True, capture_output=True)
    again = subprocess.run(init, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False)
    assert again.returncode
    assert "is there already" in again.stderr
    return here / "local"


@pytest.fixture(scope="module")
def stack(built: dict[str, Path], local: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    compose = read(FILE.read_text())
    one = Stack(
        compose, stages(DOCKERFILE.read_text()), built, local, tmp_path_factory.mktemp("stack").resolve()
    )
    try:
        one.up()
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module")
def key(local: Path) -> str:
    return (local / "secrets/team_key").read_text().strip()


class Load:
    """A client that asks all the time."""

    def __init__(self, stack: Stack, key: str, seed: int) -> None:
        words = [sys.executable, str(Path(__file__).with_name("asker.py")), str(PAGE), str(RATE), str(seed)]
        self._popen = stack.client(*words, HEADGATE_KEY=key)
        self.told: list[dict[str, object]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def more(self, number: int) -> None:
        """Waits for so many further requests."""
        there = len(self.told)
        wait_for(lambda: len(self.told) >= there + number, lambda: "the client does not ask any more")

    def failed(self) -> list[object]:
        return [one["error"] for one in self.told if one["error"]]

    def close(self) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        self._reader.join()
        self._popen.wait()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self.told.append(json.loads(line))


@contextmanager
def loaded(stack: Stack, key: str, seed: int) -> Iterator[Load]:
    load = Load(stack, key, seed)
    try:
        load.more(5)
        yield load
        load.more(5)
    finally:
        load.close()


def _headgate(stack: Stack, key: str, *words: str) -> str:
    """As `docker compose exec`."""
    one = stack.containers["gateway-1"]
    run = one.run("/app/bin/python", "-m", "headgate.cli", *words, HEADGATE_KEY=key)
    assert run.returncode == 0, run.stderr + one.said()
    return run.stdout


def test_a_client_with_both_gateways_is_answered(stack: Stack, key: str, seed: int) -> None:
    with loaded(stack, key, seed) as load:
        for name in ("gateway-1", "gateway-2"):
            _known(stack, name)
    assert load.failed() == []
    assert all(one["calls"] == 1 for one in load.told)


def test_what_the_page_runs_in_containers_works(stack: Stack, local: Path, tmp_path: Path) -> None:
    running = {
        name: {"component": name.rpartition("-")[0], "enter": one.inside(), "environ": one.environ}
        for name, one in stack.containers.items()
    }
    reader = Reader(tmp_path, running)
    (reader.clone / "deploy/compose/local").symlink_to(local)
    assert reader.run("docker compose build").returncode == 0
    inside = re.compile(r"^docker .*\bexec ", re.MULTILINE)
    said = [reader.run(one.body) for one in blocks(PAGE.read_text()) if inside.search(one.body)]
    assert [one.returncode for one in said] == [0, 0, 0], "".join(one.stderr for one in said)
    assert "four thousand seven hundred eleven" in said[0].stdout
    assert "desserts" in said[0].stdout
    assert not reader.faults()


def test_operators_see_that_nothing_is_missing(stack: Stack, key: str) -> None:
    told = json.loads(_headgate(stack, key, "status", "--json").splitlines()[0])
    assert not told.get("missing")
    assert not told.get("warnings")


@pytest.mark.parametrize("name", [*OURS, "valkey", "broker", "prometheus"])
def test_it_has_no_rights_and_writes_where_it_may(stack: Stack, name: str) -> None:
    one, service = stack.containers[name], stack.services[name]
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{one.pid()}/status").read_text().splitlines())
    assert "0" not in status["Uid"].split()
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    mounts = [line.split() for line in Path(f"/proc/{one.pid()}/mountinfo").read_text().splitlines()]
    assert ["ro" in mount[5].split(",") for mount in mounts if mount[4] == "/"] == [True]
    for place in ("/", "/app", "/etc", "/run/secrets", "/usr", *({"/tmp"} - {*service.tmpfs})):
        assert one.run("/bin/sh", "-c", f"echo >{place}/x").returncode, place
    volumes = [mount.target for mount in service.mounts if not mount.read_only]
    for place in ("/dev/shm", *service.tmpfs, *volumes):
        assert one.run("/bin/sh", "-c", f"echo >{place}/x && rm {place}/x").returncode == 0, place


@pytest.mark.parametrize(
    ("asker", "name", "port", "reached"),
    [
        ("gateway-1", "valkey", 6379, True),
        ("gateway-1", "worker-small", 7080, True),
        ("runner", "gateway", 7070, True),
        ("runner", "broker", 6379, True),
        ("runner", "worker-small", 7080, False),
        ("worker-small", "valkey", 6379, False),
        ("reconciler", "worker-small", 7080, False),
    ],
)
def test_who_may_reach_whom(stack: Stack, asker: str, name: str, port: int, reached: bool) -> None:
    """By name, and an address from another network leads nowhere either."""
    connect = f"exec 3<>/dev/tcp/{name}/{port}"
    assert (stack.containers[asker].run("/bin/bash", "-c", connect).returncode == 0) == reached
    if not reached and name in stack.services:
        other = next(iter(stack.machine.addresses(name).values()))
        assert stack.containers[asker].run("/bin/bash", "-c", connect.replace(name, other)).returncode


def test_both_gateways_have_one_name(stack: Stack) -> None:
    look = "import socket; print(*sorted({one[4][0] for one in socket.getaddrinfo('gateway', 7070)}))"
    told = stack.containers["runner"].run("/app/bin/python", "-c", look).stdout.split()
    assert told == sorted(stack.machine.addresses(name)["edge"] for name in ("gateway-1", "gateway-2"))


def test_one_of_each_is_killed_and_no_request_fails(stack: Stack, key: str, seed: int) -> None:
    with loaded(stack, key, seed + 1) as load:
        for name in KILLED:
            stack.kill(name)
            load.more(5)
            stack.start(name)
            _known(stack, name)
    again = sum(one["calls"] != 1 for one in load.told)
    print(
        f"{len(KILLED)} killed, {len(load.told)} requests, {again} asked again, {len(load.failed())} failed"
    )
    assert load.failed() == []
    assert "desserts" in _headgate(stack, key, "jobs", "submit", "Reverse stressed", "--wait")


def test_all_are_rolled_and_no_request_fails_or_is_asked_again(stack: Stack, key: str, seed: int) -> None:
    with loaded(stack, key, seed + 2) as load:
        codes = {}
        for name in ROLLED:
            codes[name] = stack.stop(name)
            stack.start(name)
            _known(stack, name)
    again = sum(one["calls"] != 1 for one in load.told)
    print(
        f"{len(ROLLED)} rolled, {len(load.told)} requests, {again} asked again, {len(load.failed())} failed"
    )
    assert load.failed() == []
    assert again == 0
    assert codes == dict.fromkeys(ROLLED, 0)


def _known(stack: Stack, name: str) -> None:
    """Waits until those who call it have found the new one, which the page gives them PAUSE_S for."""
    began = time.monotonic()
    if name.startswith("gateway"):
        edge, pid = _outside(stack, name), stack.containers[name].pid()
        wait_for(lambda: connections(pid, 7070, edge), lambda: f"nobody asks {name} any more")
    elif name.startswith("worker"):
        serving = f'headgate_worker_serving{{model="{name.removeprefix("worker-")}"}} 1.0'
        for one in ("gateway-1", "gateway-2"):
            wait_for(lambda one=one: serving in _metrics(stack, one), lambda: f"{name} is not asked any more")  # type: ignore[misc]
    took_s = time.monotonic() - began
    print(f"{name} was found after {took_s:.1f} s")
    assert took_s < PAUSE_S


def _outside(stack: Stack, name: str) -> str:
    """Where callers from the machine seem to come from."""
    return stack.machine.addresses(name)["edge"].rpartition(".")[0] + ".1"


def _metrics(stack: Stack, name: str) -> str:
    page = f"http://{stack.machine.addresses(name)['edge']}:9464/metrics"
    with stack.client("wget", "-q", "-O", "-", page) as one:
        return one.communicate()[0]


def test_prometheus_finds_every_process(stack: Stack) -> None:
    port = stack.services["prometheus"].ports[0]

    def up() -> list[str]:
        asked = f"http://{port.host}:{port.published}/api/v1/query?{urlencode({'query': 'up == 1'})}"
        with stack.client("wget", "-q", "-O", "-", asked) as one:
            told = json.loads(one.communicate()[0] or '{"data": {"result": []}}')
        return sorted(found["metric"]["job"] for found in told["data"]["result"])

    jobs = [f"headgate-{job}" for job in ("gateway", "gateway", "jobs", "jobs", "worker", "worker")]
    wait_for(lambda: up() == jobs, lambda: f"prometheus finds {up()}")


def test_memory_stays_below_the_limits(stack: Stack) -> None:
    for name, service in stack.services.items():
        peak = peak_bytes(tree(stack.containers[name].pid()))
        print(f"{name}: {peak / 2**20:.0f} of {service.bytes() / 2**20:.0f} MiB")
        assert peak < service.bytes(), name
