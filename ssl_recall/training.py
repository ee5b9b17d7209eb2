"""The training step and the epoch: tensors on one device in, losses out; the caller keeps the clock and the files."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import batches, losses
from .features import DEFAULT, Bags, EncodedTable, Kind, bags_of, hide
from .optimisers import RowwiseAdagrad, RunningAverage
from .towers import FeatureEmbeddings, Tower, TwoTower


@dataclass(frozen=True)
class Views:
    """For every variant the values that view a and view b keep: (variants, V) bool each, V values of the item table."""

    keep_a: Tensor
    keep_b: Tensor


@dataclass(frozen=True)
class TrainingData:
    """Everything a step reads, resident on the training device but for the pool that negatives are drawn from."""

    items: EncodedTable
    queries: EncodedTable
    log: batches.Interactions
    log_q: Tensor  # (N,) float32, log share among a step's candidates; zeros switch the correction off
    negatives: batches.NegativePool | None
    views: Views | None  # None trains without self-supervision

    def to(self, device: torch.device) -> "TrainingData":
        """Move everything to a device."""
        views = self.views and Views(self.views.keep_a.to(device), self.views.keep_b.to(device))
        return replace(
            self,
            items=self.items.to(device),
            queries=self.queries.to(device),
            log=self.log.to(device),
            log_q=self.log_q.to(device),
            views=views,
        )


@dataclass(frozen=True)
class SelfSupervision:
    """The settings of the self-supervised task (losses.self_supervised)."""

    weight: float  # alpha
    batch_size: int  # M
    temperature: float
    shared_seed: bool  # one variant of views, hence one seed feature, for the whole batch


@dataclass(frozen=True)
class Objective:
    """The settings of the main task (losses.in_batch_softmax), and of the self-supervised one where there is one."""

    batch_size: int  # B
    temperature: float
    further_negatives: int  # U, beside the batch's own
    id_dropout: float  # share of ids hidden
    history: int  # items, 0 for none
    ssl: SelfSupervision | None


@dataclass(frozen=True)
class StepLosses:
    """The losses of one step, nats; `ssl` is 0 without self-supervision."""

    main: float
    ssl: float
    total: float


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
        RowwiseAdagrad([model.embeddings.weight], embedding_learning_rate, initial_accumulator),
        torch.optim.AdamW(dense_weights(model), lr=learning_rate, weight_decay=0.0),
    ]


def dense_weights(model: TwoTower) -> list[Tensor]:
    """Give all weights but the embedding table's: those that every step moves."""
    return [weight for name, weight in model.named_parameters() if not name.endswith("embeddings.weight")]


