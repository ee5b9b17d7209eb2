"""Two corrupted views of every item, as bit masks over its values (Yao et al., CIKM 2021).

A transform hides whole features (stage 1), value dropout then drops single values of multi-valued features (stage 2).
Stage 1 works on a pair of (N, K) masks, one a view, True where the feature is kept; stage 2 and the bits on a pair of
(V,) masks, True where the value is kept. What is not kept becomes the feature's learned default vector in the tower.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .features import EncodedTable, Kind, ranges
from .neighbours import NONE

if TYPE_CHECKING:
    import polars as pl

_OTHER = "the views are of other items, or of items with other values"
Mask = NDArray[np.bool_]
Masks = tuple[Mask, Mask]  # view a, view b

BLOCK = 2**18  # items whose views are drawn from one stream
_SEEDS = 1  # the stream that draws the seed features, beside the even ones of each variant's blocks


def generator(seed: int, variant: int, block: int = 0) -> np.random.Generator:
    """Start the draws of one variant for one block of items: the same however many of both there are."""
    return np.random.default_rng([seed, variant, 2 * block])


def nothing_hidden(items: int, features: int) -> Masks:
    """Hide no feature, so that value dropout alone tells the views apart (`NoMasking` in the paper)."""
    return np.ones((items, features), bool), np.ones((items, features), bool)


def random_mask(rng: np.random.Generator, items: int, features: int, mask_rate: float) -> Masks:
    """Hide each feature of each item with this probability, in each view on its own (`RFM_no_compl`)."""
    return rng.random((items, features)) >= mask_rate, rng.random((items, features)) >= mask_rate


def complementary(rng: np.random.Generator, items: int, features: int) -> Masks:
    """Split each item's features at random: view a keeps floor(K / 2) of them, view b the rest (`RFM`)."""
    rank = rng.random((items, features)).argsort(axis=1).argsort(axis=1)
    keep_a = rank < features // 2
    return keep_a, ~keep_a


def correlated(
    similarity: NDArray[np.float64],  # (K, K), a column of the mutual information matrix
    seed_feature: int,  # the feature that the split is grown from
    items: int,
) -> Masks:
    """Hide the seed and the floor(K / 2) features most correlated with it in view a, all the others in view b (`CFM`).

    What a hidden feature says is hard to guess from what is left. Of two features as similar as each other the
    first goes with the seed. Raises ValueError when a similarity is not a number.
    """
    if not np.isfinite(similarity).all():
        raise ValueError("a similarity is not a finite number")
    k = len(similarity)
    nearest = np.argsort(-similarity[seed_feature], kind="stable")
    partners = nearest[nearest != seed_feature][: k // 2]
    keep_a = np.ones(k, bool)
    keep_a[[seed_feature, *partners]] = False
    return np.tile(keep_a, (items, 1)), np.tile(~keep_a, (items, 1))


def seed_feature(seed: int, variant: int, features: int) -> int:
    """Draw a variant's seed feature, 0 .. features - 1: every feature once before any comes again."""
    cycle, place = divmod(variant, features)
    return int(np.random.default_rng([seed, cycle, _SEEDS]).permutation(features)[place])


def by_coin(rng: np.random.Generator, items: int) -> Masks:
    """Keep one feature in exactly one of the two views, each item by its own coin: -> two (N, 1) masks."""
    keep_a = rng.random((items, 1)) < 0.5
    return keep_a, ~keep_a


def similarity_matrix(
    pairs: "pl.DataFrame",  # mutual_information.parquet
    features: Sequence[str],  # (K,)
    measure: str,  # its column: mi, mi_corrected or mi_normalised
) -> NDArray[np.float64]:
    """Give one measure as (K, K), in the order of the features. Raises ValueError when a pair is not there."""
    known = dict(zip(zip(pairs["feature_a"], pairs["feature_b"], strict=True), pairs[measure], strict=True))
    missing = [(a, b) for a in features for b in features if (a, b) not in known]
    if missing:
        raise ValueError(f"{len(missing)} pairs of features are not measured, first {missing[0]}")
    return np.array([[known[a, b] for b in features] for a in features], np.float64).reshape(len(features), -1)


def drop_values(
    rng: np.random.Generator,
    keep: Masks,  # (N, K) each, what stage 1 keeps of features
    table: EncodedTable,
    rate: float,
) -> Masks:
    """Stage 2: drop each value of a multi-valued feature with this probability, in each view on its own.

    -> (V,) each, True where the value is kept: by both stages. A feature may lose all its values.
    """
    lengths = np.diff(table.offsets.numpy())
    multi_valued = np.array([kind is Kind.MULTI_VALUED for kind in table.kinds])
    droppable = np.repeat(np.tile(multi_valued, table.rows), lengths)
    values_a, values_b = (np.repeat(features.ravel(), lengths) for features in keep)
    for values in (values_a, values_b):
        values[droppable] &= rng.random(int(droppable.sum())) >= rate
    return values_a, values_b


def pack(
    keep: Mask,  # (V,)
    offsets: Tensor,  # (N * K + 1,) int64
    features: int,
) -> "pl.Series":
    """Pack what is kept into one binary an item: -> (N,), bit j (least significant first) is the item's j-th value."""
    import polars as pl
    import pyarrow as pa

    positions, bytes_until = _layout(offsets.numpy(), features)
    bits = np.zeros(bytes_until[-1] * 8, bool)
    bits[positions] = keep
    data = np.packbits(bits, bitorder="little")
    buffers: list[Any] = [None, pa.py_buffer(bytes_until), pa.py_buffer(data)]
    column = pl.from_arrow(pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(bytes_until) - 1, buffers))
    assert isinstance(column, pl.Series), "an array is a series"
    return column


