"""What one step trains on: all its whole numbers, drawn and gathered before any floating-point work begins.

A plan is a pure function of (seed, epoch, step) and knows nothing of the weights, so it can be made anywhere and ahead
of time; what is left to do with it has known shapes and never asks the device for anything.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from . import batches
from .blockwise import TILE
from .features import DEFAULT, Bags, EncodedTable, Kind, bags_of, hide, join, select
from .pairs import Pairs, known_pairs, not_negatives, pairs_of_equal
from .pooling import PIECES, Pooling, pooling
from .tensors import with_each
from .towers import TwoTower
from .views import Packed


@dataclass(frozen=True)
class TrainingData:
    """Everything that steps are planned from, in main memory whatever the device."""

    items: EncodedTable
    queries: EncodedTable
    log: batches.Interactions
    log_q: Tensor  # (N,) float32, log share among a step's candidates; zeros switch the correction off
    negatives: batches.NegativePool | None
    views: Packed | None  # None trains without self-supervision


@dataclass(frozen=True)
class SelfSupervision:
    """The settings of the self-supervised task (losses.self_supervised)."""

    weight: float  # alpha
    batch_size: int  # M
    temperature: float
    shared_seed: bool  # one variant of views, hence one seed feature, for the whole batch
    neighbour_weight: float = 0.0  # of the loss between an item and its neighbour, beside that between two views
    warm_up: int = 0  # steps of this task alone, before the first epoch
    every: int = 1  # steps from one with this task to the next, and what its weight there is multiplied by


@dataclass(frozen=True)
class Objective:
    """The settings of the main task (losses.in_batch_softmax), and of the self-supervised one where there is one."""

    batch_size: int  # B
    temperature: float
    further_negatives: int  # U, beside the batch's own
    id_dropout: float  # share of ids hidden
    history: int  # items, 0 for none
    ssl: SelfSupervision | None
    feature_dropout: float = 0.0  # share of the candidates' features hidden, ids aside
    bf16: bool = False  # the matrix products of towers and softmax


@dataclass(frozen=True)
class Step:
    """B queries, C candidates, two views each of M items, H items with a neighbour.

    The candidates are the distinct items among B + U, filled up to a multiple of their `grain` with rows of which
    nothing is known and that count 0 times; H is cut to one. B and C are 0 in a step of the self-supervised task alone.
    """

    queries: Bags  # B rows; then the H items, where the query tower takes them: their features, or that they were taken
    past: Bags | None  # B rows, what each query took before; then the H items
    items: Bags  # C rows of candidates, M of view a, M of view b; H items, where it does not; H neighbours
    pooling: Pooling  # of the bags of all three, in this order
    own: Tensor  # (B,) int64, the candidate that is the query's positive
    log_q: Tensor  # (C,) float32
    times: Tensor  # (C,) float32, how many of the B + U candidates are this item
    known: Pairs  # (query, candidate) that are no negatives
    same: Pairs | None  # rows of the M that are one item; None in a step without self-supervision
    alike: Pairs | None  # (item, neighbour) of the H that are no negatives; None without neighbours

    def to(self, device: torch.device) -> "Step":
        """Move everything to a device; what is pinned goes there while the processor goes on."""
        return with_each(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Step":
        """Copy everything into memory that a GPU reads by itself."""
        return with_each(self, Tensor.pin_memory)


Plan = Callable[[], Step]  # a step that is still to be planned, by whichever thread calls it


class Planner:
    """Plans the steps of an epoch, from the tables and from where a model's vocabularies begin."""

    def __init__(self, data: TrainingData, objective: Objective, model: TwoTower, seed: int) -> None:
        """Keep the data, and two scratch columns an item for each step that is planned at the same time."""
        assert objective.ssl is None or data.views is not None, "self-supervision needs views"
        self.data, self.objective, self.seed = data, objective, seed
        self.starts = [starts.cpu() for starts in (model.query.starts, model.query.past_start, model.item.starts)]
        self.as_query = _as_query(data.items, data.queries) if objective.history == 0 else None
        self._scratch: list[Tensor] = []
        self._piece = PIECES.get(model.embeddings.weight.device.type)

    @property
    def batch(self) -> int:
        """B of every step of an epoch."""
        return min(self.objective.batch_size, len(self.data.log.items))

    def _has_ssl(self, settings: SelfSupervision, epoch: int, step: int) -> bool:
        """Tell whether it is a step's turn, counted on from one pass to the next."""
        so_far = epoch * (len(self.data.log.items) // max(self.batch, 1)) + step
        return epoch == batches.WARM_UP or so_far % settings.every == 0

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Plan]:
        """Divide one pass over the log into batches of one size, from a step on; what fills no batch is left out."""
        order = batches.epoch_order(len(self.data.log.items), self.seed, epoch)
        for step in range(first, len(order) // self.batch):
            yield partial(self.step, order[step * self.batch : (step + 1) * self.batch], epoch, step)

    def warm_up(self, first: int = 0) -> Iterator[Plan]:
        """Give the steps of the self-supervised task alone that come before the first epoch, from a step on."""
        for step in range(first, self.objective.ssl.warm_up if self.objective.ssl is not None else 0):
            yield partial(self.step, torch.zeros(0, dtype=torch.int64), batches.WARM_UP, step)

    def step(self, rows: Tensor, epoch: int, step: int) -> Step:
        """Plan the step that trains on these interactions: (B,) rows of the log; on none, without the main task."""
        data, objective, key = self.data, self.objective, (self.seed, epoch, step)
        log, source = data.log, batches.generator(*key, batches.ID_DROPOUT)
        query_ids, drawn = log.queries.index_select(0, rows).long(), log.items.index_select(0, rows).long()
        if objective.further_negatives and data.negatives is not None and len(rows):
            drawn = torch.cat([drawn, data.negatives.draw(objective.further_negatives, key)])
        new_queries, new_items = (
            torch.rand(len(ids), generator=source) < objective.id_dropout for ids in (rows, drawn)
        )
        # an item that stands there with its id and without it is two candidates
        candidates, column, times = (2 * drawn + new_items).unique(return_inverse=True, return_counts=True)
        own, item_ids, nameless = column[: len(rows)], candidates // 2, candidates % 2 > 0
        padding = -len(candidates) % grain(len(candidates))
        queries = [hide_ids(bags_of(data.queries, query_ids), data.queries, new_queries)]
        items = [hide_ids(bags_of(data.items, item_ids), data.items, nameless)]
        if objective.feature_dropout:
            hidden = batches.generator(*key, batches.FEATURE_DROPOUT)
            items = [drop_features(items[0], data.items, objective.feature_dropout, hidden)]
        if padding:
            items.append(nothing_known(data.items, padding))
        past = None
        if objective.history:
            past = batches.history_bags(log.items, *log.past(rows), objective.history, data.items)
        same = alike = None
        if objective.ssl is not None and data.views is not None and self._has_ssl(objective.ssl, epoch, step):
            ids, variant = batches.ssl_draw(
                data.items.rows,
                objective.ssl.batch_size,
                data.views.variants,
                key,
                shared_seed=objective.ssl.shared_seed,
            )
            items += view_pair(data.items, data.views, ids, variant)
            same = pairs_of_equal(ids, ids)
            if objective.ssl.neighbour_weight:
                ids, beside = with_neighbour(data.views, ids, variant)
                whole = bags_of(data.items, ids)
                if past is not None:
                    queries.append(nothing_known(data.queries, len(ids)))
                    past = join([past, select(whole, len(data.items.names), [data.items.kinds.index(Kind.ID)])])
                elif self.as_query is not None:
                    queries.append(select(whole, len(data.items.names), self.as_query))
                else:
                    items.append(whole)
                items.append(bags_of(data.items, beside))
                alike = not_negatives(ids, beside)
        with self._column_of() as column_of:
            known = known_pairs(query_ids, candidates, log, column_of)
        asked, shown = join(queries), join(items)
        parts = [(asked, self.starts[0]), *([(past, self.starts[1])] if past else []), (shown, self.starts[2])]
        return Step(
            asked,
            past,
            shown,
            pooling(
                torch.cat([bags.codes for bags, _ in parts]),
                torch.cat([bags.lengths for bags, _ in parts]),
                torch.cat([starts.repeat(len(bags.lengths) // max(len(starts), 1)) for bags, starts in parts]),
                self._piece,
            ),
            own,
            F.pad(data.log_q.index_select(0, item_ids), (0, padding)),
            F.pad(times.float(), (0, padding)),
            known,
            same,
            alike,
        )

    @contextlib.contextmanager
    def _column_of(self) -> Iterator[Tensor]:
        """Lend scratch that no other thread has: -1 for every item with its id and without it."""
        try:
            column_of = self._scratch.pop()
        except IndexError:
            column_of = torch.full((2 * self.data.items.rows,), -1, dtype=torch.int64)
        yield column_of
        self._scratch.append(column_of)


def grain(size: int) -> int:
    """Give what a number of rows is rounded to, a power of two: at most an eighth of it, at most TILE.

    A processor's library of products makes a kernel for each new shape, which costs ten times the product itself.
    """
    return min(1 << max(size // 8, 1).bit_length() - 1, TILE)


def hide_ids(bags: Bags, table: EncodedTable, rows: Tensor) -> Bags:
    """Hide the ids of the rows that are marked, (B,) bool, so that the default id vector stands for a new item's."""
    if Kind.ID not in table.kinds:
        return bags
    ids = bags.starts.view(-1, len(table.names))[:, table.kinds.index(Kind.ID)]
    return replace(bags, codes=bags.codes.index_fill(0, ids[rows], DEFAULT))


def nothing_known(table: EncodedTable, rows: int) -> Bags:
    """Give rows of a table of which every feature is missing."""
    codes = torch.full((rows * len(table.names),), DEFAULT, dtype=torch.int64)
    dense = {name: vectors.new_zeros(rows, vectors.shape[1]) for name, vectors in table.dense.items()}
    return Bags(codes, torch.ones_like(codes), dense)


def drop_features(bags: Bags, table: EncodedTable, rate: float, source: torch.Generator) -> Bags:
    """Hide each feature of each row with this probability, ids aside (`FD` of Yao et al., CIKM 2021)."""
    keep = torch.rand(len(bags.lengths) // len(table.names), len(table.names), generator=source) >= rate
    keep[:, [kind is Kind.ID for kind in table.kinds]] = True
    return hide(bags, torch.repeat_interleave(keep.view(-1), bags.lengths))


def with_neighbour(views: Packed, rows: Tensor, variants: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the items (M,) that have a neighbour in their variant (M,), a multiple of their grain: (H,), (H,) int64."""
    beside = views.neighbour(rows, variants)
    paired = (beside >= 0).nonzero()[:, 0]
    paired = paired[: len(paired) // grain(len(paired)) * grain(len(paired))]
    return rows.index_select(0, paired), beside.index_select(0, paired)


def view_pair(
    items: EncodedTable,
    views: Packed,
    rows: Tensor,  # (M,) int64 of the catalogue
    variants: Tensor,  # (M,) int64
) -> list[Bags]:
    """Give the bags of view a and of view b."""
    bags = bags_of(items, rows)
    return [hide(bags, keep) for keep in views.kept(rows, variants, bags.lengths.view(len(rows), -1).sum(1))]


def _as_query(items: EncodedTable, queries: EncodedTable) -> list[int | None] | None:
    """Say which feature of an item stands for each feature of a query, None where more than the id is not shared."""
    places = [items.vocabularies.index(name) if name in items.vocabularies else None for name in queries.vocabularies]
    shared = [kind for kind, place in zip(queries.kinds, places, strict=True) if place is not None]
    described = any(kind is not Kind.ID for kind in shared) and Kind.DENSE not in queries.kinds
    return places if described else None
