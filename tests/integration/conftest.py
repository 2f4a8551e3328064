"""What every file of these tests may ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from headgate.adapters.redis_client import connect
from tests.integration.brokers import BROKERS, Broker, Node, OnValkey, node
from tests.integration.gateway_rig import Valkey


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A RabbitMQ node; the test is skipped where there is none to start."""
    yield from node(tmp_path_factory.mktemp("rabbitmq"))


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One for a file."""
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture
async def client(valkey: Valkey) -> AsyncIterator[Redis]:
    """Of that one, which is empty again."""
    one = connect(valkey.url, 5.0, 1.0)
    await one.flushall()
    yield one
    await one.aclose()


@pytest.fixture(scope="module", params=BROKERS)
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Each kind of broker in turn, one that a file has for itself and may stop."""
    if request.param == "rabbitmq":
        yield request.getfixturevalue("rabbitmq").vhost()
        return
    server = Valkey(tmp_path_factory.mktemp("broker"))
    yield OnValkey(server)
    server.stop()


@pytest.fixture(scope="module", params=BROKERS)
def elsewhere(request: pytest.FixtureRequest) -> Broker | None:
    """A broker beside the Valkey of the records, and None: that one itself."""
    if request.param == "rabbitmq":
        vhost: Broker = request.getfixturevalue("rabbitmq").vhost()
        return vhost
    return None
