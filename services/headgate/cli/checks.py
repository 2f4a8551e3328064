"""What a valid config may name that is not there: backends, and the bundle."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from headgate.adapters.config import Config
from headgate.worker.backends import registry


@dataclass(frozen=True, slots=True)
class Missing:
    """One setting that names something missing."""

    path: tuple[str, ...]
    sentence: str
    fatal: bool = True
    """False where another machine may have it."""


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
