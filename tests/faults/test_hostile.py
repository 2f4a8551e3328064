"""Promises 20 and 21: hostile bytes, sizes and metadata are refused cleanly and cost nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from itertools import product

import grpc
import grpc.aio
import psutil
import pytest
import pytest_asyncio
from google.protobuf.empty_pb2 import Empty

from headgate.adapters import status_map
from headgate.v1 import router_pb2, types_pb2
from tests.faults import hostile
from tests.faults.figures import Form
from tests.integration.gateway_rig import Stack, generate, key, query, refusal, stack, stub

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACME = key("acme")
ROUTE = "/headgate.v1.RouterService/Route"
METHODS = ("Generate", "StreamGenerate", "Route", "RecordOutcome")
CLEAN = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
POSSIBLE = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)
"""A mutation may be a valid message that asks for a model or an objective that there is not."""
INTERNALS = re.compile(
    r"Traceback|Exception|[a-z]Error\b|google\.protobuf|python|\.py\b|<class|0x[0-9a-f]{6}"
)
SIZES = (7_000, 9_000, 13_000, 64_000)
GROWTH_BYTES = 32 << 20
GOOD = router_pb2.RouteRequest(
    query=query(
        "What is 12 + 30?",
        sampling=types_pb2.Sampling(temperature=0.5, stop=["a", "b"]),
        metadata={"team": "blue"},
        request_id="r-1",
    )
).SerializeToString()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    with stack(tmp_path_factory) as one:
        yield one


async def ask(
    channel: grpc.aio.Channel,
    method: str,
    data: bytes,
    compression: grpc.Compression = grpc.Compression.NoCompression,
) -> grpc.aio.AioRpcError | None:
    """Sends bytes as they are; the error that came back, if there was one."""
    call = channel.unary_stream(method, request_serializer=_as_it_is, response_deserializer=Empty.FromString)(
        data, metadata=ACME, timeout=30, compression=compression
    )
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error
    return None


def _as_it_is(data: bytes) -> bytes:
    return data


def said(error: grpc.aio.AioRpcError) -> str:
    """Everything that a caller gets to read."""
    rich = status_map.of_call(error)
    return f"{error.details()} {rich}"


async def test_broken_messages_are_refused_cleanly(running: Stack, form: Form) -> None:
    """Mutations that are still a valid message may be answered; nothing may end in any other way."""
    n, codes = form.count(300, 20_000), Counter[str]()
    before = memory(running)
    async with running.channel() as channel:
        for data in hostile.mutated(GOOD, n, form.seed):
            error = await ask(channel, ROUTE, data)
            codes[error.code().name if error else "OK"] += 1
            if error is not None:
                assert error.code() in (*CLEAN, *POSSIBLE)
                assert not INTERNALS.search(said(error)), said(error)
    grown = memory(running) - before
    assert codes["INVALID_ARGUMENT"] > n / 5
    form.note(
        "20: mutated messages are refused without internals",
        target="a clean status each; RSS ≤ +32 MiB",
        measured=f"{dict(codes.most_common())}; RSS {grown / 2**20:+.1f} MiB",
        n=n,
        met=grown <= GROWTH_BYTES,
    )


@pytest.mark.parametrize("method", METHODS)
async def test_deep_oversize_and_unknown_messages_are_refused_or_dropped(
    running: Stack, form: Form, method: str
) -> None:
    before, refused = memory(running), 0
    path = f"/headgate.v1.RouterService/{method}"
    deep = [GOOD + hostile.nested(depth) for depth in (150, 5_000)]
    monsters = [*deep, bytes(2 << 20), hostile.unknown_field(2 << 20)]
    async with running.channel() as channel:
        for data, squeezed in product(monsters, (grpc.Compression.NoCompression, grpc.Compression.Gzip)):
            error = await ask(channel, path, data, squeezed)
            assert error is not None
            assert error.code() in CLEAN
            assert not INTERNALS.search(said(error)), said(error)
            refused += 1
        for _ in range(form.count(3, 50)):
            error = await ask(channel, ROUTE, GOOD + hostile.unknown_field(900_000))
            assert error is None, "an unknown field of a newer version is no reason to refuse"
            assert await ask(channel, ROUTE, GOOD + hostile.nested(50)) is None
    grown = memory(running) - before
    form.note(
        f"20: deep, oversize and unknown fields ({method})",
        target="INVALID_ARGUMENT or RESOURCE_EXHAUSTED; RSS ≤ +32 MiB",
        measured=f"{refused} of {2 * len(monsters)} refused, plain and gzipped; RSS {grown / 2**20:+.1f} MiB",
        n=2 * len(monsters),
        met=grown <= GROWTH_BYTES,
    )


def memory(running: Stack) -> int:
    """Resident bytes of the gateway."""
    return int(psutil.Process(running.gateway.popen.pid).memory_info().rss)


async def test_metadata_is_cut_at_8_kib_always(running: Stack, form: Form) -> None:
    tries, passed = form.count(5, 60), Counter[int]()
    async with running.channel() as channel:
        for size in SIZES:
            for _ in range(tries):
                metadata = (*ACME, ("x-filler", "a" * size))
                passed[size] += await lets_in(channel, metadata)
        many = tuple((f"x-{number}", "a" * 20) for number in range(1_000))
        assert not await lets_in(channel, (*ACME, *many))
        assert await lets_in(channel, ACME)
    form.note(
        "21: metadata has one limit, 8 KiB",
        target="7 kB always in; 9 kB and more never",
        measured=", ".join(f"{size:,} B: {passed[size]} of {tries} in" for size in SIZES),
        n=4 * tries,
        met=passed == Counter({7_000: tries}),
    )
    assert {size: count for size, count in passed.items() if count} == {7_000: tries}


async def lets_in(channel: grpc.aio.Channel, metadata: Iterable[tuple[str, str]]) -> bool:
    """Whether a call with this metadata is answered; if not, the refusal must be a clean one."""
    error = await routed(channel, metadata)
    assert error is None or error.code() in CLEAN, said(error)
    return error is None


async def routed(
    channel: grpc.aio.Channel, metadata: Iterable[tuple[str, str | bytes]]
) -> grpc.aio.AioRpcError | None:
    """The error of a call with this metadata, if there was one."""
    request = router_pb2.RouteRequest(query=query("x"))
    try:
        await stub(channel).Route(request, metadata=tuple(metadata), timeout=10)
    except grpc.aio.AioRpcError as error:
        return error
    return None


@pytest.mark.parametrize(
    "junk",
    [
        (("grpc-status-details-bin", b"\xff" * 100),),
        (("x-junk-bin", b"\x00\xff" * 500),),
        (("grpc-timeout", "99999999H"),),
        (("authorization", "Bearer ."),),
        (("authorization", "Bearer '; DROP TABLE keys; --." + "x" * 4_000),),
    ],
)
async def test_junk_in_metadata_is_ignored_or_refused(
    running: Stack, junk: tuple[tuple[str, str | bytes], ...]
) -> None:
    async with running.channel() as channel:
        error = await routed(channel, junk if junk[0][0] == "authorization" else (*ACME, *junk))
        assert error is None or error.code() in (*CLEAN, grpc.StatusCode.UNAUTHENTICATED)
        assert error is None or not INTERNALS.search(said(error))
        assert await stub(channel).Generate(generate("still here"), metadata=ACME, timeout=10)


async def test_nobody_without_a_key_has_a_body_parsed(running: Stack) -> None:
    async with running.channel() as channel:
        call = channel.unary_unary(ROUTE, request_serializer=_as_it_is, response_deserializer=_as_it_is)
        error = await refusal(call(b"\xff" * 100, timeout=10))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
