from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import grpc
import pytest

from headgate.client import (
    Answer,
    CannotServe,
    Client,
    DeadlineExceeded,
    Decision,
    Delta,
    HeadgateError,
    InvalidRequest,
    Message,
    ModelSwitched,
    NotCertified,
    NotFound,
    Overloaded,
    PermissionDenied,
    ServerFault,
    StreamCut,
    Unauthenticated,
    Unavailable,
    usd,
)
from headgate.v1 import router_pb2, types_pb2


@pytest.fixture
def client(gateway) -> Iterator[Client]:
    with Client(gateway.address, key="web.s3cret", timeout_s=20) as opened:
        yield opened


def test_a_whole_answer_with_its_decision(client):
    answer = client.generate("40 + 2 = ?")
    assert (answer.text, answer.finish_reason) == ("42", "stop")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 2)
    assert (answer.decision.model, answer.decision.reason) == ("small", "policy")
    assert answer.decision.estimates[0].p_correct == 0.9
    assert answer.decision.estimates[1].p_correct is None
    assert answer.decision.overhead_s == pytest.approx(0.0015)
    assert answer.decision.certificate is not None
    assert answer.decision.certificate.reference_model == "large"
    assert answer.decision.certificate.expires is None
    assert usd(answer.decision.cost_nanousd) == Decimal("0.00000125")


def test_options_reach_the_wire_and_the_others_stay_unset(client, gateway):
    client.generate(
        [Message("system", "be short"), {"role": "user", "content": "hi"}],
        model="large",
        risk_target=0.1,
        temperature=0.0,
        stop=["x"],
        session="s",
        metadata={"a": "b"},
        required_capabilities=["german"],
        cache_tags=["prices"],
        exact_only=True,
    )
    query = gateway.seen[0].query
    assert [message.role for message in query.messages] == [types_pb2.ROLE_SYSTEM, types_pb2.ROLE_USER]
    assert (query.model, query.session, dict(query.metadata)) == ("large", "s", {"a": "b"})
    assert list(query.required_capabilities) == ["german"]
    assert (list(query.cache.tags), query.cache.bypass, query.cache.exact_only) == (["prices"], False, True)
    assert query.policy_override.risk_target == 0.1
    assert query.sampling.HasField("temperature")
    assert not query.sampling.HasField("top_p")
    assert list(query.sampling.stop) == ["x"]


def test_every_call_carries_key_and_deadline(client, gateway):
    for call in (client.generate, client.route, lambda text: list(client.stream(text))):
        call("hi")
        assert gateway.metadata["authorization"] == "Bearer web.s3cret"
        assert gateway.remaining_s is not None
        assert 15 < gateway.remaining_s < 21  # gRPC rounds the timeout up
    client.generate("hi", timeout_s=5)
    assert gateway.remaining_s < 6


def test_no_key_sends_no_authorization(gateway):
    with Client(gateway.address) as client:
        client.route("hi")
    assert "authorization" not in gateway.metadata


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", InvalidRequest),
        ("UNAUTHENTICATED", Unauthenticated),
        ("PERMISSION_DENIED", PermissionDenied),
        ("NOT_FOUND", NotFound),
        ("FAILED_PRECONDITION", NotCertified),
        ("RESOURCE_EXHAUSTED", Overloaded),
        ("DEADLINE_EXCEEDED", DeadlineExceeded),
        ("UNAVAILABLE", Unavailable),
        ("INTERNAL", ServerFault),
        ("UNIMPLEMENTED", ServerFault),
    ],
)
def test_each_status_is_one_typed_error(client, code, kind):
    for call in (client.generate, client.route, lambda text: list(client.stream(text))):
        with pytest.raises(HeadgateError) as caught:
            call(code)
        assert isinstance(caught.value, kind)
        assert caught.value.code is grpc.StatusCode[code]
        assert caught.value.retry_after_s == 2.5
        assert "one sentence" in str(caught.value)
        assert caught.value.__suppress_context__
    assert issubclass(NotCertified, CannotServe)


