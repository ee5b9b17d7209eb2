"""Compare models on the same test pairs: sums by query, slice, metric and k; means, differences and intervals.

Every figure is a ratio of two sums over queries. So a bootstrap can draw the queries, and two models are compared query
by query. All frames are in long form.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import polars as pl
import torch
from torch import Tensor

from . import intervals, metrics, retrieval

PER_QUERY = ("recall_per_query", "map", "ndcg")
MOST_POPULAR = "most-popular"
FIGURES = ("value", "low", "high")


@dataclass(frozen=True)
class Truth:
    """P test pairs of Q queries, the known positives of the queries, and the training count of every item."""

    pair_rows: Tensor  # (P,) int64, ascending, below Q: the index of each pair's query in `queries`
    pair_items: Tensor  # (P,) int64
    queries: Tensor  # (Q,) int64 query rows
    known: retrieval.Known  # offsets (Q + 1,) and items (E,), taken before the test, never recalled
    counts: Tensor  # (N,) int64


def compare_models(
    truth: Truth,
    recalled: Mapping[str, Tensor],  # model -> (Q, K) item rows, nearest first
    ks: Sequence[int],
    head_share: float,
    draws: int,  # bootstrap samples
    seed: int,
) -> pl.DataFrame:
    """Measure every model, and the difference of every two models on the same queries.

    -> model ("a" or "b - a"), slice, metric, k, value, low and high (95 %, bootstrap over queries), n (trials).
    """
    members = metrics.slices(truth.counts, head_share)
    keys: list[tuple[str, str, str, int]] = []
    columns: list[tuple[Tensor, Tensor]] = []
    for name, lists in recalled.items():
        found = metrics.hits(lists, truth.pair_rows, truth.pair_items)
        for part, inside in members.items():
            kept = inside[truth.pair_items]
            for k in ks:
                keys += [(name, part, metric, k) for metric in ("recall", *PER_QUERY)]
                columns += _sums_by_query(found[kept], truth.pair_rows[kept], len(truth.queries), k)
    sums, trials = torch.stack([s for s, _ in columns], 1), torch.stack([t for _, t in columns], 1)
    at = {key: column for column, key in enumerate(keys)}
    for old, new in combinations(recalled, 2):
        pairs = [(key[1:], at[key], at[(new, *key[1:])]) for key in keys if key[0] == old]
        keys += [(f"{new} - {old}", *rest) for rest, _, _ in pairs]
        sums = torch.cat([sums, torch.stack([sums[:, b] - sums[:, a] for _, a, b in pairs], 1)], 1)
        trials = torch.cat([trials, trials[:, [a for _, a, _ in pairs]]], 1)
    value, n = sums.sum(0) / trials.sum(0), trials.sum(0)
    low, high = metrics.bootstrap_intervals(sums, trials, draws, torch.Generator().manual_seed(seed))
    table = [value.tolist(), low.tolist(), high.tolist(), n.long().tolist()]
    rows = [(*key, *numbers) for key, *numbers in zip(keys, *table, strict=True)]
    rows += _of_whole_lists(truth, recalled, ks)
    schema = (
        {"model": pl.String, "slice": pl.String, "metric": pl.String, "k": pl.Int32}
        | dict.fromkeys(FIGURES, pl.Float64)
        | {"n": pl.Int64}
    )
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col(FIGURES).fill_nan(None))


def _of_whole_lists(truth: Truth, recalled: Mapping[str, Tensor], ks: Sequence[int]) -> list[tuple[Any, ...]]:
    """Measure coverage and mean popularity, which have no trials and no interval."""
    rows: list[tuple[Any, ...]] = []
    for name, lists in recalled.items():
        for k in ks:
            share = metrics.coverage(lists, k, len(truth.counts))
            rows.append((name, "all", "coverage", k, share, None, None, len(truth.counts)))
            mean = metrics.mean_popularity(lists, k, truth.counts)
            rows.append((name, "all", "mean_popularity", k, mean, None, None, len(truth.queries)))
    return rows


def _sums_by_query(found: Tensor, pair_rows: Tensor, queries: int, k: int) -> list[tuple[Tensor, Tensor]]:
    """Sum each query's numerator and denominator, (Q,) each, of recall and of each metric in PER_QUERY."""
    zeros = torch.zeros(queries, dtype=torch.float64)
    hits = zeros.index_add(0, pair_rows, metrics.pair_recall(found, k))
    columns = [(hits, torch.bincount(pair_rows, minlength=queries).double())]
    asked, values = metrics.per_query(found, pair_rows, k)
    one = zeros.index_fill(0, asked, 1.0)
    return columns + [(zeros.index_copy(0, asked, values[metric]), one) for metric in PER_QUERY]


