import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssl_recall import losses

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)
taus = st.sampled_from([0.05, 0.2, 1.0, 3.0])


def unit_rows(seed: int, rows: int, width: int) -> Tensor:
    drawn = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn / drawn.norm(dim=1, keepdim=True)).float()


def shares(seed: int, rows: int) -> Tensor:
    """Log shares over five decades, as a long tail has them."""
    return -12 * torch.rand(rows, generator=torch.Generator().manual_seed(seed)) - 0.1


def pairs(seed: int, rows: int, rate: float = 0.3) -> Tensor:
    return torch.rand(rows, rows, generator=torch.Generator().manual_seed(seed)) < rate


def none(rows: int) -> Tensor:
    return torch.zeros(rows, rows, dtype=torch.bool)


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
    """Cosines are 1 on the diagonal and 0 off it, p = (.8, .2): L_0 = ln(1 + 4 / e), L_1 = ln(1 + 1 / (4 e))."""
    rows, log_p = torch.eye(2), torch.tensor([0.8, 0.2]).log()
    by_hand = (math.log(1 + 4 / math.e) + math.log(1 + 1 / (4 * math.e))) / 2
    assert losses.in_batch_softmax(rows, rows, log_p, none(2), 1.0).item() == pytest.approx(by_hand, rel=1e-6)


def test_without_correction_and_temperature_it_is_a_plain_softmax() -> None:
    """The note writes the formula without tau: B orthogonal pairs give ln(1 + (B - 1) / e)."""
    rows = torch.eye(5)
    found = losses.in_batch_softmax(rows, rows, torch.zeros(5), none(5), 1.0)
    assert found.item() == pytest.approx(math.log(1 + 4 / math.e), rel=1e-6)


@given(seeds, st.integers(1, 6), taus)
@few
def test_the_main_loss_is_the_formula(seed: int, rows: int, tau: float) -> None:
    queries, items = unit_rows(seed, rows, 4), unit_rows(seed + 1, rows, 4)
    log_p, masked = shares(seed, rows), pairs(seed, rows)
    found = losses.in_batch_softmax(queries, items, log_p, masked, tau)
    assert found.item() == pytest.approx(slow_in_batch(queries, items, log_p, masked, tau), rel=1e-5, abs=1e-5)


@given(seeds, st.floats(-30, 30, width=32))
@few
def test_adding_a_constant_to_log_p_changes_nothing(seed: int, constant: float) -> None:
    queries, items, log_p = unit_rows(seed, 4, 3), unit_rows(seed + 1, 4, 3), shares(seed, 4)
    plain = losses.in_batch_softmax(queries, items, log_p, none(4), 0.1)
    moved = losses.in_batch_softmax(queries, items, log_p + constant, none(4), 0.1)
    assert moved.item() == pytest.approx(plain.item(), rel=1e-4, abs=1e-4)


@given(seeds, st.floats(0.125, 5, width=32))
@few
def test_a_more_popular_item_weighs_less_as_a_negative(seed: int, more: float) -> None:
    """Only query 0's term is looked at: the other rows have no negatives, so they are 0 whatever log p says."""
    queries, items, log_p = unit_rows(seed, 3, 3), unit_rows(seed + 1, 3, 3), shares(seed, 3)
    masked = torch.ones(3, 3, dtype=torch.bool)
    masked[0] = False
    raised = log_p + torch.tensor([0.0, more, 0.0])
    plain = losses.in_batch_softmax(queries, items, log_p, masked, 1.0)
    assert losses.in_batch_softmax(queries, items, raised, masked, 1.0) < plain
    lowered = losses.in_batch_softmax(queries, items, log_p - torch.tensor([0.0, more, 0.0]), masked, 1.0)
    assert lowered > plain


def test_the_controls_with_wrong_log_p_give_other_numbers() -> None:
    """Plus for minus (TFRS #219, #278), log p divided by tau (Merlin), p clipped at 1e-6 (TFRS)."""
    queries, items = unit_rows(1, 4, 3), unit_rows(2, 4, 3)
    log_p, tau = torch.tensor([1e-1, 1e-3, 1e-5, 1e-8]).log(), 0.2
    found = losses.in_batch_softmax(queries, items, log_p, none(4), tau).item()
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
    plain = losses.in_batch_softmax(queries, items, log_p, masked, 0.3)
    shuffled = losses.in_batch_softmax(queries[order], items[order], log_p[order], masked[order][:, order], 0.3)
    assert shuffled.item() == pytest.approx(plain.item(), rel=1e-5, abs=1e-6)


