"""What one step trains on: all its whole numbers, drawn and gathered before any floating-point work begins.

A plan is a pure function of (seed, epoch, step) and knows nothing of the weights, so it can be made anywhere and ahead
of time; what is left to do with it has known shapes and never asks the device for anything.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import batches
from .blockwise import Pairs
from .features import DEFAULT, Bags, EncodedTable, Kind, bags_of, hide, join, ranges
from .pooling import Pooling, pooling
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


@dataclass(frozen=True)
class Objective:
    """The settings of the main task (losses.in_batch_softmax), and of the self-supervised one where there is one."""

    batch_size: int  # B
    temperature: float
    further_negatives: int  # U, beside the batch's own
    id_dropout: float  # share of ids hidden
    history: int  # items, 0 for none
    ssl: SelfSupervision | None
    bf16: bool = False  # the towers' matrix products


@dataclass(frozen=True)
class Step:
    """B queries, the C distinct items among the B + U candidates, and two views each of M items."""

    queries: Bags  # B rows
    past: Bags | None  # B rows, what each query took before
    items: Bags  # C rows of candidates, M of view a, M of view b
    pooling: Pooling  # of the bags of all three, in this order
    own: Tensor  # (B,) int64, the candidate that is the query's positive
    log_q: Tensor  # (C,) float32
    times: Tensor  # (C,) float32, how many of the B + U candidates are this item
    known: Pairs  # (query, candidate) that are no negatives
    same: Pairs | None  # rows of the M that are one item; None without self-supervision

    def to(self, device: torch.device) -> "Step":
        """Move everything to a device."""
        return replace(self, **{name: part.to(device) for name, part in vars(self).items() if part is not None})


class Planner:
    """Plans the steps of an epoch, from the tables and from where a model's vocabularies begin."""

    def __init__(self, data: TrainingData, objective: Objective, model: TwoTower, seed: int) -> None:
        """Keep two scratch columns an item beside the data: one step is planned at a time."""
        assert objective.ssl is None or data.views is not None, "self-supervision needs views"
        self.data, self.objective, self.seed = data, objective, seed
        self.starts = [starts.cpu() for starts in (model.query.starts, model.query.past_start, model.item.starts)]
        self._column_of = torch.full((2 * data.items.rows,), -1, dtype=torch.int64)

    def epoch(self, epoch: int) -> Iterator[Step]:
        """Plan one pass over the log in batches of one size; the rest of a shuffled epoch is left out."""
        order = batches.epoch_order(len(self.data.log.items), self.seed, epoch)
        size = min(self.objective.batch_size, len(order))
        for step in range(len(order) // size):
            yield self.step(order[step * size : (step + 1) * size], epoch, step)

    def step(self, rows: Tensor, epoch: int, step: int) -> Step:
        """Plan the step that trains on these interactions: (B,) rows of the log."""
        data, objective, key = self.data, self.objective, (self.seed, epoch, step)
        log, source = data.log, batches.generator(*key, batches.ID_DROPOUT)
        query_ids, drawn = log.queries.index_select(0, rows).long(), log.items.index_select(0, rows).long()
        if objective.further_negatives and data.negatives is not None:
            drawn = torch.cat([drawn, data.negatives.draw(objective.further_negatives, key)])
        new_queries, new_items = (
            torch.rand(len(ids), generator=source) < objective.id_dropout for ids in (rows, drawn)
        )
        # an item that stands there with its id and without it is two candidates
        candidates, column, times = (2 * drawn + new_items).unique(return_inverse=True, return_counts=True)
        own, item_ids, nameless = column[: len(rows)], candidates // 2, candidates % 2 > 0
        queries = hide_ids(bags_of(data.queries, query_ids), data.queries, new_queries)
        items = [hide_ids(bags_of(data.items, item_ids), data.items, nameless)]
        past = None
        if objective.history:
            past = batches.history_bags(log.items, *log.past(rows), objective.history, data.items)
        same = None
        if objective.ssl is not None and data.views is not None:
            settings, variants = objective.ssl, data.views.variants
            ids, variant = batches.ssl_draw(
                data.items.rows, settings.batch_size, variants, key, shared_seed=settings.shared_seed
            )
            items += view_pair(data.items, data.views, ids, variant)
            same = pairs_of_equal(ids)
        parts = [(queries, self.starts[0]), *([(past, self.starts[1])] if past else []), (join(items), self.starts[2])]
        values = torch.cat([_table_rows(bags, starts) for bags, starts in parts])
        lengths = torch.cat([bags.lengths for bags, _ in parts])
        return Step(
            queries,
            past,
            parts[-1][0],
            pooling(values, lengths),
            own,
            data.log_q.index_select(0, item_ids),
            times.float(),
            known_pairs(query_ids, candidates, log, self._column_of),
            same,
        )


def hide_ids(bags: Bags, table: EncodedTable, rows: Tensor) -> Bags:
    """Hide the ids of the rows that are marked, (B,) bool, so that the default id vector stands for a new item's."""
    if Kind.ID not in table.kinds:
        return bags
    ids = bags.starts.view(-1, len(table.names))[:, table.kinds.index(Kind.ID)]
    codes = bags.codes.clone()
    codes[ids[rows]] = DEFAULT
    return replace(bags, codes=codes)


def view_pair(
    items: EncodedTable,
    views: Packed,
    rows: Tensor,  # (M,) int64 of the catalogue
    variants: Tensor,  # (M,) int64
) -> list[Bags]:
    """Give the bags of view a and of view b."""
    bags = bags_of(items, rows)
    return [hide(bags, keep) for keep in views.kept(rows, variants, bags.lengths.view(len(rows), -1).sum(1))]


def known_pairs(
    query_ids: Tensor,  # (B,) int64
    candidates: Tensor,  # (C,) int64, distinct: twice the item's row, plus 1 where its id is hidden
    log: batches.Interactions,
    column_of: Tensor,  # (2 N,) int64 scratch, -1 everywhere; left as it was found
) -> Pairs:
    """Pair each query with the candidates that it is known to have taken; costs what the queries took, no matrix."""
    column_of[candidates] = torch.arange(len(candidates))
    starts = log.offsets.index_select(0, query_ids)
    lengths = log.offsets.index_select(0, query_ids + 1) - starts
    taken = log.items.index_select(0, ranges(starts, lengths))
    columns = column_of.view(-1, 2).index_select(0, taken).view(-1)
    column_of[candidates] = -1
    rows = torch.repeat_interleave(torch.arange(len(query_ids)), 2 * lengths)
    found = columns >= 0
    return _pairs(rows[found], columns[found], len(query_ids))


def pairs_of_equal(ids: Tensor) -> Pairs:
    """Pair the rows that hold one id, each with itself, too: (M,)."""
    ordered, order = torch.sort(ids, stable=True)
    _, group, sizes = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    first = torch.cumsum(sizes, 0) - sizes
    lengths = torch.empty_like(ids).index_copy_(0, order, sizes[group])
    starts = torch.empty_like(ids).index_copy_(0, order, first[group])
    rows = torch.repeat_interleave(torch.arange(len(ids)), lengths)
    return _pairs(rows, order[ranges(starts, lengths)], len(ids))


def _pairs(rows: Tensor, columns: Tensor, size: int) -> Pairs:
    bounds = torch.cumsum(torch.bincount(rows, minlength=size), 0)
    return Pairs(rows, columns, [0, *bounds.tolist()])


def _table_rows(bags: Bags, starts: Tensor) -> Tensor:
    """Place codes, which are local to a vocabulary, in the table of all: (R,) int64; starts is (K,)."""
    return bags.codes + torch.repeat_interleave(starts.repeat(len(bags.lengths) // len(starts)), bags.lengths)
