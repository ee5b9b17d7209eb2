import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssl_recall import losses
from ssl_recall.data.interactions import Interactions, index_interactions
from ssl_recall.kernels import softmax
from ssl_recall.kernels.softmax import Pairs
from ssl_recall.training.excluded_pairs import known_pairs, pairs_of_equal

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)
taus = st.sampled_from([0.05, 0.2, 1.0, 3.0])


def unit_rows(seed: int, rows: int, width: int) -> Tensor:
    drawn = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn / drawn.norm(dim=1, keepdim=True)).float()


def shares(seed: int, rows: int) -> Tensor:
    """Draw log shares over five decades, as in a long tail."""
    return -12 * torch.rand(rows, generator=torch.Generator().manual_seed(seed)) - 0.1


def pairs(seed: int, rows: int, rate: float = 0.3) -> Tensor:
    return torch.rand(rows, rows, generator=torch.Generator().manual_seed(seed)) < rate


def none(rows: int) -> Tensor:
    return torch.zeros(rows, rows, dtype=torch.bool)


def cells(mask: Tensor) -> Pairs:
    """Return the True cells of a matrix as Pairs."""
    rows, columns = mask.nonzero(as_tuple=True)
    return Pairs(rows, columns, [0, *mask.sum(1).cumsum(0).tolist()])


def same_rows(ids: Tensor) -> Tensor:
    return ids[:, None] == ids[None, :]


def in_batch_softmax(queries: Tensor, items: Tensor, log_p: Tensor, no_negative: Tensor, tau: float) -> Tensor:
    """Return the loss of a batch of distinct candidates: row b of the items is the positive of query b."""
    own = torch.arange(len(queries))
    return losses.in_batch_softmax(queries, items, own, log_p, torch.ones(len(items)), cells(no_negative), tau)


def self_supervised(view_a: Tensor, view_b: Tensor, no_negative: Tensor, tau: float) -> Tensor:
    return losses.self_supervised(view_a, view_b, cells(no_negative), tau)


def slow_in_batch(
    queries: Tensor, items: Tensor, log_p: Tensor, no_negative: Tensor, tau: float, sign: float = -1.0
) -> float:
    """The formula in float64 and loops: -log exp(s_ii / tau - log p_i) / sum_j exp(s_ij / tau - log p_j)."""
    a, b, lp = (tensor.double().tolist() for tensor in (queries, items, log_p))
    total = 0.0
    for i in range(len(a)):
        logits = [sum(x * y for x, y in zip(a[i], b[j], strict=True)) / tau + sign * lp[j] for j in range(len(b))]
        negatives = [logits[j] for j in range(len(b)) if j != i and not no_negative[i, j]]
        total += math.log(math.fsum(math.exp(logit - logits[i]) for logit in [logits[i], *negatives]))
    return total / len(a)


def slow_self_supervised(view_a: Tensor, view_b: Tensor, no_negative: Tensor, tau: float) -> float:
    """The formula of Yao et al.: -log exp(s(b_i, b'_i) / tau) / sum_j exp(s(b_i, b'_j) / tau), mean over m."""
    a, b = view_a.double().tolist(), view_b.double().tolist()
    total = 0.0
    for i in range(len(a)):
        cosines = [sum(x * y for x, y in zip(a[i], b[j], strict=True)) for j in range(len(b))]
        kept = [j for j in range(len(b)) if j == i or not no_negative[i, j]]
        chance = math.exp(cosines[i] / tau) / math.fsum(math.exp(cosines[j] / tau) for j in kept)
        total -= math.log(chance)
    return total / len(a)


def central_differences(function: Callable[[Tensor], float], at: Tensor, step: float = 1e-5) -> Tensor:
    slopes = torch.zeros_like(at, dtype=torch.float64)
    for i in range(at.numel()):
        up, down = at.double().clone(), at.double().clone()
        up.view(-1)[i] += step
        down.view(-1)[i] -= step
        slopes.view(-1)[i] = (function(up) - function(down)) / (2 * step)
    return slopes


