"""Lists are a full sort: by score, then by popularity, without the items taken before."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_recall.baselines import ranking

from .logs import asked_of

few = settings(max_examples=80, deadline=None)


def test_lists_by_hand() -> None:
    scores = np.array([[0, 3, 0, 3, 5], [0, 0, 0, 0, 0], [0, 0, 0, 2, 0]], np.float32)
    histories = np.array([[0, 0, 0, 0, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0]], np.float32)
    lists = ranking.recall_lists(lambda asked: scores.copy(), asked_of(histories), 3)
    assert lists.tolist() == [
        [1, 3, 0],  # item 4 was taken; 1 and 3 are equal, 1 is more popular; then the most popular
        [1, 2, 3],  # no score: most popular, without item 0
        [4, -1, -1],  # nothing else is left
    ]


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 40), st.sampled_from([2, 3, 10**6]))
@few
def test_lists_are_a_full_sort_by_score_and_popularity(seed: int, k: int, items: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.maximum(rng.integers(-levels, levels, (6, items)), 0).astype(np.float32) / levels
    histories = (rng.random((6, items)) < 0.2).astype(np.float32)
    at = iter(range(6))

    def score(asked: ranking.Asked) -> np.ndarray:
        rows = [next(at) for _ in asked.queries]
        return scores[rows]

    lists = ranking.recall_lists(score, asked_of(histories), k, cells=2 * items)
    for row in range(6):
        order = sorted(np.flatnonzero(histories[row] == 0), key=lambda n: (-scores[row, n], n))[:k]
        assert lists[row].tolist() == order + [-1] * (k - len(order))


@given(st.integers(0, 10**6))
@few
def test_an_item_taken_before_is_never_recalled(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, histories = rng.random((5, 30)).astype(np.float32), (rng.random((5, 30)) < 0.5).astype(np.float32)
    lists = ranking.recall_lists(lambda asked: scores.copy(), asked_of(histories), 30)
    for row, taken in zip(lists, histories, strict=True):
        assert set(row[row >= 0]) == set(np.flatnonzero(taken == 0))


def test_the_columns_are_in_the_order_of_popularity_and_lead_back() -> None:
    items, columns = ranking.popularity_order(torch.tensor([1, 5, 0, 5]))
    assert items.tolist() == [1, 3, 0, 2]
    assert columns[items].tolist() == [0, 1, 2, 3]


def test_a_matrix_marks_each_taken_item_once() -> None:
    offsets, items = np.array([0, 3, 3, 4]), np.array([2, 0, 2, 1], np.int32)
    matrix = ranking.interaction_matrix(offsets, items, np.array([1, 2, 0]))
    assert matrix.toarray().tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert matrix.indices.dtype == np.int32


@pytest.mark.parametrize("lists", [0, 1])
def test_nobody_asks_for_nothing(lists: int) -> None:
    histories = np.zeros((lists, 4), np.float32)
    found = ranking.recall_lists(lambda asked: np.zeros((lists, 4), np.float32), asked_of(histories), 2)
    assert found.tolist() == [[0, 1]] * lists
