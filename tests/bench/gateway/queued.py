"""Queued work beside a bare Celery app, round by round: `python -m tests.bench.gateway.queued` for these alone.

queued  SubmitJob, a job runner, WatchJob to the end; the answer is kept, told as it comes, and never lost
echo    `echo.delay(…).get()`: what Celery needs at the least for a task that does nothing
ask     the same app, whose task makes the call that a job runner makes
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import celery
import grpc
import psutil

from headgate.v1 import jobs_pb2, jobs_pb2_grpc
from tests.bench.gateway import bare_celery, echo
from tests.bench.gateway.figures import Run, percentile
from tests.bench.gateway.load import Generator, Target
from tests.integration import gateway_rig

if TYPE_CHECKING:
    from tests.bench.gateway.stage import Stage
    from tests.integration.gateway_rig import Process

ROUND_TRIP: Final = "round trip"
QUEUED_SIDES: Final = ("queued", "echo", "ask")
CONCURRENCIES: Final = (2, 8)
PAUSES_MS: Final = (0, 50)
CALL_S: Final = 120.0
LOOK_S: Final = 0.05
GENERATE: Final = "/headgate.v1.RouterService/Generate"
ALONE: Final = "interactive alone"
BESIDE_BATCH: Final = "interactive beside a batch"

Figures = Mapping[str, float]


def question(pause_ms: int) -> str:
    """Words that the echo worker answers after so long."""
    return f"{echo.PAUSE} {pause_ms} ms, then sort 48, 37, 291, 5, 86, 120, 77, 9"


def many(concurrency: int, pause_ms: int) -> str:
    """The load's name."""
    return f"{concurrency} at once, {pause_ms} ms each"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    trips: int
    """Round trips of each side, one after the other."""
    jobs: int
    """Of each side at each concurrency."""
    calls: int
    """Interactive ones."""
    generator: Generator


def rounds(stage: Stage, plan: Plan, order: Random) -> Iterator[tuple[str, str, Figures]]:
    """One round: runners and bare workers of each size start, are measured in turns, and end."""
    for concurrency in CONCURRENCIES:
        pair = Pair(stage, concurrency)
        try:
            yield from pair.measured(plan, order)
        finally:
            pair.close()