# --- the main task ---


def test_two_queries_worked_by_hand() -> None:
    """Cosines are 1 on the diagonal and 0 off it, p = (0.8, 0.2): L_0 = ln(1 + 4 / e), L_1 = ln(1 + 1 / (4 e))."""
    rows, log_p = torch.eye(2), torch.tensor([0.8, 0.2]).log()
    by_hand = (math.log(1 + 4 / math.e) + math.log(1 + 1 / (4 * math.e))) / 2
    assert in_batch_softmax(rows, rows, log_p, none(2), 1.0).item() == pytest.approx(by_hand, rel=1e-6)


def test_without_correction_and_temperature_it_is_a_plain_softmax() -> None:
    """At tau = 1, B orthogonal pairs give ln(1 + (B - 1) / e)."""
    rows = torch.eye(5)
    found = in_batch_softmax(rows, rows, torch.zeros(5), none(5), 1.0)
    assert found.item() == pytest.approx(math.log(1 + 4 / math.e), rel=1e-6)


@given(seeds, st.integers(1, 6), taus)
@few
def test_the_main_loss_is_the_formula(seed: int, rows: int, tau: float) -> None:
    queries, items = unit_rows(seed, rows, 4), unit_rows(seed + 1, rows, 4)
    log_p, masked = shares(seed, rows), pairs(seed, rows)
    found = in_batch_softmax(queries, items, log_p, masked, tau)
    assert found.item() == pytest.approx(slow_in_batch(queries, items, log_p, masked, tau), rel=1e-5, abs=1e-5)


@given(seeds, st.floats(-30, 30, width=32))
@few
def test_adding_a_constant_to_log_p_changes_nothing(seed: int, constant: float) -> None:
    queries, items, log_p = unit_rows(seed, 4, 3), unit_rows(seed + 1, 4, 3), shares(seed, 4)
    plain = in_batch_softmax(queries, items, log_p, none(4), 0.1)
    moved = in_batch_softmax(queries, items, log_p + constant, none(4), 0.1)
    assert moved.item() == pytest.approx(plain.item(), rel=1e-4, abs=1e-4)


@given(seeds, st.floats(0.125, 5, width=32))
@few
def test_a_more_popular_item_weighs_less_as_a_negative(seed: int, more: float) -> None:
    """Only query 0 has negatives; the terms of the other queries are 0, whatever log p."""
    queries, items, log_p = unit_rows(seed, 3, 3), unit_rows(seed + 1, 3, 3), shares(seed, 3)
    masked = torch.ones(3, 3, dtype=torch.bool)
    masked[0] = False
    raised = log_p + torch.tensor([0.0, more, 0.0])
    plain = in_batch_softmax(queries, items, log_p, masked, 1.0)
    assert in_batch_softmax(queries, items, raised, masked, 1.0) < plain
    lowered = in_batch_softmax(queries, items, log_p - torch.tensor([0.0, more, 0.0]), masked, 1.0)
    assert lowered > plain


def test_the_controls_with_wrong_log_p_give_other_numbers() -> None:
    """Known bugs: plus for minus (TFRS #219, #278), log p divided by tau (Merlin), p clipped at 1e-6 (TFRS)."""
    queries, items = unit_rows(1, 4, 3), unit_rows(2, 4, 3)
    log_p, tau = torch.tensor([1e-1, 1e-3, 1e-5, 1e-8]).log(), 0.2
    found = in_batch_softmax(queries, items, log_p, none(4), tau).item()
    assert found == pytest.approx(slow_in_batch(queries, items, log_p, none(4), tau), rel=1e-5)
    for wrong in (
        slow_in_batch(queries, items, log_p, none(4), tau, sign=1.0),
        slow_in_batch(queries, items, log_p / tau, none(4), tau),
        slow_in_batch(queries, items, log_p.clamp(min=math.log(1e-6)), none(4), tau),
        slow_in_batch(queries, items, torch.zeros(4), none(4), tau),
    ):
        assert abs(found - wrong) > 0.1


