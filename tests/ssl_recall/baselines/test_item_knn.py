"""ItemKNN: its scores are those of the formula in float64."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ssl_recall.baselines import item_knn, ranking
from ssl_recall.baselines.item_knn import SETTINGS, Setting

from .logs import asked_of, csr, dense_log


def slow_similarity(log: NDArray[np.float32], setting: Setting, neighbours: int) -> NDArray[np.float64]:
    """Compare every two columns in a loop; column j keeps its most similar items."""
    queries, items = log.shape
    weight = [np.log(1 + items / log[q].sum()) if setting.weighted and log[q].any() else 1.0 for q in range(queries)]
    columns = [np.array([weight[q] * log[q, i] for q in range(queries)], np.float64) for i in range(items)]
    similarity = np.zeros((items, items))
    for j in range(items):
        for i in range(items):
            length = np.sqrt(columns[i] @ columns[i]) * np.sqrt(columns[j] @ columns[j]) + setting.shrinkage
            if i != j and columns[i] @ columns[j]:
                similarity[i, j] = columns[i] @ columns[j] / length
        dropped = np.argsort(-similarity[:, j].astype(np.float32), kind="stable")[neighbours:]
        similarity[dropped, j] = 0
    return similarity


def test_a_similarity_by_hand() -> None:
    log = np.array([[1, 1], [1, 1], [1, 0], [1, 0], [0, 0]], np.float32)  # 2 common queries, of 4 and of 2
    cosine = 2 / np.sqrt(4 * 2)
    assert item_knn.fit(csr(log), Setting("")).similarity.toarray() == pytest.approx(
        np.array([[0, cosine], [cosine, 0]])
    )
    shrunk = item_knn.fit(csr(log), Setting("", shrinkage=20)).similarity.toarray()
    assert shrunk[0, 1] == pytest.approx(2 / (np.sqrt(8) + 20))


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("neighbours", [1, 3, 100])
@pytest.mark.parametrize("at_once", [1, 50, 2**20])
def test_the_scores_are_those_of_the_formula(setting: Setting, neighbours: int, at_once: int) -> None:
    for seed in range(3):
        log, histories = dense_log(seed), dense_log(seed + 10, queries=5)
        model = item_knn.fit(csr(log), setting, neighbours, at_once)
        expected = histories.astype(np.float64) @ slow_similarity(log, setting, neighbours)
        np.testing.assert_allclose(model(asked_of(histories)), expected, rtol=1e-5, atol=1e-7)


def test_a_new_query_gets_the_most_popular() -> None:
    model = item_knn.fit(csr(dense_log(1)), SETTINGS[0])
    assert ranking.recall_lists(model, asked_of(np.zeros((1, 9), np.float32)), 4).tolist() == [[0, 1, 2, 3]]


def test_the_work_is_counted() -> None:
    log = dense_log(3)
    work = item_knn.products(csr(log))
    assert work.tolist() == [log[log[:, i] > 0].sum() for i in range(log.shape[1])]
    parts = item_knn._parts(work, 20)
    assert [low for low, _ in parts] == [0, *[high for _, high in parts][:-1]]
    assert parts[-1][1] == log.shape[1]


def test_a_log_without_interactions_knows_no_neighbours() -> None:
    assert item_knn.fit(csr(np.zeros((3, 4), np.float32)), SETTINGS[2]).similarity.nnz == 0
