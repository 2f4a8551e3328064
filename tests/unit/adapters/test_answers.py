"""The port Answers: its form on Redis and its twin in memory keep the same promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from headgate.adapters.memory import MemoryAnswers
from headgate.adapters.ports import Answers, Role
from headgate.adapters.redis_answers import RedisAnswers
from headgate.adapters.redis_client import Guard, connect
from tests.integration.gateway_rig import Valkey


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    one = Valkey(tmp_path_factory.mktemp("valkey"))
    yield one
    one.stop()


@pytest.fixture(params=["redis", "memory"])
async def answers(request: pytest.FixtureRequest, server: Valkey) -> AsyncIterator[Answers]:
    if request.param == "memory":
        yield MemoryAnswers()
        return
    server.client.flushall()
    client = connect(server.url, 5.0, 5.0, 5.0)
    yield RedisAnswers(client, Guard())
    await client.aclose()


async def test_who_leads_writes_and_its_flight_is_over(answers: Answers) -> None:
    assert await answers.find("k", b"", b"first", 60) is Role.LEADS
    assert await answers.find("k", b"", b"second", 60) is Role.LED
    assert await answers.put("k", b"answer", 60, b"first", b"")
    assert await answers.find("k", b"", b"second", 60) == b"answer"
    assert await answers.find("k", b"ans", b"second", 60) is Role.LEADS


async def test_who_leads_and_did_not_hear_it_is_told_again(answers: Answers) -> None:
    assert await answers.find("k", b"", b"first", 60) is Role.LEADS
    assert await answers.find("k", b"", b"first", 60) is Role.LEADS


async def test_an_empty_value_is_none(answers: Answers) -> None:
    """It begins with nothing, so that who knows it already could not say so."""
    assert await answers.put("k", b"", 60, b"", None)
    assert await answers.find("k", b"", b"first", 60) is Role.LEADS
    assert await answers.put("k", b"that of one who asked alone", 60, b"", b"")
    assert await answers.find("k", b"", b"second", 60) == b"that of one who asked alone"


async def test_a_leader_that_was_replaced_writes_over_nobody(answers: Answers) -> None:
    assert await answers.find("k", b"", b"frozen", 0.01) is Role.LEADS
    async with asyncio.timeout(10):
        while await answers.find("k", b"", b"second", 60) is not Role.LEADS:
            await asyncio.sleep(0.005)
    assert await answers.put("k", b"the second's", 60, b"second", b"")
    assert await answers.put("k", b"a better one", 60, b"", None), "whatever is there"
    assert not await answers.put("k", b"the frozen one's", 60, b"frozen", b"")
    assert not await answers.put("k", b"that of one who asked alone", 60, b"", b"")
    assert await answers.get("k") == b"a better one"


async def test_who_leads_no_more_writes_where_nothing_is_or_what_it_was_to_replace(answers: Answers) -> None:
    assert await answers.put("k", b"1: the frozen one's", 60, b"frozen", b"")
    assert await answers.put("k", b"2: anew", 60, b"frozen", b"1:")
    assert not await answers.put("k", b"3: too late", 60, b"frozen", b"1:")
    assert await answers.get("k") == b"2: anew"


async def test_where_nothing_can_be_shared_nobody_leads_for_a_moment(answers: Answers) -> None:
    assert await answers.find("k", b"", b"first", 60) is Role.LEADS
    await answers.leave("k", b"somebody else", alone=True)
    assert await answers.find("k", b"", b"second", 60) is Role.LED
    await answers.leave("k", b"first", alone=True)
    assert await answers.find("k", b"", b"second", 60) is Role.ALONE
