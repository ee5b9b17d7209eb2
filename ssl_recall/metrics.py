"""How much of what was held out is recalled, for all items and for the head, the tail and the cold ones.

A slice restricts the held-out pairs that count, never the candidates: every list is drawn from the whole catalogue.
"""

import math

import torch
from torch import Tensor

HEAD_SHARE = 0.1
PAIRS = 2**16  # held-out pairs whose lists are looked at at a time


def slices(counts: Tensor, head_share: float = HEAD_SHARE) -> dict[str, Tensor]:
    """Sort a catalogue by its training counts (N,): -> name -> (N,) bool.

    head: the `head_share` of all items with most interactions (equal ones by index); tail: all others, so also the
    cold; cold: no training interaction; warm-tail: the tail without the cold. The tail is that of Yao et al.
    """
    order = torch.argsort(counts, descending=True, stable=True)
    head = torch.zeros(len(counts), dtype=torch.bool, device=counts.device)
    head[order[: math.ceil(head_share * len(counts))]] = True
    cold = counts == 0
    head &= ~cold  # where fewer items than that were ever taken, the head is those
    return {"all": torch.ones_like(head), "head": head, "tail": ~head, "cold": cold, "warm-tail": ~head & ~cold}


def hits(recalled: Tensor, pair_rows: Tensor, pair_items: Tensor) -> Tensor:
    """Mark where each held-out pair's item stands in its query's list: (Q, k), (P,), (P,) -> (P, k) bool."""
    return recalled[pair_rows] == pair_items[:, None]


def ranks(
    recalled: Tensor,  # (Q, k) item rows, the nearest first
    pair_rows: Tensor,  # (P,) query rows
    pair_items: Tensor,  # (P,)
) -> Tensor:  # (P,) int32
    """Give each held-out pair the place of its item in its query's list, from 1; 0 where it is not in it."""
    places = []
    for rows, items in zip(pair_rows.split(PAIRS), pair_items.split(PAIRS), strict=True):
        found = hits(recalled, rows, items)
        places.append(torch.where(found.any(1), found.int().argmax(1) + 1, 0).int())
    return torch.cat(places)


def pair_recall(found: Tensor, k: int) -> Tensor:
    """Say of each held-out pair whether it is among the first k: (P, K) -> (P,) float64.

    Its mean is recall@k pooled over the pairs, each a trial of its own, as in the paper.
    """
    return found[:, :k].any(1).double()


def per_query(
    found: Tensor,  # (P, K) bool, from `hits`, for the pairs of one slice
    pair_rows: Tensor,  # (P,) query rows, ascending
    k: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Give the queries that have a pair (Q',), and for each of them recall, map and ndcg at k (Q',) float64.

    recall@k: the share of its held-out items that are in the list. map@k: the sum, over the hits, of the precision at
    their rank, divided by the number of held-out items. ndcg@k: sum over hits of 1 / log2(rank + 1), divided by its
    largest possible value. All three as in trec_eval.
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
    """Share of the catalogue that stands in at least one list: (Q, K) indices, -1 for none."""
    seen = recalled[:, :k].unique()
    return int((seen >= 0).sum()) / items


def mean_popularity(recalled: Tensor, k: int, counts: Tensor) -> float:
    """Mean training interactions of the recalled items: (Q, K) indices, (N,) counts."""
    listed = recalled[:, :k]
    return counts[listed[listed >= 0]].double().mean().item()


def bootstrap_intervals(
    sums: Tensor,  # (Q, C) float64: what each query adds to each metric's numerator (or to a difference of two models)
    trials: Tensor,  # (Q, C) float64: and to its denominator
    draws: int,
    source: torch.Generator,
) -> tuple[Tensor, Tensor]:  # (C,), (C,) float64
    """Percentile bootstrap of sum(sums) / sum(trials), 95 %: queries are drawn with replacement, with all their trials.

    The trials of one query depend on each other, so they are drawn together; one draw serves all columns. NaN where a
    column has no trials.
    """
    ratios = torch.empty(draws, sums.shape[1], dtype=torch.float64)
    for part in torch.arange(draws).split(32):
        weights = _times_drawn(len(part), len(sums), source)
        ratios[part] = (weights @ sums) / (weights @ trials)
    low, high = torch.nanquantile(ratios, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    return low, high


def _times_drawn(draws: int, size: int, source: torch.Generator) -> Tensor:
    """Draw `size` of as many with replacement: how often each was drawn, (draws, size) float64."""
    drawn = torch.randint(size, (draws, size), generator=source)
    times = torch.zeros(draws, size, dtype=torch.float64)
    return times.scatter_add_(1, drawn, torch.ones_like(times))
