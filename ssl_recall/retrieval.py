"""Exact retrieval over the whole catalogue by plain cosine, and the most-popular baseline.

Known positives, a pair of tensors (offsets (Q + 1,), items (E,)) sorted by query, are never recalled. Items with equal
scores stand in the order of their index.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

Known = tuple[Tensor, Tensor]
NOTHING = -1  # the index that fills a list when fewer than k items are left


def top_k(
    queries: Tensor, items: Tensor, k: int, known: Known | None = None, block: int = 1024
) -> tuple[Tensor, Tensor]:
    """Give the k items nearest to each query: (Q, D), (N, D) unit rows -> indices (Q, k) int64, cosines (Q, k) float32.

    Where fewer than k items are left the index is -1 and the cosine -inf. Memory is block * N floats.
    """
    width = min(k, len(items))
    indices = torch.full((len(queries), k), NOTHING, dtype=torch.int64, device=queries.device)
    scores = torch.full((len(queries), k), float("-inf"), device=queries.device)
    for rows, cosines in _blocks(queries, items, known, block):
        best, at = _stable_top(cosines, width)
        indices[rows, :width] = torch.where(best.isinf(), NOTHING, at)
        scores[rows, :width] = best
    return indices, scores


def most_popular(counts: Tensor, queries: int, k: int, known: Known | None = None) -> Tensor:
    """Recall the same most taken items for every query, known positives aside: (N,) counts -> (Q, k) int64 indices."""
    by_count = torch.argsort(counts, descending=True, stable=True)
    if known is None:
        return _filled(by_count[:k].expand(queries, -1), k)
    offsets, taken = known
    lengths = offsets[1:] - offsets[:-1]
    position = torch.empty_like(by_count)
    position[by_count] = torch.arange(len(by_count), device=by_count.device)
    owner = torch.repeat_interleave(torch.arange(queries, device=taken.device), lengths)
    reach = min(k + int(lengths.max()) if len(lengths) else k, len(by_count))  # nobody has taken more than that
    lists = torch.full((queries, k), NOTHING, dtype=torch.int64, device=counts.device)
    near = position[taken] < reach
    for rows in torch.arange(queries, device=counts.device).split(4096):
        hidden = torch.zeros(len(rows), reach, dtype=torch.bool, device=counts.device)
        mine = near & (owner >= rows[0]) & (owner <= rows[-1])
        hidden[owner[mine] - rows[0], position[taken[mine]]] = True
        order = torch.argsort(hidden, dim=1, stable=True)[:, :k]
        lists[rows, : order.shape[1]] = torch.where(hidden.gather(1, order), NOTHING, by_count[order])
    return lists


def _blocks(queries: Tensor, items: Tensor, known: Known | None, block: int) -> Iterator[tuple[slice, Tensor]]:
    """Score the catalogue for `block` queries at a time, known positives at -inf."""
    transposed = items.T.contiguous()
    for start in range(0, len(queries), block):
        rows = slice(start, min(start + block, len(queries)))
        cosines = queries[rows] @ transposed
        if known is not None:
            offsets, taken = known
            lengths = offsets[rows.start + 1 : rows.stop + 1] - offsets[rows]
            owner = torch.repeat_interleave(torch.arange(len(lengths), device=taken.device), lengths)
            cosines[owner, taken[offsets[rows.start] : offsets[rows.stop]].long()] = float("-inf")
        yield rows, cosines


def _stable_top(cosines: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Give the `width` largest of every row, equal ones in the order of their index."""
    best, at = torch.topk(cosines, width, dim=1)
    last = best[:, -1:]
    tied = ((cosines >= last).sum(1) > width) & ~last[:, 0].isinf()  # which of the last equal ones topk took is open
    if bool(tied.any()):
        order = torch.sort(cosines[tied], dim=1, descending=True, stable=True)
        best[tied], at[tied] = order.values[:, :width], order.indices[:, :width]
    by_index = torch.argsort(at, dim=1)
    best, at = best.gather(1, by_index), at.gather(1, by_index)
    order_of = torch.argsort(best, dim=1, descending=True, stable=True)
    return best.gather(1, order_of), at.gather(1, order_of)


def _filled(lists: Tensor, k: int) -> Tensor:
    missing = k - lists.shape[1]
    return torch.cat([lists, lists.new_full((len(lists), missing), NOTHING)], 1) if missing else lists
