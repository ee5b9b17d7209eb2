"""One training batch: codes, indices and counts, of known shapes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_recall.data.features import Bags
from ssl_recall.kernels.pooling import Pooling
from ssl_recall.kernels.softmax import Pairs
from ssl_recall.kernels.tensors import with_each


@dataclass(frozen=True)
class Batch:
    """B queries, C candidates, two views each of M items, H items with a neighbour.

    The candidates are the distinct items of the B + U draws, padded to a multiple of their `grain` by rows without
    features that count 0 times. H is cut to a multiple of its grain. B and C are 0 in a step of the self-supervised
    task alone.
    """

    queries: Bags  # B rows; then the H items, if the query tower embeds them
    items: Bags  # C candidates, M of view a, M of view b; the H items, if the item tower embeds them; H neighbours
    past: Bags | None  # L distinct items of the histories; the first is an item of which nothing is known
    histories: Pooling | None  # of the L items: B histories; the H items, each as a history of one; the first of L
    pooling: Pooling  # of the bags of queries, items and past, in this order
    own: Tensor  # (B,) int64, the candidate that is each query's positive
    log_q: Tensor  # (C,) float32, log share among the candidates of a step
    times: Tensor  # (C,) float32, number of the B + U draws that are this candidate
    known: Pairs  # (query, candidate) cells that are no negatives
    same: Pairs | None  # (row, row) cells of the M that are one item; None in a step without self-supervision
    alike: Pairs | None  # (item, neighbour) cells of the H that are no negatives; None without neighbours

    def to(self, device: torch.device) -> "Batch":
        """Copy everything to a device; the processor does not wait for copies of pinned tensors."""
        return with_each(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """Copy everything into pinned memory, which a GPU reads by itself."""
        return with_each(self, Tensor.pin_memory)