def test_a_bad_field_is_named(client):
    with pytest.raises(InvalidRequest) as caught:
        client.generate("INVALID_ARGUMENT")
    assert [(one.field, one.rule) for one in caught.value.fields] == [("query.messages", "give one")]
    assert caught.value.reason == "SOME_REASON"


def test_a_call_ends_at_its_deadline(client):
    with pytest.raises(DeadlineExceeded):
        client.generate("hang", timeout_s=0.2)


def test_nobody_there_is_unavailable_without_a_reason():
    with Client("127.0.0.1:1", timeout_s=5) as client, pytest.raises(Unavailable) as caught:
        client.generate("hi")
    assert caught.value.reason == ""


def test_a_stream_is_decision_text_answer(client):
    with client.stream("switch") as stream:
        events = list(stream)
    assert [type(event) for event in events] == [Decision, ModelSwitched, Delta, Delta, Answer]
    assert events[1].escalation
    assert stream.answer.text == "42"
    assert stream.answer.finish_reason == "length"
    assert stream.decision is stream.answer.decision


def test_a_watched_stream_tells_log_probabilities_and_the_draft(client, gateway):
    with client.stream("switch", watch=True) as stream:
        _, switched, first, *_ = stream
    assert gateway.seen[-1].watch
    assert switched.explanation == "It is doubtful."
    assert switched.draft == (Delta("5", (-2.0, -1.0)),)
    assert first == Delta("4", (-0.5,))


def test_a_stream_is_not_watched_unless_it_is_asked_for(client, gateway):
    with client.stream("switch") as stream:
        _, switched, first, *_ = stream
    assert not gateway.seen[-1].watch
    assert switched == ModelSwitched("small", "large", True, "It is doubtful.")
    assert first == Delta("4")


def test_text_arrives_while_the_server_still_works(client, gateway):
    with client.stream("hold") as stream:
        texts = stream.texts()
        assert next(texts) == "4"
        with pytest.raises(RuntimeError, match="not ended"):
            stream.answer  # noqa: B018
        gateway.go_on.set()
        assert "".join(texts) == "2"
    assert stream.answer.text == "42"


def test_leaving_a_stream_cancels_it_upstream(client, gateway):
    with client.stream("hold") as stream:
        next(iter(stream))
    assert gateway.cancelled.wait(10)


def test_a_stream_without_its_last_event_is_cut(client):
    stream = client.stream("cut")
    with pytest.raises(StreamCut) as caught:
        list(stream)
    assert caught.value.partial == "4"


def test_losing_the_gateway_in_mid_stream_is_a_cut(client):
    with pytest.raises(StreamCut) as caught:
        list(client.stream("UNAVAILABLE"))
    assert caught.value.partial == "4"
    assert caught.value.retry_after_s == 2.5


def test_an_error_event_is_raised_as_its_own_type(client):
    with pytest.raises(DeadlineExceeded, match="too slow") as caught:
        list(client.stream("error event"))
    assert caught.value.partial == "4"


def test_outcomes(client, gateway):
    client.record_outcome("r-1", "small", 0.5, source="judge")
    assert gateway.seen == [
        router_pb2.RecordOutcomeRequest(
            request_id="r-1", model="small", quality=0.5, source=router_pb2.OUTCOME_SOURCE_JUDGE
        )
    ]


def test_what_cannot_be_written_never_leaves(client, gateway):
    with pytest.raises(ValueError, match="not both"):
        client.generate("hi", risk_target=0.1, budget_nanousd=5)
    with pytest.raises(TypeError, match="temprature"):
        client.generate("hi", temprature=1)
    with pytest.raises(ValueError, match="role"):
        client.generate([{"role": "robot", "content": "hi"}])
    with pytest.raises(ValueError, match="a source is one of user, judge, check"):
        client.record_outcome("r-1", "small", 1.0, source="banana")
    assert gateway.seen == []


@pytest.mark.parametrize("timeout_s", [0, -1, 601, float("nan")])
def test_no_call_without_a_sane_deadline(client, timeout_s):
    with pytest.raises(ValueError, match="timeout_s"):
        client.generate("hi", timeout_s=timeout_s)
    with pytest.raises(ValueError, match="timeout_s"):
        Client(timeout_s=timeout_s)
