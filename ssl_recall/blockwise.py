"""What both losses are computed with: a masked softmax, a block of rows at a time, without a B x C matrix.

The gradient of a mean of cross-entropies is `softmax - one-hot`, so each block gives its share of the loss and of both
gradients and is forgotten: memory is one block, whatever the batch. A candidate that stands in a step several times is
one column that counts as often.
"""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .pairs import Pairs

# logits at a time: 8 MiB of them, the fastest of 4 to 64 on a processor, where more leaves the caches and less repeats
# set-ups; a GPU takes a batch whole, or as much of it as 512 MiB hold
BLOCKS = {"cpu": 2**21, "cuda": 2**27}
TILE = 64  # rows or columns that kernels of matrix products take as a whole, twice the largest tile there is


@contextlib.contextmanager
def rounded(*, bf16: bool) -> Iterator[None]:
    """Round the inputs of float32 products to bf16, sums and results staying float32, until the block ends.

    What autocast does for the towers this does for the softmax, whose logits are to be float32. Only processors with
    AMX, and GPUs (to TF32), round; others go on as before. With False nothing changes.
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
    bias: Tensor | None,  # (C,) added to the logits of a column: -log q, plus the log of how often it counts
    own_bias: Tensor | None,  # (B,) the same for a row's own positive, which counts once; None with None
    masked: Pairs,  # no negatives; a row's own column may be among them and stays its positive
    temperature: float,
    block: int | None = None,  # logits at a time, by default what BLOCKS says of the device
) -> Tensor:  # () mean over the rows, nats
    """Mean cross-entropy of `cosine / temperature + bias`, a masked cell's probability being exactly 0.

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
    """Cross-entropy of a matrix product, with its gradients taken on the way."""

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
            parts = logits.sub_(top).exp_()  # a row's probabilities times its total: rows are scaled in what they give
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
    """Give how many rows a block has, in whole tiles: a processor multiplies these faster, and knows their shape."""
    rows = max(block // max(columns, 1), 1)
    return rows - rows % TILE if rows > TILE else rows
