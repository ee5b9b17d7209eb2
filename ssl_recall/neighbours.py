"""Neighbours: pairs of items that share a rare value, positives that need no interaction.

A value that most items bear says little about any two of them. So an item draws one of its values with probability
proportional to 1 / (n - 1), where n items bear the value, and then one of the other n - 1 items. The item tower embeds
the neighbour. The query tower embeds the item if it can, as a query or as a history of one (`training/planner.py`);
otherwise the item tower does.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssl_recall.data.codes import FIRST, Kind
from ssl_recall.data.features import EncodedTable
from ssl_recall.data.packed_views import NO_NEIGHBOUR

COMMON = 2000  # the most items that may bear a value; a commoner value is no sign of likeness
_STREAM = 2  # random stream of the draws, apart from those of the views


@dataclass(frozen=True)
class Sharing:
    """The items of every value that 2 to COMMON items bear; `keys[k] + code` is the index of a value of feature k."""

    keys: NDArray[np.int64]  # (K,)
    starts: NDArray[np.int64]  # (C,) where each value's items begin in `items`
    counts: NDArray[np.int32]  # (C,) items that bear the value; 0 for an unused value
    items: NDArray[np.int32]  # rows of the catalogue, grouped by value


def neighbour_generator(seed: int, variant: int, block: int) -> np.random.Generator:
    """Return the generator of one variant and one block of items, whatever the number of variants and blocks."""
    return np.random.default_rng([seed, variant, 2 * block, _STREAM])


def sharing(table: EncodedTable) -> Sharing:
    """List the items of each value; ids, numbers, vectors, unknown and missing values do not count."""
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
        borne[: None if kind in (Kind.ID, Kind.NUMERIC, Kind.DENSE) else FIRST] = 0  # a bucket is a range, not a value
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
) -> NDArray[np.int32]:  # (n,) rows of the catalogue, NO_NEIGHBOUR for an item that shares nothing
    """Draw a neighbour for each item: first one of its values, then one of the other items that bear the value."""
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
    rows, found = np.arange(low, low + table.rows), np.full(table.rows, NO_NEIGHBOUR, np.int32)
    there = (last > first) & (others > 0)
    found[there] = shared.items[drawn[there]]
    itself = there & (found == rows)
    found[itself] = shared.items[(starts + others)[itself]]  # the last item, never drawn, replaces the item itself
    found[found == rows] = NO_NEIGHBOUR  # a list that repeats a value may draw the item itself again
    return found
