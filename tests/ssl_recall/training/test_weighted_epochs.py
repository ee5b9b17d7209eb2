"""Epochs of a log whose interactions have weights by age."""

from dataclasses import replace

import pytest
import torch

from ssl_recall.training import sampling
from ssl_recall.training.objective import Objective
from ssl_recall.training.planner import Planner, TrainingData

from ..small_world import PLAIN, SSL, WITH_SSL, data_of, model_of

EVENTS = [(q, time, (q + time) % 8) for q in range(8) for time in range(6)]  # 48 rows
HISTORY = replace(PLAIN, history=4)


def weighted(weights: torch.Tensor) -> TrainingData:
    return replace(data_of(EVENTS), weights=weights)


def order(data: TrainingData, objective: Objective, epoch: int, first: int = 0) -> list[int]:
    """Return the rows of an epoch's steps, from step `first`."""
    planner = Planner(data, objective, model_of(history=objective.history > 0), 7)
    return [row for plan in planner.epoch(epoch, first) for row in plan.args[0].tolist()]  # type: ignore[attr-defined]


@pytest.mark.parametrize("objective", [PLAIN, HISTORY], ids=["plain", "history"])
def test_weights_of_one_plan_the_epochs_of_a_log_without_weights_bit_for_bit(objective: Objective) -> None:
    ones = weighted(torch.ones(48, dtype=torch.float64))
    for epoch in range(3):
        assert order(ones, objective, epoch) == order(data_of(EVENTS), objective, epoch)


@pytest.mark.parametrize("objective", [PLAIN, HISTORY], ids=["plain", "history"])
def test_an_epoch_is_the_drawn_rows_and_has_the_same_steps_each_time(objective: Objective) -> None:
    weights = torch.tensor([0.0, 0.0, 0.25, 0.5, 0.75, 1.0] * 8, dtype=torch.float64)  # 20 rows: five steps of four
    for epoch in range(5):
        rows = order(weighted(weights), objective, epoch)
        assert sorted(rows) == sampling.weighted_rows(weights, 7, epoch).tolist()
        assert len(rows) == 20
        assert order(weighted(weights), objective, epoch, first=2) == rows[8:]  # a resume
    assert order(weighted(weights), objective, 0) != order(weighted(weights), objective, 1)


def test_the_task_comes_in_turns_of_the_steps_that_there_are() -> None:
    """20 rows make two steps of eight: with every = 3, steps 0, 3 and 6 of all epochs have the task."""
    weights = torch.full((48,), 20 / 48 + 1e-9, dtype=torch.float64)
    objective = replace(WITH_SSL, batch_size=8, ssl=replace(SSL, every=3))
    planner = Planner(weighted(weights), objective, model_of(), 0)
    turns = [plan().same is not None for epoch in range(4) for plan in planner.epoch(epoch)]
    assert turns == [number % 3 == 0 for number in range(8)]


def test_a_batch_is_no_larger_than_the_rows_of_an_epoch() -> None:
    planner = Planner(
        weighted(torch.full((48,), 0.25, dtype=torch.float64)), replace(PLAIN, batch_size=64), model_of(), 0
    )
    assert planner.batch == 12
    assert len(list(planner.epoch(0))) == 1


def test_rows_outside_the_window_stay_in_histories_and_among_the_known_positives() -> None:
    """Only the last row of each query has a weight; its history is the four rows before it."""
    weights = torch.tensor([0.0] * 5 + [1.0], dtype=torch.float64).repeat(8)
    data = weighted(weights)
    planner = Planner(data, replace(HISTORY, batch_size=8), model_of(history=True), 0)
    (plan,) = planner.epoch(0)
    plain = Planner(data_of(EVENTS), replace(HISTORY, batch_size=8), model_of(history=True), 0)
    rows = plan.args[0]  # type: ignore[attr-defined]
    assert sorted(rows.tolist()) == [*range(5, 48, 6)]
    batch, expected = plan(), plain.step(rows, 0, 0)
    assert batch.past is not None
    assert torch.equal(batch.past.codes, expected.past.codes)  # type: ignore[union-attr]
    assert torch.equal(batch.known.rows, expected.known.rows)
    assert len(batch.known.rows) == 8 * 6  # each query took six of the eight items
