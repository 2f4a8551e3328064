"""The default text bundle decides for its two models on their kind of question, and for nobody else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import headgate.gateway
from headgate.router import bundle as bundles
from headgate.router.bundle import Bundle
from headgate.router.decide import decide
from headgate.router.offline import build, datasets, difficulty, text_bundle
from headgate.router.offline.datasets import Outcomes
from headgate.router.offline.text_bundle import LARGE, SEED, SMALL
from headgate.router.types import Model, Objective, Pool, Price, Query, Reason

LONG = 60
"""Signs of a stem; a shorter one, such as "which of the following is true", is no single question's."""
POOL = Pool((Model(SMALL, Price(10**8, 10**8)), Model(LARGE, Price(10**9, 10**9))), LARGE)


@pytest.fixture(scope="module")
def text() -> Bundle:
    """As it is shipped."""
    file = Path(headgate.gateway.__path__[0]) / "bundles/text.bundle"
    return bundles.load(file.read_bytes())


@pytest.fixture(scope="module")
def certified(data: Path) -> Outcomes:
    """The queries of its certificates."""
    table = text_bundle.outcomes(data)
    return table.take(np.flatnonzero(datasets.folds(table, SEED, build.FOLDS) == 0))


def test_its_certificates_rest_on_the_fold_that_it_was_not_trained_on(
    text: Bundle, certified: Outcomes, data: Path
) -> None:
    table = text_bundle.outcomes(data)
    learnt = table.take(np.flatnonzero(datasets.folds(table, SEED, build.FOLDS) != 0))
    assert {one.data_fingerprint for one in text.certificates} == {certified.fingerprint}
    assert text.contents.notes["fingerprint"] == learnt.fingerprint
    assert not set(learnt.stems) & set(certified.stems)


def test_no_other_source_asks_a_certified_question_outside_of_its_fold(
    certified: Outcomes, data: Path
) -> None:
    """Not even with a line about the answer's form below it."""
    known = difficulty.known(data, certified.models, SEED, build.FOLDS)
    asked = [stem for stem in set(certified.stems) if len(stem) > LONG]
    learnt = "\n".join(
        stem
        for table, folds in zip(known.benchmarks, known.folds, strict=True)
        for stem, fold in zip(table.stems, folds, strict=True)
        if fold != 0
    )
    assert [stem for stem in asked if stem in learnt] == []


def test_it_routes_for_the_models_that_it_names_within_the_promise(text: Bundle, certified: Outcomes) -> None:
    made = [
        decide(text, Query(one, Objective(risk_target=0.1)), POOL, now=2e9) for one in certified.texts[:800]
    ]
    small = np.array([one.model == SMALL for one in made])
    score = certified.with_models((SMALL, LARGE)).score[:800]
    assert small.mean() > 0.3
    assert (small & (score[:, 0] < score[:, 1])).mean() <= 0.1
    assert {
        one.certificate.risk_target for one in made if one.reason is Reason.POLICY if one.certificate
    } == {0.1}


def test_other_models_get_no_promise_from_it(text: Bundle) -> None:
    other = replace(
        POOL, models=(Model("mine", Price(1, 1)), Model("theirs", Price(9, 9))), reference="theirs"
    )
    found = decide(text, Query("What is the capital of France?", Objective(risk_target=0.1)), other, now=2e9)
    assert (found.model, found.reason, found.certificate) == ("theirs", Reason.NO_CERTIFICATE, None)
