"""What `headgate status` says of semantic caches."""

from __future__ import annotations

import pytest

from headgate.cli import operate
from headgate.v1 import admin_pb2

ASKED = {"tenant": "search", "heard": True, "wrong_hits": 0.1, "confidence": 0.9, "kinds": 1}


@pytest.mark.parametrize(
    ("standing", "said"),
    [
        (
            {"audits": 46, "serving": 1, "similarity": 0.94, "wrong_at_most": 0.051},
            "46 comparisons, 0 different; serves from similarity 0.94 on, wrong at most 5.1 % (asked 10 %)",
        ),
        (
            {
                "audits": 460,
                "different": 3,
                "kinds": 9,
                "serving": 2,
                "similarity": 0.9,
                "wrong_at_most": 0.1,
            },
            "460 comparisons, 3 different; serves 2 of 9 kinds of questions from similarity 0.90 on, "
            "wrong at most 10 % (asked 10 %)",
        ),
        (
            {"audits": 1, "different": 1, "wrong_at_most": 1.0, "wrong_hits": 0.01},
            "1 comparison, 1 different; serves nothing yet: wrong at most 100 % so far (asked 1 %)",
        ),
        (
            {"audits": 20},
            "20 comparisons, 0 different; serves nothing yet: no like question was found lately (asked 10 %)",
        ),
        (
            {"audits": 20, "serving": 1, "heard": False},
            "nothing heard here, so it serves nothing; this process listens from the first question on",
        ),
    ],
    ids=["serving", "some serve", "not yet", "nothing found", "silent"],
)
def test_each_semantic_cache_has_a_line(standing: dict[str, object], said: str) -> None:
    one = admin_pb2.SemanticStatus(**{**ASKED, **standing})  # type: ignore[arg-type]
    lines = operate._in_words(admin_pb2.GetStatusResponse(semantic=[one])).splitlines()
    assert f"  semantic cache, search: {said}" in lines


def test_without_one_there_is_no_word_of_it() -> None:
    assert "semantic" not in operate._in_words(admin_pb2.GetStatusResponse())
