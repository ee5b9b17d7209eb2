"""Two models, and three arms, on four test pairs of two queries: every figure worked by hand."""

from dataclasses import replace

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from ssl_recall.evaluation.comparison import Truth, compare_arms, compare_models
from ssl_recall.evaluation.seeds import average_seeds

# item 0 is the head, items 1 and 2 the warm tail, item 3 is cold; query 0 has two pairs, query 1 has two
TRUTH = Truth(
    pair_rows=torch.tensor([0, 0, 1, 1]),
    pair_items=torch.tensor([0, 3, 0, 1]),
    queries=torch.tensor([4, 7]),
    known=(torch.tensor([0, 1, 1]), torch.tensor([2])),
    counts=torch.tensor([9, 3, 2, 0]),
    trained=torch.tensor([True, False]),
)
OLD = torch.tensor([[0, 1], [0, 2]])
NEW = torch.tensor([[3, 0], [1, 2]])


def figure(frame: pl.DataFrame, **where: object) -> dict[str, float]:
    (row,) = frame.filter(**where).iter_rows(named=True)
    return row


def test_recall_and_the_difference_of_two_models_by_hand() -> None:
    frame = compare_models(TRUTH, {"old": OLD, "new": NEW}, [1, 2], 0.25, draws=50, seed=1)
    for k, part, old, new, n in (
        (1, "all", 2 / 4, 2 / 4, 4),
        (2, "all", 2 / 4, 3 / 4, 4),
        (2, "head", 1.0, 1 / 2, 2),
        (2, "tail", 0.0, 1.0, 2),
        (2, "cold", 0.0, 1.0, 1),
        (2, "warm-tail", 0.0, 1.0, 1),
        (2, "known-queries", 1 / 2, 1.0, 2),
        (2, "new-queries", 1 / 2, 1 / 2, 2),
    ):
        rows = [figure(frame, model=model, slice=part, metric="recall", k=k) for model in ("old", "new", "new - old")]
        assert [row["value"] for row in rows] == pytest.approx([old, new, new - old]), (k, part)
        assert {row["n"] for row in rows} == {n}
    assert figure(frame, model="new", slice="all", metric="coverage", k=2)["value"] == 1.0
    assert figure(frame, model="old", slice="all", metric="mean_popularity", k=2)["value"] == (9 + 3 + 9 + 2) / 4


def test_an_interval_holds_its_value_and_a_slice_without_pairs_has_none() -> None:
    frame = compare_models(TRUTH, {"old": OLD, "new": NEW}, [2], 0.25, draws=200, seed=1)
    row = figure(frame, model="new - old", slice="all", metric="recall", k=2)
    assert row["low"] <= row["value"] <= row["high"]
    no_cold = replace(TRUTH, pair_rows=TRUTH.pair_rows[:1], pair_items=TRUTH.pair_items[:1], queries=TRUTH.queries[:1])
    row = figure(compare_models(no_cold, {"old": OLD[:1]}, [2], 0.25, 50, 1), slice="cold", metric="recall")
    assert (row["value"], row["low"], row["n"]) == (None, None, 0)


def test_an_arm_is_compared_with_the_base_of_the_same_seed() -> None:
    ranks = {
        "base": [torch.tensor([1, 0, 1, 0]), torch.tensor([1, 0, 1, 0])],
        "arm": [torch.tensor([2, 1, 0, 1]), torch.tensor([1, 1, 1, 0])],
    }
    frame = compare_arms(TRUTH, ranks, "base", [2], 0.25)
    base, arm = (figure(frame, arm=name, slice="all") for name in ("base", "arm"))
    assert (base["value"], base["difference"], base["std"], base["seeds"]) == (0.5, None, 0.0, 2)
    assert (arm["value"], arm["difference"], arm["by_seed"]) == (0.75, 0.25, [0.75, 0.75])
    assert arm["low"] < 0.25 < arm["high"]
    assert figure(frame, arm="arm", slice="tail")["difference"] == pytest.approx(0.75)
    assert figure(frame, arm="arm", slice="head")["difference"] == pytest.approx(-0.25)
    popular = figure(frame, arm="most-popular", slice="head")
    assert (popular["value"], popular["seeds"], popular["std"]) == (1.0, 0, None)


def test_a_rank_beyond_k_is_no_hit() -> None:
    frame = compare_arms(TRUTH, {"base": [torch.tensor([1, 2, 3, 0])]}, "base", [1, 2, 3], 0.25)
    assert [figure(frame, arm="base", slice="all", k=k)["value"] for k in (1, 2, 3)] == [0.25, 0.5, 0.75]


def test_a_baseline_is_compared_with_the_models_in_recall_alone_and_not_with_another_baseline() -> None:
    lists = {"popular": OLD, "knn": OLD, "old": OLD, "new": NEW}
    frame = compare_models(TRUTH, lists, [1, 2], 0.25, draws=50, seed=1, baselines={"popular", "knn"})
    changes = frame.filter(pl.col("model").str.contains(" - "))
    assert set(changes.filter(metric="recall")["model"]) == {
        *("old - popular", "new - popular", "old - knn", "new - knn", "new - old")
    }
    assert set(changes.filter(pl.col("metric") != "recall")["model"]) == {"new - old"}
    alone = compare_models(TRUTH, {"old": OLD, "new": NEW}, [1, 2], 0.25, draws=50, seed=1)
    assert frame.join(alone, on=alone.columns, nulls_equal=True).height == alone.height  # no figure depends on others


def test_the_interval_of_a_difference_is_paired() -> None:
    frame = compare_models(TRUTH, {"old": OLD, "same": OLD}, [2], 0.25, draws=200, seed=1)
    row = figure(frame, model="same - old", slice="all", metric="recall")
    assert (row["low"], row["value"], row["high"]) == (0.0, 0.0, 0.0)


def test_the_lists_of_a_query_are_drawn_together() -> None:
    """A list per pair, equal to the list of its query, changes no recall and no interval of recall."""
    rows = TRUTH.pair_rows
    offsets = torch.tensor([0, 1, 2, 2, 2])
    by_pair = replace(
        TRUTH,
        pair_rows=torch.arange(4),
        queries=TRUTH.queries[rows],
        known=(offsets, torch.tensor([2, 2])),
        trained=TRUTH.trained[rows],
        owners=rows,
    )
    ks, pairs = [1, 2], torch.tensor([[3, 0], [3, 0], [1, 2], [1, 2]])
    expected = compare_models(TRUTH, {"old": OLD, "new": NEW}, ks, 0.25, draws=200, seed=1)
    lists = {"old": OLD[rows], "new": pairs}
    frame = compare_models(by_pair, lists, ks, 0.25, draws=200, seed=1)
    assert frame.filter(metric="recall").equals(expected.filter(metric="recall"))
    alone = compare_models(replace(by_pair, owners=None), lists, ks, 0.25, draws=200, seed=1)
    assert not alone.filter(metric="recall").equals(expected.filter(metric="recall"))
    ranks = {"new": [torch.tensor([1, 0, 1, 0])], "old": [torch.tensor([0, 0, 1, 1])]}
    whole = average_seeds(expected, TRUTH, {"old": OLD, "new": NEW}, ranks, ks, 0.25).filter(metric="recall")
    parts = average_seeds(frame, by_pair, lists, ranks, ks, 0.25).filter(metric="recall")
    assert_frame_equal(parts, whole)
