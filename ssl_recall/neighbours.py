"""Neighbours: two items that share a value which few others bear, a pair of positives that needs no interaction.

What most items bear says nothing about two of them, so an item finds its neighbour through one of its values with a
probability proportional to 1 / (n - 1), n being how many items bear the value. Where the query tower can take an item,
as a query or as all that a query has taken, that is who asks for the neighbour (`steps.py`); else both vectors are the
item tower's.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .features import FIRST, EncodedTable, Kind

COMMON = 2000  # items from which a value is no sign of likeness
NONE = -1
_STREAM = 2  # the stream of the draws, beside those of the views


@dataclass(frozen=True)
class Sharing:
    """The items of every value that 2 to COMMON items bear; `keys[k]` + code is the place of a value of feature k."""

    keys: NDArray[np.int64]  # (K,)
    starts: NDArray[np.int64]  # (C,) where each value's items begin
    counts: NDArray[np.int32]  # (C,) how many it has, 0 for a value that is not used
    items: NDArray[np.int32]  # rows of the catalogue, value after value


def generator(seed: int, variant: int, block: int) -> np.random.Generator:
    """Start the draws of one variant for one block of items: the same however many of both there are."""
    return np.random.default_rng([seed, variant, 2 * block, _STREAM])


def sharing(table: EncodedTable) -> Sharing:
    """List who bears what, a feature at a time; ids, numbers, vectors, unknown and missing values are none."""
    k, offsets, codes = len(table.names), table.offsets.numpy(), table.codes.numpy()
    keys, counts, items = np.zeros(k, np.int64), [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for number, kind in enumerate(table.kinds):
        keys[number] = sum(map(len, counts))
        starts = offsets[:-1].reshape(-1, k)[:, number]
        lengths = offsets[1:].reshape(-1, k)[:, number] - starts
        rows = np.repeat(np.arange(len(starts), dtype=np.int32), lengths)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        own = codes[np.repeat(starts, lengths) + within]
        borne = np.bincount(own, minlength=FIRST).astype(np.int32)
        borne[: None if kind in (Kind.ID, Kind.NUMERIC, Kind.DENSE) else FIRST] = 0  # a bucket is a range, no value
        borne[(borne < 2) | (borne > COMMON)] = 0
        used = borne[own] > 0
        items.append(rows[used][np.argsort(own[used], kind="stable")])
        counts.append(borne)
    each = np.concatenate(counts)
    return Sharing(keys, np.cumsum(each, dtype=np.int64) - each, each, np.concatenate(items))


def draw(
    rng: np.random.Generator,
    shared: Sharing,
    table: EncodedTable,  # the rows low .. low + n - 1 of the catalogue
    low: int,
) -> NDArray[np.int32]:  # (n,) rows of the catalogue, NONE for an item that shares nothing
    """Draw a neighbour for each item: one of its values, then one of the other items that bear it."""
    k, offsets = len(table.names), table.offsets.numpy()
    feature = np.repeat(np.tile(np.arange(k), table.rows), np.diff(offsets))
    key = shared.keys[feature] + table.codes.numpy()
    others = np.maximum(shared.counts[key] - 1, 0)
    until = np.concatenate([[0.0], np.cumsum(np.divide(1.0, others, out=np.zeros(len(key)), where=others > 0))])
    first, last = until[offsets[:-1:k]], until[offsets[k::k]]
    place = first + rng.random(table.rows) * (last - first)
    value = np.minimum(np.searchsorted(until[1:], place, side="right"), len(key) - 1)
    starts, others = shared.starts[key[value]], others[value]
    drawn = starts + (rng.random(table.rows) * others).astype(np.int64)
    rows, found = np.arange(low, low + table.rows), np.full(table.rows, NONE, np.int32)
    there = (last > first) & (others > 0)
    found[there] = shared.items[drawn[there]]
    itself = there & (found == rows)
    found[itself] = shared.items[(starts + others)[itself]]  # the last one's place is open whenever its own is drawn
    found[found == rows] = NONE  # of a list that holds a value twice
    return found
