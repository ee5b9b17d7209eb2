import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssl_recall.kernels.optimisers import RowwiseAdagrad, RunningAverage

few = settings(max_examples=25, deadline=None)
Step = list[tuple[int, list[float]]]  # (row, gradient); a row may repeat


def sparse(steps: Step, shape: tuple[int, int]) -> Tensor:
    rows = torch.tensor([[row for row, _ in steps]], dtype=torch.int64)
    return torch.sparse_coo_tensor(rows, torch.tensor([grad for _, grad in steps]), shape, check_invariants=True)


def run(weight: Tensor, steps: list[Step], lr: float) -> Tensor:
    parameter = torch.nn.Parameter(weight.clone())
    optimiser = RowwiseAdagrad([parameter], lr)
    for step in steps:
        parameter.grad = sparse(step, tuple(weight.shape))
        optimiser.step()
    return parameter.detach()


def slow(weight: list[list[float]], steps: list[Step], lr: float, eps: float = 1e-8) -> list[list[float]]:
    """Adagrad with one accumulator a row, in float64: G_r += mean_d g_rd^2, w_r -= lr g_r / (sqrt G_r + eps)."""
    weight, width = [row[:] for row in weight], len(weight[0])
    squares = [0.0] * len(weight)
    for step in steps:
        summed: dict[int, list[float]] = {}
        for row, grad in step:
            summed[row] = [a + b for a, b in zip(summed.get(row, [0.0] * width), grad, strict=True)]
        for row, grad in summed.items():
            squares[row] += sum(g * g for g in grad) / width
            for d in range(width):
                weight[row][d] -= lr * grad[d] / (math.sqrt(squares[row]) + eps)
    return weight


@st.composite
def histories(draw: st.DrawFn) -> tuple[Tensor, list[Step]]:
    rows, width = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    number = st.sampled_from([-2.0, -0.5, -0.125, 0.25, 1.0, 4.0])
    one = st.tuples(st.integers(0, rows - 1), st.lists(number, min_size=width, max_size=width))
    steps = draw(st.lists(st.lists(one, min_size=1, max_size=6), min_size=1, max_size=4))
    return torch.arange(rows * width, dtype=torch.float32).view(rows, width) / 8, steps


def test_two_steps_worked_by_hand() -> None:
    """Row 0, gradient (3, 4): mean square 12.5. Twice: G = 12.5, then 25, so the second step is 1 / sqrt 2 of it."""
    step: Step = [(0, [3.0, 4.0])]
    once, twice = (run(torch.zeros(2, 2), [step] * n, 0.1) for n in (1, 2))
    first = torch.tensor([3.0, 4.0]) * 0.1 / math.sqrt(12.5)
    torch.testing.assert_close(once[0], -first)
    torch.testing.assert_close(twice[0], -first * (1 + 1 / math.sqrt(2)))
    assert not once[1].any()


@given(histories(), st.sampled_from([0.01, 0.1, 1.0]))
@few
def test_it_is_a_slow_loop_over_rows(history: tuple[Tensor, list[Step]], lr: float) -> None:
    weight, steps = history
    expected = torch.tensor(slow(weight.double().tolist(), steps, lr), dtype=torch.float64)
    torch.testing.assert_close(run(weight, steps, lr).double(), expected, rtol=1e-5, atol=1e-5)


@given(histories())
@few
def test_untouched_rows_stay_bit_for_bit(history: tuple[Tensor, list[Step]]) -> None:
    weight, steps = history
    touched = {row for step in steps for row, _ in step}
    found = run(weight, steps, 0.1)
    for row in set(range(len(weight))) - touched:
        assert torch.equal(found[row], weight[row])


def test_a_row_that_comes_twice_in_a_step_is_summed_first() -> None:
    weight = torch.ones(3, 2)
    together = run(weight, [[(1, [1.0, 2.0]), (1, [3.0, -1.0])]], 0.1)
    assert torch.equal(together, run(weight, [[(1, [4.0, 1.0])]], 0.1))
    one_by_one = run(weight, [[(1, [1.0, 2.0])], [(1, [3.0, -1.0])]], 0.1)
    assert not torch.allclose(together, one_by_one)  # control: two steps differ


@given(st.floats(0.0009765625, 1024, width=32), st.integers(1, 4))
@few
def test_the_first_step_is_as_long_as_lr_whatever_the_gradients_scale(scale: float, width: int) -> None:
    found = run(torch.zeros(1, width), [[(0, [scale] * width)]], 0.05)
    torch.testing.assert_close(found, torch.full((1, width), -0.05), rtol=1e-4, atol=0)


def test_a_gradient_of_zero_moves_nothing_and_is_no_nan() -> None:
    weight = torch.ones(2, 2)
    assert torch.equal(run(weight, [[(0, [0.0, 0.0])]] * 3, 0.1), weight)


