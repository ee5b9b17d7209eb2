"""Split interactions into train, validation (which picks the epoch) and test."""

import hashlib

import numpy as np
import polars as pl
from numpy.typing import NDArray

SIDES = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
LEFT_OUT = -1  # the place of a pair on no side
_THINNED = 2**63  # makes the hash of `thinned` differ from that of `by_hash`


def by_time(
    times: pl.Series,  # (R,) integers, dates or datetimes, none null
    validation_share: float,
    test_share: float,
) -> NDArray[np.int8]:  # (R,) places in SIDES
    """Cut at two instants: train < validation cut <= validation < test cut <= test, so that no future leaks.

    Test is about the newest `test_share` of the rows. Validation is the newest of the others, about `validation_share`
    of all rows. Rows of one instant stay on one side. Raises ValueError if no row is left before a cut.
    """
    instants = times.to_physical().to_numpy()
    side = np.full(len(instants), TRAIN, np.int8)
    left = instants
    for number, share in ((TEST, test_share), (VALIDATION, validation_share)):
        if share and len(instants):
            place = len(left) - min(max(round(len(instants) * share), 1), len(left))
            cut = np.partition(left, place)[place]
            if cut == left.min():
                early, late = instants == left.min(), instants == left.max()
                span = f"{times[int(early.argmax())]!s} to {times[int(late.argmax())]!s}"
                raise ValueError(f"no instant to cut {SIDES[number]} at: {span} in {len(left):,} rows")
            side[(instants >= cut) & (side == TRAIN)] = number
            left = left[left < cut]
    return side


def by_hash(
    queries: pl.Series,  # (Q,) distinct ids, text or integers
    items: pl.Series,  # (N,)
    pairs: tuple[NDArray[np.int32], NDArray[np.int32]],  # (R,) rows of the queries, (R,) rows of the items
    validation_share: float,
    test_share: float,
    seed: int,
) -> NDArray[np.int8]:  # (R,) places in SIDES
    """Draw each pair's side from a hash of the pair and the seed: order, machine and library versions do not matter."""
    place = _places(queries, items, pairs, seed)
    side = np.full(len(place), TRAIN, np.int8)
    side[place < test_share + validation_share] = VALIDATION
    side[place < test_share] = TEST
    return side


def thinned(
    queries: pl.Series,  # (Q,) distinct ids, text or integers
    items: pl.Series,  # (N,)
    pairs: tuple[NDArray[np.int32], NDArray[np.int32]],  # (R,) rows of the queries, (R,) rows of the items
    share: float,
    seed: int,
) -> NDArray[np.bool_]:  # (R,) True for about this share of the pairs
    """Draw pairs by a second hash, whatever their side; a smaller share's pairs are a subset of a larger share's."""
    return _places(queries, items, pairs, seed ^ _THINNED) < share


def _places(
    queries: pl.Series, items: pl.Series, pairs: tuple[NDArray[np.int32], NDArray[np.int32]], seed: int
) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each pair that depends on its two ids and the seed alone."""
    query_rows, item_rows = pairs
    inner = _mix(_hashes(items) + _mix(np.array([seed], np.uint64)))
    mixed = _mix(_hashes(queries)[query_rows] + inner[item_rows])
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _hashes(ids: pl.Series) -> NDArray[np.uint64]:
    """Hash each id with its type, so that 1 and "1" differ."""
    tag = b"t" if ids.dtype == pl.String else b"i"
    digests = b"".join(hashlib.blake2b(tag + str(name).encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(digests, np.dtype("<u8")).astype(np.uint64)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all others (the finaliser of splitmix64; Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        z = state + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
