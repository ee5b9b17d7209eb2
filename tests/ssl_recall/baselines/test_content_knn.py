"""Content kNN: its scores are those of the formula in float64, also for cold items and new queries."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch

from ssl_recall.baselines import content_knn, ranking
from ssl_recall.data.codes import Kind
from ssl_recall.data.features import EncodedTable

from .logs import asked_of

KINDS = {"id": Kind.ID, "colour": Kind.CATEGORICAL, "tags": Kind.MULTI_VALUED, "size": Kind.NUMERIC}
CODES = {"id": 9, "colour": 5, "tags": 7, "size": 4, "query.tags": 5}


def table(rows: Iterable[list[list[int]]], names: dict[str, str]) -> EncodedTable:
    """Build a table; `names` maps its features to their vocabularies."""
    bags = [bag for row in rows for bag in row]
    offsets = torch.tensor([0, *[len(bag) for bag in bags]]).cumsum(0)
    codes = torch.tensor([code for bag in bags for code in bag], dtype=torch.int32)
    return EncodedTable(tuple(names), tuple(KINDS[name] for name in names), tuple(names.values()), codes, offsets, {})


ITEMS = table(
    # id, colour, tags, size; 0 is missing, 1 unknown
    [
        [[2], [2], [2, 3], [2]],
        [[3], [2], [3], [2]],
        [[4], [3], [4, 5, 6], [3]],
        [[0], [3], [1], [2]],
        [[5], [0], [6], [0]],
        [[6], [4], [0], [3]],
    ],
    {"id": "id", "colour": "colour", "tags": "tags", "size": "size"},
)
SAME = table([[[2, 6]], [[0]], [[1]]], {"tags": "tags"})  # queries with tags of the items
OTHER = table([[[2, 4]], [[0]], [[1]]], {"tags": "query.tags"})
VALUES = [{"c2", "t2", "t3"}, {"c2", "t3"}, {"c3", "t4", "t5", "t6"}, {"c3"}, {"t6"}, {"c4"}]
ORDER = np.array([3, 0, 5, 1, 2, 4])


def weight(value: str) -> float:
    return math.log(len(VALUES) / sum(value in own for own in VALUES))


def unit(values: set[str]) -> dict[str, float]:
    length = math.sqrt(sum(weight(value) ** 2 for value in values))
    return {value: weight(value) / length for value in values}


def slow_scores(history: list[int], own: set[str]) -> list[float]:
    """Add up dictionaries: history and result in columns of ORDER."""
    query: dict[str, float] = {}
    for part in [*(unit(VALUES[ORDER[column]]) for column in history), unit(own)]:
        for value, number in part.items():
            query[value] = query.get(value, 0.0) + number
    return [sum(query.get(value, 0.0) * number for value, number in unit(VALUES[item]).items()) for item in ORDER]


HISTORIES = [[0, 2], [3], []]


def histories() -> np.ndarray:
    dense = np.zeros((3, 6), np.float32)
    for row, taken in enumerate(HISTORIES):
        dense[row, taken] = 1
    return dense


def test_a_cosine_by_hand() -> None:
    two = table([[[2]], [[2]], [[3]]], {"colour": "colour"})
    model = content_knn.fit(two, OTHER, CODES, np.arange(3))
    taken = np.array([[1, 0, 0]], np.float32)
    np.testing.assert_allclose(model(asked_of(taken)), [[1, 1, 0]], rtol=1e-6)  # a query's item and its twin


@pytest.mark.parametrize("dense", [0, 2, 100])
@pytest.mark.parametrize(("queries", "own"), [(SAME, [{"t2", "t6"}, set(), set()]), (OTHER, [set(), set(), set()])])
def test_the_scores_are_those_of_the_formula(dense: int, queries: EncodedTable, own: list[set[str]]) -> None:
    model = content_knn.fit(ITEMS, queries, CODES, ORDER, dense)
    expected = [slow_scores(taken, values) for taken, values in zip(HISTORIES, own, strict=True)]
    np.testing.assert_allclose(model(asked_of(histories())), expected, rtol=1e-5, atol=1e-6)
    assert (model.queries is None) == (queries is OTHER)


def test_a_cold_item_is_recalled_and_a_query_without_content_gets_the_most_popular() -> None:
    model = content_knn.fit(ITEMS, OTHER, CODES, ORDER)
    lists = ranking.recall_lists(model, asked_of(histories()), 3)
    assert lists[1].tolist()[0] == 1  # item 1 was taken; item 0 shares c2 and t3, whatever its interactions
    assert lists[2].tolist() == [0, 1, 2]


def test_a_value_of_two_features_of_one_vocabulary_counts_once() -> None:
    KINDS["more"] = Kind.CATEGORICAL
    both = table([[[2], [2]], [[3], [0]]], {"colour": "colour", "more": "colour"})
    assert content_knn.value_matrix(both, {"colour": 4}).toarray().tolist() == [[0, 0, 1, 0], [0, 0, 0, 1]]


def test_the_estimated_work_is_the_number_of_shared_rare_values() -> None:
    model = content_knn.fit(ITEMS, SAME, CODES, ORDER, dense=0)
    shared = [
        sum(len(VALUES[ORDER[column]] & other) for column in taken for other in VALUES)
        + sum(len(own & other) for other in VALUES)
        for taken, own in zip(HISTORIES, [{"t2", "t6"}, set(), set()], strict=True)
    ]
    assert content_knn.products(model, asked_of(histories())) == sum(shared)
