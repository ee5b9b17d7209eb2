"""The training step and the epoch: tensors on one device in, losses out; the caller handles time and files."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ssl_recall import losses
from ssl_recall.kernels.optimisers import RowwiseAdagrad, RunningAverage
from ssl_recall.kernels.pooling import pool, pool_all
from ssl_recall.kernels.prefetch import prefetch_calls
from ssl_recall.kernels.softmax import rounded
from ssl_recall.towers import TwoTower

from .batch import Batch
from .objective import Objective
from .planner import PlannedBatch, Planner

CHECK = 16  # steps between two checks that the losses are finite


@dataclass(frozen=True)
class StepLosses:
    """The losses of one step, () nats on the device; `ssl` is NaN in a step that skips the task, 0 without the task."""

    main: Tensor
    ssl: Tensor
    total: Tensor


def make_optimisers(
    model: TwoTower, learning_rate: float, embedding_learning_rate: float, initial_accumulator: float
) -> list[torch.optim.Optimizer]:
    """Return row-wise Adagrad for the embedding table (it touches only the rows of a step) and AdamW for the rest."""
    return [
        RowwiseAdagrad([model.embeddings.weight], embedding_learning_rate, initial_accumulator, distinct=True),
        torch.optim.AdamW(dense_weights(model), lr=learning_rate, weight_decay=0.0, fused=True),
    ]


def dense_weights(model: TwoTower) -> list[Tensor]:
    """Return the weights that every step moves: all except the embedding table."""
    return [weight for name, weight in model.named_parameters() if not name.endswith("embeddings.weight")]


def train_epoch(
    model: TwoTower,
    steppers: Sequence[torch.optim.Optimizer],
    planner: Planner,
    epoch: int,
    average: RunningAverage | None = None,
    *,
    first: int = 0,
    planners: int = 0,
) -> Iterator[StepLosses]:
    """Train one pass over the log and yield the losses of each step; a resume begins with the step `first`.

    Only the check of the losses, every CHECK steps, waits for the device. `planners` threads, which need a core each,
    plan the next steps during the current one; with 0, each step is planned just before it. The steps are the same.

    Raises losses.NonFiniteLossError within CHECK steps of the first loss that is not finite, and names that step.
    """
    plans = planner.epoch(epoch, first)
    return _steps(model, steppers, plans, planner.objective, average, f"epoch {epoch}", first, planners)


def warm_up(
    model: TwoTower,
    steppers: Sequence[torch.optim.Optimizer],
    planner: Planner,
    average: RunningAverage | None = None,
    *,
    first: int = 0,
    planners: int = 0,
) -> Iterator[StepLosses]:
    """Train on the self-supervised task alone, so that similar values are near each other before the first epoch.

    Raises losses.NonFiniteLossError as train_epoch does.
    """
    plans = planner.warm_up(first)
    return _steps(model, steppers, plans, planner.objective, average, "warm-up", first, planners)


def _steps(
    model: TwoTower,
    steppers: Sequence[torch.optim.Optimizer],
    plans: Iterator[PlannedBatch],
    objective: Objective,
    average: RunningAverage | None,
    title: str,
    first: int,
    planners: int,
) -> Iterator[StepLosses]:
    model.train()
    device = model.embeddings.weight.device
    if device.type == "cuda":
        plans = (partial(_pinned, plan) for plan in plans)
    unseen: list[StepLosses] = []
    number = first
    made = prefetch_calls(plans, planners) if planners else (plan() for plan in plans)
    for number, step in enumerate(made, first + 1):
        found = take_step(model, steppers, step.to(device), objective, average)
        unseen.append(found)
        if len(unseen) == CHECK:
            _check(unseen, title, number)
            unseen = []
        yield found
    _check(unseen, title, number)


def _pinned(plan: PlannedBatch) -> Batch:
    return plan().pinned()


def take_step(
    model: TwoTower,
    steppers: Sequence[torch.optim.Optimizer],
    step: Batch,
    objective: Objective,
    average: RunningAverage | None = None,
) -> StepLosses:
    """Move the weights along the gradient of one step's joint loss; update the running average."""
    main, ssl, total = step_losses(model, step, objective)
    for stepper in steppers:
        stepper.zero_grad()
    total.backward()
    for stepper in steppers:
        stepper.step()
    if average is not None:
        average.update()
    return StepLosses(main.detach(), ssl.detach(), total.detach())


