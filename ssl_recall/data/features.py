"""Encoded features: one ragged array of codes for a whole table, cut into (row, feature) bags.

Codes are local to a vocabulary: 0 is the default (hidden by a view, missing, or an id without a vector), 1 an unknown
value (of a dense feature: present), 2.. the vocabulary's values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ssl_recall.kernels.ragged import concatenated_ranges
from ssl_recall.kernels.tensors import with_each

from .codes import CODE, DEFAULT, Kind

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class EncodedTable:
    """N rows, K features, V values in all; bag (n, k) is `codes[offsets[n * K + k] : offsets[n * K + k + 1]]`.

    No bag is empty: a missing value is one code 0. Bit j of a view's mask is for the j-th value of row n,
    `codes[offsets[n * K] + j]`.
    """

    names: tuple[str, ...]  # (K,), the id first if there is one
    kinds: tuple[Kind, ...]  # (K,)
    vocabularies: tuple[str, ...]  # (K,), features of one vocabulary share its embeddings
    codes: Tensor  # (V,) int32
    offsets: Tensor  # (N * K + 1,) int64
    dense: dict[str, Tensor]  # dense feature -> (N, W) float32, zeros where missing

    @property
    def rows(self) -> int:
        """Return N."""
        return (len(self.offsets) - 1) // max(len(self.names), 1)

    def to(self, device: torch.device) -> "EncodedTable":
        """Move every tensor to a device."""
        return with_each(self, lambda tensor: tensor.to(device))


@dataclass(frozen=True)
class Bags:
    """The (row, feature) bags of B rows, R values in all."""

    codes: Tensor  # (R,) int64, local to each feature's vocabulary
    lengths: Tensor  # (B * K,) int64, at least 1
    dense: dict[str, Tensor]  # dense feature -> (B, W)

    @property
    def starts(self) -> Tensor:
        """Return where each bag begins among the codes: (B * K,) int64."""
        return torch.cumsum(self.lengths, 0) - self.lengths


def encoded_table(frame: "pl.DataFrame", features: "pl.DataFrame") -> EncodedTable:
    """Encode a frame with columns of codes (NAME + CODE); `features` has the rows of features.parquet for them."""
    names, kinds = tuple(features["feature"]), tuple(Kind(kind) for kind in features["kind"])
    per_feature = [_ragged(frame[name + CODE], kind) for name, kind in zip(names, kinds, strict=True)]
    n, k = frame.height, len(names)
    lengths = np.stack([length for _, length in per_feature], axis=1) if k else np.zeros((n, 0), np.int64)
    offsets = np.zeros(n * k + 1, np.int64)
    np.cumsum(lengths.ravel(), out=offsets[1:])
    codes = np.empty(offsets[-1], np.int32)
    for number, (values, length) in enumerate(per_feature):
        starts = offsets[:-1].reshape(n, k)[:, number]
        within = np.arange(len(values)) - np.repeat(np.cumsum(length) - length, length)
        codes[np.repeat(starts, length) + within] = values
    dense = {
        name: torch.from_numpy(_dense(frame[name], width))
        for name, kind, width in zip(names, kinds, features["width"], strict=True)
        if kind is Kind.DENSE
    }
    return EncodedTable(
        names, kinds, tuple(features["vocabulary"]), torch.from_numpy(codes), torch.from_numpy(offsets), dense
    )


def rows_of(table: EncodedTable, low: int, high: int) -> EncodedTable:
    """Return the rows low .. high - 1 of a table, without copying their codes."""
    k = len(table.names)
    offsets = table.offsets[low * k : high * k + 1]
    codes = table.codes[offsets[0] : offsets[-1]]
    dense = {name: vectors[low:high] for name, vectors in table.dense.items()}
    return EncodedTable(table.names, table.kinds, table.vocabularies, codes, offsets - offsets[0], dense)


def bags_of(table: EncodedTable, rows: Tensor) -> Bags:
    """Gather the bags of the given rows (B,) int64; a row may repeat."""
    k = len(table.names)
    bag = (rows[:, None] * k + torch.arange(k + 1, device=rows.device)).reshape(-1)
    bounds = table.offsets.index_select(0, bag).view(-1, k + 1)  # index_select gathers several times faster than [ ]
    values = concatenated_ranges(bounds[:, 0], bounds[:, -1] - bounds[:, 0])
    dense = {name: vectors.index_select(0, rows) for name, vectors in table.dense.items()}
    return Bags(table.codes.index_select(0, values).long(), bounds.diff(dim=1).reshape(-1), dense)


def join(parts: Sequence[Bags]) -> Bags:
    """Concatenate the bags of several sets of rows of one table."""
    dense = {name: torch.cat([part.dense[name] for part in parts]) for name in parts[0].dense}
    codes, lengths = (torch.cat([getattr(part, of) for part in parts]) for of in ("codes", "lengths"))
    return Bags(codes, lengths, dense)


def select(bags: Bags, features: int, places: Sequence[int | None]) -> Bags:
    """Select some of K features, in any order: (B * K,) bags -> (B * len(places),); None is missing in every row."""
    codes = torch.cat([bags.codes, bags.codes.new_full((1,), DEFAULT)])
    missing = len(bags.codes)
    starts, lengths = bags.starts.view(-1, features), bags.lengths.view(-1, features)
    picked = torch.tensor([features if place is None else place for place in places])
    starts = torch.cat([starts, starts.new_full((len(starts), 1), missing)], 1)[:, picked].reshape(-1)
    lengths = torch.cat([lengths, lengths.new_ones(len(lengths), 1)], 1)[:, picked].reshape(-1)
    return Bags(codes[concatenated_ranges(starts, lengths)], lengths, bags.dense)


def hide(bags: Bags, keep: Tensor) -> Bags:
    """Drop the values that a view does not keep, `keep` (R,) bool; a bag without values gets the default code."""
    starts = bags.starts
    so_far = torch.cumsum(keep, 0)
    kept = so_far.index_select(0, starts + bags.lengths - 1).diff(prepend=so_far.new_zeros(1))
    emptied = (kept == 0).nonzero()[:, 0]
    stays = keep.index_fill(0, starts.index_select(0, emptied), True)  # the first value, replaced by the default below
    found = Bags(bags.codes.index_select(0, stays.nonzero()[:, 0]), kept.clamp_(min=1), bags.dense)
    found.codes.index_fill_(0, found.starts.index_select(0, emptied), DEFAULT)
    return found


def _ragged(column: "pl.Series", kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """Return a column of codes as (values, lengths); an empty or null list is one default code."""
    import polars as pl

    if kind is not Kind.MULTI_VALUED:
        codes = column.cast(pl.Int32).fill_null(DEFAULT).to_numpy()
        return codes, np.ones(len(codes), np.int64)
    lengths = column.list.len().fill_null(0).to_numpy().astype(np.int64)
    values = column.explode(empty_as_null=True).fill_null(DEFAULT).cast(pl.Int32).to_numpy()
    return values, np.maximum(lengths, 1)


def _dense(column: "pl.Series", width: int) -> np.ndarray:
    """Return a dense column as (N, W) float32, zeros where it is missing."""
    import polars as pl

    array = column.cast(pl.Array(pl.Float32, width))
    vectors = np.zeros((len(array), width), np.float32)
    present = array.is_not_null().to_numpy()
    if present.any():
        vectors[present] = array.drop_nulls().to_numpy()
        vectors[~np.isfinite(vectors).all(1)] = 0.0  # declared missing; its code is the default
    return vectors


def hide_ids(bags: Bags, table: EncodedTable, rows: Tensor) -> Bags:
    """Hide the ids of the rows marked in `rows` (B,) bool; the default id vector then learns to represent new items."""
    if Kind.ID not in table.kinds:
        return bags
    ids = bags.starts.view(-1, len(table.names))[:, table.kinds.index(Kind.ID)]
    return replace(bags, codes=bags.codes.index_fill(0, ids[rows], DEFAULT))


def nothing_known(table: EncodedTable, rows: int) -> Bags:
    """Return `rows` rows for a table, every feature missing."""
    codes = torch.full((rows * len(table.names),), DEFAULT, dtype=torch.int64, device=table.codes.device)
    dense = {name: vectors.new_zeros(rows, vectors.shape[1]) for name, vectors in table.dense.items()}
    return Bags(codes, torch.ones_like(codes), dense)


def drop_features(bags: Bags, table: EncodedTable, rate: float, source: torch.Generator) -> Bags:
    """Hide each feature of each row except ids with probability `rate` (`FD` of Yao et al., CIKM 2021)."""
    keep = torch.rand(len(bags.lengths) // len(table.names), len(table.names), generator=source) >= rate
    keep[:, [kind is Kind.ID for kind in table.kinds]] = True
    return hide(bags, torch.repeat_interleave(keep.view(-1), bags.lengths))
