"""The default text bundle, made from public outcomes: `make text`.

Two models, mixtral-8x7b-instruct-v0.1 and gpt-4-1106-preview, on MMLU without high-school mathematics (a
label there is the format's and not the answer's) and on GSM8K with repaired labels. How hard a text is comes
from MMLU-Pro, ZeroEval, LLMRouter and GPT-3's GSM8K, other models all of them. A fifth of the question stems
makes the certificates, and no outcome of them, in any source, has taught anything.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from headgate.router import bundle as bundles
from headgate.router.bundle import Contents
from headgate.router.offline import build, certify, datasets, difficulty, formats
from headgate.router.offline.build import Plan
from headgate.router.offline.certify import Statement
from headgate.router.offline.datasets import Outcomes
from headgate.router.offline.train import Progress, Recipe

SMALL, LARGE = "mixtral-8x7b-instruct-v0.1", "gpt-4-1106-preview"
SEED = 1
_CLEAN = "routellm_contaminated=1"
_FORMAT_BOUND = "subject=high_school_mathematics"
_KEPT_FOLD = 0
"""Of the stems, for certificates."""


def outcomes(folder: Path) -> Outcomes:
    """The labelled queries of both benchmarks."""
    models = (SMALL, LARGE)
    mmlu = formats.read(
        folder, source="routellm", datasets=["mmlu"], models=models, exclude=[_CLEAN, _FORMAT_BOUND]
    )
    gsm8k = formats.read(
        folder, source="routellm", datasets=["gsm8k"], models=models, label="score_reparsed", exclude=[_CLEAN]
    )
    return _together(mmlu, gsm8k.with_models(mmlu.models))


def _together(first: Outcomes, second: Outcomes) -> Outcomes:
    return Outcomes(
        ids=first.ids + second.ids,
        texts=first.texts + second.texts,
        models=first.models,
        score=np.concatenate((first.score, second.score)),
        prompt_tokens=np.concatenate((first.prompt_tokens, second.prompt_tokens)),
        completion_tokens=np.concatenate((first.completion_tokens, second.completion_tokens)),
        subjects=first.subjects + second.subjects,
    )


def make(folder: Path, created: float, progress: Progress = lambda doing: None) -> Contents:
    """The bundle from the public outcomes in `folder`, with its certificates."""
    table = outcomes(folder)
    listed = datasets.read_prices(folder / "prices.csv")
    kept = datasets.folds(table, SEED, build.FOLDS) == _KEPT_FOLD
    known = difficulty.known(folder, table.models, SEED, build.FOLDS)
    plan = Plan(LARGE, {name: listed[name] for name in table.models}, Recipe(seed=SEED))
    learnt, threshold = (table.take(np.flatnonzero(rows)) for rows in (~kept, kept))
    contents = build.build(learnt, plan, lambda *folds: known.fit(_KEPT_FOLD, *folds), progress)
    progress(f"certifying on {len(threshold):,} queries")
    found = certify.certificates(build.loaded(contents), threshold, Statement(created, plan.listed))
    return replace(contents, certificates=found)


def main(arguments: Sequence[str]) -> int:
    """Writes the bundle; 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="the public outcomes")
    parser.add_argument("out", type=Path, help="where the bundle is written")
    parser.add_argument("--created", default="", help="YYYY-MM-DD, written into the certificates; today else")
    flags = parser.parse_args(arguments)
    day = datetime.fromisoformat(flags.created) if flags.created else datetime.now(UTC)
    created = day.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=UTC).timestamp()
    packed = bundles.dump(make(flags.folder, created, lambda doing: print(doing, file=sys.stderr)))
    flags.out.write_bytes(packed)
    loaded = bundles.load(packed)
    for one in loaded.certificates:
        print(f"risk target {one.risk_target:g}: λ = {one.lam:.3g}, n = {one.n:,}")
    print(f"wrote {flags.out} ({len(packed):,} bytes), version {loaded.version}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
