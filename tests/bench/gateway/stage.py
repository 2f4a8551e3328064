"""The processes of a benchmark, on free ports: servers under test on one core, everything else on another.

bare      generator ─▶ echo router ─▶ echo worker             plain asyncio, as most people write it
uvloop    the same on uvloop
gateway   generator ─▶ headgate.gateway ─▶ the bare chain's worker, posing as the shipped pair; decides each call
          anew, as for callers who ask different questions
again     the same as it is shipped: the one question of the generator is decided once
cached    again with the answer cache on, in Redis alone
memory    the same with what was given last in memory
traced    again with every trace sent to a collector that throws it away
unkept    the same with a sample of 0: it keeps no trace that it begins itself
watched   and held, unread, worker: see writing
queued    callers ─▶ headgate.gateway ─▶ records, queue ─▶ headgate.jobs runner ─▶ the same gateway: see queued
real      generator ─▶ headgate.gateway ─▶ headgate.worker, replaying recorded answers
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import yaml

from headgate.gateway.admission import digest
from tests.bench.gateway import echo, writing
from tests.bench.gateway.load import Metadata
from tests.integration import gateway_rig
from tests.integration.gateway_rig import PEPPER, Process, Valkey

UNDER_TEST, BESIDE = 0, 1
"""Cores."""
_CORES: Final = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
"""Those that this process was given; none where the system does not say."""
FREE: Final = "127.0.0.1:0"
RUNNER_SECRET: Final = "secret-of-runners"
SECRETS: Final = {"TEST_PEPPER": PEPPER, "RUNNER_KEY": f"runner.{RUNNER_SECRET}"}
JOBS: Final = {
    "enabled": True, "runner_key": "env:RUNNER_KEY", "metrics_listen": FREE,
    "key": {"id": "runner", "hmac_sha256": digest(PEPPER.encode(), RUNNER_SECRET).hex()},
}  # fmt: skip
SIDES: Final = ("bare", "uvloop", "gateway", "again", "cached", "memory")
"""What answers unary calls."""
TRACED_SIDES: Final = ("again", "traced", "unkept")
ANEW: Final = ("gateway", "real")
"""What decides every call anew."""
RECORDED: Final = "".join(f"token{number:02d} " for number in range(echo.TOKENS))
"""The answer that the real worker replays, a word a token."""
_SLOTS: Final = {"slots": 64}


@dataclass(frozen=True, slots=True)
class Server:
    """One server under test; `metrics` is empty where it has none."""

    process: psutil.Process
    address: str
    metadata: Metadata = ()
    metrics: str = ""

    def cpu_s(self) -> float:
        """CPU time that it has used, of all its threads."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def pss_mb(self) -> float:
        """Its share of memory; of its resident memory where the system does not count shares."""
        info = self.process.memory_full_info()
        return float(getattr(info, "pss", info.rss)) / 1e6


