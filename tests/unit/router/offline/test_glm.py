from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression, PoissonRegressor

from headgate.router.calibrate import sigmoid
from headgate.router.offline import glm


def drawn(seed: int, n: int = 400) -> tuple[list[object], np.ndarray]:
    """A sparse and a dense block, and the logits (n, 2) of planted weights."""
    rng = np.random.default_rng(seed)
    sparse_block = sparse.random(
        n, 30, 0.2, "csr", random_state=seed, data_rvs=lambda size: rng.normal(size=size)
    )
    dense = rng.normal(size=(n, 4))
    return [sparse_block, dense], sparse_block @ rng.normal(size=(30, 2)) + dense @ rng.normal(
        size=(4, 2)
    ) + 0.3


def stacked(blocks: list[object]) -> np.ndarray:
    return np.hstack([blocks[0].toarray(), blocks[1]])  # type: ignore[attr-defined]


def test_logit_is_sklearns_logistic_regression(seed: int) -> None:
    blocks, linear = drawn(seed)
    right = (np.random.default_rng(seed).random(linear.shape) < sigmoid(linear)).astype(float)
    found = glm.fit(blocks, right)
    for m in range(2):
        oracle = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(stacked(blocks), right[:, m])
        assert np.concatenate(found.weights)[:, m] == pytest.approx(oracle.coef_[0], abs=0.01)
        assert found.bias[m] == pytest.approx(oracle.intercept_[0], abs=0.01)
        ours, theirs = found.predict(blocks)[:, m], oracle.decision_function(stacked(blocks))
        assert ours == pytest.approx(theirs, abs=0.02)


def test_log_is_sklearns_poisson_regression(seed: int) -> None:
    blocks, linear = drawn(seed)
    counts = np.random.default_rng(seed).poisson(np.exp(0.3 * linear)).astype(float)
    found = glm.fit(blocks, counts, "log")
    for m in range(2):
        # sklearn's loss is a mean over the rows, ours a sum.
        oracle = PoissonRegressor(alpha=1 / len(counts), tol=1e-10, max_iter=1000)
        oracle.fit(stacked(blocks), counts[:, m])
        assert np.concatenate(found.weights)[:, m] == pytest.approx(oracle.coef_, abs=0.01)
        assert found.bias[m] == pytest.approx(oracle.intercept_, abs=0.01)


def test_a_quality_between_0_and_1_weighs_as_so_many_of_each(seed: int) -> None:
    blocks, linear = drawn(seed, 200)
    quality = np.round(sigmoid(linear) * 4) / 4
    found = glm.fit(blocks, quality)
    twice, share = np.vstack((stacked(blocks),) * 2), np.concatenate((quality[:, 0], 1 - quality[:, 0]))
    oracle = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000)
    oracle.fit(twice, np.repeat((1.0, 0.0), 200), sample_weight=share)
    assert found.predict(blocks)[:, 0] == pytest.approx(oracle.decision_function(stacked(blocks)), abs=0.02)


@pytest.mark.parametrize("link", ["logit", "log"])
def test_what_is_not_known_counts_nothing(seed: int, link: glm.Link) -> None:
    blocks, linear = drawn(seed)
    targets = (linear > 0).astype(float)
    known = np.random.default_rng(seed).random(400) < 0.5
    holes = targets.copy()
    holes[~known, 0] = np.nan
    found, alone = glm.fit(blocks, holes, link), glm.fit([x[known] for x in blocks], targets[known], link)  # type: ignore[index]
    assert found.predict(blocks)[:, 0] == pytest.approx(alone.predict(blocks)[:, 0], abs=0.05)
    assert np.isfinite(found.predict(blocks)).all()


def test_an_offset_is_what_is_known_already(seed: int) -> None:
    """With all of the truth as offset, only noise is left to fit; without it, the truth is."""
    blocks, linear = drawn(seed, 4000)
    right = (np.random.default_rng(seed).random(linear.shape) < sigmoid(linear)).astype(float)
    rest, whole = glm.fit(blocks, right, offset=linear), glm.fit(blocks, right)
    assert np.abs(rest.predict(blocks)).mean() < 0.2 * np.abs(whole.predict(blocks)).mean()
    assert rest.predict(blocks) + linear == pytest.approx(whole.predict(blocks), abs=1.5)


def test_a_column_that_no_row_has_keeps_no_weight_and_changes_nothing(seed: int) -> None:
    (block, dense), linear = drawn(seed)
    right = (linear > 0).astype(float)
    wide = sparse.hstack([sparse.csr_matrix((400, 500)), block], "csr")
    found, narrow = glm.fit([wide, dense], right), glm.fit([block, dense], right)
    assert found.weights[0].shape == (530, 2)
    assert not found.weights[0][:500].any()
    assert np.array_equal(found.weights[0][500:], narrow.weights[0])


def test_a_block_without_columns_is_none(seed: int) -> None:
    blocks, linear = drawn(seed)
    right = (linear > 0).astype(float)
    found, plain = glm.fit([*blocks, np.zeros((400, 0))], right), glm.fit(blocks, right)
    assert found.weights[2].shape == (0, 2)
    assert np.array_equal(found.bias, plain.bias)


@pytest.mark.parametrize("link", ["logit", "log"])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_targets_that_are_all_alike_give_finite_weights(link: glm.Link, value: float) -> None:
    found = glm.fit([np.random.default_rng(0).normal(size=(50, 3))], np.full((50, 1), value), link)
    assert np.isfinite(found.bias).all()
    assert np.abs(found.weights[0]).max() < 1.0
