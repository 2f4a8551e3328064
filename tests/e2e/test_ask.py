from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from headgate.client import Client
from headgate.v1 import router_pb2, router_pb2_grpc, types_pb2
from tests.integration.gateway_rig import scrubbed


class Hesitant(router_pb2_grpc.RouterServiceServicer):
    """Streams half of an answer and the rest only when it is told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.address = ""

    def StreamGenerate(
        self, request: router_pb2.StreamGenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[router_pb2.StreamGenerateResponse]:
        decision = types_pb2.Decision(model="small", reason=types_pb2.REASON_POLICY, cost_nanousd=17)
        yield router_pb2.StreamGenerateResponse(decision=decision)
        yield router_pb2.StreamGenerateResponse(delta=router_pb2.Delta(text="for"))
        assert self.go_on.wait(60)
        yield router_pb2.StreamGenerateResponse(delta=router_pb2.Delta(text="ty two"))
        yield router_pb2.StreamGenerateResponse(finished=router_pb2.Finished(decision=decision))


@pytest.fixture
def hesitant() -> Iterator[Hesitant]:
    served = Hesitant()
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        router_pb2_grpc.add_RouterServiceServicer_to_server(served, server)
        served.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield served
        served.go_on.set()
        server.stop(None).wait()


def test_ask_prints_text_before_the_answer_has_ended(hesitant):
    with subprocess.Popen(
        [sys.executable, "-m", "headgate.cli", "ask", "--address", hesitant.address, "42 in words"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env={name: value for name, value in scrubbed().items() if name != "PYTHONUNBUFFERED"},
    ) as asking:
        assert asking.stdout is not None
        assert os.read(asking.stdout.fileno(), 100) == b"for"
        assert asking.poll() is None
        hesitant.go_on.set()
        out, err = asking.communicate(timeout=60)
    assert out == b"ty two\n"
    assert err.decode().splitlines()[-1].startswith("small · policy · $0.000000017 · ")


def test_ctrl_c_while_watching_ends_the_line_and_says_nothing_more(hesitant):
    command = ("ask", "--watch", "--address", hesitant.address, "42 in words")
    with subprocess.Popen(
        [sys.executable, "-m", "headgate.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=scrubbed(),
    ) as asking:
        assert asking.stdout is not None
        try:
            assert os.read(asking.stdout.fileno(), 100) == b"for"
            asking.send_signal(signal.SIGINT)
            out, err = asking.communicate(timeout=60)
        finally:
            asking.kill()
    assert (asking.returncode, out) == (130, b"\n")
    assert err.decode().splitlines() == ["small first · policy · λ 0"]


def test_ask_and_route_against_the_real_stack(up):
    headgate = up()

    def run(*arguments: str, **kwargs: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "headgate.cli", *arguments],
            capture_output=True, text=True, check=False, timeout=120,
            cwd=headgate.home, env=scrubbed(), **kwargs,
        )  # fmt: skip

    asked = run("ask", "--address", headgate.address, "--model", "large", "--json", input="12 + 30 = ?\n")
    answer = json.loads(asked.stdout)
    with Client(headgate.address) as client:
        expected = client.generate("12 + 30 = ?", model="large")
    assert answer["text"] == expected.text
    assert (answer["decision"]["model"], answer["decision"]["reason"]) == ("large", "pinned")
    assert run("route", "--address", headgate.address, "12 + 30 = ?").stdout.strip() in ("small", "large")
    explained = run("route", "--address", headgate.address, "12 + 30 = ?", "--explain").stdout
    assert "small" in explained
    assert "large" in explained
    assert "±" in explained
    wrong = run("ask", "--address", headgate.address, "--model", "huge", "hi")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("headgate: ")
    assert len(wrong.stderr.strip().splitlines()) == 1