class Pair:
    """A job runner and a bare Celery app of the same size, and one who asks both."""

    def __init__(self, stage: Stage, concurrency: int) -> None:
        self._stage = stage
        self._concurrency = concurrency
        self._gateway = stage.servers["queued"]
        self._started = time.monotonic_ns()
        self._runner = stage.runner(f"runner-{concurrency}", self._gateway, concurrency)
        self._bare = stage.celery(f"celery-{concurrency}", concurrency)
        self._app: celery.Celery = bare_celery.make_app(stage.broker_url)
        self._channel = grpc.insecure_channel(self._gateway.address)
        self._desk = jobs_pb2_grpc.JobServiceStub(self._channel)
        self._metadata = self._gateway.metadata
        self._count = 0

    def close(self) -> None:
        """Ends all of it."""
        self._channel.close()
        self._runner.stop()
        self._bare.stop()

    def measured(self, plan: Plan, order: Random) -> Iterator[tuple[str, str, Figures]]:
        """Every load of this size; memory is read before and in the middle of the longest."""
        for trip in (self.queued, self.echo, self.ask):
            _ = [trip() for _ in range(max(5, plan.trips // 10))]
        idle = {"queued": _weight(self._runner), "ask": _weight(self._bare)}
        if self._concurrency == CONCURRENCIES[0]:
            yield from self._trips(plan, order)
            yield from self._interactive(plan, order)
        for pause_ms in PAUSES_MS:
            for side in order.sample(("queued", "ask"), 2):
                yield (
                    side,
                    many(self._concurrency, pause_ms),
                    self._many(side, plan.jobs, pause_ms, idle[side]),
                )

    def queued(self) -> float:
        """Milliseconds of a job from its submission to its end, as who watches it sees them."""
        begun = time.perf_counter()
        asked = self._request("interactive", 0)
        job = self._desk.SubmitJob(asked, metadata=self._metadata, timeout=CALL_S).job
        watched = jobs_pb2.WatchJobRequest(job_id=job.job_id)
        for event in self._desk.WatchJob(watched, metadata=self._metadata, timeout=CALL_S):
            job = event.job if event.HasField("job") else job
        assert job.state == jobs_pb2.JOB_STATE_DONE, job
        return 1e3 * (time.perf_counter() - begun)

    def echo(self) -> float:
        """The same of a task that does nothing."""
        begun = time.perf_counter()
        assert self._app.tasks[bare_celery.ECHO].delay(echo.ANSWER).get(timeout=CALL_S) == echo.ANSWER
        return 1e3 * (time.perf_counter() - begun)

    def ask(self) -> float:
        """The same of a task that makes the runner's call."""
        begun = time.perf_counter()
        assert self._asked(0).get(timeout=CALL_S) == echo.ANSWER
        return 1e3 * (time.perf_counter() - begun)

    def _trips(self, plan: Plan, order: Random) -> Iterator[tuple[str, str, Figures]]:
        trips: dict[str, Callable[[], float]] = {"queued": self.queued, "echo": self.echo, "ask": self.ask}
        for side in order.sample(QUEUED_SIDES, len(QUEUED_SIDES)):
            took = [trips[side]() for _ in range(plan.trips)]
            yield side, ROUND_TRIP, {
                "calls": plan.trips, "p50_ms": percentile(took, 0.5), "p99_ms": percentile(took, 0.99),
            }  # fmt: skip

    def _interactive(self, plan: Plan, order: Random) -> Iterator[tuple[str, str, Figures]]:
        """Generate with no jobs, and with more of them waiting than are run meanwhile."""
        for load in order.sample((ALONE, BESIDE_BATCH), 2):
            batch = self._submit_many(plan.jobs if load == BESIDE_BATCH else 0, PAUSES_MS[-1])
            body = gateway_rig.generate(question(0)).SerializeToString()
            target = Target(self._gateway.address, GENERATE, body, self._metadata)
            timing = plan.generator(target, plan.calls, 1, self._stage.folder)
            yield "queued", load, {
                "calls": plan.calls, "failed": timing.failed,
                "p50_ms": percentile(timing.latencies_ms, 0.5), "p99_ms": percentile(timing.latencies_ms, 0.99),
                "jobs_left": self._left(batch),
            }  # fmt: skip
            self._wait(batch)

    def _many(self, side: str, jobs: int, pause_ms: int, idle: Figures) -> Figures:
        """All are queued at once. The rate is from the first one queued to the last one ended."""
        begun = time.perf_counter()
        with ThreadPoolExecutor(1) as beside:
            if side == "queued":
                batch = self._submit_many(jobs, pause_ms)
                busy = beside.submit(_weight, self._runner)
                self._wait(batch)
            else:
                results = [self._asked(pause_ms) for _ in range(jobs)]
                busy = beside.submit(_weight, self._bare)
                for one in results:
                    one.get(timeout=CALL_S)
            seconds = time.perf_counter() - begun
            weight = busy.result()
        return {
            "jobs": jobs, "per_s": jobs / seconds,
            **{f"idle_{name}": value for name, value in idle.items()},
            **{f"busy_{name}": value for name, value in weight.items()},
        }  # fmt: skip

    def _request(self, job_class: str, pause_ms: int, batch: str = "") -> jobs_pb2.SubmitJobRequest:
        self._count += 1
        return jobs_pb2.SubmitJobRequest(
            query=gateway_rig.query(question(pause_ms), request_id=f"{self._started}-{self._count}"),
            job_class=jobs_pb2.JobClass.Value(f"JOB_CLASS_{job_class.upper()}"), batch_id=batch,
        )  # fmt: skip

    def _submit_many(self, count: int, pause_ms: int) -> str:
        """The name of their batch."""
        batch = f"{self._started}-{self._count}-batch"
        requests = (
            jobs_pb2.SubmitJobsRequest(job=self._request("batch", pause_ms, batch)) for _ in range(count)
        )
        told = list(self._desk.SubmitJobs(requests, metadata=self._metadata, timeout=CALL_S))
        assert [one.WhichOneof("outcome") for one in told] == ["job"] * count
        return batch

    def _asked(self, pause_ms: int) -> Any:
        query = gateway_rig.streamed(question(pause_ms)).SerializeToString().hex()
        return self._app.tasks[bare_celery.ASK].delay(self._gateway.address, self._metadata[0][1], query)

    def _left(self, batch: str) -> int:
        """Jobs that have not ended."""
        request = jobs_pb2.ListJobsRequest(batch_id=batch, page_size=1_000)
        jobs = self._desk.ListJobs(request, metadata=self._metadata, timeout=CALL_S).jobs
        return sum(not job.HasField("end_time") for job in jobs)

    def _wait(self, batch: str) -> None:
        """Until all have ended; asking takes a few milliseconds."""
        end = time.monotonic() + CALL_S
        while self._left(batch):
            assert time.monotonic() < end, "the batch does not come to its end"
            time.sleep(LOOK_S)


def _weight(process: Process) -> Figures:
    """Megabytes of a parent and its children: what each would free by its end, and what all take together."""
    parent = psutil.Process(process.popen.pid)
    every = [
        (one.memory_info().rss, getattr(one.memory_full_info(), "pss", 0))
        for one in (parent, *parent.children())
    ]
    return {
        "rss_mb": sum(rss for rss, _ in every) / 1e6,
        "pss_mb": sum(pss or rss for rss, pss in every) / 1e6,
        "parent_pss_mb": (every[0][1] or every[0][0]) / 1e6,
    }


def main(arguments: list[str]) -> int:
    """These rows alone, on stdout."""
    from tests.bench.gateway import load, measure
    from tests.bench.gateway.stage import BESIDE, pinned, stage
    from tests.bench.gateway.targets import QUEUED

    parser = argparse.ArgumentParser(prog="python -m tests.bench.gateway.queued", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trips", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--generator", choices=("h2load", "grpc"), default="h2load")
    flags = parser.parse_args(arguments)
    plan, order = (
        Plan(flags.trips, flags.jobs, flags.calls, load.generator(flags.generator)),
        Random(flags.seed),
    )
    runs: list[Run] = []
    with (
        TemporaryDirectory(prefix="headgate-bench-") as folder,
        stage(Path(folder), measure.SHORT) as running,
        pinned(BESIDE),
    ):
        for number in range(flags.rounds):
            for side, name, figures in rounds(running, plan, order):
                runs.append(Run(number, side, name, figures))
                shown = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
                print(f"round {number + 1}, {name}, {side}: {shown}", flush=True)
    for target in QUEUED:
        found = target.reached(runs)
        print(
            f"row {target.row}, {target.what}: {found.median:.2f} ({found.least:.2f} to {found.largest:.2f})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
