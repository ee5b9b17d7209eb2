"""From scores to lists: the k best items of each list, without the items taken before."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_recall.evaluation.retrieval import NOTHING, nearest

CELLS = 2**24  # scores at a time: 64 MiB
FILLER = 1e-30  # score of the least popular filler, far below every score of a baseline


@dataclass(frozen=True)
class Asked:
    """R lists to fill. A row is a list, not a query: several lists may belong to one query."""

    histories: sp.csr_array  # (R, N) float32, 1 for an item that the query took before; it is never recalled
    queries: NDArray[np.int64]  # (R,) row of each list's query in the table of queries

    def part(self, rows: slice) -> "Asked":
        """Return some of the lists."""
        return Asked(self.histories[rows], self.queries[rows])


class Scorer(Protocol):
    """A baseline that has learnt: it scores every item for each list."""

    def __call__(self, asked: Asked) -> NDArray[np.float32]:
        """Return (R, N) scores, a new array, at least 0; 0 says nothing about the item."""
        ...


def popularity_order(counts: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort the items by their counts (N,), the largest first: the item of each column, and the column of each item."""
    items: NDArray[np.int64] = torch.argsort(counts, descending=True, stable=True).numpy()
    columns = np.empty_like(items)
    columns[items] = np.arange(len(items))
    return items, columns


def interaction_matrix(
    offsets: NDArray[np.int64],  # (R + 1,)
    items: NDArray[np.integer],  # (E,) item rows; row r took items[offsets[r] : offsets[r + 1]]
    columns: NDArray[np.int64],  # (N,) column of each item
) -> sp.csr_array:  # (R, N) float32, 1 for a taken item
    """Put the items that each row took into a matrix."""
    ones, shape = np.ones(len(items), np.float32), (len(offsets) - 1, len(columns))
    return marked(sp.csr_array((ones, columns[items], offsets), shape=shape))


def marked(matrix: sp.csr_array) -> sp.csr_array:
    """Replace each sum of equal entries by 1, and take 32-bit indices if they suffice, which are twice as fast."""
    matrix.sum_duplicates()
    matrix.data[:] = 1
    if max(matrix.nnz, *matrix.shape) < 2**31:
        matrix.indices, matrix.indptr = matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)
    return matrix


def recall_lists(score: Scorer, asked: Asked, k: int, cells: int = CELLS) -> NDArray[np.int64]:
    """Return the k columns with the highest scores for each list, -1 where none is left: (R, k).

    Items with equal scores keep the order of their popularity. Items without a score follow, the most popular first. So
    a list without evidence is most-popular. Memory: `cells` scores at a time.
    """
    rows, items = asked.histories.shape
    lists = np.full((rows, k), NOTHING, np.int64)
    size = max(cells // max(items, 1), 1)
    for low in range(0, rows, size):
        part = asked.part(slice(low, low + size))
        lists[low : low + size, : min(k, items)] = _best(score(part), part.histories, min(k, items))
    return lists


def _best(scores: NDArray[np.float32], histories: sp.csr_array, k: int) -> NDArray[np.int64]:
    """Return the columns of the k best of each row: (B, N) scores, which it overwrites -> (B, k)."""
    taken = np.diff(histories.indptr)
    reach = min(k + int(taken.max(initial=0)), scores.shape[1])  # of so many items, k are left for every row
    fillers = (np.arange(reach, 0, -1) * FILLER).astype(np.float32)
    np.maximum(scores[:, :reach], fillers, out=scores[:, :reach])
    scores[np.repeat(np.arange(len(taken)), taken), histories.indices] = -np.inf
    found, columns = nearest(torch.from_numpy(scores), k)
    return torch.where(found.isinf(), NOTHING, columns).numpy()
