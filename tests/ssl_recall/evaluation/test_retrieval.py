import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssl_recall.evaluation import retrieval

few = settings(max_examples=60, deadline=None)


def slow_top_k(queries: Tensor, items: Tensor, k: int, known: list[set[int]]) -> list[list[int]]:
    """Sort all items of every query by (cosine, index), without known positives."""
    scores = (queries @ items.T).tolist()
    lists = []
    for row, taken in zip(scores, known, strict=True):
        order = sorted((i for i in range(len(row)) if i not in taken), key=lambda i: (-row[i], i))[:k]
        lists.append(order + [-1] * (k - len(order)))
    return lists


def known_of(known: list[set[int]]) -> retrieval.Known:
    offsets = torch.tensor([0, *[len(taken) for taken in known]]).cumsum(0)
    return offsets, torch.tensor([item for taken in known for item in sorted(taken)], dtype=torch.int64)


@st.composite
def corpora(draw: st.DrawFn) -> tuple[Tensor, Tensor, list[set[int]]]:
    """Draw integer vectors, so that ties are frequent and exact."""
    queries, items = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    numbers = st.integers(-1, 1).map(float)
    vectors = draw(
        st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=queries + items, max_size=queries + items)
    )
    known = draw(st.lists(st.sets(st.integers(0, items - 1)), min_size=queries, max_size=queries))
    everything = torch.tensor(vectors)
    return everything[:queries], everything[queries:], known


def test_the_nearest_by_hand() -> None:
    items = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    indices, scores = retrieval.top_k(torch.tensor([[0.0, 1.0]]), items, 2)
    assert indices.tolist() == [[1, 2]]
    torch.testing.assert_close(scores, torch.tensor([[1.0, 0.8]]))


@given(corpora(), st.integers(1, 10), st.integers(1, 6))
@few
def test_top_k_is_a_full_sort_without_the_known(
    case: tuple[Tensor, Tensor, list[set[int]]], k: int, block: int
) -> None:
    queries, items, known = case
    indices, scores = retrieval.top_k(queries, items, k, known_of(known), block)
    assert indices.tolist() == slow_top_k(queries, items, k, known)
    for row, found in enumerate(indices.tolist()):
        expected = [(queries[row] @ items[i]).item() if i >= 0 else -math.inf for i in found]
        assert scores[row].tolist() == expected


@pytest.mark.parametrize("levels", [3, 40, 10**6], ids=["ties everywhere", "some ties", "hardly a tie"])
@pytest.mark.parametrize("block", [64, 64 * 700, 2**24])
@pytest.mark.parametrize("items", [130, 2000, 2111])
def test_many_items_in_groups_and_parts_are_a_full_sort(levels: int, block: int, items: int) -> None:
    source = torch.Generator().manual_seed(items)
    queries, vectors = torch.eye(6), torch.randint(levels, (items, 6), generator=source) / levels
    known = [set(torch.randint(items, (20,), generator=source).tolist()) for _ in range(6)]
    indices, scores = retrieval.top_k(queries, vectors, 7, known_of(known), block)
    assert indices.tolist() == slow_top_k(queries, vectors, 7, known)
    assert torch.equal(scores, (queries @ vectors.T).gather(1, indices))


def test_equal_items_stand_in_the_order_of_their_index() -> None:
    indices, _ = retrieval.top_k(torch.ones(3, 2), torch.ones(500, 2), 7)
    assert indices.tolist() == [list(range(7))] * 3


def test_without_known_positives_nothing_is_left_out() -> None:
    queries, items = torch.eye(4), torch.eye(4)
    assert retrieval.top_k(queries, items, 1)[0].flatten().tolist() == [0, 1, 2, 3]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(1, 12), st.data())
@few
def test_most_popular_is_a_sort_by_count_without_the_known(counts: list[int], k: int, data: st.DataObject) -> None:
    known = data.draw(st.lists(st.sets(st.integers(0, len(counts) - 1)), min_size=1, max_size=4))
    order = sorted(range(len(counts)), key=lambda i: (-counts[i], i))
    expected = []
    for taken in known:
        row = [i for i in order if i not in taken][:k]
        expected.append(row + [-1] * (k - len(row)))
    found = retrieval.most_popular(torch.tensor(counts), len(known), k, known_of(known))
    assert found.tolist() == expected
    plain = retrieval.most_popular(torch.tensor(counts), 2, k)
    assert plain.tolist() == [order[:k] + [-1] * (k - len(order[:k]))] * 2


@pytest.mark.parametrize("items", [33, 64, 80, 100, 300])
@pytest.mark.parametrize("k", [1, 3, 8, 20])
def test_few_groups_are_a_full_sort_too(items: int, k: int) -> None:
    source = torch.Generator().manual_seed(items)
    queries, corpus = torch.randn(5, 4, generator=source), torch.randn(items, 4, generator=source)
    found, _ = retrieval.top_k(queries, corpus, k)
    assert found.tolist() == torch.argsort(queries @ corpus.T, dim=1, descending=True)[:, :k].tolist()


def test_nobody_is_recalled_nothing() -> None:
    nobody = (torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    assert retrieval.most_popular(torch.tensor([1, 2]), 0, 2, nobody).shape == (0, 2)
