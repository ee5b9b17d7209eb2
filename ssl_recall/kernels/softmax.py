"""The masked softmax of both losses, one block of rows at a time, without a B x C matrix.

The gradient of a mean of cross-entropies is `softmax - one-hot`. So each block adds its share of the loss and of both
gradients and is then discarded: memory is one block, whatever the batch. A candidate that a step has several times is
one column, weighted by its count.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# logits at a time. A processor takes 8 MiB, the fastest of 4 to 64 MiB: more overflows the caches, less repeats
# set-ups. A GPU takes a whole batch, up to 512 MiB.
BLOCKS = {"cpu": 2**21, "cuda": 2**27}
TILE = 64  # twice the largest tile, the block of rows or columns that a matrix product takes at once


@dataclass(frozen=True)
class Pairs:
    """Cells of a B x C matrix, ascending by row; the cells of rows a .. b - 1 are `[bounds[a], bounds[b])`."""

    rows: Tensor  # (H,) int64
    columns: Tensor  # (H,) int64
    bounds: list[int]  # (B + 1,), on the host, so that cutting a block does not wait for the device


@contextlib.contextmanager
def rounded(*, bf16: bool) -> Iterator[None]:
    """Round the inputs of float32 products to bf16 until the block ends; sums and results stay float32.

    Autocast does this for the towers; the softmax needs float32 logits. Only processors with AMX, and GPUs (to TF32),
    round; others compute as before. With False nothing changes.
    """
    was = torch.get_float32_matmul_precision()
    if bf16:
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(was)


def softmax_loss(
    queries: Tensor,  # (B, D) unit rows
    candidates: Tensor,  # (C, D) unit rows
    own: Tensor,  # (B,) int64 column of each row's positive
    bias: Tensor | None,  # (C,) added to each column's logits: log of its count - log q
    own_bias: Tensor | None,  # (B,) the same for each row's positive, which counts once; None if `bias` is None
    masked: Pairs,  # cells that are no negatives; may include a row's positive, which remains its positive
    temperature: float,
    block: int | None = None,  # logits at a time; None: the device's entry of BLOCKS
) -> Tensor:  # () mean over the rows, nats
    """Mean cross-entropy of `cosine / temperature + bias`; a masked cell has probability exactly 0.

    Raises ValueError for a temperature that is not a positive number.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be a positive number, is {temperature}")
    if queries.dtype != torch.float64:  # bf16 would round log q away
        queries, candidates = queries.float(), candidates.float()
    biases = (None if x is None else x.to(queries.dtype) for x in (bias, own_bias))
    block = block or BLOCKS.get(queries.device.type, BLOCKS["cpu"])
    terms = (queries, candidates, own, *biases, masked, temperature, block)
    with torch.autocast(queries.device.type, enabled=False):
        return _Softmax.apply(*terms)  # type: ignore[no-untyped-call,no-any-return]


class _Softmax(torch.autograd.Function):
    """Cross-entropy of a matrix product; the forward pass computes the gradients too."""

    @staticmethod
    def forward(ctx, queries, candidates, own, bias, own_bias, masked, temperature, block):  # type: ignore[no-untyped-def]
        scaled = queries / temperature
        to_queries, to_candidates = torch.empty_like(queries), torch.zeros_like(candidates)
        across = candidates.T
        beside = None if bias is None else (own_bias - bias.index_select(0, own))[:, None]
        loss = queries.new_zeros(())
        size = _rows_of_a_block(block, len(candidates))
        buffer = queries.new_empty(min(size, len(queries)), len(candidates))
        for start in range(0, len(queries), size):
            end = min(start + size, len(queries))
            mine = own[start:end, None]
            into = buffer[: end - start]
            if beside is None:
                logits = torch.mm(scaled[start:end], across, out=into)
                positive = logits.gather(1, mine)
            else:
                logits = torch.addmm(bias, scaled[start:end], across, out=into)
                positive = logits.gather(1, mine) + beside[start:end]
            first, last = masked.bounds[start], masked.bounds[end]
            cells = (masked.rows[first:last] - start) * len(candidates) + masked.columns[first:last]
            logits.view(-1).index_fill_(0, cells, -math.inf)
            logits.scatter_(1, mine, positive)
            top = logits.amax(1, keepdim=True)
            parts = logits.sub_(top).exp_()  # probabilities times `total`; the products below are divided by it
            total = parts.sum(1, keepdim=True)
            loss += (total.log() + (top - positive)).sum()
            parts.scatter_add_(1, mine, -total)
            torch.mm(parts, candidates, out=to_queries[start:end])
            to_queries[start:end] /= total
            to_candidates.addmm_(parts.T, scaled[start:end] / total)
        ctx.save_for_backward(to_queries.mul_(1 / (temperature * len(queries))), to_candidates.mul_(1 / len(queries)))
        return loss / len(queries)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        to_queries, to_candidates = ctx.saved_tensors
        return gradient * to_queries, gradient * to_candidates, None, None, None, None, None, None


def _rows_of_a_block(block: int, columns: int) -> int:
    """Return the rows of a block, in whole tiles: a processor multiplies these faster, and reuses their kernels."""
    rows = max(block // max(columns, 1), 1)
    return rows - rows % TILE if rows > TILE else rows
