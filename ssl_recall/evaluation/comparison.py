"""Compare models on the same test pairs: sums by query, slice, metric and k; means, differences and intervals.

Every figure is a ratio of two sums over lists. The lists of a query depend on each other, so a bootstrap draws queries,
and two models are compared query by query. All frames are in long form.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
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
    """P test pairs, the Q lists that should recall them, the known positives of each list, and the items' counts.

    A query has one list for all its pairs. With `owners`, it has a list for each pair, which knows the earlier ones.
    """

    pair_rows: Tensor  # (P,) int64, ascending, below Q: the list of each pair
    pair_items: Tensor  # (P,) int64
    queries: Tensor  # (Q,) int64: the query row of each list
    known: retrieval.Known  # offsets (Q + 1,) and items (E,), taken before, never recalled
    counts: Tensor  # (N,) int64, training interactions
    trained: Tensor  # (Q,) bool, True for a query with training interactions
    owners: Tensor | None = None  # (Q,) int64: the query of each list, from 0, to draw its lists together


def compare_models(
    truth: Truth,
    recalled: Mapping[str, Tensor],  # model -> (Q, K) item rows, nearest first
    ks: Sequence[int],
    head_share: float,
    draws: int,  # bootstrap samples
    seed: int,
    baselines: Collection[str] = (),  # models that are compared with the others in recall alone
) -> pl.DataFrame:
    """Measure every model, and the differences of the models on the same queries.

    Two models that are no baselines are compared in every metric, a model and a baseline in recall, two baselines not.
    -> model ("a" or "b - a"), slice, metric, k, value, low and high (95 %, bootstrap over queries), seeds, n (trials).
    seeds is 1 for a model and its differences, 0 for a baseline.
    """
    members = slices_of_pairs(truth, head_share)
    trials = torch.stack([column for kept in members.values() for column in trials_of(truth, kept)], 1)
    keys: list[tuple[str, str, str, int]] = []
    columns, denominators = list[Tensor](), list[int]()
    for name, lists in recalled.items():
        found = metrics.hits(lists, truth.pair_rows, truth.pair_items)
        for place, (part, kept) in enumerate(members.items()):
            for k in ks:
                keys += [(name, part, metric, k) for metric in ("recall", *PER_QUERY)]
                columns += sums_by_query(found[kept], truth.pair_rows[kept], len(truth.queries), k)
                denominators += [2 * place] + [2 * place + 1] * len(PER_QUERY)
    sums = torch.stack(columns, 1)
    columns.clear()
    value, n = sums.sum(0) / trials.sum(0)[denominators], trials.sum(0)[denominators]
    drawn = by_query(truth, sums), by_query(truth, trials)
    ratios = metrics.bootstrap_ratios(*drawn, denominators, draws, torch.Generator().manual_seed(seed))
    changes, old, new = _differences(keys, baselines)
    value, n = torch.cat([value, value[new] - value[old]]), torch.cat([n, n[old]])
    low, high = metrics.percentile_intervals(torch.cat([ratios, ratios[:, new] - ratios[:, old]], 1))
    seeds = [int(name not in baselines) for name, *_ in keys + changes]
    table = [value.tolist(), low.tolist(), high.tolist(), seeds, n.long().tolist()]
    rows = [(*key, *numbers) for key, *numbers in zip(keys + changes, *table, strict=True)]
    rows += _of_whole_lists(truth, recalled, ks, baselines)
    schema = (
        {"model": pl.String, "slice": pl.String, "metric": pl.String, "k": pl.Int32}
        | dict.fromkeys(FIGURES, pl.Float64)
        | {"seeds": pl.Int32, "n": pl.Int64}
    )
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col(FIGURES).fill_nan(None))


def slices_of_pairs(truth: Truth, head_share: float) -> dict[str, Tensor]:
    """Divide the test pairs by their items, and by whether their query has training interactions: -> (P,) bool."""
    by_item = {name: inside[truth.pair_items] for name, inside in metrics.slices(truth.counts, head_share).items()}
    known = truth.trained[truth.pair_rows]
    return by_item | {"known-queries": known, "new-queries": ~known}


def _differences(
    keys: list[tuple[str, str, str, int]], baselines: Collection[str]
) -> tuple[list[tuple[str, str, str, int]], list[int], list[int]]:
    """Pair the columns to compare: the key of each difference, its old column and its new column."""
    at = {key: column for column, key in enumerate(keys)}
    changes, old, new = list[tuple[str, str, str, int]](), list[int](), list[int]()
    for one, other in combinations(dict.fromkeys(name for name, *_ in keys), 2):
        first, second = (other, one) if other in baselines else (one, other)
        for name, part, metric, k in keys:
            compared = metric == "recall" or first not in baselines
            if name == first and second not in baselines and compared:
                changes.append((f"{second} - {first}", part, metric, k))
                old.append(at[first, part, metric, k])
                new.append(at[second, part, metric, k])
    return changes, old, new


def _of_whole_lists(
    truth: Truth, recalled: Mapping[str, Tensor], ks: Sequence[int], baselines: Collection[str]
) -> list[tuple[Any, ...]]:
    """Measure coverage and mean popularity, which have no trials and no interval."""
    rows: list[tuple[Any, ...]] = []
    for name, lists in recalled.items():
        seeds = int(name not in baselines)
        for k in ks:
            share = metrics.coverage(lists, k, len(truth.counts))
            rows.append((name, "all", "coverage", k, share, None, None, seeds, len(truth.counts)))
            mean = metrics.mean_popularity(lists, k, truth.counts)
            rows.append((name, "all", "mean_popularity", k, mean, None, None, seeds, len(truth.queries)))
    return rows


def sums_by_query(found: Tensor, pair_rows: Tensor, queries: int, k: int) -> list[Tensor]:
    """Sum each list's numerator, (Q,), of recall and of each metric in PER_QUERY."""
    zeros = torch.zeros(queries, dtype=torch.float64)
    hits = zeros.index_add(0, pair_rows, metrics.pair_recall(found, k))
    asked, values = metrics.per_query(found, pair_rows, k)
    return [hits, *(zeros.index_copy(0, asked, values[metric]) for metric in PER_QUERY)]


def trials_of(truth: Truth, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Count each list's pairs, and the list itself if it has any, (Q,) each: the denominators of a slice."""
    pairs = torch.bincount(truth.pair_rows[kept], minlength=len(truth.queries)).double()
    return pairs, (pairs > 0).double()


def by_query(truth: Truth, sums: Tensor) -> Tensor:
    """Add up the lists of each query: (.., Q, C) -> (.., queries, C)."""
    if truth.owners is None:
        return sums
    queries = int(truth.owners.max()) + 1
    return sums.new_zeros(*sums.shape[:-2], queries, sums.shape[-1]).index_add(-2, truth.owners, sums)


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