def test_a_batch_of_one_has_nothing_to_learn_from() -> None:
    assert losses.in_batch_softmax(torch.eye(1), torch.eye(1), torch.zeros(1), none(1), 0.05) == 0


@given(seeds)
@settings(max_examples=8, deadline=None)
def test_gradients_match_float64_finite_differences(seed: int) -> None:
    queries, items, log_p = unit_rows(seed, 3, 2), unit_rows(seed + 1, 3, 2), shares(seed, 3) / 4
    masked, tau = pairs(seed, 3), 0.3
    leaves = [tensor.clone().requires_grad_() for tensor in (queries, items, log_p)]
    losses.in_batch_softmax(*leaves, masked, tau).backward()
    slow: list[Callable[[Tensor], float]] = [
        lambda moved: slow_in_batch(moved, items, log_p, masked, tau),
        lambda moved: slow_in_batch(queries, moved, log_p, masked, tau),
        lambda moved: slow_in_batch(queries, items, moved, masked, tau),
    ]
    for leaf, function in zip(leaves, slow, strict=True):
        expected = central_differences(function, leaf.detach())
        torch.testing.assert_close(leaf.grad.double(), expected, rtol=1e-4, atol=1e-5)


# --- what is no negative has probability exactly 0 (F42) ---


def column_alone(rows: int, column: int) -> Tensor:
    """Mask one column in every row but its own, and all of its own row: the column's vector can matter nowhere."""
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
    losses.in_batch_softmax(queries, leaf, log_p, masked, tau).backward()
    assert torch.equal(leaf.grad[2], torch.zeros(4, dtype=dtype))
    assert leaf.grad[[0, 1, 3, 4]].abs().sum(1).min() > 0  # the others are still negatives
    other = items.clone()
    other[2] = queries[0]  # the hardest negative there is
    plain = losses.in_batch_softmax(queries, items, log_p, masked, tau)
    assert torch.equal(losses.in_batch_softmax(queries, other, log_p, masked, tau), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_masked_zero_is_seen_by_the_control_without_a_mask(dtype: torch.dtype) -> None:
    """The control of the test above: keras-rs's mask adds 1e-40, does nothing, and its test passed (#206)."""
    queries, log_p = unit_rows(3, 5, 4).to(dtype), shares(5, 5)
    leaf = unit_rows(4, 5, 4).to(dtype).requires_grad_()
    losses.in_batch_softmax(queries, leaf, log_p + 1e-40 * column_alone(5, 2)[0], none(5), 1.0).backward()
    assert leaf.grad[2].abs().max() > 1e-4


@given(seeds, st.integers(2, 5), taus)
@few
def test_a_masked_column_counts_as_one_that_the_row_lacks(seed: int, rows: int, tau: float) -> None:
    queries, items, log_p = unit_rows(seed, rows, 4), unit_rows(seed + 1, rows, 4), shares(seed, rows)
    last = column_alone(rows, rows - 1)
    whole = losses.in_batch_softmax(queries, items, log_p, last, tau) * rows
    without = losses.in_batch_softmax(queries[:-1], items[:-1], log_p[:-1], none(rows - 1), tau) * (rows - 1)
    assert whole.item() == pytest.approx(without.item(), rel=1e-5, abs=1e-5)


@given(seeds)
@few
def test_the_diagonal_of_the_mask_is_ignored(seed: int) -> None:
    queries, items, log_p, masked = unit_rows(seed, 4, 3), unit_rows(seed + 1, 4, 3), shares(seed, 4), pairs(seed, 4)
    eye = torch.eye(4, dtype=torch.bool)
    with_diagonal = losses.in_batch_softmax(queries, items, log_p, masked | eye, 0.2)
    assert torch.equal(with_diagonal, losses.in_batch_softmax(queries, items, log_p, masked & ~eye, 0.2))
    in_ssl = losses.self_supervised(queries, items, masked | eye, 0.2)
    assert torch.equal(in_ssl, losses.self_supervised(queries, items, masked & ~eye, 0.2))


def test_the_mask_given_is_left_as_it_was() -> None:
    masked = pairs(9, 4)
    before = masked.clone()
    losses.in_batch_softmax(torch.eye(4), torch.eye(4), torch.zeros(4), masked, 0.1)
    losses.self_supervised(torch.eye(4), torch.eye(4), masked, 0.1)
    assert torch.equal(masked, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tau", [0.001, 0.05, 1.0])
def test_a_batch_of_one_item_is_finite_and_teaches_nothing(dtype: torch.dtype, tau: float) -> None:
    queries = unit_rows(1, 4, 3).to(dtype).requires_grad_()
    items = unit_rows(2, 1, 3).expand(4, 3).to(dtype).requires_grad_()
    found = losses.in_batch_softmax(queries, items, torch.full((4,), -9.0), losses.same_rows(torch.full((4,), 7)), tau)
    found.backward()
    assert found == 0
    assert not queries.grad.any()
    assert not items.grad.any()


@pytest.mark.parametrize("tau", [0.02, 1.0])
def test_bf16_rows_are_compared_in_float32(tau: float) -> None:
    """A bf16 logit has three digits: at 1 / tau = 50 it would be off by 0.1, and log p would be rounded away."""
    queries, items = unit_rows(1, 6, 8).bfloat16(), unit_rows(2, 6, 8).bfloat16()
    log_p = torch.tensor([-16.37, -16.38, -2.01, -2.02, -9.0, -9.01])
    found = losses.in_batch_softmax(queries, items, log_p, none(6), tau)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(slow_in_batch(queries, items, log_p, none(6), tau), rel=1e-5)
    in_ssl = losses.self_supervised(queries, items, none(6), tau)
    assert in_ssl.dtype == torch.float32
    assert in_ssl.item() == pytest.approx(slow_self_supervised(queries, items, none(6), tau), rel=1e-5)


def test_a_loss_under_autocast_is_still_float32() -> None:
    queries, items, log_p = unit_rows(1, 6, 8), unit_rows(2, 6, 8), shares(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = losses.in_batch_softmax(queries, items, log_p, none(6), 0.02)
        in_ssl = losses.self_supervised(queries, items, none(6), 0.02)
    assert found.item() == pytest.approx(slow_in_batch(queries, items, log_p, none(6), 0.02), rel=1e-5)
    assert in_ssl.item() == pytest.approx(slow_self_supervised(queries, items, none(6), 0.02), rel=1e-5)


# --- the self-supervised task ---


def test_identical_views_of_orthogonal_items_worked_by_hand() -> None:
    """The pair's cosine is 1, all others 0: ln(1 + (M - 1) exp(-1 / tau))."""
    rows = torch.eye(4)
    for tau in (0.1, 0.5, 1.0):
        found = losses.self_supervised(rows, rows, none(4), tau)
        assert found.item() == pytest.approx(math.log(1 + 3 * math.exp(-1 / tau)), rel=1e-5, abs=1e-7)


@given(seeds, st.integers(1, 6), st.sampled_from([0.1, 0.5, 1.0]))
@few
def test_the_self_supervised_loss_is_the_formula(seed: int, rows: int, tau: float) -> None:
    view_a, view_b, masked = unit_rows(seed, rows, 4), unit_rows(seed + 1, rows, 4), pairs(seed, rows)
    found = losses.self_supervised(view_a, view_b, masked, tau)
    assert found.item() == pytest.approx(slow_self_supervised(view_a, view_b, masked, tau), rel=1e-5, abs=1e-5)


@given(seeds)
@settings(max_examples=8, deadline=None)
def test_both_views_get_the_gradient_of_the_formula(seed: int) -> None:
    view_a, view_b, masked = unit_rows(seed, 3, 2), unit_rows(seed + 1, 3, 2), pairs(seed, 3)
    leaves = [view_a.clone().requires_grad_(), view_b.clone().requires_grad_()]
    losses.self_supervised(*leaves, masked, 0.4).backward()
    by_a = central_differences(lambda moved: slow_self_supervised(moved, view_b, masked, 0.4), view_a)
    by_b = central_differences(lambda moved: slow_self_supervised(view_a, moved, masked, 0.4), view_b)
    torch.testing.assert_close(leaves[0].grad.double(), by_a, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(leaves[1].grad.double(), by_b, rtol=1e-4, atol=1e-5)


def test_an_item_drawn_twice_is_not_its_own_negative() -> None:
    """Three distinct items, one of them twice: all identical views, so each row has the negatives of other items."""
    rows = torch.eye(3)[[0, 1, 0, 2]]
    found = losses.self_supervised(rows, rows, losses.same_rows(torch.tensor([5, 8, 5, 2])), 0.5)
    twice, once = (math.log(1 + n * math.exp(-2)) for n in (2, 3))
    assert found.item() == pytest.approx((2 * twice + 2 * once) / 4, rel=1e-6)
    as_negatives = losses.self_supervised(rows, rows, none(4), 0.5)
    assert as_negatives.item() > found.item() + 0.1  # the control


def test_one_item_drawn_many_times_is_finite_and_teaches_nothing() -> None:
    rows = torch.eye(3)[[1, 1, 1]].requires_grad_()
    found = losses.self_supervised(rows, rows, losses.same_rows(torch.tensor([4, 4, 4])), 0.05)
    found.backward()
    assert found == 0
    assert not rows.grad.any()


@given(seeds, st.sampled_from([0.25, 0.5, 2.0]), st.sampled_from([0.2, 1.0]))
@few
def test_halving_tau_is_doubling_the_cosines(seed: int, scale: float, tau: float) -> None:
    view_a, view_b = unit_rows(seed, 4, 3), unit_rows(seed + 1, 4, 3)
    scaled = losses.self_supervised(view_a / scale, view_b, none(4), tau)
    assert losses.self_supervised(view_a, view_b, none(4), tau * scale).item() == pytest.approx(scaled.item(), rel=1e-5)


def test_zero_vectors_score_as_chance_and_stay_finite() -> None:
    """F43: a tower that dies gives ln B, not NaN."""
    zeros = torch.zeros(8, 4, requires_grad=True)
    for found in (
        losses.in_batch_softmax(zeros, zeros, torch.zeros(8), none(8), 0.05),
        losses.self_supervised(zeros, zeros, none(8), 0.1),
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
    """Means, not sums: a batch in duplicate (copies are no negatives) weighs as much as the batch."""
    view_a, view_b, main = unit_rows(1, 4, 3), unit_rows(2, 4, 3), torch.tensor(2.0)
    expected = losses.joint(main, losses.self_supervised(view_a, view_b, none(4), 0.5), 0.3).item()
    for copies in (2, 5):
        blocks = torch.block_diag(*[torch.ones(4, 4)] * copies) == 0  # each copy contrasts within itself
        found = losses.self_supervised(view_a.repeat(copies, 1), view_b.repeat(copies, 1), blocks, 0.5)
        assert losses.joint(main, found, 0.3).item() == pytest.approx(expected, rel=1e-5)
        in_main = losses.in_batch_softmax(
            view_a.repeat(copies, 1), view_b.repeat(copies, 1), torch.zeros(4 * copies), blocks, 0.5
        )
        once = losses.in_batch_softmax(view_a, view_b, torch.zeros(4), none(4), 0.5)
        assert in_main.item() == pytest.approx(once.item(), rel=1e-5)


# --- which columns are no negatives ---


def test_same_rows_marks_pairs_of_one_id() -> None:
    found = losses.same_rows(torch.tensor([3, 5, 3]))
    assert found.tolist() == [[True, False, True], [False, True, False], [True, False, True]]


def test_known_positives_worked_by_hand() -> None:
    """Query 0 took items 1 and 2, query 1 took item 4; the batch's columns are 1, 4, 2, 1."""
    offsets, taken, scratch = torch.tensor([0, 2, 3]), torch.tensor([1, 2, 4]), torch.full((5,), -1)
    found = losses.known_positives(torch.tensor([0, 1, 0, 0]), torch.tensor([1, 4, 2, 1]), offsets, taken, scratch)
    row_of_0, row_of_1 = [True, False, True, True], [False, True, False, False]
    assert found.tolist() == [row_of_0, row_of_1, row_of_0, row_of_0]


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[list[int]], list[tuple[int, int]], int]:
    """What each query took, a batch of its (query, item) pairs, and the number of items; items may repeat anywhere."""
    items = draw(st.integers(1, 6))
    one = st.integers(0, items - 1)
    took = draw(st.lists(st.lists(one, max_size=5), min_size=1, max_size=4))
    pairs = [(query, item) for query, its in enumerate(took) for item in its]
    batch = draw(st.lists(st.sampled_from(pairs), min_size=1, max_size=8)) if pairs else []
    return took, batch, items


@given(logs(), st.sampled_from([torch.int32, torch.int64]))
@settings(max_examples=60, deadline=None)
def test_known_positives_are_those_of_a_set_per_query(
    log: tuple[list[list[int]], list[tuple[int, int]], int], dtype: torch.dtype
) -> None:
    took, batch, items = log
    offsets = torch.tensor([0, *[len(its) for its in took]]).cumsum(0)
    taken = torch.tensor([item for its in took for item in its], dtype=dtype)
    scratch = torch.full((items,), -1)
    queries = torch.tensor([query for query, _ in batch], dtype=torch.int64)
    columns = torch.tensor([item for _, item in batch], dtype=torch.int64)
    found = losses.known_positives(queries, columns, offsets, taken, scratch)
    expected = [[item in set(took[query]) for _, item in batch] for query, _ in batch]
    assert found.dtype == torch.bool
    assert found.shape == (len(batch), len(batch))
    assert found.tolist() == expected
    assert (scratch == -1).all()  # left as it was found


def test_an_item_in_several_columns_is_marked_in_all_of_them() -> None:
    """Query 1 took item 0 long ago; item 0 is the positive of three other rows of the batch."""
    offsets, taken, scratch = torch.tensor([0, 1, 3]), torch.tensor([0, 0, 1]), torch.full((2,), -1)
    found = losses.known_positives(torch.tensor([0, 0, 1, 0]), torch.tensor([0, 0, 1, 0]), offsets, taken, scratch)
    assert found[2].tolist() == [True, True, True, True]
    assert found[0].tolist() == [True, True, False, True]


def test_known_positives_are_no_negatives_from_end_to_end() -> None:
    """Query 0 took items 0 and 1: item 1, the positive of query 1, must get nothing from query 0's row."""
    offsets, taken, scratch = torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1]), torch.full((2,), -1)
    ids = torch.tensor([0, 1])
    masked = losses.known_positives(ids, ids, offsets, taken, scratch)
    assert masked.tolist() == [[True, True], [False, True]]
    queries, items = unit_rows(1, 2, 3).requires_grad_(), unit_rows(2, 2, 3)
    losses.in_batch_softmax(queries, items, torch.zeros(2), masked, 0.05).backward()
    assert not queries.grad[0].any()  # no negatives left, nothing to learn
    assert queries.grad[1].any()


# --- refusals ---


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_no_positive_number_is_refused(tau: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        losses.in_batch_softmax(torch.eye(2), torch.eye(2), torch.zeros(2), none(2), tau)
    with pytest.raises(ValueError, match="temperature"):
        losses.self_supervised(torch.eye(2), torch.eye(2), none(2), tau)


def test_a_non_finite_number_is_an_arithmetic_error() -> None:
    assert issubclass(losses.NonFiniteError, ArithmeticError)


# --- further negatives ---


def test_the_mixture_is_the_share_of_positives_and_of_drawn_negatives() -> None:
    """By hand: B = 3, U = 1, p = (.5, .5, 0+), u = (0, .5, .5): (1.5, 2, .5) of 4 candidates."""
    found = losses.mixture(torch.tensor([0.5, 0.5, 1e-30]).log(), torch.tensor([0.0, 0.5, 0.5]), batch=3, extra=1)
    torch.testing.assert_close(found.exp(), torch.tensor([1.5, 2.0, 0.5]) / 4)
    alone = losses.mixture(torch.tensor([0.25, 0.75]).log(), torch.tensor([0.5, 0.5]), batch=8, extra=0)
    torch.testing.assert_close(alone.exp(), torch.tensor([0.25, 0.75]))


def test_further_negatives_only_lengthen_the_sum_below() -> None:
    queries, items, log_q, tau = unit_rows(1, 2, 8), unit_rows(2, 5, 8), shares(3, 5), 0.3
    found = losses.in_batch_softmax(queries, items, log_q, torch.zeros(2, 5, dtype=torch.bool), tau)
    logits = (queries.double() @ items.double().T) / tau - log_q.double()
    expected = sum(-(logits[b, b] - torch.logsumexp(logits[b], 0)).item() for b in range(2)) / 2
    assert found.item() == pytest.approx(expected, rel=1e-5)
    masked = torch.zeros(2, 5, dtype=torch.bool)
    masked[:, 4] = True
    without = losses.in_batch_softmax(queries, items[:4], log_q[:4], masked[:, :4], tau)
    assert losses.in_batch_softmax(queries, items, log_q, masked, tau).item() == without.item()
