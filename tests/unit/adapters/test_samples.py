"""What is written of a sample can be read again, and no text is among the facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headgate.adapters import samples
from headgate.adapters.samples import Settings, Turn
from tests.unit.sample_rig import CANARY
from tests.unit.sample_rig import SAMPLE as GIVEN

SAMPLE = replace(
    GIVEN,
    settings=Settings(temperature=0.5, turns=2),
    conversation=(Turn("ROLE_SYSTEM", CANARY), Turn("ROLE_USER", f"{CANARY}?")),
)


def test_a_sample_is_read_as_it_was_written() -> None:
    whole = replace(SAMPLE, wasted_nanousd=7)
    bare = samples.read(samples.facts(whole))
    assert bare is not None
    assert samples.with_texts(bare, samples.texts(whole)) == whole


def test_facts_hold_no_text() -> None:
    facts = samples.facts(SAMPLE)
    assert all(isinstance(value, str) for value in facts.values())
    assert "canary" not in repr(facts)


def test_the_tenant_is_part_of_every_key() -> None:
    assert "acme" in samples.key("acme", "r1").split(":")
    assert "acme" in samples.account("acme", "2026-11-25").split(":")


def test_without_its_texts_a_sample_still_has_its_facts() -> None:
    bare = samples.read(samples.facts(SAMPLE))
    assert bare is not None
    for kept in (None, b"", b"{", b"[]", b'{"conversation": 1}', "ÿ".encode("latin-1")):
        assert samples.with_texts(bare, kept) == bare
    assert bare.query == ""
    assert SAMPLE.query == f"{CANARY}?"


@pytest.mark.parametrize(
    "broken",
    [{"kind": "request"}, {"share": "0"}, {"share": "1.5"}, {"share": "nan"}, {"answers": "["},
     {"answers": "[1]"}, {"answers": '[{"model": "m"}]'}, {"settings": '{"new": 1}'}, {"at": "soon"}],
)  # fmt: skip
def test_a_record_of_another_shape_is_passed_over(broken: dict[str, str]) -> None:
    assert samples.read({**samples.facts(SAMPLE), **broken}) is None


def test_a_record_with_a_part_missing_is_passed_over() -> None:
    for name in set(samples.facts(SAMPLE)) - {"wasted_nanousd"}:
        assert (
            samples.read({key: value for key, value in samples.facts(SAMPLE).items() if key != name}) is None
        )


def test_a_sample_of_before_drafts_wasted_nothing() -> None:
    told = {key: value for key, value in samples.facts(SAMPLE).items() if key != "wasted_nanousd"}
    read = samples.read(told)
    assert read is not None
    assert read.wasted_nanousd == 0


def test_a_score_names_its_sample_and_its_source() -> None:
    told = samples.outcome(samples.score(SAMPLE, "large", 0.5, "judge", 99.0))
    assert told is not None
    assert (told.sample, told.request_id, told.tenant) == ("r1", "q1", "acme")
    assert (told.model, told.quality, told.source, told.at) == ("large", 0.5, "judge", 99.0)


@pytest.mark.parametrize(
    "broken",
    [{"kind": "sample"}, {"quality": "1.5"}, {"quality": "nan"}, {"quality": "good"}, {"source": "?"}],
)
def test_an_outcome_of_another_shape_is_passed_over(broken: dict[str, str]) -> None:
    score = samples.score(SAMPLE, "large", 0.5, "judge", 99.0)
    assert samples.outcome({**score, **broken}) is None


def test_only_who_was_asked_has_an_answer() -> None:
    assert SAMPLE.answer("large").propensity == 0.25
    with pytest.raises(KeyError):
        replace(SAMPLE, answers=()).answer("large")
