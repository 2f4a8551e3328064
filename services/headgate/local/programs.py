"""The command lines of the stack's processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from headgate.adapters import probe
from headgate.adapters.config import Config, of_process
from headgate.adapters.settings import Loaded
from headgate.local import valkey
from headgate.local.child import Program

_SPARE_S = 2.0
"""What a process gets to end beyond its own drain."""
_ANY_PORT = "127.0.0.1:0"
_WORKER_SERVICE = "headgate.v1.WorkerService"
_ROUTER_SERVICE = "headgate.v1.RouterService"


class Programs:
    """What a config needs; files go to `directory`."""

    def __init__(self, loaded: Loaded, environ: Mapping[str, str], directory: Path) -> None:
        self._config = loaded.config
        self._flags = ["--config", str(loaded.path or _written(directory, loaded.text))]
        # Two arenas: with one for each thread, glibc keeps what bursts have freed.
        self._environ = {"MALLOC_ARENA_MAX": "2", **environ, "PYTHONUNBUFFERED": "1"}
        self._directory = directory

    @property
    def keeps_jobs(self) -> bool:
        """Whether jobs are kept here: then two stacks must not share a folder."""
        return self._config.jobs.enabled and self._config.redis.url is None

    def valkey(self, keep: Path | None = None) -> tuple[list[Program], str | None]:
        """A private Valkey and its URL; neither when the config names a Redis. Jobs are kept in `keep`."""
        if self._config.redis.url is not None:
            return [], None
        plan = valkey.plan(self._directory, self._environ.get("PATH"), keep)
        program = Program(
            name="valkey",
            command=lambda _: plan.command,
            environ=self._environ,
            stop_s=_SPARE_S,
            probe=lambda _: valkey.answers(plan.endpoint),
        )
        return [program], plan.url

    def workers(self, place: Callable[[], str]) -> dict[str, Program]:
        """A worker for each model that has no address, by model; `place` gives an address to each."""
        local = (name for name, model in self._config.pool.items() if model.worker is None)
        return {model: self._worker(model, place()) for model in local}

    def gateways(self, listen: str, redis_url: str | None, workers: Mapping[str, str]) -> list[Program]:
        """The gateway's processes; they share `listen`."""
        where = ["--redis-url", redis_url] if redis_url else []
        for model, address in workers.items():
            where += ["--worker", f"{model}={address}"]
        return [self._gateway(number, listen, where) for number in range(self._config.gateway.processes)]

    def jobs(self, listen: str, redis_url: str | None) -> list[Program]:
        """The reconciler and job runners, where jobs are on; they call the gateway at `listen`."""
        if not self._config.jobs.enabled:
            return []
        names = ["reconciler", "runner", *(f"runner-{one}" for one in range(1, self._config.jobs.runners))]
        return [self._of_jobs(number, name, listen, redis_url) for number, name in enumerate(names)]

    def _of_jobs(self, number: int, name: str, listen: str, redis_url: str | None) -> Program:
        program = name.partition("-")[0]
        ready, tls = self._directory / f"{name}.ready", self._config.gateway.tls
        command = [*_python("headgate.jobs"), program, *self._flags, "--ready-file", str(ready)]
        command += ["--redis-url", redis_url] if redis_url else []
        command += ["--metrics-listen", of_process(number, self._config.jobs.metrics_listen)]
        if program == "runner":
            command += ["--gateway", listen]
            command += ["--root-certificate", tls.certificate] if tls else []
        return Program(
            name=name,
            command=lambda _: command,
            environ=self._environ,
            stop_s=self._config.gateway.drain_s + _SPARE_S,
            probe=_ready,
            ready_file=ready,
        )

    def _worker(self, model: str, listen: str) -> Program:
        ready = self._directory / f"{model}.ready"
        command = [*_python("headgate.worker"), "--model", model, *self._flags, "--ready-file", str(ready)]
        # Any port, after a crash another one: no answer shall wait for a page of metrics.
        command += ["--metrics-listen", _ANY_PORT]
        # Only the gateway calls these workers, and it is gone before they stop: nobody needs a lame duck.
        environ = {**self._environ, "HEADGATE_GATEWAY__LAME_DUCK_S": "0"}
        return Program(
            name=model,
            command=lambda former: [*command, "--listen", former or listen],
            environ=environ,
            stop_s=self._config.gateway.drain_s + _SPARE_S,
            probe=partial(_serving, _WORKER_SERVICE),
            ready_file=ready,
        )

    def _gateway(self, number: int, listen: str, where: Iterable[str]) -> Program:
        gateway = self._config.gateway
        name = f"gateway-{number}" if number else "gateway"
        ready = self._directory / f"{name}.ready"
        command = [*_python("headgate.gateway"), *self._flags, "--listen", listen, "--reuse-port", *where]
        if number:
            command += ["--admin-listen", of_process(number, gateway.admin_listen)]
            command += ["--metrics-listen", of_process(number, gateway.metrics_listen)]
        return Program(
            name=name,
            command=lambda _: [*command, "--ready-file", str(ready)],
            environ=self._environ,
            stop_s=gateway.lame_duck_s + gateway.drain_s + _SPARE_S,
            probe=_announced if gateway.tls else partial(_serving, _ROUTER_SERVICE),
            ready_file=ready,
        )


def own_ports(config: Config) -> Iterator[tuple[str, str]]:
    """Setting and address of every port that one process has for itself, gateways and those of jobs."""
    gateway, jobs = config.gateway, config.jobs
    for number in range(gateway.processes):
        yield "gateway.admin_listen", of_process(number, gateway.admin_listen)
        yield "gateway.metrics_listen", of_process(number, gateway.metrics_listen)
    for number in range(1 + jobs.runners if jobs.enabled else 0):
        yield "jobs.metrics_listen", of_process(number, jobs.metrics_listen)


def _written(directory: Path, text: str) -> Path:
    """The built-in config as a file, so that every process reads the same."""
    path = directory / "headgate.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _python(module: str) -> list[str]:
    # -P: what lies in the user's folder cannot shadow a module.
    return [sys.executable, "-P", "-m", module]


async def _serving(service: str, address: str | None) -> bool:
    return address is not None and await probe.serving(address, service)


async def _ready(_address: str | None) -> bool:
    """Nobody calls it: that it has written its file is all there is to ask."""
    return True


async def _announced(address: str | None) -> bool:
    """Behind TLS the ready file is the word that counts: the supervisor does not know whom to trust."""
    return address is not None
