"""Each item's share p of the training interactions, for the logQ correction (Yi et al., RecSys 2019)."""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

UNSEEN_COUNT = 0.01


def count_items(batches: Iterable[NDArray[np.integer]], items: int) -> NDArray[np.int64]:
    """Count the interactions of each item in a log, read as batches of item rows 0 .. N - 1: -> (N,).

    Memory grows with the catalogue, not with the log. Raises ValueError for a row outside the catalogue.
    """
    counts = np.zeros(items, np.int64)
    for rows in batches:
        if len(rows) and not (rows.min() >= 0 and rows.max() < items):
            raise ValueError(f"item rows {rows.min()} to {rows.max()} are not all rows of a catalogue of {items}")
        counts += np.bincount(rows, minlength=items)
    return counts


def log_popularity(
    counts: NDArray[np.int64],  # (N,) interactions of the training split
    unseen_count: float = UNSEEN_COUNT,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return every item's share p of the interactions, and log p (nats): (N,), (N,).

    p = c / sum of c, where c is an item's exact count, or `unseen_count` for a cold item. So log p is finite and p sums
    to 1. p is not clipped: a floor would flatten the tail, which the correction serves. Warm items are not smoothed: a
    softmax depends only on the ratios p_i / p_j, and those of warm items stay the ratios of their counts.

    Raises ValueError unless 0 < unseen_count <= 1: a cold item is no more popular than an item taken once.

    >>> p, log_p = log_popularity(np.array([3, 1, 0]), unseen_count=1)
    >>> p
    array([0.6, 0.2, 0.2])
    """
    if not (math.isfinite(unseen_count) and 0 < unseen_count <= 1):
        raise ValueError(f"unseen_count must be above 0 and at most 1, is {unseen_count}")
    effective = np.where(counts > 0, counts, unseen_count)
    p = effective / (int(counts.sum()) + int((counts == 0).sum()) * unseen_count)
    return p, np.log(p)
