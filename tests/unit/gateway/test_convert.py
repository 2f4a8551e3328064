"""Wire to brain and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.adapters.config import CascadeConfig, SemanticConfig
from headgate.gateway import convert
from headgate.router import features
from headgate.router.types import WHOLE, Certificate, Decision, ModelEstimate, Objective, Reason
from headgate.v1 import types_pb2

OBJECTIVE = Objective(risk_target=0.1)


def turn(role: types_pb2.Role.ValueType, *texts: str) -> types_pb2.Message:
    return types_pb2.Message(role=role, parts=[types_pb2.Part(text=text) for text in texts])


def test_the_brain_reads_the_last_turn_and_counts_of_the_rest() -> None:
    wire = types_pb2.Query(
        messages=[
            turn(types_pb2.ROLE_SYSTEM, "é" * 3),
            turn(types_pb2.ROLE_USER, "ab"),
            turn(types_pb2.ROLE_ASSISTANT, "cde"),
            turn(types_pb2.ROLE_USER, "what", " now"),
        ],
        model="small",
        required_capabilities=["vision"],
    )
    query = convert.query(
        wire, OBJECTIVE, frozenset({"small"}), "large", 1.5, CascadeConfig(early_stop=False, hedge=True)
    )
    assert (query.required_capabilities, query.seconds_left) == ({"vision"}, 1.5)
    assert (query.text, query.system_bytes, query.history_turns, query.history_bytes) == ("what now", 6, 2, 5)
    assert (query.pinned, query.allowed, query.session_model) == ("small", {"small"}, "large")
    assert (query.temperature, query.top_p) == (0.0, 1.0)
    assert query.prompt_tokens == 3 + 1 + 1 + 2
    assert (query.hold_back, query.early_stop, query.hedged) == (WHOLE, False, True)


@pytest.mark.parametrize(
    ("usual", "asked", "streams", "hold_back"),
    [
        (24, {}, True, 24),
        (24, {}, False, WHOLE),
        (0, {}, False, 0),
        (WHOLE, {"hold_back_tokens": 8}, True, 8),
        (WHOLE, {"hold_back_tokens": 0}, False, 0),
        (0, {"hold_back_tokens": 8}, False, 8),
    ],
)
def test_a_draft_is_held_back_as_the_query_asks_else_as_is_usual_where_it_streams(
    usual: int, asked: dict[str, int], streams: bool, hold_back: int
) -> None:
    terms = CascadeConfig(hold_back_tokens=usual, hedge=True)
    found = convert.cascade(terms, types_pb2.PolicyOverride(**asked), streams)
    assert (found.hold_back_tokens, found.early_stop, found.hedge) == (hold_back, True, True)


@pytest.mark.parametrize(("usual", "read"), [(24, WHOLE), (WHOLE, WHOLE), (0, 0)])
def test_what_is_delivered_at_once_is_read_whole(usual: int, read: int) -> None:
    later = types_pb2.PolicyOverride(upgrade_later=True)
    found = convert.cascade(CascadeConfig(hold_back_tokens=usual), later, streams=True)
    assert (found.upgrade_later, found.hold_back_tokens) == (True, read)


def test_a_query_may_let_drafts_come_to_their_end() -> None:
    assert not convert.cascade(CascadeConfig(), types_pb2.PolicyOverride(early_stop=False), True).early_stop


@given(st.text(min_size=0, max_size=12_000))
def test_a_long_turn_is_read_from_both_ends(text: str) -> None:
    wire = types_pb2.Query(messages=[turn(types_pb2.ROLE_USER, text)])
    read = convert.query(wire, OBJECTIVE, None, "", 60.0, CascadeConfig()).text
    assert len(read.encode()) <= 2 * features.READ_BYTES
    assert text.startswith(read[:1000])
    assert text.endswith(read[-1000:] if read else "")


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_a_name_on_the_wire(reason: Reason) -> None:
    decision = Decision("m", reason, "why", (ModelEstimate("m", 5),))
    assert types_pb2.Reason.Name(convert.decision(decision, "r", "m").reason) == f"REASON_{reason.name}"


def test_a_decision_travels_whole() -> None:
    certificate = Certificate("c", "regret", 0.05, 0.9, 0.3, 100, "ff", 1.5, "large", expires=2.25)
    estimates = (ModelEstimate("small", 3, 0.5, 0.1), ModelEstimate("large", 9, excluded_because="too dear"))
    decision = Decision("small", Reason.POLICY, "why", estimates, 0.25, "b", "p", certificate, 0.75)
    wire = convert.decision(decision, "r", "small")
    assert (wire.request_id, wire.model, wire.expected_cost_nanousd) == ("r", "small", 3)
    assert (getattr(wire, "lambda"), wire.bundle_version, wire.policy_version) == (0.25, "b", "p")
    assert wire.estimates[0].p_correct == 0.5
    assert not wire.estimates[1].HasField("p_correct")
    assert wire.certificate.reference_model == "large"
    assert (wire.certificate.expires.seconds, wire.certificate.expires.nanos) == (2, 250_000_000)
    assert wire.out_of_distribution == 0.75
    fallback = convert.decision(decision, "r", "large")
    assert fallback.model == "large"
    assert not fallback.HasField("certificate")


def test_a_promise_with_the_semantic_cache_s_errors_is_one_in_the_long_run() -> None:
    certificate = Certificate(
        "c", "regret", 0.05, 0.9, 0.3, 100, "ff", 1.5, "large", window=300, slices=("math", "code")
    )
    wire = convert.certificate(certificate)
    assert (wire.window, list(wire.slices)) == (300, ["math", "code"])
    convert.add_wrong_hits(wire, SemanticConfig(wrong_hits=0.02, confidence=0.95))
    assert (wire.window, list(wire.slices)) == (0, [])
    assert wire.risk_target == pytest.approx(0.07)
    assert wire.confidence == pytest.approx(0.85)
    assert wire.semantic_wrong_hits == 0.02


def test_what_is_unknown_stays_empty() -> None:
    wire = convert.decision(Decision("m", Reason.PINNED, "why", (ModelEstimate("m", 5),)), "r", "m")
    assert not wire.HasField("certificate")
    assert not wire.HasField("out_of_distribution")


def test_objectives_are_one_of_two() -> None:
    assert convert.objective(types_pb2.PolicyOverride(risk_target=0.2)) == Objective(risk_target=0.2)
    assert convert.objective(types_pb2.PolicyOverride(budget_nanousd=7)) == Objective(budget_nanousd=7)


@pytest.mark.parametrize(
    ("confidence", "wrong_hits", "promised"),
    [(0.9, 0.01, (0.06, 0.85)), (0.04, 0.01, (0.06, 0.0)), (0.9, 0.97, (1.0, 0.85))],
)
def test_wrong_hits_and_lost_quality_are_one_promise(
    confidence: float, wrong_hits: float, promised: tuple[float, float]
) -> None:
    """Exactly: 0.95 + 0.9 - 1 is 0.85 to who reads it, and not 0.8500000000000001."""
    certificate = types_pb2.Certificate(risk_target=0.05, confidence=0.95)
    convert.add_wrong_hits(certificate, SemanticConfig(confidence=confidence, wrong_hits=wrong_hits))
    assert (certificate.risk_target, certificate.confidence) == promised
    assert certificate.semantic_wrong_hits == wrong_hits
