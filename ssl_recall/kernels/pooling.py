"""Mean pooling of table rows into bags; the gradient costs as much as the bags, whatever the table's size."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .ragged import concatenated_ranges

# A GPU sums each bag with one warp, value after value. For a row in ten thousand bags (say, that of a missing value),
# summing pieces and then their sums takes a thirtieth of the time. A processor is faster without pieces.
PIECES = {"cuda": 64}  # bags per piece
BITS = 31  # bits of a bag in a 63-bit key (row, bag): up to 2^31 bags per step and 2^32 rows per table


@dataclass(frozen=True)
class Pooling:
    """The rows that each of G bags averages, and the bags that each of U distinct rows is in; R values in all."""

    rows: Tensor  # (R,) int64 table row of each value, sorted by bag
    starts: Tensor  # (G,) int64 where each bag begins
    shares: Tensor  # (G,) float32, weight of each value of a bag: 1 / the bag's length
    touched: Tensor  # (U,) int64 the distinct rows, ascending
    bags: Tensor  # (R,) int64 bag of each value, sorted by row
    bounds: Tensor  # (U,) int64 where each touched row begins in `bags`; with pieces (P,), where each piece begins
    pieces: Tensor | None  # (U,) int64 where each touched row's pieces begin; None without pieces


def pooling(codes: Tensor, lengths: Tensor, first_rows: Tensor, piece: int | None = None) -> Pooling:
    """Sort the values of G bags by their table row, in main memory.

    Bag g has `lengths[g]` (G,) of the codes (R,); `first_rows[g]` (G,) is the table row of its vocabulary's code 0.
    `piece` is the device's entry of PIECES, None if it has none.
    """
    bag = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    rows = codes + first_rows.index_select(0, bag)
    # numpy sorts packed (row, bag) keys; torch's sort, which also returns the order, takes four times as long
    both = torch.from_numpy(np.sort((rows << BITS | bag).numpy()))
    touched, counts = torch.unique_consecutive(both >> BITS, return_counts=True)
    begins, bounds = (torch.cumsum(many, 0) - many for many in (lengths, counts))
    pieces = None
    if piece is not None:
        many = (counts + piece - 1) // piece
        pieces = torch.cumsum(many, 0) - many
        bounds = torch.repeat_interleave(bounds, many) + piece * concatenated_ranges(torch.zeros_like(many), many)
    return Pooling(rows, begins, lengths.float().reciprocal_(), touched, both & (1 << BITS) - 1, bounds, pieces)


def pool(table: Tensor, how: Pooling) -> Tensor:
    """Average the rows of each bag: (V, E) -> (G, E). The table's gradient is sparse: the touched rows, coalesced."""
    return _Pool.apply(table, *vars(how).values())  # type: ignore[no-untyped-call,no-any-return]


def pool_all(rows: Tensor, how: Pooling) -> Tensor:
    """Average the rows of each bag: (L, E) -> (G, E). The gradient is dense: each of the L rows is in a bag."""
    return _PoolAll.apply(rows, *vars(how).values())  # type: ignore[no-untyped-call,no-any-return]


class _Pool(torch.autograd.Function):
    """Mean pooling with its gradient, a pooling too: each row sums the gradients of the bags that contain it."""

    @staticmethod
    def forward(ctx, table, rows, starts, shares, touched, bags, bounds, pieces):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(shares, touched, bags, bounds, pieces)
        ctx.shape = table.shape
        return F.embedding_bag(rows, table, starts, mode="mean")

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        touched, values = _touched(ctx, gradient)  # type: ignore[no-untyped-call]
        sparse = torch.sparse_coo_tensor(touched[None], values, ctx.shape, is_coalesced=True, check_invariants=False)
        return sparse, None, None, None, None, None, None, None


class _PoolAll(_Pool):
    """Mean pooling of rows that are all in a bag."""

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        touched, values = _touched(ctx, gradient)  # type: ignore[no-untyped-call]
        assert len(touched) == ctx.shape[0], "each row is in a bag"
        return values, None, None, None, None, None, None, None


def _touched(ctx, gradient):  # type: ignore[no-untyped-def]
    """Return the rows that are in a bag, and their gradients: each sums those of its bags."""
    shares, touched, bags, bounds, pieces = ctx.saved_tensors
    values = F.embedding_bag(bags, gradient * shares[:, None], bounds, mode="sum")
    if pieces is not None:
        values = F.embedding_bag(torch.arange(len(values), device=values.device), values, pieces, mode="sum")
    return touched, values
