"""The random draws of a step, as pure functions of (seed, epoch, step): a resume needs only these three numbers."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_recall.kernels.ragged import concatenated_ranges

ID_DROPOUT, SSL, NEGATIVES, FEATURE_DROPOUT, HISTORY = 0, 1, 3, 4, 5  # streams of a step: the last number of a key
RECENCY = 6  # a stream of an epoch
VALIDATION, WARM_UP = -1, -2  # in place of an epoch: the validation queries, and the warm-up


def torch_generator(*key: int) -> torch.Generator:
    """Return a generator seeded by a tuple of integers; no two tuples share a stream, whatever their lengths."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def epoch_order(rows: int, seed: int, epoch: int) -> Tensor:
    """Shuffle the row numbers of an epoch: (rows,) int32."""
    return torch.randperm(rows, generator=torch_generator(seed, epoch), dtype=torch.int32)


def order_by_chunks(queries: Tensor, size: int, seed: int, epoch: int, *, in_order: bool) -> Tensor:
    """Shuffle runs of at most `size` rows of a query: (R,) sorted queries -> (R,) int32 rows.

    Rows of one query in one batch share the items of their histories. The runs begin elsewhere in each epoch. A run has
    neighbouring rows if `in_order` (rows in the order of a clock), else random rows of the query.
    """
    source = torch_generator(seed, epoch)
    rows = torch.arange(len(queries), dtype=torch.int32)
    if not in_order:
        rows = torch.argsort(queries + torch.rand(len(queries), generator=source, dtype=torch.float64)).int()
    begins = torch.ones(len(queries), dtype=torch.bool)
    begins[1:] = queries[1:] != queries[:-1]
    begins[int(torch.randint(size, (1,), generator=source)) :: size] = True
    first = begins.nonzero()[:, 0]
    lengths = first.diff(append=first.new_full((1,), len(queries)))
    drawn = torch.randperm(len(first), generator=source)
    return rows[concatenated_ranges(first[drawn], lengths[drawn])]


def rows_per_epoch(weights: Tensor) -> int:
    """Return the number of rows that an epoch draws: the sum of the weights (R,), rounded down.

    It is the same in every epoch, so that every epoch has the same number of steps.
    """
    return int(_sum(weights))


def weighted_rows(weights: Tensor, seed: int, epoch: int) -> Tensor:
    """Draw the rows of an epoch without replacement: weights (R,) float64 from 0 to 1 -> (n,) int32, ascending.

    n is `rows_per_epoch`. A row is drawn with probability c = w n / (sum of w), which is almost its weight: Pareto
    sampling (Rosén, *On sampling with probability proportional to size*, 1997). It keeps the n rows with the smallest

        [u / (1 - u)] / [c / (1 - c)],   u uniform from 0 to 1

    The probability is c up to O(1 / n), so an item's share of the draws is its p. Keys u ^ (1 / w) (Efraimidis and
    Spirakis, 2006) would draw the newest rows too rarely. A row of weight 0 is never drawn.
    """
    size = rows_per_epoch(weights)
    if not size:
        return torch.zeros(0, dtype=torch.int32)
    chances = weights * (size / _sum(weights))
    uniform = torch.rand(len(weights), generator=torch_generator(seed, epoch, RECENCY), dtype=torch.float64)
    keys = uniform.logit_(eps=2**-53).sub_(chances.logit_()).numpy()  # logarithms; infinite where c is 0 or 1
    largest = np.partition(keys, size - 1)[size - 1]
    return torch.from_numpy(np.flatnonzero(keys <= largest)[:size].astype(np.int32))


def _sum(weights: Tensor) -> float:
    return float(weights.numpy().sum())  # numpy adds in one order, whatever the number of threads


def ssl_draw(
    items: int, size: int, variants: int, key: tuple[int, int, int], *, shared_seed: bool
) -> tuple[Tensor, Tensor]:
    """Draw M items uniformly from the catalogue, not from the log, and a variant of views for each: (M,), (M,) int64.

    `key` is (seed, epoch, step). With `shared_seed` the batch has one variant, hence one seed feature, as in the paper.
    """
    source = torch_generator(*key, SSL)
    rows = torch.randint(items, (size,), generator=source)
    drawn = torch.randint(variants, (1 if shared_seed else size,), generator=source)
    return rows, drawn.expand(size)


@dataclass(frozen=True)
class NegativePool:
    """The items to draw further negatives from: warm items with probability 1 - cold_share, cold ones with cold_share.

    A cold item, one without training interactions, is never a positive. Drawn as often as a warm item, it is only
    pushed away and never recalled; never drawn, it crowds the lists.
    """

    warm: Tensor  # int64 item rows
    cold: Tensor  # int64 item rows
    cold_share: float

    def draw(self, size: int, key: tuple[int, int, int]) -> Tensor:
        """Draw with replacement: (size,) int64; `key` is (seed, epoch, step)."""
        source = torch_generator(*key, NEGATIVES)
        from_cold = torch.rand(size, generator=source) < self.cold_share
        place = torch.rand(size, generator=source, dtype=torch.float64)
        rows = self.warm[(place * len(self.warm)).long()]
        if len(self.cold):
            rows = torch.where(from_cold, self.cold[(place * len(self.cold)).long()], rows)
        return rows

    def probabilities(self, items: int) -> Tensor:
        """Return the probability that one draw is item j: (N,) float64."""
        drawn = torch.zeros(items, dtype=torch.float64)
        drawn[self.warm] = (1 - self.cold_share) / max(len(self.warm), 1)
        drawn[self.cold] = self.cold_share / max(len(self.cold), 1)
        return drawn


def negative_pool(counts: Tensor, cold_rate: float) -> NegativePool:
    """Split a catalogue by its training counts (N,); a cold item is drawn `cold_rate` times as often as a warm one."""
    warm, cold = (counts > 0).nonzero()[:, 0], (counts == 0).nonzero()[:, 0]
    weight = cold_rate * len(cold)
    return NegativePool(warm, cold, weight / (weight + len(warm)))
