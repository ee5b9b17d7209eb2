"""Figures averaged over seeds: worked by hand on four pairs, and against a slow version on random lists."""

import math

import polars as pl
import pytest
import torch

from ssl_recall.evaluation.comparison import Truth, compare_models
from ssl_recall.evaluation.metrics import slices
from ssl_recall.evaluation.seeds import average_seeds

from .test_comparison import NEW, OLD, TRUTH, figure

T_1 = 12.706204736  # Student's t at 97.5 % with one degree of freedom: two seeds, two queries
LISTS = {"popular": OLD, "old": OLD, "new": NEW}
RANKS = {"old": [torch.tensor([0, 0, 1, 0])], "new": [torch.tensor([1, 0, 1, 0])]}  # of a second seed


def measured(ranks: dict[str, list[torch.Tensor]], ks: tuple[int, ...] = (2,)) -> pl.DataFrame:
    frame = compare_models(TRUTH, LISTS, [1, 2], 0.25, draws=50, seed=1, baselines=["popular"])
    return average_seeds(frame, TRUTH, LISTS, ranks, ks, 0.25, ["popular"])


def test_the_mean_of_two_seeds_and_its_interval_by_hand() -> None:
    frame = measured(RANKS)
    row = figure(frame, model="new", slice="all", metric="recall", k=2)
    assert (row["value"], row["low"], row["high"], row["seeds"], row["n"]) == (5 / 8, 0, 1, 2, 4)
    row = figure(frame, model="new - old", slice="all", metric="recall", k=2)
    assert (row["value"], row["seeds"]) == (1 / 4, 2)
    half = T_1 * math.sqrt(1 / 16)  # of the queries: +-0.5 / 4 each; both seeds gain 1 of 4 pairs
    assert (row["low"], row["high"]) == pytest.approx((1 / 4 - half, 1 / 4 + half))
    row = figure(frame, model="new - popular", slice="all", metric="recall", k=2)
    assert (row["value"], row["seeds"]) == (1 / 8, 2)
    half = T_1 * math.sqrt(1 / 64 + 1 / 64)  # of the queries: +-0.25 / 4 each; of the seeds: 1/4 and 0
    assert (row["low"], row["high"]) == pytest.approx((1 / 8 - half, 1 / 8 + half))


def test_what_has_one_seed_or_none_stays_as_it_was() -> None:
    before = compare_models(TRUTH, LISTS, [1, 2], 0.25, draws=50, seed=1, baselines=["popular"])
    assert measured({}).equals(before)
    frame = measured({"new": RANKS["new"]})
    assert frame.drop("value", "low", "high", "seeds").equals(before.drop("value", "low", "high", "seeds"))
    changed = frame.join(before, on=frame.columns, how="anti", nulls_equal=True)
    assert set(changed["model"]) == {"new", "new - popular"}  # `old` has one seed, and so has `new - old`
    assert set(changed["k"]) == {2}
    assert set(changed["metric"]) == {"recall", "recall_per_query", "map", "ndcg"}
    assert set(frame.filter(model="popular")["seeds"]) == {0}


def test_a_second_seed_with_the_same_ranks_changes_no_figure() -> None:
    same = {"old": [torch.tensor([1, 0, 1, 0])], "new": [torch.tensor([2, 1, 0, 1])]}
    assert measured(same)["value"].to_list() == pytest.approx(measured({})["value"].to_list(), nan_ok=True)


def test_every_figure_is_the_mean_of_those_that_a_slow_version_finds_by_seed() -> None:
    source = torch.Generator().manual_seed(3)
    rows = torch.arange(30).repeat_interleave(4)
    items = torch.cat([torch.randperm(50, generator=source)[:4] for _ in range(30)])
    counts = torch.randint(0, 6, (50,), generator=source)
    nothing = (torch.zeros(31, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    truth = Truth(rows, items, torch.arange(30), nothing, counts, torch.ones(30, dtype=torch.bool))
    by_seed = [torch.stack([torch.randperm(50, generator=source)[:20] for _ in range(30)]) for _ in range(3)]
    ranks = [
        torch.tensor([([*own[row], item].index(item) + 1) % 21 for row, item in zip(rows, items, strict=True)])
        for own in (lists.tolist() for lists in by_seed)
    ]
    frame = compare_models(truth, {"m": by_seed[0]}, [7], 0.2, 50, 1)
    frame = average_seeds(frame, truth, {"m": by_seed[0]}, {"m": ranks[1:]}, [7], 0.2)
    for part, members in slices(counts, 0.2).items():
        recall, ndcg = [], []
        for lists in by_seed:
            pairs = [(row, item) for row, item in zip(rows.tolist(), items.tolist(), strict=True) if members[item]]
            recall.append(sum(item in lists[row, :7].tolist() for row, item in pairs) / len(pairs))
            gains = []
            for row in {row for row, _ in pairs}:
                own = {item for other, item in pairs if other == row}
                gain = sum(1 / math.log2(n + 2) for n, item in enumerate(lists[row, :7].tolist()) if item in own)
                gains.append(gain / sum(1 / math.log2(n + 2) for n in range(len(own))))
            ndcg.append(sum(gains) / len(gains))
        for metric, values in (("recall", recall), ("ndcg", ndcg)):
            row = figure(frame, model="m", slice=part, metric=metric, k=7)
            assert (row["value"], row["seeds"]) == (pytest.approx(sum(values) / 3), 3)
            assert row["low"] <= row["value"] <= row["high"]
