"""Weights of interactions by their age, and the shares that they make."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_recall.popularity import count_items, log_popularity, weigh_items
from ssl_recall.recency import weights

few = settings(max_examples=40, deadline=None)
ages = st.lists(st.floats(0, 1e5), max_size=30).map(np.array)
days = st.one_of(st.none(), st.floats(1e-3, 1e5))


def test_ages_worked_by_hand() -> None:
    """Half-life 10 days, window 20 days: what is as old as the window still counts."""
    old = np.array([0.0, 10.0, 20.0, 20.001, 30.0])
    assert weights(old, 10, 20).tolist() == [1, 0.5, 0.25, 0, 0]
    assert weights(old, 10, None).tolist() == pytest.approx([1, 0.5, 0.25, 2**-2.0001, 0.125])
    assert weights(old, None, 20).tolist() == [1, 1, 1, 0, 0]
    assert weights(old, None, None).tolist() == [1, 1, 1, 1, 1]


@given(ages, days, days)
@few
def test_weights_are_the_formula_of_each_age(old: np.ndarray, half_life: float | None, window: float | None) -> None:
    slow = [
        0.0 if window is not None and age > window else 1.0 if half_life is None else math.pow(0.5, age / half_life)
        for age in old
    ]
    found = weights(old, half_life, window)
    assert found.tolist() == pytest.approx(slow, rel=1e-12)
    assert ((found >= 0) & (found <= 1)).all()


@given(ages)
@few
def test_an_infinite_half_life_and_window_are_none_bit_for_bit(old: np.ndarray) -> None:
    assert (
        weights(old, math.inf, math.inf).tobytes() == weights(old, None, None).tobytes() == np.ones(len(old)).tobytes()
    )


@given(ages, st.floats(1e-3, 1e4))
@few
def test_a_half_life_later_every_weight_is_half(old: np.ndarray, half_life: float) -> None:
    assert weights(old + half_life, half_life, None) == pytest.approx(weights(old, half_life, None) / 2, rel=1e-9)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan])
def test_days_that_are_not_above_0_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="half-life must be above 0 days"):
        weights(np.zeros(1), wrong, None)
    with pytest.raises(ValueError, match="window must be above 0 days"):
        weights(np.zeros(1), None, wrong)


def test_shares_of_weighted_interactions_worked_by_hand() -> None:
    """Item 0: 1 + 0.5; item 1: 0.25; item 2 weighs 0.001 and item 3 nothing, so both count 0.01; item 4 is cold."""
    rows, heavy = np.array([0, 1, 0, 2, 3], np.int32), np.array([1, 0.25, 0.5, 0.001, 0])
    sums = weigh_items([(rows[:2], heavy[:2]), (rows[2:], heavy[2:])], 5)
    assert sums.tolist() == [1.5, 0.25, 0.001, 0, 0]
    p, log_p = log_popularity(sums, 0.01)
    assert p.tolist() == pytest.approx([1.5 / 1.78, 0.25 / 1.78, 0.01 / 1.78, 0.01 / 1.78, 0.01 / 1.78])
    assert log_p.tolist() == pytest.approx(np.log(p).tolist())


events = st.lists(st.tuples(st.integers(0, 6), st.floats(0, 1e6)), max_size=40)


@given(events, st.floats(1e-2, 1e3), st.floats(1e-6, 1.0))
@few
def test_shares_are_finite_sum_to_one_and_no_item_counts_less_than_a_cold_one(
    log: list[tuple[int, float]], half_life: float, unseen_count: float
) -> None:
    rows, old = np.array([item for item, _ in log], np.int32), np.array([age for _, age in log])
    sums = weigh_items([(rows, weights(old, half_life, None))], 8)  # item 7 is cold
    p, log_p = log_popularity(sums, unseen_count)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert np.isfinite(log_p).all()
    assert p[7] == p.min()
    slow = [max(math.fsum(0.5 ** (age / half_life) for item, age in log if item == j), unseen_count) for j in range(8)]
    assert p.tolist() == pytest.approx([c / math.fsum(slow) for c in slow], rel=1e-9)


@given(st.lists(st.integers(0, 6), max_size=60), st.floats(1e-6, 1.0))
@few
def test_weights_of_one_are_counts_bit_for_bit(taken: list[int], unseen_count: float) -> None:
    rows = np.array(taken, np.int32)
    counts, sums = count_items([rows], 7), weigh_items([(rows, np.ones(len(rows)))], 7)
    plain = np.where(counts > 0, counts, unseen_count)
    expected = plain / (int(counts.sum()) + int((counts == 0).sum()) * unseen_count)  # as version 0.2.0 computed it
    for found in (counts, sums):
        p, log_p = log_popularity(found, unseen_count)
        assert p.tobytes() == expected.tobytes()
        assert log_p.tobytes() == np.log(expected).tobytes()


def test_a_weighted_row_outside_the_catalogue_is_refused() -> None:
    with pytest.raises(ValueError, match="of a catalogue of 3"):
        weigh_items([(np.array([0, 3]), np.ones(2))], 3)
