from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from headgate.cli import words
from headgate.client import Attempt, Certificate, Decision, ModelEstimate, SemanticHit

CERTIFICATE = Certificate(
    "c-1", "regret", 0.05, 0.95, 3598, "ab", datetime(2026, 11, 23, tzinfo=UTC), None, "large", 300
)
DECISION = Decision(
    request_id="r",
    model="small",
    reason="policy",
    explanation="because",
    estimates=(ModelEstimate("small", 5, 0.9, 0.05, ""), ModelEstimate("large", 50, None, None, "")),
    lam=0.5,
    expected_cost_nanousd=5,
    cost_nanousd=1250,
    bundle_version="b",
    policy_version="p",
    certificate=CERTIFICATE,
    cache_status="miss",
    attempts=(Attempt("small", 0, 1250, 0.1),),
    degraded=("cache",),
    overhead_s=0.0015,
    out_of_distribution=None,
)


@pytest.mark.parametrize(
    ("nanousd", "text"),
    [(0, "$0"), (1, "$0.000000001"), (1250, "$0.00000125"), (1_000_000_000, "$1"), (20_000_000_000, "$20")],
)
def test_money_is_exact_and_never_in_powers_of_ten(nanousd, text):
    assert words.dollars(nanousd) == text


@pytest.mark.parametrize(
    ("nanousd", "text"), [(0, "0"), (4_712_345, "0.00471"), (17, "0.000000017"), (12 * 10**12, "12000")]
)
def test_rounded_money(nanousd, text):
    assert words.rounded(nanousd) == text


def test_a_certificate_in_plain_words():
    assert words.certificate(CERTIFICATE) == (
        "With 95 % confidence, at most 5 % of 300 requests lose quality against always using large "
        "(certificate c-1, 3,598 labelled queries, made 2026-11-23)."
    )
    expiring = replace(CERTIFICATE, expires=datetime(2027, 1, 1, tzinfo=UTC))
    assert "valid until 2027-01-01" in words.certificate(expiring)
    assert words.certificate(None) == "No certificate covers this."


def test_a_net_certificate_speaks_of_mean_quality_and_never_of_a_share_of_requests():
    said = words.promise("net", 0.95, 0.02, 0, "large")
    assert said == (
        "With 95 % confidence, the mean quality of requests is at most 2 % below always using large"
    )


def test_a_decision_in_one_line():
    assert words.summary(DECISION) == (
        "small · policy · p_correct 0.90 ± 0.05 · $0.00000125 · 100 ms in models · 1.5 ms in the gateway"
        " · degraded: cache"
    )
    assert "from the cache" in words.summary(replace(DECISION, cache_status="hit"))


def test_an_answer_to_a_like_question_is_told_with_its_likeness_and_its_bound():
    like = replace(DECISION, cache_status="semantic_hit", semantic_hit=SemanticHit(0.9712, 0.01, 0.9))
    said = "kept for a question that means the same (0.97 alike, wrong at most 1 %)"
    assert f" · {said} · " in words.summary(like)
    told = words.as_json(like)["semantic_hit"]
    assert told == {"similarity": 0.9712, "wrong_hits": 0.01, "confidence": 0.9}
    assert words.as_json(DECISION)["semantic_hit"] is None


def test_a_draft_that_was_not_accepted_is_told_with_its_tokens():
    attempts = (Attempt("small", 1, 9, 0.1, completion_tokens=9), Attempt("large", 0, 90, 0.2))
    escalated = replace(DECISION, model="large", drafted_by="small", attempts=attempts)
    assert "after a draft of small (9 tokens wasted) · " in words.summary(escalated)
    assert "after a draft of small · " in words.summary(replace(escalated, attempts=()))


def test_before_the_answer_stands_who_is_asked_first_and_what_is_promised():
    assert words.first(DECISION) == (
        "small first · policy · p_correct 0.90 ± 0.05 · λ 0.5\n"
        "With 95 % confidence, at most 5 % of 300 requests lose quality against always using large."
    )


def test_where_nothing_is_promised_the_reason_stands_and_no_λ_that_did_not_decide():
    pinned = replace(DECISION, reason="pinned", certificate=None, model="large")
    assert words.first(pinned) == "large first · pinned\nbecause"


def test_a_decision_as_json():
    data = json.loads(json.dumps(words.as_json(DECISION)))
    assert data["cost_usd"] == 1.25e-06
    assert data["lambda"] == 0.5
    assert data["certificate"]["created"] == "2026-11-23T00:00:00+00:00"
    assert data["estimates"][1]["p_correct"] is None


def test_a_certificate_by_slice_says_so() -> None:
    said = words.promise("regret", 0.95, 0.05, 300, "large", ("law", "maths"))
    assert said == (
        "With 95 % confidence, at most 5 % of 300 requests of each kind (2 in all) lose quality against "
        "always using large"
    )
