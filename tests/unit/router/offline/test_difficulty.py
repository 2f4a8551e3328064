from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headgate.router import features
from headgate.router.calibrate import sigmoid
from headgate.router.offline import curve, datasets, difficulty, graph
from headgate.router.offline.datasets import DataError, Outcomes
from headgate.router.offline.difficulty import Difficulty, Known, targets
from headgate.router.offline.graph import Weights
from headgate.router.offline.terms import Terms
from headgate.router.offline.train import Recipe, train

FOLDS = 5
WriteFiles = Callable[[Path, Outcomes], tuple[Path, Path, Path]]


def table(
    seed: int, n: int, models: int, chance: Callable[[np.ndarray], np.ndarray] | None = None
) -> Outcomes:
    """Questions of one hard or easy word beside many others; by default scores are noise."""
    rng = np.random.default_rng(seed)
    words, hard = rng.integers(0, 400, (n, 8)), rng.integers(0, 40, n)
    beside = (" ".join(map(_word, row)) for row in words)
    texts = tuple(f"w{_word(one)} about {rest}" for one, rest in zip(hard, beside, strict=True))
    p = chance(hard) if chance else np.full((n, models), 0.5)
    score = (rng.random((n, models)) < p).astype(float)
    names, blank = tuple(f"m{m}" for m in range(models)), np.full((n, models), np.nan)
    return Outcomes(tuple(f"s{seed}q{i}" for i in range(n)), texts, names, score, blank, blank)


def _word(number: int) -> str:
    return "".join(chr(97 + int(digit)) for digit in f"{number:03d}")


def known(*tables: Outcomes, seed: int = 0) -> Known:
    return Known(tables, [datasets.folds(one, seed, FOLDS) for one in tables])


def test_one_model_s_score_is_its_own_target() -> None:
    score = np.array([[0.0], [1.0], [0.5]])
    assert np.array_equal(targets(score), score)


def test_targets_are_mean_and_gain_counted_by_hand() -> None:
    score = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    found = targets(score)  # the best is the first model, the worst the last
    assert found[:, 0] == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1 / 3])
    assert found[:, 1] == pytest.approx([1, 1, 0, 0])


def test_many_models_also_have_their_two_main_directions(seed: int) -> None:
    score = np.random.default_rng(seed).random((60, 9))
    found = targets(score)
    centred = score - score.mean(axis=0)
    strength = (found[:, 2:] ** 2).sum(axis=0) * 9
    assert found.shape == (60, 4)
    assert found[:, 2] @ found[:, 3] == pytest.approx(0.0, abs=1e-9)
    assert strength == pytest.approx(np.sort(np.linalg.eigvalsh(centred.T @ centred))[::-1][:2])


def test_loadings_are_a_ridge_regression(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(200, 12)), rng.normal(size=(200, 2))
    centred = y - y.mean(axis=0)
    oracle = np.linalg.solve(x.T @ x + difficulty._RIDGE * np.eye(12), x.T @ centred)
    assert difficulty._ridge(x, y) == pytest.approx(oracle, abs=1e-6)


def leak(read: Difficulty, data: Outcomes, folds: np.ndarray) -> float:
    """How much of a question's own luck comes back as its feature: correlation with scores that are noise."""
    numbers = read.numbers(read.terms.matrix(data.features), folds)
    return float(np.corrcoef(numbers[:, 0], targets(data.score)[:, 0])[0, 1])


def test_rows_are_read_without_their_own_fold_and_a_mutant_that_reads_them_with_it_is_noticed(
    seed: int,
) -> None:
    data = table(seed, 1000, 4)
    folds = datasets.folds(data, 0, FOLDS)
    honest = known(data).fit()
    assert abs(leak(honest, data, folds)) < 0.15
    mutant = replace(honest, without_fold=dict.fromkeys(range(FOLDS), honest.loadings))
    assert leak(mutant, data, folds) > 0.5
    assert leak(replace(honest, without_fold={}), data, folds) > 0.5


@pytest.mark.parametrize("left_out", [(1,), (1, 3)])
@pytest.mark.parametrize("models", [1, 6])
def test_what_is_left_out_teaches_nothing(seed: int, models: int, left_out: tuple[int, ...]) -> None:
    """Outcomes change places within the first fold that is left out: every statistic of the models stays."""
    data = table(seed, 200, models)
    folds = datasets.folds(data, 0, FOLDS)
    (rows,) = np.nonzero(folds == left_out[0])
    score = data.score.copy()
    score[rows] = score[np.roll(rows, 7)]
    before, after = known(data).fit(*left_out), known(replace(data, score=score)).fit(*left_out)
    assert np.allclose(after.loadings, before.loadings, atol=1e-5)
    assert set(after.without_fold) == set(range(FOLDS)) - set(left_out)
    for fold, loadings in after.without_fold.items():
        assert np.allclose(loadings, before.without_fold[fold], atol=1e-5)
    everything = (known(one)._loadings(frozenset()) for one in (data, replace(data, score=score)))
    assert np.abs(next(everything) - next(everything)).max() > 0.01


def shared_world(hard: np.ndarray) -> np.ndarray:
    """P(right) by a question's word alone; the pair of models is the weakest and the strongest."""
    depth = np.random.default_rng(7).permutation(40)[hard] / 39
    return sigmoid(np.linspace(1, 5, 8) - 6 * depth[:, None])


