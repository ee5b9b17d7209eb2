"""What a step trains on, as a pure function of (seed, epoch, step): nothing to save for a resume but three numbers."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from .features import DEFAULT, Bags, EncodedTable
from .tensors import with_each

ID_DROPOUT, SSL, NEGATIVES, FEATURE_DROPOUT = 0, 1, 3, 4  # the streams of a step: the last number of their keys
VALIDATION, WARM_UP = -1, -2  # in the place of an epoch: the validation queries, and the steps before the first


@dataclass(frozen=True)
class Interactions:
    """R interactions sorted by query, then time; query q took `items[offsets[q] : offsets[q + 1]]`.

    Eight bytes an interaction, so that a log of a billion is resident in 8 GB; sixteen with times, for a history.
    """

    queries: Tensor  # (R,) int32
    items: Tensor  # (R,) int32
    offsets: Tensor  # (Q + 1,) int64
    until: Tensor | None  # (R,) int64: what the query took strictly before row r stands before position until[r]

    def to(self, device: torch.device) -> "Interactions":
        """Move every tensor to a device."""
        return with_each(self, lambda tensor: tensor.to(device))

    def past(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Give where the past of interactions begins and ends: (B,), (B,); it is empty where time is unknown."""
        starts = self.offsets.index_select(0, self.queries.index_select(0, rows))
        return starts, starts if self.until is None else self.until.index_select(0, rows)


def interactions(
    queries: Tensor,  # (R,) whole numbers, sorted
    items: Tensor,  # (R,) whole numbers
    query_count: int,
    times: Tensor | None = None,  # (R,) int64, sorted within a query; None where the log has no time
) -> Interactions:
    """Index a log by query. Without times nothing is known to lie before anything. Raises ValueError if unsorted."""
    if len(queries) > 1 and bool((queries[1:] < queries[:-1]).any()):
        raise ValueError("interactions must be sorted by query")
    offsets = torch.zeros(query_count + 1, dtype=torch.int64)
    offsets[1:] = torch.cumsum(torch.bincount(queries, minlength=query_count), 0)
    until = None
    if times is not None and len(queries):
        starts = torch.ones(len(queries), dtype=torch.bool)  # rows that begin a run of one query at one instant
        starts[1:] = (queries[1:] != queries[:-1]) | (times[1:] != times[:-1])
        if bool((times[1:] < times[:-1])[queries[1:] == queries[:-1]].any()):
            raise ValueError("the interactions of a query must be sorted by time")
        positions = torch.arange(len(queries))
        until = torch.cummax(torch.where(starts, positions, 0), 0).values
    return Interactions(queries.to(torch.int32), items.to(torch.int32), offsets, until)


def generator(*key: int) -> torch.Generator:
    """Seed a generator from a tuple of integers; no two tuples share a stream, whatever their lengths."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def epoch_order(rows: int, seed: int, epoch: int) -> Tensor:
    """Shuffle the row numbers of an epoch: (rows,) int32."""
    return torch.randperm(rows, generator=generator(seed, epoch), dtype=torch.int32)


def ssl_draw(
    items: int, size: int, variants: int, key: tuple[int, int, int], *, shared_seed: bool
) -> tuple[Tensor, Tensor]:
    """Draw M items uniformly from the catalogue, not from the log, and a variant of views for each: (M,), (M,) int64.

    `key` is (seed, epoch, step). With `shared_seed` the batch has one variant, hence one seed feature, as in the paper.
    """
    source = generator(*key, SSL)
    rows = torch.randint(items, (size,), generator=source)
    drawn = torch.randint(variants, (1 if shared_seed else size,), generator=source)
    return rows, drawn.expand(size)


@dataclass(frozen=True)
class NegativePool:
    """Where further negatives are drawn from: warm items with probability 1 - cold_share, cold ones with the rest.

    A cold item, one without training interactions, is never a positive: shown as a negative as often as a warm one, it
    is only ever pushed away and never recalled; never shown, it crowds the lists.
    """

    warm: Tensor  # int64 item rows
    cold: Tensor  # int64 item rows
    cold_share: float

    def draw(self, size: int, key: tuple[int, int, int]) -> Tensor:
        """Draw with replacement: (size,) int64; `key` is (seed, epoch, step)."""
        source = generator(*key, NEGATIVES)
        from_cold = torch.rand(size, generator=source) < self.cold_share
        place = torch.rand(size, generator=source, dtype=torch.float64)
        rows = self.warm[(place * len(self.warm)).long()]
        if len(self.cold):
            rows = torch.where(from_cold, self.cold[(place * len(self.cold)).long()], rows)
        return rows

    def probabilities(self, items: int) -> Tensor:
        """Give the probability that one draw is item j: (N,) float64."""
        drawn = torch.zeros(items, dtype=torch.float64)
        drawn[self.warm] = (1 - self.cold_share) / max(len(self.warm), 1)
        drawn[self.cold] = self.cold_share / max(len(self.cold), 1)
        return drawn


def negative_pool(counts: Tensor, cold_rate: float) -> NegativePool:
    """Split a catalogue by its training counts (N,); a cold item is drawn `cold_rate` times as often as a warm one."""
    warm, cold = (counts > 0).nonzero()[:, 0], (counts == 0).nonzero()[:, 0]
    weight = cold_rate * len(cold)
    return NegativePool(warm, cold, weight / (weight + len(warm)))


def history_bags(
    items: Tensor,  # (R,) the log's items in its order
    starts: Tensor,  # (B,) int64, where each query's interactions begin
    until: Tensor,  # (B,) int64, where its past ends
    size: int,  # at most the last `size` items
    item_table: EncodedTable,  # its id codes stand for the items
) -> Bags:
    """One bag a row: the id codes of the last items that the query took before `until`, one default code where none."""
    lengths = torch.clamp(until - starts, max=size)
    back = torch.arange(size, device=items.device)
    inside = back < lengths[:, None]
    at = (until[:, None] - 1 - back).clamp(min=0)
    codes = item_table.codes[item_table.offsets[items[at].long() * len(item_table.names)]].long()
    empty = lengths == 0
    codes[empty, 0] = DEFAULT
    inside[empty, 0] = True
    return Bags(codes[inside], lengths.clamp(min=1), {})
