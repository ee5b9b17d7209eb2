"""Mean pooling of a table's rows into bags, with a gradient that costs what the bags hold, not what the table does."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .features import ranges

# A GPU sums a bag with one of its warps, value after value: of a row that is part of ten thousand bags, say a missing
# value's, the sum of pieces' sums takes a thirtieth of the time. A processor is faster without.
PIECES = {"cuda": 64}  # bags of a row that are summed at a time
BITS = 31  # of the number of a bag, in a word of 63 that begins with the row: 2^31 bags a step, a table of 2^32 rows


@dataclass(frozen=True)
class Pooling:
    """Which rows each of G bags averages, and which bags each of U rows is part of; whole numbers, R values in all."""

    rows: Tensor  # (R,) int64 row of the table, bag after bag
    starts: Tensor  # (G,) int64 where each bag begins
    shares: Tensor  # (G,) float32, of each value in its bag: 1 / how many it holds
    touched: Tensor  # (U,) int64 the distinct rows, ascending
    bags: Tensor  # (R,) int64 bag of each value, row after row
    bounds: Tensor  # (U,) int64 where each touched row begins among `bags`; or (P,), each piece of one
    pieces: Tensor | None  # (U,) int64 where each touched row begins among the pieces, where rows are cut into such


def pooling(codes: Tensor, lengths: Tensor, first_rows: Tensor, piece: int | None = None) -> Pooling:
    """Order the values of G bags by their row of the table, too; in main memory.

    A bag holds `lengths` (G,) of the codes (R,), which count from its vocabulary's first row of the table (G,). `piece`
    is of PIECES, None for a device that is not there.
    """
    bag = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    rows = codes + first_rows.index_select(0, bag)
    # one sort of both numbers in one; torch's, which gives the order as well, takes four times as long
    both = torch.from_numpy(np.sort((rows << BITS | bag).numpy()))
    touched, counts = torch.unique_consecutive(both >> BITS, return_counts=True)
    begins, bounds = (torch.cumsum(many, 0) - many for many in (lengths, counts))
    pieces = None
    if piece is not None:
        many = (counts + piece - 1) // piece
        pieces = torch.cumsum(many, 0) - many
        bounds = torch.repeat_interleave(bounds, many) + piece * ranges(torch.zeros_like(many), many)
    return Pooling(rows, begins, lengths.float().reciprocal_(), touched, both & (1 << BITS) - 1, bounds, pieces)


def pool(table: Tensor, how: Pooling) -> Tensor:
    """Average the rows of each bag: (V, E) -> (G, E). The table's gradient is sparse: the touched rows, coalesced."""
    return _Pool.apply(table, *vars(how).values())  # type: ignore[no-untyped-call,no-any-return]


class _Pool(torch.autograd.Function):
    """The gradient of a sum of bags is itself one: each row sums the gradients of the bags that hold it."""

    @staticmethod
    def forward(ctx, table, rows, starts, shares, touched, bags, bounds, pieces):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(shares, touched, bags, bounds, pieces)
        ctx.shape = table.shape
        return F.embedding_bag(rows, table, starts, mode="mean")

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        shares, touched, bags, bounds, pieces = ctx.saved_tensors
        values = F.embedding_bag(bags, gradient * shares[:, None], bounds, mode="sum")
        if pieces is not None:
            values = F.embedding_bag(torch.arange(len(values), device=values.device), values, pieces, mode="sum")
        sparse = torch.sparse_coo_tensor(touched[None], values, ctx.shape, is_coalesced=True, check_invariants=False)
        return sparse, None, None, None, None, None, None, None
