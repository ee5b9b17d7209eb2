"""What the baselines cost: estimates of memory and of time on one slow core, before they start."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from . import als, content_knn, ease, item_knn, ranking, selection

ENTRY = 8  # bytes of an entry of a sparse matrix
CELL = 5e-9  # seconds per score: its place in a dense matrix, and the search for the best
DENSE_CELL = 5e-9  # seconds per score: the product of the common values
ITEM_PRODUCT, VALUE_PRODUCT, SUM = 2e-8, 1.2e-8, 5e-9  # seconds per product of two entries of sparse matrices
INVERSION = 5e-11  # seconds per cubed item in float32
WEIGHT = 1e-9  # seconds per weight that a history adds to the scores


@dataclass(frozen=True)
class Cost:
    """Bytes in use at the same time, and seconds."""

    bytes: float
    seconds: float


def of_item_knn(log: sp.csr_array, held_out: selection.HeldOut, test: ranking.Asked) -> Cost:
    """Fit three settings, and score the lists: each item of a history adds all its neighbours."""
    per_item, trials = item_knn.products(log), len(item_knn.SETTINGS)
    kept = float(np.minimum(per_item, item_knn.NEIGHBOURS).sum())
    listed = np.minimum(per_item, ease.warm_items(log))
    sums = float((test.histories @ listed).sum() + trials * (held_out.asked.histories @ listed).sum())
    seconds = ITEM_PRODUCT * trials * float(per_item.sum()) + SUM * sums + CELL * _cells(held_out, test, trials)
    return Cost(4 * ENTRY * kept + 2 * ENTRY * item_knn.PRODUCTS + _block(log.shape[1]), seconds)


def of_ease(log: sp.csr_array, held_out: selection.HeldOut, test: ranking.Asked) -> Cost:
    """Invert W x W matrices of the W items with training interactions; their trace is the number of interactions."""
    warm, trials = float(ease.warm_items(log)), len(ease.PENALTIES)
    width = 4 if log.nnz * ease.ROUNDING < min(ease.PENALTIES) else 8  # bytes per number
    taken = test.histories.nnz + trials * held_out.asked.histories.nnz
    scores = CELL * _cells(held_out, test, trials) + WEIGHT * taken * warm
    inversions = trials * INVERSION * warm**3 * width / 4
    gram = ITEM_PRODUCT * float(item_knn.products(log).sum())
    return Cost(6 * width * warm**2 + _block(log.shape[1]), gram + inversions + scores)


def of_content_values(values: int, items: int) -> Cost:
    """Count the values of the tables, before their matrices are made."""
    return Cost(6.0 * ENTRY * values + 4.0 * content_knn.DENSE * items + _block(items), 0.0)


def of_content_knn(model: content_knn.ContentKnn, test: ranking.Asked) -> Cost:
    """Multiply the rare values as sparse matrices, the common ones as dense matrices."""
    cells = float(np.prod(test.histories.shape, dtype=np.float64))
    return Cost(
        _block(len(model.common)), VALUE_PRODUCT * content_knn.products(model, test) + (CELL + DENSE_CELL) * cells
    )


def of_als(log: sp.csr_array) -> Cost:
    """Count the factors, and two copies of the log; it is fitted only when asked for, whatever its time."""
    return Cost(4.0 * als.FACTORS * sum(log.shape) + 4 * ENTRY * log.nnz + _block(log.shape[1]), 0.0)


def _cells(held_out: selection.HeldOut, test: ranking.Asked, trials: int) -> float:
    """Count the scores of the test lists, and those of the validation lists for each trial."""
    return float(len(test.queries) + trials * len(held_out.asked.queries)) * float(test.histories.shape[1])


def _block(items: int) -> float:
    """Count a block of scores: as a sparse matrix, as a dense one, and a copy of its rows with equal scores."""
    return float(max(ranking.CELLS, items)) * (ENTRY + 4 + 4)