def train_epoch(
    model: TwoTower,
    steppers: Sequence[torch.optim.Optimizer],
    data: TrainingData,
    objective: Objective,
    *,
    seed: int,
    epoch: int,
    average: RunningAverage | None = None,
) -> Iterator[StepLosses]:
    """Pass once over the log in batches of one size (the rest of a shuffled epoch is left out), a step at a time.

    Raises losses.NonFiniteError, before the weights are touched, at the step whose loss is not finite.
    """
    model.train()
    device = data.log.items.device
    order = batches.epoch_order(len(data.log.items), seed, epoch).to(device)
    size = min(objective.batch_size, len(order))
    scratch = torch.full((data.items.rows,), -1, dtype=torch.int64, device=device)
    for step in range(len(order) // size):
        rows = order[step * size : (step + 1) * size]
        source = batches.generator(seed, epoch, step, 0)
        extra = rows[:0]
        if objective.further_negatives and data.negatives is not None:
            extra = data.negatives.draw(objective.further_negatives, (seed, epoch, step)).to(device)
        main = main_loss(model, data, objective, rows, extra, source, scratch)
        ssl, total = torch.zeros((), device=device), main
        if objective.ssl is not None:
            assert data.views is not None, "self-supervision needs views"
            key, settings = (seed, epoch, step), objective.ssl
            rows_and_variants = batches.ssl_draw(
                data.items.rows, settings.batch_size, len(data.views.keep_a), key, shared_seed=settings.shared_seed
            )
            drawn, variants = (tensor.to(device) for tensor in rows_and_variants)
            ssl = ssl_loss(model, data.items, data.views, drawn, variants, settings.temperature)
            total = losses.joint(main, ssl, settings.weight)
        found = StepLosses(main.item(), ssl.item(), total.item())
        if not math.isfinite(found.total):
            raise losses.NonFiniteError(f"epoch {epoch}, step {step}: loss {found.total} (main {found.main})")
        for stepper in steppers:
            stepper.zero_grad()
        total.backward()
        for stepper in steppers:
            stepper.step()
        if average is not None:
            average.update()
        yield found


def mean_losses(steps: Sequence[StepLosses]) -> StepLosses:
    """Average the losses of an epoch's steps."""
    count = len(steps)
    main, ssl = math.fsum(step.main for step in steps) / count, math.fsum(step.ssl for step in steps) / count
    return StepLosses(main, ssl, math.fsum(step.total for step in steps) / count)


def main_loss(
    model: TwoTower,
    data: TrainingData,
    objective: Objective,
    rows: Tensor,  # (B,) int64 of the log
    extra: Tensor,  # (U,) int64 further negatives, item rows
    source: torch.Generator,
    scratch: Tensor,  # (N,) int64, see losses.known_positives
) -> Tensor:
    """Embed B interactions and contrast each query with the batch's items and the further ones: -> () nats."""
    query_ids, item_ids = data.log.queries[rows], torch.cat([data.log.items[rows], extra])
    queries = drop_ids(bags_of(data.queries, query_ids), data.queries, objective.id_dropout, source)
    items = drop_ids(bags_of(data.items, item_ids), data.items, objective.id_dropout, source)
    past = None
    if objective.history:
        starts, until = data.log.offsets[query_ids], data.log.until[rows]
        past = batches.history_bags(data.log.items, starts, until, objective.history, data.items)
    known = losses.known_positives(query_ids, item_ids, data.log.offsets, data.log.items, scratch)
    return losses.in_batch_softmax(
        model.query(queries, past), model.item(items), data.log_q[item_ids], known, objective.temperature
    )


def ssl_loss(
    model: TwoTower,
    items: EncodedTable,
    views: Views,
    rows: Tensor,  # (M,) int64 of the catalogue
    variants: Tensor,  # (M,) int64
    temperature: float,
) -> Tensor:
    """Embed two views of M items with the one item tower and let them find each other: -> () nats."""
    bags = bags_of(items, rows)
    values = bags.lengths.view(len(rows), -1).sum(1)
    variant = torch.repeat_interleave(variants, values)
    view_a = model.item(hide(bags, views.keep_a[variant, bags.values]))
    view_b = model.item(hide(bags, views.keep_b[variant, bags.values]))
    return losses.self_supervised(view_a, view_b, losses.same_rows(rows), temperature)


def drop_ids(bags: Bags, table: EncodedTable, rate: float, source: torch.Generator) -> Bags:
    """Hide the id of a random share of the rows, so that the default id vector learns to stand for a new item."""
    if not rate or Kind.ID not in table.kinds:
        return bags
    features = len(table.names)
    ids = bags.starts.view(-1, features)[:, table.kinds.index(Kind.ID)]
    drop = torch.rand(len(ids), generator=source) < rate
    codes = bags.codes.clone()
    codes[ids[drop.to(ids.device)]] = DEFAULT
    return replace(bags, codes=codes)


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
    log: batches.Interactions,
    items: EncodedTable,
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
            past = batches.history_bags(log.items, log.offsets[part], log.offsets[part + 1], history, items)
        vectors.append(model.query(bags_of(queries, part), past))
    return torch.cat(vectors)
