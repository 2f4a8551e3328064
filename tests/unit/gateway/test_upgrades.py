from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.gateway import upgrades
from headgate.gateway.upgrades import Upgrade
from headgate.v1 import router_pb2, types_pb2

KEY = "ab" * 32


def answered(text: str) -> router_pb2.GenerateResponse:
    message = types_pb2.Message(role=types_pb2.ROLE_ASSISTANT, parts=[types_pb2.Part(text=text)])
    return router_pb2.GenerateResponse(message=message, decision=types_pb2.Decision(model="large"))


def first(text: str, digest: str = KEY) -> Upgrade:
    return Upgrade("asked", "small", upgrades._digest([text]), digest)


@given(st.text(alphabet="Aa0._:-", min_size=1, max_size=128))
def test_a_job_s_name_is_one_however_long_the_request_s_is(request_id: str) -> None:
    name = upgrades.name_of(request_id)
    assert 1 <= len(name) <= 128
    assert name != request_id
    assert name == upgrades.name_of(request_id)


def test_what_is_told_is_read_again() -> None:
    assert Upgrade.read(str(first("4711"))) == first("4711")


@pytest.mark.parametrize(
    "told", ["", "{}", "[]", "7", str(first("x", digest="no digest")), '{"request_id": 1}']
)
def test_what_was_told_by_nobody_upgrades_nothing(told: str) -> None:
    assert Upgrade.read(told) is None


@pytest.mark.parametrize(("text", "changed"), [("4711", "no"), (" 4711\n", "no"), ("4712", "yes")])
def test_the_record_says_whether_the_better_model_said_something_else(text: str, changed: str) -> None:
    told = upgrades.facts(first("4711"), answered(text))
    assert told == {"upgrades": "asked", "upgraded_from": "small", "changed": changed}


def test_the_better_answer_stands_where_the_first_one_stood() -> None:
    found = upgrades.replaced("acme", first("4711"), answered("4712"))
    assert found is not None
    key, kept = found
    assert (key.tenant, key.digest.hex()) == ("acme", KEY)
    assert (kept.decision.model, kept.decision.drafted_by) == ("large", "small")
    assert upgrades.replaced("acme", first("4711", digest=""), answered("4712")) is None, "it was not kept"
