"""A real Prometheus scrapes every process of a stack: each panel's query answers, and no alert fires."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml

from headgate.adapters import channels
from headgate.v1 import jobs_pb2, jobs_pb2_grpc, router_pb2_grpc, worker_pb2, worker_pb2_grpc
from tests.integration.gateway_rig import (
    Process,
    eventually,
    generate,
    key,
    metrics,
    query,
    stub,
    turn,
    wait_for,
)
from tests.integration.job_rig import JobStack, settings
from tests.integration.scripted_worker import PRICES
from tests.integration.test_drafts import RIGHT, WRONG, bundle
from tests.integration.worker_process import start

ROOT = Path(__file__).parents[2]
HERE = ROOT / "deploy/observability"
ACME = key("acme")
MAY_BE_EMPTY = {
    "routing: Like questions",  # off by default
    "routing: Certificate expires in",  # this one never does
    "jobs: Upgrades",  # off by default
}
TIMES = {"$__rate_interval": "20s", "$__range": "30s"}


def panels() -> list[tuple[str, str]]:
    """Every panel's queries as Grafana would ask them, by the panel's name."""
    found = []
    for path in sorted((HERE / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                asked = target["expr"]
                for name, seconds in TIMES.items():
                    asked = asked.replace(name, seconds)
                found.append((f"{path.stem}: {panel['title']}", asked))
    return found


class Prometheus:
    """Debian's, with our rules, on a port of its own."""

    def __init__(self, folder: Path, targets: dict[str, list[str]]) -> None:
        program = shutil.which("prometheus")
        if program is None:
            pytest.skip("prometheus is not installed; tests/system-packages.txt names what tests need")
        ours = yaml.safe_load((HERE / "prometheus.yml").read_text())
        assert {one["job_name"] for one in ours["scrape_configs"]} == {*targets, "collector"}
        ours["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        ours["rule_files"] = [str(HERE / "alerts.yaml")]
        ours["scrape_configs"] = [
            {"job_name": job, "static_configs": [{"targets": where}]} for job, where in targets.items()
        ]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(ours))
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self._port = taken.getsockname()[1]
        self._log = (folder / "prometheus.log").open("wb")
        self.popen = subprocess.Popen(
            [
                program, f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}", "--enable-feature=exemplar-storage",
            ],
            stderr=self._log, stdout=self._log,
        )  # fmt: skip

    def get(self, path: str, **parameters: str) -> Any:
        """What its API says; an error of a query is an error here."""
        asked = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urlopen(asked, timeout=10) as page:
            told = json.load(page)
        assert told["status"] == "success", told
        return told["data"]

    def ready(self) -> bool:
        assert self.popen.poll() is None, "prometheus ended"
        try:
            return bool(self.get("targets")["activeTargets"])
        except OSError:
            return False

    def close(self) -> None:
        self.popen.terminate()
        self.popen.wait(20)
        self._log.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobStack]:
    folder = tmp_path_factory.mktemp("observed")
    config = settings()
    config["jobs"]["batch_budget_usd_per_day"] = 1_000
    one = JobStack(folder, config, policy={"bundle": str(bundle(folder)), "cascade": {"hedge": True}})
    try:
        yield one
    finally:
        one.close()


