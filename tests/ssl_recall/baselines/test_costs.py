"""The estimates grow with the data, and EASE of 6,000 items takes seconds."""

import numpy as np
import pytest
import scipy.sparse as sp

from ssl_recall.baselines import costs
from ssl_recall.baselines.ranking import Asked
from ssl_recall.baselines.selection import HeldOut


def log_of(queries: int, items: int, taken: int) -> sp.csr_array:
    """Let every query take `taken` items, the last one among them."""
    columns = np.random.default_rng(1).integers(0, items, (queries, taken))
    columns[:, -1] = items - 1
    return sp.csr_array(
        (np.ones(queries * taken, np.float32), columns.ravel(), np.arange(0, queries * taken + 1, taken)),
        shape=(queries, items),
    )


def asked(log: sp.csr_array) -> tuple[HeldOut, Asked]:
    lists = Asked(log, np.arange(log.shape[0]))
    return HeldOut(lists, np.zeros(1, np.int64), np.zeros(1, np.int64)), lists


@pytest.mark.parametrize(("items", "seconds"), [(6000, True), (9000, False)])
def test_ease_takes_seconds_up_to_about_6000_items(items: int, seconds: bool) -> None:
    log = log_of(10, items, 3)
    cost = costs.of_ease(log, *asked(log))
    assert (cost.seconds < 35) == seconds
    assert cost.bytes > 3 * 4 * items**2  # the matrix, its inverse and a copy


def test_item_knn_costs_the_pairs_of_the_interactions_of_each_query() -> None:
    few, many = (log_of(200, 5000, taken) for taken in (10, 100))
    cheap, dear = (costs.of_item_knn(log, *asked(log)) for log in (few, many))
    assert dear.seconds > 4 * cheap.seconds
    assert dear.bytes > cheap.bytes
    assert dear.bytes < 10 * 5000 * 5000 * costs.ENTRY + costs._block(5000) + 3e8


def test_ease_of_a_large_log_costs_the_double_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_of(10, 6000, 3)
    small = costs.of_ease(log, *asked(log))
    monkeypatch.setattr(costs.ease, "ROUNDING", 1e9)
    large = costs.of_ease(log, *asked(log))
    assert large.bytes - costs._block(6000) == 2 * (small.bytes - costs._block(6000))
    assert large.seconds > 1.9 * small.seconds
