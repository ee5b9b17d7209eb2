"""Recent popularity: the weights of the interactions by hand and in a loop."""

import numpy as np
import pytest

from ssl_recall.baselines import recent_popular


def test_weights_by_hand() -> None:
    items, times = np.array([0, 1, 1, 2]), np.array([100, 90, 100, 60])
    found = recent_popular.weights(items, times, 1 / 4, 4)  # the log spans 40, half-life 10
    assert found.tolist() == [1.0, 1.5, 0.5**4, 0.0]


@pytest.mark.parametrize("share", recent_popular.SHARES)
def test_weights_are_a_loop(share: float) -> None:
    rng = np.random.default_rng(1)
    items, times = rng.integers(0, 6, 50), rng.integers(10**9, 2 * 10**9, 50)
    expected = [0.0] * 6
    for item, time in zip(items, times, strict=True):
        expected[item] += 0.5 ** ((int(times.max()) - int(time)) / ((int(times.max()) - int(times.min())) * share))
    np.testing.assert_allclose(recent_popular.weights(items, times, share, 6), expected)


def test_a_log_of_one_instant_is_counted() -> None:
    assert recent_popular.weights(np.array([1, 1, 0]), np.array([5, 5, 5]), 0.25, 3).tolist() == [1, 2, 0]
    assert recent_popular.weights(np.array([], int), np.array([], int), 0.25, 2).tolist() == [0, 0]
