"""Cells of a matrix of logits that are no negatives, as lists: the cost grows with the cells, not with B x C."""

import torch
from torch import Tensor

from ssl_recall.data.interactions import Interactions
from ssl_recall.kernels.ragged import concatenated_ranges
from ssl_recall.kernels.softmax import Pairs


def known_pairs(
    query_ids: Tensor,  # (B,) int64
    candidates: Tensor,  # (C,) int64, distinct: 2 * item row, plus 1 if its id is hidden
    log: Interactions,
    column_of: Tensor,  # (2 N,) int64 scratch, -1 everywhere before and after
) -> Pairs:
    """Pair each query with the candidates that it has taken; the cost grows with the interactions of the queries."""
    column_of[candidates] = torch.arange(len(candidates))
    starts = log.offsets.index_select(0, query_ids)
    lengths = log.offsets.index_select(0, query_ids + 1) - starts
    taken = log.items.index_select(0, concatenated_ranges(starts, lengths))
    columns = column_of.view(-1, 2).index_select(0, taken).view(-1)
    column_of[candidates] = -1
    rows = torch.repeat_interleave(torch.arange(len(query_ids)), 2 * lengths)
    found = (columns >= 0).nonzero()[:, 0]  # twice as fast as a mask, which torch scans once per selection
    return _pairs(rows.index_select(0, found), columns.index_select(0, found), len(query_ids))


def pairs_of_equal(rows: Tensor, columns: Tensor) -> Pairs:
    """Pair each row with the columns of the same id: (B,) ids, (C,) ids."""
    ordered, order = torch.sort(columns, stable=True)
    first = torch.searchsorted(ordered, rows)
    lengths = torch.searchsorted(ordered, rows, right=True) - first
    row = torch.repeat_interleave(torch.arange(len(rows)), lengths)
    return _pairs(row, order[concatenated_ranges(first, lengths)], len(rows))


def not_negatives(items: Tensor, neighbours: Tensor) -> Pairs:
    """Pair each item (H,) with the neighbours (H,) that are no negatives of it: its neighbour, and the item itself."""
    own, itself = pairs_of_equal(neighbours, neighbours), pairs_of_equal(items, neighbours)
    rows, columns = torch.cat([own.rows, itself.rows]), torch.cat([own.columns, itself.columns])
    order = torch.argsort(rows, stable=True)
    return _pairs(rows[order], columns[order], len(items))


def _pairs(rows: Tensor, columns: Tensor, size: int) -> Pairs:
    bounds = torch.cumsum(torch.bincount(rows, minlength=size), 0)
    return Pairs(rows, columns, [0, *bounds.tolist()])
