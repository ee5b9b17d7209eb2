"""Which interactions are trained on, which pick the epoch, and which measure."""

import hashlib

import numpy as np
import polars as pl
from numpy.typing import NDArray

TRAIN, VALIDATION, TEST = "train", "validation", "test"


def by_time(
    frame: pl.DataFrame,  # timestamp: an integer, a date or a datetime, none null
    validation_share: float,
    test_share: float,
) -> pl.Series:  # "train" | "validation" | "test" for each row
    """Cut at two instants: train < validation cut <= validation < test cut <= test, so that no future leaks.

    About the newest `test_share` of the rows are test, and `validation_share` of all rows, the newest of the others,
    validation; rows of one instant stay on one side. Raises ValueError when nothing would be left before a cut.
    """
    times = frame["timestamp"]
    side = pl.Series("side", [TRAIN]).new_from_index(0, len(times))
    later = times.sort()
    for name, share in ((TEST, test_share), (VALIDATION, validation_share)):
        if share and len(times):
            cut = later[-min(max(round(len(times) * share), 1), len(later))]
            if cut == later[0]:
                raise ValueError(f"no instant to cut {name} at: {later[0]!s} to {later[-1]!s} in {len(later):,} rows")
            side = side.set((times >= cut) & (side == TRAIN), name)
            later = later.filter(later < cut)
    return side


def by_hash(
    frame: pl.DataFrame,  # query_id, item_id: text or integers
    validation_share: float,
    test_share: float,
    seed: int,
) -> pl.Series:  # "train" | "validation" | "test" for each row
    """Draw a side for each pair from a hash of the pair and the seed: neither order nor machine nor version matter."""
    mixed = _mix(_hashes(frame["query_id"]) + _mix(_hashes(frame["item_id"]) + _mix(np.array([seed], np.uint64))))
    place = (mixed >> np.uint64(11)) * 2.0**-53
    is_test = place < test_share
    return _named(place < test_share + validation_share, is_test)


def _named(is_held_out: NDArray[np.bool_], is_test: NDArray[np.bool_]) -> pl.Series:
    return pl.Series("side", np.where(is_test, TEST, np.where(is_held_out, VALIDATION, TRAIN)))


def _hashes(ids: pl.Series) -> NDArray[np.uint64]:
    """Hash each distinct id once, with its type, so that 1 and "1" differ."""
    tag = b"t" if ids.dtype == pl.String else b"i"
    distinct = ids.unique()
    digests = [hashlib.blake2b(tag + str(name).encode(), digest_size=8).digest() for name in distinct]
    table = pl.DataFrame({"id": distinct, "hash": np.frombuffer(b"".join(digests), np.dtype("<u8")).astype(np.uint64)})
    joined = ids.alias("id").to_frame().join(table, on="id", how="left", maintain_order="left")
    return joined["hash"].to_numpy()


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all others (the finaliser of splitmix64; Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        z = state + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
