"""The training step and the epoch: tensors on one device in, losses out; the caller keeps the clock and the files."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from . import batches, losses
from .ahead import called_ahead
from .blockwise import rounded
from .features import EncodedTable, Kind, bags_of
from .optimisers import RowwiseAdagrad, RunningAverage
from .pooling import pool
from .steps import Objective, Plan, Planner, Step
from .towers import FeatureEmbeddings, Tower, TwoTower

CHECK = 16  # steps between two looks at the losses


@dataclass(frozen=True)
class StepLosses:
    """The losses of one step, () nats on the device; `ssl` is NaN where it is not its turn, 0 without the task."""

    main: Tensor
    ssl: Tensor
    total: Tensor


def two_tower(
    items: EncodedTable,
    queries: EncodedTable,
    vocabularies: dict[str, int],
    *,
    embedding_width: int,
    hidden: Sequence[int],
    width: int,
    history: bool,
    seed: int,
) -> TwoTower:
    """Build a model whose first weights depend on the seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        embeddings = FeatureEmbeddings(vocabularies, embedding_width)
        past = items.vocabularies[items.kinds.index(Kind.ID)] if history else None
        query = Tower(embeddings, queries, hidden, width, past)
        return TwoTower(embeddings, query, Tower(embeddings, items, hidden, width))


def optimisers(
    model: TwoTower, learning_rate: float, embedding_learning_rate: float, initial_accumulator: float
) -> list[torch.optim.Optimizer]:
    """Row-wise Adagrad on the embedding table (only the rows of a step are touched), AdamW on the rest."""
    return [
        RowwiseAdagrad([model.embeddings.weight], embedding_learning_rate, initial_accumulator, distinct=True),
        torch.optim.AdamW(dense_weights(model), lr=learning_rate, weight_decay=0.0, fused=True),
    ]


def dense_weights(model: TwoTower) -> list[Tensor]:
    """Give all weights but the embedding table's: those that every step moves."""
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
    """Pass once over the log, a step at a time; nothing waits for the device but a look at the losses now and then.

    Begins with the step `first`: what a checkpoint goes on from. So many threads, which want a core each, plan the next
    steps beside the one that is taken; with none each is planned before it. The steps are the same.

    Raises losses.NonFiniteError within CHECK steps of the first whose loss is not finite, and names that one.
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
    """Take the steps of the self-supervised task alone, so that values lie near their like before the log is seen.

    Raises losses.NonFiniteError as train_epoch does.
    """
    plans = planner.warm_up(first)
    return _steps(model, steppers, plans, planner.objective, average, "warm-up", first, planners)


def _steps(
    model: TwoTower,
    steppers: Sequence[torch.optim.Optimizer],
    plans: Iterator[Plan],
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
    made = called_ahead(plans, planners) if planners else (plan() for plan in plans)
    for number, step in enumerate(made, first + 1):
        found = take_step(model, steppers, step.to(device), objective, average)
        unseen.append(found)
        if len(unseen) == CHECK:
            _check(unseen, title, number)
            unseen = []
        yield found
    _check(unseen, title, number)


def _pinned(plan: Plan) -> Step:
    return plan().pinned()


def take_step(
    model: TwoTower,
    steppers: Sequence[torch.optim.Optimizer],
    step: Step,
    objective: Objective,
    average: RunningAverage | None = None,
) -> StepLosses:
    """Move the weights along the gradient of one step's joint loss."""
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
            raise losses.NonFiniteError(f"{title}, step {number}: loss {total} (main {main})")


def mean_losses(steps: Sequence[StepLosses]) -> dict[str, float]:
    """Average the losses of an epoch's steps, by their names; `ssl` over the steps that have it, NaN where none has."""
    found = {name: torch.stack([getattr(step, name) for step in steps]).double() for name in ("main", "ssl", "total")}
    return {name: (values.nanmean() if name == "ssl" else values.mean()).item() for name, values in found.items()}


def step_losses(model: TwoTower, step: Step, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
    """Give the main, the self-supervised and the joint loss of a step, as StepLosses has them: () nats each.

    Without the main task the joint loss is the self-supervised one.
    """
    width, batch = model.embeddings.width, len(step.own)
    pooled = pool(model.embeddings.weight, step.pooling)
    parts = [len(bags.lengths) if bags is not None else 0 for bags in (step.queries, step.past, step.items)]
    of_queries, of_past, of_items = pooled.split(parts)  # split's gradient is one copy, a slice's is zeros and a sum
    past = of_past.view(-1, 1, width) if step.past is not None else None
    with torch.autocast(pooled.device.type, torch.bfloat16, enabled=objective.bf16):
        asked = model.query.vectors(of_queries.view(-1, len(model.query.starts), width), step.queries, past)
        found = model.item.vectors(of_items.view(-1, len(model.item.starts), width), step.items)
    queries, asking = asked.split([batch, len(asked) - batch])
    candidates, rest = found.split([len(step.times), len(found) - len(step.times)])
    with rounded(bf16=objective.bf16):  # the losses take their gradients on the way
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


@torch.no_grad()
def embed_items(model: TwoTower, items: EncodedTable, block: int = 8192) -> Tensor:
    """Embed a whole catalogue: -> (N, D) unit rows, float32."""
    model.eval()
    rows = torch.arange(items.rows, device=items.codes.device)
    return torch.cat([model.item(bags_of(items, part)) for part in rows.split(block)])


@torch.no_grad()
def embed_queries(
    model: TwoTower,
    queries: EncodedTable,
    log: batches.Interactions | None,  # only a history needs it
    items: EncodedTable | None,  # the same
    history: int,
    rows: Tensor | None = None,
    block: int = 8192,
) -> Tensor:
    """Embed queries (all, or the given rows) as they stand at the end of the log: -> (Q, D) unit rows, float32."""
    model.eval()
    rows = torch.arange(queries.rows, device=queries.codes.device) if rows is None else rows
    vectors = []
    for part in rows.split(block):
        past = None
        if history:
            assert log is not None, "a history is read from the log"
            assert items is not None, "and named by the items' ids"
            past = batches.history_bags(log.items, log.offsets[part], log.offsets[part + 1], history, items)
        vectors.append(model.query(bags_of(queries, part), past))
    return torch.cat(vectors)
