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
        _check_rows(rows, items)
        counts += np.bincount(rows, minlength=items)
    return counts


def weigh_items(
    batches: Iterable[tuple[NDArray[np.integer], NDArray[np.float64]]],  # (item rows, weights of the interactions)
    items: int,
) -> NDArray[np.float64]:  # (N,)
    """Sum the weights of each item's interactions, read in batches as in `count_items`.

    With weights of 1 this is the count, exactly. Raises ValueError for a row outside the catalogue.
    """
    sums = np.zeros(items)
    for rows, weights in batches:
        _check_rows(rows, items)
        sums += np.bincount(rows, weights, minlength=items)
    return sums


def log_popularity(
    counts: NDArray[np.int64] | NDArray[np.float64],  # (N,) training interactions, or the sums of their weights
    unseen_count: float = UNSEEN_COUNT,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return every item's share p of the interactions, and log p (nats): (N,), (N,).

    p = c / sum of c, where c is an item's exact count, at least `unseen_count`. So log p is finite and p sums to 1. A
    cold item has the count 0, hence `unseen_count`. A higher floor would flatten the tail, which the correction serves.
    A softmax depends only on the ratios p_i / p_j, and those of warm items stay the ratios of their counts.

    The floor also holds for an item whose interactions weigh less than `unseen_count`. So an item taken long ago is
    never less popular than one never taken. Such an item is drawn less than `unseen_count` times an epoch.

    Raises ValueError unless 0 < unseen_count <= 1: a cold item is no more popular than an item taken once.

    >>> p, log_p = log_popularity(np.array([3, 1, 0]), unseen_count=1)
    >>> p
    array([0.6, 0.2, 0.2])
    """
    if not (math.isfinite(unseen_count) and 0 < unseen_count <= 1):
        raise ValueError(f"unseen_count must be above 0 and at most 1, is {unseen_count}")
    effective = np.maximum(counts, unseen_count)
    above = counts >= unseen_count
    p = effective / (float(counts[above].sum()) + int((~above).sum()) * unseen_count)
    return p, np.log(p)


def _check_rows(rows: NDArray[np.integer], items: int) -> None:
    if len(rows) and not (rows.min() >= 0 and rows.max() < items):
        raise ValueError(f"item rows {rows.min()} to {rows.max()} are not all rows of a catalogue of {items}")