def _check(steps: list[StepLosses], title: str, until: int) -> None:
    totals = torch.stack([step.total for step in steps]) if steps else torch.zeros(0)
    for number, total in enumerate(totals.tolist(), until - len(steps)):
        if not math.isfinite(total):
            main = steps[number - until].main.item()
            raise losses.NonFiniteLossError(f"{title}, step {number}: loss {total} (main {main})")


def mean_losses(steps: Sequence[StepLosses]) -> dict[str, float]:
    """Average the losses of an epoch's steps, by name; `ssl` over the steps that have the task, NaN if none has."""
    found = {name: torch.stack([getattr(step, name) for step in steps]).double() for name in ("main", "ssl", "total")}
    return {name: (values.nanmean() if name == "ssl" else values.mean()).item() for name, values in found.items()}


def step_losses(model: TwoTower, step: Batch, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
    """Return the main, the self-supervised and the joint loss of a step, as in StepLosses: () nats each.

    Without the main task, the joint loss is the self-supervised loss.
    """
    width, batch = model.embeddings.width, len(step.own)
    pooled = pool(model.embeddings.weight, step.pooling)
    parts = [len(bags.lengths) if bags is not None else 0 for bags in (step.queries, step.items, step.past)]
    of_queries, of_items, of_past = pooled.split(parts)  # split's gradient is one copy; a slice's is zeros and a sum
    with torch.autocast(pooled.device.type, torch.bfloat16, enabled=objective.bf16):
        history = _history(model, of_past, step)
        asked = model.query.vectors(of_queries.view(-1, len(model.query.starts), width), step.queries, history)
        found = model.item.vectors(of_items.view(-1, len(model.item.starts), width), step.items)
    queries, asking = asked.split([batch, len(asked) - batch])
    candidates, rest = found.split([len(step.times), len(found) - len(step.times)])
    with rounded(bf16=objective.bf16):  # the losses compute their gradients here
        main = found.new_zeros(())
        if batch:
            main = losses.in_batch_softmax(
                queries, candidates, step.own, step.log_q, step.times, step.known, objective.temperature
            )
        if objective.ssl is None:
            return main, torch.zeros_like(main), main
        if step.same is None:
            return main, torch.full_like(main, math.nan), main
        views = len(step.same.bounds) - 1
        view_a, view_b, others = rest.split([views, views, len(rest) - 2 * views])
        ssl = losses.self_supervised(view_a, view_b, step.same, objective.ssl.temperature)
        if step.alike is not None and len(step.alike.rows):
            pairs = len(step.alike.bounds) - 1
            whole, neighbours = torch.cat([asking, others]).split(pairs)
            beside = losses.self_supervised(whole, neighbours, step.alike, objective.ssl.temperature)
            ssl = ssl + objective.ssl.neighbour_weight * beside
    return main, ssl, losses.joint(main, ssl, objective.ssl.weight * objective.ssl.every) if batch else ssl


def _history(model: TwoTower, pooled: Tensor, step: Batch) -> Tensor | None:
    """Average the features of the items of each history: (L * K, E) -> (B, K, E); None without histories."""
    if step.past is None or step.histories is None:
        return None
    features = model.item.features(pooled.view(-1, len(model.item.starts), model.embeddings.width), step.past)
    return pool_all(features.flatten(1).float(), step.histories)[:-1].view(-1, *features.shape[1:])