@given(seeds, st.integers(2, 4))
@few
def test_the_order_of_the_batch_does_not_matter(seed: int, rows: int) -> None:
    queries, items = unit_rows(seed, rows, 3), unit_rows(seed + 1, rows, 3)
    log_p, masked = shares(seed, rows), pairs(seed, rows)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    plain = in_batch_softmax(queries, items, log_p, masked, 0.3)
    shuffled = in_batch_softmax(queries[order], items[order], log_p[order], masked[order][:, order], 0.3)
    assert shuffled.item() == pytest.approx(plain.item(), rel=1e-5, abs=1e-6)


def test_a_batch_of_one_has_nothing_to_learn_from() -> None:
    assert in_batch_softmax(torch.eye(1), torch.eye(1), torch.zeros(1), none(1), 0.05) == 0


@given(seeds)
@settings(max_examples=8, deadline=None)
def test_gradients_match_float64_finite_differences(seed: int) -> None:
    queries, items, log_p = unit_rows(seed, 3, 2), unit_rows(seed + 1, 3, 2), shares(seed, 3) / 4
    masked, tau = pairs(seed, 3), 0.3
    leaves = [tensor.clone().requires_grad_() for tensor in (queries, items)]
    in_batch_softmax(*leaves, log_p, masked, tau).backward()
    slow: list[Callable[[Tensor], float]] = [
        lambda moved: slow_in_batch(moved, items, log_p, masked, tau),
        lambda moved: slow_in_batch(queries, moved, log_p, masked, tau),
    ]
    for leaf, function in zip(leaves, slow, strict=True):
        expected = central_differences(function, leaf.detach())
        torch.testing.assert_close(leaf.grad.double(), expected, rtol=1e-4, atol=1e-5)


# --- what is no negative has probability exactly 0 (F42) ---


