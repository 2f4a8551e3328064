"""Job runner and reconciler as processes: from flags and settings to a clean end after SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError

from headgate.adapters import diagnosis, job_queue, job_servers, logs, serving, settings, traces
from headgate.adapters.config import OPEN_TENANT, Address, Config, of_process
from headgate.adapters.job_brokers import resolved_broker
from headgate.adapters.redis_client import connect, resolved_url
from headgate.adapters.redis_jobs import RedisJobs, Terms
from headgate.adapters.settings import ConfigError
from headgate.adapters.telemetry import PortInUseError, ReconcilerMetrics
from headgate.jobs import app
from headgate.jobs.parent import Parent
from headgate.jobs.reconciler import Reconciler

_LOG = structlog.get_logger("headgate.jobs")

_RUNNER = """\
Takes jobs from their queue and asks the gateway for their answers, as any client of it.

It needs the Redis of the records, the broker (the same, unless jobs.broker names another) and the gateway.
Start as many as you like; what one of them leaves behind, be it killed, another one takes up. SIGTERM lets
runs come to their end for gateway.drain_s seconds, and then puts the rest back into the queue.
"""
_RECONCILER = """\
Queues again the jobs that got lost: whose runner was killed, or whose task the broker forgot.

Without one, jobs are only run while nothing fails. One is enough; several do no harm.
"""


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs one of them; 0 after a clean end, 1 otherwise, with one sentence on stderr if it cannot start."""
    flags = _parser().parse_args(arguments)
    try:
        config = _config(flags, environ)
        resolved = _resolved(config, flags, environ)
        logs.setup(config.log_level)
        traces.check(config.telemetry)
        # In a loop of its own, which is gone before any fork.
        for sentence in asyncio.run(job_servers.check(resolved.redis_url, resolved.broker_url)):
            _LOG.warning(sentence)
        # Billiard tells there of every piece of memory it takes.
        logging.getLogger("multiprocessing").setLevel(logging.WARNING)
        if flags.program == "reconciler":
            metrics_listen = flags.metrics_listen or config.jobs.metrics_listen
            tenants = [*config.tenants, *([OPEN_TENANT] if config.gateway.open else [])]
            serving.run(_reconcile(resolved, tenants, metrics_listen, flags.ready_file))
            return 0
        return _runner(config, resolved, flags).run()
    except (ConfigError, PortInUseError) as error:
        logs.say_last(f"headgate jobs {flags.program}: {error}")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m headgate.jobs", description="Runs queued queries, until SIGTERM."
    )
    programs = parser.add_subparsers(dest="program", required=True)
    raw = argparse.RawDescriptionHelpFormatter
    runner = programs.add_parser("runner", help="works on jobs", description=_RUNNER, formatter_class=raw)
    reconciler = programs.add_parser(
        "reconciler", help="queues again what got lost", description=_RECONCILER, formatter_class=raw
    )
    for one in (runner, reconciler):
        one.add_argument("--config", type=Path, help="the config file")
        one.add_argument("--redis-url", metavar="URL", help="where the records live; instead of redis.url")
        one.add_argument(
            "--metrics-listen",
            metavar="HOST:PORT",
            help="instead of jobs.metrics_listen",
        )
        one.add_argument("--ready-file", type=Path, help="gets some JSON once it works")
    runner.add_argument("--gateway", metavar="HOST:PORT", help="instead of gateway.listen")
    runner.add_argument(
        "--root-certificate", type=Path, metavar="PEM", help="of who signed the gateway's certificate"
    )
    runner.add_argument("--concurrency", type=int, metavar="N", help="instead of jobs.concurrency")
    runner.add_argument(
        "--class", dest="classes", action="append", choices=job_queue.CLASSES,
        help="take jobs of this class only, so that they wait behind no others; may be given again",
    )  # fmt: skip
    return parser


def _config(flags: argparse.Namespace, environ: Mapping[str, str]) -> Config:
    given = {"redis.url": flags.redis_url, "jobs.concurrency": getattr(flags, "concurrency", None)}
    overrides = {key: value for key, value in given.items() if value is not None}
    config = settings.load(flags.config, environ, overrides).config
    if not config.jobs.enabled:
        raise ConfigError("jobs.enabled: jobs are switched off; set it to true for gateway and runners")
    return config


def _resolved(config: Config, flags: argparse.Namespace, environ: Mapping[str, str]) -> app.Settings:
    redis_url = resolved_url("redis.url", config.redis.url, environ)
    if redis_url is None:
        raise ConfigError("redis.url: say where the records of jobs live")
    broker_url = resolved_broker(config.jobs.broker, environ) or redis_url
    # A reconciler calls no gateway, and needs no secret for it.
    reference = config.jobs.runner_key if flags.program == "runner" else None
    key = settings.resolve_secret(reference, environ) if reference else ""
    return app.Settings(
        gateway=_gateway(getattr(flags, "gateway", None) or config.gateway.listen),
        redis_url=redis_url,
        broker_url=broker_url,
        key=key,
        terms=Terms.of(config.jobs),
        authority=_authority(getattr(flags, "root_certificate", None)),
        log_level=config.log_level,
        telemetry=config.telemetry,
    )


def _gateway(given: str) -> str:
    try:
        return str(TypeAdapter(Address).validate_python(given))
    except ValidationError:
        raise ConfigError(f"--gateway: {given!r} must be host:port, such as 127.0.0.1:7070") from None


def _authority(path: Path | None) -> bytes:
    try:
        return path.read_bytes() if path is not None else b""
    except OSError as error:
        raise ConfigError(f"--root-certificate: {path} cannot be read: {error.strerror}") from None


def _runner(config: Config, resolved: app.Settings, flags: argparse.Namespace) -> Parent:
    # The order of the classes is that in which tasks are taken.
    classes = [one for one in job_queue.CLASSES if one in (flags.classes or job_queue.CLASSES)]
    # The reconciler has the first port: one of each can share a machine.
    metrics = flags.metrics_listen or of_process(1, config.jobs.metrics_listen)
    return Parent(
        resolved, classes, config.jobs.concurrency, config.gateway.drain_s, flags.ready_file, metrics
    )


async def _reconcile(
    resolved: app.Settings, tenants: Sequence[str], metrics_listen: str, ready_file: Path | None
) -> None:
    diagnosis.show_tasks_on_signal()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = ReconcilerMetrics()
    told = {"program": "reconciler", "metrics": metrics.serve(metrics_listen)}
    client = connect(resolved.redis_url, app.REPLY_S, app.REPLY_S)
    queue = job_queue.JobQueue(resolved.broker_url)
    try:
        _LOG.info("reconciling")
        if ready_file is not None:
            serving.announce(ready_file, told)
        await Reconciler(RedisJobs(client, resolved.terms), queue, metrics, tenants).run(stop)
    finally:
        queue.close()
        await client.aclose()
    _LOG.info("stopped")
