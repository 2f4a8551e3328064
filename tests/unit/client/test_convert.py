"""What the wire says of a decision is what the client tells of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from headgate.client import Attempt, Certificate, Decision, ModelEstimate, SemanticHit, convert
from headgate.client.types import Options
from headgate.v1 import types_pb2

RENAMED = {"lambda": "lam", "overhead": "overhead_s", "duration": "duration_s", "usage": "completion_tokens"}


@pytest.mark.parametrize("mine", [Attempt, Certificate, Decision, ModelEstimate, SemanticHit])
def test_no_field_is_forgotten(mine: Any) -> None:
    wire = getattr(types_pb2, mine.__name__).DESCRIPTOR
    told = {field.name for field in dataclasses.fields(mine)}
    assert told == {RENAMED.get(field.name, field.name) for field in wire.fields}


@pytest.mark.parametrize(
    "name", [name for name, kind in Options.__annotations__.items() if "Sequence" in str(kind)]
)
def test_one_string_where_several_are_meant_is_refused(name: str) -> None:
    """Each of its letters would become one."""
    with pytest.raises(TypeError, match=rf"{name} is a sequence of strings; did you mean \['prices'\]\?"):
        convert.to_query("hi", Options(**{name: "prices"}))
    convert.to_query("hi", Options(**{name: ("prices",)}))


def test_an_answer_to_a_like_question_says_how_alike_and_how_seldom_wrong() -> None:
    wire = types_pb2.Decision(
        cache_status=types_pb2.CACHE_STATUS_SEMANTIC_HIT,
        semantic_hit=types_pb2.SemanticHit(similarity=0.97, wrong_hits=0.01, confidence=0.9),
        certificate=types_pb2.Certificate(risk_target=0.06, semantic_wrong_hits=0.01),
    )
    decision = convert.from_decision(wire)
    assert decision.cache_status == "semantic_hit"
    assert decision.semantic_hit == SemanticHit(0.97, 0.01, 0.9)
    assert decision.certificate is not None
    assert decision.certificate.semantic_wrong_hits == 0.01
    assert convert.from_decision(types_pb2.Decision()).semantic_hit is None
