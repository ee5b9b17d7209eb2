"""What a query took: the items of its history, the target left out, and where their features are averaged.

With a clock, the history of an interaction is what the query took strictly before it. Without one, it is a random
sample of everything else that the query took in training.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_recall.kernels.ragged import concatenated_ranges
from ssl_recall.kernels.tensors import with_each

from .interactions import Interactions

POOL = 16  # a sample of n items comes from at most POOL * n of a query's items: no query makes a step long


@dataclass(frozen=True)
class Histories:
    """The histories of B queries: one array of item rows, cut by lengths."""

    items: Tensor  # (R,) int64 item rows
    lengths: Tensor  # (B,) int64; 0 for an empty history

    @property
    def owners(self) -> Tensor:
        """Return the history that each item belongs to: (R,) int64."""
        return torch.repeat_interleave(torch.arange(len(self.lengths), device=self.lengths.device), self.lengths)

    def to(self, device: torch.device) -> "Histories":
        """Move every tensor to a device."""
        return with_each(self, lambda tensor: tensor.to(device))


def before(log: Interactions, rows: Tensor, size: int) -> Histories:
    """Return at most `size` items that the query of each log row (B,) took strictly before it, the newest ones."""
    assert log.until is not None, "an order in time needs times"
    ends = log.until.index_select(0, rows)
    starts = log.offsets.index_select(0, log.queries.index_select(0, rows))
    return _ending(log.items, starts, ends, size)


def so_far(log: Interactions, queries: Tensor, size: int) -> Histories:
    """Return what each query (B,) took in the whole log: with a clock the newest `size` items, without one all."""
    starts, ends = (log.offsets.index_select(0, queries + next_one) for next_one in (0, 1))
    return _ending(log.items, starts, ends, None if log.until is None else size)


def newest(offsets: Tensor, items: Tensor, size: int) -> Histories:
    """Return the last `size` items of each history: offsets (B + 1,), items (E,) in the order of time."""
    return _ending(items, offsets[:-1], offsets[1:], size)


def others(log: Interactions, rows: Tensor, size: int, source: torch.Generator) -> Histories:
    """Return a random sample of at most `size` items that the query of each log row (B,) took, the row's own left out.

    Rows of one query share a sample: the cost grows with the distinct queries of the rows. A sample comes from at most
    POOL * size neighbouring interactions of the query.
    """
    queries, member = log.queries.index_select(0, rows).unique(return_inverse=True)
    starts = log.offsets.index_select(0, queries)
    all_items = log.offsets.index_select(0, queries + 1) - starts
    counts = all_items.clamp(max=POOL * size)
    owner = torch.repeat_interleave(torch.arange(len(queries)), counts)
    turn = (torch.rand(len(queries), generator=source, dtype=torch.float64) * all_items).long()
    place = concatenated_ranges(turn, counts) % all_items.index_select(0, owner)
    places = starts.index_select(0, owner) + place
    order = torch.argsort(owner + torch.rand(len(places), generator=source, dtype=torch.float64))
    sizes = counts.clamp(max=size)
    sampled = places.index_select(0, order.index_select(0, concatenated_ranges(counts.cumsum(0) - counts, sizes)))
    first = sizes.cumsum(0) - sizes
    lengths = sizes.index_select(0, member)
    taken = sampled.index_select(0, concatenated_ranges(first.index_select(0, member), lengths))
    own = taken == torch.repeat_interleave(rows, lengths)
    return _without(Histories(log.items.index_select(0, taken).long(), lengths), own)


def hidden(histories: Histories, which: Tensor) -> Histories:
    """Empty the histories marked in `which` (B,) bool."""
    return _without(histories, which.index_select(0, histories.owners))


def _ending(items: Tensor, starts: Tensor, ends: Tensor, size: int | None) -> Histories:
    lengths = ends - starts
    if size is not None:
        lengths = lengths.clamp(max=size)
    return Histories(items.index_select(0, concatenated_ranges(ends - lengths, lengths)).long(), lengths)


def _without(histories: Histories, left_out: Tensor) -> Histories:
    """Leave out the items marked in `left_out` (R,) bool."""
    dropped = torch.zeros_like(histories.lengths).index_add_(0, histories.owners, left_out.long())
    return Histories(histories.items[~left_out], histories.lengths - dropped)


@dataclass(frozen=True)
class Averaged:
    """The distinct items of B histories, and the places of each history's items among them.

    Row 0 is an item of which nothing is known. It stands for an empty history.
    """

    distinct: Tensor  # (L - 1,) int64 item rows, ascending: rows 1.. of L
    places: Tensor  # (R,) int64 rows below L
    lengths: Tensor  # (B,) int64, at least 1


def averaged(histories: Histories) -> Averaged:
    """Find the distinct items of the histories, so that the features of each are gathered once."""
    distinct, inverse = histories.items.unique(return_inverse=True)
    empty = histories.lengths == 0
    lengths = histories.lengths.clamp(min=1)
    places = torch.zeros(int(lengths.sum()), dtype=torch.int64, device=distinct.device)
    places[torch.repeat_interleave(~empty, lengths)] = inverse + 1
    return Averaged(distinct, places, lengths)
