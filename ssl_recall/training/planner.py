"""Plan the batches of a training: draw and gather their integers before any floating-point work begins.

A batch is a pure function of (seed, epoch, step) and does not depend on the weights, so any thread can plan it ahead of
time. The work on a planned batch has known shapes and never waits for a value from the device.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_recall.data.codes import Kind
from ssl_recall.data.features import (
    Bags,
    EncodedTable,
    bags_of,
    drop_features,
    hide,
    hide_ids,
    join,
    nothing_known,
    select,
)
from ssl_recall.data.histories import Histories, averaged, before, hidden, others
from ssl_recall.data.interactions import Interactions
from ssl_recall.data.packed_views import PackedViews
from ssl_recall.kernels.pooling import PIECES, Pooling, pooling
from ssl_recall.kernels.softmax import TILE, Pairs
from ssl_recall.towers import TwoTower

from . import sampling
from .batch import Batch
from .excluded_pairs import known_pairs, not_negatives, pairs_of_equal
from .objective import Objective, SelfSupervision


@dataclass(frozen=True)
class TrainingData:
    """The data that steps are planned from, in main memory whatever the device."""

    items: EncodedTable
    queries: EncodedTable
    log: Interactions
    log_q: Tensor  # (N,) float32, log share among a step's candidates; zeros switch the correction off
    negatives: sampling.NegativePool | None
    views: PackedViews | None  # None trains without self-supervision
    weights: Tensor | None = None  # (R,) float64 from 0 to 1, by age; None draws the whole log in every epoch

    @property
    def rows_per_epoch(self) -> int:
        """Return the number of interactions that an epoch draws."""
        return len(self.log.items) if self.weights is None else sampling.rows_per_epoch(self.weights)


CHUNK = 8  # rows of a query that are trained together, so that they share the items of their histories
PlannedBatch = Callable[[], Batch]  # plans one step when called, in any thread


class Planner:
    """Plans the steps of an epoch from the data and from the first row of each vocabulary in the model's table."""

    def __init__(self, data: TrainingData, objective: Objective, model: TwoTower, seed: int) -> None:
        """Keep the data, and one scratch tensor of two columns per item for each step planned at the same time."""
        assert objective.ssl is None or data.views is not None, "self-supervision needs views"
        self.data, self.objective, self.seed, self.rows = data, objective, seed, data.rows_per_epoch
        self.starts = [starts.cpu() for starts in (model.query.starts, model.item.starts)]
        self.as_query = _as_query(data.items, data.queries) if objective.history == 0 else None
        self._scratch: list[Tensor] = []
        self._piece = PIECES.get(model.embeddings.weight.device.type)

    @property
    def batch(self) -> int:
        """Return B, the same in every step of an epoch."""
        return min(self.objective.batch_size, self.rows)

    def _has_ssl(self, settings: SelfSupervision, epoch: int, step: int) -> bool:
        """Return whether a step has the self-supervised task; the count of steps goes on from epoch to epoch."""
        so_far = epoch * (self.rows // max(self.batch, 1)) + step
        return epoch == sampling.WARM_UP or so_far % settings.every == 0

    def epoch(self, epoch: int, first: int = 0) -> Iterator[PlannedBatch]:
        """Divide one pass over the log into batches of B rows, from step `first`; drop a last, smaller batch."""
        order = self._order(epoch)
        for step in range(first, len(order) // self.batch):
            yield partial(self.step, order[step * self.batch : (step + 1) * self.batch], epoch, step)

    def _order(self, epoch: int) -> Tensor:
        """Return the rows of an epoch in their order: (self.rows,) int32, all rows of the log if they have no weights.

        Rows that are not drawn stay in histories and among the known positives.
        """
        log, weights = self.data.log, self.data.weights
        drawn = None if weights is None else sampling.weighted_rows(weights, self.seed, epoch)
        if self.objective.history:
            queries = log.queries if drawn is None else log.queries.index_select(0, drawn)
            order = sampling.order_by_chunks(queries, CHUNK, self.seed, epoch, in_order=log.until is not None)
        else:
            order = sampling.epoch_order(self.rows, self.seed, epoch)
        return order if drawn is None else drawn.index_select(0, order)

    def warm_up(self, first: int = 0) -> Iterator[PlannedBatch]:
        """Yield the steps before the first epoch, which have the self-supervised task alone, from step `first`."""
        for step in range(first, self.objective.ssl.warm_up if self.objective.ssl is not None else 0):
            yield partial(self.step, torch.zeros(0, dtype=torch.int64), sampling.WARM_UP, step)

    def step(self, rows: Tensor, epoch: int, step: int) -> Batch:
        """Plan the step that trains on the interactions `rows` (B,) of the log; without rows it has no main task."""
        data, objective, key = self.data, self.objective, (self.seed, epoch, step)
        log, source = data.log, sampling.torch_generator(*key, sampling.ID_DROPOUT)
        query_ids, drawn = log.queries.index_select(0, rows).long(), log.items.index_select(0, rows).long()
        if objective.further_negatives and data.negatives is not None and len(rows):
            drawn = torch.cat([drawn, data.negatives.draw(objective.further_negatives, key)])
        rates = (objective.query_id_dropout, rows), (None, drawn)
        new_queries, new_items = (
            torch.rand(len(ids), generator=source) < (objective.id_dropout if rate is None else rate)
            for rate, ids in rates
        )
        # an item drawn with its id and with its id hidden is two candidates
        candidates, column, times = (2 * drawn + new_items).unique(return_inverse=True, return_counts=True)
        own, item_ids, nameless = column[: len(rows)], candidates // 2, candidates % 2 > 0
        padding = -len(candidates) % grain(len(candidates))
        queries = [hide_ids(bags_of(data.queries, query_ids), data.queries, new_queries)]
        items = self._candidates(item_ids, nameless, padding, key)
        histories = [self._histories(rows, key)] if objective.history else []
        same, alike = self._add_ssl(key, queries, histories, items)
        with self._column_of() as column_of:
            known = known_pairs(query_ids, candidates, log, column_of)
        asked, shown = join(queries), join(items)
        past, averages = self._averages(histories)
        return Batch(
            asked,
            shown,
            past,
            averages,
            self._pooling(asked, shown, past),
            own,
            F.pad(data.log_q.index_select(0, item_ids), (0, padding)),
            F.pad(times.float(), (0, padding)),
            known,
            same,
            alike,
        )

    def _histories(self, rows: Tensor, key: tuple[int, int, int]) -> Histories:
        """Return what the query of each row (B,) took, the row's own item left out; some are hidden."""
        log, objective = self.data.log, self.objective
        source = sampling.torch_generator(*key, sampling.HISTORY)
        if log.until is not None:
            found = before(log, rows, objective.history)
        else:
            found = others(log, rows, objective.history, source)
        if not objective.history_dropout:
            return found
        return hidden(found, torch.rand(len(rows), generator=source) < objective.history_dropout)

    def _averages(self, histories: list[Histories]) -> tuple[Bags | None, Pooling | None]:
        """Gather the distinct items of the histories, and plan the averages of their features."""
        if not histories:
            return None, None
        items, lengths = (torch.cat([getattr(part, of) for part in histories]) for of in ("items", "lengths"))
        found = averaged(Histories(items, lengths))
        table = self.data.items
        first = found.lengths.new_zeros(len(found.lengths) + 1)  # one more bag: each row is in a bag
        places, sizes = F.pad(found.places, (0, 1)), F.pad(found.lengths, (0, 1), value=1)
        past = join([nothing_known(table, 1), bags_of(table, found.distinct)])
        return past, pooling(places, sizes, first, self._piece)

    def _candidates(self, item_ids: Tensor, nameless: Tensor, padding: int, key: tuple[int, int, int]) -> list[Bags]:
        """Gather the candidates' bags, `nameless` ids and dropped features hidden, and those of the padding rows."""
        table, rate = self.data.items, self.objective.feature_dropout
        items = [hide_ids(bags_of(table, item_ids), table, nameless)]
        if rate:
            items = [drop_features(items[0], table, rate, sampling.torch_generator(*key, sampling.FEATURE_DROPOUT))]
        if padding:
            items.append(nothing_known(table, padding))
        return items

    def _add_ssl(
        self, key: tuple[int, int, int], queries: list[Bags], histories: list[Histories], items: list[Bags]
    ) -> tuple[Pairs | None, Pairs | None]:
        """Append the rows of the self-supervised task to the lists; return `same` and `alike` of the batch."""
        data, ssl = self.data, self.objective.ssl
        if ssl is None or data.views is None or not self._has_ssl(ssl, *key[1:]):
            return None, None
        ids, variant = sampling.ssl_draw(
            data.items.rows, ssl.batch_size, data.views.variants, key, shared_seed=ssl.shared_seed
        )
        items += view_pair(data.items, data.views, ids, variant)
        same = pairs_of_equal(ids, ids)
        if not ssl.neighbour_weight:
            return same, None
        ids, neighbours = with_neighbour(data.views, ids, variant)
        whole = bags_of(data.items, ids)
        if histories:
            queries.append(nothing_known(data.queries, len(ids)))
            histories.append(Histories(ids, torch.ones_like(ids)))
        elif self.as_query is not None:
            queries.append(select(whole, len(data.items.names), self.as_query))
        else:
            items.append(whole)
        items.append(bags_of(data.items, neighbours))
        return same, not_negatives(ids, neighbours)

    def _pooling(self, queries: Bags, items: Bags, past: Bags | None) -> Pooling:
        """Plan the pooling of all bags of a step: of the queries, of the items, of the items of the histories."""
        parts = [(queries, self.starts[0]), (items, self.starts[1]), *([(past, self.starts[1])] if past else [])]
        return pooling(
            torch.cat([bags.codes for bags, _ in parts]),
            torch.cat([bags.lengths for bags, _ in parts]),
            torch.cat([starts.repeat(len(bags.lengths) // max(len(starts), 1)) for bags, starts in parts]),
            self._piece,
        )

    @contextlib.contextmanager
    def _column_of(self) -> Iterator[Tensor]:
        """Lend a scratch tensor to one thread: (2 N,), -1 for every item with its id and with its id hidden."""
        try:
            column_of = self._scratch.pop()
        except IndexError:
            column_of = torch.full((2 * self.data.items.rows,), -1, dtype=torch.int64)
        yield column_of
        self._scratch.append(column_of)


def grain(size: int) -> int:
    """Return the power of two to round a number of rows to: at most an eighth of it (but at least 1), at most TILE.

    A processor's matrix library builds a kernel for each new shape, which costs ten times the product itself.
    """
    return min(1 << max(size // 8, 1).bit_length() - 1, TILE)


def with_neighbour(views: PackedViews, rows: Tensor, variants: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the items (M,) that have a neighbour in their variant (M,), cut to their grain: -> both (H,) int64."""
    beside = views.neighbour(rows, variants)
    paired = (beside >= 0).nonzero()[:, 0]
    paired = paired[: len(paired) // grain(len(paired)) * grain(len(paired))]
    return rows.index_select(0, paired), beside.index_select(0, paired)


def view_pair(
    items: EncodedTable,
    views: PackedViews,
    rows: Tensor,  # (M,) int64 of the catalogue
    variants: Tensor,  # (M,) int64
) -> list[Bags]:
    """Return the bags of view a and of view b."""
    bags = bags_of(items, rows)
    return [hide(bags, keep) for keep in views.kept(rows, variants, bags.lengths.view(len(rows), -1).sum(1))]


def _as_query(items: EncodedTable, queries: EncodedTable) -> list[int | None] | None:
    """Map each query feature to the item feature of its vocabulary, None for each without one.

    Return None if the two share no feature but the id, or if a query has a dense feature.
    """
    places = [items.vocabularies.index(name) if name in items.vocabularies else None for name in queries.vocabularies]
    shared = [kind for kind, place in zip(queries.kinds, places, strict=True) if place is not None]
    described = any(kind is not Kind.ID for kind in shared) and Kind.DENSE not in queries.kinds
    return places if described else None
