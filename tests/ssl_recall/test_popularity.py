"""Each item's share of the training interactions."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_recall.popularity import count_items, log_popularity


def popularity(taken: list[str], catalogue: list[str], unseen_count: float = 0.01) -> pl.DataFrame:
    ids = sorted(catalogue)
    counts = count_items([np.array([ids.index(item) for item in taken], np.int32)], len(ids))
    p, log_p = log_popularity(counts, unseen_count)
    return pl.DataFrame({"item_id": ids, "count": counts, "p": p, "log_p": log_p})


def test_two_of_three_interactions_and_an_item_never_taken() -> None:
    found = popularity(["b", "a", "b"], ["c", "b", "a"], unseen_count=0.5)

    assert found.schema == {"item_id": pl.String, "count": pl.Int64, "p": pl.Float64, "log_p": pl.Float64}
    assert found["item_id"].to_list() == ["a", "b", "c"]
    assert found["count"].to_list() == [1, 2, 0]
    assert found["p"].to_list() == [1 / 3.5, 2 / 3.5, 0.5 / 3.5]
    assert found["log_p"].to_list() == pytest.approx([math.log(1 / 3.5), math.log(2 / 3.5), math.log(0.5 / 3.5)])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=60), st.floats(1e-6, 1.0))
def test_shares_sum_to_one_are_finite_and_keep_the_ratios_of_counts(taken: list[int], unseen_count: float) -> None:
    found = popularity([str(item) for item in taken], [str(item) for item in range(10)], unseen_count)
    count, p, log_p = (found[name].to_numpy() for name in ("count", "p", "log_p"))

    assert count.sum() == len(taken)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert np.isfinite(log_p).all()
    seen = np.flatnonzero(count)
    assert p[seen] * count[seen[:1]] == pytest.approx(p[seen[:1]] * count[seen], rel=1e-14)
    assert (p[count == 0] <= p[count > 0].min(initial=1)).all()


def test_the_tail_is_not_clipped() -> None:
    """TFRS and keras-rs clip p at 1e-6: an item taken once then looks as popular as one taken ten times."""
    found = popularity(["head"] * 200_000 + ["ten"] * 10 + ["one"], ["head", "ten", "one", "never"], 1e-6)
    p = dict(found.select("item_id", "p").rows())

    assert p["ten"] / p["one"] == pytest.approx(10, rel=1e-14)
    assert p["never"] / p["one"] == pytest.approx(1e-6, rel=1e-14)


def test_an_empty_log_makes_all_items_alike() -> None:
    assert popularity([], ["a", "b"])["p"].to_list() == [0.5, 0.5]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), max_size=7), max_size=5))
def test_a_log_in_batches_is_counted_as_a_whole(batches: list[list[int]]) -> None:
    found = count_items((np.array(rows, np.int32) for rows in batches), 6)
    assert found.tolist() == [sum(rows.count(item) for rows in batches) for item in range(6)]
    assert found.dtype == np.int64


@pytest.mark.parametrize("rows", [[0, 3], [-1]])
def test_a_row_outside_the_catalogue_is_refused(rows: list[int]) -> None:
    with pytest.raises(ValueError, match="of a catalogue of 3"):
        count_items([np.array(rows)], 3)


@pytest.mark.parametrize("unseen_count", [0.0, -1.0, 1.5, math.nan, math.inf])
def test_an_unseen_count_outside_its_bounds_is_refused(unseen_count: float) -> None:
    with pytest.raises(ValueError, match="unseen_count must be above 0 and at most 1"):
        popularity(["a"], ["a"], unseen_count)
