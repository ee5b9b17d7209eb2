"""Intervals over seeds: worked by hand, compared with scipy, and checked for coverage."""

import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_recall.evaluation import intervals


@pytest.mark.parametrize("freedom", [1.0, 1.5, 2.0, 3.7, 10.0, 200.0, 5e4, 1e9])
@pytest.mark.parametrize("share", [0.6, 0.975, 0.999])
def test_the_quantile_is_that_of_scipy(freedom: float, share: float) -> None:
    assert intervals.student_t(share, freedom) == pytest.approx(scipy.stats.t.ppf(share, freedom), rel=1e-6)


def test_seeds_that_disagree_while_queries_agree_are_a_t_interval_of_their_means() -> None:
    """Two seeds with values 0 and 1: mean 1/2, standard error 1/2, one degree of freedom."""
    sums = torch.tensor([[[0.0]] * 4, [[1.0]] * 4], dtype=torch.float64)
    low, high = intervals.over_seeds(sums, torch.ones(4, 1).double())
    half = scipy.stats.t.ppf(0.975, 1) / 2
    assert (low.item(), high.item()) == pytest.approx((0.5 - half, 0.5 + half))


def test_one_seed_is_a_t_interval_over_queries() -> None:
    found = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0]).double()
    low, high = intervals.over_seeds(found[None, :, None], torch.ones(7, 1).double())
    expected = scipy.stats.t.interval(0.95, 6, found.mean().item(), scipy.stats.sem(found.numpy()))
    assert (low.item(), high.item()) == pytest.approx(expected)


def test_both_together_worked_by_hand() -> None:
    """Queries of one and three trials, two seeds: means 3/4 and 1/4; over seeds, the queries add 0.4 and 1.6."""
    sums = torch.tensor([[[0.8], [2.2]], [[0.0], [1.0]]]).double()
    trials = torch.tensor([[1.0], [3.0]]).double()
    of_seeds = (0.25**2 + 0.25**2) / 1 / 2
    of_queries = 2 / 1 * (((0.4 - 0.5 * 1) / 4) ** 2 + ((1.6 - 0.5 * 3) / 4) ** 2)
    half = scipy.stats.t.ppf(0.975, 1) * math.sqrt(of_seeds + of_queries)
    low, high = intervals.over_seeds(sums, trials)
    assert (low.item(), high.item()) == pytest.approx((0.5 - half, 0.5 + half))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(2, 6), st.integers(0, 99))
def test_a_constant_added_to_every_trial_moves_the_interval_by_it(seeds: int, queries: int, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    sums = torch.rand(seeds, queries, 2, generator=source, dtype=torch.float64)
    trials = torch.randint(1, 4, (queries, 2), generator=source).double()
    low, high = intervals.over_seeds(sums, trials)
    torch.testing.assert_close(intervals.over_seeds(sums + 3 * trials, trials), (low + 3, high + 3))
    assert (low <= high).all()


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_it_holds_the_truth_as_often_as_it_says(seeds: int, scale: float) -> None:
    """Simulate 4,000 studies of 200 queries with a true gain of 0; seeds vary it `scale` times as much as queries."""
    source, studies = torch.Generator().manual_seed(1), 4000
    of_seeds = torch.randn(seeds, 1, studies, generator=source).double() * scale * math.sqrt(seeds / 200)
    of_queries = torch.randn(1, 200, studies, generator=source, dtype=torch.float64)
    low, high = intervals.over_seeds(of_seeds + of_queries, torch.ones(200, studies).double())
    held = ((low < 0) & (high > 0)).double().mean().item()
    assert 0.94 < held < 0.99


def test_where_nothing_varies_the_interval_is_a_point_and_without_trials_there_is_none() -> None:
    trials = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]]).double()
    low, high = intervals.over_seeds(torch.ones(3, 2, 3).double() * trials, trials)
    assert (low[0].item(), high[0].item()) == (1, 1)
    assert low[1:].isnan().all()
    assert high[1:].isnan().all()
