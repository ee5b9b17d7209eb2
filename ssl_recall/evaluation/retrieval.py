"""Exact retrieval over the whole catalogue by plain cosine, and the most-popular baseline.

Known positives, two tensors (offsets (Q + 1,), items (E,)) sorted by query, are never recalled. Items with equal scores
are in the order of their index.
"""

import torch
from torch import Tensor

Known = tuple[Tensor, Tensor]
NOTHING = -1  # the index that fills a list if fewer than k items are left
BLOCK = 2**26  # cosines at a time: 256 MiB
ROWS = 256  # queries at a time: fewer do not fill a matrix product, more overflow the cache
GROUP = 16  # columns per group; the search compares the maxima of groups first


def top_k(
    queries: Tensor, items: Tensor, k: int, known: Known | None = None, block: int = BLOCK
) -> tuple[Tensor, Tensor]:
    """Return the k items nearest to each query: (Q, D), (N, D) unit rows -> int64 indices, float32 cosines (Q, k).

    If fewer than k items are left, the index is -1 and the cosine -inf. Memory: the result, Q * k, and at most `block`
    cosines at a time, whatever Q and N.
    """
    width = min(k, len(items))
    indices = torch.full((len(queries), k), NOTHING, dtype=torch.int64, device=queries.device)
    scores = torch.full((len(queries), k), float("-inf"), device=queries.device)
    columns = max(min(len(items), block // ROWS), 1)
    size = min(ROWS, max(block // columns, 1))
    buffer = queries.new_empty(min(size, len(queries)) * columns)
    for start in range(0, len(queries), size):
        rows = slice(start, min(start + size, len(queries)))
        best, at = scores[rows, :0], indices[rows, :0]
        for first in range(0, len(items), columns):
            part = slice(first, min(first + columns, len(items)))
            cosines = buffer[: (rows.stop - rows.start) * (part.stop - part.start)].view(rows.stop - rows.start, -1)
            torch.mm(queries[rows], items[part].T, out=cosines)
            if known is not None:
                _hide(cosines, known, rows, part)
            found, place = nearest(cosines, min(width, cosines.shape[1]))
            # of equal cosines, those of an earlier part have the lower index and come first
            best, order = torch.sort(torch.cat([best, found], 1), dim=1, descending=True, stable=True)
            at = torch.cat([at, place + first], 1).gather(1, order)[:, :width]
            best = best[:, :width]
        indices[rows, :width] = torch.where(best.isinf(), NOTHING, at)
        scores[rows, :width] = best
    return indices, scores


def most_popular(counts: Tensor, queries: int, k: int, known: Known | None = None) -> Tensor:
    """Recall the most popular items for every query, without known positives: (N,) counts -> (Q, k) int64 indices."""
    by_count = torch.argsort(counts, descending=True, stable=True)
    if known is None or not queries:
        return _filled(by_count[:k].expand(queries, -1), k)
    offsets, taken = known
    lengths = offsets[1:] - offsets[:-1]
    position = torch.empty_like(by_count)
    position[by_count] = torch.arange(len(by_count), device=by_count.device)
    owner = torch.repeat_interleave(torch.arange(queries, device=taken.device), lengths)
    reach = min(k + int(lengths.max()) if len(lengths) else k, len(by_count))  # no query has taken more items
    lists = torch.full((queries, k), NOTHING, dtype=torch.int64, device=counts.device)
    near = position[taken] < reach
    for rows in torch.arange(queries, device=counts.device).split(4096):
        hidden = torch.zeros(len(rows), reach, dtype=torch.bool, device=counts.device)
        mine = near & (owner >= rows[0]) & (owner <= rows[-1])
        hidden[owner[mine] - rows[0], position[taken[mine]]] = True
        order = torch.argsort(hidden, dim=1, stable=True)[:, :k]
        lists[rows, : order.shape[1]] = torch.where(hidden.gather(1, order), NOTHING, by_count[order])
    return lists


def _hide(cosines: Tensor, known: Known, rows: slice, part: slice) -> None:
    """Set the cosines of known positives to -inf, for the queries `rows` and the items `part`."""
    offsets, taken = known
    bounds = offsets[rows.start : rows.stop + 1]
    owner = torch.repeat_interleave(torch.arange(len(bounds) - 1, device=taken.device), bounds.diff())
    column = taken[bounds[0] : bounds[-1]].long() - part.start
    inside = (column >= 0) & (column < part.stop - part.start)
    cosines[owner[inside], column[inside]] = float("-inf")


def nearest(cosines: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return the `width` largest values of every row and their columns, ties in the order of the index.

    The columns are dealt into groups. The `width` largest values are in the groups with the `width` largest maxima, so
    few values need sorting. One extra value shows whether the last one is tied.
    """
    columns = cosines.shape[1]
    spare = min(width + 1, columns)
    count = columns // GROUP
    candidates, place = cosines, None
    if count > 2 * spare:
        maxima = cosines[:, : count * GROUP].view(-1, GROUP, count).amax(1)
        group = torch.topk(maxima, spare, dim=1, sorted=False).indices
        dealt = torch.arange(GROUP, device=cosines.device)[:, None] * count
        left = torch.arange(count * GROUP, columns, device=cosines.device).expand(len(cosines), -1)
        place = torch.cat([(group[:, None] + dealt).flatten(1), left], 1)
        candidates = cosines.gather(1, place)
    best, at = torch.topk(candidates, spare, dim=1)
    at = at if place is None else place.gather(1, at)
    by_index = torch.argsort(at, dim=1)
    best, order = torch.sort(best.gather(1, by_index), dim=1, descending=True, stable=True)
    at = at.gather(1, by_index).gather(1, order)
    if spare > width:
        tied = (best[:, width] == best[:, width - 1]) & ~best[:, width].isinf()  # topk may have taken any of the tied
        best, at = best[:, :width].contiguous(), at[:, :width].contiguous()
        if bool(tied.any()):
            at[tied] = _first_of_equal(cosines[tied], best[tied], at[tied])
    return best, at


def _first_of_equal(cosines: Tensor, best: Tensor, at: Tensor) -> Tensor:
    """Replace the columns of each row's smallest value by the first columns with that value."""
    least = best == best[:, -1:]  # (B, width), the last ones of each row
    row, column = (cosines == best[:, -1:]).nonzero(as_tuple=True)
    starts = torch.searchsorted(row, torch.arange(len(best), device=row.device))
    place = torch.arange(len(row), device=row.device) - starts[row]
    return at.masked_scatter(least, column[place < least.sum(1)[row]])


def _filled(lists: Tensor, k: int) -> Tensor:
    missing = k - lists.shape[1]
    return torch.cat([lists, lists.new_full((len(lists), missing), NOTHING)], 1) if missing else lists
