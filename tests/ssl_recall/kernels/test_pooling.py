"""Means of table rows and their gradient, compared with torch's dense embedding_bag and a finite difference."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssl_recall.kernels.pooling import Pooling, pool, pool_all, pooling
from ssl_recall.kernels.tensors import with_each

bags_of_rows = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=5), min_size=1, max_size=8)


def plan_of(bags: list[list[int]], piece: int | None = None) -> Pooling:
    """Plan bags of table rows; the vocabulary of every second bag starts at row 3, that of the others at row 0."""
    starts = torch.arange(len(bags)) % 2 * 3
    codes = [row - start for bag, start in zip(bags, starts.tolist(), strict=True) for row in bag]
    return pooling(torch.tensor(codes), torch.tensor([len(bag) for bag in bags]), starts, piece)


@given(bags_of_rows, st.sampled_from([None, 1, 2, 3, 64]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_means_and_gradients_are_those_of_a_dense_table(bags: list[list[int]], piece: int | None, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    table = torch.randn(7, 3, generator=source, dtype=torch.float64).requires_grad_()
    weight = torch.randn(len(bags), 3, generator=source, dtype=torch.float64)
    by_hand = torch.stack([table[bag].mean(0) for bag in bags])
    found = pool(table, with_each(plan_of(bags, piece), Tensor.clone))
    torch.testing.assert_close(found, by_hand)
    (expected,) = torch.autograd.grad((by_hand * weight).sum(), table)
    (gradient,) = torch.autograd.grad((found * weight).sum(), table)
    assert gradient.is_sparse
    assert gradient.is_coalesced()
    assert gradient.indices()[0].tolist() == sorted({row for bag in bags for row in bag})
    torch.testing.assert_close(gradient.to_dense(), expected, rtol=1e-6, atol=1e-7)  # shares are float32


@given(bags_of_rows, st.sampled_from([None, 1, 2, 64]), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_where_each_row_is_in_a_bag_the_gradient_is_dense(bags: list[list[int]], piece: int | None, seed: int) -> None:
    bags = [*bags, list(range(7))]
    source = torch.Generator().manual_seed(seed)
    rows = torch.randn(7, 3, generator=source, dtype=torch.float64).requires_grad_()
    weight = torch.randn(len(bags), 3, generator=source, dtype=torch.float64)
    by_hand = torch.stack([rows[bag].mean(0) for bag in bags])
    found = pool_all(rows, with_each(plan_of(bags, piece), Tensor.clone))
    torch.testing.assert_close(found, by_hand)
    (expected,) = torch.autograd.grad((by_hand * weight).sum(), rows)
    (gradient,) = torch.autograd.grad((found * weight).sum(), rows)
    assert not gradient.is_sparse
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)


def test_rows_that_are_in_no_bag_are_refused_where_each_must_be() -> None:
    rows = torch.zeros(3, 2).requires_grad_()
    how = pooling(torch.tensor([0, 2]), torch.tensor([2]), torch.tensor([0]))
    with pytest.raises(AssertionError, match="each row is in a bag"):
        pool_all(rows, how).sum().backward()


def test_it_is_what_torch_computes_with_a_sparse_table() -> None:
    rows, lengths = torch.randint(0, 50, (400,), generator=torch.Generator().manual_seed(1)), torch.tensor([4] * 100)
    ours, theirs = (torch.linspace(-1, 1, 100).view(50, 2).clone().requires_grad_() for _ in range(2))
    pool(ours, pooling(rows, lengths, torch.zeros_like(lengths))).square().sum().backward()
    F.embedding_bag(rows, theirs, torch.arange(0, 400, 4), mode="mean", sparse=True).square().sum().backward()
    torch.testing.assert_close(ours.grad.to_dense(), theirs.grad.to_dense())


def test_a_plan_lists_every_value_by_bag_and_by_row() -> None:
    plan = plan_of([[3, 1], [1], [5, 1, 3]])
    assert plan.starts.tolist() == [0, 2, 3]
    assert plan.touched.tolist() == [1, 3, 5]
    assert plan.bounds.tolist() == [0, 3, 5]
    ends = [*plan.bounds.tolist()[1:], 6]
    of_row = [sorted(plan.bags[start:end].tolist()) for start, end in zip(plan.bounds.tolist(), ends, strict=True)]
    assert of_row == [[0, 1, 2], [0, 2], [2]]


def test_rows_that_many_bags_hold_are_cut_into_pieces() -> None:
    plan = plan_of([[3, 1], [1], [5, 1, 3], [1], [1]], piece=2)
    assert plan.touched.tolist() == [1, 3, 5]
    assert plan.bounds.tolist() == [
        0,
        2,
        4,
        5,
        7,
    ]  # row 1: five bags, cut into 2, 2, 1; row 3: two; row 5: one
    assert plan.pieces is not None
    assert plan.pieces.tolist() == [0, 3, 4]


def test_its_gradient_has_no_gradient() -> None:
    table = torch.ones(3, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(pool(table, plan_of([[0, 1]])).square().sum(), table, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        gradient.to_dense().sum().backward()


def test_there_may_be_many_bags_and_rows_far_down_the_table() -> None:
    bags = 2**16 + 3
    codes = torch.arange(bags) % 5
    plan = pooling(codes, torch.ones_like(codes), torch.full_like(codes, 2**31))
    assert plan.touched.tolist() == [2**31 + n for n in range(5)]
    assert torch.equal(plan.bags, torch.argsort(codes, stable=True))
