"""What a valid config names that is not there (backends, bundle, secrets), and what has no effect in it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from headgate.adapters.config import Config
from headgate.adapters.settings import ConfigError, resolve_secret
from headgate.worker.backends import registry


@dataclass(frozen=True, slots=True)
class Missing:
    """One setting that names something missing, or misses another one to have an effect."""

    path: tuple[str, ...]
    sentence: str
    fatal: bool = True
    """False where another machine may have it, and where everything starts without it."""


def missing(config: Config) -> Iterator[Missing]:
    """Everything that would keep the stack from starting; nothing is started, no backend is imported."""
    yield from backends(config)
    refused = bundle(config.policy.bundle)
    if refused:
        yield Missing(("policy", "bundle"), refused)


def backends(config: Config) -> Iterator[Missing]:
    """Models whose backend no installed package registers."""
    installed = registry.names()
    for name, model in config.pool.items():
        if model.backend not in installed:
            sentence = f"no backend {model.backend!r} is installed; there are: {', '.join(installed)}"
            elsewhere = model.worker is not None
            yield Missing(
                ("pool", name, "backend"),
                f"{sentence}; its worker needs one, on its own machine" if elsewhere else sentence,
                fatal=not elsewhere,
            )


def idle(config: Config) -> Iterator[Missing]:
    """Settings that do nothing, because of others."""
    semantic, place = config.cache.semantic, ("cache", "semantic", "enabled")
    wanted = [name for name, tenant in config.tenants.items() if tenant.semantic_cache]
    if not semantic.enabled:
        for name in wanted:
            sentence = (
                "does nothing while the operator's switch is off; write `cache: {semantic: {enabled: true}}`"
            )
            yield Missing(("tenants", name, "semantic_cache"), sentence, fatal=False)
    elif not config.cache.enabled:
        sentence = "does nothing while cache.enabled is false: what it finds is kept in the answer cache"
        yield Missing(place, sentence, fatal=False)
    elif not wanted and not config.gateway.open:
        sentence = "does nothing, for no tenant wants it; write `semantic_cache: true` where one does"
        yield Missing(place, sentence, fatal=False)


def secrets(config: Config, environ: Mapping[str, str]) -> None:
    """Raises ConfigError where a secret is missing that a process of the local stack will ask for."""
    named = {"gateway.pepper": config.gateway.pepper, "redis.url": config.redis.url}
    if config.jobs.enabled:
        named |= {"jobs.broker": config.jobs.broker, "jobs.runner_key": config.jobs.runner_key}
    named |= {f"pool.{name}.api_key": one.api_key for name, one in config.pool.items() if one.worker is None}
    problems = []
    for key, reference in named.items():
        try:
            if reference is not None and reference.startswith(("env:", "file:")):
                resolve_secret(reference, environ)
        except ConfigError as error:
            problems.append(f"{key}: {error}")
    if problems:
        raise ConfigError(*problems)


def bundle(name: str) -> str:
    """Why the bundle, a shipped one or a path, cannot be used; empty when nothing is wrong."""
    try:
        from headgate.gateway.bundle_store import BundleStore
        from headgate.router.errors import BundleError
    except ImportError as error:
        return f'{error.name} is missing, pip install "headgate[server,cpu]"'
    try:
        asyncio.run(BundleStore().read(name))
    except BundleError as error:
        return str(error).removeprefix("policy.bundle: ")
    return ""
