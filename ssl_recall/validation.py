"""Recall on held-out pairs while the model trains: exact, over the whole catalogue, by slice."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from . import metrics
from .batches import Interactions
from .features import EncodedTable, ranges
from .retrieval import top_k
from .tensors import with_each
from .towers import TwoTower
from .training import embed_items, embed_queries


@dataclass(frozen=True)
class HeldOut:
    """P held-out pairs of some of the queries, and the slice each pair belongs to."""

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
    history: int,
    k: int,
) -> dict[str, float]:
    """Embed the whole catalogue and the held-out queries, and give `recall_of` their vectors."""
    vectors = embed_queries(model, queries, log, items, history, held_out.queries.unique())
    return recall_of(vectors, embed_items(model, items), log, held_out, k)


def recall_of(
    queries: Tensor,  # (R, D) of the R distinct held-out queries, ascending
    items: Tensor,  # (N, D)
    log: Interactions,
    held_out: HeldOut,
    k: int,
) -> dict[str, float]:
    """Share of a slice's held-out pairs whose item is among the k nearest, what the query took in training aside.

    `recall_balanced` is the mean of head and tail: of all pairs the head has most, so recall alone hides the tail.
    A slice without pairs has NaN, and the balanced figure is then the other slice's.
    """
    rows, row_of_pair = held_out.queries.unique(return_inverse=True)
    lengths = log.offsets[rows + 1] - log.offsets[rows]
    taken = log.items[ranges(log.offsets[rows], lengths)]
    known = (torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]), taken)
    recalled, _ = top_k(queries, items, k, known)
    hits = metrics.hits(recalled, row_of_pair, held_out.items).any(1)
    found = {name: hits[members].double().mean().item() for name, members in held_out.slices.items()}
    sides = [found[name] for name in ("head", "tail") if not math.isnan(found.get(name, math.nan))]
    balanced = {"recall_balanced": math.fsum(sides) / max(len(sides), 1)}
    return (
        {"recall": hits.double().mean().item()} | {f"recall_{name}": value for name, value in found.items()} | balanced
    )
