"""Jobs as they are deployed: two of everything that may die, the records on a Valkey with an AOF.

submit ─▶ gateway-0, gateway-1 ─▶ records, broker ─▶ runner-0, runner-1 ─▶ their gateway ─▶ small-a, small-b

The workers count: what they say follows from the question, and their journal is the oracle for what was
called. A process that ends by itself is started again, as its supervisor would.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from headgate.adapters.redis_jobs import Terms
from tests.faults.chaos import CONTINUE, TERM
from tests.faults.fleet import free_port
from tests.integration import job_rig
from tests.integration.brokers import Broker
from tests.integration.gateway_rig import PEPPER, Process, Valkey
from tests.integration.job_rig import RUNNER_SECRET, children

WORKERS, GATEWAYS = ("small-a", "small-b"), ("gateway-0", "gateway-1")
RUNNERS, RECONCILERS = ("runner-0", "runner-1"), ("reconciler-0", "reconciler-1")
NAMES = (*WORKERS, *GATEWAYS, *RUNNERS, *RECONCILERS)
PLACES = 2
"""Jobs that a runner works on at a time."""
KEEP_S = 0.1
"""How often it is looked who has ended by itself."""


class JobFleet:
    """All of it, on free ports."""

    def __init__(self, directory: Path, broker: Broker, terms: Terms, names: Sequence[str] = NAMES) -> None:
        """`names` are those who live."""
        self.broker = broker
        self.names = names
        self.journal = directory / "journal.jsonl"
        self.journal.touch()
        self._directory = directory
        self._config = directory / "headgate.yaml"
        (directory / "broker.url").write_text(broker.url)
        self._config.write_text(yaml.safe_dump(_settings(f"file:{directory / 'broker.url'}", terms)))
        (directory / "records").mkdir()
        self.records = Valkey(directory / "records", keeps=True)
        self._ports = {name: free_port() for name in (*WORKERS, *GATEWAYS)}
        self.processes: dict[str, Process] = {}
        self.down: set[str] = set()
        """Who was struck and is not well again."""
        self.struck = 0.0
        """When somebody was struck last, in POSIX seconds."""
        self.away: list[tuple[float, float]] = []
        """Since when and until when the broker was, in POSIX seconds."""
        self.restarted: list[str] = []
        """Who ended by itself, and was started again."""
        self.orphans: list[psutil.Process] = []
        """Children whose parent was killed: they are to end by themselves."""

    def start(self) -> None:
        """Returns when everybody serves."""
        for name in self.names:
            self.processes[name] = self._begun(name)
        for process in self.processes.values():
            process.addresses()

    def target(self, names: tuple[str, ...] = GATEWAYS) -> str:
        """All of them as one gRPC target."""
        return "ipv4:" + ",".join(self._place(name) for name in names)

    def family(self, name: str) -> list[psutil.Process]:
        """A runner's parent and its children; any other process alone."""
        with suppress(psutil.NoSuchProcess):
            process = self.processes[name]
            return [psutil.Process(process.popen.pid), *(children(process) if name in RUNNERS else ())]
        return []

    def kill(self, name: str, *, alone: bool = False) -> None:
        """SIGKILL, for a runner's children too unless the parent is to go `alone`."""
        parent, *rest = self.family(name)
        parent.suspend()
        if alone:
            self.orphans += rest
        for one in [parent] if alone else [*rest, parent]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.processes[name].popen.wait(20)

    def restart(self, name: str) -> None:
        """Where it was; returns when it serves."""
        while True:
            self.processes[name].stop()
            self.processes[name] = self._begun(name)
            if self.processes[name].serves():
                return

    async def keep(self) -> None:
        """Starts again whoever ends by itself, until it is cancelled."""
        while True:
            for name, process in self.processes.items():
                if name not in self.down and process.popen.poll() is not None:
                    self.restarted.append(name)
                    await asyncio.to_thread(self.restart, name)
            await asyncio.sleep(KEEP_S)

    def logs(self, names: tuple[str, ...]) -> Iterator[str]:
        """Every line that they logged."""
        for name in names:
            yield from self.processes[name].log.read_text().splitlines()

    def close(self) -> None:
        """Ends everything, and whom nobody ended."""
        for number in (CONTINUE, TERM):
            for process in self.processes.values():
                process.send(number)
        for process in self.processes.values():
            process.stop()
        for one in self.orphans:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.records.stop()

    def _place(self, name: str) -> str:
        return f"127.0.0.1:{self._ports[name]}"

    def _begun(self, name: str) -> Process:
        environ = {"TEST_PEPPER": PEPPER, "RUNNER_KEY": f"runner.{RUNNER_SECRET}"}
        return Process(self._command(name), self._directory, name, environ)

    def _command(self, name: str) -> list[str]:
        kind, ready = name.partition("-")[0], str(self._directory / f"{name}.ready")
        if name in WORKERS:
            where = [str(self.journal), str(self._ports[name]), ready]
            return [sys.executable, "-m", "tests.faults.counting_worker", kind, *where]
        flags = ["--config", str(self._config), "--redis-url", self.records.url, "--ready-file", ready]
        if name in GATEWAYS:
            flags += ["--listen", self._place(name), "--worker", f"small={self.target(WORKERS)}"]
            flags += ["--admin-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
            return [sys.executable, "-m", "headgate.gateway", *flags]
        if name in RUNNERS:
            flags += ["--gateway", self._place(GATEWAYS[RUNNERS.index(name)])]
        return [sys.executable, "-m", "headgate.jobs", kind, *flags]


@contextmanager
def job_fleet(
    directory: Path, broker: Broker, terms: Terms, names: Sequence[str] = NAMES
) -> Iterator[JobFleet]:
    """A running fleet for the time of a `with` block."""
    running = JobFleet(directory, broker, terms, names)
    try:
        running.start()
        yield running
    finally:
        running.close()


def _settings(broker: str, terms: Terms) -> Mapping[str, Any]:
    made = job_rig.settings()
    times = {"lease_s": terms.lease_s, "grace_s": terms.grace_s, "most_runs": terms.most_runs}
    made["jobs"] |= {"broker": broker, "concurrency": PLACES, **times}
    pool = {"small": {"source": "small"}}
    # An answer from the cache would be no call, and the journal would not tell of it.
    return made | {"pool": pool, "cache": {"enabled": False}}
