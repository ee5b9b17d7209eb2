"""Features as a device sees them: one ragged array of codes for a whole table, cut into (row, feature) bags.

Codes are local to a vocabulary: 0 is the default (hidden by a view, missing, or an item with no id vector yet), 1 an
unknown value (of a dense feature: present), 2.. the vocabulary's values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .tensors import with_each

if TYPE_CHECKING:
    import polars as pl

CODE = "__code"  # what the name of a column of codes ends with
DEFAULT, UNKNOWN, FIRST = 0, 1, 2
PRESENT = UNKNOWN  # a dense feature has no vocabulary: its code only says whether the vector is there


class Kind(StrEnum):
    """What a column is."""

    ID = "id"
    CATEGORICAL = "categorical"
    MULTI_VALUED = "multi-valued"
    NUMERIC = "numeric"
    DENSE = "dense"


@dataclass(frozen=True)
class EncodedTable:
    """N rows, K features, V values in all; bag (n, k) is `codes[offsets[n * K + k] : offsets[n * K + k + 1]]`.

    No bag is empty: a missing value is one code 0. The j-th value of row n, the one that bit j of a view's mask is
    about, is `codes[offsets[n * K] + j]`.
    """

    names: tuple[str, ...]  # (K,), the id first where there is one
    kinds: tuple[Kind, ...]  # (K,)
    vocabularies: tuple[str, ...]  # (K,), features that share one share its embedding table
    codes: Tensor  # (V,) int32
    offsets: Tensor  # (N * K + 1,) int64
    dense: dict[str, Tensor]  # per dense feature (N, W) float32, zeros where missing

    @property
    def rows(self) -> int:
        """N."""
        return (len(self.offsets) - 1) // max(len(self.names), 1)

    def to(self, device: torch.device) -> "EncodedTable":
        """Move every tensor to a device."""
        return with_each(self, lambda tensor: tensor.to(device))


@dataclass(frozen=True)
class Bags:
    """The (row, feature) bags of B rows, R values in all."""

    codes: Tensor  # (R,) int64, local to each feature's vocabulary
    lengths: Tensor  # (B * K,) int64, at least 1
    dense: dict[str, Tensor]  # per dense feature (B, W)

    @property
    def starts(self) -> Tensor:
        """Where each bag begins among the codes: (B * K,) int64."""
        return torch.cumsum(self.lengths, 0) - self.lengths


def encoded_table(frame: "pl.DataFrame", features: "pl.DataFrame") -> EncodedTable:
    """Collect the columns of codes (NAME + CODE) of a table, with the rows of features.parquet that describe them."""
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
    """Cut the rows low .. high - 1 out of a table, without copying their codes."""
    k = len(table.names)
    offsets = table.offsets[low * k : high * k + 1]
    codes = table.codes[offsets[0] : offsets[-1]]
    dense = {name: vectors[low:high] for name, vectors in table.dense.items()}
    return EncodedTable(table.names, table.kinds, table.vocabularies, codes, offsets - offsets[0], dense)


def bags_of(table: EncodedTable, rows: Tensor) -> Bags:
    """Gather the bags of the given rows (B,) int64; a row may be given twice."""
    k = len(table.names)
    bag = (rows[:, None] * k + torch.arange(k + 1, device=rows.device)).reshape(-1)
    bounds = table.offsets.index_select(0, bag).view(-1, k + 1)  # index_select gathers several times faster than [ ]
    values = ranges(bounds[:, 0], bounds[:, -1] - bounds[:, 0])
    dense = {name: vectors.index_select(0, rows) for name, vectors in table.dense.items()}
    return Bags(table.codes.index_select(0, values).long(), bounds.diff(dim=1).reshape(-1), dense)


def join(parts: Sequence[Bags]) -> Bags:
    """Put the bags of several sets of rows of one table one after the other."""
    dense = {name: torch.cat([part.dense[name] for part in parts]) for name in parts[0].dense}
    codes, lengths = (torch.cat([getattr(part, of) for part in parts]) for of in ("codes", "lengths"))
    return Bags(codes, lengths, dense)


def select(bags: Bags, features: int, places: Sequence[int | None]) -> Bags:
    """Take some of K features in another order, (B * K,) bags to (B * len(places),); None is missing everywhere."""
    codes = torch.cat([bags.codes, bags.codes.new_full((1,), DEFAULT)])
    missing = len(bags.codes)
    starts, lengths = bags.starts.view(-1, features), bags.lengths.view(-1, features)
    picked = torch.tensor([features if place is None else place for place in places])
    starts = torch.cat([starts, starts.new_full((len(starts), 1), missing)], 1)[:, picked].reshape(-1)
    lengths = torch.cat([lengths, lengths.new_ones(len(lengths), 1)], 1)[:, picked].reshape(-1)
    return Bags(codes[ranges(starts, lengths)], lengths, bags.dense)


def hide(bags: Bags, keep: Tensor) -> Bags:
    """Drop the values that a view does not keep, keep is (R,) bool; a bag that loses all of them holds the default."""
    starts = bags.starts
    so_far = torch.cumsum(keep, 0)
    kept = so_far.index_select(0, starts + bags.lengths - 1).diff(prepend=so_far.new_zeros(1))
    emptied = (kept == 0).nonzero()[:, 0]
    stays = keep.index_fill(0, starts.index_select(0, emptied), True)  # the first value, as the default
    found = Bags(bags.codes.index_select(0, stays.nonzero()[:, 0]), kept.clamp_(min=1), bags.dense)
    found.codes.index_fill_(0, found.starts.index_select(0, emptied), DEFAULT)
    return found


def ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """Concatenate start .. start + length - 1 of every row: (B,), (B,) -> (sum of lengths,)."""
    ends = torch.cumsum(lengths, 0)
    shift = torch.repeat_interleave(starts - ends + lengths, lengths)
    return shift + torch.arange(len(shift), device=starts.device)


def _ragged(column: "pl.Series", kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """Give a codes column as (values, lengths); an empty or null list is one default code."""
    import polars as pl

    if kind is not Kind.MULTI_VALUED:
        codes = column.cast(pl.Int32).fill_null(DEFAULT).to_numpy()
        return codes, np.ones(len(codes), np.int64)
    lengths = column.list.len().fill_null(0).to_numpy().astype(np.int64)
    values = column.explode(empty_as_null=True).fill_null(DEFAULT).cast(pl.Int32).to_numpy()
    return values, np.maximum(lengths, 1)


def _dense(column: "pl.Series", width: int) -> np.ndarray:
    """Give a dense column as (N, W) float32, zeros where it is missing."""
    import polars as pl

    array = column.cast(pl.Array(pl.Float32, width))
    vectors = np.zeros((len(array), width), np.float32)
    present = array.is_not_null().to_numpy()
    if present.any():
        vectors[present] = array.drop_nulls().to_numpy()
        vectors[~np.isfinite(vectors).all(1)] = 0.0  # declared missing, its code says so
    return vectors
