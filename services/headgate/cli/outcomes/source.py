"""Where samples come from: the Redis of the config, and the tenants that were asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from headgate.adapters import settings
from headgate.adapters.ports import SideRoomError
from headgate.adapters.settings import Loaded
from headgate.cli.outcomes import labels
from headgate.cli.outcomes.labels import Labelled
from headgate.cli.state import CommandError

if TYPE_CHECKING:
    from headgate.adapters.sample_reader import Found, SampleReader

T = TypeVar("T")


def labelled(
    loaded: Loaded, environ: Mapping[str, str], tenants: Sequence[str] = (), redis_url: str | None = None
) -> Labelled:
    """The labelled samples of these tenants; of the only one where none is named.

    CommandError says what is missing: a Redis, a choice of tenants, or any sample at all.
    """
    return labels.label(found(loaded, environ, tenants, redis_url))


def found(
    loaded: Loaded, environ: Mapping[str, str], tenants: Sequence[str] = (), redis_url: str | None = None
) -> Found:
    """The samples and outcomes themselves. CommandError as `labelled`."""
    read = ask(url(loaded, environ, redis_url), lambda reader: reader.found(tenants))
    if not tenants and len(read.tenants) > 1:
        raise CommandError(f"whose samples? Give --tenant, once or more: {', '.join(read.tenants)}")
    if not read.samples:
        raise CommandError("there are no samples: set shadow.share, and let some requests be answered")
    return read


def url(loaded: Loaded, environ: Mapping[str, str], given: str | None) -> str:
    """The Redis's URL, resolved. CommandError where there is none, ConfigError for a missing secret."""
    from headgate.adapters.redis_client import is_url

    where = given or loaded.config.redis.url
    if where is None:
        raise CommandError("where are the samples? Set redis.url, or give --redis-url")
    if where.startswith(("env:", "file:")):
        where = settings.resolve_secret(where, environ)
    if not is_url(where):
        raise CommandError("redis.url: this is no redis://, rediss:// or unix:// URL")
    return where


def ask(where: str, question: Callable[[SampleReader], Awaitable[T]]) -> T:
    """What a reader of that Redis says; CommandError when Redis does not."""
    from headgate.adapters.sample_reader import reader

    async def asked() -> T:
        async with reader(where) as one:
            return await question(one)

    try:
        return asyncio.run(asked())
    except SideRoomError as error:
        raise CommandError(f"the Redis with the samples cannot be asked: {error}") from None
