"""Recall on held-out pairs during training: exact, over the whole catalogue, by slice."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_recall.data.features import EncodedTable
from ssl_recall.data.histories import so_far
from ssl_recall.data.interactions import Interactions
from ssl_recall.embedding import embed_items, embed_queries
from ssl_recall.kernels.ragged import concatenated_ranges
from ssl_recall.kernels.tensors import with_each
from ssl_recall.towers import TwoTower

from . import metrics
from .retrieval import top_k


@dataclass(frozen=True)
class HeldOut:
    """P held-out pairs of some of the queries, and the slices of each pair."""

    queries: Tensor  # (P,) int64 query rows, sorted
    items: Tensor  # (P,) int64 item rows
    slices: dict[str, Tensor]  # name -> (P,) bool

    def to(self, device: torch.device) -> "HeldOut":
        """Move every tensor to a device."""
        return with_each(self, lambda tensor: tensor.to(device))


def sample(
    queries: Tensor,  # (P,) int64, sorted
    items: Tensor,  # (P,) int64
    slices: dict[str, Tensor],  # name -> (N,) bool over items
    most: int,
    source: torch.Generator,
) -> HeldOut:
    """Keep the held-out pairs of at most `most` queries, drawn without replacement."""
    distinct = queries.unique()
    drawn = distinct[torch.randperm(len(distinct), generator=source)[:most]]
    kept = torch.isin(queries, drawn)
    return HeldOut(queries[kept], items[kept], {name: members[items[kept]] for name, members in slices.items()})


def recall(
    model: TwoTower,
    items: EncodedTable,
    queries: EncodedTable,
    log: Interactions,
    held_out: HeldOut,
    history: int,  # most items of a history
    k: int,
) -> dict[str, float]:
    """Embed the whole catalogue and the held-out queries, and return `recall_of` for their vectors."""
    rows = held_out.queries.unique()
    histories = so_far(log, rows, history) if history else None
    vectors = embed_queries(model, queries, rows, histories, items)
    return recall_of(vectors, embed_items(model, items), log, held_out, k)


def recall_of(
    queries: Tensor,  # (R, D) vectors of the R distinct held-out queries, ascending
    items: Tensor,  # (N, D)
    log: Interactions,
    held_out: HeldOut,
    k: int,
) -> dict[str, float]:
    """Return the share of each slice's held-out pairs whose item is among the k nearest.

    A query's training items are left out of its list. `recall_balanced` is the mean of head and tail: most pairs are of
    the head, so recall alone hides the tail. A slice without pairs has NaN; `recall_balanced` is then the recall of the
    other slice.
    """
    rows, row_of_pair = held_out.queries.unique(return_inverse=True)
    lengths = log.offsets[rows + 1] - log.offsets[rows]
    taken = log.items[concatenated_ranges(log.offsets[rows], lengths)]
    known = (torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]), taken)
    recalled, _ = top_k(queries, items, k, known)
    hits = metrics.hits(recalled, row_of_pair, held_out.items).any(1)
    found = {name: hits[members].double().mean().item() for name, members in held_out.slices.items()}
    sides = [found[name] for name in ("head", "tail") if not math.isnan(found.get(name, math.nan))]
    balanced = {"recall_balanced": math.fsum(sides) / max(len(sides), 1)}
    return (
        {"recall": hits.double().mean().item()} | {f"recall_{name}": value for name, value in found.items()} | balanced
    )
