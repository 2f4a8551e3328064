"""What `ask` and `route` say, to a gateway that answers as the question asks it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf.json_format import MessageToJson
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from headgate.adapters import status_map
from headgate.adapters.status_map import KeyMissingError, WorkerUnavailableError
from headgate.cli import app
from headgate.v1 import router_pb2, router_pb2_grpc, types_pb2

Run = Callable[..., tuple[int, str, str]]
NOBODY = "no worker serves yet (small: it cannot be reached)"
ERRORS = {"nobody": WorkerUnavailableError(NOBODY), "key": KeyMissingError("send a key in call metadata")}
DECISION = types_pb2.Decision(model="small", reason=types_pb2.REASON_POLICY)


class Gateway(router_pb2_grpc.RouterServiceServicer):
    """Answers "nothing", "short" or "half" so; fails with an error of ERRORS, hangs, or is plainly out.

    Says as its explanation what was asked of the answer cache.
    """

    def StreamGenerate(
        self, request: router_pb2.StreamGenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[router_pb2.StreamGenerateResponse]:
        question = request.query.messages[-1].parts[0].text
        self._fail(question, context)
        yield router_pb2.StreamGenerateResponse(decision=DECISION)
        if question != "nothing":
            yield router_pb2.StreamGenerateResponse(delta=router_pb2.Delta(text="4"))
        if question == "half":
            return
        reason = types_pb2.FINISH_REASON_LENGTH if question == "short" else types_pb2.FINISH_REASON_STOP
        decision = types_pb2.Decision(explanation=MessageToJson(request.query.cache, indent=None))
        decision.MergeFrom(DECISION)
        finished = router_pb2.Finished(decision=decision, finish_reason=reason)
        yield router_pb2.StreamGenerateResponse(finished=finished)

    def _fail(self, question: str, context: grpc.ServicerContext) -> None:
        if question in ERRORS:
            status = status_map.to_status(ERRORS[question])
            context.set_trailing_metadata(((status_map.DETAILS_KEY, status.SerializeToString()),))
            context.abort(status_map.CODES[status.code], status.message)
        if question == "out":
            context.abort(grpc.StatusCode.UNAVAILABLE, "out for lunch")
        if question == "hang":
            gone = threading.Event()
            context.add_callback(gone.set)
            gone.wait(30)


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs `headgate ask`; its exit code, stdout and stderr."""
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        router_pb2_grpc.add_RouterServiceServicer_to_server(Gateway(), server)
        # As while no worker serves: who watches health never gets to hear the gateway's own sentence.
        unwell = health.HealthServicer()
        unwell.set("headgate.v1.RouterService", health_pb2.HealthCheckResponse.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(unwell, server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()

        def line(*arguments: str) -> tuple[int, str, str]:
            code = app.run(("ask", *arguments, "--address", address), {})
            out, err = capsys.readouterr()
            return code, out, err

        yield line
        server.stop(None).wait()


def test_an_empty_answer_is_said_to_be_one(ask: Run) -> None:
    code, out, err = ask("nothing")
    assert (code, out) == (0, "")
    assert err.startswith("the model small answered with nothing\nsmall · policy")
    code, out, err = ask("nothing", "--json")
    assert (code, json.loads(out)["text"]) == (0, "")
    assert err == "the model small answered with nothing\n"


def test_an_answer_that_was_cut_is_said_to_be_so(ask: Run) -> None:
    code, out, err = ask("short", "--max-tokens", "1")
    assert (code, out) == (0, "4\n")
    assert err.startswith("the answer was cut at --max-tokens 1\n")
    assert ask("short")[2].startswith("the answer was cut at the model's limit\n")
    assert ask("whole")[2].startswith("small · policy")


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ((), {}),
        (("--cache-tag", "a", "--cache-tag", "b"), {"tags": ["a", "b"]}),
        (("--cache-bypass",), {"bypass": True}),
        (("--exact-only",), {"exactOnly": True}),
    ],
)
def test_what_is_asked_of_the_cache_reaches_the_gateway(
    ask: Run, arguments: tuple[str, ...], asked: dict[str, object]
) -> None:
    code, out, _ = ask("whole", "--json", *arguments)
    assert code == 0
    assert json.loads(json.loads(out)["decision"]["explanation"]) == asked


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("nobody", NOBODY),
        ("out", "out for lunch"),
        ("key", "the gateway wants a key: give --key, or set HEADGATE_KEY"),
    ],
)
def test_an_error_is_one_sentence_and_nothing_on_stdout(ask: Run, question: str, expected: str) -> None:
    assert ask(question) == (1, "", f"headgate: {expected}\n")


def test_a_line_that_was_begun_is_ended_and_the_cut_is_named(ask: Run) -> None:
    code, out, err = ask("half")
    assert (code, out) == (1, "4\n")
    assert "no gateway answers" not in err
    assert "the stream" in err


def test_too_short_a_timeout_names_the_option(ask: Run) -> None:
    sentence = "headgate: no whole answer within 0.3 s: give a longer --timeout\n"
    assert ask("hang", "--timeout", "0.3") == (1, "", sentence)
