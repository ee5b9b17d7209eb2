"""ItemKNN: items that the same queries took are neighbours (Sarwar et al., WWW 2001).

    similarity(i, j) = sum over q of w_q^2 x_qi x_qj / (norm_i norm_j + shrinkage)
    score(history, j) = sum over i in the history of similarity(i, j)

x_qi is 1 if query q took item i in training; norm_i is the length of the column w x_i.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from .ranking import Asked

NEIGHBOURS = 2000  # fewer recall less on all data sets that we tried
PRODUCTS = 2**24  # products of two interactions at a time


@dataclass(frozen=True)
class Setting:
    """How two columns of interactions are compared."""

    name: str
    weighted: bool = False  # a query with n items has the weight w = log(1 + N / n) (TF-IDF), otherwise w = 1
    shrinkage: float = 0.0  # a larger one trusts few common queries less


SETTINGS = (Setting("cosine"), Setting("cosine, shrinkage 20", shrinkage=20.0), Setting("TF-IDF", weighted=True))


@dataclass(frozen=True)
class ItemKnn:
    """The neighbours of all items."""

    similarity: sp.csr_array  # (N, N); column j keeps its most similar items

    def __call__(self, asked: Asked) -> NDArray[np.float32]:
        """Sum the similarities of each history: (R, N) scores."""
        scores: NDArray[np.float32] = (asked.histories @ self.similarity).toarray()
        return scores


def fit(log: sp.csr_array, setting: Setting, neighbours: int = NEIGHBOURS, at_once: int = PRODUCTS) -> ItemKnn:
    """Compare all items of a (Q, N) log, and keep the `neighbours` most similar ones of each.

    Memory: the neighbours, and the similarities of some items to all others, made of `at_once` products.
    """
    queries, items = log.shape
    lengths = np.diff(log.indptr)
    weights = np.log1p(items / np.maximum(lengths, 1)) if setting.weighted else np.ones(queries)
    weighted = sp.csr_array((np.repeat(weights, lengths).astype(np.float32), log.indices, log.indptr), shape=log.shape)
    norms = np.sqrt(np.bincount(log.indices, np.repeat(weights, lengths) ** 2, minlength=items))
    across = weighted.T.tocsr()
    kept = []
    for low, high in _parts(products(log), at_once):
        dots = across[low:high] @ weighted
        dots.sort_indices()
        rows = np.repeat(np.arange(low, high), np.diff(dots.indptr))
        dots.data /= (norms[rows] * norms[dots.indices] + setting.shrinkage).astype(np.float32)
        dots.data[rows == dots.indices] = 0  # an item is no neighbour of itself
        dots.eliminate_zeros()
        kept.append(_most_similar(dots, neighbours))
    return ItemKnn(sp.vstack(kept).T.tocsr())


def products(log: sp.csr_array) -> NDArray[np.float64]:  # (N,)
    """Count the products of two interactions of one query that `fit` sums up for each item."""
    lengths = np.diff(log.indptr).astype(np.float64)
    found = np.bincount(log.indices, np.repeat(lengths, np.diff(log.indptr)), minlength=log.shape[1])
    return found.astype(np.float64)


def _parts(work: NDArray[np.float64], most: int) -> list[tuple[int, int]]:
    """Cut 0 .. len(work) - 1 into ranges with about `most` work each."""
    number = (np.cumsum(work) // most).astype(np.int64)
    bounds = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(work)]
    return list(pairwise(bounds))


def _most_similar(similarity: sp.csr_array, most: int) -> sp.csr_array:
    """Keep the `most` largest values of each row; of equal ones the more popular items."""
    bounds = similarity.indptr
    for row in np.flatnonzero(np.diff(bounds) > most):
        own = similarity.data[bounds[row] : bounds[row + 1]]
        own[np.argsort(-own, kind="stable")[most:]] = 0
    similarity.eliminate_zeros()
    return similarity