async def test_answers_are_counted_with_what_the_reference_would_have_cost(stack: JobStack) -> None:
    before = metrics(stack.addresses["metrics"])
    async with stack.channel() as channel:
        router = stub(channel)
        wrong, right = generate(f"{WRONG}, counted"), generate(f"{RIGHT}, counted")
        for request in (wrong, right, right):
            await router.Generate(request, metadata=ACME)
    after = metrics(stack.addresses["metrics"])

    def more(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    assert more('headgate_answer_seconds_count{model="large"}') == 1
    assert more('headgate_answer_seconds_count{model="small"}') == 2
    # Each has 10 tokens of prompt and 2 of answer, at large's price.
    each = 12 * PRICES["large"] / 1e6
    assert more('headgate_reference_cost_nanousd_total{source="model"}') == 2 * each
    assert more('headgate_reference_cost_nanousd_total{source="cache"}') == each
    assert more('headgate_escalations_total{draft="small",model="large",reason="doubtful"}') == 1
    assert after["headgate_risk_target"] == after["headgate_certificate_risk_target"] > 0
    assert after['headgate_breaker_open{model="small"}'] == 0


def test_what_alerts_watch_the_increase_of_is_there_before_it_happens(stack: JobStack) -> None:
    """The first of a series makes it, and from nothing there is no increase to Prometheus."""
    gateway = stack.start_gateway("new")
    runner = stack.start("runner", "--class", "batch")
    try:
        seen = metrics(gateway.addresses()["metrics"]) | metrics(_metrics(runner))
    finally:
        gateway.stop()
        runner.stop()
    zero = [
        'headgate_brain_failures_total{over="decision"}',
        'headgate_brain_failures_total{over="draft"}',
        'headgate_cost_nanousd_total{model="large"}',
        'headgate_shadow_cost_nanousd_total{model="small"}',
        'headgate_reference_cost_nanousd_total{source="model"}',
        'headgate_job_runs_begun_total{job_class="batch"}',
        'headgate_job_runs_ended_total{became="lost",job_class="batch"}',
        "headgate_spans_dropped_total",
        "headgate_ledger_dropped_total",
    ]
    assert {name: seen.get(name) for name in zero} == dict.fromkeys(zero, 0.0)


@asynccontextmanager
async def real_worker(folder: Path) -> AsyncIterator[dict[str, str]]:
    """A worker with a metrics page; the stack's are scripted and have none."""
    ready, config = folder / "worker.ready", folder / "worker.yaml"
    config.write_text("version: 1\ngateway: {open: true}\n")
    flags = ("--ready-file", str(ready), "--metrics-listen", "127.0.0.1:0")
    process = await start(config, "small", *flags, log=folder / "worker.log")
    try:
        await eventually(lambda: ready.exists() or process.returncode is not None, what="the worker")
        yield json.loads(ready.read_text())
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def test_a_worker_counts_answers_by_how_they_ended(tmp_path: Path) -> None:
    async with real_worker(tmp_path) as worker, channels.channel(worker["listen"]) as line:
        asked = worker_pb2_grpc.WorkerServiceStub(line)
        request = worker_pb2.WorkerServiceGenerateRequest(messages=[turn("7 in words")])
        told = [one async for one in asked.Generate(request)]
        with pytest.raises(Exception, match="INVALID_ARGUMENT"):
            await asked.Generate(worker_pb2.WorkerServiceGenerateRequest()).read()
        seen = await eventually(lambda: _with(worker["metrics"], "INVALID_ARGUMENT"), what="the refused one")
        assert (seen[_ended("OK")], seen[_ended("INVALID_ARGUMENT")]) == (1, 1)
        assert seen['headgate_worker_answer_seconds_count{model="small"}'] == 1
        assert seen['headgate_worker_first_token_seconds_count{model="small"}'] == 1
        written = seen['headgate_worker_completion_tokens_total{model="small"}']
        assert written == told[-1].usage.completion_tokens > 0
        assert seen['headgate_worker_busy{model="small"}'] == 0
        await _until_one_is_cancelled(asked, worker["metrics"])


async def _until_one_is_cancelled(asked: worker_pb2_grpc.WorkerServiceStub, page: str) -> None:
    """Leaves answers after their first piece; one that was quicker than that has ended well."""
    request = worker_pb2.WorkerServiceGenerateRequest(messages=[turn("Go from 352 to 547 in steps of 5")])
    for left in range(1, 100):
        begun = asked.Generate(request)
        await begun.read()
        begun.cancel()
        ended = await eventually(
            partial(_ended_in_all, page, left + 2), what="the end of the one that was left"
        )
        assert ended[_ended("OK")] + ended.get(_ended("CANCELLED"), 0) == left + 1
        if _ended("CANCELLED") in ended:
            return
    pytest.fail("the worker counts none of those that were left as cancelled")


def _ended(code: str) -> str:
    return f'headgate_worker_answers_total{{code="{code}",model="small"}}'


def _with(address: str, code: str) -> dict[str, float]:
    """The page once it tells of an answer that ended so."""
    seen = metrics(address)
    return seen if _ended(code) in seen else {}


def _ended_in_all(address: str, count: int) -> dict[str, float]:
    """The page once it tells of so many answers that ended."""
    seen = metrics(address)
    ended = sum(value for name, value in seen.items() if name.startswith("headgate_worker_answers_total"))
    return seen if ended == count else {}


async def load(
    router: router_pb2_grpc.RouterServiceStub, desk: jobs_pb2_grpc.JobServiceStub, round_: int
) -> None:
    """Drafts good and bad, each with a hedge, a hit, a job that ends and one that is refused."""
    for text in (f"{RIGHT} {round_}", f"{WRONG} {round_}", f"{RIGHT} {round_}"):
        await router.Generate(generate(text, request_id=f"r-{round_}"), metadata=ACME)
    job = query("word", request_id=f"j-{round_}", model="small")
    await desk.SubmitJob(jobs_pb2.SubmitJobRequest(query=job), metadata=ACME)
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        await desk.SubmitJob(jobs_pb2.SubmitJobRequest(), metadata=ACME)


async def test_every_panel_answers_over_a_stack_that_works(stack: JobStack, tmp_path: Path) -> None:
    runner, reconciler = stack.start("runner"), stack.start("reconciler")
    async with real_worker(tmp_path) as worker, stack.channel() as channel:
        targets = {
            "headgate-gateway": [stack.addresses["metrics"]],
            "headgate-worker": [worker["metrics"]],
            "headgate-jobs": [_metrics(runner), _metrics(reconciler)],
        }
        prometheus = Prometheus(tmp_path, targets)
        try:
            wait_for(prometheus.ready, what="prometheus")
            router, desk = stub(channel), jobs_pb2_grpc.JobServiceStub(channel)
            async with channels.channel(worker["listen"]) as line:
                asked = worker_pb2_grpc.WorkerServiceStub(line)
                await _until_all_answer(prometheus, router, desk, asked)
            up = prometheus.get("query", query="up")["result"]
            assert [one["value"][1] for one in up] == ["1"] * 4
            rules = [one for group in prometheus.get("rules")["groups"] for one in group["rules"]]
            assert {one["name"]: one["lastError"] for one in rules if one["health"] == "err"} == {}
            firing = [one["name"] for one in rules if one["type"] == "alerting" and one["state"] == "firing"]
            assert firing == []
        finally:
            prometheus.close()
    _exemplars_are_names_of_requests(stack.addresses["metrics"])


async def _until_all_answer(
    prometheus: Prometheus,
    router: router_pb2_grpc.RouterServiceStub,
    desk: jobs_pb2_grpc.JobServiceStub,
    worker: worker_pb2_grpc.WorkerServiceStub,
) -> None:
    """Asks the stack until each panel that can has something to show; no query may be refused meanwhile."""
    for round_ in range(40):
        await load(router, desk, round_)
        request = worker_pb2.WorkerServiceGenerateRequest(messages=[turn("7 in words")])
        assert [one async for one in worker.Generate(request)]
        empty = {
            where for where, asked in panels() if not prometheus.get("query", query=asked)["result"]
        } - MAY_BE_EMPTY
        if not empty:
            return
        # Prometheus looks once a second.
        await asyncio.sleep(0.5)
    raise AssertionError(f"these panels stayed empty: {sorted(empty)}")


def _metrics(process: Process) -> str:
    return process.addresses()["metrics"]


def _exemplars_are_names_of_requests(address: str) -> None:
    page = Request(
        f"http://{address}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    with urlopen(page, timeout=10) as opened:  # noqa: S310  (our own process)
        text = opened.read().decode()
    named = [line for line in text.splitlines() if " # {" in line]
    assert named
    assert all(line.startswith("headgate_answer_seconds_bucket{") for line in named)
    assert all('# {request_id="' in line for line in named)