def test_embedding_bags_gradients_are_what_it_takes() -> None:
    """One step on a real sparse gradient: rows 1 and 3 in one bag, row 1 again in the other."""
    weight = torch.nn.Parameter(torch.arange(10.0).view(5, 2))
    before = weight.detach().clone()
    bags = torch.nn.functional.embedding_bag(
        torch.tensor([1, 3, 1]), weight, torch.tensor([0, 2]), mode="mean", sparse=True
    )
    bags.sum().backward()
    RowwiseAdagrad([weight], 0.1).step()
    moved = (weight.detach() - before).abs().sum(1)
    assert (moved > 0).tolist() == [False, True, False, True, False]
    torch.testing.assert_close(moved[[1, 3]], torch.tensor([0.2, 0.2]))  # constant rows: exactly lr per weight


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    with_gradient, without = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    optimiser = RowwiseAdagrad([with_gradient, without], 0.1)
    with_gradient.grad = sparse([(0, [1.0, 1.0])], (2, 2))
    optimiser.step()
    assert torch.equal(without, torch.ones(2, 2))
    assert not torch.equal(with_gradient, torch.ones(2, 2))


def test_a_closure_is_evaluated_and_its_loss_given_back() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 2))
    optimiser = RowwiseAdagrad([weight], 0.1)

    def closure() -> float:
        optimiser.zero_grad()
        loss = torch.nn.functional.embedding(torch.tensor([2]), weight, sparse=True).sum()
        loss.backward()
        return loss.item()

    assert optimiser.step(closure) == 2.0
    torch.testing.assert_close(weight[2].detach(), torch.tensor([0.9, 0.9]))
    assert optimiser.step() is None


def test_its_state_goes_through_state_dict_bit_for_bit() -> None:
    """A resumed run takes the same steps; a resume without the accumulators does not."""
    steps: list[Step] = [[(0, [1.0, 2.0])], [(0, [0.5, -1.0]), (1, [1.0, 1.0])], [(0, [2.0, 2.0])]]
    straight = run(torch.ones(3, 2), steps, 0.1)

    def stopped(remember: bool) -> Tensor:
        weight = torch.nn.Parameter(torch.ones(3, 2))
        optimiser = RowwiseAdagrad([weight], 0.1)
        for number, step in enumerate(steps):
            if number == 2:
                state = optimiser.state_dict()
                weight = torch.nn.Parameter(weight.detach().clone())
                optimiser = RowwiseAdagrad([weight], 0.1)
                if remember:
                    optimiser.load_state_dict(state)
            weight.grad = sparse(step, (3, 2))
            optimiser.step()
        return weight.detach()

    assert torch.equal(stopped(remember=True), straight)
    assert not torch.equal(stopped(remember=False), straight)  # control


def test_a_dense_gradient_is_not_taken_silently() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    weight.grad = torch.ones(2, 2)
    with pytest.raises((RuntimeError, ValueError, TypeError), match=r"(?i)sparse"):
        RowwiseAdagrad([weight], 0.1).step()


def test_the_running_average_forgets_at_its_decay_and_gives_the_weights_back() -> None:
    """By hand: average 1, then 0.75 * 1 + 0.25 * 3 = 1.5, then 0.75 * 1.5 + 0.25 * 7 = 2.875."""
    weight = torch.nn.Parameter(torch.ones(2))
    average = RunningAverage([weight], decay=0.75)
    for value in (3.0, 7.0):
        weight.data.fill_(value)
        average.update()
    with average.applied():
        assert weight.tolist() == [2.875, 2.875]
    assert weight.tolist() == [7.0, 7.0]


def test_a_decay_of_0_keeps_the_last_weights() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    average = RunningAverage([weight], decay=0.0)
    weight.data.fill_(5.0)
    average.update()
    with average.applied():
        assert weight.item() == 5.0


def test_an_initial_accumulator_shortens_the_first_step_of_small_gradients_only() -> None:
    """Without it, both rows step by lr; with 1e-4, the row of gradient 1e-3 steps by lr / sqrt(101)."""
    moved = {}
    for initial in (0.0, 1e-4):
        weight = torch.nn.Parameter(torch.zeros(2, 1))
        stepper = RowwiseAdagrad([weight], 0.1, initial)
        weight.grad = sparse([(0, [1.0]), (1, [1e-3])], (2, 1))
        stepper.step()
        moved[initial] = weight.detach().flatten().tolist()
    assert moved[0.0] == pytest.approx([-0.1, -0.1], rel=1e-4)
    assert moved[1e-4] == pytest.approx([-0.1 / 1.0001**0.5, -0.1 / 101**0.5], rel=1e-4)
