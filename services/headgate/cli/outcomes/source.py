"""Where samples come from: the Redis of the config, and the tenants that were asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from headgate.adapters import settings
from headgate.adapters.ports import SideRoomError
from headgate.adapters.settings import Loaded
from headgate.cli.outcomes import labels
from headgate.cli.outcomes.labels import Labelled
from headgate.cli.state import CommandError

if TYPE_CHECKING:
    from headgate.adapters.sample_reader import Found, SampleReader

T = TypeVar("T")


class Ask(Protocol):
    """Asks the reader of the samples. CommandError when its Redis does not answer."""

    def __call__(self, question: Callable[[SampleReader], Coroutine[Any, Any, T]]) -> T:
        """What the reader says."""


def labelled(
    loaded: Loaded,
    environ: Mapping[str, str],
    tenants: Sequence[str] = (),
    redis_url: str | None = None,
    since: float = 0.0,
    until: float = inf,
) -> Labelled:
    """The labelled samples of these tenants; of the only one where none is named. The period as in `label`.

    CommandError says what is missing: a Redis, a choice of tenants, or any sample at all.
    """
    with opened(loaded, environ, redis_url) as ask:
        return labels.label(found(ask, tenants), since, until)


def found(ask: Ask, tenants: Sequence[str] = ()) -> Found:
    """The samples and outcomes themselves. CommandError as `labelled`."""
    read = ask(lambda reader: reader.found(tenants))
    if not tenants and len(read.tenants) > 1:
        raise CommandError(f"whose samples? Give --tenant, once or more: {', '.join(read.tenants)}")
    if not read.samples:
        raise CommandError("there are no samples: set shadow.share, and let some requests be answered")
    return read


@contextmanager
def opened(loaded: Loaded, environ: Mapping[str, str], redis_url: str | None = None) -> Iterator[Ask]:
    """One connection for the time of a block. CommandError where there is no Redis to ask."""
    from headgate.adapters.sample_reader import reader

    with asyncio.Runner() as runner:
        context = reader(_url(loaded, environ, redis_url))
        one = runner.run(context.__aenter__())

        def ask(question: Callable[[SampleReader], Coroutine[Any, Any, T]]) -> T:
            try:
                return runner.run(question(one))
            except SideRoomError as error:
                raise CommandError(f"the Redis with the samples cannot be asked: {error}") from None

        try:
            yield ask
        finally:
            runner.run(context.__aexit__(None, None, None))


def _url(loaded: Loaded, environ: Mapping[str, str], given: str | None) -> str:
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
