"""Content kNN: items with the same rare feature values are neighbours, by TF-IDF and cosine.

    vector of an item = its values, each weighted with log(N / items with the value), scaled to length 1
    query = sum of the vectors of its history + the vector of its own values, if it shares vocabularies with the items
    score(query, j) = dot product of the query and the vector of item j

It learns from no interaction, so it also scores cold items.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_recall.data.codes import FIRST, Kind
from ssl_recall.data.features import EncodedTable

from .ranking import Asked, marked

KINDS = (Kind.CATEGORICAL, Kind.MULTI_VALUED)
DENSE = 64  # the most common values; a dense product is faster for them


@dataclass(frozen=True)
class ContentKnn:
    """The vectors of all items and queries over V values, the most common values first."""

    items: sp.csr_array  # (N, V) float32, unit rows in the order of popularity
    queries: sp.csr_array | None  # (Q, V), None if queries share no vocabulary with the items
    common: Tensor  # (N, min(V, DENSE)), the first columns of `items`
    rare: sp.csr_array  # (V - DENSE, N), the other columns, transposed

    def vectors(self, asked: Asked) -> sp.csr_array:
        """Return the (R, V) vectors of the lists' queries."""
        own = asked.histories @ self.items
        return own if self.queries is None else own + self.queries[asked.queries]

    def __call__(self, asked: Asked) -> NDArray[np.float32]:
        """Multiply the vectors of the lists with those of all items: (R, N) scores."""
        vectors, width = self.vectors(asked), self.common.shape[1]
        scores: NDArray[np.float32] = (vectors[:, width:] @ self.rare).toarray()
        torch.from_numpy(scores).addmm_(torch.from_numpy(vectors[:, :width].toarray()), self.common.T)
        return scores


def fit(
    items: EncodedTable,
    queries: EncodedTable,
    codes: Mapping[str, int],  # vocabulary -> number of its codes
    order: NDArray[np.int64],  # (N,) the item of each column
    dense: int = DENSE,
) -> ContentKnn:
    """Weigh the categorical and multi-valued features of the items, and the same values of the queries."""
    shared = {name: codes[name] for name in dict.fromkeys(_vocabularies(items))}
    values = value_matrix(items, shared)[order]
    holders = np.bincount(values.indices, minlength=values.shape[1])
    weights = np.where(holders > 0, np.log(len(order) / np.maximum(holders, 1)), 0).astype(np.float32)
    by_holders = np.argsort(-holders, kind="stable")
    vectors = _unit(values, weights)[:, by_holders]
    own = None
    if shared.keys() & set(_vocabularies(queries)):
        own = _unit(value_matrix(queries, shared), weights)[:, by_holders]
    common = torch.from_numpy(vectors[:, :dense].toarray())
    return ContentKnn(vectors, own, common, vectors[:, dense:].T.tocsr())


def value_matrix(table: EncodedTable, codes: Mapping[str, int]) -> sp.csr_array:
    """Mark the values of each row, one block of columns for each vocabulary in `codes`: (N, sum of codes) float32.

    Ids, numbers and vectors, unknown and missing values are left out.
    """
    first = dict(zip(codes, np.cumsum([0, *codes.values()]).tolist(), strict=False))
    starts = np.full(len(table.names), -1)
    for place, (name, kind) in enumerate(zip(table.vocabularies, table.kinds, strict=True)):
        if kind in KINDS and name in first:
            starts[place] = first[name]
    lengths = np.diff(table.offsets.numpy())
    rows, features = np.divmod(np.repeat(np.arange(len(lengths)), lengths), max(len(table.names), 1))
    values = table.codes.numpy()
    kept = (values >= FIRST) & (starts[features] >= 0)
    columns = starts[features[kept]] + values[kept]
    ones = np.ones(len(columns), np.float32)
    shape = (table.rows, sum(codes.values()))
    return marked(sp.coo_array((ones, (rows[kept], columns)), shape=shape).tocsr())  # two features may hold one value


def products(model: ContentKnn, asked: Asked) -> float:
    """Estimate the work of the lists' scores from above: the items that share each value, summed over the values."""
    holders = np.bincount(model.rare.tocsc().indices, minlength=model.rare.shape[0]).astype(np.float32)
    width = model.common.shape[1]
    per_item = _marks(model.items[:, width:]) @ holders
    total = float((asked.histories @ per_item).sum())
    if model.queries is not None:
        total += float((_marks(model.queries[:, width:]) @ holders)[asked.queries].sum())
    return total


def _marks(matrix: sp.csr_array) -> sp.csr_array:
    return sp.csr_array((np.ones_like(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape)


def _vocabularies(table: EncodedTable) -> list[str]:
    return [name for name, kind in zip(table.vocabularies, table.kinds, strict=True) if kind in KINDS]


def _unit(values: sp.csr_array, weights: NDArray[np.float32]) -> sp.csr_array:
    """Weigh the columns and scale the rows to length 1; a row without values stays 0."""
    weighted = sp.csr_array(values * weights[None, :])
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1)).ravel())
    scale = np.where(lengths > 0, 1 / np.maximum(lengths, 1e-12), 0).astype(np.float32)
    weighted.data *= np.repeat(scale, np.diff(weighted.indptr))
    return weighted
