"""What the promises share: their form, an upstream, a chain in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.faults.chain import Chain, chain, numbered
from tests.faults.figures import Figure, Form, commit, keep
from tests.faults.page import noted
from tests.faults.upstream import Upstream


@pytest.fixture
def form(request: pytest.FixtureRequest, seed: int) -> Iterator[Form]:
    """Short, or long with `--long`. A long form that fails before it measured anything is noted as well."""
    name = request.node.name.translate(str.maketrans("[]/ ", "----"))
    found = Form(bool(request.config.getoption("long")), seed, name)
    before = len(noted())
    yield found
    if found.long and len(noted()) == before:
        failed = "it failed before anything was measured"
        keep(name, Figure(f"0: {name}", "", failed, 0, met=False, seed=seed, commit=commit()))


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
