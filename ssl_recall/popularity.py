"""How often each item stands in the training log: the p of the logQ correction (Yi et al., RecSys 2019)."""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

UNSEEN_COUNT = 0.01


def count_items(batches: Iterable[NDArray[np.integer]], items: int) -> NDArray[np.int64]:
    """Count a log that comes in batches of item rows, 0 .. N - 1: -> (N,). Memory is the catalogue's, not the log's.

    Raises ValueError for a row that is not in the catalogue.
    """
    counts = np.zeros(items, np.int64)
    for rows in batches:
        if len(rows) and not (rows.min() >= 0 and rows.max() < items):
            raise ValueError(f"item rows {rows.min()} to {rows.max()} of a catalogue of {items}")
        counts += np.bincount(rows, minlength=items)
    return counts


def log_popularity(
    counts: NDArray[np.int64],  # (N,) interactions of the training split
    unseen_count: float = UNSEEN_COUNT,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give every item's share p of the interactions, and log p (nats): (N,), (N,).

    An item's share is c / sum of c, where c is its exact count, or `unseen_count` of an interaction when it was never
    taken, so that log p is finite and the p sum to 1. Nothing is clipped: a floor under p would flatten the tail, the
    very items that the correction is there for. Nor are seen items smoothed: a softmax only feels the ratios p_i / p_j,
    and those of seen items stay the ratios of their counts.

    Raises ValueError unless 0 < unseen_count <= 1: an item never taken is no more popular than one taken once.
    """
    if not (math.isfinite(unseen_count) and 0 < unseen_count <= 1):
        raise ValueError(f"unseen_count must be above 0 and at most 1, is {unseen_count}")
    effective = np.where(counts > 0, counts, unseen_count)
    p = effective / (int(counts.sum()) + int((counts == 0).sum()) * unseen_count)
    return p, np.log(p)
