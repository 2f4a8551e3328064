"""The gateway as a process: from flags and settings to a drain after SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from headgate.adapters import diagnosis, logs, serving, settings, traces
from headgate.adapters.config import Config, is_loopback
from headgate.adapters.job_brokers import resolved_broker
from headgate.adapters.redis_client import resolved_url
from headgate.adapters.settings import ConfigError
from headgate.adapters.telemetry import PortInUseError
from headgate.gateway.server import Gateway, PortTakenError, Sources
from headgate.router.errors import BundleError

_LOG = structlog.get_logger("headgate.gateway")


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs the gateway; 0 after a drain, 1 when it cannot start, with one sentence on stderr."""
    flags = _parser().parse_args(arguments)
    try:
        sources = _sources(flags, environ)
        logs.setup(sources.loaded.config.log_level)
        serving.run(_serve(sources, flags, environ))
    except (ConfigError, PortTakenError, PortInUseError, BundleError) as error:
        logs.say_last(f"headgate gateway: {error}")
        return 1
    finally:
        traces.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m headgate.gateway", description="Serves `RouterService` until SIGTERM."
    )
    parser.add_argument("--config", type=Path, help="the config file")
    for name in ("listen", "admin-listen", "metrics-listen"):
        parser.add_argument(f"--{name}", metavar="HOST:PORT", help="port 0 is any free one")
    parser.add_argument("--redis-url", metavar="URL", help="where cache and ledger live")
    parser.add_argument(
        "--worker",
        action="append",
        default=[],
        metavar="NAME=HOST:PORT",
        help="where a model's worker listens",
    )
    parser.add_argument("--ready-file", type=Path, help="gets the addresses as JSON when serving")
    parser.add_argument(
        "--reuse-port", action="store_true", help="share the port with other gateway processes"
    )
    return parser


def _sources(flags: argparse.Namespace, environ: Mapping[str, str]) -> Sources:
    """The settings with flags over environment over file, secrets resolved. Raises ConfigError."""
    names = {"gateway.listen": flags.listen, "gateway.admin_listen": flags.admin_listen,
             "gateway.metrics_listen": flags.metrics_listen, "redis.url": flags.redis_url}  # fmt: skip
    overrides = {key: value for key, value in names.items() if value is not None}
    loaded = settings.load(flags.config, environ, overrides)
    config = loaded.config
    if not is_loopback(config.gateway.admin_listen):
        raise ConfigError("gateway.admin_listen: must be on loopback, because AdminService asks for no key")
    pepper = settings.resolve_secret(config.gateway.pepper, environ) if config.gateway.pepper else ""
    workers = _addresses(config, flags.worker)
    redis_url = resolved_url("redis.url", config.redis.url, environ)
    broker_url = resolved_broker(config.jobs.broker, environ) or redis_url
    broker_url = broker_url if config.jobs.enabled else None
    return Sources(loaded, pepper.encode(), redis_url, broker_url, workers, flags.reuse_port)


def _addresses(config: Config, given: Sequence[str]) -> dict[str, str]:
    flagged = dict(entry.split("=", 1) for entry in given if "=" in entry)
    for name in flagged:
        if name not in config.pool:
            raise ConfigError(f"--worker {name}: the pool has no such model")
    addresses = {name: flagged.get(name) or model.worker for name, model in config.pool.items()}
    for name, address in addresses.items():
        if address is None:
            raise ConfigError(f"pool.{name}.worker: say where it listens, or let `headgate up` start it")
    return {name: address for name, address in addresses.items() if address is not None}


async def _serve(sources: Sources, flags: argparse.Namespace, environ: Mapping[str, str]) -> None:
    diagnosis.show_tasks_on_signal()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    gateway = Gateway(sources, lambda: _sources(flags, environ))
    try:
        traces.setup(sources.loaded.config.telemetry, "headgate-gateway", gateway.count_lost_spans)
        addresses = await gateway.start()
    except BaseException:
        await gateway.close()
        raise
    # What is here now lives as long as the process: the collector need not look at it with every request.
    gc.collect()
    gc.freeze()
    gc.enable()
    _LOG.info("serving", **addresses, open=sources.loaded.config.gateway.open)
    if flags.ready_file is not None:
        serving.announce(flags.ready_file, addresses)
    await stop.wait()
    _LOG.info("draining")
    await gateway.drain()
    _LOG.info("stopped")
