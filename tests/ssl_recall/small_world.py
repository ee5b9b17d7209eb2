"""Ten items, eight queries and a model of few weights, for tests of steps and of training."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import polars as pl
import torch
from hypothesis import settings
from torch import Tensor

from ssl_recall import towers
from ssl_recall.data.codes import Kind
from ssl_recall.data.features import EncodedTable
from ssl_recall.data.interactions import index_interactions
from ssl_recall.data.packed_views import PackedViews, pack_mask, pack_views
from ssl_recall.towers import TwoTower
from ssl_recall.training import loop, sampling
from ssl_recall.training.loop import StepLosses
from ssl_recall.training.objective import Objective, SelfSupervision
from ssl_recall.training.planner import Planner, TrainingData

few = settings(max_examples=12, deadline=None)
N = 10  # items; the last two have no interactions
VOCABULARIES = {"item_id": 2 + N, "words": 2 + N + 3, "image": 2, "user": 2 + 8}
KINDS = {"item_id": Kind.ID, "words": Kind.MULTI_VALUED, "image": Kind.DENSE}
SSL = SelfSupervision(weight=0.3, batch_size=6, temperature=0.2, shared_seed=False)
PLAIN = Objective(batch_size=4, temperature=0.1, further_negatives=0, id_dropout=0.0, history=0, ssl=None)
WITH_SSL = replace(PLAIN, ssl=SSL, id_dropout=0.2)
BESIDE = replace(PLAIN, ssl=SelfSupervision(0.3, 7, 0.2, shared_seed=False, neighbour_weight=0.6, warm_up=3))


def table_of(kinds: dict[str, Kind], bags: list[list[int]], dense: Tensor | None = None) -> EncodedTable:
    """Build a table from its bags, row after row."""
    offsets = torch.tensor([0, *[len(bag) for bag in bags]]).cumsum(0)
    codes = torch.tensor([code for bag in bags for code in bag], dtype=torch.int32)
    vectors = {} if dense is None else {"image": dense}
    return EncodedTable(tuple(kinds), tuple(kinds.values()), tuple(kinds), codes, offsets, vectors)


# Item i has the id i + 2, a word that no other item has, a word of every third item, and an image unless i is odd.
ITEM_BAGS = [bag for i in range(N) for bag in ([i + 2], [i + 2, N + 2 + i % 3], [1 - i % 2])]
IMAGES = torch.randn(N, 2, generator=torch.Generator().manual_seed(3))
ITEMS = table_of(KINDS, ITEM_BAGS, IMAGES)
QUERIES = table_of({"user": Kind.ID}, [[q + 2] for q in range(8)])


def views_of(variants: int, seed: int = 0) -> PackedViews:
    return stored(masks_of(variants, seed))


def masks_of(variants: int, seed: int) -> Tensor:
    return torch.rand(2, variants, len(ITEMS.codes), generator=torch.Generator().manual_seed(seed)) < 0.6


def stored(keep: Tensor) -> PackedViews:
    """Pack masks (2, variants, V) bool in the format of views.parquet, and load them."""
    _, variants, _ = keep.shape
    packed = [[pack_mask(mask.numpy(), ITEMS.offsets, len(KINDS)) for mask in side] for side in keep]
    columns = [pl.Series([side[v][n] for n in range(N) for v in range(variants)], dtype=pl.Binary) for side in packed]
    frame = pl.DataFrame({"variant": list(range(variants)) * N, "keep_a": columns[0], "keep_b": columns[1]})
    beside = [None if n == N - 1 else neighbour_of(n, v) for n in range(N) for v in range(variants)]
    frame = frame.with_columns(neighbour_index=pl.Series(beside, dtype=pl.Int32))
    return pack_views([frame[:7], frame[7:]], ITEMS.offsets, len(KINDS), variants)


def neighbour_of(item: int, variant: int) -> int:
    """Return the neighbour of an item in the views of `stored`; the last item has none there."""
    return (item + 3 + variant) % N


def data_of(events: list[tuple[int, int, int]] | None = None, views: PackedViews | None = None) -> TrainingData:
    """Build the data of a log of (query, time, item) events; by default query q of 8 takes item q."""
    events = [(q, 0, q) for q in range(8)] if events is None else events
    queries, times, items = (torch.tensor([event[i] for event in events], dtype=torch.int64) for i in range(3))
    log = index_interactions(queries, items, QUERIES.rows, times)
    counts = torch.bincount(items, minlength=N).double() + 0.5
    pool = sampling.negative_pool(torch.bincount(items, minlength=N), 1.0)
    return TrainingData(ITEMS, QUERIES, log, (counts / counts.sum()).log().float(), pool, views or views_of(3))


def model_of(seed: int = 0, history: bool = False) -> TwoTower:
    return towers.two_tower(
        ITEMS, QUERIES, VOCABULARIES, embedding_width=6, hidden=[12], width=8, history=history, seed=seed
    )


def steppers_of(model: TwoTower) -> list[torch.optim.Optimizer]:
    return loop.make_optimisers(model, 0.01, 0.1, 0.0)


def epoch_of(
    model: TwoTower,
    steppers: list[torch.optim.Optimizer],
    data: TrainingData,
    objective: Objective,
    *,
    seed: int,
    epoch: int,
) -> Iterator[StepLosses]:
    return loop.train_epoch(model, steppers, Planner(data, objective, model, seed), epoch)


def step_losses(
    model: TwoTower, data: TrainingData, objective: Objective, rows: list[int], key: tuple[int, int, int] = (0, 0, 0)
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses of the step that trains on `rows`; `key` is (seed, epoch, step)."""
    seed, *place = key
    return loop.step_losses(model, Planner(data, objective, model, seed).step(torch.tensor(rows), *place), objective)


@dataclass(frozen=True)
class Given:
    """Further negatives that are given, not drawn."""

    items: list[int]

    def draw(self, size: int, key: tuple[int, int, int]) -> Tensor:
        return torch.tensor(self.items, dtype=torch.int64)


def trained(objective: Objective, *, seed: int = 0, epochs: int = 1, data: TrainingData | None = None) -> TwoTower:
    model, data = model_of(seed, objective.history > 0), data or data_of()
    steppers = steppers_of(model)
    for epoch in range(epochs):
        for _ in epoch_of(model, steppers, data, objective, seed=seed, epoch=epoch):
            pass
    return model


def weights_of(model: TwoTower) -> list[Tensor]:
    return [weight.detach().clone() for weight in model.state_dict().values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def gradients(model: TwoTower, loss: Tensor) -> list[Tensor]:
    model.zero_grad()
    loss.backward()
    return [weight.grad.to_dense().clone() for weight in model.parameters() if weight.grad is not None]


def slow_softmax(
    a: Tensor, b: Tensor, shift: list[float], no_negative: Callable[[int, int], bool], tau: float
) -> float:
    """The paper's formulas: mean over i of -log of exp(s_ii / tau - shift_i) over its sum over unmasked columns."""
    rows, columns = a.detach().double().tolist(), b.detach().double().tolist()
    total = 0.0
    for i, row in enumerate(rows):
        weight = [
            math.exp(math.fsum(x * y for x, y in zip(row, column, strict=True)) / tau - shift[j])
            for j, column in enumerate(columns)
        ]
        kept = [j for j in range(len(columns)) if j == i or not no_negative(i, j)]
        total -= math.log(weight[i] / math.fsum(weight[j] for j in kept))
    return total / len(rows)