def unpack(
    views: "pl.DataFrame",  # views.parquet: variant, keep_a, keep_b, within a variant in the order of the table
    offsets: Tensor,  # (N * K + 1,) int64
    features: int,
) -> tuple[Tensor, Tensor]:
    """Give what views a and b keep, one row a variant: -> (variants, V) bool each.

    Raises ValueError when the masks are not of this table: other items, or other numbers of values.
    """
    positions, bytes_until = _layout(offsets.numpy(), features)
    variants = sorted(views["variant"].unique())
    keep = torch.empty((2, len(variants), len(positions)), dtype=torch.bool)
    for number, variant in enumerate(variants):
        rows = views.filter(views["variant"] == variant)
        for side, name in enumerate(("keep_a", "keep_b")):
            bits = np.unpackbits(_bytes(rows[name], np.diff(bytes_until)), bitorder="little")
            keep[side, number] = torch.from_numpy(bits[positions].view(bool))
    return keep[0], keep[1]


@dataclass(frozen=True)
class Packed:
    """Every view as stored, a bit a value: item n's bytes of variant v begin at `variants * starts[n] + v * its bytes`.

    V values in Y bytes; an item's first value is the lowest bit of its first byte.
    """

    keep_a: Tensor  # (variants * Y,) uint8
    keep_b: Tensor  # (variants * Y,) uint8
    starts: Tensor  # (N + 1,) int64, the bytes of all items before each one
    neighbours: Tensor  # (N * variants,) int32, the item's neighbour in each variant, -1 where it has none
    variants: int

    def neighbour(self, rows: Tensor, variants: Tensor) -> Tensor:
        """Look the neighbours of some items (M,) up, each in one variant (M,): -> (M,) int64."""
        return self.neighbours.index_select(0, rows * self.variants + variants).long()

    def kept(
        self,
        rows: Tensor,  # (M,) int64 items
        variants: Tensor,  # (M,) int64 of each
        lengths: Tensor,  # (M,) int64 values of each
    ) -> tuple[Tensor, Tensor]:  # (sum of lengths,) bool each: what view a keeps of each value, and what view b does
        """Look the values of some items up."""
        starts = self.starts.index_select(0, rows)
        sizes = self.starts.index_select(0, rows + 1) - starts
        place = ranges(8 * (self.variants * starts + variants * sizes), lengths)
        byte, bit = place >> 3, (place & 7).to(torch.uint8)
        kept_a, kept_b = (side.index_select(0, byte) >> bit & 1 for side in (self.keep_a, self.keep_b))
        return kept_a.bool(), kept_b.bool()


def packed(
    parts: "Iterable[pl.DataFrame]",  # views.parquet, in its order: variant, keep_a, keep_b, neighbour_index
    offsets: Tensor,  # (N * K + 1,) int64
    features: int,
    variants: int,
) -> Packed:
    """Take the stored views of a whole catalogue as they are.

    Raises ValueError when the masks are not of this table: other items, or other numbers of values.
    """
    bytes_until = _bytes_until(offsets.numpy(), features)
    sizes = np.diff(bytes_until)
    keep = [np.empty(variants * bytes_until[-1], np.uint8) for _ in range(2)]
    neighbours = np.empty(variants * len(sizes), np.int32)
    row = at = 0
    for part in parts:
        item, variant = np.divmod(np.arange(row, row + len(part)), max(variants, 1))
        if row + len(part) > variants * len(sizes) or not np.array_equal(variant, part["variant"].to_numpy()):
            raise ValueError(_OTHER)
        own = sizes[item]
        end = at + int(own.sum())
        for column, side in zip(("keep_a", "keep_b"), keep, strict=True):
            side[at:end] = _bytes(part[column], own)
        neighbours[row : row + len(part)] = part["neighbour_index"].fill_null(NONE)
        row, at = row + len(part), end
    if row != variants * len(sizes):
        raise ValueError(_OTHER)
    keep_a, keep_b, starts, beside = (torch.from_numpy(array) for array in (*keep, bytes_until, neighbours))
    return Packed(keep_a, keep_b, starts, beside, variants)


def _layout(offsets: NDArray[np.int64], features: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give every value's place among all bits (V,), and the bytes of all items before each one (N + 1,)."""
    starts = offsets[::features] if features else np.zeros(1, np.int64)
    bytes_until = _bytes_until(offsets, features)
    padding = bytes_until[:-1] * 8 - starts[:-1]  # every item begins at a byte
    return np.arange(offsets[-1]) + np.repeat(padding, np.diff(starts)), bytes_until


def _bytes_until(offsets: NDArray[np.int64], features: int) -> NDArray[np.int64]:
    """Give the bytes of all items before each one (N + 1,)."""
    starts = offsets[::features] if features else np.zeros(1, np.int64)
    return np.concatenate([[0], np.cumsum((np.diff(starts) + 7) // 8)])


def _bytes(column: "pl.Series", sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Give a binary column's bytes, one row's after the other's, each of the size expected."""
    import polars as pl

    array = column.to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    if array.null_count or not np.array_equal(np.diff(bounds), sizes):
        raise ValueError(_OTHER)
    return np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]] if data is not None else np.zeros(0, np.uint8)
