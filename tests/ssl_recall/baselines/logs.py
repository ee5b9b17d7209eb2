"""Small random logs, their columns in the order of popularity, and lists to fill."""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ssl_recall.baselines.ranking import Asked


def dense_log(seed: int, queries: int = 12, items: int = 9, cold: int = 2) -> NDArray[np.float32]:
    """Draw a (Q, N) log; the last `cold` items have no interaction."""
    drawn = np.random.default_rng(seed).random((queries, items)) < np.linspace(0.7, 0.1, items)
    drawn[:, items - cold :] = False
    return drawn[:, np.argsort(-drawn.sum(0), kind="stable")].astype(np.float32)


def csr(dense: NDArray[np.float32]) -> sp.csr_array:
    return sp.csr_array(dense)


def asked_of(histories: NDArray[np.float32]) -> Asked:
    return Asked(csr(histories), np.arange(len(histories)))
