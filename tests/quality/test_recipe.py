"""The shipped recipe beside TF-IDF + LR in the same folds, on real outcomes; `make pairs` tells all eight."""

from __future__ import annotations

from pathlib import Path

import pytest

from headgate.router.offline import build, crossval, difficulty, formats, summary
from tests.quality.conftest import LARGE, SEED, SMALL, plan

TOLERANCE = 0.005
LLAMA, GPT4O = "meta-llama-3.1-8b-instruct", "gpt-4o-2024-05-13"
PAIRS = {
    "GSM8K, labels repaired": (("routellm", "gsm8k", "score_reparsed"), SMALL, LARGE),
    "ZeroEval MATH-L5": (("zeroeval", "zeroeval-math-l5", "score"), LLAMA, GPT4O),
}
"""The two smallest of the eight."""
SLOW = ("mmlu_pro", "llmrouter")
"""Sources whose difficulty takes a minute to learn; without them less is known, and it must do."""


@pytest.mark.parametrize("name", PAIRS)
def test_the_recipe_is_no_worse_than_tf_idf_with_logistic_regression(name: str, data: Path) -> None:
    (source, dataset, label), small, large = PAIRS[name]
    table = formats.read(data, source=source, datasets=[dataset], models=[small, large], label=label)
    sharing = difficulty.known(data, (small, large), SEED, build.FOLDS, SLOW).fit
    told = crossval.cross_validate(table, plan(small, large), build.FOLDS, sharing=sharing)
    figures = summary.pair(told, SEED)
    value, low, high = figures["apgr_above"]["TF-IDF + LR"]
    print(f"{name}: APGR {figures['apgr']:.3f}, above TF-IDF + LR {value:+.3f} [{low:+.3f}, {high:+.3f}]")
    assert value >= -TOLERANCE
