"""Cells of a matrix of logits that are no negatives, as lists: what they cost is what they hold, not B x C."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .batches import Interactions
from .features import ranges


@dataclass(frozen=True)
class Pairs:
    """Cells of a B x C matrix, ascending by row; those of the rows a .. b - 1 are `[bounds[a], bounds[b])`."""

    rows: Tensor  # (H,) int64
    columns: Tensor  # (H,) int64
    bounds: list[int]  # (B + 1,), on the host, so that a block is cut without asking the device


def known_pairs(
    query_ids: Tensor,  # (B,) int64
    candidates: Tensor,  # (C,) int64, distinct: twice the item's row, plus 1 where its id is hidden
    log: Interactions,
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
    found = (columns >= 0).nonzero()[:, 0]  # twice as fast as a mask, which is looked through for each of the two
    return _pairs(rows.index_select(0, found), columns.index_select(0, found), len(query_ids))


def pairs_of_equal(rows: Tensor, columns: Tensor) -> Pairs:
    """Pair each row with the columns that hold the same id: (B,), (C,)."""
    ordered, order = torch.sort(columns, stable=True)
    first = torch.searchsorted(ordered, rows)
    lengths = torch.searchsorted(ordered, rows, right=True) - first
    row = torch.repeat_interleave(torch.arange(len(rows)), lengths)
    return _pairs(row, order[ranges(first, lengths)], len(rows))


def not_negatives(items: Tensor, neighbours: Tensor) -> Pairs:
    """Pair each item (H,) with the neighbours (H,) that are no negatives of it: its own, and itself."""
    own, itself = pairs_of_equal(neighbours, neighbours), pairs_of_equal(items, neighbours)
    rows, columns = torch.cat([own.rows, itself.rows]), torch.cat([own.columns, itself.columns])
    order = torch.argsort(rows, stable=True)
    return _pairs(rows[order], columns[order], len(items))


def _pairs(rows: Tensor, columns: Tensor, size: int) -> Pairs:
    bounds = torch.cumsum(torch.bincount(rows, minlength=size), 0)
    return Pairs(rows, columns, [0, *bounds.tolist()])