def column_alone(rows: int, column: int) -> Tensor:
    """Mask one column in every row, and all of the row of its query: the column's vector cannot matter."""
    masked = none(rows)
    masked[:, column] = True
    masked[column] = True
    return masked


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tau", [0.01, 1.0])
def test_a_masked_column_has_probability_exactly_zero(dtype: torch.dtype, tau: float) -> None:
    queries, items, log_p = unit_rows(3, 5, 4).to(dtype), unit_rows(4, 5, 4).to(dtype), shares(5, 5)
    masked = column_alone(5, 2)
    leaf = items.clone().requires_grad_()
    in_batch_softmax(queries, leaf, log_p, masked, tau).backward()
    assert torch.equal(leaf.grad[2], torch.zeros(4, dtype=dtype))
    assert leaf.grad[[0, 1, 3, 4]].abs().sum(1).min() > 0  # the other items remain negatives
    other = items.clone()
    other[2] = queries[0]  # the hardest possible negative
    plain = in_batch_softmax(queries, items, log_p, masked, tau)
    assert torch.equal(in_batch_softmax(queries, other, log_p, masked, tau), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_masked_zero_is_seen_by_the_control_without_a_mask(dtype: torch.dtype) -> None:
    """Control for the test above: keras-rs's mask adds 1e-40 and does nothing, yet its test passed (#206)."""
    queries, log_p = unit_rows(3, 5, 4).to(dtype), shares(5, 5)
    leaf = unit_rows(4, 5, 4).to(dtype).requires_grad_()
    in_batch_softmax(queries, leaf, log_p + 1e-40 * column_alone(5, 2)[0], none(5), 1.0).backward()
    assert leaf.grad[2].abs().max() > 1e-4


@given(seeds, st.integers(2, 5), taus)
@few
def test_a_masked_column_counts_as_one_that_the_row_lacks(seed: int, rows: int, tau: float) -> None:
    queries, items, log_p = unit_rows(seed, rows, 4), unit_rows(seed + 1, rows, 4), shares(seed, rows)
    last = column_alone(rows, rows - 1)
    whole = in_batch_softmax(queries, items, log_p, last, tau) * rows
    without = in_batch_softmax(queries[:-1], items[:-1], log_p[:-1], none(rows - 1), tau) * (rows - 1)
    assert whole.item() == pytest.approx(without.item(), rel=1e-5, abs=1e-5)


@given(seeds)
@few
def test_the_diagonal_of_the_mask_is_ignored(seed: int) -> None:
    queries, items, log_p, masked = unit_rows(seed, 4, 3), unit_rows(seed + 1, 4, 3), shares(seed, 4), pairs(seed, 4)
    eye = torch.eye(4, dtype=torch.bool)
    with_diagonal = in_batch_softmax(queries, items, log_p, masked | eye, 0.2)
    assert torch.equal(with_diagonal, in_batch_softmax(queries, items, log_p, masked & ~eye, 0.2))
    in_ssl = self_supervised(queries, items, masked | eye, 0.2)
    assert torch.equal(in_ssl, self_supervised(queries, items, masked & ~eye, 0.2))


def test_the_mask_given_is_left_as_it_was() -> None:
    masked = pairs(9, 4)
    before = masked.clone()
    in_batch_softmax(torch.eye(4), torch.eye(4), torch.zeros(4), masked, 0.1)
    self_supervised(torch.eye(4), torch.eye(4), masked, 0.1)
    assert torch.equal(masked, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tau", [0.001, 0.05, 1.0])
def test_a_batch_of_one_item_is_finite_and_teaches_nothing(dtype: torch.dtype, tau: float) -> None:
    queries = unit_rows(1, 4, 3).to(dtype).requires_grad_()
    items = unit_rows(2, 1, 3).expand(4, 3).to(dtype).requires_grad_()
    found = in_batch_softmax(queries, items, torch.full((4,), -9.0), same_rows(torch.full((4,), 7)), tau)
    found.backward()
    assert found == 0
    assert not queries.grad.any()
    assert not items.grad.any()


@pytest.mark.parametrize("tau", [0.02, 1.0])
def test_bf16_rows_are_compared_in_float32(tau: float) -> None:
    """A bf16 logit has three digits: at 1 / tau = 50 it would be off by 0.1, and log p would be rounded away."""
    queries, items = unit_rows(1, 6, 8).bfloat16(), unit_rows(2, 6, 8).bfloat16()
    log_p = torch.tensor([-16.37, -16.38, -2.01, -2.02, -9.0, -9.01])
    found = in_batch_softmax(queries, items, log_p, none(6), tau)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(slow_in_batch(queries, items, log_p, none(6), tau), rel=1e-5)
    in_ssl = self_supervised(queries, items, none(6), tau)
    assert in_ssl.dtype == torch.float32
    assert in_ssl.item() == pytest.approx(slow_self_supervised(queries, items, none(6), tau), rel=1e-5)


def test_a_loss_under_autocast_is_still_float32() -> None:
    queries, items, log_p = unit_rows(1, 6, 8), unit_rows(2, 6, 8), shares(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = in_batch_softmax(queries, items, log_p, none(6), 0.02)
        in_ssl = self_supervised(queries, items, none(6), 0.02)
    assert found.item() == pytest.approx(slow_in_batch(queries, items, log_p, none(6), 0.02), rel=1e-5)
    assert in_ssl.item() == pytest.approx(slow_self_supervised(queries, items, none(6), 0.02), rel=1e-5)


# --- the self-supervised task ---


def test_identical_views_of_orthogonal_items_worked_by_hand() -> None:
    """The pair's cosine is 1, all others 0: ln(1 + (M - 1) exp(-1 / tau))."""
    rows = torch.eye(4)
    for tau in (0.1, 0.5, 1.0):
        found = self_supervised(rows, rows, none(4), tau)
        assert found.item() == pytest.approx(math.log(1 + 3 * math.exp(-1 / tau)), rel=1e-5, abs=1e-7)


@given(seeds, st.integers(1, 6), st.sampled_from([0.1, 0.5, 1.0]))
@few
def test_the_self_supervised_loss_is_the_formula(seed: int, rows: int, tau: float) -> None:
    view_a, view_b, masked = unit_rows(seed, rows, 4), unit_rows(seed + 1, rows, 4), pairs(seed, rows)
    found = self_supervised(view_a, view_b, masked, tau)
    assert found.item() == pytest.approx(slow_self_supervised(view_a, view_b, masked, tau), rel=1e-5, abs=1e-5)


@given(seeds)
@settings(max_examples=8, deadline=None)
def test_both_views_get_the_gradient_of_the_formula(seed: int) -> None:
    view_a, view_b, masked = unit_rows(seed, 3, 2), unit_rows(seed + 1, 3, 2), pairs(seed, 3)
    leaves = [view_a.clone().requires_grad_(), view_b.clone().requires_grad_()]
    self_supervised(*leaves, masked, 0.4).backward()
    by_a = central_differences(lambda moved: slow_self_supervised(moved, view_b, masked, 0.4), view_a)
    by_b = central_differences(lambda moved: slow_self_supervised(view_a, moved, masked, 0.4), view_b)
    torch.testing.assert_close(leaves[0].grad.double(), by_a, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(leaves[1].grad.double(), by_b, rtol=1e-4, atol=1e-5)


def test_an_item_drawn_twice_is_not_its_own_negative() -> None:
    """Three distinct items, one of them twice, identical views: the negatives of a row are the other items."""
    rows = torch.eye(3)[[0, 1, 0, 2]]
    found = self_supervised(rows, rows, same_rows(torch.tensor([5, 8, 5, 2])), 0.5)
    twice, once = (math.log(1 + n * math.exp(-2)) for n in (2, 3))
    assert found.item() == pytest.approx((2 * twice + 2 * once) / 4, rel=1e-6)
    as_negatives = self_supervised(rows, rows, none(4), 0.5)
    assert as_negatives.item() > found.item() + 0.1  # control: copies as negatives


def test_one_item_drawn_many_times_is_finite_and_teaches_nothing() -> None:
    rows = torch.eye(3)[[1, 1, 1]].requires_grad_()
    found = self_supervised(rows, rows, same_rows(torch.tensor([4, 4, 4])), 0.05)
    found.backward()
    assert found == 0
    assert not rows.grad.any()


@given(seeds, st.sampled_from([0.25, 0.5, 2.0]), st.sampled_from([0.2, 1.0]))
@few
def test_halving_tau_is_doubling_the_cosines(seed: int, scale: float, tau: float) -> None:
    view_a, view_b = unit_rows(seed, 4, 3), unit_rows(seed + 1, 4, 3)
    scaled = self_supervised(view_a / scale, view_b, none(4), tau)
    assert self_supervised(view_a, view_b, none(4), tau * scale).item() == pytest.approx(scaled.item(), rel=1e-5)


def test_zero_vectors_score_as_chance_and_stay_finite() -> None:
    """F43: a tower of zero vectors gives ln B, not NaN."""
    zeros = torch.zeros(8, 4, requires_grad=True)
    for found in (
        in_batch_softmax(zeros, zeros, torch.zeros(8), none(8), 0.05),
        self_supervised(zeros, zeros, none(8), 0.1),
    ):
        assert found.item() == pytest.approx(math.log(8), rel=1e-6)
        found.backward()
    assert zeros.grad.isfinite().all()


# --- the sum ---


@given(st.floats(0, 50, width=32), st.floats(0, 50, width=32), st.sampled_from([0.0, 0.1, 0.3, 1.0, 3.0]))
@few
def test_the_joint_loss_is_main_plus_alpha_times_ssl(main: float, ssl: float, alpha: float) -> None:
    found = losses.joint(torch.tensor(main), torch.tensor(ssl), alpha)
    assert found.item() == pytest.approx(main + alpha * ssl, rel=1e-6)


def test_alpha_means_the_same_at_every_batch_size() -> None:
    """Losses are means: a duplicated batch (copies are no negatives) weighs as much as the batch."""
    view_a, view_b, main = unit_rows(1, 4, 3), unit_rows(2, 4, 3), torch.tensor(2.0)
    expected = losses.joint(main, self_supervised(view_a, view_b, none(4), 0.5), 0.3).item()
    for copies in (2, 5):
        blocks = torch.block_diag(*[torch.ones(4, 4)] * copies) == 0  # each copy contrasts within itself
        found = self_supervised(view_a.repeat(copies, 1), view_b.repeat(copies, 1), blocks, 0.5)
        assert losses.joint(main, found, 0.3).item() == pytest.approx(expected, rel=1e-5)
        in_main = in_batch_softmax(
            view_a.repeat(copies, 1), view_b.repeat(copies, 1), torch.zeros(4 * copies), blocks, 0.5
        )
        once = in_batch_softmax(view_a, view_b, torch.zeros(4), none(4), 0.5)
        assert in_main.item() == pytest.approx(once.item(), rel=1e-5)


# --- which columns are no negatives ---


def log_of(took: list[list[int]]) -> Interactions:
    queries = torch.tensor([query for query, its in enumerate(took) for _ in its], dtype=torch.int64)
    items = torch.tensor([item for its in took for item in its], dtype=torch.int64)
    return index_interactions(queries, items, len(took))


def known(took: list[list[int]], queries: list[int], items: list[int], size: int) -> set[tuple[int, int]]:
    """Return the known pairs; check that the scratch is restored and that the bounds fit the rows."""
    scratch = torch.full((2 * size,), -1)
    asked, candidates = torch.tensor(queries, dtype=torch.int64), 2 * torch.tensor(items, dtype=torch.int64)
    found = known_pairs(asked, candidates, log_of(took), scratch)
    assert (scratch == -1).all()
    return set(pairs_by_row(found))


def pairs_by_row(found: Pairs) -> list[tuple[int, int]]:
    """Read each row's pairs through the bounds, as the losses do."""
    rows = range(len(found.bounds) - 1)
    return [
        (row, column) for row in rows for column in found.columns[found.bounds[row] : found.bounds[row + 1]].tolist()
    ]


def test_known_pairs_worked_by_hand() -> None:
    """Query 0 took items 1 and 2, query 1 took item 4; the candidates are 1, 2, 3, 4."""
    assert known([[1, 2], [4]], [0, 1, 0], [1, 2, 3, 4], 5) == {(0, 0), (0, 1), (1, 3), (2, 0), (2, 1)}


def test_an_item_with_its_id_and_without_it_is_known_as_both() -> None:
    """Query 0 took item 1; the candidates are item 0, item 1, and item 1 with its id hidden."""
    found = known_pairs(torch.tensor([0]), torch.tensor([0, 2, 3]), log_of([[1]]), torch.full((4,), -1))
    assert pairs_by_row(found) == [(0, 1), (0, 2)]


@given(st.lists(st.lists(st.integers(0, 5), max_size=5), min_size=1, max_size=4), st.data())
@settings(max_examples=60, deadline=None)
def test_known_pairs_are_those_of_a_set_per_query(took: list[list[int]], data: st.DataObject) -> None:
    queries = data.draw(st.lists(st.integers(0, len(took) - 1), min_size=1, max_size=8))
    items = data.draw(st.lists(st.integers(0, 5), unique=True, min_size=1))
    expected = {(b, c) for b, q in enumerate(queries) for c, item in enumerate(items) if item in took[q]}
    assert known(took, queries, items, 6) == expected


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.lists(st.integers(0, 4), max_size=12))
@settings(max_examples=60, deadline=None)
def test_pairs_of_equal_are_the_cells_of_the_comparison(ids: list[int], columns: list[int]) -> None:
    found = pairs_of_equal(torch.tensor(ids), torch.tensor(columns, dtype=torch.int64))
    by_row = pairs_by_row(found)
    assert by_row == list(zip(found.rows.tolist(), found.columns.tolist(), strict=True))
    assert len(by_row) == len(set(by_row))
    assert set(by_row) == {(i, j) for i, left in enumerate(ids) for j, right in enumerate(columns) if left == right}


def test_known_positives_are_no_negatives_from_end_to_end() -> None:
    """Query 0 took items 0 and 1: item 1, the positive of query 1, must get nothing from query 0's row."""
    took, ids = log_of([[0, 1], [1]]), torch.tensor([0, 1])
    masked = known_pairs(ids, 2 * ids, took, torch.full((4,), -1))
    queries, items = unit_rows(1, 2, 3).requires_grad_(), unit_rows(2, 2, 3)
    losses.in_batch_softmax(queries, items, ids, torch.zeros(2), torch.ones(2), masked, 0.05).backward()
    assert not queries.grad[0].any()  # no negatives, so no gradient
    assert queries.grad[1].any()


# --- one column for a repeated candidate, one block of rows at a time ---


def plain_softmax(rows: Tensor, columns: Tensor, log_p: Tensor, no_negative: Tensor, tau: float) -> Tensor:
    """The formula by torch's cross_entropy, in float64: column b is the positive of row b."""
    logits = (rows @ columns.T) / tau - log_p
    own = torch.eye(*logits.shape, dtype=torch.bool)
    logits = logits.masked_fill(no_negative & ~own, -math.inf)
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)))


