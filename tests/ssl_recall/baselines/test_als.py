"""ALS through implicit, if it is installed: its scores are those of regularised least squares."""

import numpy as np
import pytest

from ssl_recall.baselines import als, ranking

from .logs import asked_of, csr, dense_log

pytest.importorskip("implicit")


def test_the_scores_are_those_of_weighted_least_squares() -> None:
    log, histories = dense_log(1, queries=30), dense_log(2, queries=5)
    model = als.fit(csr(log), als.Setting(10.0), seed=1, threads=1)
    items = model.model.item_factors.astype(np.float64)
    expected = []
    for taken in histories:
        weight = 1 + 9.0 * taken  # implicit weighs a taken item with alpha, any other with 1
        left = items.T @ (weight[:, None] * items) + 1.0 * np.eye(items.shape[1])
        expected.append(np.maximum(items @ np.linalg.solve(left, items.T @ (weight * taken)), 0))
    np.testing.assert_allclose(model(asked_of(histories)), expected, rtol=1e-3, atol=1e-4)


def test_a_new_query_gets_the_most_popular() -> None:
    model = als.fit(csr(dense_log(1)), als.SETTINGS[0], seed=1, threads=1)
    assert ranking.recall_lists(model, asked_of(np.zeros((1, 9), np.float32)), 3).tolist() == [[0, 1, 2]]
