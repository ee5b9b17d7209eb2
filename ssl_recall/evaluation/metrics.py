"""Retrieval metrics on held-out pairs, for all items and for head, tail and cold items.

A slice restricts the held-out pairs, never the candidates: every list is drawn from the whole catalogue.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

HEAD_SHARE = 0.1
PAIRS = 2**16  # held-out pairs to match with their lists at a time


def slices(counts: Tensor, head_share: float = HEAD_SHARE) -> dict[str, Tensor]:
    """Divide a catalogue by its training counts (N,): -> slice -> (N,) bool.

    head: the `head_share` of all items with the most interactions (ties by index); tail: all others, cold items
    included; cold: no training interaction; warm-tail: the tail without cold items. The tail is that of Yao et al.
    """
    order = torch.argsort(counts, descending=True, stable=True)
    head = torch.zeros(len(counts), dtype=torch.bool, device=counts.device)
    head[order[: math.ceil(head_share * len(counts))]] = True
    cold = counts == 0
    head &= ~cold  # if fewer items are warm, the head is all of them
    return {"all": torch.ones_like(head), "head": head, "tail": ~head, "cold": cold, "warm-tail": ~head & ~cold}


def hits(recalled: Tensor, pair_rows: Tensor, pair_items: Tensor) -> Tensor:
    """Mark the place of each held-out pair's item in its query's list: (Q, k), (P,), (P,) -> (P, k) bool."""
    return recalled[pair_rows] == pair_items[:, None]


def ranks(
    recalled: Tensor,  # (Q, k) item rows, nearest first
    pair_rows: Tensor,  # (P,) query rows
    pair_items: Tensor,  # (P,)
) -> Tensor:  # (P,) int32
    """Return the rank of each held-out pair's item in its query's list, from 1; 0 if it is not in the list."""
    places = []
    for rows, items in zip(pair_rows.split(PAIRS), pair_items.split(PAIRS), strict=True):
        found = hits(recalled, rows, items)
        places.append(torch.where(found.any(1), found.int().argmax(1) + 1, 0).int())
    return torch.cat(places)


def pair_recall(found: Tensor, k: int) -> Tensor:
    """Return 1 for each held-out pair with a hit among the first k, else 0: (P, K) -> (P,) float64.

    The mean is recall@k pooled over the pairs, each pair one trial, as in the paper.
    """
    return found[:, :k].any(1).double()


def per_query(
    found: Tensor,  # (P, K) bool, from `hits`, for the pairs of one slice
    pair_rows: Tensor,  # (P,) query rows, ascending
    k: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the queries that have a pair (Q',), and their recall, map and ndcg at k, (Q',) float64 each.

    recall@k: share of the held-out items that are in the list. map@k: sum over hits of the precision at their rank,
    divided by the number of held-out items. ndcg@k: sum over hits of 1 / log2(rank + 1), divided by its maximum. All
    three as in trec_eval.

    >>> found = torch.tensor([[True, False, False], [False, False, True]])  # both items of query 7, ranks 1 and 3
    >>> queries, values = per_query(found, torch.tensor([7, 7]), k=3)
    >>> {name: round(value.item(), 4) for name, value in values.items()}  # map: (1 / 1 + 2 / 3) / 2
    {'recall_per_query': 1.0, 'map': 0.8333, 'ndcg': 0.9197}
    """
    queries, row = pair_rows.unique(return_inverse=True)
    relevant = torch.bincount(row, minlength=len(queries)).double()
    lists = torch.zeros(len(queries), k, dtype=torch.bool, device=found.device)
    at = found[:, :k].nonzero()
    lists[row[at[:, 0]], at[:, 1]] = True
    rank = torch.arange(1, k + 1, device=found.device, dtype=torch.float64)
    precision = lists.double().cumsum(1) / rank
    discount = 1 / torch.log2(rank + 1)
    ideal = discount.cumsum(0)[relevant.clamp(max=k).long() - 1]
    return queries, {
        "recall_per_query": lists.sum(1) / relevant,
        "map": (precision * lists).sum(1) / relevant,
        "ndcg": (lists * discount).sum(1) / ideal,
    }


def coverage(recalled: Tensor, k: int, items: int) -> float:
    """Return the share of the catalogue in at least one list: (Q, K) indices, -1 for none."""
    seen = recalled[:, :k].unique()
    return int((seen >= 0).sum()) / items


def mean_popularity(recalled: Tensor, k: int, counts: Tensor) -> float:
    """Return the mean training interactions of the recalled items: (Q, K) indices, -1 for none, (N,) counts."""
    listed = recalled[:, :k]
    return counts[listed[listed >= 0]].double().mean().item()


def bootstrap_ratios(
    sums: Tensor,  # (Q, C) float64: each query's part of each numerator
    trials: Tensor,  # (Q, T) float64: each query's part of each denominator
    trials_of: Sequence[int],  # (C,) the denominator of each numerator, below T
    draws: int,
    source: torch.Generator,
) -> Tensor:  # (draws, C) float64
    """Draw queries with replacement, `draws` times, and return the ratios sum(sums) / sum(trials) of each draw.

    The trials of one query depend on each other, so they are drawn together. One draw serves all columns, so the
    difference of two columns is paired. NaN if a column has no trials.
    """
    ratios = torch.empty(draws, sums.shape[1], dtype=torch.float64)
    for part in torch.arange(draws).split(32):
        weights = _times_drawn(len(part), len(sums), source)
        ratios[part] = (weights @ sums) / (weights @ trials)[:, trials_of]
    return ratios


def percentile_intervals(ratios: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends of the 95 % percentile intervals: (draws, C) -> (C,), (C,)."""
    low, high = torch.nanquantile(ratios, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    return low, high


def _times_drawn(draws: int, size: int, source: torch.Generator) -> Tensor:
    """Draw `size` of `size` queries with replacement; return how often each was drawn, (draws, size) float64."""
    drawn = torch.randint(size, (draws, size), generator=source)
    times = torch.zeros(draws, size, dtype=torch.float64)
    return times.scatter_add_(1, drawn, torch.ones_like(times))
