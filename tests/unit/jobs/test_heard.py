from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

from headgate.adapters import status_map
from headgate.jobs.heard import Heard
from headgate.v1 import router_pb2, types_pb2

Event = router_pb2.StreamGenerateResponse


def failed(code: grpc.StatusCode, *trailing: tuple[str, Any]) -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata(*trailing)
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details="ipv4:10.0.0.7:7070 says no")


def refused(error: Exception) -> grpc.aio.AioRpcError:
    status = status_map.to_status(error)
    return failed(status_map.CODES[status.code], (status_map.DETAILS_KEY, status.SerializeToString()))


def test_an_answer_is_what_the_last_model_said() -> None:
    heard = Heard()
    decision = types_pb2.Decision(request_id="j-1")
    events = [
        Event(decision=types_pb2.Decision()),
        Event(delta=router_pb2.Delta(text="a draft")),
        Event(model_switched=router_pb2.ModelSwitched(from_model="small", to_model="large")),
        Event(delta=router_pb2.Delta(text="the ")),
        Event(delta=router_pb2.Delta(text="answer")),
    ]
    assert all(heard.add(event) for event in events)
    assert heard.answer() is None
    usage = types_pb2.Usage(completion_tokens=2)
    stop = types_pb2.FINISH_REASON_STOP
    finished = router_pb2.Finished(finish_reason=stop, usage=usage, decision=decision)
    assert not heard.add(Event(finished=finished)), "it becomes the job's state"
    answer = heard.answer()
    assert answer is not None
    assert [part.text for part in answer.message.parts] == ["the answer"]
    assert (answer.message.role, answer.finish_reason) == (types_pb2.ROLE_ASSISTANT, stop)
    assert (answer.usage, answer.decision) == (usage, decision)


def test_a_run_counts_from_the_decision_on() -> None:
    heard = Heard()
    assert not heard.begun
    heard.add(Event(decision=types_pb2.Decision()))
    assert heard.begun


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (status_map.OverloadedError("full"), True),
        (status_map.WorkerUnavailableError("gone"), True),
        (status_map.DeadlineError("late"), True),
        (status_map.KeyInvalidError("whose?"), True),
        (status_map.ModelUnknownError("which?"), False),
        (status_map.InvalidRequestError("what?"), False),
        (status_map.PermissionDeniedError("no"), False),
        (ZeroDivisionError(), False),
    ],
)
def test_what_the_gateway_says_is_kept_and_says_whether_to_ask_again(error: Exception, passing: bool) -> None:
    told, again = Heard().failure(refused(error))
    assert (told, again) == (status_map.to_status(error), passing)


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN]
)
def test_a_connection_that_broke_is_told_without_its_address(code: grpc.StatusCode) -> None:
    told, again = Heard().failure(failed(code))
    assert again
    assert told.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert "10.0.0.7" not in str(told)


def test_a_stream_that_just_ends_broke() -> None:
    told, again = Heard().failure(None)
    assert (told.code, again) == (grpc.StatusCode.UNAVAILABLE.value[0], True)


def test_a_deadline_without_a_word_is_one() -> None:
    told, again = Heard().failure(failed(grpc.StatusCode.DEADLINE_EXCEEDED))
    assert (status_map.reason_of(told), again) == ("DEADLINE_EXCEEDED", True)


def test_a_gateway_of_another_kind_helps_nobody_by_being_asked_again() -> None:
    told, again = Heard().failure(failed(grpc.StatusCode.UNIMPLEMENTED))
    assert (told.code, again) == (grpc.StatusCode.UNIMPLEMENTED.value[0], False)


def test_the_last_event_says_more_than_the_calls_end() -> None:
    heard = Heard()
    status = status_map.to_status(status_map.ModelUnknownError("which?"))
    assert not heard.add(Event(error=status))
    assert heard.failure(failed(grpc.StatusCode.NOT_FOUND)) == (status, False)
