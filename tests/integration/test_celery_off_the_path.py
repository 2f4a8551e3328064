"""Interactive calls never meet Celery: without jobs it is not loaded, with them a thread beside calls it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from headgate.v1 import jobs_pb2, jobs_pb2_grpc
from tests.integration.gateway_rig import Stack, config, generate, key, query, streamed, stub, text_of
from tests.integration.job_rig import settings

ACME = key("acme")
WATCHED = """
import json, sys, threading
from pathlib import Path

calls = []
loop = threading.current_thread().name

def watch(frame, event, argument):
    if event == "call":
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package in ("celery", "kombu"):
            calls.append(threading.current_thread().name)

def told():
    loaded = sorted({"celery", "kombu"} & set(sys.modules))
    Path(OUT).write_text(json.dumps({"loaded": loaded, "calls": sorted(set(calls)), "loop": loop}))

from headgate.gateway import process, server

start = server.Gateway.start

async def started(self):
    addresses = await start(self)
    # What is made before it serves is no caller's time.
    threading.setprofile(watch)
    sys.setprofile(watch)
    return addresses

server.Gateway.start = started
code = process.main(sys.argv[1:], __import__("os").environ)
sys.setprofile(None)
told()
sys.exit(code)
"""


class Watched(Stack):
    """A gateway that notes which threads call Celery, and whether it was loaded at all."""

    def start_gateway(self, *names: str, **more: Any) -> Any:
        file = self.directory / "watched.py"
        file.write_text(f"OUT = {str(self.directory / 'told.json')!r}\n{WATCHED}")
        return super().start_gateway(*names, program=(str(file),))

    def told(self) -> dict[str, Any]:
        """What it noted until its end."""
        assert self.gateway.stop() == 0, self.gateway.log.read_text()
        return dict(json.loads((self.directory / "told.json").read_text()))


@pytest.fixture
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    one = Watched(tmp_path_factory.mktemp("watched"), settings() if request.param == "on" else config())
    yield one
    one.close()


async def _asked(one: Watched) -> None:
    async with one.channel() as channel:
        assert text_of(await stub(channel).Generate(generate("what?"), metadata=ACME))
        assert [event async for event in stub(channel).StreamGenerate(streamed("and?"), metadata=ACME)]


@pytest.mark.parametrize("watched", ["off"], indirect=True)
async def test_without_jobs_celery_is_not_even_loaded(watched: Watched) -> None:
    await _asked(watched)
    told = watched.told()
    assert (told["loaded"], told["calls"]) == ([], [])


@pytest.mark.parametrize("watched", ["on"], indirect=True)
async def test_with_jobs_only_a_submission_calls_celery_and_not_on_the_loops_thread(watched: Watched) -> None:
    await _asked(watched)
    async with watched.channel() as channel:
        desk = jobs_pb2_grpc.JobServiceStub(channel)
        await desk.SubmitJob(jobs_pb2.SubmitJobRequest(query=query("later")), metadata=ACME)
    await _asked(watched)
    told = watched.told()
    assert told["calls"], "the submission was not seen: this test sees nothing"
    assert told["loop"] not in told["calls"]