class Stage:
    """Everything that runs. Use `stage`, which ends it again."""

    def __init__(self, folder: Path, query: str) -> None:
        self.folder = folder
        self.servers: dict[str, Server] = {}
        self._ending = ExitStack()
        try:
            self._start(query)
        except BaseException:
            self.close()
            raise

    def _start(self, query: str) -> None:
        recorded = self.folder / "recorded.jsonl"
        recorded.write_text(_record(query))
        self._config("gateway", _config(cache=False))
        self._config("again", _config())
        self._config("cached", _config(cache=True, memory_mb=0))
        self._config("memory", _config(cache=True))
        self._config("queued", _config() | {"jobs": JOBS})
        self._config("real", _config(pool=_replaying(recorded)))
        for side in writing.DRAFTING_SIDES:
            made = self.folder / f"{side}.bundle"
            made.write_bytes(writing.bundle(side))
            self._config(side, _config() | {"policy": {"bundle": str(made)}})
        with pinned(BESIDE):
            self._valkey = Valkey(self.folder)
            self._ending.callback(self._valkey.stop)
            real = {name: self._real_worker(name) for name in echo.PRICES}
            worker = self._child("worker", _echo("worker", self._ready("worker")))
            self._worker = worker.addresses()
        for side, sample in (("traced", 1.0), ("unkept", 0.0)):
            to = {"otlp_endpoint": f"http://{self.collector}", "sample": sample}
            self._config(side, _config() | {"telemetry": to})
        self._workers = {name: self._worker[name] for name in echo.PRICES}
        self.servers |= {"bare": self._router("bare"), "uvloop": self._router("uvloop", "--uvloop")}
        self.servers["worker"] = Server(psutil.Process(worker.popen.pid), self._worker["large"])
        self.servers |= {name: self.gateway(name, name) for name in (*SIDES[2:], *TRACED_SIDES[1:], "queued")}
        self.servers |= {name: self.gateway(name, name) for name in writing.DRAFTING_SIDES}
        self._workers = {name: child.addresses()["listen"] for name, child in real.items()}
        self.servers["real"] = self.gateway("real", "real")
        self._workers = {name: self._worker[name] for name in echo.PRICES}

    def close(self) -> None:
        """Ends every process."""
        self._ending.close()

    def gateway(self, name: str, config: str) -> Server:
        """A gateway process that has come to serve, started as in production."""
        module = "tests.bench.gateway.anew" if name in ANEW else "headgate.gateway"
        command = [sys.executable, "-m", module, "--config", str(self._file(config)),
                   "--redis-url", self._valkey.url, "--ready-file", str(self._ready(name))]  # fmt: skip
        for flag in ("--listen", "--admin-listen", "--metrics-listen"):
            command += [flag, FREE]
        for model, address in self._workers.items():
            command += ["--worker", f"{model}={address}"]
        with pinned(UNDER_TEST):
            child = self._child(name, command, SECRETS)
        found = child.addresses()
        process = psutil.Process(child.popen.pid)
        return Server(process, found["listen"], gateway_rig.key("acme"), found["metrics"])

    @property
    def collector(self) -> str:
        """Where traces are sent, and thrown away."""
        return self._worker["echo"]

    @property
    def broker_url(self) -> str:
        """Of the bare Celery app: the same server, another database."""
        return f"{self._valkey.url}/1"

    def runner(self, name: str, gateway: Server, concurrency: int) -> Process:
        """A job runner that takes jobs."""
        command = [sys.executable, "-m", "headgate.jobs", "runner", "--config", str(self._file("queued")),
                   "--redis-url", self._valkey.url, "--gateway", gateway.address, "--metrics-listen", FREE,
                   "--concurrency", str(concurrency), "--ready-file", str(self._ready(name))]  # fmt: skip
        with pinned(UNDER_TEST):
            child = self._child(name, command, SECRETS)
        child.addresses()
        return child

    def celery(self, name: str, concurrency: int) -> Process:
        """The bare Celery app's worker; it says nowhere that it is ready."""
        command = [sys.executable, "-m", "celery", "-A", "tests.bench.gateway.bare_celery", "worker",
                   "--concurrency", str(concurrency), "--loglevel", "WARNING"]  # fmt: skip
        with pinned(UNDER_TEST):
            return self._child(name, command, {"BENCH_BROKER": self.broker_url})

    def end(self, server: Server) -> None:
        """Ends one of its servers early."""
        server.process.terminate()
        server.process.wait(30)

    def _router(self, name: str, *flags: str) -> Server:
        command = [*_echo("router", self._ready(name)), "--worker", self._worker["echo"], *flags]
        with pinned(UNDER_TEST):
            child = self._child(name, command)
        return Server(psutil.Process(child.popen.pid), child.addresses()["echo"])

    def _real_worker(self, name: str) -> Process:
        command = [sys.executable, "-m", "headgate.worker", "--model", name, "--config",
                   str(self._file("real")), "--listen", FREE, "--ready-file",
                   str(self._ready(f"real-{name}"))]  # fmt: skip
        return self._child(f"real-{name}", command)

    def _child(self, name: str, command: list[str], environ: Mapping[str, str] | None = None) -> Process:
        child = Process(command, self.folder, name, environ or {})
        self._ending.callback(child.stop)
        return child

    def _config(self, name: str, settings: Mapping[str, Any]) -> None:
        self._file(name).write_text(yaml.safe_dump(dict(settings)))

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.yaml"

    def _ready(self, name: str) -> Path:
        return self.folder / f"{name}.ready"


@contextmanager
def stage(folder: Path, query: str) -> Iterator[Stage]:
    """Everything, for the time of a block; `query` is what the real worker has an answer to."""
    running = Stage(folder, query)
    try:
        yield running
    finally:
        running.close()


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Children that start inside stay on that core; on a machine that cannot, they stay where they are."""
    if not can_pin():
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def can_pin() -> bool:
    """Whether there are two cores to keep apart, and a system that can."""
    return {UNDER_TEST, BESIDE} <= _CORES


def _echo(role: str, ready: Path) -> list[str]:
    return [sys.executable, "-m", echo.__name__, role, str(ready)]


def _config(
    *, cache: bool = False, memory_mb: int = 64, pool: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Production's settings: keys on, the shipped bundle, a ledger."""
    settings = gateway_rig.config() | {"log_level": "info"}
    settings["cache"] = {"enabled": cache, "memory_mb": memory_mb}
    return settings | ({"pool": dict(pool)} if pool else {})


def _replaying(recorded: Path) -> dict[str, Any]:
    return {
        name: {"backend": "replay", "source": str(recorded), **_SLOTS,
               "price": {"input_nanousd": price, "output_nanousd": price}}
        for name, price in echo.PRICES.items()
    }  # fmt: skip


def _record(query: str) -> str:
    digest = hashlib.sha256(query.encode()).hexdigest()
    return json.dumps({"query_sha256": digest, "answer": RECORDED}) + "\n"
