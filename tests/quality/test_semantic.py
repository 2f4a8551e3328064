"""Hits on like questions, on templates that nothing was developed on; the long form is `make semantic`."""

from __future__ import annotations

import pytest

from headgate.router.embedding import Embedding
from tests import collisions
from tests.bench import semantic
from tests.bench.semantic import COSINE, EXACT, OURS, REQUESTS, UNGUARDED, Run, Runner, Seen
from tests.collisions import KINDS

SEEDS, PAIRS = 4, 2_000
GUARDED = [kind for kind in KINDS if kind != "unguarded"]


@pytest.fixture(scope="module")
def words() -> Embedding:
    return semantic.embedding()


@pytest.fixture(scope="module")
def seen(words: Embedding, seed: int) -> dict[str, Seen]:
    return semantic.seen(words, collisions.TEST, PAIRS, seed)


@pytest.fixture(scope="module")
def runs(words: Embedding, seed: int) -> dict[str, list[Run]]:
    runner, found = Runner(words), {policy.name: [] for policy in (OURS, EXACT, COSINE, UNGUARDED)}
    for day in range(seed, seed + SEEDS):
        requests = semantic.workload(collisions.TEST, REQUESTS, day)
        for policy in (OURS, EXACT, COSINE, UNGUARDED):
            found[policy.name].append(runner.run(requests, policy, day))
    return found


def test_the_templates_of_development_and_test_are_others() -> None:
    developed, tried = collisions.DEVELOPMENT, collisions.TEST
    assert not {one.topic for one in developed} & {one.topic for one in tried}
    wordings = ({text for one in part for text in one.wordings} for part in (developed, tried))
    assert not set.intersection(*wordings)


def test_like_questions_hit_twice_as_often_as_equal_ones_and_few_are_wrong(
    runs: dict[str, list[Run]],
) -> None:
    assert semantic.holds(runs[OURS.name], runs[EXACT.name])


@pytest.mark.parametrize("policy", [COSINE, UNGUARDED], ids=lambda policy: policy.name)
def test_without_guards_the_same_test_fails(runs: dict[str, list[Run]], policy: semantic.Policy) -> None:
    assert not semantic.holds(runs[policy.name], runs[EXACT.name])


def test_a_paraphrase_passes_the_guards_and_is_alike(seen: dict[str, Seen]) -> None:
    assert seen["paraphrase"].recall < 0.2
    assert seen["paraphrase"].above(0.9) > 0.5


@pytest.mark.parametrize("kind", GUARDED)
def test_each_kind_of_near_miss_is_stopped(seen: dict[str, Seen], kind: str) -> None:
    assert seen[kind].recall > 0.97


def test_drifting_answers_are_withdrawn(words: Embedding, seed: int) -> None:
    requests = semantic.drifting(semantic.workload(collisions.TEST, REQUESTS, seed), 0.5, seed)
    found = semantic.withdrawal(Runner(words).run(requests, OURS, seed))
    assert found.threshold is not None
    assert found.requests is not None
    assert found.requests < REQUESTS / 4
