"""What the promises share: their form, an upstream, a chain in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.chain import Chain, chain, numbered
from tests.faults.figures import Form
from tests.faults.upstream import Upstream


@pytest.fixture
def form(request: pytest.FixtureRequest, seed: int) -> Form:
    """Short, or long with `--long`."""
    name = request.node.name.translate(str.maketrans("[]/ ", "----"))
    found = Form(bool(request.config.getoption("long")), seed, name)
    if found.long:
        found.begin()
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    """An upstream that writes numbered tokens."""
    async with Upstream(numbered()) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> AsyncIterator[Chain]:
    """A chain in front of the upstream, for all tests of a file."""
    async with chain(tmp_path_factory.mktemp("chain"), upstream) as one:
        yield one
