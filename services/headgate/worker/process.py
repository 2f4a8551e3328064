"""The worker as a process: from flags and settings to a drain after SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from headgate.adapters import diagnosis, logs, serving, settings, traces
from headgate.adapters.config import Config, ModelConfig, TelemetryConfig
from headgate.adapters.telemetry import PortInUseError, WorkerMetrics
from headgate.worker.backends import registry
from headgate.worker.backends.base import Backend, BackendSettings, NotLoadableError, Price
from headgate.worker.server import PortTakenError, ServerSettings, WorkerServer

_LOG = structlog.get_logger("headgate.worker")
_ANY_FREE_PORT = "127.0.0.1:0"


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs the worker; 0 after a drain, 1 when it cannot start, with one sentence on stderr."""
    flags = _parser().parse_args(arguments)
    try:
        config = settings.load(flags.config, environ).config
        model = _model(config, flags.model)
        backend = registry.find(model.backend)(_backend_settings(model, environ))
        logs.setup(config.log_level)
        serving.run(_serve(_server_settings(config, flags), backend, flags, config.telemetry))
    except (settings.ConfigError, NotLoadableError, PortTakenError, PortInUseError) as error:
        logs.say_last(f"headgate worker {flags.model}: {error}")
        return 1
    finally:
        traces.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m headgate.worker", description="Serves one model of the pool until SIGTERM."
    )
    parser.add_argument("--model", required=True, help="the model's name in the pool")
    parser.add_argument("--config", type=Path, help="the config file")
    parser.add_argument("--listen", help="HOST:PORT; port 0 is any free one")
    parser.add_argument(
        "--metrics-listen", metavar="HOST:PORT", help="where its metrics are; without it, nowhere"
    )
    parser.add_argument("--ready-file", type=Path, help="gets the addresses as JSON when serving")
    return parser


def _model(config: Config, name: str) -> ModelConfig:
    if name not in config.pool:
        raise settings.ConfigError(f"pool: there is no model {name!r}; there are: {', '.join(config.pool)}")
    return config.pool[name]


def _backend_settings(model: ModelConfig, environ: Mapping[str, str]) -> BackendSettings:
    return BackendSettings(
        source=model.source,
        draft_source=model.draft_source,
        base_url=model.base_url,
        api_key=settings.resolve_secret(model.api_key, environ) if model.api_key else None,
        omit=model.omit,
        price=Price(model.price.input_nanousd, model.price.output_nanousd) if model.price else None,
        slots=model.slots,
        first_token_s=model.first_token_s,
        idle_s=model.idle_s,
    )


def _server_settings(config: Config, flags: argparse.Namespace) -> ServerSettings:
    model = config.pool[flags.model]
    return ServerSettings(
        model=flags.model,
        backend=model.backend,
        listen=flags.listen or model.worker or _ANY_FREE_PORT,
        slots=model.slots,
        queue=model.queue,
        lame_duck_s=config.gateway.lame_duck_s,
        drain_s=config.gateway.drain_s,
    )


async def _serve(
    server_settings: ServerSettings, backend: Backend, flags: argparse.Namespace, telemetry: TelemetryConfig
) -> None:
    diagnosis.show_tasks_on_signal()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = WorkerMetrics(server_settings.model)
    traces.setup(telemetry, "headgate-worker", metrics.spans_dropped.inc)
    await backend.load()
    try:
        server = WorkerServer(server_settings, backend, metrics)
        addresses = {"metrics": metrics.serve(flags.metrics_listen)} if flags.metrics_listen else {}
        addresses["listen"] = await server.start()
        version = backend.describe().version
        _LOG.info("serving", model=server_settings.model, version=version, **addresses)
        if flags.ready_file is not None:
            serving.announce(flags.ready_file, addresses)
        await stop.wait()
        _LOG.info("draining", model=server_settings.model)
        await server.drain()
    finally:
        await backend.close()
    _LOG.info("stopped", model=server_settings.model)
