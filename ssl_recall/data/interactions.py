"""Interactions indexed by query."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_recall.kernels.tensors import with_each


@dataclass(frozen=True)
class Interactions:
    """R interactions sorted by query, then time; query q took `items[offsets[q] : offsets[q + 1]]`.

    Eight bytes per interaction: a log of a billion fits in 8 GB of memory. Sixteen bytes with times, for histories.
    """

    queries: Tensor  # (R,) int32
    items: Tensor  # (R,) int32
    offsets: Tensor  # (Q + 1,) int64
    until: Tensor | None  # (R,) int64: the items taken strictly before row r are before position until[r]

    def to(self, device: torch.device) -> "Interactions":
        """Move every tensor to a device."""
        return with_each(self, lambda tensor: tensor.to(device))


def index_interactions(
    queries: Tensor,  # (R,) integers, sorted
    items: Tensor,  # (R,) integers
    query_count: int,
    times: Tensor | None = None,  # (R,) int64, sorted within a query; None if the log has no times
) -> Interactions:
    """Index a log by query. Raises ValueError if unsorted."""
    if len(queries) > 1 and bool((queries[1:] < queries[:-1]).any()):
        raise ValueError("interactions must be sorted by query")
    offsets = torch.zeros(query_count + 1, dtype=torch.int64)
    offsets[1:] = torch.cumsum(torch.bincount(queries, minlength=query_count), 0)
    until = None
    if times is not None and len(queries):
        starts = torch.ones(len(queries), dtype=torch.bool)  # the first row of each query at each instant
        starts[1:] = (queries[1:] != queries[:-1]) | (times[1:] != times[:-1])
        if bool((times[1:] < times[:-1])[queries[1:] == queries[:-1]].any()):
            raise ValueError("the interactions of a query must be sorted by time")
        positions = torch.arange(len(queries))
        until = torch.cummax(torch.where(starts, positions, 0), 0).values
    return Interactions(queries.to(torch.int32), items.to(torch.int32), offsets, until)
