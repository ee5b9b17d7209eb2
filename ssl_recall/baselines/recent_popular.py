"""Recent popularity: an interaction counts half after each half-life.

weight of an item = sum over its training interactions of 0.5 ^ (age / half-life)
"""

import numpy as np
from numpy.typing import NDArray

SHARES = (1 / 4, 1 / 16, 1 / 64)  # half-lives, as shares of the time from the first to the last interaction


def weights(
    items: NDArray[np.integer],  # (R,) item of each training interaction
    times: NDArray[np.int64],  # (R,) in any unit
    share: float,
    count: int,  # N
) -> NDArray[np.float64]:  # (N,)
    """Sum the weights of each item's interactions; the newest interaction of the log has the weight 1."""
    if not len(times):
        return np.zeros(count)
    newest = times.max()
    half_life = max(float(newest - times.min()), 1.0) * share
    return np.bincount(items, 0.5 ** ((newest - times) / half_life), minlength=count).astype(np.float64)
