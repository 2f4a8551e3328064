"""Promise 29: no prompt, answer, key or secret leaves by a log, error, metric, ledger or core file."""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import grpc.aio
import pytest

from headgate.adapters import status_map
from headgate.gateway.admission import digest
from headgate.v1 import router_pb2, types_pb2
from tests.faults.canaries import Canaries
from tests.faults.chain import Chain
from tests.faults.figures import Form
from tests.faults.upstream import Script, Upstream
from tests.integration.gateway_rig import ROOT, turn

METHODS = ("Generate", "StreamGenerate")
ANSWERED = ("well", "too long")
"""Scripts after which the caller has an answer."""


class Whispering(Chain):
    """A chain in which everything secret is a canary."""

    def __init__(self, directory: Path, base_url: str, canaries: Canaries) -> None:
        self.canaries = canaries
        pepper = canaries.pepper.encode()
        tenants = {"acme": {"keys": [{"id": "acme-1", "hmac_sha256": digest(pepper, canaries.key).hex()}]}}
        super().__init__(directory, base_url, {"tenants": tenants, "cache": {"enabled": False}})

    def _pool(self) -> dict[str, Any]:
        return {name: {**model, "api_key": "env:UPSTREAM_KEY", "idle_s": 0.5, "first_token_s": 0.5}
                for name, model in super()._pool().items()}  # fmt: skip


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, seed: int) -> Iterator[Canaries]:
    """Canaries, in the environment that the processes inherit; core files are allowed as far as can be."""
    canaries = Canaries(seed)
    monkeypatch.setenv("UPSTREAM_KEY", canaries.upstream_key)
    monkeypatch.setattr("tests.integration.gateway_rig.PEPPER", canaries.pepper)
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    yield canaries
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def scripts(canaries: Canaries) -> dict[str, Script]:
    """Every way in which an upstream can answer or fail, with canaries in what it says."""
    body = (
        f'{{"error": {{"message": "{canaries.upstream_body}", "code": "{canaries.upstream_body}"}}}}'.encode()
    )
    statuses = {f"status {code}": Script(status=code, body=body)
                for code in (400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503)}  # fmt: skip
    said = (canaries.answer, " and more")
    return {
        "well": Script(pieces=said),
        "cut": Script(pieces=said, cut_after=1),
        "silent": Script(pieces=said, stall_after=1),
        "silent from the start": Script(stall_after=0),
        "no JSON": Script(pieces=said, raw=f"data: {canaries.upstream_body}\n\n".encode()),
        "an HTML page": Script(status=200, pieces=(), raw=f"<html>{canaries.upstream_body}".encode()),
        "too long": Script(pieces=said, finish_reason="length"),
        **statuses,
    }


async def test_nothing_secret_leaves_by_a_side_door(tmp_path: Path, secrets: Canaries, form: Form) -> None:
    async with Upstream() as upstream:
        running = await asyncio.to_thread(Whispering, tmp_path, upstream.base_url, secrets)
        try:
            told = await tried(running, upstream, secrets)
            told.append(_metrics(running))
            ledger = repr(running.records())
            await asyncio.to_thread(aborted, running)
        finally:
            await asyncio.to_thread(running.close)
    hits = secrets.found(tmp_path, ledger, *told, *left_behind())
    log = running.gateway.log.read_text() + running.workers["large"].log.read_text()
    form.note(
        "29: no prompt, answer, key or secret in a log, error, metric, ledger or core",
        target="0 canaries found",
        measured=f"{len(hits)} found in {len(told)} errors and pages, {len(log):,} bytes of debug logs, "
        "the ledger and what two aborted processes left behind",
        n=len(told),
        met=not hits,
    )
    assert hits == []
    assert "draining" not in log, "the processes ended in peace: no core would have been written"


async def tried(running: Whispering, upstream: Upstream, canaries: Canaries) -> list[str | bytes]:
    """Everything that callers were told, over all ways to fail."""
    told: list[str | bytes] = []
    async with running.channel() as channel:
        for name, script in scripts(canaries).items():
            for method in METHODS:
                upstream.script, calls = script, len(upstream.ledger)
                told.append(await failure(channel, method, _query(canaries), canaries))
                assert len(upstream.ledger) > calls, f"{name}: the upstream was not asked"
                assert bool(told[-1]) == (name not in ANSWERED), f"{name}: {told[-1]!r}"
                # A good answer in between keeps the breaker closed.
                upstream.script = Script()
                assert await failure(channel, method, _query(canaries), canaries) == ""
        told += [await failure(channel, "Generate", one, canaries) for one in broken_queries(canaries)]
        told.append(await failure(channel, "Generate", _query(canaries), canaries, secret=canaries.key[:-1]))
    return told


def _query(canaries: Canaries, **fields: Any) -> types_pb2.Query:
    said = [turn(canaries.system, types_pb2.ROLE_SYSTEM), turn(canaries.prompt)]
    return types_pb2.Query(messages=said, session=canaries.session, model="large", **fields)


def broken_queries(canaries: Canaries) -> list[types_pb2.Query | bytes]:
    return [
        _query(canaries, sampling=types_pb2.Sampling(temperature=9)),
        _query(canaries, sampling=types_pb2.Sampling(stop=[""])),
        _query(canaries, request_id=f"{canaries.prompt}\n"),
        _query(canaries, metadata={canaries.label: canaries.prompt * 100}),
        types_pb2.Query(messages=[turn(canaries.prompt)], model=canaries.label),
        types_pb2.Query(messages=[types_pb2.Message(parts=[types_pb2.Part(text=canaries.prompt)])]),
        b"\x0a\xff" + canaries.prompt.encode(),
    ]


async def failure(
    channel: grpc.aio.Channel,
    method: str,
    query: types_pb2.Query | bytes,
    canaries: Canaries,
    secret: str | None = None,
) -> str:
    """What the caller was told of a failure; of an answer nothing, for the caller may have it."""
    data = query if isinstance(query, bytes) else router_pb2.GenerateRequest(query=query).SerializeToString()
    call = channel.unary_stream(f"/headgate.v1.RouterService/{method}")
    metadata = (("authorization", f"Bearer acme-1.{secret or canaries.key}"),)
    try:
        async for _ in call(data, metadata=metadata, timeout=10):
            pass
    except grpc.aio.AioRpcError as error:
        return f"{error.code()} {error.details()} {status_map.of_call(error)} {error.trailing_metadata()}"
    return ""


def _metrics(running: Chain) -> bytes:
    with urlopen(f"http://{running.addresses['metrics']}/metrics", timeout=10) as page:
        return bytes(page.read())


def aborted(running: Chain) -> None:
    """The gateway and a worker end as after a crash in C code."""
    for process in (running.gateway, running.workers["large"]):
        process.send(signal.SIGABRT)
        process.popen.wait(20)


def left_behind() -> list[bytes]:
    """The core files of the aborted processes, which are removed here: they may hold anything."""
    cores = [file for file in ROOT.glob("core*") if file.is_file()]
    contents = [file.read_bytes() for file in cores]
    for file in cores:
        file.unlink()
    return contents