def compare_arms(
    truth: Truth,
    ranks: Mapping[str, Sequence[Tensor]],  # arm -> for each of S seeds (P,) int32 ranks from 1, 0 if not in the list
    base: str,  # the arm to compare the others with
    ks: Sequence[int],
    head_share: float,
) -> pl.DataFrame:
    """Average each arm's recall over its seeds, and compare it with the base on the same seeds and queries.

    -> arm, slice, metric, k, value, std (over seeds), difference, low and high (95 %, over queries and seeds), by_seed,
    seeds, n (test pairs). The first arm is most-popular, without seeds.
    """
    members = {name: inside[truth.pair_items] for name, inside in metrics.slices(truth.counts, head_share).items()}
    keys = [(part, "recall", k) for part in members for k in ks]
    zeros = torch.zeros(len(truth.queries), len(keys), dtype=torch.float64)
    counted = torch.stack([members[part] for part, _, _ in keys], 1).double()  # (P, C)
    trials = zeros.index_add(0, truth.pair_rows, counted)

    def sums(place: Tensor) -> Tensor:
        within = torch.stack([(place > 0) & (place <= k) for _, _, k in keys], 1)
        return zeros.index_add(0, truth.pair_rows, within * counted)

    by_arm = {name: torch.stack([sums(place) for place in own]) for name, own in ranks.items()}  # (S, Q, C)
    change = _changes(by_arm, base, trials, len(keys))
    popular = retrieval.most_popular(truth.counts, len(truth.queries), max(ks), truth.known)
    popular_ranks = metrics.ranks(popular, truth.pair_rows, truth.pair_items)
    rows: list[tuple[Any, ...]] = []
    nothing = torch.full((len(keys),), torch.nan)
    for name, found in ({MOST_POPULAR: sums(popular_ranks)[None]} | by_arm).items():
        recall = found.sum(1) / trials.sum(0)
        std = recall.std(0) if len(recall) > 1 else nothing
        numbers = (recall.mean(0), std, *change.get(name, (nothing, nothing, nothing)))
        seeds = len(ranks.get(name, ()))
        rows += [
            (name, *key, *figures, by_seed, seeds, int(n))
            for key, n, by_seed, *figures in zip(
                keys, trials.sum(0), recall.T.tolist(), *(x.tolist() for x in numbers), strict=True
            )
        ]
    return _arms_frame(rows)


def _changes(
    by_arm: Mapping[str, Tensor],  # arm -> (S, Q, C)
    base: str,
    trials: Tensor,  # (Q, C)
    columns: int,
) -> dict[str, Iterable[Tensor]]:
    """Compare each arm with the base: name -> difference, low, high, (C,) each."""
    others = [name for name in by_arm if name != base]
    gains = torch.cat([by_arm[name] - by_arm[base] for name in others] or [by_arm[base]], 2)
    ends = intervals.over_seeds(gains, trials.repeat(1, max(len(others), 1)))
    difference = gains.sum(1).mean(0) / trials.sum(0).repeat(max(len(others), 1))
    return dict(zip(others, zip(*(x.split(columns) for x in (difference, *ends)), strict=True), strict=False))


def _arms_frame(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    floats = ("value", "std", "difference", "low", "high")
    schema: dict[str, Any] = (
        dict.fromkeys(("arm", "slice", "metric"), pl.String)
        | {"k": pl.Int32}
        | dict.fromkeys(floats, pl.Float64)
        | {"by_seed": pl.List(pl.Float64), "seeds": pl.Int32, "n": pl.Int64}
    )
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col(floats).fill_nan(None))
