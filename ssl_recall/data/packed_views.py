"""Stored views, one bit per value: the format of views.parquet, and its lookup in training."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_recall.kernels.ragged import concatenated_ranges

if TYPE_CHECKING:
    import polars as pl

NO_NEIGHBOUR = -1

_OTHER = "the views are of other items, or of items with other values"
Mask = NDArray[np.bool_]


def pack_mask(
    keep: Mask,  # (V,)
    offsets: Tensor,  # (N * K + 1,) int64
    features: int,
) -> "pl.Series":
    """Pack a mask into one binary per item: -> (N,); bit j (least significant first) is for the item's j-th value."""
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


def unpack_masks(
    views: "pl.DataFrame",  # views.parquet: variant, keep_a, keep_b; within a variant in the order of the table
    offsets: Tensor,  # (N * K + 1,) int64
    features: int,
) -> tuple[Tensor, Tensor]:
    """Unpack the masks of views a and b, one row per variant: -> (variants, V) bool each.

    Raises ValueError if the masks are of another table: other items, or other numbers of values.
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
class PackedViews:
    """All stored views, one bit per value; item n has b bytes per variant.

    Its bytes of variant v begin at `variants * starts[n] + v * b`. The V values of one variant take Y bytes. An item's
    first value is the lowest bit of its first byte.
    """

    keep_a: Tensor  # (variants * Y,) uint8
    keep_b: Tensor  # (variants * Y,) uint8
    starts: Tensor  # (N + 1,) int64, bytes per variant of all items before each item
    neighbours: Tensor  # (N * variants,) int32, each item's neighbour in each variant, -1 for none
    variants: int

    def neighbour(self, rows: Tensor, variants: Tensor) -> Tensor:
        """Look up the neighbours of items (M,), each in one variant (M,): -> (M,) int64."""
        return self.neighbours.index_select(0, rows * self.variants + variants).long()

    def kept(
        self,
        rows: Tensor,  # (M,) int64 items
        variants: Tensor,  # (M,) int64, one per item
        lengths: Tensor,  # (M,) int64, number of values of each item
    ) -> tuple[Tensor, Tensor]:  # (sum of lengths,) bool each: whether view a, and view b, keeps a value
        """Look up which values of the items each view keeps."""
        starts = self.starts.index_select(0, rows)
        sizes = self.starts.index_select(0, rows + 1) - starts
        place = concatenated_ranges(8 * (self.variants * starts + variants * sizes), lengths)
        byte, bit = place >> 3, (place & 7).to(torch.uint8)
        kept_a, kept_b = (side.index_select(0, byte) >> bit & 1 for side in (self.keep_a, self.keep_b))
        return kept_a.bool(), kept_b.bool()


def pack_views(
    parts: "Iterable[pl.DataFrame]",  # views.parquet in its order: variant, keep_a, keep_b, neighbour_index
    offsets: Tensor,  # (N * K + 1,) int64
    features: int,
    variants: int,
) -> PackedViews:
    """Load the stored views of a whole catalogue, still packed.

    Raises ValueError if the masks are of another table: other items, or other numbers of values.
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
        neighbours[row : row + len(part)] = part["neighbour_index"].fill_null(NO_NEIGHBOUR)
        row, at = row + len(part), end
    if row != variants * len(sizes):
        raise ValueError(_OTHER)
    keep_a, keep_b, starts, beside = (torch.from_numpy(array) for array in (*keep, bytes_until, neighbours))
    return PackedViews(keep_a, keep_b, starts, beside, variants)


def _layout(offsets: NDArray[np.int64], features: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the bit position of every value (V,), and the bytes of all items before each item (N + 1,)."""
    starts = offsets[::features] if features else np.zeros(1, np.int64)
    bytes_until = _bytes_until(offsets, features)
    padding = bytes_until[:-1] * 8 - starts[:-1]  # every item begins at a byte
    return np.arange(offsets[-1]) + np.repeat(padding, np.diff(starts)), bytes_until


def _bytes_until(offsets: NDArray[np.int64], features: int) -> NDArray[np.int64]:
    """Return the bytes of all items before each item (N + 1,)."""
    starts = offsets[::features] if features else np.zeros(1, np.int64)
    return np.concatenate([[0], np.cumsum((np.diff(starts) + 7) // 8)])


def _bytes(column: "pl.Series", sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the bytes of a binary column, row after row. Raises ValueError if a row has another size."""
    import polars as pl

    array = column.to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    if array.null_count or not np.array_equal(np.diff(bounds), sizes):
        raise ValueError(_OTHER)
    return np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]] if data is not None else np.zeros(0, np.uint8)