@given(st.integers(1, 9), st.integers(0, 6), seeds, taus, st.sampled_from([1, 7, 16, 10_000]))
@few
def test_distinct_candidates_in_blocks_are_all_candidates_at_once(
    batch: int, extra: int, seed: int, tau: float, block: int
) -> None:
    """Loss and both gradients agree: B rows against all B + U candidates, or against each distinct item once."""
    source = torch.Generator().manual_seed(seed)
    drawn = torch.randint(4, (batch + extra,), generator=source)  # only 4 items, so most repeat
    took = torch.rand(batch, 4, generator=source) < 0.3
    took[torch.arange(batch), drawn[:batch]] = True
    queries = unit_rows(seed, batch, 5).double().requires_grad_()
    vectors = unit_rows(seed + 1, 4, 5).double().requires_grad_()
    log_p = shares(seed, 4).double()
    expected = plain_softmax(queries, vectors[drawn], log_p[drawn], took[:, drawn], tau)
    wanted = torch.autograd.grad(expected, [queries, vectors])

    distinct, column, times = drawn.unique(return_inverse=True, return_counts=True)
    bias = times.double().log() - log_p[distinct]
    masked = cells(took[:, distinct])
    found = softmax.softmax_loss(
        queries, vectors[distinct], column[:batch], bias, -log_p[drawn[:batch]], masked, tau, block
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(torch.autograd.grad(3 * found, [queries, vectors]), wanted, strict=True):
        torch.testing.assert_close(one, 3 * other, rtol=1e-9, atol=1e-11)
    given_times = losses.in_batch_softmax(
        queries, vectors[distinct], column[:batch], log_p[distinct], times.double(), masked, tau
    )
    torch.testing.assert_close(given_times, expected, rtol=1e-9, atol=1e-9)


# --- refusals ---


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_no_positive_number_is_refused(tau: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        in_batch_softmax(torch.eye(2), torch.eye(2), torch.zeros(2), none(2), tau)
    with pytest.raises(ValueError, match="temperature"):
        self_supervised(torch.eye(2), torch.eye(2), none(2), tau)


def test_a_non_finite_number_is_an_arithmetic_error() -> None:
    assert issubclass(losses.NonFiniteLossError, ArithmeticError)


# --- further negatives ---


def test_the_mixture_is_the_share_of_positives_and_of_drawn_negatives() -> None:
    """By hand: B = 3, U = 1, p = (0.5, 0.5, 0+), u = (0, 0.5, 0.5): (1.5, 2, 0.5) of 4 candidates."""
    found = losses.mixture(torch.tensor([0.5, 0.5, 1e-30]).log(), torch.tensor([0.0, 0.5, 0.5]), batch=3, extra=1)
    torch.testing.assert_close(found.exp(), torch.tensor([1.5, 2.0, 0.5]) / 4)
    alone = losses.mixture(torch.tensor([0.25, 0.75]).log(), torch.tensor([0.5, 0.5]), batch=8, extra=0)
    torch.testing.assert_close(alone.exp(), torch.tensor([0.25, 0.75]))


def test_further_negatives_only_lengthen_the_sum_below() -> None:
    queries, items, log_q, tau = unit_rows(1, 2, 8), unit_rows(2, 5, 8), shares(3, 5), 0.3
    found = in_batch_softmax(queries, items, log_q, torch.zeros(2, 5, dtype=torch.bool), tau)
    logits = (queries.double() @ items.double().T) / tau - log_q.double()
    expected = sum(-(logits[b, b] - torch.logsumexp(logits[b], 0)).item() for b in range(2)) / 2
    assert found.item() == pytest.approx(expected, rel=1e-5)
    masked = torch.zeros(2, 5, dtype=torch.bool)
    masked[:, 4] = True
    without = in_batch_softmax(queries, items[:4], log_q[:4], masked[:, :4], tau)
    assert in_batch_softmax(queries, items, log_q, masked, tau).item() == without.item()


def test_rounded_products_move_loss_and_gradients_by_little_and_padding_by_nothing() -> None:
    """300 queries and 200 candidates, in blocks of 64 rows; the last eight candidates are padding."""
    rows, columns, taken = 300, 200, torch.rand(300, 200, generator=torch.Generator().manual_seed(9)) < 0.02
    queries, items = unit_rows(1, rows, 64), unit_rows(2, columns, 64)
    own, log_q = torch.arange(rows) % 192, -5 - torch.rand(columns, generator=torch.Generator().manual_seed(3))
    times = torch.ones(columns)
    times[192:] = 0
    known = Pairs(*taken.nonzero().unbind(1), [0, *taken.sum(1).cumsum(0).tolist()])

    def found(*, bf16: bool, dtype: torch.dtype = torch.float32) -> tuple[float, Tensor, Tensor]:
        leaves = [rows.detach().to(dtype).requires_grad_() for rows in (queries, items)]
        bias = times.log() - log_q
        with softmax.rounded(bf16=bf16):
            loss = softmax.softmax_loss(*leaves, own, bias, -log_q[own], known, 0.05, 64 * columns)
        return loss.item(), *torch.autograd.grad(loss, leaves)

    exact, to_queries, to_items = found(bf16=False, dtype=torch.float64)
    for bf16, of_loss, of_gradients in ((False, 1e-5, 1e-4), (True, 2e-3, 2e-2)):
        loss, *gradients = found(bf16=bf16)
        assert loss == pytest.approx(exact, rel=of_loss)
        for gradient, expected in zip(gradients, (to_queries, to_items), strict=True):
            assert (gradient - expected).norm() <= of_gradients * expected.norm()
        assert not gradients[1][192:].any()


def test_a_block_has_whole_tiles_where_it_has_several_and_never_more_than_it_may() -> None:
    for columns in (0, 1, 1000, 4096, 2**16, 2**22):
        rows = softmax._rows_of_a_block(2**21, columns)
        assert rows >= 1
        assert rows == 1 or rows * max(columns, 1) <= 2**21
        assert rows < 64 or rows % 64 == 0