def logits(weights: Weights, data: Outcomes) -> np.ndarray:
    """(n, M)."""
    batch = features.pack(data.features)
    return graph.heads(weights, batch.ngrams, batch.surface)[:, 0]


def apgr(train_on: Outcomes, test: Outcomes, shared: Difficulty | None, folds: np.ndarray) -> float:
    p = sigmoid(logits(train(train_on, Recipe(), shared, folds), test))
    return curve.apgr(p[:, 1] - p[:, 0], test.score)


def test_a_shared_difficulty_helps_a_new_pair_with_150_labels(seed: int) -> None:
    def pair(draw: int, n: int) -> Outcomes:
        return table(draw, n, 8, shared_world).with_models(("m2", "m7"))

    others = table(seed + 1, 3000, 8, shared_world).with_models(("m0", "m1", "m3", "m4", "m5", "m6"))
    shared, labelled, fresh = known(others).fit(), pair(seed + 2, 150), pair(seed + 3, 1500)
    folds = datasets.folds(labelled, 0, FOLDS)
    alone, helped = apgr(labelled, fresh, None, folds), apgr(labelled, fresh, shared, folds)
    assert helped > alone + 0.03


def test_difficulty_is_folded_into_the_table(seed: int) -> None:
    """Where labels say nothing, one table says what the prior's mean says of the numbers."""
    shared = known(table(seed + 1, 800, 8, shared_world)).fit()
    data = table(seed, 100, 2)
    silent = replace(data, score=np.full_like(data.score, 0.5))
    read = Difficulty(shared.terms, shared.loadings, replace(shared.prior, root=0 * shared.prior.root))
    weights = train(silent.take(np.arange(30)), Recipe(), read)
    numbers = shared.numbers((Terms.of(data.features[:30]) + shared.terms).matrix(data.features))
    expected = (numbers - shared.prior.centre) / shared.prior.deviation @ shared.prior.mean
    said = logits(weights, data)[:, 0]
    assert np.corrcoef(said, expected)[0, 1] > 0.9


def test_a_prior_is_of_the_heads_of_the_models_that_are_known(seed: int) -> None:
    prior = known(table(seed, 2000, 8, shared_world)).fit().prior
    assert prior.mean[0] > 0.3, "the harder for others, the harder for any"
    covariance = prior.root @ prior.root.T
    assert (np.linalg.eigvalsh(covariance) >= 0.999 * difficulty._FREEDOM**2).all()


def test_the_order_of_asking_changes_nothing(seed: int) -> None:
    data = table(seed, 300, 6)
    whole_first, folds_first = known(data), known(data)
    one = whole_first.fit(0)
    for fold in (3, 1):
        folds_first.fit(0, fold)
    other = folds_first.fit(0)
    for name in ("centre", "deviation", "mean", "root"):
        assert np.array_equal(getattr(one.prior, name), getattr(other.prior, name))


def test_a_file_of_difficulty_is_read_as_it_was_written(seed: int) -> None:
    shared = known(table(seed, 300, 6)).fit()
    read = difficulty.load(difficulty.dump(shared))
    assert read.without_fold == {}
    assert np.array_equal(read.terms.idf, shared.terms.idf)
    assert np.allclose(read.loadings, shared.loadings, atol=1e-3)
    assert np.array_equal(read.prior.root, shared.prior.root)
    assert difficulty.dump(shared) == difficulty.dump(shared)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut", b"\x93NUMPY"])
def test_a_file_that_holds_no_difficulty_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="holds no difficulty"):
        difficulty.load(data)


def test_a_difficulty_of_another_schema_is_refused(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = known(table(seed, 150, 2)).fit()
    with monkeypatch.context() as older:
        older.setattr(difficulty, "SCHEMA", 1)
        data = difficulty.dump(shared)
    with pytest.raises(DataError, match="feature schema 1"):
        difficulty.load(data)


def test_what_is_shipped_can_be_read() -> None:
    shared = difficulty.shipped()
    assert shared.terms.n > 1000
    assert len(shared.prior.mean) == shared.loadings.shape[1]


def test_a_folder_is_known_without_the_pair_and_without_what_was_left_out(
    tmp_path: Path, write_files: WriteFiles, make_outcomes: Callable[[int, int], Outcomes]
) -> None:
    write_files(tmp_path, make_outcomes(3, 200))
    found = difficulty.known(tmp_path, ("tiny", "big"), 0, FOLDS)
    assert [one.models for one in found.benchmarks] == [("mid",)]
    assert [len(one) for one in found.benchmarks] == [len(folds) for folds in found.folds] == [200]
    assert difficulty.known(tmp_path, ("tiny", "mid", "big"), 0, FOLDS).benchmarks == []


def test_a_benchmark_with_few_queries_or_many_holes_is_not_read(
    tmp_path: Path, write_files: WriteFiles, make_outcomes: Callable[[int, int], Outcomes]
) -> None:
    (tmp_path / "few").mkdir()
    write_files(tmp_path / "few", make_outcomes(3, 99))
    assert difficulty.known(tmp_path / "few", (), 0, FOLDS).benchmarks == []
    _, outcomes, _ = write_files(tmp_path, make_outcomes(3, 200))
    lines = outcomes.read_text().splitlines(keepends=True)
    kept = [line for i, line in enumerate(lines) if ",mid," not in line or i % 10]
    outcomes.write_text("".join(kept))
    (found,) = difficulty.known(tmp_path, (), 0, FOLDS).benchmarks
    assert found.models == ("tiny", "big")
