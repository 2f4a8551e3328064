"""Promise 19: a bad bundle changes nothing, and a good one is swapped under load."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from importlib import resources
from itertools import cycle
from pathlib import Path

import grpc.aio
import pytest

from headgate.router import bundle as bundles
from headgate.router import features
from headgate.v1 import admin_pb2, admin_pb2_grpc, router_pb2, router_pb2_grpc
from tests.faults.figures import Form
from tests.integration.gateway_rig import config, key, query, refusal, stack, stub

ACME = key("acme")
BUNDLE = Path(str(resources.files("headgate.gateway"))) / "bundles/builtin.bundle"


def _cut(good: bytes, draw: random.Random) -> bytes:
    return good[: draw.randrange(len(good))]


def _flipped(good: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(good))
    return good[:at] + bytes([good[at] ^ 1 << draw.randrange(8)]) + good[at + 1 :]


def _noise(good: bytes, draw: random.Random) -> bytes:
    return draw.randbytes(min(len(good), 10_000))


def _another_file(_good: bytes, _draw: random.Random) -> bytes:
    return (resources.files("headgate.worker.backends.builtin") / "weights/small.onnx").read_bytes()


def _of_tomorrow(good: bytes, _draw: random.Random) -> bytes:
    """Sealed as it should be, with a feature schema that is not this program's."""
    start = len(b"headgate bundle\n")
    ours = b'"feature_schema":%d' % features.SCHEMA
    body = good[start + 32 :].replace(ours, b'"feature_schema":9')
    return good[:start] + sha256(body).digest() + body


def _doubled(good: bytes, _draw: random.Random) -> bytes:
    return good + good


BAD: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut": _cut,
    "one bit flipped": _flipped,
    "noise": _noise,
    "another file": _another_file,
    "twice": _doubled,
    "of another schema": _of_tomorrow,
}


async def test_bad_bundles_change_nothing_and_good_ones_swap_under_load(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, form: Form
) -> None:
    file, draw = tmp_path / "mine.bundle", random.Random(form.seed)
    goods = cycle(two_good_bundles())
    file.write_bytes(good := next(goods))
    n, refused = form.count(20, 400), Counter[str]()
    with stack(tmp_path_factory, {**config(), "policy": {"bundle": str(file)}}) as running:
        async with (
            running.channel() as channel,
            grpc.aio.insecure_channel(running.addresses["admin"]) as operator,
        ):
            admin, stop = running.admin(operator), asyncio.Event()
            in_force = [(await admin.GetStatus(admin_pb2.GetStatusRequest())).bundle_version]
            routing = asyncio.ensure_future(route_until(stop, stub(channel)))
            for number in range(n):
                name = list(BAD)[number % len(BAD)]
                file.write_bytes(BAD[name](good, draw))
                error = await refusal(admin.ReloadBundle(admin_pb2.ReloadBundleRequest(), timeout=30))
                assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
                refused[name] += 1
                if number % 5 == 4:
                    file.write_bytes(good := next(goods))
                    in_force.append(await swapped(admin))
                    assert await decided_by(stub(channel)) == in_force[-1] != in_force[-2]
                else:
                    assert await decided_by(stub(channel)) == in_force[-1]
            stop.set()
            versions = await routing
    form.note(
        "19: bad bundles change nothing, good ones swap under load",
        target="every bad one refused, the old one in force, 0 failed requests",
        measured=f"{sum(refused.values())} of {n} refused, {n // 5} swaps; "
        f"{versions.total()} decisions meanwhile, each by one of the good ones, 0 failed",
        n=n,
        met=set(versions) == set(in_force),
    )
    assert set(versions) == set(in_force)
    assert len(set(in_force)) == 2


def two_good_bundles() -> list[bytes]:
    """The shipped one, and one that differs in its notes: equal decisions, another version."""
    shipped = bundles.load(BUNDLE.read_bytes())
    return [BUNDLE.read_bytes(), bundles.dump(replace(shipped.contents, notes={"made by": "a test"}))]


async def decided_by(router: router_pb2_grpc.RouterServiceStub) -> str:
    """The version that a decision names now."""
    request = router_pb2.RouteRequest(query=query("1 + 1 = ?"))
    return str((await router.Route(request, metadata=ACME, timeout=10)).decision.bundle_version)


async def swapped(admin: admin_pb2_grpc.AdminServiceStub) -> str:
    return str((await admin.ReloadBundle(admin_pb2.ReloadBundleRequest(), timeout=30)).bundle_version)


async def route_until(stop: asyncio.Event, router: router_pb2_grpc.RouterServiceStub) -> Counter[str]:
    """Decisions, one after the other, counted by the bundle that made them; none may fail."""
    versions, number = Counter[str](), 0
    while not stop.is_set():
        request = router_pb2.RouteRequest(query=query(f"{number} + 1 = ?"))
        versions[(await router.Route(request, metadata=ACME, timeout=10)).decision.bundle_version] += 1
        number += 1
    return versions
